"""Classifiers: trained on features, tested on genomes that they have never seen, and used on new sequences.

`training` goes from features to a folder: `blocks` (the input), `splitting` (no genome and no sequence on two sides),
`relatives` (genomes that are too alike for two sides), `known` (by sequence, what a classifier was made from), `heads`
(options, and what heads compute), `fitting` and `networks` (how they are fitted, out of fold), `calibration`,
`fragments` (genomes cut as contigs are), `metrics` and `resampling` (measures and their intervals), `classifier` (the
folder), `report` (a page with plots). `evaluation` judges a classifier on other labelled samples. `prediction` goes
from sequences to `contigs` and `tables`. `virnucpro_head` reads heads that VirNucPro trained.
"""
