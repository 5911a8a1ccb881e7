"""Runs examples: commands in this process where a shell adds nothing, Python as it stands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

from docs.pages import SHELL, Example, commands
from embedstore_cli.main import main

_FARTHEST = r"(?<![\w.:/-])/(mnt|lab|srv|project|scratch)/"
"""Where the places of a laboratory begin that the pages speak of."""


class Reader:
    """Somebody who copies the examples of one page, one after the other, in one folder.

    Parameters
    ----------
    folder : where the reader is; the places of a laboratory lie in it, too.
    addresses : servers that the pages speak of -> those that there are.
    """

    def __init__(self, folder: Path, addresses: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._addresses = addresses
        self._environment = monkeypatch
        self._names: dict[str, Any] = {"__name__": "__main__"}

    def run(self, example: Example) -> None:
        """Run a block; an error names the line of the page that it comes from."""
        try:
            if example.language in SHELL:
                for command in commands(example):
                    self.shell(command)
            else:
                text = "\n" * (example.line - 1) + self._here(example.text)
                exec(compile(text, example.page, "exec"), self._names)  # noqa: S102
        except AssertionError as error:
            raise AssertionError(f"{example.place}: {error}") from None

    def shell(self, command: str) -> None:
        """Run one line of a shell."""
        command = self._here(command)
        if command.startswith("export "):
            self._export(command)
            return
        for arguments in _simple_commands(command) or [["bash", "-c", f"set -euo pipefail; {command}"]]:
            if arguments[0] == "embedstore":
                self._embedstore(arguments[1:])
                continue
            done = subprocess.run(arguments, capture_output=True, text=True)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    def _embedstore(self, arguments: list[str]) -> None:
        arguments = [os.path.expanduser(each) for each in arguments]  # noqa: PTH111
        out = TextIOWrapper(_Bytes(), encoding="utf-8", write_through=True)
        with redirect_stdout(out), redirect_stderr(out):
            code = main(arguments)
        assert code == 0, f"embedstore {shlex.join(arguments)} ended with {code}\n{out.buffer.getvalue().decode()}"

    def _export(self, command: str) -> None:
        name = command.removeprefix("export ").partition("=")[0]
        script = f'{command}\nprintf %s "${name}"'
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        self._environment.setenv(name, done.stdout)

    def _here(self, text: str) -> str:
        for address, there in self._addresses.items():
            text = text.replace(address, there)
        return re.sub(_FARTHEST, rf"{self.folder}/\1/", text)
