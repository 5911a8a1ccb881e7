"""Files, folders and labels; groups and ids; and a folder that gets all files or none."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from reading_outputs import FILES, contents, fasta, rows, settings

from embedstore.errors import InputError, MoleculeError, SequenceFileError
from embedstore.samples import LabelledInput, PrepareOptions, prepare
from embedstore.samples.cutting import WINDOW_BASES
from embedstore.samples.sources import parse_input, stem_of
from embedstore.sequences.translation import even_chunks

OPEN = "ACGACGACGACG"
OPTIONS = PrepareOptions(length_bases=12, min_length_bases=0)


def write(path: Path, **records: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f">{name}\n{bases}\n" for name, bases in records.items()))
    return path


@pytest.fixture
def genomes(tmp_path: Path) -> Path:
    folder = tmp_path / "genomes"
    write(folder / "flu.fna", segment1=OPEN, segment2=OPEN)
    write(folder / "deep" / "mers.fa", mers=OPEN)
    write(folder / "deep" / "proteins.faa", protein="MKV")
    write(folder / ".hidden" / "other.fna", hidden=OPEN)
    (folder / "README.md").write_text("not a sequence")
    return folder


def columns(folder: Path, *names: str) -> set[tuple[str, ...]]:
    return {tuple(row[name] for name in names) for row in rows(folder)}


def test_files_of_a_folder_are_groups_and_records_of_a_named_file_are(genomes: Path, tmp_path: Path) -> None:
    report = prepare([f"virus={genomes}", f"virus={genomes / 'flu.fna'}"], tmp_path / "out", OPTIONS)

    assert columns(tmp_path / "out", "source", "group", "label") == {
        ("mers", "mers", "virus"),
        ("segment1", "flu", "virus"),
        ("segment2", "flu", "virus"),
        ("segment1~2", "segment1~2", "virus"),
        ("segment2~2", "segment2~2", "virus"),
    }
    assert sorted(Path(name).name for name in report.skipped) == ["README.md", "proteins.faa"]
    assert settings(tmp_path / "out")["skipped_files"] == list(report.skipped)


@pytest.mark.parametrize(("group_by", "groups"), [("file", {("flu",)}), ("record", {("segment1",), ("segment2",)})])
def test_group_by_decides_for_all_inputs(genomes: Path, tmp_path: Path, group_by: str, groups: object) -> None:
    options = PrepareOptions(length_bases=12, min_length_bases=0, group_by=group_by)  # type: ignore[arg-type]
    prepare([genomes / "flu.fna"], tmp_path / "out", options)
    assert columns(tmp_path / "out", "group") == groups


def test_files_of_one_name_are_two_groups(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write(tmp_path / "genomes" / folder / "t4.fna", **{f"of_{folder}": OPEN})
    prepare([tmp_path / "genomes"], tmp_path / "out", OPTIONS)
    assert columns(tmp_path / "out", "source", "group") == {("of_a", "t4"), ("of_b", "t4~2")}


def test_repeated_and_missing_ids_are_distinguished(tmp_path: Path) -> None:
    (tmp_path / "x.fna").write_text("".join(f">{name}\n{OPEN}\n" for name in ("a", "a", "a~2", "", "a", "")))

    prepare([tmp_path / "x.fna"], tmp_path / "out", OPTIONS)

    sources = list(dict.fromkeys(row["source"] for row in rows(tmp_path / "out")))
    assert sources == ["a", "a~2", "a~2~2", "unnamed", "a~3", "unnamed~2"]
    samples = [row["sample"] for row in rows(tmp_path / "out")]
    assert len(set(samples)) == len(samples)


def test_an_id_is_never_a_path(tmp_path: Path) -> None:
    (tmp_path / "x.fna").write_text(f">../../evil\n{OPEN}\n>/etc/passwd\n{OPEN}\n")
    for compat in (None, "virnucpro"):
        prepare([tmp_path / "x.fna"], tmp_path / "out" / str(compat), PrepareOptions(length_bases=12, compat=compat))  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "x.fna"]


def test_without_a_label_samples_are_unlabelled(genomes: Path, tmp_path: Path) -> None:
    prepare([genomes], tmp_path / "out", OPTIONS)
    assert columns(tmp_path / "out", "label") == {("",)}


def test_labels_and_paths_are_distinguished(tmp_path: Path) -> None:
    odd = write(tmp_path / "a=b.fna", x=OPEN)

    assert parse_input(str(odd)) == LabelledInput(str(odd))
    assert parse_input(f"virus={odd}") == LabelledInput(str(odd), "virus")
    assert parse_input("virus=-") == LabelledInput("-", "virus")
    assert parse_input(Path("virus=absent.fna")) == LabelledInput("virus=absent.fna")
    with pytest.raises(InputError, match="Cannot label x"):
        parse_input("vi\trus=x")


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("x/T4.fna.gz", "T4"),
        ("NC_1.2.fa", "NC_1.2"),
        ("a.b", "a.b"),
        ("-", "stdin"),
        ("x.FASTA.zst", "x"),
        ("a\tb.fa", "a_b"),
    ],
)
def test_the_stem_of_a_file_names_its_group(path: str, stem: str) -> None:
    assert stem_of(path) == stem


def test_ids_are_the_same_whatever_else_is_in_the_input(genomes: Path, tmp_path: Path) -> None:
    prepare([genomes / "deep" / "mers.fa"], tmp_path / "alone", OPTIONS)
    prepare([genomes], tmp_path / "all", OPTIONS)

    alone = (tmp_path / "alone" / "samples.tsv").read_text().splitlines()
    assert set(alone) <= set((tmp_path / "all" / "samples.tsv").read_text().splitlines())


def test_what_is_not_dna_is_rejected_by_record(tmp_path: Path) -> None:
    mixed = write(tmp_path / "x.fna", good=OPEN, gap="ACG-ACG", also_good=OPEN, protein="MEEPQSDLLF")

    report = prepare([mixed], tmp_path / "out", OPTIONS)

    assert [(one.id, one.line) for one in report.rejected] == [("gap", 3), ("protein", 7)]
    assert not report.complete
    assert columns(tmp_path / "out", "source") == {("good",), ("also_good",)}
    assert [one["id"] for one in settings(tmp_path / "out")["rejected"]] == ["gap", "protein"]


def test_proteins_are_refused_with_a_hint(tmp_path: Path) -> None:
    proteins = write(tmp_path / "x.faa", a="MEEPQSDLLF", b="MKVLEEPQ")
    with pytest.raises(MoleculeError, match="expected DNA, found that 2 of the first 2 records are proteins"):
        prepare([proteins], tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda folder: [], InputError, "Give at least one file or folder"),
        (lambda folder: [folder / "absent.fna"], SequenceFileError, "absent.fna"),
        (lambda folder: [write(folder / "empty" / "a.faa", x="MK").parent], InputError, "found no file in it"),
        (lambda folder: ["-", "virus=-"], SequenceFileError, "more than once"),
    ],
)
def test_wrong_inputs_write_nothing(tmp_path: Path, make: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        prepare(make(tmp_path), tmp_path / "out", OPTIONS)  # type: ignore[operator]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong", [{"length_bases": 2}, {"genetic_code": 7}, {"min_length_bases": 501}, {"min_length_bases": -1}]
)
def test_options_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="Cannot"):
        PrepareOptions(**wrong)  # type: ignore[arg-type]


def test_an_error_midway_leaves_what_was_there_before(genomes: Path, tmp_path: Path) -> None:
    prepare([genomes / "flu.fna"], tmp_path / "out", OPTIONS)
    before = contents(tmp_path / "out")
    (tmp_path / "text.fna").write_text("this is no sequence file at all\n")

    with pytest.raises(SequenceFileError):
        prepare([genomes / "deep" / "mers.fa", tmp_path / "text.fna"], tmp_path / "out", OPTIONS)

    assert contents(tmp_path / "out") == before


def test_a_second_run_replaces_the_first(genomes: Path, tmp_path: Path) -> None:
    prepare([genomes / "flu.fna"], tmp_path / "out", OPTIONS)
    prepare([genomes / "deep" / "mers.fa"], tmp_path / "out", OPTIONS)

    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert columns(tmp_path / "out", "source") == {("mers",)}


def test_the_same_input_gives_the_same_bytes(genomes: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        prepare([genomes], tmp_path / name, OPTIONS)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_folder_that_cannot_be_written_is_refused(genomes: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Cannot write into"):
        prepare([genomes], tmp_path / "file", OPTIONS)


def test_a_killed_run_leaves_no_file_under_its_name(tmp_path: Path) -> None:
    command = "import sys; from embedstore import prepare; prepare(['-'], sys.argv[1])"
    with subprocess.Popen([sys.executable, "-c", command, str(tmp_path / "out")], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b">a\n" + b"ACGACGACGACGACGACGAC\n" * 200_000 + b">b\nACG")
        process.stdin.flush()
        deadline = time.monotonic() + 30
        while not list((tmp_path / "out").glob(".prepare-*/samples.tsv")) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.stdin.close()
    assert [path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")] == []


def test_chunks_of_one_long_sequence_do_not_depend_on_where_windows_end(tmp_path: Path) -> None:
    bases = "".join(random.Random(5).choices("ACG", k=WINDOW_BASES * 2 + 12_345))  # without T no frame has a stop
    write(tmp_path / "long.fna", long=bases)

    report = prepare([tmp_path / "long.fna"], tmp_path / "out")

    bounds = even_chunks(len(bases), 500).tolist()
    assert report.counts.samples == 6 * report.counts.chunks == 6 * len(bounds)
    first_frames = [row for row in rows(tmp_path / "out") if (row["strand"], row["frame"]) == ("+", "1")]
    assert [int(row["start"]) - 1 for row in first_frames] == [start for start, _ in bounds]
    dna = dict(fasta(tmp_path / "out" / "dna.fna"))
    assert all(dna[row["sample"]] == bases[int(row["start"]) - 1 : int(row["end"])] for row in first_frames)


def test_a_folder_for_temporary_files_is_not_needed(
    genomes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    monkeypatch.setattr("embedstore.samples.preparing._SPOOLED_BYTES", 1)
    assert prepare([genomes], tmp_path / "out", OPTIONS).counts.samples > 0
    assert sorted(settings(tmp_path / "out")["sources"]) == ["mers", "segment1", "segment2"]
