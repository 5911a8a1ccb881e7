"""Samples as columns: compact enough for millions of them, and never apart from each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import InputError
from embedstore.features.schema import Preparation
from embedstore.identity import Molecule
from embedstore.types import KEY_BYTES, Keys

TEXT = np.dtypes.StringDType()
"""Variable-width text: its items are `str`, and it takes a quarter of what fixed-width text takes."""

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
        """Encode texts; an empty one is none."""
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
    """What is classified, a row a sample. Ids are labels for people: rows are joined to vectors by their keys.

    Attributes
    ----------
    ids : (n,) texts.
    sources : the sequence that each was cut from.
    groups : what must not be divided by a split (a genome).
    labels : class of each, -1 where it has none.
    start, end : (n,) int64, place in the source, 1-based, both ends included, on its forward strand.
    strand : (n,) int8, 1 or -1. frame : (n,) int8, 1 to 3, from the chunk's first base on the strand.
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
