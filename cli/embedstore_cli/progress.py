"""Progress on standard error: on a terminal a line that changes, otherwise a line now and then; none with `quiet`.

What a fill says of itself is `FillProgress.text`: what it is doing, done of how much, percent, speed, and time left.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

from embedstore.errors import plain

if TYPE_CHECKING:
    from embedstore.filling import FillProgress
    from embedstore.filling.summary import OnProgress

_LINE_EVERY_S = 30.0
_FIRST_LINE_S = 1.0


class Lines:
    """Says something on standard error every 30 s; nothing with `quiet`, or where that is closed."""

    def __init__(self, *, quiet: bool = False, first_after_s: float | None = None) -> None:
        self._quiet = quiet or sys.stderr is None
        wait_s = _LINE_EVERY_S if first_after_s is None else min(first_after_s, _LINE_EVERY_S)
        self._next = time.monotonic() + wait_s
        self._lock = Lock()

    def show(self, text: str) -> None:
        """Say it, if it is time."""
        with self._lock:
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
def fill_shown(*, quiet: bool, first: str = "finding the model") -> Iterator[OnProgress | None]:
    """Give a function that shows the progress of fills; None with `quiet`.

    Parameters
    ----------
    first : shown until a fill tells of its progress. Finding a model takes a while: its weights are read to know them.
    """
    if quiet or sys.stderr is None:
        yield None
    elif sys.stderr.isatty():
        with _bar(first) as show:
            yield show
    else:
        with _lines(first) as show:
            yield show


@contextmanager
def _lines(first: str) -> Iterator[OnProgress]:
    """Say how far it is when that is told, and also while nothing is told: a model may load for minutes."""
    lines, ended, told = Lines(first_after_s=_FIRST_LINE_S), Event(), [first]

    def show(progress: FillProgress) -> None:
        told[0] = "" if progress.phase == "done" else progress.text()
        lines.show(progress.text())

    def repeat() -> None:
        while not ended.wait(_FIRST_LINE_S):
            if told[0]:
                lines.show(told[0])

    thread = Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield show
    finally:
        ended.set()
        thread.join()


@contextmanager
def _bar(first: str) -> Iterator[OnProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(first, total=None, visible=bool(first))

        def show(progress: FillProgress) -> None:
            known = progress.residues_computed + progress.residues_waiting
            bar.update(
                task,
                description=progress.text(),
                total=known or None,
                completed=progress.residues_computed,
                visible=progress.phase != "done",
            )

        yield show
