"""Damage of any one file of a small store: what is read is right, or raises; `verify(deep=True)` says which file."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from sample_rows import (
    LAYOUTS,
    files_of,
    new_space,
    open_space,
    right_vectors,
    sample_batch,
    sample_keys,
    sample_recipe,
)

from embedstore.errors import EmbedStoreError, MissingEmbeddingError
from embedstore.storage.local import LocalStorage
from embedstore.store import Space, SpaceStore
from embedstore.store.segment_files import as_strings
from embedstore.store.verification import verify

KEYS = sample_keys(range(7))
RIGHT = right_vectors(KEYS, sample_recipe())
UNKNOWN_KEYS = sample_keys(range(100, 103))


@pytest.fixture(scope="module", params=LAYOUTS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two segments of 4 and 3 rows; an index covers the first."""
    place = tmp_path_factory.mktemp("store")
    space = new_space(place, request.param)
    space.append(sample_batch(KEYS[:4], space.recipe))
    space.optimise()
    space.append(sample_batch(KEYS[4:], space.recipe))
    return place


@contextmanager
def content_changed(path: Path, content: bytes) -> Iterator[None]:
    """Change a file in place, so that a process that has it mapped sees it; afterwards it is as it was."""
    right = path.read_bytes()

    def put(content: bytes) -> None:
        with path.open("r+b") as file:
            file.truncate(len(content))
            file.write(content)

    put(content)
    try:
        yield
    finally:
        put(right)


@contextmanager
def removed(path: Path) -> Iterator[None]:
    """Take a file out of the store; afterwards it is back."""
    with tempfile.TemporaryDirectory(dir=place_of(path).parent) as folder:
        aside = Path(folder) / path.name
        path.rename(aside)
        try:
            yield
        finally:
            aside.rename(path)


def assert_right_or_raises(space: Space) -> bool:
    """Try to be given a wrong row; return whether everything could be read."""
    whole = True
    try:
        assert space.read(KEYS).tobytes() == RIGHT.tobytes()
    except EmbedStoreError:
        whole = False
        for key, right in zip(KEYS[:, None], RIGHT, strict=True):
            with suppress(EmbedStoreError):
                assert space.read(key).tobytes() == right.tobytes()
    assert_listed_keys_are_right_or_raise(space)
    try:
        assert not space.contains(UNKNOWN_KEYS).any()
    except EmbedStoreError:
        whole = False
    return whole


def assert_listed_keys_are_right_or_raise(space: Space) -> None:
    """A key that is damaged on disk must not be handed out together with a vector."""
    try:
        listed = space.keys()
        len(space)
    except EmbedStoreError:
        return
    unheard_of = ~np.isin(as_strings(listed), as_strings(KEYS))
    for key in listed[unheard_of, None]:
        with pytest.raises(EmbedStoreError):
            space.read(key)


def assert_fresh_open_is_right_or_raises(place: Path) -> bool:
    try:
        space = open_space(place)
    except EmbedStoreError:
        return False
    return assert_right_or_raises(space)


def place_of(path: Path) -> Path:
    return next(folder for folder in path.parents if folder.name.startswith("store"))


def flipped(content: bytes, position: int, flip: int) -> bytes:
    return content[:position] + bytes([content[position] ^ flip]) + content[position + 1 :]


