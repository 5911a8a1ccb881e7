"""Features: the vectors of samples side by side, a block a space, with a schema that goes wherever they go.

`samples` holds what is known of each row, `loading` and `assignments` read it from tables; `schema` says what the
columns are; `merging` joins both with the vectors of a store, by key. `Features` has one interface for rows that come
from the store (`gathering`) and from a merged file (`merged_file`, which holds `columns` in one of three formats).
"""

from embedstore.features.features import Batch, Categories, Features, RowSource, Samples, StoreRows
from embedstore.features.files import (
    collect,
    is_merged_file,
    load_samples,
    open_features,
    read_preparation,
    write_features,
)
from embedstore.features.merging import FillFrom, lacking, merge, schema_of, view, with_clusters, with_labels
from embedstore.features.schema import Block, Preparation, Schema

__all__ = [
    "Batch",
    "Block",
    "Categories",
    "Features",
    "FillFrom",
    "Preparation",
    "RowSource",
    "Samples",
    "Schema",
    "StoreRows",
    "collect",
    "is_merged_file",
    "lacking",
    "load_samples",
    "merge",
    "open_features",
    "read_preparation",
    "schema_of",
    "view",
    "with_clusters",
    "with_labels",
    "write_features",
]
