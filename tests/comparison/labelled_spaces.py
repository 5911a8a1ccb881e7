"""Labelled samples, and spaces that know their labels, or nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedstore.classify.blocks import Reading
from embedstore.classify.heads import TrainOptions
from embedstore.features import Categories, Samples
from embedstore.features.features import TEXT
from embedstore.identity import CANONICALISATION, Recipe, key_array
from embedstore.records import Canaries, EmbeddingBatch, Keys
from embedstore.store import SpaceStore

GROUPS = 48
OF_EACH = 6
COUNT = GROUPS * OF_EACH
DIM = 6
QUICK = TrainOptions(folds=3)

Rows = NDArray[np.float32]


def labelled_samples() -> Samples:
    """Samples of 48 genomes, every other of which is a virus."""
    numbers = np.arange(COUNT)
    genomes = numbers // OF_EACH
    return Samples(
        ids=np.array([f"sample{number}" for number in numbers], dtype=TEXT),
        sources=Categories.of([f"contig{genome}" for genome in genomes]),
        groups=Categories.of([f"genome{genome}" for genome in genomes]),
        labels=Categories.of([("host", "virus")[genome % 2] for genome in genomes.tolist()]),
        start=numbers * 3 + 1,
        end=numbers * 3 + 300,
        strand=np.ones(COUNT, np.int8),
        frame=np.ones(COUNT, np.int8),
        keys={"protein": keys()},
        origin="samples.tsv",
    )


def keys() -> Keys:
    return key_array(hashlib.sha512(str(number).encode()).digest()[:24] for number in range(COUNT))


def vectors(signal: float, seed: int = 1, dim: int = DIM) -> Rows:
    """Normal noise, with the label added to the first column so many times."""
    rows = np.random.default_rng(seed).normal(size=(COUNT, dim))
    rows[:, 0] += signal * (np.arange(COUNT) // OF_EACH % 2)
    return rows.astype(np.float32)


def add_space(
    store: SpaceStore, name: str, rows: Rows, *, only: slice = slice(None), seconds: float = 0, canary: float = 1
) -> None:
    """Make a space that holds the samples' vectors, or some of them."""
    recipe = toy_recipe(name, rows.shape[1])
    canaries = Canaries(("MKV",), np.arange(canary, canary + rows.shape[1], dtype=np.float32)[None])
    cost = {"compute_seconds": seconds, "letters": 100 * COUNT} if seconds else {}
    store.create_space(recipe, name, canaries).append(EmbeddingBatch(keys()[only], rows[only]), cost)


def toy_recipe(model: str, dim: int) -> Recipe:
    return Recipe(
        model=model,
        source="built-in",
        revision=None,
        weights_sha256=None,
        tokenizer_sha256=None,
        implementation="toy/1",
        molecule="protein",
        canonicalisation=CANONICALISATION["protein"],
        layer="last",
        pooling="mean",
        pooled_special_tokens=(),
        max_length_tokens=None,
        long="none",
        window_overlap_tokens=None,
        precision="full",
        dtype="float32",
        dim=dim,
    )


def filled_store(place: Path) -> Reading:
    """Spaces `good` and `same` (one's vectors under another name), `noise`, and `part`, without two genomes."""
    store = SpaceStore.open(place, create=True)
    add_space(store, "good", vectors(3.0), seconds=2.0)
    add_space(store, "same", vectors(3.0))
    add_space(store, "noise", vectors(0.0, seed=2, dim=DIM + 1), seconds=1.0, canary=5)
    add_space(store, "part", vectors(3.0, seed=3), only=slice(2 * OF_EACH, None), canary=-3)
    return Reading(store)
