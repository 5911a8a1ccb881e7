"""Progress on standard error: on a terminal a line that changes, otherwise a line now and then; none with `quiet`.

What is to be computed grows while input is read, and with it the whole that percentages and the time left are of.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from embedstore.errors import plain
from embedstore_cli.output import duration

if TYPE_CHECKING:
    from embedstore.filling import FillProgress
    from embedstore.filling.filler import OnProgress

_LINE_EVERY_S = 30.0
_FIRST_LINE_S = 1.0


class Lines:
    """Says something on standard error every 30 s; nothing with `quiet`, or where that is closed."""

    def __init__(self, *, quiet: bool = False, first_after_s: float | None = None) -> None:
        self._quiet = quiet or sys.stderr is None
        wait_s = _LINE_EVERY_S if first_after_s is None else min(first_after_s, _LINE_EVERY_S)
        self._next = time.monotonic() + wait_s

    def show(self, text: str) -> None:
        """Say it, if it is time."""
        now = time.monotonic()
        if not self._quiet and now >= self._next:
            self._next = now + _LINE_EVERY_S
            print(plain(text), file=sys.stderr, flush=True)


@contextmanager
def line_shown(*, quiet: bool) -> Iterator[Callable[[str], None] | None]:
    """Give a function that shows one line of text, which changes on a terminal; None with `quiet`."""
    if quiet or sys.stderr is None:
        yield None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status("reading") as status:
            yield lambda text: status.update(Text(text))
    else:
        yield Lines().show


@contextmanager
def fill_shown(*, quiet: bool, molecule: str | None = None) -> Iterator[OnProgress | None]:
    """Give a function that shows the progress of a fill; None with `quiet`."""
    words = _Words({"protein": "residues", "dna": "bases"}.get(molecule or "", "residues or bases"))
    if quiet or sys.stderr is None:
        yield None
    elif sys.stderr.isatty():
        with _bar(words) as show:
            yield show
    else:
        lines = Lines(first_after_s=_FIRST_LINE_S)
        yield lambda progress: lines.show(words.text(progress))


class _Words:
    """Puts a progress into words.

    The speed is measured from the first results on: loading the model is no part of it.
    """

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._of: FillProgress | None = None
        self._began: tuple[float, int] | None = None

    def text(self, progress: FillProgress) -> str:
        if progress is not self._of:  # one object a fill
            self._of, self._began = progress, None
        if progress.computed:
            parts = self._computing(progress)
        else:
            parts = [f"reading: {progress.read:,} records"]
            if progress.waiting:
                parts.append(f"{progress.waiting:,} sequences to compute")
        if progress.rejected or progress.failed:
            parts.append(f"{progress.rejected + progress.failed:,} rejected or failed")
        return ", ".join(parts)

    def _computing(self, progress: FillProgress) -> list[str]:
        now = time.monotonic()
        self._began = self._began or (now, progress.residues_computed)
        seconds, done = now - self._began[0], progress.residues_computed - self._began[1]
        known = progress.residues_computed + progress.residues_waiting
        parts = [f"computing: {progress.computed:,} of {progress.computed + progress.waiting:,} sequences"]
        if known:
            parts.append(f"{100 * progress.residues_computed // known} %")
        if seconds > 0 and done > 0:
            rate = done / seconds
            parts += [f"{rate:,.0f} {self._unit}/s", f"{duration(progress.residues_waiting / rate)} left"]
        return parts


@contextmanager
def _bar(words: _Words) -> Iterator[OnProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def show(progress: FillProgress) -> None:
            known = progress.residues_computed + progress.residues_waiting
            bar.update(
                task, description=words.text(progress), total=known or None, completed=progress.residues_computed
            )

        yield show
