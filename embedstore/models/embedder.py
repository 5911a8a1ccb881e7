"""What filling needs of a model: a recipe known in advance, and vectors for a pack of sequences.

A pack is a set of sequences that one call works on: of similar lengths, and bounded by their residues or tokens. Packs
are made longest first: if memory is insufficient, the run finds out at its start. The last packs are smaller, so that
no worker waits long for the one that has the last pack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedstore.identity import Recipe


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """Vectors of one pack.

    Attributes
    ----------
    vectors : (n, dim) float32, a row for each sequence; rows named in `failures` are meaningless.
    failures : position in the pack -> why that sequence has no vector.
    """

    vectors: NDArray[np.float32]
    failures: Mapping[int, str] = field(default_factory=dict)


class Embedder(Protocol):
    """A loaded model. `embed` may be called from `workers` threads at once."""

    recipe: Recipe
    pack_residues: int
    """Residues or bases that one pack should hold; a longer sequence is a pack of its own."""
    workers: int

    def embed(self, sequences: Sequence[bytes]) -> Embedded:
        """Embed canonical sequences.

        Returns
        -------
        Embedded : a row for each sequence, in order; independent of what else is in the pack, within the tolerance
            that the recipe's implementation tag stands for. A value that the recipe's dtype cannot hold is a failure.
        """
        ...


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What decides how fast a model is: all weights of one shape take the same time.

    Attributes
    ----------
    architecture : name in the registry.
    layers : None for models without weights.
    dim : length of the vectors.
    """

    architecture: str
    layers: int | None
    dim: int


@dataclass(frozen=True)
class Model:
    """A model whose recipe is known and whose weights are not loaded yet."""

    name: str
    """Name of the space that it fills unless the user gives another."""
    recipe: Recipe
    load: Callable[[str | None], Embedder]
    """device ("cpu", "cuda:0", None for the best there is) -> the loaded model."""
    shape: ModelShape | None = None
    """None where nothing is known of it."""


_PACKS_LEFT_PER_WORKER = 2
_SMALLEST_SHARE = 4  # of the budget: below it, calls cost more than waiting
SMALL_PACKS_PER_WORKER = 5  # at the end, about: what the two above make of it


def packs(lengths: Sequence[int] | NDArray[np.int64], budget: int, workers: int = 1) -> list[NDArray[np.int64]]:
    """Partition sequences into packs of at most `budget` residues, longest sequences first.

    Parameters
    ----------
    lengths : (n,) residues or tokens of each sequence.
    budget : what a pack may hold; a longer sequence is a pack of its own.
    workers : how many packs are computed at once.

    Returns
    -------
    Positions of the sequences of each pack: together each of 0 … n - 1 once. Equal lengths keep their order.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    ends = np.cumsum(sizes[order])
    result: list[NDArray[np.int64]] = []
    start, used = 0, 0
    while start < len(order):
        stop = max(int(np.searchsorted(ends, used + _size(int(ends[-1]) - used, budget, workers), "right")), start + 1)
        result.append(order[start:stop])
        start, used = stop, int(ends[stop - 1])
    return result


def _size(left: int, budget: int, workers: int) -> int:
    """Choose what the next pack may hold when so much is left (guided self-scheduling: Polychronopoulos, Kuck 1987)."""
    if workers <= 1:
        return budget
    return min(budget, max(left // (_PACKS_LEFT_PER_WORKER * workers), budget // _SMALLEST_SHARE))
