"""What reading makes of the oddities of FASTA."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedstore.records import Record, Rejection
from embedstore.sequences import read


def _read(tmp_path: Path, text: bytes) -> list[Record | Rejection]:
    path = tmp_path / "input.fasta"
    path.write_bytes(text)
    return [item._replace(file="f") for item in read([path])]


def test_read_yields_id_raw_sequence_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "two.faa"
    path.write_bytes(b">a first one\nMK\nV\n>b\nAC\n")
    assert list(read([path])) == [
        Record("a", b"MK\nV", str(path), 1),
        Record("b", b"AC", str(path), 4),
    ]


def test_read_takes_inputs_in_order(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).write_bytes(b">%s\nMK\n" % name.encode())
    assert [record.id for record in read([tmp_path / "b", str(tmp_path / "a"), tmp_path / "b"])] == ["b", "a", "b"]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("last", [b"", b"\n", b"\n\n\n"])
def test_line_ends_of_every_kind_give_the_same_records(tmp_path: Path, line_end: bytes, last: bytes) -> None:
    text = (b">a b\nMK\nVL\n\n>c\nAC" + last).replace(b"\n", line_end)
    first, second = _read(tmp_path, text)
    assert (first.id, first.sequence.split(), first.line) == ("a", [b"MK", b"VL"], 1)
    assert (second.id, second.sequence.split(), second.line) == ("c", [b"AC"], 5)


def test_blank_and_comment_lines_before_the_first_header_are_skipped_and_counted(tmp_path: Path) -> None:
    assert _read(tmp_path, b"\n  \n# one\n;two\n\n>a\nMK\n") == [Record("a", b"MK", "f", 6)]


def test_comment_lines_within_and_between_records_are_dropped(tmp_path: Path) -> None:
    text = b">a\n# c\nMK\n;c >x\nVL\n#c\n>b\nAC;\n; last"
    assert _read(tmp_path, text) == [Record("a", b"MK\nVL", "f", 1), Record("b", b"AC;", "f", 7)]


def test_comment_signs_in_headers_and_after_column_one_are_text(tmp_path: Path) -> None:
    text = b">a # 1 # ID=1;partial=00\nMK #L\n>#b\nA\n"
    assert _read(tmp_path, text) == [Record("a", b"MK #L", "f", 1), Record("#b", b"A", "f", 3)]


@pytest.mark.parametrize("header", [b">", b">  ", b">\t"])
def test_empty_header_gives_an_empty_id(tmp_path: Path, header: bytes) -> None:
    assert _read(tmp_path, header + b"\nMK\n>b\nA\n") == [Record("", b"MK", "f", 1), Record("b", b"A", "f", 3)]


def test_id_is_the_first_word_even_behind_blanks(tmp_path: Path) -> None:
    text = b">  a b\nMK\n>c\td e\nA\n>g\x01h i\nA\n"
    assert [record.id for record in _read(tmp_path, text)] == ["a", "c", "g\x01h"]


def test_id_is_utf8_and_invalid_bytes_do_not_stop_reading(tmp_path: Path) -> None:
    text = ">é x\nMK\n".encode() + b">\xff\nA\n"
    assert [record.id for record in _read(tmp_path, text)] == ["é", "�"]


@pytest.mark.parametrize("sequence", [b"", b"\n", b" \t\n\n", b"# only a comment\n"])
def test_record_without_sequence_is_rejected_and_reading_goes_on(tmp_path: Path, sequence: bytes) -> None:
    text = b">a\nMK\n>empty one\n" + sequence + b">b\nAC\n"
    first, rejected, last = _read(tmp_path, text)
    assert rejected == Rejection("f", 3, "empty", "empty record: no sequence behind the header")
    assert (first.id, last.id) == ("a", "b")


@pytest.mark.parametrize("text", [b">last", b">last\n", b">last\n\n"])
def test_last_record_without_sequence_is_rejected(tmp_path: Path, text: bytes) -> None:
    assert [type(item) for item in _read(tmp_path, b">a\nMK\n" + text)] == [Record, Rejection]


def test_duplicate_ids_are_all_read(tmp_path: Path) -> None:
    assert [record.id for record in _read(tmp_path, b">a\nMK\n>a\nMK\n>a\nV\n")] == ["a", "a", "a"]


def test_residues_are_not_judged(tmp_path: Path) -> None:
    assert _read(tmp_path, b">a\nmk-1*\xff\n") == [Record("a", b"mk-1*\xff", "f", 1)]


def test_greater_sign_starts_a_record_in_column_one_only(tmp_path: Path) -> None:
    assert _read(tmp_path, b">a >b\nMK\n >c\nV\n") == [Record("a", b"MK\n >c\nV", "f", 1)]


def test_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    assert _read(tmp_path, b"\xef\xbb\xbf>a\nMK\n") == [Record("a", b"MK", "f", 1)]


@pytest.mark.parametrize(
    "text", [b"", b"\n", b" \n\n\t", b"# c\n", b"; c", b"\xef\xbb\xbf", b"\r\n\r\n", b"#" * 700_000]
)
def test_input_of_only_blanks_and_comments_has_no_records(tmp_path: Path, text: bytes) -> None:
    assert _read(tmp_path, text) == []


def test_preamble_longer_than_a_block_is_skipped(tmp_path: Path) -> None:
    text = b"# comment\n" * 100_000 + b"#" * 1_000_000 + b"\n>a\nMK\n"
    assert _read(tmp_path, text) == [Record("a", b"MK", "f", 100_002)]


def test_record_of_many_blocks_is_read_completely(tmp_path: Path) -> None:
    lines = [b"ACGTTGCA" * 10] * 100_000
    text = b">small\nAC\n>long one\n" + b"\n".join(lines) + b"\n>after\nAC\n"
    small, long, after = _read(tmp_path, text)
    assert (small.line, long.line, after.line) == (1, 3, 100_004)
    assert long.sequence.split() == lines
