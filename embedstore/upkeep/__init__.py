"""Keeping a store in order: merging segments, collecting what nothing needs, pinning, removing, repairing.

Everything here works beside readers and writers, on any storage, without locks; see
`store/commits` for what makes that safe.
"""

from embedstore.upkeep.collection import CollectReport, collect
from embedstore.upkeep.compaction import CompactReport, compact, tend
from embedstore.upkeep.pinning import pin, unpin
from embedstore.upkeep.removal import remove_sequences, remove_space
from embedstore.upkeep.repair import RepairReport, repair

__all__ = [
    "CollectReport",
    "CompactReport",
    "RepairReport",
    "collect",
    "compact",
    "pin",
    "remove_sequences",
    "remove_space",
    "repair",
    "tend",
    "unpin",
]
