"""FASTQ: records by place, rejection of malformed ones, and going on behind them."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedstore.records import Record, Rejection
from embedstore.sequences import read

GOOD = b"@good one\nACGT\n+\nIIII\n"


def _read(tmp_path: Path, text: bytes) -> list[Record | Rejection]:
    path = tmp_path / "input.fastq"
    path.write_bytes(text)
    return [item._replace(file="f") for item in read([path])]


def test_records_are_read_with_the_line_of_their_header(tmp_path: Path) -> None:
    text = b"\n@a x\nACGT\n+a x\nIIII\n@b\nAC\n+\nII"
    assert _read(tmp_path, text) == [Record("a", b"ACGT", "f", 2), Record("b", b"AC", "f", 6)]


def test_quality_lines_may_begin_like_headers(tmp_path: Path) -> None:
    text = b"@a\nACGT\n+\n@III\n@b\nACGT\n+\n+III\n@c\nAC\n+\n@+\n"
    assert [(item.id, item.line) for item in _read(tmp_path, text)] == [("a", 1), ("b", 5), ("c", 9)]


def test_blank_lines_between_records_are_skipped(tmp_path: Path) -> None:
    assert [item.line for item in _read(tmp_path, GOOD + b"\n\n" + GOOD + b"\n")] == [1, 7]


def test_empty_header_gives_an_empty_id(tmp_path: Path) -> None:
    assert _read(tmp_path, b"@\nAC\n+\nII\n") == [Record("", b"AC", "f", 1)]


@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_read_of_length_zero_is_rejected_as_empty(tmp_path: Path, ending: bytes) -> None:
    text = GOOD + b"@none\n\n+\n\n" + GOOD + b"@last\n\n+\n" + ending
    assert [(item.id, item.line) for item in _read(tmp_path, text)] == [
        ("good", 1),
        ("none", 5),
        ("good", 9),
        ("last", 13),
    ]
    assert [item.reason for item in _read(tmp_path, text)[1::2]] == ["empty record: no sequence"] * 2


@pytest.mark.parametrize(
    ("malformed", "reason"),
    [
        (b"@bad\nACGT\nIIII\n", "expected '+' two lines below its header, found 'IIII'"),
        (b"@bad\nACGT\n@III\n", "expected '+' two lines below its header, found '@III'"),
        (b"@bad\nACGT\n+\nIII\n", "expected 4 quality scores, one a base, found 3"),
        (b"@bad\nACGT\n+\n@III@\n", "expected 4 quality scores, one a base, found 5"),
        (b"@bad\nACGTACGT\n+\n", "expected 8 quality scores, one a base, found 9"),
        (b"@bad\n+\nIIII\n", "expected '+' two lines below its header, found 'IIII'"),
        (b"@bad\nACGT\nACGT\n+\nIIII\nIIII\n", "expected '+' two lines below its header, found 'ACGT'"),
    ],
)
def test_malformed_record_is_rejected_and_the_next_one_read(tmp_path: Path, malformed: bytes, reason: str) -> None:
    items = _read(tmp_path, GOOD + malformed + GOOD + GOOD)
    next_line = 5 + malformed.count(b"\n")
    assert items == [
        Record("good", b"ACGT", "f", 1),
        Rejection("f", 5, "bad", f"malformed FASTQ record: {reason}; reading went on at line {next_line}"),
        Record("good", b"ACGT", "f", next_line),
        Record("good", b"ACGT", "f", next_line + 4),
    ]


def test_record_without_header_is_rejected(tmp_path: Path) -> None:
    items = _read(tmp_path, GOOD + b"ACGT\n+\nIIII\n" + GOOD)
    assert [type(item) for item in items] == [Record, Rejection, Record]
    assert items[1] == Rejection(
        "f",
        5,
        "",
        "malformed FASTQ record: expected a header that begins with '@', found 'ACGT'; reading went on at line 8",
    )


def test_neighbouring_malformed_records_are_rejected_one_by_one(tmp_path: Path) -> None:
    items = _read(tmp_path, b"@x\nACGT\nIIII\n@y\nAC\n+\nI\n@z\nAC\n+\nIII\n" + GOOD)
    assert [(type(item), item.id, item.line) for item in items] == [
        (Rejection, "x", 1),
        (Rejection, "y", 4),
        (Rejection, "z", 8),
        (Record, "good", 12),
    ]


def test_malformed_end_is_rejected_once(tmp_path: Path) -> None:
    items = _read(tmp_path, GOOD + b"@bad\nACGT\nIIII\nAC\nGT\n")
    assert [(type(item), item.line) for item in items] == [(Record, 1), (Rejection, 5)]
    assert "no further record was found" in items[1].reason


@pytest.mark.parametrize("size", range(len(GOOD) + 1, 2 * len(GOOD) - 1))
def test_file_that_ends_within_a_record_rejects_it(tmp_path: Path, size: int) -> None:
    first, rejected = _read(tmp_path, (GOOD + GOOD)[:size])
    assert (type(first), type(rejected), rejected.line) == (Record, Rejection, 5)


@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"])
def test_other_line_ends(tmp_path: Path, line_end: bytes) -> None:
    assert _read(tmp_path, (GOOD + GOOD).replace(b"\n", line_end)) == _read(tmp_path, GOOD + GOOD)
