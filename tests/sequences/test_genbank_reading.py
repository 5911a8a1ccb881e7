"""GenBank: cut into records here, each parsed on its own."""

from __future__ import annotations

import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from Bio import SeqIO
from Bio.Seq import Seq
from Bio.SeqFeature import SeqFeature, SimpleLocation
from Bio.SeqRecord import SeqRecord

from embedstore.records import Record, Rejection
from embedstore.sequences import read


def _genbank(accession: str, sequence: str, molecule_type: str = "DNA") -> bytes:
    feature = SeqFeature(SimpleLocation(0, 9, strand=1), "CDS", qualifiers={"translation": "MKV"})
    record = SeqRecord(
        Seq(sequence),
        id=f"{accession}.2",
        name=accession,
        description="made for a test",
        features=[feature],
        annotations={"molecule_type": molecule_type},
    )
    with StringIO() as text:
        SeqIO.write(record, text, "genbank")
        return text.getvalue().encode()


A = _genbank("AA000001", "ACGTTGCAAN" * 30)
B = _genbank("BB000002", "GGGTTGCA" * 9)
LINES_OF_A = A.count(b"\n")


def _read(tmp_path: Path, text: bytes) -> list[Record | Rejection]:
    path = tmp_path / "input.gb"
    path.write_bytes(text)
    return [item._replace(file="f") for item in read([path])]


def test_records_have_accession_version_own_sequence_and_line(tmp_path: Path) -> None:
    assert _read(tmp_path, A + b"\n" + B) == [
        Record("AA000001.2", b"ACGTTGCAAN" * 30, "f", 1),
        Record("BB000002.2", b"GGGTTGCA" * 9, "f", LINES_OF_A + 2),
    ]


def test_proteins_are_read_too(tmp_path: Path) -> None:
    (record,) = _read(tmp_path, _genbank("CAA00001", "MKVLAAGIW", "protein"))
    assert (record.id, record.sequence) == ("CAA00001.2", b"MKVLAAGIW")


@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"])
def test_other_line_ends(tmp_path: Path, line_end: bytes) -> None:
    assert _read(tmp_path, (A + B).replace(b"\n", line_end)) == _read(tmp_path, A + B)


def test_no_final_newline(tmp_path: Path) -> None:
    assert _read(tmp_path, (A + B).rstrip(b"\n")) == _read(tmp_path, A + B)


def test_header_of_a_genbank_release_is_skipped(tmp_path: Path) -> None:
    header = b"GBVRL1.SEQ          Genetic Sequence Data Bank\n\n   2 loci\n\n"
    assert [(item.id, item.line) for item in _read(tmp_path, header + A)] == [("AA000001.2", 5)]


def test_record_without_sequence_is_rejected(tmp_path: Path) -> None:
    head, _, _ = A.partition(b"ORIGIN")
    contig = head + b"CONTIG      join(CP000001.1:1..300)\n//\n"
    rejected, record = _read(tmp_path, contig + B)
    assert rejected == Rejection("f", 1, "AA000001.2", "GenBank record without a sequence (no ORIGIN)")
    assert record.id == "BB000002.2"


def test_record_that_cannot_be_parsed_is_rejected_and_reading_goes_on(tmp_path: Path) -> None:
    broken = A.replace(b"        1 acgt", b"        1acgtt")
    rejected, record = _read(tmp_path, broken + B)
    assert (type(rejected), rejected.line, rejected.id) == (Rejection, 1, "AA000001.2")
    assert rejected.reason.startswith("GenBank record cannot be parsed (Biopython: ")
    assert (record.id, record.line) == ("BB000002.2", LINES_OF_A + 1)


def test_record_without_its_end_is_rejected_and_the_next_one_read(tmp_path: Path) -> None:
    rejected, record = _read(tmp_path, A.removesuffix(b"//\n") + B)
    assert (rejected.id, rejected.line) == ("AA000001.2", 1)
    assert rejected.reason == "the record does not end with a line //: the next LOCUS follows"
    assert (record.id, record.line) == ("BB000002.2", LINES_OF_A)


def test_file_cut_off_within_a_record_rejects_it(tmp_path: Path) -> None:
    for size in range(len(A) + len("LOCUS "), len(A + B) - len("//\n"), 7):
        record, rejected = _read(tmp_path, (A + B)[:size])
        assert record.id == "AA000001.2"
        assert (type(rejected), rejected.line) == (Rejection, LINES_OF_A + 1)
        assert rejected.reason == "the record does not end with a line //: the file is cut off"


def test_text_between_records_is_rejected(tmp_path: Path) -> None:
    items = _read(tmp_path, A + b"something else\n//\n" + B)
    assert [type(item) for item in items] == [Record, Rejection, Record]
    assert items[1].line == LINES_OF_A + 1


def test_odd_records_warn_nobody(tmp_path: Path) -> None:
    # Biopython warns of a length that differs from the LOCUS line; warnings are errors in these tests.
    (record,) = _read(tmp_path, A.replace(b" 300 bp", b" 301 bp"))
    assert len(record.sequence) == 300


def test_biopython_is_not_imported_before_a_genbank_record_is_read() -> None:
    code = "import sys, embedstore.sequences; sys.exit(any(name.partition('.')[0] == 'Bio' for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)
