"""`tune` and `bench`: what they report, what they keep, and what uses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedstore.errors import InputError, MoleculeError
from embedstore.filling import find_target, preview
from embedstore.measuring import BuiltIn, Sample, bench, sample_records
from embedstore.models import ModelOptions, resolve
from embedstore.models.machine import kept_file, kept_rate
from embedstore.records import Record
from embedstore.sequences import read
from embedstore_cli.main import main

DATA = Path(__file__).resolve().parents[1] / "data"
ESM = DATA / "esm" / "fastesm2_tiny"
PROTEINS = Path(__file__).resolve().parents[2] / "examples" / "proteins.faa"


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EMBEDSTORE_PATH", str(tmp_path / "store"))


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_tune_prints_the_curve_and_keeps_the_choice(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "tune", "--model", ESM, PROTEINS, "--seconds", 0.01, "--quiet")
    (chosen,) = [entry for entry in found["curve"] if entry["chosen"]]
    embedder = resolve(str(ESM)).load("cpu")
    assert embedder.workers == chosen["workers"]
    assert embedder.pack_residues == chosen["pack_tokens"]
    assert found["kept_in"] == str(kept_file())
    assert (found["dtype"], found["workload"]) == ("float32", "the input")
    assert {"pack_tokens", "workers", "threads", "residues_per_second", "fits", "default"} < set(chosen)


def test_tune_writes_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--model", str(ESM), "--seconds", "0.01"]) == 0
    captured = capsys.readouterr()
    assert "chosen" in captured.out
    assert "measuring 512 tokens" in captured.err
    assert "proteins of realistic lengths; kept in" in captured.err


def test_a_built_in_model_has_nothing_to_tune(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--model", "tnf"]) == 1
    assert "it is built in and has no settings" in capsys.readouterr().err


def test_bench_compares_with_matrix_products_and_with_a_fill(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "bench", "--model", ESM, PROTEINS, "--seconds", 0.05)
    assert found["residues_per_second"] > 0
    assert found["matmul_gflops"] > 0
    assert 0 < found["share_of_matmul"] < 2
    assert found["fill_to_model"] > 0.2
    residues = sum(len(record.sequence.split()) and len(b"".join(record.sequence.split())) for record in records())
    expected = residues / found["residues_per_second"] * found["fill_to_model"]
    assert found["input"] == {
        "records": 14,
        "unique": 14,
        "residues": residues,
        "projected_seconds": pytest.approx(expected, rel=1e-2),
    }
    assert main(["bench", "--model", str(ESM), str(PROTEINS), "--seconds", "0.01"]) == 0
    assert "14 distinct sequences" in capsys.readouterr().out


def records() -> list[Record]:
    return [record for record in read([str(PROTEINS)]) if isinstance(record, Record)]


def test_bench_measures_built_in_models_too() -> None:
    found = bench(resolve("tnf"), seconds=0.01)
    assert (found.share_of_matmul, found.projected_seconds) == (None, None)
    assert kept_rate(resolve("tnf").recipe) == found.residues_per_second


def test_a_dry_run_without_history_estimates_by_what_bench_measured() -> None:
    target = find_target(None, str(ESM), ModelOptions())
    unknown = preview(read([str(PROTEINS)]), target).dry_run
    assert unknown is not None
    assert unknown.estimated_seconds is None
    measured = bench(resolve(str(ESM)), seconds=0.01)
    known = preview(read([str(PROTEINS)]), target).dry_run
    assert known is not None
    residues = sum(len(b"".join(record.sequence.split())) for record in records())
    assert known.estimated_seconds == pytest.approx(residues / measured.residues_per_second)


def test_built_in_lengths_are_those_of_proteins() -> None:
    proteins = BuiltIn("protein").take(400_000)
    lengths = np.array([len(protein) for protein in proteins])
    assert 300 < lengths.mean() < 380
    assert lengths.min() >= 30
    assert lengths.max() <= 1022
    assert len(set(proteins)) == len(proteins)
    assert {len(chunk) for chunk in BuiltIn("dna").take(3000)} == {500}


def sample(*sequences: str) -> Sample:
    found = [Record(f"r{number}", sequence.encode(), "a.faa", number) for number, sequence in enumerate(sequences)]
    return sample_records(found, resolve("aac_dpc"))


def test_a_sample_counts_what_a_fill_would_compute() -> None:
    found = sample("MKV", "mkv", "MKVL", "M-V")
    assert (found.records, found.unique, sorted(found.sequences)) == (3, 2, [b"MKV", b"MKVL"])
    assert found.residues == round(10 * 2 / 3)


def test_a_small_sample_goes_on_with_the_same_lengths() -> None:
    taken = sample("MKVLARNDCEQGHILKM", "ACDEFGHIKL").take(500)
    assert 400 < sum(map(len, taken)) <= 520
    assert {len(sequence) for sequence in taken} == {10, 17}
    assert len(set(taken)) == len(taken)


def test_very_long_sequences_are_cut_but_counted_completely() -> None:
    found = sample("MKVL" * 10_000)
    assert found.residues == 40_000
    assert [len(sequence) for sequence in found.sequences] == [20_000]


def test_a_sample_fits_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedstore.measuring.speed._SAMPLE_RESIDUES", 1000)
    draw = np.random.default_rng(0)
    found = sample(*("".join(draw.choice(list("ACDEFGHIKL"), 50)) for _ in range(400)))
    assert found.residues == 20_000
    assert 500 <= sum(map(len, found.sequences)) <= 1000


def test_an_input_without_sequences_or_of_the_other_molecule_is_refused() -> None:
    with pytest.raises(InputError, match="found none"):
        sample("M-V")
    with pytest.raises(MoleculeError):
        sample("ACGT" * 30)
