"""The store: content-addressed vectors on any storage that can hold files. Knows nothing of models."""

from embedstore.storage.protocol import Storage
from embedstore.store.documents import SegmentFormat
from embedstore.store.space import Space, SpaceInfo
from embedstore.store.store import SpaceStore
from embedstore.store.verification import Problem, VerifyReport

__all__ = ["Problem", "SegmentFormat", "Space", "SpaceInfo", "SpaceStore", "Storage", "VerifyReport"]
