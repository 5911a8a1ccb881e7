"""What filling needs of a model: a recipe known in advance, and vectors for a pack of sequences (see `batching`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

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


@runtime_checkable
class LevelledEmbedder(Embedder, Protocol):
    """A model with layers, which gives the vectors of several recipes in one pass."""

    def for_recipes(self, recipes: Sequence[Recipe]) -> LevelledEmbedder:
        """Return one for recipes that differ from its own in layer and pooling alone; the weights are shared."""
        ...

    def embed_all(self, sequences: Sequence[bytes]) -> list[Embedded]:
        """Do as `embed` for each of the recipes."""
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
