"""Several processes in one store at once, without locks."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from sample_rows import (
    LAYOUTS,
    assert_right,
    new_space,
    open_space,
    sample_batch,
    sample_canaries,
    sample_keys,
    sample_recipe,
)
from writers import append_own_variant, processes, variant_vectors

from embedstore.errors import InputError
from embedstore.records import EmbeddingBatch, Keys
from embedstore.storage.local import LocalStorage
from embedstore.storage.protocol import Buffer, Entry
from embedstore.store import SpaceStore
from embedstore.store.documents import SegmentFormat


@pytest.mark.parametrize("layout", LAYOUTS)
def test_four_processes_fill_one_space_and_all_see_one_vector_a_key(tmp_path: Path, layout: SegmentFormat) -> None:
    new_space(tmp_path, layout)
    writers = [processes.Process(target=append_own_variant, args=(tmp_path, variant, 10)) for variant in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    space = open_space(tmp_path)
    keys = space.keys()
    vectors = space.read(keys)
    offered = np.stack([variant_vectors(keys, space.recipe, variant) for variant in range(4)])
    assert (offered == vectors).all(axis=2).any(axis=0).all()
    space.optimise()
    for _ in range(2):
        again = open_space(tmp_path)
        assert np.array_equal(again.keys(), keys)
        assert np.array_equal(again.read(keys), vectors)
    assert SpaceStore.open(tmp_path).verify(deep=True).problems == []


def beyond_tolerance(batch: EmbeddingBatch) -> EmbeddingBatch:
    factor = np.float32(1 + 3 * sample_recipe().tolerance)
    return EmbeddingBatch(batch.keys, batch.vectors * factor)


def test_a_vector_beyond_the_tolerance_of_the_one_there_is_refused(tmp_path: Path) -> None:
    space = new_space(tmp_path, "zarr")
    batch = sample_batch(sample_keys([1, 2]), space.recipe)
    space.append(batch)
    with pytest.raises(InputError, match="difference of at most"):
        open_space(tmp_path).append(beyond_tolerance(batch))
    assert_right(open_space(tmp_path), batch.keys)


def test_two_vectors_beyond_the_tolerance_in_one_batch_are_refused(tmp_path: Path) -> None:
    space = new_space(tmp_path, "zarr")
    batch = sample_batch(sample_keys([1, 2]), space.recipe)
    other = beyond_tolerance(batch)
    twice = EmbeddingBatch(np.concatenate([batch.keys, other.keys]), np.concatenate([batch.vectors, other.vectors]))
    with pytest.raises(InputError, match="difference of at most"):
        space.append(twice)
    assert len(open_space(tmp_path)) == 0


class OvertakenStorage(LocalStorage):
    """A storage in which somebody else commits the same keys while one writes data."""

    def __init__(self, place: Path, other: EmbeddingBatch) -> None:
        super().__init__(place)
        self._place = place
        self._other: EmbeddingBatch | None = other

    def write(self, name: str, parts: Iterable[Buffer]) -> Entry:
        entry = super().write(name, parts)
        if "/data/" in name and self._other is not None:
            other, self._other = self._other, None
            open_space(self._place).append(other)
        return entry


def offer(keys: Keys, variant: int) -> EmbeddingBatch:
    return EmbeddingBatch(keys, variant_vectors(keys, sample_recipe(), variant))


def test_a_commit_made_while_we_wrote_stays_the_one_that_is_read(tmp_path: Path) -> None:
    """What a reader may have seen before our commit must not change with it."""
    new_space(tmp_path, "zarr")
    keys = sample_keys(range(5))
    open_space(OvertakenStorage(tmp_path, offer(keys, 2))).append(offer(keys, 1))
    space = open_space(tmp_path)
    assert space.info().segments == 2
    assert np.array_equal(space.read(keys), variant_vectors(keys, space.recipe, 2))


def test_a_commit_made_while_we_wrote_is_compared_with_ours(tmp_path: Path) -> None:
    new_space(tmp_path, "zarr")
    keys = sample_keys(range(5))
    with pytest.raises(InputError, match="have another vector already"):
        open_space(OvertakenStorage(tmp_path, offer(keys, 100))).append(offer(keys, 0))
    assert open_space(tmp_path).info().segments == 1


def make_store_and_space(place: Path, number: int, layout: SegmentFormat, made: Connection) -> None:
    recipe = sample_recipe(dim=4 + number // 4)  # two processes a recipe
    store = SpaceStore.open(place, create=True, segment_format=layout)
    space = store.create_space(recipe, f"space{recipe.dim}", sample_canaries(recipe))
    space.append(sample_batch(sample_keys(range(number, number + 3)), recipe))
    made.send((store.id, store.segment_format, space.id))


def test_processes_that_make_a_store_and_its_spaces_at_once_get_the_same(tmp_path: Path) -> None:
    pipes = [processes.Pipe(duplex=False) for _ in range(8)]
    makers = [
        processes.Process(target=make_store_and_space, args=(tmp_path / "store", number, LAYOUTS[number % 2], theirs))
        for number, (_, theirs) in enumerate(pipes)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert [maker.exitcode for maker in makers] == [0] * len(makers)
    made = [ours.recv() for ours, _ in pipes]
    assert len({(store, layout) for store, layout, _ in made}) == 1
    assert len({space for _, _, space in made}) == 2
    for name, first in (("space4", 0), ("space5", 4)):
        assert_right(open_space(tmp_path / "store", name), sample_keys(range(first, first + 6)))
    assert SpaceStore.open(tmp_path / "store").verify(deep=True).problems == []


def test_threads_share_a_space(tmp_path: Path) -> None:
    space = new_space(tmp_path, "zarr")
    errors = []

    def work(first: int) -> None:
        try:
            for number in range(first, first + 10):
                keys = sample_keys(range(number, number + 3))
                space.append(sample_batch(keys, space.recipe))
                assert_right(space, keys)
                len(space)
                space.optimise()
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 5, 10, 15)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert_right(open_space(tmp_path), sample_keys(range(27)))
