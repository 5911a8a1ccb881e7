"""The commands about classifiers: what they write, and their exit codes."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_genomes import write_genomes

from embedstore.classify.training import TrainReport
from embedstore.models.registry import MODELS
from embedstore_cli.main import main

ESM = Path(__file__).resolve().parents[1] / "data" / "esm" / "fastesm2_tiny"
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "virus.sh"


@pytest.fixture
def arguments(place: Path, report: TrainReport) -> list[str]:
    return ["--store", str(place / "store"), "--quiet"]


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    capsys.readouterr()
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_train_evaluate_predict(
    tmp_path: Path, place: Path, table: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = tmp_path / "classifier"
    choices = ["--network", "linear", "--folds", "3", "--test", "0.2", "--seed", "3", "--positive", "host"]
    code, trained = run_json(capsys, "train", table, "-m", "tnf,aac_dpc", "-o", classifier, *choices, *arguments)
    assert code == 0
    assert trained["head"] == "linear"
    assert set(trained["split"]["samples"]) == {"fold 1", "fold 2", "fold 3", "test"}
    assert trained["evaluation"]["positive"]["label"] == "host"
    code, evaluated = run_json(capsys, "evaluate", table, "-c", classifier, "-o", tmp_path / "out", *arguments)
    assert code == 0
    assert (tmp_path / "out" / "report.html").is_file()
    assert evaluated["positive"]["label"] == "host"
    assert [part["length_bases"] for part in evaluated["contigs"]] == [500, 1000, 3000]
    assert evaluated["samples"] == sum(trained["split"]["samples"].values())
    code, predicted = run_json(capsys, "predict", place / "virus", "-c", classifier, "-o", tmp_path / "p", *arguments)
    assert code == 0
    assert sum(predicted["sequences_called"].values()) == 10


def test_an_offline_machine_predicts_with_weights_of_a_folder(
    tmp_path: Path,
    place: Path,
    table: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(MODELS, "fastesm2_650", replace(MODELS["fastesm2_650"], dim=64, layers=3))
    store = tmp_path / "store"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    models = ["-m", "tnf", "-m", "fastesm2_650", "--weights", ESM, "--fill"]
    trained = [
        "train",
        table,
        *models,
        "-o",
        tmp_path / "c",
        "--folds",
        "2",
        "-q",
        "--store",
        store,
    ]
    assert main([*map(str, trained)]) == 0
    given = ["predict", place / "virus", "-c", tmp_path / "c", "-q"]
    fresh = [*given, "-o", tmp_path / "fresh", "--store", tmp_path / "fresh-store", "--weights", f"fastesm2_650={ESM}"]
    code, predicted = run_json(capsys, *fresh)
    assert code == 0
    assert [filled["space"]["name"] for filled in predicted["filled"]] == ["tnf", "fastesm2_650"]
    code, again = run_json(capsys, *given, "-o", tmp_path / "again", "--weights", ESM, "--store", store)
    assert (code, again["sequences_called"]) == (0, predicted["sequences_called"])
    missing = [*given, "-o", tmp_path / "no", "--store", tmp_path / "no", "--weights", "tnf=x"]
    assert main([*map(str, missing)]) == 2


def test_a_classifier_is_replaced_only_by_force(
    tmp_path: Path, table: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["train", str(table), "-m", "tnf", "-m", "aac_dpc", "-o", str(tmp_path / "c"), "--folds", "2", *arguments]
    assert main(given) == 0
    before = (tmp_path / "c" / "classifier.json").read_bytes()
    assert main([*given, "--seed", "5"]) == 1
    assert "give --force if you are sure" in capsys.readouterr().err
    assert (tmp_path / "c" / "classifier.json").read_bytes() == before
    assert main([*given, "--seed", "5", "--force"]) == 0
    assert (tmp_path / "c" / "classifier.json").read_bytes() != before


def test_progress_goes_to_standard_error(
    tmp_path: Path, table: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    loud = [one for one in arguments if one != "--quiet"]
    assert main(["train", str(table), "-m", "tnf", "-o", str(tmp_path / "c"), "--folds", "2", *loud]) == 0
    shown = capsys.readouterr()
    assert "log loss" in shown.err
    assert "samples: fold 1" in shown.err
    assert "virus AUROC" in shown.out
    assert "contigs of 1,000 bases" in shown.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "3"], "--epochs only has a meaning with --head mlp, found --head linear"),
        (["--head", "trees", "--input-dropout", "0.5"], "--input-dropout only has a meaning with --head mlp"),
        (["--head", "mlp", "--strength", "3"], "--strength only has a meaning with --head linear, found --head mlp"),
        (["--validation", "0.1"], "No such option"),
    ],
)
def test_options_without_a_meaning_are_wrong_usage(
    tmp_path: Path,
    table: Path,
    arguments: list[str],
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", str(table), "-m", "tnf", "-o", str(tmp_path / "c"), *options, *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not (tmp_path / "c").exists()


def test_a_larger_head_is_held_against_the_simple_one(
    tmp_path: Path, table: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    loud = [one for one in arguments if one != "--quiet"]
    choices = ["--head", "mlp", "--members", "1", "--epochs", "2", "--folds", "3"]
    assert main(["train", str(table), "-m", "tnf", "-o", str(tmp_path / "c"), *choices, *loud]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "This head does not beat the simple one (linear) on the same folds; use that one (AUROC" in shown
    page = (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    assert "does not beat the simple one" in page
    assert "Loss of each epoch" in page


def test_rejected_records_make_exit_code_3(tmp_path: Path, report: TrainReport, arguments: list[str]) -> None:
    write_genomes(tmp_path, "virus", genomes=1)
    (tmp_path / "odd.fna").write_text(">odd\nAC-GT\n", encoding="ascii")
    assert main(["predict", str(tmp_path), "-c", str(report.output), "-o", str(tmp_path / "p"), *arguments]) == 3


@pytest.mark.parametrize("option", [["--length", "500"], ["--genetic-code", "4"], ["--models", "aac_dpc,tnf"]])
def test_mismatch_is_exit_code_1_and_names_both_sides(
    tmp_path: Path,
    place: Path,
    report: TrainReport,
    arguments: list[str],
    option: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["predict", str(place / "virus"), "-c", str(report.output), "-o", str(tmp_path / "p"), *option]
    assert main([*command, *arguments]) == 1
    message = capsys.readouterr().err
    assert "expected" in message
    assert "found" in message
    assert not (tmp_path / "p").exists()


def test_import_of_something_else_is_exit_code_1(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "model.pth").write_bytes(b"no model")
    command = ["import-classifier", str(tmp_path / "model.pth"), "--dna", "tnf", "--protein", "aac_dpc"]
    assert main([*command, "--length", "300", "-o", str(tmp_path / "c"), *arguments]) == 1
    assert not (tmp_path / "c").exists()


def test_example_runs_from_genomes_to_predictions(tmp_path: Path, place: Path, table: Path) -> None:
    environment = {**os.environ, "OUT": str(tmp_path / "out"), "SEEDS": "1", "LENGTH": "300", "OMP_NUM_THREADS": "1"}
    folders = [str(place / "virus"), str(place / "host")]
    done = subprocess.run([str(EXAMPLE), *folders], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "contigs of 1,000 bases" in done.stdout
    assert (tmp_path / "out" / "predictions" / "contigs.tsv").is_file()
