"""Progress of a fill on standard error: a bar on a terminal, otherwise a line after 1 s and then every 30 s.

What is to be computed grows while input is read, and with it the whole that percentages and the time left are of.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedstore.filling import FillProgress
    from embedstore.filling.filler import OnProgress

_LINE_EVERY_S = 30.0
_FIRST_LINE_S = 1.0


@contextmanager
def shown(*, quiet: bool, molecule: str | None = None) -> Iterator[OnProgress | None]:
    """Give a function that shows the progress it is told of; None with `quiet`."""
    words = _Words({"protein": "residues", "dna": "bases"}.get(molecule or "", "residues or bases"))
    if quiet or sys.stderr is None:
        yield None
    elif sys.stderr.isatty():
        with _bar(words) as show:
            yield show
    else:
        yield _Lines(words).show


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
        from embedstore_cli.output import duration

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


class _Lines:
    def __init__(self, words: _Words) -> None:
        self._words = words
        self._next = time.monotonic() + min(_FIRST_LINE_S, _LINE_EVERY_S)

    def show(self, progress: FillProgress) -> None:
        text, now = self._words.text(progress), time.monotonic()
        if now >= self._next:
            self._next = now + _LINE_EVERY_S
            print(text, file=sys.stderr, flush=True)


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
