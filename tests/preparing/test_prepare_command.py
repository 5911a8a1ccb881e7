"""`embedstore prepare`: options, JSON, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reading_outputs import FILES, rows, settings

from embedstore_cli.main import main


@pytest.fixture
def genome(tmp_path: Path) -> Path:
    (tmp_path / "genome.fna").write_text(">a\n" + "ACGGCC" * 100 + "\n>b\n" + "ACGGCC" * 5 + "\n")
    return tmp_path / "genome.fna"


def test_files_are_written_and_counted(genome: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["prepare", f"virus={genome}", "-o", str(tmp_path / "out"), "--length", "300", "--json"])

    document = json.loads(capsys.readouterr().out)
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert document["samples"] == len(rows(tmp_path / "out")) == document["samples_by_label"]["virus"] > 0
    assert document["chunks"] == 3
    assert document["dropped"]["shorter than the minimal length"] == 1
    assert {name: value for name, value in settings(tmp_path / "out").items() if name != "sources"} == document
    assert document["options"] == {
        "length": 300,
        "genetic_code": 1,
        "min_length": 60,
        "group_by": None,
        "compat": None,
    }
    assert document["preparation"] == {
        "chunk_length": 300,
        "genetic_code": 1,
        "frames": "stop-free",
        "compat": None,
    }


def test_a_rejected_record_is_reported_and_exits_3(
    genome: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    genome.write_text(genome.read_text() + ">c\nACG-\n")

    assert main(["prepare", str(genome), "-o", str(tmp_path / "out")]) == 3
    told = capsys.readouterr()
    assert "c: '-' at position 4 is not valid in a dna sequence" in told.err
    assert "1 records" in told.out


def test_an_error_exits_1_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", str(tmp_path / "absent.fna"), "-o", str(tmp_path / "out")]) == 1
    assert "absent.fna" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_wrong_usage_exits_2(genome: Path, tmp_path: Path) -> None:
    for wrong in (["--compat", "other"], ["--length", "2"], ["--group-by", "genus"]):
        assert main(["prepare", str(genome), "-o", str(tmp_path / "out"), *wrong]) == 2


def test_compat_writes_virnucpros_files(genome: Path, tmp_path: Path) -> None:
    assert main(["prepare", str(genome), "-o", str(tmp_path / "out"), "--compat", "virnucpro", "--quiet"]) == 0
    assert (tmp_path / "out" / "genome_chunked500.fa").read_text().startswith(">a_chunk_1\n")
    assert settings(tmp_path / "out")["preparation"]["compat"] == "virnucpro"
