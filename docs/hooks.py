"""What the site shows beside the pages of this folder: the command reference, and the documents of the root.

The reference is made from the commands that the program itself runs, so it cannot say anything else: one page per
task, one section per command with its usage, arguments, options and defaults; its examples and exit codes come from its
own help.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

import embedstore
from embedstore_cli.command import EXAMPLES, TASKS
from embedstore_cli.main import app

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = "reference/commands"
VALUES = "reference/api/values.md"

ROOT_DOCUMENTS: Mapping[str, str] = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
}
"""Document of the root -> its page; one that this folder has itself comes first."""


def on_config(config: Any) -> Any:
    """Put the pages of the command reference into the navigation."""
    _insert(config.nav, [f"{COMMANDS}/index.md", *({task: page_of(task)} for task in TASKS)])
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made."""
    from mkdocs.structure.files import File

    pages = dict(command_pages())
    for source, page in ROOT_DOCUMENTS.items():
        if files.get_file_from_path(page) is None:
            pages[page] = (ROOT / source).read_text(encoding="utf-8")
    pages[VALUES] = values_page()
    pages["notebook.md"] = notebook_page(ROOT / "examples" / "embedstore.ipynb")
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Make links between the root and this folder links of the site."""
    return site_links(markdown, page.file.src_uri)


def site_links(markdown: str, page: str) -> str:
    """Rewrite links to documents of the root, and from them; those to other files of the tree become plain text."""
    of_root = page in ROOT_DOCUMENTS.values()
    here = ROOT if of_root else (ROOT / "docs" / page).parent
    up = "../" * page.count("/")

    def rewritten(found: re.Match[str]) -> str:
        text, target, anchor = found["text"], found["target"], found["anchor"] or ""
        place = (here / target).resolve()
        name = str(place.relative_to(ROOT)) if place.is_relative_to(ROOT) else ""
        if name in ROOT_DOCUMENTS:
            return f"[{text}]({up}{ROOT_DOCUMENTS[name]}{anchor})"
        if name == "README.md":
            return f"[{text}]({up}index.md{anchor})"
        if name.startswith("docs/"):
            return f"[{text}]({name.removeprefix('docs/')}{anchor})" if of_root else found[0]
        return text if place.exists() else found[0]

    link = r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s:#]+)(?P<anchor>#[^)\s]*)?\)"
    return re.sub(link, rewritten, markdown)


def values_page() -> str:
    """The public names that no written page of the reference has: what its functions take and return."""
    written = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs/reference/api").glob("*.md"))
    names = [name for name in embedstore.__all__ if f"::: embedstore.{name}\n" not in written and name[0] != "_"]
    return "\n".join(["# Values", "", "What functions and methods take and return.", "", *map(_shown, names)])


def _shown(name: str) -> str:
    return f"::: embedstore.{name}\n"


def notebook_page(file: Path) -> str:
    """A notebook as a page: its text, and its code."""
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    texts = [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in cells]
    parts = [text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in texts]
    return "\n\n".join(parts) + f"\n\nThis is `examples/{file.name}`: open it in Jupyter to run it.\n"


def page_of(task: str) -> str:
    """The page of the commands of a task."""
    return f"{COMMANDS}/{task.lower().replace(' ', '-')}.md"


def command_pages() -> Iterator[tuple[str, str]]:
    """Give the pages of the command reference, each with its Markdown."""
    group: Any = typer.main.get_group(app)
    context = group.make_context("embedstore", [], resilient_parsing=True)
    yield f"{COMMANDS}/index.md", _overview(group)
    for task, names in TASKS.items():
        sections = [_command(group.commands[name], context) for name in names]
        yield page_of(task), "\n\n".join([f"# {task}", *sections]) + "\n"


def _overview(group: Any) -> str:
    lines = ["# Commands", "", f"{group.help}", "", "`embedstore COMMAND --help` shows what is said here."]
    for task, names in TASKS.items():
        file = page_of(task).rpartition("/")[2]
        lines += ["", f"## {task}", "", "| Command | What it does |", "| --- | --- |"]
        lines += [
            f"| [`{name}`]({file}#{name}) | {_cell(group.commands[name].get_short_help_str(300))} |" for name in names
        ]
    return "\n".join([*lines, "", "## Exit codes", "", *_exit_codes(group.get_help(_context(group)))]) + "\n"


def _context(command: Any, parent: Any = None) -> Any:
    return typer.Context(command, info_name=command.name, parent=parent, terminal_width=200, max_content_width=200)


def _command(command: Any, parent: Any) -> str:
    context = _context(command, parent)
    usage = " ".join(["embedstore", command.name, *command.collect_usage_pieces(context)])
    lines = [f"## {command.name} {{ #{command.name} }}", "", _paragraphs(command.help), "", "```text", usage, "```"]
    arguments = [each for each in command.get_params(context) if each.param_type_name == "argument"]
    options = [each for each in command.get_params(context) if each.param_type_name == "option" and not each.hidden]
    for title, parameters in (("Argument", arguments), ("Option", options)):
        if parameters:
            lines += ["", f"| {title} | What it does |", "| --- | --- |", *(_row(each, context) for each in parameters)]
    lines += ["", "**Examples**", "", "```sh", *EXAMPLES[command.name], "```", "", "**Exit codes**", ""]
    return "\n".join([*lines, *_exit_codes(command.get_help(context))])


def _row(parameter: Any, context: Any) -> str:
    """One row of a table: how it is written, and what it does, as the help has it."""
    written, text = parameter.get_help_record(context)
    written = re.sub(r" <list\[\w+\]>$", "...", written)
    return f"| {_cell(f'<code>{html.escape(written)}</code>')} | {_cell(_literal(text))} |"


def _literal(text: str) -> str:
    """Show `[default: 3]` and `[required]` as such, and what Markdown would take for marks as it is."""
    text = re.sub(r"(?<![`\w])(--?[a-z][a-z-]*|\$[A-Z_]+(?:/\w+)?)(?![\w`])", r"`\1`", text)
    return re.sub(r"\[([a-z][^\]]*)\]$", r"<span class='param-note'>\1</span>", html.escape(text, quote=False))


def _paragraphs(text: str | None) -> str:
    return "\n\n".join(" ".join(each.split()) for each in (text or "").split("\n\n"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _exit_codes(help_text: str) -> list[str]:
    """The table of exit codes at the end of a help text."""
    section = re.search(r"^Exit codes:\n(.*?)(?=\n\S|\n\n|\Z)", help_text, flags=re.DOTALL | re.MULTILINE)
    if section is None:
        raise ValueError(f"Expected exit codes in the help, found none:\n{help_text}")
    rows = re.split(r"\n(?=  \d)", section[1].rstrip())
    cells = (re.split(r"\s{2,}", row.strip(), maxsplit=1) for row in rows)
    return ["| Code | Meaning |", "| --- | --- |", *(f"| {code} | {_cell(text)} |" for code, text in cells)]


def _insert(nav: list[Any], pages: list[Any]) -> None:
    """Fill in the entry `Commands`, wherever in the navigation it is."""
    for entry in nav:
        for title, below in entry.items() if isinstance(entry, dict) else ():
            if title == "Commands":
                entry[title] = pages
            elif isinstance(below, list):
                _insert(below, pages)
