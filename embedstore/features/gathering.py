"""Where the rows of features come from: the spaces of a store, by key, or a merged file, by number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedstore.features.samples import Indices
from embedstore.store.rows import as_strings
from embedstore.store.space import Space
from embedstore.types import KEY_BYTES, Keys


class RowSource(Protocol):
    """Rows of features, gathered on demand."""

    def gather(self, indices: Indices, rows: NDArray[np.float32]) -> None:
        """Write the rows at `indices`, in any order, repeated or not, into `rows`, (k, d) float32.

        A source reads them in the order in which they lie.

        Raises
        ------
        MissingEmbeddingError, CorruptStoreError : a row is gone or damaged.
        """
        ...


class StoreRows:
    """Rows that are put together from the vectors of spaces as they are asked for; nothing is written.

    Parameters
    ----------
    blocks : each space with the keys, (n, 24), of the samples' sequences that it embeds.
    """

    def __init__(self, blocks: Sequence[tuple[Space, Keys]]) -> None:
        self._blocks = tuple(blocks)

    def gather(self, indices: Indices, rows: NDArray[np.float32]) -> None:
        start = 0
        for space, keys in self._blocks:
            # Segments are sorted by key, so sorted keys are read in the order of the file, and repeated ones once.
            distinct, which = np.unique(as_strings(keys[indices]), return_inverse=True)
            vectors = space.read(distinct.view(np.uint8).reshape(-1, KEY_BYTES))
            rows[:, start : start + space.dim] = vectors[which]
            start += space.dim
