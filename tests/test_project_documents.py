"""What the documents say of the tree is true: environment variables, paths, the version."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VARIABLE = re.compile(r"HOME|NETRC|TMPDIR|[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")


def variables_of_the_code() -> set[str]:
    """Names of environment variables: texts that look like one, in modules that read the environment."""
    found = set()
    for package in ("embedstore", "cli"):
        for module in (ROOT / package).rglob("*.py"):
            source = module.read_text(encoding="utf-8")
            if "environ" in source:
                constants = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
                found |= {text for text in constants if isinstance(text, str) and VARIABLE.fullmatch(text)}
    return found


def rows_of(document: str) -> list[str]:
    """Lines of the tables of a document."""
    lines = (ROOT / document).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("|")]


def test_each_environment_variable_of_the_code_is_in_the_table() -> None:
    code = variables_of_the_code()
    assert {"EMBEDSTORE_PATH", "XDG_CACHE_HOME", "TMPDIR", "AWS_ENDPOINT_URL"} <= code
    table = {name for row in rows_of("docs/guide/places.md") for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert code - table == set()
