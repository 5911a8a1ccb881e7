"""Six frames of many chunks at once are what Biopython gives one by one."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from Bio import BiopythonWarning
from Bio.Data import CodonTable
from Bio.Seq import Seq
from hypothesis import given
from hypothesis import strategies as st

from embedstore.errors import InputError
from embedstore.identity import canonical
from embedstore.records import Record
from embedstore.sequences import read
from embedstore.sequences.translation import (
    FRAMES,
    SixFrames,
    even_chunks,
    frame_spans,
    genetic_code,
    reverse_complement,
)

ALL_CODES = sorted(CodonTable.unambiguous_dna_by_id)
DNA = st.text("ACGTN", max_size=90).map(str.encode)
IUPAC = st.text("ACGTRYSWKMBDHVN", max_size=60).map(str.encode)


def by_biopython(chunk: bytes, code: int) -> list[str]:
    """Translate the six frames; a codon with any base but A, C, G, T is X, where Biopython may know better."""
    forward = Seq(chunk)
    proteins = []
    for strand in (forward, forward.reverse_complement()):
        for skipped in range(3):
            frame = strand[skipped : skipped + (len(strand) - skipped) // 3 * 3]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", BiopythonWarning)  # it says that dual codons are read as residues
                residues = str(frame.translate(table=code))
            codons = [str(frame[place : place + 3]) for place in range(0, len(frame), 3)]
            proteins.append(
                "".join("X" if set(codon) - set("ACGT") else one for codon, one in zip(codons, residues, strict=True))
            )
    return proteins


def by_table(dna: bytes, chunk_bases: int, code: int) -> tuple[list[list[str]], list[list[bool]]]:
    bounds = even_chunks(len(dna), chunk_bases)
    frames = SixFrames(dna, genetic_code(code))
    spans = frame_spans(bounds)
    proteins = [
        [frames.protein(int(a), int(b), strand).decode() for (a, b), (strand, _) in zip(row, FRAMES, strict=True)]
        for row in spans
    ]
    return proteins, frames.open_frames(spans).tolist()


def check_against_biopython(dna: bytes, chunk_bases: int, code: int) -> None:
    proteins, is_open = by_table(dna, chunk_bases, code)
    expected = [by_biopython(dna[a:b], code) for a, b in even_chunks(len(dna), chunk_bases).tolist()]
    assert proteins == expected
    assert is_open == [[bool(protein) and "*" not in protein for protein in row] for row in expected]


@given(DNA, st.integers(1, 40), st.sampled_from(ALL_CODES))
def test_frames_of_any_chunks_are_biopythons(dna: bytes, chunk_bases: int, code: int) -> None:
    check_against_biopython(dna, chunk_bases, code)


@pytest.mark.parametrize("code", ALL_CODES)
def test_every_codon_of_every_genetic_code(code: int) -> None:
    codons = b"".join(bytes([a, b, c]) for a in b"ACGT" for b in b"ACGT" for c in b"ACGT")
    check_against_biopython(codons, len(codons), code)


@pytest.mark.parametrize("code", ALL_CODES)
def test_real_genomes_in_every_genetic_code(shared: Path, code: int) -> None:
    files = sorted((shared / "data" / "real" / "genomes").rglob("*.fna.gz"))
    chosen = files[code % 16 :: 16]  # each code meets some of them, and each of them some codes
    for record in read(chosen):
        assert isinstance(record, Record)
        dna = canonical(record.sequence, "dna")
        for start in range(0, min(len(dna), 60_000), 20_000):
            check_against_biopython(dna[start : start + 700], 500, code)


@given(IUPAC)
def test_reverse_complement_knows_all_bases(dna: bytes) -> None:
    assert reverse_complement(dna) == bytes(Seq(dna).reverse_complement())
    assert reverse_complement(reverse_complement(dna)) == dna


@given(IUPAC)
def test_a_codon_is_x_on_both_strands_exactly_where_a_base_is_ambiguous(dna: bytes) -> None:
    dna = dna[: len(dna) // 3 * 3]
    frames = SixFrames(dna, genetic_code(1))
    is_ambiguous = [bool(dna[place : place + 3].strip(b"ACGT")) for place in range(0, len(dna), 3)]

    assert [residue == ord("X") for residue in frames.protein(0, len(dna), "+")] == is_ambiguous
    assert [residue == ord("X") for residue in frames.protein(0, len(dna), "-")] == is_ambiguous[::-1]


def test_codons_that_are_both_stop_and_residue_do_not_close_a_frame() -> None:
    assert by_table(b"TGATGATGA", 9, 27)[0][0][0] == "WWW"
    assert by_table(b"TGATGATGA", 9, 27)[1][0][0]
    assert not by_table(b"TGATGATGA", 9, 1)[1][0][0]


def test_known_frames_have_a_residue_that_is_not_x() -> None:
    dna = b"NNNNNNNNN" + b"NNNACGNNN"
    frames = SixFrames(dna, genetic_code(1))
    spans = frame_spans(np.array([[0, 9], [9, 18]]))

    assert frames.known_frames(spans).tolist() == [[False] * 6, [True, False, False, True, False, False]]


def test_an_unknown_genetic_code_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(InputError, match=r"genetic code 7: expected one of NCBI's, 1, 2, 3"):
        genetic_code(7)


def test_a_long_text_is_translated_as_its_parts_are() -> None:
    dna = bytes(random.Random(4).choices(b"ACGTN", weights=[5, 5, 5, 5, 1], k=5000))
    proteins, is_open = by_table(dna, 90, 4)
    for (start, end), row, open_row in zip(even_chunks(5000, 90).tolist(), proteins, is_open, strict=True):
        assert by_table(dna[start:end], 90, 4) == ([row], [open_row])
