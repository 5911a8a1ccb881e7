"""Comparison: which features say more about the same samples: an old model's, a new model's, both, or the baseline's.

`comparing` trains each set of features on the same splits and computes paired differences, with intervals from drawing
the same groups and seeds for every set, and how similar the vectors themselves are; `page` is a report for people.
"""
