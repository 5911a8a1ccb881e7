"""A page for people: a verdict, what made it, and a list of sections.

    page(title, verdict, stamp, [Section("Metrics", ("text", Table(…))), Section("Plots", (Figures((…, …)),)), …])

A section holds paragraphs, tables and figures as plain values: labels and names go in as they are, and are escaped
here, once. To add to a page, add a section to its list. The page is one file: no script, font or picture comes from
elsewhere. Every table lies in a box of its own that scrolls when it is wider than the window. All figures have one
width, and the key to their colours is beside the drawing, never on the data.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from embedstore.errors import plain

Cell = str | tuple[str, str]
"""A text, or a number and its interval, which is shown in grey."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells.

    Attributes
    ----------
    header : a name for each column; none: the first column names the rows.
    names : how many columns, from the left, hold text; the others hold numbers and are aligned to the right.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    names: int = 1


@dataclass(frozen=True, slots=True)
class Mark:
    """An entry of the key to a figure.

    Attributes
    ----------
    line : "solid", "dashed", "dotted", or "square" for dots.
    """

    label: str
    color: str
    line: str = "solid"


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing.

    Attributes
    ----------
    svg : an `<svg>` element, whose texts are escaped.
    caption : what it shows.
    """

    svg: str
    caption: str
    key: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures side by side, as many as the window has room for."""

    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it: paragraphs, tables and figures, in order."""

    title: str
    parts: tuple[str | Table | Figures, ...]


_LONG_CHARACTERS = 24
_WORD = re.compile(r"[^\s&;]{17,}")
_JOINT = re.compile(r"[_./|-]+")
_STYLE = """
:root { --ink: #22292f; --soft: #5f6b76; --rule: #d9dfe4 }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; max-width: 88rem; margin: 0 auto;
  padding: 1.6rem clamp(1rem, 3vw, 2.5rem) 3rem; overflow-wrap: anywhere }
h1 { font-size: 1.55rem; line-height: 1.25; font-weight: 650; margin: 0 0 .7rem; max-width: 36em }
h2 { font-size: 1.15rem; font-weight: 650; margin: 2.4rem 0 .5rem }
p { max-width: 46em; margin: 0 0 .8rem }
.verdict { font-size: 1.12rem; max-width: 42em; border-left: 4px solid #0072b2; padding: .1rem 0 .1rem .9rem }
.stamp, section > p { color: var(--soft) }
.stamp { font-size: .9rem }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); gap: 1.6rem 2rem;
  margin-bottom: 1.2rem }
figure { margin: 0; min-width: 0; max-width: 34rem }
figure svg { display: block; width: 100%; height: auto }
figure svg text { font-family: system-ui, sans-serif !important }
figcaption { font-size: .87rem; line-height: 1.4; color: var(--soft); padding-left: .4rem }
.key { list-style: none; margin: .25rem 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: 0 1.1rem;
  color: var(--ink) }
