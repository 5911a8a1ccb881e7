"""A space behaves like a dictionary that keeps the first value of a key, whatever is done to it in whatever order."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sample_rows import LAYOUTS, new_space, open_space, right_vectors, sample_keys, sample_recipe

from embedstore.errors import MissingEmbeddingError
from embedstore.identity import key_array, key_text
from embedstore.records import EmbeddingBatch, Keys, Vectors
from embedstore.store import Space

_BEGINNINGS = (bytes(8), b"\0" * 7 + b"\1", b"ACGTACGT", b"\xff" * 8)
_ENDS = (bytes(16), b"\1" + bytes(15), bytes(15) + b"\1", b"\0\1" * 8, b"\xff" * 16)
TRICKY_KEYS = [start + end for start in _BEGINNINGS for end in _ENDS]
"""Many share the eight bytes that the index keeps; some end in NUL bytes, one is nothing else."""
PLAIN_KEYS = [key.tobytes() for key in sample_keys(range(20))]
ALL_KEYS = TRICKY_KEYS + PLAIN_KEYS

key_lists = st.lists(st.sampled_from(ALL_KEYS), max_size=12)
offers = st.lists(st.tuples(st.sampled_from(ALL_KEYS), st.integers(0, 2)), max_size=12)
"""Keys to append, each with how far from its right vector; all within the tolerance."""


class SpaceMachine(RuleBasedStateMachine):
    """Two users of one space, each with a view of its own that may be out of date, against a dictionary."""

    changes: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="embedstore-test-"))
        self.model: dict[bytes, bytes] = {}

    @initialize(layout=st.sampled_from(LAYOUTS), half=st.booleans())
    def make(self, layout: Any, half: bool) -> None:
        dtype, precision = ("float16", "half") if half else ("float32", "full")
        self.recipe = sample_recipe(dtype=dtype, precision=precision, dim=3)
        new_space(self.folder, layout, self.recipe)
        self.users = [open_space(self.folder), open_space(self.folder)]

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def vectors(self, offered: list[tuple[bytes, int]]) -> Vectors:
        right = right_vectors(key_array([key for key, _ in offered]), self.recipe).astype(np.float64)
        steps = np.array([[step] for _, step in offered]).reshape(-1, 1)
        near = right * (1 + steps * self.recipe.tolerance / 4)
        return near.astype(self.recipe.dtype)

    @rule(user=st.integers(0, 1), offered=offers)
    def append(self, user: int, offered: list[tuple[bytes, int]]) -> None:
        vectors = self.vectors(offered)
        added: dict[bytes, bytes] = {}
        for (key, _), vector in zip(offered, vectors, strict=True):
            if key not in self.model:
                added.setdefault(key, vector.tobytes())
        batch = EmbeddingBatch(key_array([key for key, _ in offered]), vectors)
        assert self.users[user].append(batch) == len(added)
        self.model |= added

    @rule(user=st.integers(0, 1))
    def reopen(self, user: int) -> None:
        self.users[user] = open_space(self.folder)

    @rule(user=st.integers(0, 1))
    def refresh(self, user: int) -> None:
        self.users[user].refresh()

    @rule(user=st.integers(0, 1))
    def optimise(self, user: int) -> None:
        self.users[user].optimise()

    @rule(place=st.floats(0, 1, exclude_max=True), how=st.sampled_from(["flip", "truncate", "remove"]))
    def damage_index(self, place: float, how: str) -> None:
        """And open it again: an index is read when a space is opened."""
        for path in sorted(self.folder.glob("spaces/*/index/*.idx")):
            content = bytearray(path.read_bytes())
            position = int(place * len(content))
            content[position] ^= 0x40
            path.unlink()
            if how != "remove":
                path.write_bytes(content if how == "flip" else content[:position])
        self.users = [open_space(self.folder), open_space(self.folder)]

    @rule(user=st.integers(0, 1), wanted=key_lists)
    def read(self, user: int, wanted: list[bytes]) -> None:
        absent = [key for key in wanted if key not in self.model]
        if absent:
            with pytest.raises(MissingEmbeddingError) as caught:
                self.users[user].read(key_array(wanted))
            assert caught.value.missing == [key_text(key) for key in absent]
        else:
            read = self.users[user].read(key_array(wanted))
            assert [vector.tobytes() for vector in read] == [self.model[key] for key in wanted]

    @rule(user=st.integers(0, 1), wanted=key_lists)
    def ask(self, user: int, wanted: list[bytes]) -> None:
        space = self.users[user]
        space.refresh()
        present = np.array([key in self.model for key in wanted], bool)
        keys = key_array(wanted)
        assert np.array_equal(space.contains(keys), present)
        assert np.array_equal(space.missing(keys), keys[~present])
        assert [key in space for key in wanted] == present.tolist()
        assert [key_text(key) in space for key in wanted] == present.tolist()

    @invariant()
    def holds_the_same_keys(self) -> None:
        if hasattr(self, "users"):
            space = open_space(self.folder)
            assert len(space) == len(self.model)
            listed = space.keys()
            assert [key.tobytes() for key in listed] == sorted(self.model)
            if self.model:
                keys = key_array(list(self.model))
                assert space.read(keys).tobytes() == b"".join(self.model.values())


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=15,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=examples < 100,
    )


def test_a_space_behaves_like_a_dictionary_that_keeps_first_values() -> None:
    run_state_machine_as_test(SpaceMachine, settings=_settings(25))


@pytest.mark.slow
def test_a_space_behaves_like_a_dictionary_in_many_histories() -> None:
    run_state_machine_as_test(SpaceMachine, settings=_settings(500))


@pytest.fixture(params=LAYOUTS)
def space(request: pytest.FixtureRequest, tmp_path: Path) -> Space:
    return new_space(tmp_path, request.param)


def test_hundreds_of_segments_need_few_open_files(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    space = new_space(tmp_path, "zarr")
    keys = sample_keys(range(100))
    for row in range(len(keys)):
        space.append(EmbeddingBatch(keys[row : row + 1], right_vectors(keys[row : row + 1], space.recipe)))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (held + 275, limits[1]))
    try:
        space = open_space(tmp_path)
        assert np.array_equal(space.read(keys), right_vectors(keys, space.recipe))
        space.optimise()
        space = open_space(tmp_path)
        assert np.array_equal(space.read(keys[::-1]), right_vectors(keys[::-1], space.recipe))
        assert len(space) == len(space.keys()) == len(keys)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_long_run_of_appends_publishes_its_index_by_itself(tmp_path: Path) -> None:
    space = new_space(tmp_path, "hdf5")
    keys = sample_keys(range(70))
    for row in range(len(keys)):
        space.append(EmbeddingBatch(keys[row : row + 1], right_vectors(keys[row : row + 1], space.recipe)))
    assert len(list(tmp_path.glob("spaces/*/index/*.idx"))) == 1
    for some in (space, open_space(tmp_path)):
        assert np.array_equal(some.read(keys), right_vectors(keys, some.recipe))


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_in_any_memory_order_are_stored(space: Space, order: Any) -> None:
    keys = np.array(sample_keys(range(9)), order=order)
    vectors = np.array(right_vectors(keys, space.recipe), order=order)
    space.append(EmbeddingBatch(keys[::2], vectors[::2]))
    space.append(EmbeddingBatch(keys[::-1], vectors[::-1]))
    assert np.array_equal(space.read(keys), vectors)
    assert np.array_equal(space.read(np.array(keys[::-1], order=order)), vectors[::-1])


def test_an_empty_request_gives_an_empty_array(space: Space) -> None:
    nothing: Keys = np.zeros((0, 24), np.uint8)
    for _ in range(2):
        assert space.read(nothing).shape == (0, 4)
        assert space.read(nothing).dtype == np.float32
        assert space.missing(nothing).shape == (0, 24)
        assert space.append(EmbeddingBatch(nothing, np.zeros((0, 4), np.float32))) == 0
        space.append(EmbeddingBatch(sample_keys([1]), right_vectors(sample_keys([1]), space.recipe)))


def test_what_is_read_is_the_callers_own(space: Space) -> None:
    keys = sample_keys(range(3))
    right = right_vectors(keys, space.recipe)
    space.append(EmbeddingBatch(keys, right))
    space.read(keys)[:] = 0
    assert np.array_equal(space.read(keys), right)
    space.keys()[:] = 0
    assert space.contains(keys).all()
