"""Any document of a store changed in any way: see `mutations` for the ways, and `mutation_run` for what must hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sample_rows import LAYOUTS

pytest.importorskip("resource")

_SCRIPT = Path(__file__).with_name("mutation_run.py")
_MOST_GROWN_BYTES = 200 << 20


def run(layout: str, count: int, seed: int, place: Path, *operations: int) -> dict[str, Any]:
    """In a process of its own, whose memory nothing else has used."""
    command = [sys.executable, _SCRIPT, layout, count, seed, place / "work", *operations]
    found = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    return dict(json.loads(found.stdout))


def assert_nothing_was_found(found: dict[str, Any]) -> None:
    assert found["faults"] == [], "\n".join(found["faults"][:5])
    assert found["grown_bytes"] < _MOST_GROWN_BYTES, found["grown_at"]


@pytest.mark.parametrize(("layout", "count"), [("zarr", 15), ("hdf5", 35)])
def test_a_changed_document_harms_nothing_else(tmp_path: Path, layout: str, count: int) -> None:
    found = run(layout, count, 0, tmp_path, 1)
    assert_nothing_was_found(found)
    assert found["mutations"] == count


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_thousand_changed_documents_harm_nothing_else(tmp_path: Path, layout: str) -> None:
    found = run(layout, 2_000, 10_000, tmp_path)
    assert_nothing_was_found(found)
    assert found["mutations"] == 2_000
