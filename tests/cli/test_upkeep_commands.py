"""compact, gc, pin, rm, verify --repair: what they write, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedstore.library import Store
from embedstore.upkeep.compaction import MANY_SMALL_SEGMENTS
from embedstore_cli.main import main


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store that four fills have left."""
    monkeypatch.setenv("EMBEDSTORE_PATH", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    sequences = ["MKTAYIAKQR", "GSHMASMTGG", "ACDEFGHIKL", "MNPQRSTVWY"]
    for number, sequence in enumerate(sequences):
        Path(f"{number}.faa").write_text(f">s{number}\n{sequence}\n")
        assert main(["fill", f"{number}.faa", "--model", "aac_dpc", "--quiet"]) == 0
    return tmp_path / "store"


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    capsys.readouterr()
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def vectors(*arguments: str) -> np.ndarray[Any, Any]:
    inputs = [f"{number}.faa" for number in range(4)]
    assert main(["get", *inputs, "--model", "aac_dpc", "-o", "x.npz", "--quiet", *arguments]) == 0
    with np.load("x.npz") as content:
        found: np.ndarray[Any, Any] = content["X"]
    return found


def test_compact_and_gc_leave_one_segment(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    before = vectors()
    code, report = run_json(capsys, "compact")
    assert code == 0
    assert report["spaces"][0] | {"bytes": 0} == {
        "space": "aac_dpc",
        "segments_before": 4,
        "segments_after": 1,
        "merged": 4,
        "rows": 4,
        "bytes": 0,
        "damaged": [],
    }
    code, report = run_json(capsys, "gc")
    assert (code, report["removed_files"]) == (0, 0)
    assert report["waiting_files"] > 0
    assert run_json(capsys, "gc", "--grace", "0", "--dry-run")[1]["removed_files"] == report["waiting_files"]
    assert run_json(capsys, "gc", "--grace", "0")[1]["removed_files"] == report["waiting_files"]
    assert np.array_equal(vectors(), before)
    code, report = run_json(capsys, "verify", "--deep")
    assert (code, report["orphans"]) == (0, [])
    assert main(["compact"]) == 0
    assert "aac_dpc: 1 → 1 segments" in capsys.readouterr().out


def test_a_pin_is_read_after_everything_else_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    before = vectors()
    assert run_json(capsys, "pin", "paper")[0] == 0
    assert main(["gc", "--grace", "0", "--max-size", "0"]) == 0
    assert run_json(capsys, "pin")[1][0]["name"] == "paper"
    assert main(["compact"]) == 0
    assert main(["gc", "--grace", "0"]) == 0
    assert np.array_equal(vectors("--pin", "paper"), before)
    assert run_json(capsys, "ls", "--pin", "paper")[1][0]["segments"] == 4
    assert main(["get", "0.faa", "--model", "aac_dpc", "-o", "y.npz", "--fill", "--pin", "paper"]) == 1
    assert main(["pin", "paper"]) == 1
    assert main(["rm", "aac_dpc", "--yes"]) == 1
    assert "pinned as paper" in capsys.readouterr().err
    assert main(["pin", "paper", "--remove"]) == 0
    assert main(["get", "0.faa", "--model", "aac_dpc", "-o", "y.npz", "--pin", "paper"]) == 1
    assert "No pin 'paper'" in capsys.readouterr().err


def test_gc_evicts_what_is_too_large_or_too_old(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_json(capsys, "gc", "--older-than", "1h")[1]["evicted_rows"] == 0
    assert main(["gc", "--max-size", "1kB", "--grace", "0"]) == 1
    assert "Evict 4 vectors" in capsys.readouterr().err
    assert run_json(capsys, "ls")[1][0]["rows"] == 4
    code, report = run_json(capsys, "gc", "--max-size", "1kB", "--grace", "0", "--yes")
    assert (code, report["evicted_rows"]) == (0, 4)
    assert run_json(capsys, "ls")[1][0]["rows"] == 0


@pytest.mark.parametrize(
    "wrong", [["--grace", "7 parsecs"], ["--max-size", "much"], ["--older-than", "-1d"], ["--grace", "7"]]
)
def test_gc_refuses_what_is_no_quantity(capsys: pytest.CaptureFixture[str], wrong: list[str]) -> None:
    assert main(["gc", *wrong]) == 2
    assert "expected a" in capsys.readouterr().err


def test_rm_asks_or_wants_yes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rm", "aac_dpc"]) == 1
    assert "give --yes" in capsys.readouterr().err
    assert main(["rm", "aac_dpc", "--yes"]) == 0
    assert run_json(capsys, "ls")[1] == []
    assert main(["fill", "0.faa", "--model", "aac_dpc", "--quiet"]) == 0
    assert run_json(capsys, "ls")[1][0]["rows"] == 1


def test_rm_dry_run_counts_and_removes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    code, report = run_json(capsys, "rm", "aac_dpc", "--dry-run")
    assert (code, report["dry_run"], [space["rows"] for space in report["spaces"]]) == (0, True, [4])
    assert main(["rm", "aac_dpc", "--dry-run"]) == 0
    assert "Would remove 4 vectors of space aac_dpc" in capsys.readouterr().err
    assert run_json(capsys, "ls")[1][0]["rows"] == 4
    assert main(["rm"]) == 2
    assert "expected SPACE, or --sequences INPUT" in capsys.readouterr().err


def test_rm_removes_single_sequences_whatever_their_ids(capsys: pytest.CaptureFixture[str]) -> None:
    Path("withdrawn.faa").write_text(">other\nMKTAYIAKQR\n>again\nmktayiakqr\n>absent\nWWWW\n")
    assert main(["rm", "--sequences", "withdrawn.faa"]) == 1
    assert "Remove 1 vectors of space aac_dpc" in capsys.readouterr().err
    assert run_json(capsys, "rm", "--sequences", "withdrawn.faa", "--dry-run")[1]["spaces"][0]["rows"] == 1
    assert run_json(capsys, "ls")[1][0]["rows"] == 4
    code, report = run_json(capsys, "rm", "aac_dpc", "--sequences", "withdrawn.faa", "--yes")
    assert (code, report["spaces"][0]["rows"]) == (0, 1)
    assert run_json(capsys, "ls")[1][0]["rows"] == 3
    assert main(["get", "0.faa", "-m", "aac_dpc", "-o", "y.npz"]) == 1
    assert main(["get", "1.faa", "-m", "aac_dpc", "-o", "y.npz"]) == 0
    assert main(["rm", "--sequences", "withdrawn.faa"]) == 0
    assert "Removed 0 vectors from" in capsys.readouterr().err


def test_rm_lists_what_is_no_sequence(capsys: pytest.CaptureFixture[str]) -> None:
    Path("odd.faa").write_text(">odd\nMK-V\n>good\nACDEFGHIKL\n")
    assert main(["rm", "--sequences", "odd.faa", "--yes"]) == 3
    assert "rejected odd.faa:1 odd: '-' at position 3" in capsys.readouterr().err
    assert run_json(capsys, "ls")[1][0]["rows"] == 3


def test_verify_repairs_and_fill_computes_what_was_lost(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    before = vectors()
    file = next(store.glob("spaces/*/data/*/vectors/c/0/0"))
    content = bytearray(file.read_bytes())
    content[7] ^= 0x80
    file.write_bytes(content)
    assert main(["verify", "--deep"]) == 1
    code, report = run_json(capsys, "verify", "--repair")
    assert (code, report["rows_lost"], report["rows_kept"], report["left"]) == (0, 1, 0, [])
    assert [store / problem["file"] for problem in report["removed"]] == [file]
    code, filled = run_json(capsys, "fill", *[f"{number}.faa" for number in range(4)], "--model", "aac_dpc")
    assert (code, filled["hits"], filled["computed"]) == (0, 3, 1)
    assert np.array_equal(vectors(), before)
    assert main(["verify", "--deep"]) == 0


def test_fills_that_leave_many_small_segments_merge_them(store: Path) -> None:
    opened = Store.open(store)
    segments = []
    for residue in "ACDEFGHIKLMNPQRSTVWYACDEFGHIKLMNPQRSTVWY":
        opened.fill([f"MKV{residue}{residue * len(segments)}"], "aac_dpc")
        segments.append(opened.space("aac_dpc").info().segments)
    assert len(opened.space("aac_dpc")) == 44
    assert max(segments) == MANY_SMALL_SEGMENTS
    assert segments[-1] < 12


def test_cache_shows_what_is_kept_and_clears_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept, other = tmp_path / "embedstore" / "digests.json", tmp_path / "embedstore" / "of_others"
    kept.parent.mkdir()
    for file in (kept, other):
        file.write_text("{}")
    capsys.readouterr()
    assert main(["cache", "--json"]) == 0
    assert {"path": str(kept), "bytes": 2, "what": "digests of weights files"} in json.loads(capsys.readouterr().out)
    assert main(["cache", "clear"]) == 1
    assert kept.exists()
    assert main(["cache", "clear", "--yes"]) == 0
    assert (kept.exists(), other.exists()) == (False, True)
    assert main(["cache"]) == 0
