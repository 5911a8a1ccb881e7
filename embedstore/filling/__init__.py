"""Filling spaces: from records to vectors that are stored.

The walk is in `filler`; each of its stations has a module: `intake` (canonical form and keys), `distinct` (exact
counts), `target` (which space, which model), `pool` and `computing` (what lacks, through the model), `canaries` (is it
the right model?), `committing` (segments), `report`. `preview` is the dry run.
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
