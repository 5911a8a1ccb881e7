"""Which requests fetch which rows, and what is kept of small files."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.errors import CorruptStoreError
from embedstore.storage.protocol import Blob
from embedstore.storage.ranges import KEPT_FILE_BYTES, KeptFiles, RangedBlob, RangeReader, coalesced


def never(name: str, size_bytes: int) -> Blob:
    """For servers that know ranges."""
    raise AssertionError(name)


@given(
    st.lists(st.integers(0, 3000), max_size=200),
    st.integers(1, 40),
    st.integers(0, 500),
    st.integers(1, 2000),
    st.integers(0, 99),
)
def test_requests_cover_every_wanted_row_and_little_else(
    numbers: list[int], row_bytes: int, gap_bytes: int, request_bytes: int, start: int
) -> None:
    rows = np.array(sorted(numbers), np.int64)
    ranges = list(coalesced(rows, row_bytes, start, gap_bytes=gap_bytes, request_bytes=request_bytes))
    assert [wanted.first for wanted in ranges] == [0, *(wanted.stop for wanted in ranges)][: len(ranges)]
    assert (ranges[-1].stop if ranges else 0) == len(rows)
    for wanted in ranges:
        here = rows[wanted.first : wanted.stop]
        assert wanted.start == start + here[0] * row_bytes
        assert wanted.start + wanted.length == start + (here[-1] + 1) * row_bytes
        assert wanted.length <= request_bytes + row_bytes
        assert (np.diff(here) <= 1 + gap_bytes / row_bytes).all()


def test_rows_far_apart_are_requested_apart() -> None:
    rows = np.array([0, 1, 5, 1000, 1001])
    found = list(coalesced(rows, 10, gap_bytes=30, request_bytes=1 << 20))
    assert [(wanted.start, wanted.length) for wanted in found] == [(0, 60), (10_000, 20)]
    one_more = list(coalesced(rows, 10, gap_bytes=29, request_bytes=1 << 20))
    assert [(wanted.start, wanted.length) for wanted in one_more] == [(0, 20), (50, 10), (10_000, 20)]


def test_small_files_are_kept_up_to_a_number_of_bytes() -> None:
    kept = KeptFiles(most_bytes=10)
    for name in "abc":
        kept.put(name, np.zeros(4, np.uint8))
    assert [name for name in "abc" if kept.get(name) is not None] == ["b", "c"]
    kept.get("b")
    kept.put("d", np.zeros(6, np.uint8))
    assert [name for name in "bcd" if kept.get(name) is not None] == ["b", "d"]
    kept.put("huge", np.zeros(11, np.uint8))
    assert [name for name in ("b", "d", "huge") if kept.get(name) is not None] == []


@pytest.mark.parametrize("extra", [0, 1])
def test_a_small_file_is_fetched_once_and_a_large_one_in_ranges(extra: int) -> None:
    content = np.random.default_rng(0).integers(0, 256, KEPT_FILE_BYTES + extra, dtype=np.uint8)
    asked: list[tuple[int, int]] = []

    def fetch(name: str, start: int, length: int) -> np.ndarray:
        asked.append((start, length))
        return content[start : start + length]

    reader = RangeReader(fetch, lambda name, size: fetch(name, 0, size), never)
    blob = RangedBlob(reader, "name", len(content))
    rows = np.array([5, 1, 5])
    for _ in range(2):
        assert np.array_equal(blob.rows(3, 10, rows), content[3:].copy()[: 10 * 6].reshape(-1, 10)[rows])
        assert blob.bytes(7, 2).tobytes() == content[7:9].tobytes()
    assert asked == [(0, len(content))] if extra == 0 else [(13, 50), (7, 2)] * 2


def test_rows_and_bytes_beyond_the_end_are_refused() -> None:
    blob = RangedBlob(
        RangeReader(lambda *_: np.zeros(0, np.uint8), lambda *_: np.zeros(0, np.uint8), never), "name", 100
    )
    with pytest.raises(IndexError, match="has 10 rows"):
        blob.rows(0, 10, np.array([10]))
    with pytest.raises(CorruptStoreError, match="ends at byte 100"):
        blob.bytes(90, 11)
