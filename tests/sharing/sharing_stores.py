"""Stores to copy between, and storages that die, of which any number of rows can be judged by themselves."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from store.sample_rows import sample_batch, sample_canaries, sample_keys, sample_recipe

from embedstore.identity import Recipe
from embedstore.storage.local import LocalStorage
from embedstore.store import SpaceStore, Storage
from embedstore.store.documents import SegmentFormat

OTHER = sample_recipe(model="other", dim=6)
RECIPE = sample_recipe()


def make_store(
    place: Path | Storage,
    *segments: Iterable[int],
    recipe: Recipe = RECIPE,
    name: str = "toy",
    layout: SegmentFormat = "zarr",
) -> SpaceStore:
    """Open or make a store, and append a segment of the rows of each of some sets of numbers."""
    storage = LocalStorage(place) if isinstance(place, Path) else place
    store = SpaceStore(storage, create=True, segment_format=layout)
    for numbers in segments:
        space = store.create_space(recipe, name, sample_canaries(recipe))
        space.append(sample_batch(sample_keys(numbers), recipe), {"compute_seconds": 2.0, "letters": 100})
    return store


def commits_of(store: SpaceStore, space: str = "toy") -> set[str]:
    return {segment.commit_id for segment in store.space(space).segments()}


def contents_of(store: SpaceStore, space: str = "toy") -> set[frozenset[str]]:
    """Of each segment the digests of its files: what was copied as it is has the same, under other names."""
    segments = store.space(space).segments()
    return {frozenset(fact.sha256 for fact in segment.commit.files.values()) for segment in segments}


def originals_of(store: SpaceStore, space: str = "toy") -> set[str]:
    """Of commits that were copied with their signatures, the ids of those that were signed."""
    return {segment.commit.signed_id for segment in store.space(space).segments()}


def assert_clean(place: Path | SpaceStore) -> None:
    store = place if isinstance(place, SpaceStore) else SpaceStore.open(place)
    assert store.verify(deep=True).problems == []
