"""The command as a process: streams that are closed, full or broken, and what it imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROTEINS = Path(__file__).resolve().parents[2] / "examples" / "proteins.faa"
ESM = Path(__file__).resolve().parents[1] / "data" / "esm" / "fastesm2_tiny"
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


def test_a_full_disk_behind_standard_output_is_reported_plainly(tmp_path: Path) -> None:
    done = run(tmp_path, "models", redirection="> /dev/full")
    assert (done.returncode, done.stderr) == (1, "Error: No space left on device\n")


def test_a_reader_that_has_enough_is_no_error_to_speak_of(tmp_path: Path) -> None:
    done = run(tmp_path, "models", "--json", redirection="| true")
    assert (done.returncode, done.stderr) == (0, "")


def test_closed_standard_output_is_no_matter(tmp_path: Path) -> None:
    done = run(tmp_path, "models", redirection=">&-")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("redirection", ["2>&-", "2> /dev/full"], ids=["closed", "full"])
def test_nothing_is_printed_where_standard_error_is_none(tmp_path: Path, redirection: str) -> None:
    done = run(tmp_path, "ls", "--store", str(tmp_path / "none"), redirection=redirection)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """What a library writes to standard output without asking Python would be written into that file."""
    script = """
import os
from embedstore_cli import main
before = main.main
def look(arguments):
    found = [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]
    assert found == ["/dev/null"] * 3, found
    return before(arguments)
main.main = look
main.run()
"""
    line = ["bash", "-c", '"$@" <&- >&- 2>&-', "bash", sys.executable, "-c", script, "init", str(tmp_path / "store")]
    assert subprocess.run(line, check=False, timeout=60).returncode == 0


@pytest.mark.parametrize(
    "encoding",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["ascii", "C"],
)
def test_a_terminal_of_another_encoding_is_no_matter(
    tmp_path: Path, encoding: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in encoding.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "Größe"
    folder.mkdir()
    (folder / "p.faa").write_bytes(b">caf\xe9\nMKV\n>caf\xc3\xa9\nMK-V\n")
    done = run(tmp_path, "fill", str(folder / "p.faa"), "--model", "aac_dpc")
    assert (done.returncode, done.stderr.count("rejected")) == (3, 1)
    assert "space" in done.stdout
    assert run(tmp_path, "models").returncode == 0
    done = run(tmp_path, "ls", "--store", str(folder))
    assert (done.returncode, done.stderr.splitlines()[0][:16]) == (1, "Error: No store ")


def homeless(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user without an entry among the users, and without HOME."""
    script = """
import os, pwd
def getpwuid(uid):
    raise KeyError(uid)
pwd.getpwuid = getpwuid
from embedstore_cli.main import run
run()
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_DATA_HOME")}
    line = [sys.executable, "-W", "error", "-c", script, *arguments]
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_without_a_home_directory_a_named_store_works(tmp_path: Path) -> None:
    done = homeless(tmp_path, "fill", str(PROTEINS), "--model", "aac_dpc", "--store", str(tmp_path / "store"))
    assert (done.returncode, done.stderr) == (0, f"Made a store at {tmp_path / 'store'}.\n")
    done = homeless(tmp_path, "ls")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: Cannot tell where the store lies: expected a home directory, found no folder")
    done = homeless(tmp_path, "ls", "--store", "~nobody-of-that-name/store")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)


@pytest.mark.slow
def test_a_home_that_cannot_be_written_is_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    done = run(tmp_path, "fill", str(PROTEINS), "--model", str(ESM), "--precision", "full", "--json")
    assert (done.returncode, json.loads(done.stdout)["computed"]) == (0, 14)


def test_python_m_embedstore_is_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "embedstore", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.startswith("embedstore ")


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
