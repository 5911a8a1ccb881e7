"""Coding sequences of GenBank: cut at codons, in the frame and with the code that their features state."""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from Bio import SeqIO
from Bio.Seq import Seq
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from reading_outputs import FILES, contents, fasta, rows, settings

from embedstore.errors import InputError
from embedstore.samples import PrepareOptions, PrepareReport, prepare
from embedstore.sequences import read
from embedstore.sequences.translation import reverse_complement
from embedstore_cli.main import main

DNA = b"ATGGCCAAACCCGGGTTTTGGCATTAA" + b"CCGATCGATTGCAGGCTAAGCTTGACGTACCATGGATCCTTAGGCATCGAT" * 3
"""It begins with MAKPGFWH and a stop."""


def genbank(path: Path, *features: str, dna: bytes = DNA, circular: bool = False) -> Path:
    """Write a record with features, each a location, and qualifiers behind it."""
    form = "circular" if circular else "linear  "
    lines = [f"LOCUS       MADE01      {len(dna):>16} bp    DNA     {form} VRL 01-JAN-2024", "ACCESSION   MADE01"]
    lines += ["VERSION     MADE01.1", "FEATURES             Location/Qualifiers"]
    for feature in features:
        location, *qualifiers = feature.split()
        lines.append(f"     CDS             {location}")
        lines += [f"                     /{qualifier}" for qualifier in qualifiers]
    lines.append("ORIGIN")
    text = dna.decode().lower()
    for place in range(0, len(text), 60):
        blocks = [text[start : start + 10] for start in range(place, min(place + 60, len(text)), 10)]
        lines.append(f"{place + 1:>9} {' '.join(blocks)}")
    path.write_text("\n".join([*lines, "//", ""]))
    return path


def coding(folder: Path, *features: str, length: int = 300, **options: object) -> PrepareReport:
    dna, circular = options.pop("dna", DNA), options.pop("circular", False)
    made = genbank(folder / "made.gb", *features, dna=dna, circular=circular)  # type: ignore[arg-type]
    choices = {"length_bases": length, "coding_only": True, "min_length_bases": 0, **options}
    return prepare([made], folder / "out", PrepareOptions(**choices))  # type: ignore[arg-type]


def proteins(folder: Path) -> list[str]:
    return [protein for _, protein in fasta(folder / "out" / "protein.faa")]


def places(folder: Path) -> list[tuple[str, str, str]]:
    return [(row["start"], row["end"], row["strand"]) for row in rows(folder / "out")]


def test_a_coding_sequence_is_translated_in_its_frame_without_its_stop(tmp_path: Path) -> None:
    report = coding(tmp_path, "1..27")

    assert proteins(tmp_path) == ["MAKPGFWH"]
    (row,) = rows(tmp_path / "out")
    assert row["sample"] == "MADE01.1:1-24:+1:CDS1.1"
    assert (row["source"], row["start"], row["end"], row["strand"], row["frame"]) == ("MADE01.1", "1", "24", "+", "1")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert settings(tmp_path / "out")["preparation"] == {
        "chunk_length": 300,
        "genetic_code": "auto",
        "frames": "coding",
        "compat": None,
    }
    assert settings(tmp_path / "out")["options"]["coding_only"] is True
    assert report.complete


@pytest.mark.parametrize(
    ("location", "expected", "place"),
    [
        ("1..27", DNA[:27], ("1", "27", "+")),
        ("complement(1..27)", reverse_complement(DNA[:27]), ("1", "27", "-")),
        ("join(1..4,8..12)", DNA[0:4] + DNA[7:12], ("1", "12", "+")),
        ("order(1..4,8..12)", DNA[0:4] + DNA[7:12], ("1", "12", "+")),
        ("complement(join(1..4,8..12))", reverse_complement(DNA[0:4] + DNA[7:12]), ("1", "12", "-")),
        ("join(complement(8..12),complement(1..4))", reverse_complement(DNA[0:4] + DNA[7:12]), ("1", "12", "-")),
        ("join(complement(8..12),1..4) trans_splicing", reverse_complement(DNA[7:12]) + DNA[0:4], ("1", "12", "-")),
        ("<2..>13 codon_start=2", DNA[2:11], ("3", "11", "+")),
        ("complement(<2..>13) codon_start=3", reverse_complement(DNA[1:13])[2:11], ("3", "11", "-")),
        ("join(1..4,4..8)", DNA[0:4] + DNA[3:8], ("1", "8", "+")),  # ribosomal slippage
        ("4..11", DNA[3:9], ("4", "9", "+")),  # an incomplete last codon
    ],
)
def test_every_kind_of_location_gives_its_bases(
    tmp_path: Path, location: str, expected: bytes, place: tuple[str, str, str]
) -> None:
    coding(tmp_path, location, genetic_code=6)  # whose only stop is TGA

    assert [dna for _, dna in fasta(tmp_path / "out" / "dna.fna")] == [expected.decode()]
    assert proteins(tmp_path) == [str(Seq(expected.decode()).translate(table=6))]
    assert places(tmp_path) == [place]


