"""Benchmarks: each module is one command that measures us and others side by side, in one run, and prints ratios.

    python -m benchmarks.reading --json      random vectors by key, against other layouts
    python -m benchmarks.writing --json      durable writing, against other layouts
    python -m benchmarks.index --json        look-up among millions of keys in hundreds of segments
    python -m benchmarks.filling --json      fills with all and with nothing in the store, and their peak memory
    python -m benchmarks.sketching --json    sketches of 10 000 sequences of 50 kb, and which of them are alike
    python -m benchmarks.preparing --json    six frames against a dictionary and Biopython; the whole of prepare
    python -m benchmarks.extraction --json   language models, against other ways to run them and the processor itself
    python -m benchmarks.remote --json       from an S3 server on the loopback, against downloads in one piece
    python -m benchmarks.training --json     a pass over the training samples, against VirNucPro's own loop

Ratios travel from machine to machine, milliseconds do not. `docs/benchmarks.md` has the results of one machine.
"""
