"""Looking keys up: how they may be given, and how short the way to the bytes is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from store.sample_rows import LAYOUTS, assert_right, new_space, open_space, right_vectors, sample_batch, sample_keys

import embedstore
from embedstore.errors import InputError, MissingEmbeddingError
from embedstore.identity import key_text
from embedstore.storage.local import LocalStorage
from embedstore.storage.protocol import Entry
from embedstore.store import SegmentFormat, Space

KEYS = sample_keys(range(30))
MOST_FRAMES = 6


@pytest.fixture
def space(tmp_path: Path) -> Space:
    made = new_space(tmp_path, "zarr")
    made.append(sample_batch(KEYS, made.recipe))
    return made


GIVEN: dict[str, Callable[[], object]] = {
    "texts": lambda: [key_text(key.tobytes()) for key in KEYS],
    "hexadecimal": lambda: [key.tobytes().hex() for key in KEYS],
    "bytes": lambda: [key.tobytes() for key in KEYS],
    "rows": lambda: list(KEYS),
    "tuple of all kinds": lambda: (
        key_text(KEYS[0].tobytes()),
        KEYS[1].tobytes().hex().upper(),
        KEYS[2].tobytes(),
        *KEYS[3:],
    ),
    "iterator": lambda: (key.tobytes() for key in KEYS),
    "array of texts": lambda: np.array([key_text(key.tobytes()) for key in KEYS]),
}


@pytest.mark.parametrize("way", GIVEN)
def test_keys_are_taken_as_text_bytes_or_array(space: Space, way: str) -> None:
    expected = right_vectors(KEYS, space.recipe)
    np.testing.assert_array_equal(space.read(GIVEN[way]()), expected)  # type: ignore[arg-type]
    assert space.contains(GIVEN[way]()).all()  # type: ignore[arg-type]
    assert space.missing(GIVEN[way]()).shape == (0, 24)  # type: ignore[arg-type]
    assert len(space.sources(GIVEN[way]())) == len(KEYS)  # type: ignore[arg-type]


def test_one_key_is_in_a_space_or_not(space: Space) -> None:
    there, other = KEYS[3].tobytes(), sample_keys([99])[0].tobytes()
    for key in (there, key_text(there), there.hex(), KEYS[3]):
        assert key in space
    for key in (other, key_text(other), other.hex()):
        assert key not in space
    np.testing.assert_array_equal(space.missing([there, other]), sample_keys([99]))


def test_no_keys_are_an_empty_array(space: Space) -> None:
    assert space.read([]).shape == (0, space.dim)
    assert space.contains([]).shape == (0,)
    assert space.missing(np.empty((0, 24), np.uint8)).shape == (0, 24)


KEY = KEYS[0].tobytes()


@pytest.mark.parametrize(
    "given",
    [
        key_text(KEY),
        KEY,
        KEY.hex(),
        {key_text(KEY)},
        {key_text(KEY): 1},
        None,
        5,
        [5],
        [KEY, None],
        [KEY[:-1]],
        [key_text(KEY).encode()],
        ["MKTAYIAKQR"],
        [KEY.hex()[:-2]],
        [key_text(KEY)[3:]],
        [KEYS],
        KEYS[0],
        KEYS.astype(np.int64),
        KEYS[:, :23],
        KEYS.tobytes(),
        np.array([KEY]),  # NumPy strips the zeros at the end of such texts
    ],
    ids=repr,
)
def test_what_is_not_keys_or_could_be_meant_in_two_ways_is_refused(space: Space, given: object) -> None:
    for ask in (space.read, space.contains, space.missing):
        with pytest.raises(InputError, match=r"expected .*(keys|SQ\.)"):
            ask(given)  # type: ignore[arg-type]


def test_what_is_not_a_key_is_not_looked_for_in_a_space(space: Space) -> None:
    for key in (None, 5, b"short", "MKV", KEYS):
        with pytest.raises(InputError):
            _ = key in space


def frames_below(call: Callable[[], object]) -> int:
    """Count how deep Python's own frames lie at most, of any library, the function's own included."""
    depth = deepest = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal depth, deepest
        if event == "call":
            depth += 1
            deepest = max(deepest, depth)
        elif event == "return":
            depth -= 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(before)
    return deepest - 1  # without the lambda


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_bytes_of_a_segment_are_at_most_six_frames_below_a_look_up(
    tmp_path: Path, layout: SegmentFormat, merged: bool
) -> None:
    made = new_space(tmp_path, layout)
    for start in range(0, 30, 10):
        made.append(sample_batch(KEYS[start : start + 10], made.recipe))
    if merged:
        made._publish_index(made._live.current.merged_index())
    space = open_space(tmp_path)
    assert_right(space, KEYS)
    assert (space._live.current.base is not None) == merged
    one = KEYS[14:15]
    assert frames_below(lambda: space.contains(one)) <= MOST_FRAMES
    assert frames_below(lambda: space.read(one)) <= MOST_FRAMES


class CountingStorage(LocalStorage):
    """A folder that counts how often the commits are listed."""

    listed = 0

    def list(self, folder: str) -> list[Entry]:
        self.listed += folder.endswith("commits/")
        return super().list(folder)


def test_a_look_up_lists_the_commits_of_a_space_once(tmp_path: Path, space: Space) -> None:
    other = sample_keys([99])
    for ask in (lambda each: each.contains(KEYS), lambda each: each.read(KEYS), lambda each: len(each)):
        storage = CountingStorage(tmp_path)
        opened = open_space(storage)
        ask(opened)
        ask(opened)
        assert storage.listed == 1
    storage = CountingStorage(tmp_path)
    opened = open_space(storage)
    for times in (
        1,
        2,
    ):  # what was listed for this very question is not listed again; later somebody may have filled it
        with pytest.raises(MissingEmbeddingError):
            opened.read(other)
        assert storage.listed == times


def test_a_file_that_was_truncated_is_seen_by_its_own_size_whatever_has_its_name_now(
    tmp_path: Path, space: Space
) -> None:
    assert_right(space, KEYS)
    files = [path for path in tmp_path.glob("spaces/*/data/**/*") if path.is_file() and path.stat().st_size > 64]
    for path in files:  # another, shorter file under each name: what is mapped stays whole
        shorter = path.with_name("other")
        shorter.write_bytes(path.read_bytes()[:9])
        shorter.replace(path)
    assert_right(space, KEYS)
    with pytest.raises(embedstore.CorruptStoreError, match=r"expected .* bytes, found 9"):
        open_space(tmp_path).read(KEYS)