def test_a_gene_over_the_origin_of_a_circular_genome_is_spliced(tmp_path: Path) -> None:
    coding(tmp_path, f"join({len(DNA) - 5}..{len(DNA)},1..9)", circular=True)
    assert proteins(tmp_path) == [str(Seq((DNA[-6:] + DNA[:9]).decode()).translate())]
    assert places(tmp_path) == [("1", str(len(DNA)), "+")]


def test_chunks_are_cut_at_codons_and_cover_the_coding_sequence_evenly(tmp_path: Path) -> None:
    bases = b"ATG" + b"GCTAAACGT" * 30 + b"TAA"
    coding(tmp_path, f"1..{len(bases)}", dna=bases, length=100)

    table = rows(tmp_path / "out")
    assert [(int(row["start"]), int(row["end"])) for row in table] == [(1, 99), (88, 186), (175, 273)]
    assert {row["frame"] for row in table} == {"1"}
    whole = str(Seq(bases.decode()).translate()).removesuffix("*")
    assert proteins(tmp_path) == [whole[(int(row["start"]) - 1) // 3 : int(row["end"]) // 3] for row in table]


def test_samples_of_equal_stretches_have_different_names(tmp_path: Path) -> None:
    coding(tmp_path, "1..27", "1..27 product=isoform", "4..27")
    names = [row["sample"] for row in rows(tmp_path / "out")]
    assert names == ["MADE01.1:1-24:+1:CDS1.1", "MADE01.1:1-24:+1:CDS2.1", "MADE01.1:4-24:+1:CDS3.1"]


def test_each_feature_has_its_own_genetic_code_and_1_where_it_states_none(tmp_path: Path) -> None:
    recoded = b"ATGTGAGCCTGAAAATAA"
    coding(tmp_path, "1..18 transl_table=4", "1..18", dna=recoded)

    assert proteins(tmp_path) == ["MWAWK"]
    (source,) = settings(tmp_path / "out")["sources"].values()
    assert source["genetic_code"] == "1,4"
    assert source["genetic_code_by"] == "transl_table"
    assert source["dropped"] == {"no open frame": 1}


def test_a_codon_that_stops_only_at_the_end_is_a_stop_there(tmp_path: Path) -> None:
    coding(tmp_path, "1..12", dna=b"ATGTAAAAATAG", genetic_code=31)
    assert proteins(tmp_path) == ["MEK"]


def test_a_code_that_is_given_counts_more_than_that_of_the_features(tmp_path: Path) -> None:
    coding(tmp_path, "1..18 transl_table=11", dna=b"ATGTGAGCCTGAAAATAA", genetic_code=4)
    assert proteins(tmp_path) == ["MWAWK"]
    assert settings(tmp_path / "out")["preparation"]["genetic_code"] == 4
    assert "genetic_code" not in settings(tmp_path / "out")["sources"]["MADE01.1"]


@pytest.mark.parametrize(
    ("feature", "reason"),
    [
        ("join(1..9,J00194.1:100..202)", "it lies in another record too (J00194.1)"),
        ("1..what locus_tag=X1", "its location cannot be parsed"),
        ("1..9000", "its location is not within the 180 bases of the record"),
        ("1..27 pseudo", "it is marked as a pseudogene"),
        ("1..27 pseudogene=unitary", "it is marked as a pseudogene"),
        ("1..27 codon_start=4", "expected 1, 2 or 3 as its codon_start, found 4"),
        ("1..27 transl_table=99", "expected one of NCBI's genetic codes as its transl_table, found 99"),
    ],
)
def test_features_that_cannot_be_cut_out_are_named_and_the_others_used(
    tmp_path: Path, feature: str, reason: str
) -> None:
    report = coding(tmp_path, feature, "1..27 locus_tag=good")

    assert proteins(tmp_path) == ["MAKPGFWH"]
    assert [(one.id.startswith("MADE01.1: CDS 1"), one.reason) for one in report.unusable] == [(True, reason)]
    assert report.complete
    (listed,) = settings(tmp_path / "out")["unusable_features"]
    assert listed["reason"] == reason


def test_skipped_features_are_named_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = genbank(tmp_path / "made.gb", "1..27 pseudo protein_id=P1", "4..27 pseudo", "1..27")
    assert main(["prepare", str(made), "-o", str(tmp_path / "out"), "--coding-only", "--min-length", "0"]) == 0
    told = capsys.readouterr()
    assert "skipped 2 CDS features" in told.err
    assert "CDS 1 (P1): it is marked as a pseudogene" in told.err
    assert "2 CDS features" in told.out


def test_a_record_without_coding_sequences_is_counted_without_chunks(tmp_path: Path) -> None:
    report = coding(tmp_path)
    assert (report.counts.sequences, report.counts.chunks, report.counts.samples) == (1, 0, 0)
    assert settings(tmp_path / "out")["sources"]["MADE01.1"]["chunks"] == 0


def test_a_coding_sequence_of_a_stop_alone_has_no_chunk(tmp_path: Path) -> None:
    report = coding(tmp_path, "25..27", "1..2", "1..27")
    assert (report.counts.chunks, report.counts.samples) == (1, 1)


def test_short_coding_sequences_are_dropped_and_counted(tmp_path: Path) -> None:
    report = coding(tmp_path, "1..27", min_length_bases=None)
    assert report.counts.dropped["shorter than the minimal length"] == 1


def test_a_stop_within_drops_the_chunk_and_counts_it(tmp_path: Path) -> None:
    report = coding(tmp_path, "1..30", dna=b"ATGTAAGCCAAACCCGGGTTTTGGCATTAA")
    assert report.counts.dropped["no open frame"] == 1
    assert report.counts.samples == 0


@pytest.mark.parametrize("text", [">a\nACGTACGT\n", "@a\nACGT\n+\nIIII\n"])
def test_files_that_do_not_say_what_is_coding_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "genome.fna").write_text(text)
    with pytest.raises(InputError, match=r"genome\.fna: expected GenBank with CDS features, found FASTA or FASTQ"):
        prepare([tmp_path / "genome.fna"], tmp_path / "out", PrepareOptions(coding_only=True))
    assert not (tmp_path / "out").exists()


def test_virnucpros_output_has_no_coding_only() -> None:
    with pytest.raises(InputError, match="requires genetic code 1, no minimal length and all frames"):
        PrepareOptions(coding_only=True, compat="virnucpro")


def test_groups_and_labels_are_those_of_the_input(tmp_path: Path) -> None:
    (tmp_path / "genomes").mkdir()
    genbank(tmp_path / "genomes" / "x.gb", "1..27")
    options = PrepareOptions(coding_only=True, min_length_bases=0)
    prepare([f"virus={tmp_path / 'genomes'}"], tmp_path / "out", options)
    (row,) = rows(tmp_path / "out")
    assert (row["group"], row["label"]) == ("x", "virus")


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    coding(tmp_path, "1..27", "complement(1..60)")
    before = contents(tmp_path / "out")
    coding(tmp_path, "1..27", "complement(1..60)")
    assert contents(tmp_path / "out") == before


def _real(shared: Path) -> Sequence[Path]:
    return sorted((shared / "data" / "real" / "genbank").glob("*.gb.gz"))


def test_real_coding_sequences_translate_as_their_annotation_says(shared: Path, tmp_path: Path) -> None:
    checked, differing = 0, []
    for path in _real(shared):
        prepare([path], tmp_path / "out", PrepareOptions(length_bases=100_000, coding_only=True, min_length_bases=0))
        found = {
            row["sample"].rpartition(":CDS")[2].partition(".")[0]: protein for row, protein in _with_proteins(tmp_path)
        }
        record = SeqIO.read(io.StringIO(gzip.decompress(path.read_bytes()).decode()), "genbank")
        features = [feature for feature in record.features if feature.type == "CDS"]
        for number, feature in enumerate(features, start=1):
            stated = feature.qualifiers.get("translation", [""])[0]
            if stated and str(number) in found:
                checked += 1
                if found[str(number)][1:] != stated[1:]:  # any start codon is methionine in an annotation
                    differing.append((path.name, number))
    # Of breseq's lambda the bases were corrected, and three translations were not.
    assert (checked, {name for name, _ in differing}, len(differing)) == (1161, {"lambda_NC_001416.gb.gz"}, 3)


def _with_proteins(folder: Path) -> list[tuple[dict[str, str], str]]:
    return list(zip(rows(folder / "out"), proteins(folder), strict=True))


@settings_of_hypothesis(max_examples=60, deadline=None)
@given(
    st.lists(st.text('0123456789.,<>^()jointcmpledr :/="\n', max_size=40), max_size=4),
    st.sampled_from(["", " /codon_start=2", " /transl_table=4", ' /note="odd', " /pseudo"]),
)
def test_no_feature_table_takes_the_record_with_it(
    tmp_path_factory: pytest.TempPathFactory, locations: list[str], qualifier: str
) -> None:
    folder = tmp_path_factory.mktemp("features")
    made = genbank(folder / "made.gb")
    lines = made.read_text().partition("ORIGIN")
    features = "".join(f"     CDS             {location}{qualifier}\n" for location in locations)
    made.write_text(lines[0] + features + lines[1] + lines[2])

    annotated, plain = (list(read([made], with_coding=with_coding)) for with_coding in (True, False))

    assert [tuple(one) for one in annotated] == [tuple(one) for one in plain]
    prepare([made], folder / "out", PrepareOptions(coding_only=True, min_length_bases=0))
