"""`embedstore compare`, from genomes to a report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from embedstore_cli.main import main


@pytest.fixture(autouse=True)
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Table of samples of genomes of two kinds, and an empty place for the store."""
    monkeypatch.setenv("EMBEDSTORE_PATH", str(tmp_path / "store"))
    generator = np.random.default_rng(1)
    for label, rates in (("host", [0.1, 0.4, 0.4, 0.1]), ("virus", [0.3, 0.2, 0.2, 0.3])):
        (tmp_path / label).mkdir()
        for number in range(8):
            residues = "".join(generator.choice(list("ACGT"), 1800, p=rates))
            residues = residues.replace("TAA", "CAA").replace("TAG", "CAG").replace("TGA", "CGA")
            (tmp_path / label / f"{label}{number}.fna").write_text(f">{label}{number}\n{residues}\n", encoding="ascii")
    inputs = [f"{label}={tmp_path / label}" for label in ("host", "virus")]
    assert main(["prepare", *inputs, "-o", str(tmp_path / "samples"), "--length", "300", "--quiet"]) == 0
    return tmp_path / "samples" / "samples.tsv"


def test_two_models_alone_and_together(samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = ["--models", "tnf", "--models", "aac_dpc", "--models", "tnf,aac_dpc"]
    arguments = ["compare", str(samples), *sets, "--folds", "2", "--seeds", "1"]
    assert main([*arguments, "-o", str(tmp_path / "missing")]) == 1
    assert not (tmp_path / "missing").exists()
    assert main([*arguments, "--fill", "-o", str(tmp_path / "report"), "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "report" / "comparison.json").read_text(encoding="utf-8"))
    assert [some["dim"] for some in found["sets"]] == [136, 420, 556]
    by_base, by_residue = (space["seconds_per_residue"] for space in found["spaces"])
    assert found["sets"][2]["seconds_per_residue"] == pytest.approx(3 * by_base + by_residue)
    assert main([*arguments, "-o", str(tmp_path / "report")]) == 0
    captured = capsys.readouterr()
    assert "Every space has all of them." in captured.err
    assert "tnf + aac_dpc − tnf" in captured.out


def test_one_set_is_wrong_usage(samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(samples), "--models", "tnf,aac_dpc", "-o", str(tmp_path / "report")]) == 2
    assert "twice or more" in capsys.readouterr().err
