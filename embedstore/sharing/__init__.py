"""Sharing vectors between stores.

`copying` copies to one store what it is missing and another has (push, pull, sync). `tiers` looks up other stores after
the local one. Both go by space ids, which stand for recipes, and check every row or file that they bring over.
"""

from embedstore.sharing.copying import pull, push, sync
from embedstore.sharing.space_copier import CopyReport, SpaceCopy
from embedstore.sharing.tiers import Tiers, Upstream, upstream_places

__all__ = ["CopyReport", "SpaceCopy", "Tiers", "Upstream", "pull", "push", "sync", "upstream_places"]
