"""What the documents say of the tree is true: environment variables, paths, the version."""

from __future__ import annotations

import ast
import re
import tomllib
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


def test_each_path_in_the_map_and_the_table_of_changes_exists() -> None:
    rows = rows_of("docs/contributing.md")
    paths = {path for row in rows for path in re.findall(r"`([\w.]+/[\w./]*)`", row)}
    assert len(paths) > 50
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_each_package_and_module_of_the_top_level_is_on_the_map() -> None:
    table = "\n".join(rows_of("docs/contributing.md"))
    parts = [
        path for path in (ROOT / "embedstore").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    named = {path.name: f"`embedstore/{path.name}{'/' if path.is_dir() else ''}`" for path in parts}
    assert {name for name, text in named.items() if text not in table} == {"__main__.py"}


def test_names_in_the_table_of_changes_are_in_the_files_that_it_names() -> None:
    """A row that says `FILE`: an entry of `NAME` stays true when either is renamed."""
    claims = {
        (file, name.removesuffix("()").rpartition(".")[2])
        for row in rows_of("docs/contributing.md")
        for file, names in re.findall(r"`([\w/]+\.py)`: ((?:[\w ,]*`[\w.]+`)+)", row)
        for name in re.findall(r"`([\w.]+)`", names)
    }
    assert len(claims) > 8
    missing = [claim for claim in sorted(claims) if claim[1] not in (ROOT / claim[0]).read_text(encoding="utf-8")]
    assert missing == []


def test_the_version_is_the_same_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert f"version: {version}" in citation
