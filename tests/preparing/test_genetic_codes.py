"""Genetic codes by source: estimated from their stops, stated by GenBank, or listed in a table."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from reading_outputs import contents, rows, settings
from test_coding_only import genbank

from embedstore.errors import InputError
from embedstore.identity import canonical
from embedstore.records import Record
from embedstore.samples import CodeTable, PrepareOptions, prepare, read_code_table
from embedstore.samples import codes as codes_module
from embedstore.samples.codes import CANDIDATES, LEAST_BASES, STANDARD_CODE, decide, read_through
from embedstore.sequences import read
from embedstore.sequences.translation import genetic_code, reverse_complement, same_code
from embedstore_cli.main import main

AUTO = PrepareOptions(genetic_code="auto")
RECODED = {
    "human_MT": 2,
    "orangutan_MT": 2,
    "moth_mito_Phalera": 4,  # 5, whose stops are those of 4
    "moth_mito_Theretra": 4,
    "mycoplasma_gallisepticum_R": 4,
}


def genes(code: int, bases: int, seed: int = 0) -> bytes:
    """Make a genome of genes on both strands in a genetic code, each 500 codons and a stop, with gaps between them."""
    chance = random.Random(seed)
    table = genetic_code(code).forward
    texts = [first + second + third for first in "ACGT" for second in "ACGT" for third in "ACGT"]
    places = {
        text: sum("ACGT".index(base) * size for base, size in zip(text, (25, 5, 1), strict=True)) for text in texts
    }
    sense = [text for text in texts if chr(table[places[text]]) != "*"]
    stops = [text for text in texts if chr(table[places[text]]) == "*"]
    made = bytearray()
    while len(made) < bases:
        gene = ("ATG" + "".join(chance.choices(sense, k=500)) + chance.choice(stops)).encode()
        made += gene if chance.random() < 0.5 else reverse_complement(gene)
        made += bytes(chance.choices(b"ACGT", k=chance.randrange(20, 150)))
    return bytes(made[:bases])


def write(path: Path, **records: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(b">%b\n%b\n" % (name.encode(), dna) for name, dna in records.items()))
    return path


def chosen(folder: Path) -> dict[str, tuple[object, object]]:
    sources = settings(folder)["sources"]
    return {name: (source["genetic_code"], source["genetic_code_by"]) for name, source in sources.items()}


def bases_of(path: Path) -> bytes:
    (record,) = (one for one in read(path) if isinstance(one, Record))
    return canonical(record.sequence, "dna")


@pytest.mark.parametrize("code", [1, 11, 2, 4, 6, 15])
def test_made_genomes_show_their_stops(code: int) -> None:
    expected = 1 if code == 11 else code
    assert decide(read_through(genes(code, 60_000))) == expected
    assert decide(read_through(reverse_complement(genes(code, 60_000)))) == expected


def test_both_strands_count_alike() -> None:
    dna = genes(4, 30_000)
    assert read_through(dna).tolist() == read_through(reverse_complement(dna)).tolist()


def test_counts_are_those_of_a_codon_by_codon_count() -> None:
    dna = genes(4, 20_000, seed=3)
    row = [0, 0, 0, 0]
    for strand in (dna, reverse_complement(dna)):
        for phase in range(3):
            frame = [strand[place : place + 3] for place in range(phase, len(strand) - 2, 3)]
            ends = [-1, *(place for place, codon in enumerate(frame) if codon in (b"TAA", b"TAG")), len(frame)]
            for before, end, after in zip(ends, ends[1:], ends[2:], strict=False):
                row[2] += end - before > 80
                row[3] += end - before > 80 and after - end > 80
            for start, end in pairwise(ends):
                within = [place for place in range(start + 1, end) if frame[place] == b"TGA" and place - start > 80]
                row[0] += min(len(within), 5)
                row[1] += min(sum(end - place > 80 for place in within), 5)
    assert read_through(dna)[CANDIDATES.index(4)].tolist()[:4] == row


@pytest.mark.parametrize(
    "dna", [b"", b"AC", b"ACG" * 50, b"N" * 30_000, b"A" * 30_000, b"ACGTRYKM" * 4_000, b"TGA" * 9_000]
)
def test_without_evidence_the_standard_code_stays(dna: bytes) -> None:
    assert decide(read_through(dna)) == STANDARD_CODE


def test_an_array_of_repeats_decides_nothing() -> None:
    unit = b"GCTGCATGAGCC" * 7 + b"GCTGCAGC"  # TGA now and then, no other stop in some frames
    assert decide(read_through(unit * 400)) == STANDARD_CODE


def test_chance_does_not_look_like_a_code() -> None:
    for share_of_gc in (0.2, 0.35, 0.5, 0.65, 0.75):
        weights = [(1 - share_of_gc) / 2, share_of_gc / 2, share_of_gc / 2, (1 - share_of_gc) / 2]
        for seed in range(4):
            made = np.random.default_rng(seed).choice(np.frombuffer(b"ACGT", np.uint8), 50_000, p=weights).tobytes()
            assert decide(read_through(made)) == STANDARD_CODE


def test_all_real_genomes_get_the_stops_of_their_code(shared: Path) -> None:
    found = {}
    for path in sorted((shared / "data" / "real" / "genomes").rglob("*.fna.gz")):
        seen = sum(read_through(canonical(one.sequence, "dna")) for one in read(path) if isinstance(one, Record))
        found[path.name.partition(".")[0]] = decide(np.asarray(seen))
    assert len(found) == 64
    assert {name: code for name, code in found.items() if code != STANDARD_CODE} == RECODED


def test_a_phage_that_reads_tag_is_found(shared: Path) -> None:
    assert decide(read_through(bases_of(shared / "data" / "edge" / "stop_recoding_table15_MZ130495.fasta"))) == 15


@pytest.mark.slow
def test_slices_of_real_genomes_are_seldom_taken_for_recoded(shared: Path) -> None:
    slices = wrong = 0
    for path in sorted((shared / "data" / "real" / "genomes").rglob("*.fna.gz")):
        if path.name.partition(".")[0] in RECODED:
            continue
        for one in read(path):
            dna = canonical(one.sequence, "dna") if isinstance(one, Record) else b""
            for start in range(0, len(dna) - 20_000 + 1, 20_000):
                slices += 1
                wrong += decide(read_through(dna[start : start + 20_000])) != STANDARD_CODE
    assert slices > 300
    assert wrong / slices < 0.01


def test_each_source_is_translated_with_its_own_code(tmp_path: Path) -> None:
    mixed = write(
        tmp_path / "mixed.fna", bacterium=genes(11, 40_000), mycoplasma=genes(4, 40_000), phage=genes(15, 60_000)
    )

    report = prepare([mixed], tmp_path / "out", AUTO)

    assert chosen(tmp_path / "out") == {"bacterium": (1, "stops"), "mycoplasma": (4, "stops"), "phage": (15, "stops")}
    assert report.counts.genetic_codes == {"1": 1, "4": 1, "15": 1}
    assert settings(tmp_path / "out")["preparation"]["genetic_code"] == "auto"
    for name, code in (("bacterium", 1), ("mycoplasma", 4), ("phage", 15)):
        dna = next(one.sequence for one in read(mixed) if one.id == name and isinstance(one, Record))
        alone = write(tmp_path / f"{name}.fna", **{name: dna})
        prepare([alone], tmp_path / name, PrepareOptions(genetic_code=code))
        assert [row for row in rows(tmp_path / "out") if row["source"] == name] == rows(tmp_path / name)


def test_short_sources_take_the_code_of_their_group(tmp_path: Path) -> None:
    genome = genes(4, 60_000)
    short = {f"contig{start}": genome[start : start + 6_000] for start in range(0, 60_000, 6_000)}
    write(tmp_path / "genomes" / "mycoplasma.fna", **short)
    write(tmp_path / "genomes" / "virus.fna", alone=genes(1, 6_000))

    prepare([tmp_path / "genomes"], tmp_path / "out", AUTO)

    assert chosen(tmp_path / "out") == {**dict.fromkeys(short, (4, "group")), "alone": (1, "default")}


def test_contigs_of_a_group_are_not_read_over_their_borders(tmp_path: Path) -> None:
    pieces = {f"c{number}": b"GCT" * 79 + b"TGA" + b"GCT" * 79 for number in range(200)}
    write(tmp_path / "genomes" / "x.fna", **pieces)
    prepare([tmp_path / "genomes"], tmp_path / "out", AUTO)
    assert set(chosen(tmp_path / "out").values()) == {(1, "group")}


def test_a_long_source_decides_for_itself(tmp_path: Path) -> None:
    nuclear = {f"chr{number}": genes(1, 60_000, seed=number) for number in range(3)}
    write(tmp_path / "genomes" / "yeast.fna", **nuclear, mito=genes(4, 30_000), scrap=genes(4, 3_000))

    prepare([tmp_path / "genomes"], tmp_path / "out", AUTO)

    assert chosen(tmp_path / "out") == {
        **dict.fromkeys(nuclear, (1, "stops")),
        "mito": (4, "stops"),
        "scrap": (1, "group"),
    }


def test_a_group_that_is_too_long_to_hold_is_decided_by_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "genomes" / "x.fna", first=genes(4, 40_000), second=genes(1, 3_000), third=genes(1, 60_000))
    monkeypatch.setattr(codes_module, "_HELD_BASES", 30_000)

    prepare([tmp_path / "genomes"], tmp_path / "out", AUTO)

    assert chosen(tmp_path / "out") == {"first": (4, "stops"), "second": (4, "group"), "third": (1, "stops")}


def test_what_genbank_states_counts_more_than_stops(tmp_path: Path) -> None:
    dna = genes(4, 40_000)
    stated = genbank(
        tmp_path / "a.gb", "1..30 transl_table=11", "1..30 transl_table=11", "1..60 transl_table=4", dna=dna
    )
    silent = genbank(tmp_path / "b.gb", "1..30", dna=dna)

    prepare([stated, silent], tmp_path / "out", AUTO)

    assert chosen(tmp_path / "out") == {"MADE01.1": (11, "transl_table"), "MADE01.1~2": (4, "stops")}


def test_an_estimate_is_the_same_every_time(tmp_path: Path) -> None:
    mixed = write(tmp_path / "mixed.fna", a=genes(11, 20_000), b=genes(4, 40_000), c=genes(4, 2_000))
    for name in ("one", "two"):
        prepare([mixed], tmp_path / name, AUTO)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_where_all_have_one_code_auto_gives_the_samples_of_that_code(tmp_path: Path) -> None:
    genome = write(tmp_path / "x.fna", a=genes(1, LEAST_BASES), b=genes(1, 900))
    prepare([genome], tmp_path / "auto", AUTO)
    prepare([genome], tmp_path / "plain")
    for name in ("samples.tsv", "dna.fna", "protein.faa"):
        assert (tmp_path / "auto" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    assert settings(tmp_path / "plain")["preparation"]["genetic_code"] == 1
    assert "genetic_code" not in settings(tmp_path / "plain")["sources"]["a"]


@pytest.fixture
def three(tmp_path: Path) -> Path:
    folder = tmp_path / "genomes"
    write(folder / "x.fna", x1=genes(4, 2_000), x2=genes(4, 2_000, seed=1))
    write(folder / "y.fna", y1=genes(1, 2_000))
    return folder


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("source\tgenetic_code\nx2\t4\n", {"x1": (1, "default"), "x2": (4, "table"), "y1": (1, "default")}),
        (
            "genetic_code\tnote\tgroup\n4\ta\tx\n11\tb\ty\n",
            {"x1": (4, "table"), "x2": (4, "table"), "y1": (11, "table")},
        ),
    ],
)
def test_a_table_gives_codes_to_sources_or_groups(
    tmp_path: Path, three: Path, table: str, expected: dict[str, tuple[int, str]]
) -> None:
    (tmp_path / "codes.tsv").write_text(table)

    assert (
        main(["prepare", str(three), "-o", str(tmp_path / "out"), "--genetic-code", str(tmp_path / "codes.tsv")]) == 0
    )

    assert chosen(tmp_path / "out") == expected
    numbers = sorted({STANDARD_CODE, *(code for code, _ in expected.values())})
    assert settings(tmp_path / "out")["preparation"]["genetic_code"] == ",".join(map(str, numbers))
    assert settings(tmp_path / "out")["options"]["genetic_code"] == str(tmp_path / "codes.tsv")


def test_a_table_of_the_standard_code_alone_is_one_plain_code(three: Path, tmp_path: Path) -> None:
    options = PrepareOptions(genetic_code=CodeTable("source", {"x1": 1}))
    assert options.preparation() == PrepareOptions().preparation()
    prepare([three], tmp_path / "out", options)
    assert (tmp_path / "out" / "samples.tsv").is_file()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("source\tcode\nx1\t4\n", "expected a header with source or group, and genetic_code"),
        ("sample\tgenetic_code\nx1\t4\n", "expected a header with source or group, and genetic_code"),
        ("source\tgenetic_code\nx1\n", "line 2: expected 2 fields, found 1"),
        ("source\tgenetic_code\nx1\tfour\n", "line 2: expected the number of a genetic code, found 'four'"),
        ("source\tgenetic_code\nx1\t4\nx1\t5\n", "line 3: expected code 4 for x1 as above, found 5"),
        ("source\tgenetic_code\nx1\t7\n", "Cannot translate with genetic code 7"),
        ("source\tgenetic_code\nx1\t4\nz9\t4\n", "expected names of sources of the input, found 1 that are none: z9"),
        ("group\tgenetic_code\nx1\t4\n", "expected names of groups of the input, found 1 that are none: x1"),
    ],
)
def test_wrong_tables_are_refused_and_nothing_is_written(tmp_path: Path, three: Path, table: str, message: str) -> None:
    (tmp_path / "codes.tsv").write_text(table)
    with pytest.raises(InputError, match=message):
        prepare([three], tmp_path / "out", PrepareOptions(genetic_code=read_code_table(tmp_path / "codes.tsv")))
    assert not (tmp_path / "out").exists()


def test_wrong_words_for_a_code_exit_2(three: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", str(three), "-o", str(tmp_path / "out"), "--genetic-code", "eleven"]) == 2
    assert "expected a number, auto or a table of genetic codes, found 'eleven'" in capsys.readouterr().err
    assert main(["prepare", str(three), "-o", str(tmp_path / "out"), "--genetic-code", "7"]) == 1
    assert "Cannot translate with genetic code 7" in capsys.readouterr().err
    with pytest.raises(InputError, match="expected a number, 'auto' or a table"):
        PrepareOptions(genetic_code="best")  # type: ignore[arg-type]


def test_the_codes_are_told_at_the_end(three: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", str(three), "-o", str(tmp_path / "out"), "--genetic-code", "auto"]) == 0
    assert "1 (3 sequences)" in capsys.readouterr().out


def test_virnucpros_output_has_one_code() -> None:
    for choice in ("auto", CodeTable("source", {"x": 4})):
        with pytest.raises(InputError, match="requires genetic code 1"):
            PrepareOptions(genetic_code=choice, compat="virnucpro")  # type: ignore[arg-type]


def test_codes_that_translate_alike_are_one() -> None:
    assert same_code(1, 11)
    assert same_code(27, 28)
    assert not same_code(1, 4)
    assert not same_code(4, 5)
    assert same_code(7, 7)  # an old document may state a code that is none today
    assert not same_code(7, 4)


def test_one_code_is_asked_for_where_there_are_several() -> None:
    assert PrepareOptions(genetic_code=4).code.number == 4
    with pytest.raises(InputError, match="expected a number, found auto"):
        _ = AUTO.code
