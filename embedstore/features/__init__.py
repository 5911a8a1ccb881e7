"""Features: the vectors of samples side by side, a block a space, with a schema that goes wherever they go."""

from embedstore.features.features import Batch, Features
from embedstore.features.gathering import RowSource, StoreRows
from embedstore.features.samples import Categories, Samples
from embedstore.features.schema import Block, Preparation, Schema

__all__ = ["Batch", "Block", "Categories", "Features", "Preparation", "RowSource", "Samples", "Schema", "StoreRows"]
