"""Processes that fill a space: they say what was acknowledged, and may be killed at any moment."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from sample_rows import open_space, right_vectors, sample_batch, sample_keys

from embedstore.identity import Recipe
from embedstore.records import EmbeddingBatch, Keys, Vectors

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["embedstore.store", "sample_rows"])


def append_for_ever(place: Path, seed: int, acknowledged: Connection) -> None:
    """Append random batches; send the numbers of each batch's keys once `append` has returned."""
    space = open_space(place)
    random = np.random.default_rng(seed)
    acknowledged.send([])
    while True:
        numbers = random.integers(0, 2_000, random.integers(1, 30)).tolist()
        space.append(sample_batch(sample_keys(numbers), space.recipe))
        acknowledged.send(numbers)
        if random.random() < 0.2:
            space.optimise()


def append_own_variant(place: Path, variant: int, batches: int) -> None:
    """Append overlapping batches of vectors that differ from other processes', but within the tolerance."""
    space = open_space(place)
    random = np.random.default_rng(variant)
    for _ in range(batches):
        keys = sample_keys(random.choice(60, 20, replace=False).tolist())
        space.append(EmbeddingBatch(keys, variant_vectors(keys, space.recipe, variant)))
        if random.random() < 0.2:
            space.optimise()


def variant_vectors(keys: Keys, recipe: Recipe, variant: int) -> Vectors:
    """The right vectors as computed on another machine: (n, dim)."""
    return right_vectors(keys, recipe) * np.float32(1 + variant * recipe.tolerance / 8)
