"""samples.tsv is read back as it was written, and says where it is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedstore.errors import InputError
from embedstore.identity import key_array, sequence_key
from embedstore.samples.table import COLUMNS, Sample, SampleBatch, SampleWriter, read_samples

ROWS = [
    Sample("a:1-9:+1", "a", "g", "virus", 1, 9, "+", 1, sequence_key(b"ACGACGACG"), sequence_key(b"TTT")),
    Sample("ä|b:4-9:-3", "ä|b", "g", "", 4, 9, "-", 3, sequence_key(b"ACGACG"), sequence_key(b"TT")),
    Sample("c:1-3:+1", "c", "h", "other", 1, 3, "+", 1, sequence_key(b"ACG"), sequence_key(b"T")),
]


def batch_of(rows: list[Sample]) -> SampleBatch:
    sample, source, group, label, start, end, strand, frame, dna, protein = zip(*rows, strict=True)
    numbers = [np.array(column, dtype=np.int64) for column in (start, end, frame)]
    return SampleBatch(
        sample, source, group, label, numbers[0], numbers[1], strand, numbers[2], key_array(dna), key_array(protein)
    )


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "samples.tsv"
    with path.open("wb") as stream:
        writer = SampleWriter(stream)
        writer.write(batch_of(ROWS[:2]))
        writer.write(batch_of(ROWS[2:]))
    return path


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 1000])
def test_rows_are_read_back(table: Path, batch_rows: int) -> None:
    batches = list(read_samples(table, batch_rows))

    assert [row for batch in batches for row in batch.rows()] == ROWS
    assert max(map(len, batches)) <= batch_rows


def test_the_first_line_names_the_columns(table: Path) -> None:
    assert table.read_text(encoding="utf-8").splitlines()[0].split("\t") == list(COLUMNS)


def test_columns_are_found_by_name_among_others_in_any_order(table: Path) -> None:
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()]
    table.write_text("".join("\t".join(["more", *reversed(row)]) + "\r\n" for row in rows), encoding="utf-8")

    assert [row for batch in read_samples(table) for row in batch.rows()] == ROWS


def test_a_table_without_rows_has_no_batch(tmp_path: Path) -> None:
    with (tmp_path / "empty.tsv").open("wb") as stream:
        SampleWriter(stream)
    assert list(read_samples(tmp_path / "empty.tsv")) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("protein_key\n", "protein\n", "found a first line without protein_key"),
        ("\t4\t9\t", "\tfour\t9\t", "line 3: expected a whole number as start, found 'four'"),
        ("\t4\t9\t-", "\t4\t9\tminus", r"line 3: expected \+ or - as the strand, found 'minus'"),
        ("\t4\t9\t-\t3", "\t4\t9", "line 3: expected at least 10 fields, found 8"),
        ("\t4\t9\t", "\t" + "9" * 5000 + "\t9\t", "line 3: expected a whole number as start, found '99"),
        ("\t4\t9\t", "\t4\t" + "9" * 20 + "\t", "line 3: expected a whole number as end, found '99"),
        ("\tSQ.", "\tSX.", "line 2: expected SQ. and 32 base64url characters as dna_key"),
    ],
)
def test_a_malformed_table_is_refused_with_its_line(table: Path, old: str, new: str, message: str) -> None:
    table.write_text(table.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        list(read_samples(table))


def test_a_key_with_invalid_characters_is_refused(table: Path) -> None:
    text = table.read_text(encoding="utf-8")
    key = text.index("SQ.") + 5
    table.write_text(text[:key] + "=" + text[key + 1 :], encoding="utf-8")
    with pytest.raises(InputError, match="expected base64url characters as dna_key in lines 2 to 4"):
        list(read_samples(table))


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, message in (("absent", "No such file"), ("binary", "expected UTF-8")):
        with pytest.raises(InputError, match=message):
            list(read_samples(tmp_path / name))


def test_columns_of_different_lengths_are_refused() -> None:
    batch = batch_of(ROWS)
    with pytest.raises(InputError, match="expected columns of one length"):
        SampleBatch(
            batch.samples[:2],
            batch.sources,
            batch.groups,
            batch.labels,
            batch.starts,
            batch.ends,
            batch.strands,
            batch.frames,
            batch.dna_keys,
            batch.protein_keys,
        )


def test_names_with_any_character_are_read_back_and_break_no_row(tmp_path: Path) -> None:
    names = ["a\x1b[2J", "b\tc\nd\r", "\\x41", "C:\\temp\\x", "e\u2028\x85\0f", "\u202eg"]
    written = [ROWS[0]._replace(sample=name, source=name, group=name, label=name) for name in names]
    with (tmp_path / "samples.tsv").open("wb") as stream:
        SampleWriter(stream).write(batch_of(written))
    assert [row for batch in read_samples(tmp_path / "samples.tsv") for row in batch.rows()] == written
    text = (tmp_path / "samples.tsv").read_text(encoding="utf-8")
    assert len(text.splitlines()) == len(names) + 1
    assert "\x1b" not in text
    assert "C:\\temp\\x\t" in text  # an ordinary name stays as it is
