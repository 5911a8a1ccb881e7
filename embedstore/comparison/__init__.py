"""Comparison: which features tell more of the same samples: an old model's, a new one's, both, or the baseline's.

`comparing` trains each set of features on the same splits; `differences` are paired, with intervals from drawing the
same groups and seeds for every set; `similarity` looks at the vectors themselves; `report` is a page for people.
"""
