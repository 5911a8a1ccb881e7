"""Progress of a fill on standard error: a bar on a terminal, otherwise a line every 30 s."""

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


@contextmanager
def shown(*, quiet: bool) -> Iterator[OnProgress | None]:
    """Give a function that shows the progress it is told of; None with `quiet`."""
    if quiet or sys.stderr is None:
        yield None
    elif sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield _Lines().show


class _Lines:
    def __init__(self) -> None:
        self._said = time.monotonic()

    def show(self, progress: FillProgress) -> None:
        now = time.monotonic()
        if now - self._said >= _LINE_EVERY_S:
            self._said = now
            print(_text(progress), file=sys.stderr, flush=True)


@contextmanager
def _bar() -> Iterator[OnProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def show(progress: FillProgress) -> None:
            known = progress.residues_computed + progress.residues_waiting
            bar.update(task, description=_text(progress), total=known or None, completed=progress.residues_computed)

        yield show


def _text(progress: FillProgress) -> str:
    parts = [f"read {progress.read:,}", f"computed {progress.computed:,}"]
    if progress.waiting:
        parts.append(f"waiting {progress.waiting:,}")
    if progress.rejected or progress.failed:
        parts.append(f"rejected or failed {progress.rejected + progress.failed:,}")
    return ", ".join(parts)
