"""What every service that holds stores must do, by the commands that people use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedstore_cli.main import main

PROTEINS = Path(__file__).resolve().parents[2] / "examples" / "proteins.faa"
MODEL = ("--model", "aac_dpc")


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Run a command that must succeed, and return its JSON."""
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail, and return what it says."""
    capsys.readouterr()
    assert main([*arguments]) == 1
    return capsys.readouterr().err


def local_store(folder: Path) -> Path:
    """A store in a folder, filled with the example."""
    assert main(["fill", str(PROTEINS), *MODEL, "--store", str(folder / "local"), "-q"]) == 0
    return folder / "local"


def reads_like(place: str, local: Path, folder: Path) -> None:
    """Compare what two stores give, byte for byte."""
    for name, store in (("here", str(local)), ("there", place)):
        assert main(["get", str(PROTEINS), *MODEL, "--store", store, "-o", str(folder / f"{name}.npz")]) == 0
    with np.load(folder / "here.npz") as here, np.load(folder / "there.npz") as there:
        assert here["X"].tobytes() == there["X"].tobytes()
        assert here["ids"].tolist() == there["ids"].tolist()


def holds_stores(place: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Make, fill, read, check, copy, collect and publish stores below an object store's address."""
    first, second = f"{place}/first", f"{place}/second"
    assert main(["init", first]) == 0
    assert "whole files" not in capsys.readouterr().err
    assert run_json(capsys, "fill", str(PROTEINS), *MODEL, "--store", first)["computed"] == 14
    assert run_json(capsys, "fill", str(PROTEINS), *MODEL, "--store", first)["hits"] == 14
    local = local_store(folder)
    reads_like(first, local, folder)
    assert run_json(capsys, "verify", "--deep", "--store", first)["clean"] is True
    assert run_json(capsys, "push", second, "--store", str(local))["copied"] == 14
    reads_like(second, local, folder)
    assert run_json(capsys, "pull", second, "--store", str(folder / "pulled"))["copied"] == 14
    reads_like(str(folder / "pulled"), local, folder)
    (folder / "more.faa").write_text(">x\nMKVLAA\n")
    assert run_json(capsys, "fill", str(folder / "more.faa"), *MODEL, "--store", first)["computed"] == 1
    assert main(["compact", "--store", first]) == 0
    for _ in range(3):
        assert main(["gc", "--grace", "0", "--store", first]) == 0
    reads_like(first, local, folder)
    assert run_json(capsys, "verify", "--deep", "--store", first)["clean"] is True
    assert run_json(capsys, "publish-index", "--store", first)["files"] > 0
    findings = {found["check"]: found for found in run_json(capsys, "doctor", first)["findings"]}
    assert findings["ranges"]["state"] == "ok"
    assert findings["writing"]["state"] == "ok"
