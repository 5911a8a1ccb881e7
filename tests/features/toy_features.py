"""Samples, and spaces in which the vector of each follows from its key, so that any row can be judged by itself."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.features import Categories, Preparation, Samples
from embedstore.features.features import TEXT
from embedstore.identity import CANONICALISATION, Molecule, Recipe, key_array
from embedstore.records import Canaries, EmbeddingBatch, Keys
from embedstore.store import Space, SpaceStore

PREPARATION = Preparation(500, 1, "stop-free", None)


def toy_recipe(molecule: Molecule, dim: int, **changes: Any) -> Recipe:
    """A recipe of a model that does not exist."""
    fields: dict[str, Any] = {
        "model": "toy",
        "source": "built-in",
        "revision": None,
        "weights_sha256": None,
        "tokenizer_sha256": None,
        "implementation": "toy/1",
        "molecule": molecule,
        "canonicalisation": CANONICALISATION[molecule],
        "layer": "last",
        "pooling": "mean",
        "pooled_special_tokens": (),
        "max_length_tokens": None,
        "long": "none",
        "window_overlap_tokens": None,
        "precision": "full",
        "dtype": "float32",
        "dim": dim,
    }
    return Recipe(**{**fields, **changes})


def toy_keys(numbers: Any, molecule: str) -> Keys:
    """A key for each number, as spread out as those of sequences: (n, 24) uint8."""
    return key_array(hashlib.sha512(f"{molecule}{number}".encode()).digest()[:24] for number in numbers)


def toy_vectors(keys: Keys, recipe: Recipe) -> NDArray[Any]:
    """The one vector that each key may have: (n, dim) in the recipe's dtype."""
    seeds = keys[:, :4].copy().view("<u4").astype(np.float64)  # (n, 1)
    return np.sin(seeds * np.arange(1, recipe.dim + 1)).astype(recipe.dtype)


def toy_space(store: SpaceStore, name: str, recipe: Recipe, keys: Keys, segments: int = 3) -> Space:
    """Make a space that holds some keys, in several segments."""
    canaries = Canaries(("MKV",), np.zeros((1, recipe.dim), np.float32))
    space = store.create_space(recipe, name, canaries)
    for part in np.array_split(keys, segments):
        space.append(EmbeddingBatch(part, toy_vectors(part, recipe)))
    return space


def toy_samples(count: int) -> Samples:
    """Samples of which every third shares its protein with the one before; one in seven has no label."""
    numbers = np.arange(count)
    texts = np.array([f"contig{number // 4}:{number}" for number in numbers], dtype=TEXT)
    labels = ["" if number % 7 == 6 else ("virus", "host", "phage")[number % 3] for number in numbers.tolist()]
    return Samples(
        ids=texts,
        sources=Categories.of([f"contig{number // 4}" for number in numbers]),
        groups=Categories.of([f"genome{number // 12}" for number in numbers]),
        labels=Categories.of(labels),
        start=numbers * 3 + 1,
        end=numbers * 3 + 498,
        strand=np.where(numbers % 2, 1, -1).astype(np.int8),
        frame=(numbers % 3 + 1).astype(np.int8),
        keys={"dna": toy_keys(numbers, "dna"), "protein": toy_keys(numbers - (numbers % 3 == 2), "protein")},
        preparation=PREPARATION,
        origin="samples.tsv",
    )


DNA = toy_recipe("dna", 5)
PROTEIN = toy_recipe("protein", 3, dtype="float16", precision="half")


def toy_store(place: Path, samples: Samples) -> SpaceStore:
    """A store with the spaces `toy_dna` and `toy_protein`, which hold all that samples need."""
    store = SpaceStore.open(place, create=True)
    toy_space(store, "toy_dna", DNA, samples.keys["dna"])
    toy_space(store, "toy_protein", PROTEIN, samples.keys["protein"])
    return store


def right_rows(samples: Samples) -> NDArray[np.float32]:
    """What merging with `toy_dna,toy_protein` must give: (n, 8) float32."""
    blocks = [toy_vectors(samples.keys["dna"], DNA), toy_vectors(samples.keys["protein"], PROTEIN)]
    return np.concatenate([block.astype(np.float32) for block in blocks], axis=1)


def permuted(samples: Samples, seed: int = 1) -> tuple[Samples, NDArray[np.int64]]:
    """The same samples in another order, and that order."""
    order = np.random.default_rng(seed).permutation(len(samples))
    return replace(samples.take(order)), order
