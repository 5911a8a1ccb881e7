"""The site: what is made for it from commands, docstrings and root documents, and that it builds without a warning."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from example_blocks import ROOT

import embedstore
from docs.hooks import ROOT_DOCUMENTS, command_pages, notebook_page, site_links, values_page
from embedstore_cli.command import EXAMPLES
from embedstore_cli.main import app

API = ROOT / "docs" / "reference" / "api"


def test_every_public_name_is_in_the_reference_once() -> None:
    pages = [*(page.read_text(encoding="utf-8") for page in API.glob("*.md")), values_page()]
    shown = [name for page in pages for name in re.findall(r"^::: embedstore\.(\w+)$", page, re.MULTILINE)]
    assert sorted(shown) == sorted(set(embedstore.__all__) - {"__version__"})


def test_command_reference_has_every_command_with_its_options_examples_and_exit_codes() -> None:
    group = typer.main.get_group(app)
    pages = dict(command_pages())
    reference = "\n".join(pages.values())
    for name, command in group.commands.items():
        section = re.search(rf"^## {name} {{.*?(?=^## |\Z)", reference, re.DOTALL | re.MULTILINE)
        assert section is not None, name
        assert f"[`{name}`](" in pages["reference/commands/index.md"]
        for option in command.params:
            if option.param_type_name == "option" and not getattr(option, "hidden", False):
                assert all(written in section[0] for written in option.opts), (name, option.opts)
        assert all(example in section[0] for example in EXAMPLES[name])
        assert "| 0 | all well |" in section[0]


@pytest.mark.parametrize(
    ("page", "markdown", "expected"),
    [
        ("guide/input.md", "[changes](../../CHANGELOG.md)", "[changes](../changelog.md)"),
        ("guide/input.md", "[home](../../README.md)", "[home](../index.md)"),
        ("guide/input.md", "[script](../../examples/virus.sh)", "script"),
        ("guide/input.md", "[models](models.md#weights)", "[models](models.md#weights)"),
        ("guide/input.md", "[hub](https://example.org/a.md)", "[hub](https://example.org/a.md)"),
        ("guide/input.md", "[broken](nowhere.md)", "[broken](nowhere.md)"),
        ("contributing.md", "[format](docs/format.md)", "[format](format.md)"),
    ],
)
def test_links_lead_to_pages_of_the_site(page: str, markdown: str, expected: str) -> None:
    assert site_links(markdown, page) == expected


def test_notebook_becomes_a_page_of_text_and_code() -> None:
    page = notebook_page(ROOT / "examples" / "embedstore.ipynb")
    assert page.startswith("# ")
    assert "```python\nimport numpy as np" in page


def test_docstrings_of_this_project_become_numpydoc() -> None:
    numpydoc = pytest.importorskip("docs.docstrings", reason="needs the extra `docs`").numpydoc
    text = (
        "Do it.\n\nParameters\n----------\na, b : what they are,\n    at length.\n\nReturns\n-------\nThe sum.\n\n"
        "Raises\n------\nInputError : no sum. StoreError, ModelError : no store.\n"
    )
    assert " ".join(numpydoc(text, "int").split()) == (
        "Do it. Parameters ---------- a what they are, at length. b what they are, at length. "
        "Returns ------- int The sum. Raises ------ InputError no sum. StoreError no store. ModelError no store."
    )


def test_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    config = pytest.importorskip("mkdocs.config", reason="needs the extra `docs`")
    build = pytest.importorskip("mkdocs.commands.build", reason="needs the extra `docs`")
    build.build(config.load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|iframe|link)\b[^>]*(?:src|href)=\"?(https?:[^\">]*)", page.read_text())
        assert loaded == [], page
    assert all((tmp_path / page).with_suffix(".html").is_file() for page in ROOT_DOCUMENTS.values())
