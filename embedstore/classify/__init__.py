"""Classifiers: trained on features, tested on genomes that they have never seen, and used on new sequences.

`training` goes from features to a folder: `blocks` (the input), `splitting` (no genome and no sequence on two sides),
`heads` (options, networks, fitting), `metrics` (measures, intervals, calibration), `classifier` (the folder), `report`
(a page with plots). `evaluation` judges a classifier on other labelled samples. `prediction` goes from sequences to
`tables`. `virnucpro_head` reads heads that VirNucPro trained.
"""
