"""With compat, files are byte for byte those of VirNucPro."""

from __future__ import annotations

from pathlib import Path

import pytest
from reading_outputs import fasta, rows

from embedstore.errors import InputError
from embedstore.identity import canonical, key_text, sequence_key
from embedstore.samples import PrepareOptions, prepare

VIRNUCPRO = PrepareOptions(compat="virnucpro")
SUFFIXES = ("_chunked500.fa", "_identified_nucleotide.fa", "_identified_protein.faa")


@pytest.mark.parametrize("name", ["test_fixed_500bp", "test_sequences_small"])
def test_reference_outputs_at_500_byte_for_byte(shared: Path, tmp_path: Path, name: str) -> None:
    reference = shared / "data" / "virnucpro_reference" / "data"

    prepare([reference / f"{name}.fa"], tmp_path, VIRNUCPRO)

    for suffix in SUFFIXES:
        assert (tmp_path / f"{name}{suffix}").read_bytes() == (reference / f"{name}{suffix}").read_bytes()
    assert (tmp_path / "dna.fna").read_bytes() == (reference / f"{name}_identified_nucleotide.fa").read_bytes()
    assert (tmp_path / "protein.faa").read_bytes() == (reference / f"{name}_identified_protein.faa").read_bytes()


def prepared(tmp_path: Path, text: str, length: int) -> Path:
    (tmp_path / "in.fasta").write_text(text)
    prepare([tmp_path / "in.fasta"], tmp_path / "out", PrepareOptions(length_bases=length, compat="virnucpro"))
    return tmp_path / "out"


def test_chunks_keep_their_case_and_are_wrapped_at_60(tmp_path: Path) -> None:
    folder = prepared(tmp_path, ">a first\n" + "acg" * 21 + "\n", 70)
    assert (folder / "in_chunked70.fa").read_text() == ">a_chunk_1\n" + "acg" * 20 + "\nacg\n"


def test_the_dna_of_a_frame_is_one_base_too_long_where_the_chunk_has_one(tmp_path: Path) -> None:
    folder = prepared(tmp_path, ">a\nAAACCCGGGC\n", 10)

    assert fasta(folder / "dna.fna") == [
        ("a_chunk_1F1", "AAACCCGGGC"),
        ("a_chunk_1F2", "AACCCGGGC"),
        ("a_chunk_1F3", "ACCCGGG"),
        ("a_chunk_1R1", "GCCCGGGTTT"),
        ("a_chunk_1R2", "CCCGGGTTT"),
        ("a_chunk_1R3", "CCGGGTT"),
    ]
    assert dict(fasta(folder / "protein.faa"))["a_chunk_1R1"] == "ARV"


def test_codons_with_other_bases_are_left_out_and_shorten_the_dna(tmp_path: Path) -> None:
    folder = prepared(tmp_path, ">a\nAAANNNGGGCCCTGGRGG\n", 18)

    assert dict(fasta(folder / "protein.faa"))["a_chunk_1F1"] == "KGPW"
    assert dict(fasta(folder / "dna.fna"))["a_chunk_1F1"] == "AAANNNGGGCCCT"
    assert dict(fasta(folder / "dna.fna"))["a_chunk_1R1"].startswith("CCRCCAGGG")  # R is not complemented
    for row in rows(folder):
        bases = dict(fasta(folder / "dna.fna"))[row["sample"]]
        assert int(row["end"]) - int(row["start"]) + 1 == len(bases)
        assert row["dna_key"] == key_text(sequence_key(canonical(bases, "dna")))


def test_chunks_are_numbered_and_samples_lie_where_they_say(tmp_path: Path) -> None:
    genome = "".join("ACGGCATTCGGA"[(place * 7 + place // 11) % 12] for place in range(2503))
    folder = prepared(tmp_path, f">a\n{genome}\n>a\n{genome}\n", 100)

    table, dna = rows(folder), fasta(folder / "dna.fna")
    assert len(table) == len(dna) > 10
    assert len({row["sample"] for row in table}) == len(table)
    half = len(table) // 2
    for row, (name, bases) in zip(table, dna, strict=True):
        part = genome[int(row["start"]) - 1 : int(row["end"])]
        assert bases == (part if row["strand"] == "+" else part.translate(str.maketrans("ACGT", "TGCA"))[::-1])
        assert name.startswith("a_chunk_")
    assert [name for name, _ in dna[:half]] == [name for name, _ in dna[half:]]  # repeated ids stay as they are …
    assert (
        [row["sample"] for row in table[half:]]
        == [  # … but for the table
            row["sample"].replace("a_", "a~2_") for row in table[:half]
        ]
    )


def test_each_input_file_gets_its_own_three_files_even_an_empty_one(tmp_path: Path) -> None:
    for name, text in (("a.fa", ">x\nACGACGACG\n"), ("b.fa", ""), ("c.fasta", ">y\nACGACG\n")):
        (tmp_path / name).write_text(text)

    prepare([tmp_path / name for name in ("a.fa", "b.fa", "c.fasta")], tmp_path / "out", VIRNUCPRO)

    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out").glob("*_*")}
    assert sorted(sizes) == sorted(stem + suffix for stem in "abc" for suffix in SUFFIXES)
    assert [sizes["b" + suffix] for suffix in SUFFIXES] == [0, 0, 0]
    assert (tmp_path / "out" / "c_chunked500.fa").read_text() == ">y_chunk_1\nACGACG\n"


def test_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.fa").write_text(">x\nACGACG\n")
    with pytest.raises(InputError, match=r"would all give x_chunked500\.fa"):
        prepare([tmp_path / "a" / "x.fa", tmp_path / "b" / "x.fa"], tmp_path / "out", VIRNUCPRO)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [{"genetic_code": 11}, {"min_length_bases": 60}])
def test_options_that_virnucpro_does_not_have_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="compat='virnucpro' requires genetic code 1"):
        PrepareOptions(compat="virnucpro", **wrong)  # type: ignore[arg-type]
