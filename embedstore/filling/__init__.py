"""Filling spaces: from records to vectors that are stored.

`filler` is the whole path (`fill`) and the dry run (`preview`); each of its steps has a module, in this order: `intake`
(canonical form, keys, exact counts), `target` (which space, which model), `pool` (missing sequences, in packs, through
the model), `canaries` (is it the right model?), `committing` (segments), `summary` (the report).
"""

from embedstore.filling.committing import SegmentLimits
from embedstore.filling.filler import FillOptions, fill, preview
from embedstore.filling.intake import Intake, Selection
from embedstore.filling.summary import FillProgress, FillReport
from embedstore.filling.target import SpaceTarget, find_target

__all__ = [
    "FillOptions",
    "FillProgress",
    "FillReport",
    "Intake",
    "SegmentLimits",
    "Selection",
    "SpaceTarget",
    "fill",
    "find_target",
    "preview",
]
