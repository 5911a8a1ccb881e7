"""Features: samples, the schema of their columns, and their rows, gathered when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedstore.errors import InputError
from embedstore.features.gathering import RowSource
from embedstore.features.samples import Categories, Indices, Samples, Texts
from embedstore.features.schema import Schema
from embedstore.types import Keys

if TYPE_CHECKING:
    from embedstore.features.torch_dataset import FeaturesDataset

_PIECE_BYTES = 32 << 20
"""Rows are gathered by pieces of this size: what is needed beside the result does not grow with it."""


class Batch(NamedTuple):
    """Consecutive rows: the number of the first, and (k, d) float32."""

    start: int
    rows: NDArray[np.float32]


class Features:
    """The features of samples: (n, d) float32 in the columns that `schema` names.

    Their rows lie in the spaces of a store (a view: nothing is written) or in a merged file; `merge` and
    `open_features` make them. May be read from several threads.

    Attributes
    ----------
    samples : all that is known of each row besides its numbers.
    schema : what the columns are; `schema.labels` are the classes that `y` counts.
    name : for messages.
    """

    def __init__(self, samples: Samples, schema: Schema, source: RowSource, name: str) -> None:
        lacking = [molecule for molecule in schema.molecules if molecule not in samples.keys]
        if lacking:
            raise InputError(f"Cannot use {name}: its samples have no {' and no '.join(lacking)} keys.")
        if tuple(samples.labels.names.tolist()) != schema.labels:
            raise InputError(
                f"Cannot use {name}: expected samples of the classes {', '.join(schema.labels)}, "
                f"found {', '.join(samples.labels.names.tolist())}."
            )
        self.samples = samples
        self.schema = schema
        self.name = name
        self._source = source

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def dim(self) -> int:
        """d: number of columns."""
        return self.schema.dim

    @property
    def ids(self) -> Texts:
        """(n,) texts: the name of each sample."""
        return self.samples.ids

    @property
    def groups(self) -> Categories:
        """What each sample belongs to and must not be divided by a split."""
        return self.samples.groups

    @property
    def sources(self) -> Categories:
        """The sequence that each sample was cut from."""
        return self.samples.sources

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order that `y` counts."""
        return self.schema.labels

    @property
    def y(self) -> NDArray[np.int64]:
        """(n,) int64: class of each sample, -1 where it has no label."""
        return self.samples.labels.codes.astype(np.int64)

    @property
    def keys(self) -> tuple[Keys, ...]:
        """The sequence keys, (n, 24) uint8, that each block was joined by."""
        return tuple(self.samples.keys[block.molecule] for block in self.schema.blocks)

    def rows(self, indices: ArrayLike | None = None) -> NDArray[np.float32]:
        """Gather rows.

        Parameters
        ----------
        indices : (k,) row numbers from 0, in any order, repeated or not, or an (n,) mask; None: all rows.

        Returns
        -------
        (k, d) float32, in the order of `indices`. Beyond this, memory is bounded.

        Raises
        ------
        InputError : a value is not finite; names the sample. Or `indices` are not row numbers.
        MissingEmbeddingError, CorruptStoreError : a row is gone or damaged since these features were made.
        """
        wanted = np.arange(len(self)) if indices is None else self._checked(np.asarray(indices))
        gathered = np.empty((len(wanted), self.dim), np.float32)
        step = max(1, _PIECE_BYTES // (self.dim * gathered.itemsize))
        for start in range(0, len(wanted), step):
            self._gather(wanted[start : start + step], gathered[start : start + step])
        return gathered

    def batches(self, rows: int = 4096) -> Iterator[Batch]:
        """Yield all rows in order, at most so many at once."""
        for start in range(0, len(self), rows):
            yield Batch(start, self.rows(np.arange(start, min(start + rows, len(self)))))

    def as_numpy(
        self, indices: ArrayLike | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """Return X, y and groups, as scikit-learn's estimators and splitters take them.

        Returns
        -------
        X (k, d) float32; y (k,) int64, places in `labels`, -1 where there is no label; groups (k,) int64, places in
        `groups.names`, -1 where there is none.
        """
        wanted = np.arange(len(self)) if indices is None else self._checked(np.asarray(indices))
        return self.rows(wanted), self.y[wanted], self.groups.codes[wanted].astype(np.int64)

    def as_torch_dataset(self) -> FeaturesDataset:
        """Return a `torch.utils.data.Dataset` of (row, class); torch is imported now.

        Raises
        ------
        MissingDependencyError : torch is not installed.
        """
        from embedstore.features.torch_dataset import make_dataset

        return make_dataset(self)

    def to_json(self) -> dict[str, Any]:
        """Describe the features as JSON values, without their rows."""
        labels = self.samples.labels.codes
        counts = np.bincount(labels[labels >= 0], minlength=len(self.labels)).tolist()
        return {
            "rows": len(self),
            "dim": self.dim,
            "groups": len(np.unique(self.groups.codes)),
            "samples_by_label": dict(zip(self.labels, counts, strict=True)),
            "unlabelled": int((labels < 0).sum()),
            "schema": self.schema.to_json(),
        }

    def _gather(self, indices: Indices, rows: NDArray[np.float32]) -> None:
        self._source.gather(indices, rows)
        # A sum is finite only if all terms are, and is many times faster; terms are looked at only if it is not.
        with np.errstate(over="ignore", invalid="ignore"):
            doubtful = not np.isfinite(rows.sum())
        if doubtful and not np.isfinite(rows).all():
            self._refuse_not_finite(indices, rows)

    def _refuse_not_finite(self, indices: Indices, rows: NDArray[np.float32]) -> None:
        finite = np.isfinite(rows)
        bad = np.flatnonzero(~finite.all(axis=1))
        column = int(np.flatnonzero(~finite[bad[0]])[0])
        block = next(block for block in self.schema.blocks if column < block.stop)
        raise InputError(
            f"Cannot use {self.name}: {len(bad)} of {len(rows)} rows read have values that are not finite, first "
            f"sample {self.ids[indices[bad[0]]]}: expected a number in column {column} ({block.space}), "
            f"found {rows[bad[0], column]}. Merge again from the store."
        )

    def _checked(self, indices: NDArray[np.generic]) -> Indices:
        if indices.dtype == np.bool_ and indices.shape == (len(self),):
            return np.flatnonzero(indices)
        whole = np.issubdtype(indices.dtype, np.integer) or not indices.size
        if not whole or indices.ndim != 1:
            raise InputError(
                f"Cannot read rows of {self.name}: expected a list of row numbers, "
                f"found shape {indices.shape} of {indices.dtype}."
            )
        numbers = indices.astype(np.int64)
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(self)):
            raise InputError(
                f"Cannot read rows of {self.name}: expected numbers from 0 to {len(self) - 1}, "
                f"found {numbers.min()} to {numbers.max()}."
            )
        return numbers

    def __repr__(self) -> str:
        blocks = " + ".join(f"{block.space} {block.dim}" for block in self.schema.blocks)
        return f"<Features {self.name}: {len(self):,} × {self.dim} ({blocks})>"
