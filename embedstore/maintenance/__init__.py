"""Keeping a store in order: merging segments, collecting what nothing needs, pinning, removing, repairing.

Everything here works beside readers and writers, on any storage, without locks; see `store/commits` and
`store/condemned` for what makes that safe.
"""

from embedstore.maintenance.collection import CollectReport, collect
from embedstore.maintenance.compaction import CompactReport, compact, tend
from embedstore.maintenance.pinning import pin, unpin
from embedstore.maintenance.removal import remove_space
from embedstore.maintenance.repair import RepairReport, repair

__all__ = [
    "CollectReport",
    "CompactReport",
    "RepairReport",
    "collect",
    "compact",
    "pin",
    "remove_space",
    "repair",
    "tend",
    "unpin",
]
