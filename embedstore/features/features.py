"""Features: samples, the schema of their columns, and their rows, gathered when they are asked for.

`Samples` keeps samples as columns: compact enough for millions of them, and never separated from each other. `Features`
joins them with a source of rows, by key from the spaces of a store (`StoreRows`) or by number from a merged file, and
is a dataset for torch's loaders too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedstore.array_files import TEXT
from embedstore.errors import InputError
from embedstore.features.schema import Preparation, Schema
from embedstore.identity import Molecule
from embedstore.records import KEY_BYTES, Keys, not_finite
from embedstore.store.segment_files import as_strings
from embedstore.store.space import Space

if TYPE_CHECKING:
    from embedstore.features.torch_dataset import FeaturesDataset

Texts = NDArray[Any]
"""(n,) of dtype `TEXT`."""

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Categories:
    """A column in which few texts occur many times.

    Attributes
    ----------
    names : (c,) texts, distinct, sorted, so that codes do not depend on the order of the rows.
    codes : (n,) int32, place of each row's text in `names`, -1 for none.
    """

    names: Texts
    codes: NDArray[np.int32]

    @classmethod
    def of(cls, texts: Sequence[str] | Texts) -> Self:
        """Encode texts; an empty one stands for no category."""
        numbers: dict[str, int] = {}
        met = np.fromiter((numbers.setdefault(text, len(numbers)) for text in texts), np.int32, len(texts))
        return cls.numbered(numbers, met)

    @classmethod
    def numbered(cls, numbers: Mapping[str, int], met: NDArray[np.int32]) -> Self:
        """Make the column of texts that were numbered from 0 as they were met.

        Parameters
        ----------
        numbers : text -> its number, in the order of the numbers.
        met : (n,) int32, number of each row's text.
        """
        texts = np.array(list(numbers), dtype=TEXT)
        order = np.argsort(texts, kind="stable")
        none = int("" in numbers)  # the empty text is sorted first
        codes = np.empty(len(texts), np.int32)
        codes[order] = np.arange(-none, len(texts) - none, dtype=np.int32)
        return cls(texts[order[none:]], codes[met])

    def __len__(self) -> int:
        return len(self.codes)

    def texts(self) -> Texts:
        """The text of each row, (n,), empty for none."""
        return np.append(self.names, np.array([""], dtype=TEXT))[self.codes]

    def take(self, rows: Indices) -> Self:
        """Some rows; `names` stays as it is."""
        return replace(self, codes=self.codes[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """What is classified, one row per sample. Ids are labels for people: rows are joined to vectors by their keys.

    Attributes
    ----------
    ids : (n,) texts.
    sources : the sequence that each was cut from.
    groups : what must not be divided by a split (a genome).
    labels : class of each, -1 where it has none.
    start : (n,) int64, first base in the source, 1-based, on its forward strand.
    end : (n,) int64, last base, included.
    strand : (n,) int8, 1 or -1.
    frame : (n,) int8, 1 to 3, from the chunk's first base on the strand.
    keys : (n, 24) uint8 for each molecule that the samples have a sequence of.
    preparation : how they were cut.
    origin : where they come from, for messages.

    Raises
    ------
    InputError : columns differ in length.
    """

    ids: Texts
    sources: Categories
    groups: Categories
    labels: Categories
    start: Indices
    end: Indices
    strand: NDArray[np.int8]
    frame: NDArray[np.int8]
    keys: Mapping[Molecule, Keys]
    preparation: Preparation = field(default_factory=Preparation)
    origin: str = "the samples"

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in _COLUMNS}
        lengths |= {f"{molecule} keys": len(keys) for molecule, keys in self.keys.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{length} {name}" for name, length in lengths.items())
            raise InputError(f"Cannot use {self.origin}: expected columns of one length, found {found}.")
        if any(keys.shape[1:] != (KEY_BYTES,) or keys.dtype != np.uint8 for keys in self.keys.values()):
            raise InputError(f"Cannot use {self.origin}: expected keys of shape (n, {KEY_BYTES}) uint8.")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Indices) -> Self:
        """Some samples, in the order of `rows`."""
        columns: dict[str, Any] = {
            name: column.take(rows) if isinstance(column, Categories) else column[rows]
            for name, column in ((name, getattr(self, name)) for name in _COLUMNS)
        }
        return replace(self, **columns, keys={molecule: keys[rows] for molecule, keys in self.keys.items()})


ARRAYS: dict[str, np.dtype[Any]] = {
    "ids": TEXT,
    "start": np.dtype(np.int64),
    "end": np.dtype(np.int64),
    "strand": np.dtype(np.int8),
    "frame": np.dtype(np.int8),
}
CATEGORIES = ("sources", "groups", "labels")
_COLUMNS = (*ARRAYS, *CATEGORIES)


_PIECE_BYTES = 32 << 20
"""Rows are gathered by pieces of this size: what is needed beside the result does not grow with it."""


class Batch(NamedTuple):
    """Consecutive rows: the number of the first, and (k, d) float32."""

    start: int
    rows: NDArray[np.float32]


class Features:
    """The features of samples: (n, d) float32 in the columns that `schema` names.

    Their rows are in the spaces of a store (a view: nothing is written) or in a merged file; `merge` and
    `open_features` make them. May be read from several threads.

    Attributes
    ----------
    samples : all that is known of each row besides its numbers.
    schema : what the columns are; `schema.labels` are the classes that `y` counts.
    name : for messages.
    """

    def __init__(self, samples: Samples, schema: Schema, source: RowSource, name: str) -> None:
        missing = [molecule for molecule in schema.molecules if molecule not in samples.keys]
        if missing:
            raise InputError(f"Cannot use {name}: its samples have no {' and no '.join(missing)} keys.")
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
        from embedstore.features.torch_dataset import FeaturesDataset

        return FeaturesDataset(self)

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
        bad = not_finite(rows)
        if len(bad):
            self._refuse_not_finite(indices, rows, bad)

    def _refuse_not_finite(self, indices: Indices, rows: NDArray[np.float32], bad: Indices) -> None:
        column = int(np.flatnonzero(~np.isfinite(rows[bad[0]]))[0])
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


class RowSource(Protocol):
    """Rows of features, gathered on demand."""

    def gather(self, indices: Indices, rows: NDArray[np.float32]) -> None:
        """Write the rows at `indices`, in any order, repeated or not, into `rows`, (k, d) float32.

        A source reads them in the order in which they lie.

        Parameters
        ----------
        indices : (k,) row numbers.
        rows : (k, d) float32, to be filled.

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
