"""Rows whose right vector follows from their key, so that any row read from anywhere can be judged by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.identity import CANONICALISATION, Recipe, key_array
from embedstore.records import Canaries, EmbeddingBatch, Keys, Vectors
from embedstore.storage.local import LocalStorage
from embedstore.store import Space, SpaceStore, Storage
from embedstore.store.documents import SegmentFormat

LAYOUTS: tuple[SegmentFormat, ...] = ("zarr", "hdf5")


def sample_recipe(**changes: Any) -> Recipe:
    """A recipe of a model that does not exist; (4,) float32 unless changed."""
    fields: dict[str, Any] = {
        "model": "toy",
        "source": "built-in",
        "revision": None,
        "weights_sha256": None,
        "tokenizer_sha256": None,
        "implementation": "toy/1",
        "molecule": "protein",
        "canonicalisation": CANONICALISATION["protein"],
        "layer": "last",
        "pooling": "mean",
        "pooled_special_tokens": (),
        "max_length_tokens": None,
        "long": "none",
        "window_overlap_tokens": None,
        "precision": "full",
        "dtype": "float32",
        "dim": 4,
    }
    return Recipe(**{**fields, **changes})


def sample_canaries(recipe: Recipe) -> Canaries:
    return Canaries(("MKV", "ACDW"), np.arange(2 * recipe.dim, dtype=np.float32).reshape(2, recipe.dim))


def sample_keys(numbers: Iterable[int]) -> Keys:
    """A key for each number, as spread out as those of sequences: (n, 24) uint8."""
    return key_array(hashlib.sha512(str(number).encode()).digest()[:24] for number in numbers)


def right_vectors(keys: Keys, recipe: Recipe) -> Vectors:
    """The one vector that each key may have: (n, dim) in the recipe's dtype."""
    words = -(-recipe.dim // 32)
    digests = [
        b"".join(hashlib.sha256(key.tobytes() + bytes([word])).digest() for word in range(words)) for key in keys
    ]
    numbers = np.frombuffer(b"".join(digests), np.uint8).reshape(len(keys), words * 32)[:, : recipe.dim]
    return (numbers.astype(np.float32) / 16 - 8).astype(recipe.dtype)


def sample_batch(keys: Keys, recipe: Recipe) -> EmbeddingBatch:
    return EmbeddingBatch(keys, right_vectors(keys, recipe))


def new_space(place: Path | Storage, layout: SegmentFormat, recipe: Recipe | None = None, name: str = "toy") -> Space:
    """Make a store with one space (or open the one that is there)."""
    storage = LocalStorage(place) if isinstance(place, Path) else place
    recipe = recipe or sample_recipe()
    store = SpaceStore(storage, create=True, segment_format=layout)
    return store.create_space(recipe, name, sample_canaries(recipe))


def open_space(place: Path | Storage, name: str = "toy") -> Space:
    """Open the space again, as another process would."""
    return SpaceStore(LocalStorage(place) if isinstance(place, Path) else place).space(name)


def assert_right(space: Space, keys: Keys) -> None:
    """Read keys and compare every bit."""
    read = space.read(keys)
    expected = right_vectors(keys, space.recipe)
    assert read.dtype == expected.dtype
    assert read.tobytes() == expected.tobytes()


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
