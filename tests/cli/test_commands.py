"""The commands, run in this process: what they write, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedstore.library import Store
from embedstore_cli.main import main

PROTEINS = Path(__file__).resolve().parents[2] / "examples" / "proteins.faa"
DNA = ">a\nACGTACGTAAGGCTTTACGATCGATCGGCTAGCTAGGCTAGCTAGCTAGCTAGGATCGATATT\n"


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the store is to be, by default; it is not made yet."""
    monkeypatch.setenv("EMBEDSTORE_PATH", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "store"


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    capsys.readouterr()
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def fasta(*sequences: str) -> Path:
    path = Path("input.faa")
    path.write_text("".join(f">s{number}\n{sequence}\n" for number, sequence in enumerate(sequences, start=1)))
    return path


def test_fill_computes_once(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    code, report = run_json(capsys, "fill", PROTEINS, "--model", "aac_dpc")
    assert code == 0
    assert (report["read"], report["unique"], report["hits"], report["computed"]) == (14, 14, 0, 14)
    assert report["space"] == {"name": "aac_dpc", "id": report["space"]["id"], "dim": 420, "dtype": "float32"}
    assert store.is_dir()
    code, report = run_json(capsys, "fill", PROTEINS, PROTEINS, "--model", "aac_dpc")
    assert (code, report["read"], report["hits"], report["computed"]) == (0, 28, 14, 0)


def test_fill_says_what_it_did(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    assert main(["fill", str(PROTEINS), "--model", "aac_dpc"]) == 0
    captured = capsys.readouterr()
    assert f"Made a store at {store}." in captured.err
    assert "14 records, 14 distinct sequences" in captured.out
    assert main(["fill", str(PROTEINS), "--model", "aac_dpc", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_fill_lists_the_first_rejections_and_exits_3(capsys: pytest.CaptureFixture[str]) -> None:
    path = fasta("MKV", *["M-V"] * 25)
    assert main(["fill", str(path), "--model", "aac_dpc"]) == 3
    errors = capsys.readouterr().err.splitlines()
    assert errors[1] == (
        "rejected input.faa:3 s2: '-' at position 2 is not valid in a protein sequence "
        "(allowed: the 20 amino acids and B J O U X Z)"
    )
    assert sum(line.startswith("rejected") for line in errors) == 20
    assert errors[-1] == "… and 5 more rejected; --json lists all"
    code, report = run_json(capsys, "fill", path, "--model", "aac_dpc")
    assert (code, len(report["rejected"])) == (3, 25)


def test_fill_reports_what_the_model_has_no_vector_for(capsys: pytest.CaptureFixture[str]) -> None:
    code, report = run_json(capsys, "fill", fasta("MKV", "XX"), "--model", "aac_dpc")
    assert code == 3
    assert [item["id"] for item in report["failed"]] == ["s2"]


def test_dry_run_counts_and_makes_nothing(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    code, report = run_json(capsys, "fill", PROTEINS, "--model", "aac_dpc", "--dry-run")
    assert (code, report["hits"], report["misses"], report["dry_run"]) == (0, 0, 14, True)
    assert not store.exists()
    main(["fill", str(PROTEINS), "--model", "aac_dpc"])
    code, report = run_json(capsys, "fill", PROTEINS, "--model", "aac_dpc", "--dry-run")
    assert (code, report["hits"], report["misses"], report["estimated_seconds"]) == (0, 14, 0, 0)
    assert main(["fill", str(PROTEINS), "--model", "aac_dpc", "--dry-run"]) == 0


def test_fill_under_another_name(capsys: pytest.CaptureFixture[str]) -> None:
    _, report = run_json(capsys, "fill", PROTEINS, "--model", "aac_dpc", "--name", "mine")
    assert report["space"]["name"] == "mine"
    assert main(["fill", str(PROTEINS), "--model", "aac_dpc"]) == 0
    assert "Using space mine" in capsys.readouterr().err
    assert main(["fill", str(PROTEINS), "--model", "aac_dpc", "--name", "other"]) == 1
    assert main(["fill", str(PROTEINS), "--model", "aac_dpc", "--precision", "half", "--name", "mine"]) == 1
    assert "precision" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["npz", "h5", "zarr"])
def test_get_writes_a_file(capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    main(["fill", str(PROTEINS), "--model", "aac_dpc"])
    code, written = run_json(capsys, "get", PROTEINS, "--model", "aac_dpc", "-o", f"x.{suffix}")
    assert (code, written["rows"], written["output"]) == (0, 14, f"x.{suffix}")
    assert Path(f"x.{suffix}").exists()


def test_get_keeps_the_order_and_leaves_out_what_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    path = fasta("MKV", "M-V", "MRT", "MKV")
    assert main(["fill", str(path), "--model", "aac_dpc"]) == 3
    assert main(["get", str(path), "--model", "aac_dpc", "-o", "x.npz"]) == 3
    assert "rejected input.faa:3 s2" in capsys.readouterr().err
    with np.load("x.npz") as found:
        assert found["ids"].tolist() == ["s1", "s3", "s4"]
        np.testing.assert_array_equal(found["X"][0], found["X"][2])


def test_get_names_what_is_missing_unless_it_may_fill(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fill", str(fasta("MKV")), "--model", "aac_dpc"])
    path = fasta("MKV", "MRT")
    assert main(["get", str(path), "--model", "aac_dpc", "-o", "x.npz"]) == 1
    assert "does not have 1 of 2 requested sequences: s2" in capsys.readouterr().err
    assert not Path("x.npz").exists()
    code, written = run_json(capsys, "get", path, "--model", "aac_dpc", "-o", "x.npz", "--fill")
    assert (code, written["rows"]) == (0, 2)


def test_get_fill_works_on_a_fresh_machine(store: Path) -> None:
    assert main(["get", str(PROTEINS), "--model", "aac_dpc", "-o", "x.npz", "--fill", "-q"]) == 0
    assert len(Store.open(store).space("aac_dpc")) == 14


def test_ls_and_info_list_spaces(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    main(["init", str(store)])
    assert run_json(capsys, "ls") == (0, [])
    main(["fill", str(PROTEINS), "--model", "aac_dpc"])
    code, (space,) = run_json(capsys, "ls")
    assert code == 0
    assert set(space) == {"name", "id", "molecule", "dim", "dtype", "rows", "bytes", "segments"}
    assert (space["name"], space["rows"], space["segments"]) == ("aac_dpc", 14, 1)
    code, details = run_json(capsys, "info", space["id"][:12])
    assert code == 0
    assert {"recipe", "dim", "dtype", "rows", "bytes", "segments", "compute_seconds"} <= set(details)
    code, whole = run_json(capsys, "info")
    assert whole["spaces"] == [details]
    assert whole["segment_format"] == "zarr"
    assert main(["ls"]) == main(["info"]) == main(["info", "aac_dpc"]) == 0
    shown = capsys.readouterr()
    assert "14 of 420 float32" in shown.out
    assert f"{store}: 1 space, 14 vectors, " in shown.err


def test_models_says_under_which_licence_weights_are(capsys: pytest.CaptureFixture[str]) -> None:
    _, models = run_json(capsys, "models")
    licences = {model["name"]: model["licence"] for model in models}
    assert (licences["ankh_base"], licences["esm2_t6_8m"]) == ("CC-BY-NC-SA-4.0", "MIT")
    assert main(["models"]) == 0
    assert "CC-BY-NC-SA-4.0" in capsys.readouterr().out


def test_models_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    code, models = run_json(capsys, "models")
    assert code == 0
    assert {"name": "tnf", "molecule": "dna", "dim": 136}.items() <= models[0].items()
    assert main(["models"]) == 0
    assert "esm2_t33_650m" in capsys.readouterr().out


def test_verify_tells_damage(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    main(["init", str(store), "--format", "hdf5"])
    main(["fill", str(PROTEINS), "--model", "aac_dpc"])
    code, report = run_json(capsys, "verify", "--deep")
    assert (code, report["clean"], report["problems"]) == (0, True, [])
    (segment,) = store.glob("spaces/*/data/*.h5")
    content = bytearray(segment.read_bytes())
    content[-1] ^= 1
    segment.write_bytes(content)
    code, report = run_json(capsys, "verify", "--deep")
    assert (code, report["clean"]) == (1, False)
    assert {segment.relative_to(store).as_posix()} == {problem["file"] for problem in report["problems"]}
    assert main(["verify", "--deep"]) == 1
    assert "Problems: " in capsys.readouterr().err


def test_init_chooses_the_format_once(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    assert main(["init", str(store), "--format", "hdf5"]) == 0
    assert main(["init", str(store), "--format", "zarr"]) == 1
    assert "found one of format hdf5" in capsys.readouterr().err
    main(["fill", str(PROTEINS), "--model", "aac_dpc"])
    assert len(list(store.glob("spaces/*/data/*.h5"))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fill", "no.faa", "--model", "aac_dpc"], "no such file"),
        (["fill", ".", "--model", "aac_dpc"], "Cannot read the folder .: expected files of sequences"),
        (["fill", str(PROTEINS), "--model", "aac_dp"], "Did you mean aac_dpc"),
        (["fill", str(PROTEINS), "--model", "aac_dpc", "--store", str(PROTEINS)], "proteins.faa"),
        (
            ["fill", str(PROTEINS), "--model", "aac_dpc", "--store", str(PROTEINS.parent)],
            "expected nothing or an empty",
        ),
        (["fill", str(PROTEINS), "--model", "tnf"], "Use a protein model (aac_dpc"),
        (["fill", str(PROTEINS), "--model", "aac_dpc", "--max-length", "5"], "built in"),
        (["get", str(PROTEINS), "--model", "aac_dpc", "-o", "x.npz"], "embedstore init"),
        (["ls"], "embedstore init"),
        (["info", "x"], "embedstore init"),
        (["verify"], "No store at"),
    ],
)
def test_errors_are_told_in_a_sentence(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.splitlines()[-1].startswith("Error: ")
    assert captured.out == ""


def test_an_unknown_model_makes_no_store(store: Path) -> None:
    assert main(["fill", str(PROTEINS), "--model", "aac_dp"]) == 1
    assert not store.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["fill"],
        ["fill", str(PROTEINS)],
        ["fill", str(PROTEINS), "--model", "aac_dpc", "--precision", "some"],
        ["fill", str(PROTEINS), "--model", "aac_dpc", "--max-length", "0"],
        ["get", str(PROTEINS), "--model", "aac_dpc"],
        ["get", str(PROTEINS), "--model", "aac_dpc", "-o", "x.csv"],
        ["init", "x", "--format", "tar"],
    ],
)
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_damaged_store_is_an_error_without_traceback(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    main(["fill", str(PROTEINS), "--model", "aac_dpc"])
    for commit in store.glob("spaces/*/commits/*.json"):
        commit.write_bytes(commit.read_bytes()[:-9])
    capsys.readouterr()
    assert main(["get", str(PROTEINS), "--model", "aac_dpc", "-o", "x.npz"]) == 1
    assert "is damaged" in capsys.readouterr().err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("embedstore ")
    for command in ("", "init", "fill", "get", "ls", "info", "models", "verify"):
        assert main([*command.split(), "--help"]) == 0
        assert "Usage: embedstore" in capsys.readouterr().out


def test_progress_off_the_terminal_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedstore_cli.progress._LINE_EVERY_S", 0.0)
    main(["fill", str(PROTEINS), "--model", "aac_dpc", "--json"])
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert "reading: 14 records, 14 sequences to compute" in lines
    assert "loading the model, 14 sequences to compute" in lines
    assert lines.index("computing, 14 sequences to compute, 0 %") < lines.index(
        "computing, 14 of 14 sequences computed, 100 %"
    )
    assert lines[-1] == "done: 14 records, 14 of 14 sequences computed, 100 %"
    assert json.loads(captured.out)["computed"] == 14
    main(["fill", str(PROTEINS), "--model", "aac_dpc", "--quiet"])
    assert capsys.readouterr().err == ""


_NO_SEQUENCES = {"fasta_program_report.FASTA"}
_SOME_REJECTED = {"mixed_alphabet.fasta", "not_fasta_digits.fasta"}
_PROTEIN = {
    "comment_lines.fasta",
    "crlf_no_final_newline.fasta",
    "dup_ids_and_stops.faa",
    "empty_header_protein.fasta",
    "long_headers_ncbi_nr.faa",
    "titin_twice.fasta",
}
_EMPTY = {"zero_bytes.fasta"}
_SHORT_RNA = {"rna_U.fasta"}  # of 60 residues and fewer, so it could be protein; one is too short for a 4-mer


def _expected_code(name: str, model: str) -> int:
    if name in _NO_SEQUENCES:
        return 1
    if name in _EMPTY:
        return 0
    if name in _SHORT_RNA:
        return 3 if model == "tnf" else 0
    if name in _SOME_REJECTED:
        return 1 if (name, model) == ("mixed_alphabet.fasta", "tnf") else 3
    return 0 if (name in _PROTEIN) == (model == "aac_dpc") else 1


@pytest.mark.parametrize("model", ["tnf", "aac_dpc"])
def test_every_odd_file_ends_as_documented(
    shared: Path, model: str, capsys: pytest.CaptureFixture[str], store: Path
) -> None:
    files = [path for path in sorted((shared / "data" / "edge").iterdir()) if path.name != "MANIFEST.tsv"]
    codes = {path.name: main(["fill", str(path), "--model", model, "--store", str(store)]) for path in files}
    assert codes == {path.name: _expected_code(path.name, model) for path in files}
    assert "Traceback" not in capsys.readouterr().err
    assert Store.open(store).verify(deep=True).clean
