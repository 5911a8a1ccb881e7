"""Signals that ask a process to end, and what becomes of them: what was computed is committed first.

Ctrl-C raises KeyboardInterrupt, upon which a fill commits what it has. The command line lets SIGTERM (`scancel`, time
limits, preemption) and SIGHUP (a terminal that closes) do the same, by `heeded`. Nothing is installed by importing
embedstore: users of the library keep the handlers of their process.

Such an exception comes between any two steps. Where one would lose count of what is stored, `uninterrupted` holds
signals back for a moment.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAME_S = 1.0
"""How long further signals count as the first: `timeout`, `srun` and shells send theirs to a process and its group."""

Handler = Callable[[int, FrameType | None], object]


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end.

    Attributes
    ----------
    signal : its name, "SIGTERM".
    stored : a sentence about what was stored before; may be empty.
    """

    def __init__(self, signal: str, stored: str = "") -> None:
        super().__init__(signal)
        self.signal = signal
        self.stored = stored


def signal_of(stop: KeyboardInterrupt) -> str:
    """Name the signal that an interrupt is due to."""
    return stop.signal if isinstance(stop, Interrupted) else signal.SIGINT.name


def exit_code(name: str) -> int:
    """Return the exit code of a process that a signal has ended, as shells count: "SIGTERM" -> 143."""
    return 128 + signal.Signals[name]


@contextmanager
def heeded() -> Iterator[None]:
    """Raise `Interrupted` upon SIGINT, SIGTERM and SIGHUP, in the main thread; once more for a second signal.

    What the process does with a signal already stays: `nohup` has SIGHUP ignored, an application has its handlers.
    """
    first_s: float | None = None

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        nonlocal first_s
        now_s = time.monotonic()
        if first_s is None or now_s - first_s >= _SAME_S:
            first_s = now_s if first_s is None else first_s
            raise Interrupted(signal.Signals(number).name)

    with _handling({signal.SIG_DFL, signal.default_int_handler}, lambda _: stop):
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold signals back whose handlers are Python's, and hand them on at the end, unless that is an error.

    For short work on what is in memory: meanwhile Ctrl-C does nothing.
    """
    held: list[tuple[Handler, int]] = []
    holding = True

    def hold(before: object) -> Handler:
        def handle(number: int, frame: FrameType | None) -> None:
            if callable(before):
                if holding:
                    held.append((before, number))
                else:
                    before(number, frame)

        return handle

    try:
        with _handling(None, hold):
            yield
    finally:
        holding = False
    for handler, number in held[:1]:
        handler(number, None)


@contextmanager
def kept_handlers() -> Iterator[None]:
    """Put back handlers that are replaced meanwhile, for instance by an import."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


@contextmanager
def not_for_children() -> Iterator[None]:
    """Have processes that are started meanwhile not notice signals, which come to all processes of a terminal or a job.

    Who starts them heeds the signal, and tells them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _handling(replaced: set[object] | None, replacement: Callable[[object], Handler]) -> Iterator[None]:
    """Replace handlers, those given or all that are Python functions, for a while; only in the main thread."""
    before: dict[signal.Signals, signal.Handlers | Handler] = {}
    try:
        for number in _SIGNALS if threading.current_thread() is threading.main_thread() else ():
            found = signal.getsignal(number)
            if found is not None and (callable(found) if replaced is None else found in replaced):
                before[number] = found  # type: ignore[assignment]
                signal.signal(number, replacement(found))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
