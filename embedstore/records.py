"""Values that travel between the layers. Nothing here knows of files, models or stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import InputError

KEY_BYTES = 24

Keys = NDArray[np.uint8]
"""(n, 24) uint8: sequence keys, a row each."""

Vectors = NDArray[Any]
"""(n, dim) float16 or float32."""


class Record(NamedTuple):
    """One sequence as it was read. Ids are labels for people; they are never keys."""

    id: str
    sequence: bytes
    """As in the file: line ends, blanks and case are still there; `identity.canonical` removes them."""
    file: str
    line: int
    """1-based line of the record's header; position of the sequence where there is no file."""


class Rejection(NamedTuple):
    """One record that could not be used, and why."""

    file: str
    line: int
    id: str
    reason: str


def not_finite(vectors: Vectors) -> NDArray[np.int64]:
    """Return the rows of (n, dim) vectors that hold NaN or infinity: (k,) int64.

    A sum is finite only if all its terms are, and takes a fraction of the time; the terms are looked at only where it
    is not. Half precision is added up as float64, which is faster than float32 and which it cannot overflow.
    """
    dtype = np.dtype(np.float64) if vectors.dtype == np.float16 else vectors.dtype
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(vectors.sum(dtype=dtype)):
            return np.empty(0, np.int64)
    return np.flatnonzero(~np.isfinite(vectors).all(axis=1))


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingBatch:
    """Keys and their vectors, travelling together.

    Parameters
    ----------
    keys : (n, 24) uint8.
    vectors : (n, dim) float16 or float32, finite.

    Raises
    ------
    InputError : shapes, dtypes or lengths do not fit, or a value is not finite.
    """

    keys: Keys
    vectors: Vectors

    def __post_init__(self) -> None:
        if self.keys.dtype != np.uint8 or self.keys.ndim != 2 or self.keys.shape[1] != KEY_BYTES:
            raise InputError(
                f"Cannot make a batch: expected keys of shape (n, {KEY_BYTES}) uint8, "
                f"found {self.keys.shape} {self.keys.dtype}."
            )
        if self.vectors.ndim != 2 or self.vectors.dtype not in (np.float16, np.float32):
            raise InputError(
                "Cannot make a batch: expected vectors of shape (n, dim) float16 or float32, "
                f"found {self.vectors.shape} {self.vectors.dtype}."
            )
        if len(self.keys) != len(self.vectors):
            raise InputError(
                f"Cannot make a batch: expected one vector per key, found {len(self.keys)} keys "
                f"and {len(self.vectors)} vectors."
            )
        rows = not_finite(self.vectors)
        if len(rows):
            raise InputError(f"Cannot make a batch: {len(rows)} vectors are not finite, first at row {rows[0]}.")

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True, eq=False)
class Canaries:
    """Vectors of a few fixed sequences, kept by a space to recognise a model that no longer gives its numbers.

    Attributes
    ----------
    sequences : the canonical sequences.
    vectors : (len(sequences), dim) float32, before rounding to the space's dtype.
    """

    sequences: tuple[str, ...]
    vectors: NDArray[np.float32]