def truncations(content: bytes) -> Iterable[bytes]:
    return {content[:size] for size in (0, len(content) // 2, len(content) - 1)}


def problem_files(place: Path) -> set[str]:
    """What a deep check names, also where the store cannot be opened."""
    return {problem.file for problem in verify(LocalStorage(place), deep=True).problems}


def data_places(place: Path) -> set[tuple[str, int]]:
    """(file, position) of every byte that a row, its key or its checksum lies in."""
    widths = {"key": 24, "vectors": 16, "row_crc": 4}
    places = set()
    for commit in place.glob("spaces/*/commits/*.json"):
        for array, parts in json.loads(commit.read_bytes())["arrays"].items():
            for part in parts:
                file = str(commit.parent.parent / part["file"])
                stop = part["offset"] + part["rows"] * widths[array]
                places |= {(file, position) for position in range(part["offset"], stop)}
    return places


def commits_by_age(place: Path) -> list[Path]:
    return sorted(place.glob("spaces/*/commits/*.json"), key=lambda path: json.loads(path.read_bytes())["created_ns"])


def positions_to_flip(place: Path, path: Path, *, rows_step: int, rest_step: int) -> list[int]:
    """Every `rows_step`-th byte of rows, every `rest_step`-th of the rest of the file, and its last."""
    size = path.stat().st_size
    of_rows = sorted(position for file, position in data_places(place) if file == str(path))
    return sorted({*of_rows[::rows_step], *range(0, size, rest_step), size - 1})


def sweep_flips(place: Path, *, rest_step: int, flips: Sequence[int]) -> None:
    for path in files_of(place):
        content = path.read_bytes()
        for position in positions_to_flip(place, path, rows_step=1, rest_step=rest_step):
            for flip in flips:
                with content_changed(path, flipped(content, position, flip)):
                    assert_fresh_open_is_right_or_raises(place)
                    assert str(path.relative_to(place)) in problem_files(place), (path, position, flip)


def test_a_flipped_byte_gives_right_rows_or_raises_and_is_found(place: Path) -> None:
    sweep_flips(place, rest_step=97, flips=[0xFF])


@pytest.mark.slow
def test_every_flipped_byte_gives_right_rows_or_raises_and_is_found(place: Path) -> None:
    sweep_flips(place, rest_step=1, flips=[0xFF, 0x01])


def test_a_truncated_file_gives_right_rows_or_raises_and_is_found(place: Path) -> None:
    for path in files_of(place):
        for content in truncations(path.read_bytes()):
            with content_changed(path, content):
                assert_fresh_open_is_right_or_raises(place)
                assert str(path.relative_to(place)) in problem_files(place), (path, len(content))


def test_a_removed_file_gives_right_rows_or_raises_and_is_found(place: Path) -> None:
    for path in files_of(place):
        name = str(path.relative_to(place))
        with removed(path):
            whole = assert_fresh_open_is_right_or_raises(place)
            problems = problem_files(place)
        if path.suffix == ".idx":
            assert whole
            assert problems == set()  # derived
        elif path != commits_by_age(place)[1]:  # that one no index names; see the next test
            assert name in problems


def test_a_removed_commit_is_found_by_the_index_that_names_it_or_leaves_orphans(place: Path) -> None:
    for path, indexed in zip(commits_by_age(place), (True, False), strict=True):
        with removed(path):
            report = SpaceStore.open(place).verify(deep=True)
        assert ([problem.file for problem in report.problems] == [str(path.relative_to(place))]) == indexed
        nonce = json.loads(path.read_bytes())["nonce"]
        assert report.orphans
        assert all(nonce in orphan for orphan in report.orphans)


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "pread"])
@pytest.mark.parametrize("used", [True, False], ids=["after_reading", "before_reading"])
def test_an_open_space_gives_right_rows_or_raises_when_files_are_damaged(place: Path, mapped: bool, used: bool) -> None:
    for path in files_of(place):
        content = path.read_bytes()
        flips = [
            flipped(content, position, 0xFF) for position in positions_to_flip(place, path, rows_step=9, rest_step=499)
        ]
        for damage in (*truncations(content), *flips):
            space = open_space(LocalStorage(place, mapped=mapped))
            len(space)
            if used:
                assert assert_right_or_raises(space)
            with content_changed(path, damage):
                assert_right_or_raises(space)


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "pread"])
@pytest.mark.parametrize("used", [True, False], ids=["after_reading", "before_reading"])
def test_an_open_space_gives_right_rows_or_raises_when_files_are_removed(place: Path, mapped: bool, used: bool) -> None:
    for path in files_of(place):
        space = open_space(LocalStorage(place, mapped=mapped))
        len(space)
        if used:
            assert assert_right_or_raises(space)
        with removed(path):
            assert_right_or_raises(space)
            try:
                space.refresh()
            except EmbedStoreError:
                continue
            assert_right_or_raises(space)


def test_a_segment_that_vanishes_with_its_commit_is_missing_not_garbage(place: Path) -> None:
    space = open_space(place)
    assert space.contains(KEYS).all()
    newest = commits_by_age(place)[-1]
    arrays = json.loads(newest.read_bytes())["arrays"]
    with removed(newest), removed(newest.parent.parent / arrays["vectors"][0]["file"]):
        for wanted in (KEYS, KEYS[4:]):
            with pytest.raises(MissingEmbeddingError, match="does not have 3 of"):
                open_space(place).read(wanted)
            if arrays["vectors"][0]["file"].endswith(".h5"):  # one file, and it is open: still readable
                assert space.read(wanted).tobytes() == right_vectors(wanted, space.recipe).tobytes()
            else:
                with pytest.raises(MissingEmbeddingError, match="does not have 3 of"):
                    space.read(wanted)


def test_two_damaged_files_are_both_reported(place: Path) -> None:
    first, second = [path for path in files_of(place) if "data/" in str(path)][:2]
    with content_changed(first, b""), removed(second):
        assert problem_files(place) == {str(first.relative_to(place)), str(second.relative_to(place))}


def test_a_folder_in_place_of_a_file_is_a_problem_not_an_error(place: Path) -> None:
    for path in files_of(place):
        with removed(path):
            problems_when_removed = problem_files(place)
            path.mkdir()
            try:
                assert_fresh_open_is_right_or_raises(place)
                assert problem_files(place) == problems_when_removed
            finally:
                path.rmdir()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_a_problem_not_an_error(place: Path) -> None:
    for path in files_of(place):
        mode = path.stat().st_mode
        path.chmod(0)
        try:
            assert_fresh_open_is_right_or_raises(place)
            problems = problem_files(place)
        finally:
            path.chmod(mode)
        assert str(path.relative_to(place)) in problems


def test_shallow_verify_misses_flipped_rows_and_finds_what_is_missing(place: Path) -> None:
    vectors = place / next(iter(sorted(file for file, _ in data_places(place))))
    content = vectors.read_bytes()
    position = next(position for file, position in sorted(data_places(place)) if file == str(vectors))
    with content_changed(vectors, flipped(content, position, 1)):
        assert SpaceStore.open(place).verify().clean
        assert not SpaceStore.open(place).verify(deep=True).clean
    with content_changed(vectors, content[:-1]):
        assert not SpaceStore.open(place).verify().clean


def test_the_undamaged_store_is_clean(place: Path) -> None:
    report = SpaceStore.open(place).verify(deep=True)
    assert report.problems == []
    assert report.orphans == []
    assert report.checked_files == len(files_of(place))
    assert report.checked_bytes == sum(path.stat().st_size for path in files_of(place))
    assert np.array_equal(open_space(place).keys(), KEYS[np.lexsort(KEYS.T[::-1])])
