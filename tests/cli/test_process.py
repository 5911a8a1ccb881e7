"""The command as a process: streams that are closed, full or broken, and what it imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROTEINS = Path(__file__).resolve().parents[2] / "examples" / "proteins.faa"
COMMAND = [sys.executable, "-W", "error", "-c", "from embedstore_cli.main import run; run()"]


def run(tmp_path: Path, *arguments: str, redirection: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EMBEDSTORE_PATH": str(tmp_path / "store")}
    line = ["bash", "-c", f'"$@" {redirection}', "bash", *COMMAND, *arguments]
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_standard_input_is_read(tmp_path: Path) -> None:
    done = run(tmp_path, "fill", "-", "--model", "aac_dpc", redirection=f"< {PROTEINS}")
    assert done.returncode == 0
    assert "14 records" in done.stdout


@pytest.mark.parametrize(
    ("redirection", "code"),
    [("<&-", 1), ("< /dev/null", 0)],
    ids=["closed", "empty"],
)
def test_no_standard_input(tmp_path: Path, redirection: str, code: int) -> None:
    done = run(tmp_path, "fill", "-", "--model", "aac_dpc", redirection=redirection)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_a_full_disk_behind_standard_output_is_told_plainly(tmp_path: Path) -> None:
    done = run(tmp_path, "models", redirection="> /dev/full")
    assert (done.returncode, done.stderr) == (1, "Error: No space left on device\n")


def test_a_reader_that_has_enough_is_no_error_to_speak_of(tmp_path: Path) -> None:
    done = run(tmp_path, "models", "--json", redirection="| true")
    assert (done.returncode, done.stderr) == (0, "")


def test_closed_standard_output_is_no_matter(tmp_path: Path) -> None:
    done = run(tmp_path, "models", redirection=">&-")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--help"], {"numpy", "rich", "torch"}),
        (["fill", str(PROTEINS), "--model", "aac_dpc", "--json"], {"torch", "transformers", "tokenizers"}),
    ],
    ids=["help", "fill"],
)
def test_commands_import_no_more_than_they_need(tmp_path: Path, arguments: list[str], absent: set[str]) -> None:
    script = f"""
import sys
from embedstore_cli.main import main
assert main({arguments!r}) == 0
found = {absent!r} & set(sys.modules)
assert not found, found
"""
    environment = {**os.environ, "EMBEDSTORE_PATH": str(tmp_path / "store")}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, timeout=60)
