"""Real files: the same ids and sequences as Biopython reads, and the documented result for every odd one."""

from __future__ import annotations

import gzip
import warnings
from io import StringIO
from pathlib import Path

import pytest
from Bio import SeqIO
from Bio.SeqIO.FastaIO import SimpleFastaParser

from embedstore.errors import SequenceFileError
from embedstore.records import Record, Rejection
from embedstore.sequences import read

EDGE_RECORDS = {
    "comment_lines.fasta": 2,
    "crlf_no_final_newline.fasta": 1,
    "crlf_plant_dna.fasta": 1,
    "dup_ids_and_stops.faa": 12,
    "dup_ids_dna.fasta": 2,
    "empty_header_protein.fasta": 5,
    "iupac_N_ambig_bases.fasta": 2,
    "iupac_rhinovirus_9.fa": 1,
    "long_headers_ncbi_nr.faa": 300,
    "mixed_alphabet.fasta": 6,
    "not_fasta_digits.fasta": 5,
    "phiX174_rotated_PHANOTATE.fasta": 1,
    "pyhmmer_alphabet_issue357.fasta": 1,
    "rna_U.fasta": 5,
    "rotavirus_part_lowercase.fa": 11,
    "spaces_inside_sequence.fasta": 37,
    "stop_recoding_table15_MZ130495.fasta": 1,
    "titin_twice.fasta": 1,
    "zero_bytes.fasta": 0,
}


def _bare(item: Record | Rejection) -> tuple[str, str]:
    assert isinstance(item, Record)
    return item.id, b"".join(item.sequence.split()).decode()


def _reference(path: Path) -> list[tuple[str, str]]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [
        ((title.split(None, 1) or [""])[0], "".join(sequence.split()))
        for title, sequence in SimpleFastaParser(StringIO(content.decode(), newline=None))
    ]


@pytest.mark.parametrize("folder", ["proteins", "genomes/virus", "genomes/nonvirus"])
def test_real_fasta_reads_as_biopython_reads_it(shared: Path, folder: str) -> None:
    paths = sorted((shared / "data/real" / folder).glob("*.gz"))
    assert len(paths) > 10
    for path in paths:
        assert list(map(_bare, read([path]))) == _reference(path), path.name


def test_line_numbers_of_real_records_point_at_their_headers(shared: Path) -> None:
    path = shared / "data/real/proteins/ecoli_O157_sakai.prodigal.faa.gz"
    lines = gzip.decompress(path.read_bytes()).split(b"\n")
    records = list(read([path]))
    assert len(records) > 4_000
    for record in records:
        assert lines[record.line - 1].split()[0] == b">" + record.id.encode()


def test_real_genbank_reads_as_biopython_reads_it(shared: Path) -> None:
    paths = sorted((shared / "data/real/genbank").glob("*.gb.gz"))
    assert len(paths) == 12
    reference = []
    for path in paths:
        with gzip.open(path, "rt") as text, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reference += [(record.id, str(record.seq)) for record in SeqIO.parse(text, "genbank")]
    assert list(map(_bare, read(paths))) == reference


def test_every_odd_file_is_known(shared: Path) -> None:
    found = {path.name for path in (shared / "data/edge").iterdir()}
    assert found == {*EDGE_RECORDS, "fasta_program_report.FASTA", "MANIFEST.tsv"}


@pytest.mark.parametrize("name", EDGE_RECORDS)
def test_odd_file_gives_its_documented_number_of_records(shared: Path, name: str) -> None:
    path = shared / "data/edge" / name
    records = [item for item in read([path]) if isinstance(item, Record)]
    assert len(records) == EDGE_RECORDS[name]
    if name != "comment_lines.fasta":
        reference = [(id_, sequence) for id_, sequence in _reference(path) if sequence]
        assert [_bare(record) for record in records] == reference


def test_comment_lines_of_a_real_file_are_no_sequence(shared: Path) -> None:
    records = list(read([shared / "data/edge/comment_lines.fasta"]))
    assert [(record.line, len(_bare(record)[1])) for record in records] == [(2, 79), (7, 33)]


def test_empty_header_of_a_real_file_is_an_empty_id(shared: Path) -> None:
    assert "" in [record.id for record in read([shared / "data/edge/empty_header_protein.fasta"])]


def test_empty_record_of_a_real_file_is_rejected(shared: Path) -> None:
    path = shared / "data/edge/mixed_alphabet.fasta"
    rejected = [item for item in read([path]) if isinstance(item, Rejection)]
    assert rejected == [Rejection(str(path), 37, "123", "empty record: no sequence behind the header")]


def test_report_of_the_fasta_program_is_refused(shared: Path) -> None:
    with pytest.raises(SequenceFileError, match="line 1 begins with ' FASTA searches a protein or DNA"):
        read([shared / "data/edge/fasta_program_report.FASTA"])
