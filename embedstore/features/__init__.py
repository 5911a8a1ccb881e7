"""Features: the vectors of samples side by side, a block a space, with a schema that goes wherever they go.

`files` reads samples and merged files, `merging` joins samples with their labels and with the vectors of a store, by
key; `clusters` reads the clusters of other programs. The result is `Features` (module `features`), one interface for
rows that come from a store and from a merged file. `schema` says what the columns mean; `columns` says what a merged
file holds, `layouts` how in each of three formats.
"""

from embedstore.features.features import Batch, Categories, Features, RowSource, Samples, StoreRows
from embedstore.features.merged_files import (
    collect,
    is_merged_file,
    load_samples,
    open_features,
    read_preparation,
    write_features,
)
from embedstore.features.merging import (
    FillFrom,
    fill_spaces,
    is_missing,
    merge,
    schema_of,
    view,
    with_clusters,
    with_labels,
)
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
    "fill_spaces",
    "is_merged_file",
    "is_missing",
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
