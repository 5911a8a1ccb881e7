"""Examples in docstrings are run, and give what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest
from example_blocks import ROOT


def modules_with_examples() -> list[str]:
    files = [file for part in ("embedstore", "cli/embedstore_cli") for file in sorted((ROOT / part).rglob("*.py"))]
    found = [file for file in files if ">>> " in file.read_text(encoding="utf-8")]
    names = [file.relative_to(ROOT / "cli" if "cli" in file.parts else ROOT).with_suffix("").parts for file in found]
    return [".".join(name).removesuffix(".__init__") for name in names]


def test_there_are_examples() -> None:
    assert "embedstore" in modules_with_examples()


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_of_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMBEDSTORE_PATH", "lab-store")
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
