"""Filling spaces: from records to vectors that are stored.

`filler` is the whole path (`fill`) and the dry run (`preview`); each of its steps has a module, in this order: `target`
(which space, which model), `intake` (canonical form, keys, exact counts), `pool` (what is missing, and what became of
it), then what computes it, which a fill is given: `computing` (this process, with `canaries`: is it the right model?,
and `committing`: segments), or the workers of `embedstore.distributed`. `summary` is the progress and the report.
"""

from embedstore.filling.committing import SegmentLimits
from embedstore.filling.filler import FillOptions, fill, fill_together, preview
from embedstore.filling.intake import Intake, Selection
from embedstore.filling.summary import FillProgress, FillReport, NotebookProgress
from embedstore.filling.target import SpaceTarget, find_target

__all__ = [
    "FillOptions",
    "FillProgress",
    "FillReport",
    "Intake",
    "NotebookProgress",
    "SegmentLimits",
    "Selection",
    "SpaceTarget",
    "fill",
    "fill_together",
    "find_target",
    "preview",
]
