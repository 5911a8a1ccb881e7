"""Classifiers: trained on features, tested on genomes that they have never seen, and used on new sequences.

`training` is the way from features to a folder: `splitting` (no genome and no sequence on two sides), `fitting` (the
networks of `network`), `calibration`, `assessment` (`metrics`, `intervals`), `classifier` (the folder), `report` and
`plots`. `evaluation` judges a classifier on other labelled samples. `prediction` goes from sequences to tables.
`virnucpro_head` reads heads that VirNucPro trained.
"""
