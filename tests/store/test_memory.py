"""Writing and comparing take a fixed amount of memory beside the batch, reading little beside what is returned."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sample_rows import LAYOUTS

pytest.importorskip("resource")

_SCRIPT = Path(__file__).with_name("measure_memory.py")
_ROWS, _DIM = 65_536, 1_024
_VECTORS_BYTES = _ROWS * _DIM * 2
_FIXED_BYTES = 96 << 20


def grown_bytes(operation: str, layout: str, place: Path) -> int:
    command = [sys.executable, _SCRIPT, operation, layout, place, str(_ROWS), str(_DIM)]
    found = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    return int(json.loads(found.stdout)["grown_bytes"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_peak_memory_of_append_and_read_is_bounded(tmp_path: Path, layout: str) -> None:
    assert _FIXED_BYTES < _VECTORS_BYTES
    assert grown_bytes("append", layout, tmp_path) < _FIXED_BYTES
    # Mapped pages count as memory of the process while the page cache can spare them.
    assert grown_bytes("append again", layout, tmp_path) < _VECTORS_BYTES + _FIXED_BYTES
    assert grown_bytes("read", layout, tmp_path) < 2 * _VECTORS_BYTES + _FIXED_BYTES
