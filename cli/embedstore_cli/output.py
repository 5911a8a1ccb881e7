"""What commands write: JSON or tables on standard output, notices on standard error.

What people read passes through `embedstore.errors.plain`: nothing in it steers a terminal. JSON is exact.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from embedstore.errors import plain

if TYPE_CHECKING:
    from rich.table import Table

    from embedstore.library import Store
    from embedstore.records import Rejection
    from embedstore.store import Space

T = TypeVar("T")

_REJECTIONS_SHOWN = 20
_ID_SHOWN = 80
_WIDE = 10_000  # a pipe or file has no width to fit in


def notice(text: str) -> None:
    """Say something beside the result, on one line."""
    print(plain(text), file=sys.stderr)


def write_line(text: str) -> None:
    """Write one line of the result."""
    print(plain(text))


def confirm(what: str, otherwise: str = "--yes") -> None:
    """Ask before something is removed for good; without a terminal nobody can answer, and an option must say it.

    Raises
    ------
    InputError : there is nobody to ask. typer.Abort : the answer was no.
    """
    import typer

    from embedstore.errors import InputError

    if not sys.stdin.isatty():
        raise InputError(f"{what}? There is nobody to ask: give {otherwise} if you are sure.")
    typer.confirm(f"{what}?", abort=True)


def write_json(document: object) -> None:
    """Write the result as JSON."""
    print(json.dumps(document, indent=2))


def write_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write aligned columns; those whose name begins with `>` to the right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(value)) for value in row))
    _write(table)


def write_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Write names and values, a line each."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(plain(name)), Text(plain(value)))
    _write(table)


def list_rejections(rejections: Sequence[Rejection], verb: str) -> None:
    """List the first records that could not be used, on standard error."""
    for rejection in rejections[:_REJECTIONS_SHOWN]:
        shown = plain(rejection.id, _ID_SHOWN) or "(no id)"
        notice(f"{verb} {rejection.file}:{rejection.line} {shown}: {rejection.reason}")
    if len(rejections) > _REJECTIONS_SHOWN:
        notice(f"… and {len(rejections) - _REJECTIONS_SHOWN:,} more {verb}; --json lists all")


def of_each_space(store: Store, spaces: Sequence[Space], question: Callable[[Space], T]) -> Iterator[T]:
    """Yield the answer of each space; those that cannot be read are named on standard error, and hide no other."""
    from embedstore.errors import CorruptStoreError, FormatVersionError

    for error in store.unreadable.values():
        notice(f"Skipped: {error}")
    for space in spaces:
        try:
            yield question(space)
        except (CorruptStoreError, FormatVersionError) as error:
            notice(f"Skipped space {space.name}: {error}")


def count(number: int) -> str:
    """12345 -> 12,345"""
    return f"{number:,}"


def size(size_bytes: int) -> str:
    """123456789 -> 117.7 MiB"""
    amount = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def duration(seconds: float) -> str:
    """3725.2 -> 1 h 2 min"""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{count(hours)} h {minutes} min"


def short(identifier: str) -> str:
    """Beginning of an id; long enough to find the space by."""
    return identifier[:12]


def _write(table: Table) -> None:
    from rich.console import Console

    terminal = sys.stdout is not None and sys.stdout.isatty()
    console = Console(width=None if terminal else _WIDE, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip())
