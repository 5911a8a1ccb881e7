"""A model for worker processes: named by value, and deadly if wanted."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedstore.errors import ModelError
from embedstore.filling import FillReport, SpaceTarget
from embedstore.identity import Recipe, canonical, key_array, sequence_key
from embedstore.library import Store
from embedstore.models.embedder import Embedded, Model
from embedstore.records import Keys, Record, Vectors

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
    diary : a folder in which each process leaves a file for each pack, named by its id first.
    scale : what its numbers are multiplied by.
    trouble : "load" or "embed": where it raises; "die": it dies when it is loaded.
    """

    poison: frozenset[bytes] = frozenset()
    failing: frozenset[bytes] = frozenset()
    seconds: float = 0.0
    diary: Path | None = None
    scale: float = 1.0
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
    """Vectors that can be told by looking: length, number of A, number of C, first residue."""

    pack_residues = 200
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
        return Embedded(np.array(rows, np.float32).reshape(-1, 4) * self._toy.scale, failures)


def toy_target(store: Store, toy: Toy) -> SpaceTarget:
    """The space of a toy in a store."""
    space = store.find_space(toy.recipe, "toy")
    return SpaceTarget(store, toy.recipe, "toy", space, toy, source=toy)


def proteins(count: int, seed: int = 0) -> list[str]:
    """Distinct sequences of 5 to 30 residues."""
    random = np.random.default_rng(seed)
    residues = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(random.choice(residues, random.integers(5, 31)))] = None
    return list(found)


def records(sequences: Iterable[str]) -> list[Record]:
    """Records r1, r2, … of a file a.faa, two lines each."""
    return [
        Record(f"r{number}", sequence.encode(), "a.faa", 2 * number - 1)
        for number, sequence in enumerate(sequences, start=1)
    ]


def keys_of(sequences: Iterable[str]) -> Keys:
    """(n, 24) uint8."""
    return key_array(sequence_key(canonical(sequence, "protein")) for sequence in sequences)


def content(store: Store, space: str = "toy") -> tuple[Keys, Vectors]:
    """All keys and vectors of a space, by key, read afresh."""
    found = Store.open(store.location).space(space)
    return found.keys(), found.read(found.keys())


def counts(report: FillReport) -> tuple[int, int, int, int]:
    """Of a report: read, unique, hits, computed."""
    return report.read, report.unique, report.hits, report.computed
