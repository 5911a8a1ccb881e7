"""What `--help` shows: commands by task, examples that can be run, exit codes."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys

import pytest
import typer

from embedstore_cli.command import EXAMPLES, TASKS
from embedstore_cli.main import app, main

GROUP = typer.main.get_group(app)


def _help(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    assert main([*command, "--help"]) == 0
    return capsys.readouterr().out


def test_every_command_belongs_to_one_task_and_has_examples() -> None:
    placed = [name for names in TASKS.values() for name in names]
    assert sorted(placed) == sorted(GROUP.commands) == sorted(EXAMPLES)


def test_help_groups_commands_by_task(capsys: pytest.CaptureFixture[str]) -> None:
    shown = _help(capsys)
    assert [line.removesuffix(":") for line in shown.splitlines() if line.removesuffix(":") in TASKS] == list(TASKS)
    assert "Other:" not in shown


def test_no_sentence_of_the_overview_is_cut_on_a_terminal_of_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert [line for line in _help(capsys).splitlines() if line[0:1] == " " and line.endswith("...")] == []


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_help_of_a_command_ends_with_examples_and_exit_codes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = _help(capsys, name)
    for example in EXAMPLES[name]:
        assert f"\n  {example}\n" in shown
    assert "Exit codes:" in shown
    assert "wrong usage" in shown


@pytest.mark.parametrize("example", [example for examples in EXAMPLES.values() for example in examples])
def test_examples_are_command_lines_that_are_understood(example: str) -> None:
    program, name, *arguments = shlex.split(example.partition(" >")[0])
    assert program == "embedstore"
    GROUP.commands[name].make_context(name, arguments)


def test_help_imports_neither_rich_nor_numpy() -> None:
    code = (
        "import sys\nfrom embedstore_cli.main import main\nmain(['fill', '--help'])\n"
        "main(['--help'])\nprint(sorted({'rich', 'numpy', 'torch', 'zarr'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("shell", "asked"),
    [
        ("bash", {"COMP_WORDS": "embedstore pre", "COMP_CWORD": "1"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "embedstore pre"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "embedstore pre", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_shells_complete_commands(shell: str, asked: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert f"_EMBEDSTORE_COMPLETE=complete_{shell}" in capsys.readouterr().out
    environment = {**os.environ, **asked, "_EMBEDSTORE_COMPLETE": f"complete_{shell}"}
    command = [sys.executable, "-m", "embedstore"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "prepare" in done.stdout
    assert "predict" in done.stdout
    assert "fill" not in done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_takes_its_completion() -> None:
    script = subprocess.run(
        [sys.executable, "-m", "embedstore", "completion", "bash"], capture_output=True, text=True, check=True
    ).stdout
    command = ["bash", "-c", f"{script}\ncomplete -p embedstore"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "_embedstore_completion" in done.stdout
