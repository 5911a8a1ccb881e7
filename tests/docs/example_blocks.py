"""The examples of the pages: fenced blocks, each of which is run, or says above itself why it is not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SHELL = ("sh", "bash", "console")
RUN = (*SHELL, "python")
"""Languages of blocks that are examples; blocks in other languages show files and output."""

_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
)
_REASON = re.compile(r"<!-- not run: (?P<reason>[^>]+?) -->\s*\Z")


@dataclass(frozen=True, slots=True)
class Example:
    """A block that a reader may copy.

    Attributes
    ----------
    line : of the page, where the text of the block begins.
    reason : why it is not run; "" if it is.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """All pages with examples, as paths below the root of the tree."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [str(page.relative_to(ROOT)) for page in found if examples(str(page.relative_to(ROOT)))]


def examples(page: str) -> list[Example]:
    """The examples of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Example(
            page,
            text.count("\n", 0, block.start("text")) + 1,
            block["language"],
            re.sub(f"^{block['indent']}", "", block["text"], flags=re.MULTILINE),
            reason["reason"] if (reason := _REASON.search(text[: block.start()])) else "",
        )
        for block in _BLOCK.finditer(text)
        if block["language"] in RUN
    ]


def commands(example: Example) -> list[str]:
    """The commands of a shell block, each on one line; in a console they follow `$ `, the rest is output."""
    text = re.sub(r"\\\n\s*", "", example.text)
    lines = [line.strip() for line in text.splitlines()]
    if example.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line for line in lines if line and not line.startswith("#")]
