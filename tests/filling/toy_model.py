"""A model whose vectors follow from the sequence at a glance, and that can be made to fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from embedstore.filling import SpaceTarget
from embedstore.identity import Recipe, canonical, sequence_key
from embedstore.library import Store
from embedstore.models.embedder import Embedded, Model
from embedstore.records import Record

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


def toy_vector(sequence: bytes) -> list[float]:
    """Length, number of A, number of C, first residue: exact in float16 up to 2 048."""
    return [len(sequence), sequence.count(b"A"), sequence.count(b"C"), sequence[0]]


@dataclass
class ToyEmbedder:
    """Counts what it is asked for; `before` is called with the number of the call and the sequences of each pack.

    Packs that hold canaries only, i.e. those of the check, are neither counted nor told.
    """

    recipe: Recipe = RECIPE
    pack_residues: int = 40
    workers: int = 1
    failing: frozenset[bytes] = frozenset()
    scale: float = 1.0
    before: Callable[[int, Sequence[bytes]], None] | None = None
    calls: int = 0
    embedded: list[bytes] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def embed(self, sequences: Sequence[bytes]) -> Embedded:
        if b"ACDEFGHIKLMNPQRSTVWY" not in sequences:
            with self.lock:
                self.calls += 1
                call = self.calls
            if self.before is not None:
                self.before(call, sequences)
            with self.lock:
                self.embedded.extend(sequences)
        vectors = np.array([toy_vector(sequence) for sequence in sequences], np.float32) * self.scale
        failures = {row: "the toy fails it" for row, sequence in enumerate(sequences) if sequence in self.failing}
        return Embedded(vectors, failures)


def toy_target(store: Store, embedder: ToyEmbedder | None = None, name: str = "toy") -> SpaceTarget:
    """The space of a toy in a store; without an embedder, loading one is a failure of the test."""

    def load(device: str | None) -> ToyEmbedder:
        assert embedder is not None, "the model was loaded"
        return embedder

    recipe = embedder.recipe if embedder else RECIPE
    return SpaceTarget(store, recipe, name, store.find_space(recipe, name), lambda: Model(name, recipe, load))


def full_precision(embedder: ToyEmbedder) -> ToyEmbedder:
    embedder.recipe = replace(RECIPE, precision="full", dtype="float32")
    return embedder


def records(sequences: Iterable[str], prefix: str = "r") -> list[Record]:
    """Records r1, r2, … of a file a.faa, two lines each."""
    return [
        Record(f"{prefix}{number}", sequence.encode(), "a.faa", 2 * number - 1)
        for number, sequence in enumerate(sequences, start=1)
    ]


def proteins(count: int, seed: int = 0) -> list[str]:
    """Distinct sequences of 5 to 30 residues."""
    random = np.random.default_rng(seed)
    residues = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(random.choice(residues, random.integers(5, 31)))] = None
    return list(found)


def keys_of(sequences: Iterable[str]) -> NDArray[np.uint8]:
    joined = b"".join(sequence_key(canonical(sequence, "protein")) for sequence in sequences)
    return np.frombuffer(joined, np.uint8).reshape(-1, 24)


def expected(sequences: Iterable[str]) -> NDArray[np.float16]:
    return np.array([toy_vector(canonical(sequence, "protein")) for sequence in sequences], np.float16)
