"""Runs examples: commands in this process where a shell adds nothing, Python as it stands."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from example_blocks import ROOT, SHELL, Example, commands

from embedstore_cli.main import main

_FARTHEST = r"(?<![\w.:~/-])/(mnt|lab|srv|project|shared|var)/"
"""Where the places of a laboratory begin that the pages speak of."""


class Reader:
    """Somebody who copies the examples of one page, one after the other, in one folder.

    Parameters
    ----------
    folder : where the reader is; the places of a laboratory lie in it, too.
    addresses : servers that the pages speak of -> those that there are.
    """

    def __init__(self, folder: Path, addresses: Mapping[str, str], environment: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.addresses = addresses
        self._environment = environment
        self._names: dict[str, Any] = {"__name__": "__main__"}

    def run(self, example: Example) -> None:
        """Run a block; an error names the line of the page that it comes from."""
        if example.language in SHELL:
            for command in commands(example):
                self.shell(command, example.place)
        else:
            text = "\n" * (example.line - 1) + self._here(example.text)
            exec(compile(text, str(ROOT / example.page), "exec"), self._names)  # noqa: S102

    def shell(self, line: str, place: str = "before the page") -> None:
        """Run one line of a shell."""
        line = self._here(line)
        if line.startswith("export "):
            self._export(line)
            return
        for command in _simple_commands(line):
            code, output = self._embedstore(command[1:]) if command[0] == "embedstore" else self._bash(command)
            assert code == 0, f"{place}: {shlex.join(command)} ended with {code}\n{output}"

    def _embedstore(self, arguments: list[str]) -> tuple[int, str]:
        if arguments[0] == "train" and "--folds" not in arguments:
            arguments = [*arguments, "--folds", "2", "--test", "0.3"]  # quick, and some genomes are left to test on
        output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        with redirect_stdout(output), redirect_stderr(output):
            code = main(arguments)
        output.seek(0)
        return code, output.read()

    def _bash(self, command: list[str]) -> tuple[int, str]:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        return done.returncode, done.stdout + done.stderr

    def _export(self, line: str) -> None:
        name = line.removeprefix("export ").partition("=")[0]
        done = subprocess.run(
            ["bash", "-c", f'{line}\nprintf %s "${name}"'], capture_output=True, text=True, check=True
        )
        self._environment.setenv(name, done.stdout)

    def _here(self, text: str) -> str:
        for address, there in self.addresses.items():
            text = text.replace(address, there)
        return re.sub(_FARTHEST, rf"{self.folder}/\1/", text)


def _simple_commands(line: str) -> list[list[str]]:
    """The commands of a line that a shell is not needed for; else the line for a shell."""
    tokens = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    tokens.whitespace_split = True
    tokens.commenters = "#"
    found: list[list[str]] = [[]]
    for word in tokens:
        if word == ";":
            found.append([])
        elif set(word) <= set("|&;<>()") or "$" in word or "*" in word:
            return [["bash", "-c", f"set -euo pipefail; {line}"]]
        else:
            found[-1].append(os.path.expanduser(word))  # noqa: PTH111
    return [command for command in found if command]
