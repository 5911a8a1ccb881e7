"""Samples are where they say they are, and are what their source says; nothing is dropped silently."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import pytest
from Bio.Seq import Seq
from hypothesis import given, settings
from hypothesis import strategies as st
from reading_outputs import fasta, rows, sequences
from reading_outputs import settings as prepare_settings

from embedstore.errors import EmbedStoreError
from embedstore.identity import canonical, key_text, sequence_key
from embedstore.samples import PrepareOptions, prepare
from embedstore.sequences.translation import even_chunks, genetic_code, reverse_complement

BASES = "ACGT" * 12 + "NRYSWKMBDHV"


def check_samples(folder: Path, sources: dict[str, bytes], code: int = 1, every: int = 1) -> None:
    """Cut samples out of their source again, and translate them with Biopython."""
    table = rows(folder)
    dna, proteins = fasta(folder / "dna.fna"), fasta(folder / "protein.faa")
    assert [row["sample"] for row in table] == [name for name, _ in dna] == [name for name, _ in proteins]
    assert len({row["sample"] for row in table}) == len(table)
    for row, (_, nucleotides), (_, residues) in list(zip(table, dna, proteins, strict=True))[::every]:
        part = sources[row["source"]][int(row["start"]) - 1 : int(row["end"])]
        assert nucleotides.encode() == (part if row["strand"] == "+" else reverse_complement(part))
        codons = [nucleotides[place : place + 3] for place in range(0, len(nucleotides), 3)]
        expected = ["X" if set(codon) - set("ACGT") else str(Seq(codon).translate(table=code)) for codon in codons]
        assert residues == "".join(expected)
        assert "*" not in residues
        assert set(residues) != {"X"}
        assert row["dna_key"] == key_text(sequence_key(canonical(nucleotides, "dna")))
        assert row["protein_key"] == key_text(sequence_key(canonical(residues, "protein")))
        assert row["sample"] == f"{row['source']}:{row['start']}-{row['end']}:{row['strand']}{row['frame']}"


def check_counts(folder: Path) -> None:
    """Every chunk gave a sample or is counted with its reason, by source and in all."""
    document = prepare_settings(folder)
    table = rows(folder)
    assert document["samples"] == len(table)
    assert document["sequences"] == len(document["sources"])
    totals: Counter[str] = Counter()
    for source in document["sources"].values():
        totals.update(source["dropped"])
        assert source["chunks"] >= sum(source["dropped"].values())
        assert bool(source["samples"]) == (source["chunks"] > sum(source["dropped"].values()))
    assert {reason: number for reason, number in document["dropped"].items() if number} == dict(totals)
    assert document["chunks"] == sum(source["chunks"] for source in document["sources"].values())
    of_sources = Counter(row["source"] for row in table)
    assert {name: source["samples"] for name, source in document["sources"].items() if source["samples"]} == of_sources


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text(BASES, min_size=1, max_size=400), min_size=1, max_size=5),
    st.integers(3, 120),
    st.sampled_from([1, 4, 11, 2]),
)
def test_a_sample_is_the_slice_that_it_states(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], length: int, code: int
) -> None:
    folder = tmp_path_factory.mktemp("prepared")
    genome = folder / "contigs.fna"
    genome.write_text("".join(f">contig{number}\n{text}\n" for number, text in enumerate(texts)))

    prepare([genome], folder / "out", PrepareOptions(length_bases=length, genetic_code=code, min_length_bases=0))

    bases = {f"contig{number}": text.encode() for number, text in enumerate(texts)}
    check_samples(folder / "out", bases, code)
    check_counts(folder / "out")
    chunks = [len(even_chunks(len(text), length)) for text in texts]
    assert [source["chunks"] for source in prepare_settings(folder / "out")["sources"].values()] == chunks


def test_all_real_genomes(shared: Path, tmp_path: Path) -> None:
    genomes = shared / "data" / "real" / "genomes"

    report = prepare([f"virus={genomes / 'virus'}", f"nonvirus={genomes / 'nonvirus'}"], tmp_path / "out")

    check_counts(tmp_path / "out")
    assert report.counts.samples_by_label == Counter(row["label"] for row in rows(tmp_path / "out"))
    assert len({row["group"] for row in rows(tmp_path / "out")}) <= report.files == 64
    files = [path for label in ("virus", "nonvirus") for path in sorted((genomes / label).rglob("*.gz"))]
    names = list(prepare_settings(tmp_path / "out")["sources"])
    check_samples(tmp_path / "out", dict(zip(names, sequences(files), strict=True)), every=20)


@pytest.mark.parametrize("compat", [None, "virnucpro"])
def test_soft_masked_and_n_rich_genomes_give_the_samples_of_their_upper_case_twins(
    shared: Path, tmp_path: Path, compat: None
) -> None:
    genomes = shared / "data" / "real" / "genomes"
    names = ["virus/norovirus_GII", "virus/rotavirus_A_RF", "nonvirus/yeast_chrI_rm", "nonvirus/tbrucei_chr1"]
    assert any(b"a" in _text(genomes / f"{name}.fna.gz") for name in names)
    assert any(b"NNNNNNNN" in _text(genomes / f"{name}.fna.gz") for name in names)
    for name in names:
        masked, upper = tmp_path / "masked" / f"{Path(name).name}.fna", tmp_path / "upper" / f"{Path(name).name}.fna"
        lines = _text(genomes / f"{name}.fna.gz").splitlines(keepends=True)
        for path, change in ((masked, bytes.lower), (upper, bytes.upper)):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"".join(line if line.startswith(b">") else change(line) for line in lines))
        original = genomes / f"{name}.fna.gz"
        written = []
        for path in (original, masked, upper):
            prepare([path], tmp_path / "out", PrepareOptions(compat=compat))
            written.append(
                [(tmp_path / "out" / file).read_bytes() for file in ("samples.tsv", "dna.fna", "protein.faa")]
            )
        assert written[0] == written[1] == written[2]
        assert len(written[0][0].splitlines()) > 1


def _text(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())


def test_each_reason_to_drop_a_chunk_is_counted_by_source(tmp_path: Path) -> None:
    genome = tmp_path / "contigs.fna"
    closed = "TAACTAACTAACTTAGTTAGTTAG"  # a stop in every frame
    cases = {"short": "ACG" * 5, "unknown": "N" * 40, "closed": closed * 2, "blurred": "ACN" * 12, "open": "ACG" * 14}
    genome.write_text("".join(f">{name}\n{text}\n" for name, text in cases.items()))

    report = prepare([genome], tmp_path / "out", PrepareOptions(length_bases=60, min_length_bases=20))

    dropped = {name: source["dropped"] for name, source in prepare_settings(tmp_path / "out")["sources"].items()}
    assert dropped == {
        "short": {"shorter than the minimal length": 1},
        "unknown": {"all N": 1},
        "closed": {"no open frame": 1},
        "blurred": {"only X in its open frames": 1},
        "open": {},
    }
    assert dict(report.counts.dropped) == {
        "shorter than the minimal length": 1,
        "all N": 1,
        "no open frame": 1,
        "only X in its open frames": 1,
    }
    assert {row["source"] for row in rows(tmp_path / "out")} == {"open"}


def test_iupac_codes_are_complemented_in_samples_of_the_other_strand(tmp_path: Path) -> None:
    genome = tmp_path / "contig.fna"
    genome.write_text(">a\nACRYKMBVDHSWACGACG\n")

    prepare([genome], tmp_path / "out", PrepareOptions(length_bases=18, min_length_bases=0))

    dna = dict(fasta(tmp_path / "out" / "dna.fna"))
    assert dna["a:1-18:-1"] == "CGTCGTWSDHBVKMRYGT"


def test_rna_is_read_as_dna(tmp_path: Path) -> None:
    (tmp_path / "rna.fa").write_text(">a\nAUGGCUUGGUGG\n")
    (tmp_path / "dna.fa").write_text(">a\nATGGCTTGGTGG\n")
    options = PrepareOptions(length_bases=12, min_length_bases=0)
    written = []
    for name in ("rna.fa", "dna.fa"):
        prepare([tmp_path / name], tmp_path / "out", options)
        written.append((tmp_path / "out" / "samples.tsv").read_bytes())
    assert written[0] == written[1]
    assert len(written[0].splitlines()) > 1


@pytest.mark.parametrize("compat", [None, "virnucpro"])
def test_every_odd_file_gives_samples_or_one_clear_error(shared: Path, tmp_path: Path, compat: None) -> None:
    refused = []
    for file in sorted((shared / "data" / "edge").glob("*.[fF]*")):
        try:
            report = prepare([file], tmp_path / file.name, PrepareOptions(compat=compat))
        except EmbedStoreError:
            refused.append(file.name)
            assert not (tmp_path / file.name).exists()
        else:
            assert report.counts.records == report.counts.sequences + len(report.rejected)
            check_counts(tmp_path / file.name)
    assert refused == [
        "comment_lines.fasta",
        "crlf_no_final_newline.fasta",
        "dup_ids_and_stops.faa",
        "empty_header_protein.fasta",
        "fasta_program_report.FASTA",
        "long_headers_ncbi_nr.faa",
        "mixed_alphabet.fasta",  # more proteins than nucleic acids
        "titin_twice.fasta",
    ]


def test_an_empty_file_gives_tables_without_rows(tmp_path: Path) -> None:
    (tmp_path / "empty.fna").write_bytes(b"")

    report = prepare([tmp_path / "empty.fna"], tmp_path / "out")

    assert report.counts.samples == 0
    assert report.complete
    assert rows(tmp_path / "out") == []
    assert prepare_settings(tmp_path / "out")["sources"] == {}


def test_a_genome_with_another_code_has_other_open_frames(shared: Path, tmp_path: Path) -> None:
    genome = shared / "data" / "real" / "genomes" / "nonvirus" / "mycoplasma_gallisepticum_R.fna.gz"
    counts = [prepare([genome], tmp_path / "out", PrepareOptions(genetic_code=code)).counts.samples for code in (1, 4)]
    assert counts[1] > 1.5 * counts[0]
    assert genetic_code(4).name == "Mold Mitochondrial"