.key li { display: flex; align-items: baseline; gap: .45rem; min-width: 0 }
.key i { flex: none; width: 1.7em; border-top: 3px solid; align-self: flex-start; margin-top: .6em }
.key i.square { width: .6em; height: .6em; border: 0; margin-top: .4em }
.scroll { overflow-x: auto; max-width: 100%; width: fit-content; margin: 0 0 .8rem;
  background: linear-gradient(90deg, #fff 40%, transparent) left / 2.5rem 100% no-repeat local,
    linear-gradient(270deg, #fff 40%, transparent) right / 2.5rem 100% no-repeat local,
    linear-gradient(90deg, #0003, transparent) left / .8rem 100% no-repeat scroll,
    linear-gradient(270deg, #0003, transparent) right / .8rem 100% no-repeat scroll }
table { border-collapse: collapse; font-size: .9rem; line-height: 1.35; font-variant-numeric: tabular-nums;
  overflow-wrap: normal }
td, th { padding: .28rem .75rem .28rem 0; text-align: right; vertical-align: top; border-bottom: 1px solid var(--rule) }
td { white-space: nowrap }
th { color: var(--soft); font-weight: 550; vertical-align: bottom; border-bottom-color: #9aa5ae; min-width: 4.6em;
  max-width: 12em }
td.name, th.name { text-align: left; white-space: normal; overflow-wrap: anywhere; max-width: 26em }
td.long { min-width: 11em }
th.long { overflow-wrap: anywhere; min-width: 9.5em }
table.facts td.name:last-child { max-width: 48em; min-width: 12em }
table.facts td:first-child { color: var(--soft); min-width: 7em; max-width: 14em }
.interval { color: #74808a; font-size: .9em }
@media (max-width: 640px) { td, th { padding-right: .6rem } td.name, th.name { max-width: 13em }
  td.long { min-width: 9em }
  table.facts td.name { max-width: none } table.facts td:first-child { min-width: 5em; max-width: 8em } }
@media print { body { padding: 0; max-width: none } figure, tr { break-inside: avoid } .scroll { overflow: visible } }
"""


def page(title: str, verdict: str, stamp: str, sections: Iterable[Section]) -> str:
    """Return a self-contained page.

    Parameters
    ----------
    verdict : one sentence that says what was found.
    stamp : when and with what it was made, in a line.
    sections : what follows, in order.
    """
    body = "\n".join(map(_section, sections))
    return (
        f"<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        f'<meta name=viewport content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f"<p class=verdict>{escape(verdict)}</p>\n<p class=stamp>{escape(stamp)}</p>\n{body}\n</body></html>\n"
    )


def escape(text: str) -> str:
    """Write a text as HTML; nothing in it is an element or a control character."""
    return html.escape(plain(text))


def _breakable(text: str) -> str:
    """Write a text as HTML in which a long name can be broken where it has a joint."""
    return _WORD.sub(lambda word: _JOINT.sub(r"\g<0><wbr>", word[0]), escape(text))


def decimal(value: float | None) -> str:
    """Write a number that may not be defined."""
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def with_interval(value: float | None, interval: Sequence[float | None]) -> Cell:
    """Write a number with its interval, if it has one."""
    low, high = interval
    if value is None or low is None:
        return decimal(value)
    return decimal(value), f"{decimal(low)}{'–' if low >= 0 else ' to '}{decimal(high)}"


def _section(section: Section) -> str:
    parts = "\n".join(map(_part, section.parts))
    return f"<section>\n<h2>{escape(section.title)}</h2>\n{parts}\n</section>"


def _part(part: str | Table | Figures) -> str:
    match part:
        case str():
            return f"<p>{escape(part)}</p>"
        case Table():
            return _table(part)
        case Figures():
            return f"<div class=figures>{''.join(map(_figure, part.figures))}</div>"


def _table(table: Table) -> str:
    def row(cells: Sequence[Cell], tag: str) -> str:
        kinds = (_kind(cell, is_name=place < table.names) for place, cell in enumerate(cells))
        written = (f"<{tag}{kind}>{_cell(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(written)}</tr>"

    head = f"<thead>{row(table.header, 'th')}</thead>" if table.header else ""
    body = "".join(row(cells, "td") for cells in table.rows)
    kind = "" if table.header else " class=facts"
    # tabindex: it can be scrolled without a mouse
    return f"<div class=scroll tabindex=0><table{kind}>{head}<tbody>{body}</tbody></table></div>"


def _kind(cell: Cell, *, is_name: bool) -> str:
    """Return the attribute of a cell: whether it is text, and whether a long one, which must not be squeezed."""
    is_long = isinstance(cell, str) and (_WORD.search(cell) or (is_name and len(cell) > _LONG_CHARACTERS))
    kinds = [kind for kind, applies in (("name", is_name), ("long", is_long)) if applies]
    return f' class="{" ".join(kinds)}"' if kinds else ""


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return _breakable(cell)
    number, interval = cell
    return f"{escape(number)} <span class=interval>{escape(interval)}</span>"


def _figure(figure: Figure) -> str:
    marks = "".join(f"<li>{_swatch(mark)}<span>{escape(mark.label)}</span></li>" for mark in figure.key)
    key = f"<ul class=key>{marks}</ul>" if marks else ""
    return f"<figure>{figure.svg}<figcaption>{escape(figure.caption)}{key}</figcaption></figure>"


def _swatch(mark: Mark) -> str:
    if mark.line == "square":
        return f'<i class=square style="background:{mark.color}"></i>'
    return f'<i style="border-color:{mark.color};border-top-style:{mark.line}"></i>'
