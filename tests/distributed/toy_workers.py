"""A model for worker processes: named by value, and deadly if wanted."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedstore.errors import ModelError
from embedstore.filling import SpaceTarget
from embedstore.identity import Recipe
from embedstore.library import Store
from embedstore.models.embedder import Embedded, Model

RECIPE = Recipe(
    model="toy",
    source="local",
    revision=None,
    weights_sha256=None,
    tokenizer_sha256=None,
    implementation="toy/1",
    molecule="protein",
    canonicalisation="protein/1",
    layer="none",
    pooling="frequencies",
    pooled_special_tokens=(),
    max_length_tokens=None,
    long="none",
    window_overlap_tokens=None,
    precision="half",
    dtype="float16",
    dim=4,
)


@dataclass(frozen=True)
class Toy:
    """How the toy behaves, as it travels to workers.

    Attributes
    ----------
    poison : sequences of which its process dies.
    failing : sequences that it has no vector for.
    seconds : that a pack takes.
    diary : a folder in which each process leaves a file for each pack, named by what is in it.
    trouble : "load" or "embed": where it raises; "die": it dies when it is loaded.
    """

    poison: frozenset[bytes] = frozenset()
    failing: frozenset[bytes] = frozenset()
    seconds: float = 0.0
    diary: Path | None = None
    trouble: str = ""
    recipe: Recipe = RECIPE

    def __call__(self) -> Model:
        return Model("toy", self.recipe, self._load)

    def _load(self, device: str | None) -> ToyEmbedder:
        if self.trouble == "load":
            raise ModelError(f"the toy cannot be loaded on {device}")
        if self.trouble == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return ToyEmbedder(self)


class ToyEmbedder:
    """Vectors that can be told by looking: length, number of A, number of C, first letter."""

    pack_letters = 200
    workers = 1

    def __init__(self, toy: Toy) -> None:
        self.recipe = toy.recipe
        self._toy = toy

    def embed(self, sequences: Sequence[bytes]) -> Embedded:
        toy = self._toy
        if b"ACDEFGHIKLMNPQRSTVWY" not in sequences:  # not the canaries
            if toy.trouble == "embed":
                raise ZeroDivisionError("the toy is broken")
            time.sleep(toy.seconds)
            if toy.poison.intersection(sequences):
                os.kill(os.getpid(), signal.SIGKILL)
            if toy.diary is not None:
                (toy.diary / f"{os.getpid()}-{time.monotonic_ns()}-{len(sequences)}").touch()
        rows = [[len(each), each.count(b"A"), each.count(b"C"), each[0]] for each in sequences]
        failures = {row: "the toy fails it" for row, each in enumerate(sequences) if each in toy.failing}
        return Embedded(np.array(rows, np.float32).reshape(-1, 4), failures)


def toy_target(store: Store, toy: Toy) -> SpaceTarget:
    """The space of a toy in a store."""
    space = store.find_space(toy.recipe, "toy")
    return SpaceTarget(store, toy.recipe, "toy", space, toy, source=toy)
