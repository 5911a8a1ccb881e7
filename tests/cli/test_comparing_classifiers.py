"""`embedstore compare -c A -c B`: trained classifiers on the same samples, of groups that made neither."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedstore_cli.main import main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, labelled samples, others of other genomes, and two classifiers."""
    place = tmp_path_factory.mktemp("classifiers")
    generator = np.random.default_rng(1)
    for part in ("known", "new"):
        for label, rates in (("host", [0.1, 0.4, 0.4, 0.1]), ("virus", [0.3, 0.2, 0.2, 0.3])):
            folder = place / part / label
            folder.mkdir(parents=True)
            for number in range(7):
                bases = "".join(generator.choice(list("ACGT"), 1200, p=rates))
                bases = bases.replace("TAA", "CAA").replace("TAG", "CAG").replace("TGA", "CGA")
                (folder / f"{part}_{label}{number}.fna").write_text(f">{label}{number}\n{bases}\n", encoding="ascii")
        inputs = [f"{label}={place / part / label}" for label in ("host", "virus")]
        assert main(["prepare", *inputs, "-o", str(place / f"{part}_samples"), "--length", "300", "--quiet"]) == 0
    for model in ("tnf", "aac_dpc"):
        arguments = [str(place / "known_samples" / "samples.tsv"), "-m", model, "-o", str(place / model)]
        how = ["--folds", "2", "--test", "0.3", "--fill", "--store", str(place / "store"), "--quiet"]
        assert main(["train", *arguments, *how]) == 0
    return place


def compare(place: Path, samples: str, output: Path, *more: str) -> int:
    table = str(place / f"{samples}_samples" / "samples.tsv")
    return main(["compare", table, "-o", str(output), "--store", str(place / "store"), *more])


def _auroc(document: dict[str, Any]) -> float:
    return float(document["metrics"]["auroc"]["value"])


def test_each_is_scored_as_it_is_and_differences_are_paired(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["-c", str(place / "tnf"), "-c", str(place / "aac_dpc"), "--fill"]
    assert compare(place, "new", tmp_path / "out", *both, "--json", "--quiet") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert found["left_out"] == {"samples": 0, "groups_seen_in_training": []}
    old, new = found["classifiers"]
    assert (old["name"], old["spaces"], new["dim"]) == ("tnf", ["tnf"], 420)
    (difference,) = found["differences"]
    assert (difference["of"], difference["minus"]) == ("aac_dpc", "tnf")
    assert difference["metrics"]["auroc"]["value"] == pytest.approx(_auroc(new) - _auroc(old))
    table = str(place / "new_samples" / "samples.tsv")
    assert main(["evaluate", table, "-c", str(place / "tnf"), "--store", str(place / "store"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["auroc"] == pytest.approx(_auroc(old))


def test_a_classifier_does_not_differ_from_itself(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = ["-c", str(place / "tnf"), "-c", str(place / "tnf"), "--fill"]
    assert compare(place, "new", tmp_path / "out", *twice) == 0
    shown = capsys.readouterr()
    assert "tnf (2) − tnf (1)" in shown.out
    metrics = json.loads((tmp_path / "out" / "comparison.json").read_text())["differences"][0]["metrics"]
    assert {metric["value"] for metric in metrics.values()} <= {0.0, None}


def test_groups_that_made_one_of_them_are_left_out_and_counted(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["-c", str(place / "tnf"), "-c", str(place / "aac_dpc")]
    assert compare(place, "known", tmp_path / "out", *both) == 0
    assert "others were left out, as their groups made one of the classifiers" in capsys.readouterr().err
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    document = json.loads((place / "tnf" / "classifier.json").read_text())
    split = json.dumps(document)
    assert all(f'"{group}"' in split for group in found["left_out"]["groups_seen_in_training"])
    assert 0 < found["samples"] < found["left_out"]["samples"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-c", "a"], "-c old -c new"),
        (["-c", "a", "-c", "b", "-m", "tnf"], "not both"),
        (["-m", "tnf"], "twice or more"),
        ([], "twice or more"),
    ],
)
def test_what_cannot_be_compared_is_wrong_usage(
    place: Path, tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(place, "new", tmp_path / "out", *more) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_predict_computes_with_workers(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["predict", str(place / "new" / "virus"), "-c", str(place / "tnf"), "--store", str(tmp_path / "store")]
    assert main([*arguments, "-o", str(tmp_path / "one"), "--workers", "2", "--json", "--quiet"]) == 0
    filled = json.loads(capsys.readouterr().out)["filled"]
    assert filled[0]["computed"] == filled[0]["unique"] > 0
    assert main([*arguments, "-o", str(tmp_path / "two"), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["filled"][0]["computed"] == 0
    tables = [(tmp_path / name / "predictions.tsv").read_bytes() for name in ("one", "two")]
    assert tables[0] == tables[1]
