"""Signals that ask a process to end, and what becomes of them: what was computed is committed first.

Ctrl-C raises KeyboardInterrupt, upon which a fill commits what it has. The command line lets SIGTERM (`scancel`, time
limits, preemption) and SIGHUP (a terminal that closes) do the same, by `heeded`. Nothing is installed by importing
embedstore: users of the library keep the handlers of their process.

Such an exception comes between any two steps. Where one would lose count of what is stored, `uninterrupted` holds
signals back for a moment. Where one would be lost, or worse, `heeded` raises it a little later: in the middle of an
import, since C++ that calls Python ends the process for it, and in callbacks, which ignore all exceptions.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAME_S = 1.0
"""How long further signals count as the first: `timeout`, `srun` and shells send theirs to a process and its group."""
_AGAIN_S = 0.02
_IMPORTS = "<frozen importlib._bootstrap>"

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
    SIGALRM is used for signals that come at a bad moment.
    """
    first_s: float | None = None
    waiting = 0
    show = sys.unraisablehook

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal first_s
        now_s = time.monotonic()
        if first_s is not None and now_s - first_s < _SAME_S:
            return
        if _is_importing(frame):
            come_again(number)
            return
        first_s = now_s if first_s is None else first_s
        raise Interrupted(signal.Signals(number).name)

    def come_again(number: int) -> None:
        nonlocal waiting
        waiting = number
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)

    def catch(ignored: sys.UnraisableHookArgs) -> None:
        nonlocal first_s
        if isinstance(ignored.exc_value, Interrupted):
            first_s = None
            come_again(signal.Signals[ignored.exc_value.signal])
        else:
            show(ignored)

    def choose(number: signal.Signals, found: object) -> Handler | None:
        if found not in (signal.SIG_DFL, signal.default_int_handler):
            return None
        return (lambda _, frame: stop(waiting, frame)) if number == signal.SIGALRM else stop

    with _handling(choose):
        try:
            sys.unraisablehook = catch
            yield
        finally:
            sys.unraisablehook = show
            if waiting:
                signal.setitimer(signal.ITIMER_REAL, 0)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTS:
            return True
        frame = frame.f_back
    return False


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold signals back whose handlers are Python's, and hand them on at the end, unless that is an error.

    For short work on what is in memory: meanwhile Ctrl-C does nothing.
    """
    held: list[tuple[Handler, int]] = []
    holding = True

    def hold(_: signal.Signals, before: object) -> Handler | None:
        def handle(number: int, frame: FrameType | None) -> None:
            if callable(before):
                if holding:
                    held.append((before, number))
                else:
                    before(number, frame)

        return handle if callable(before) else None

    try:
        with _handling(hold):
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
    """Keep signals from processes that are started meanwhile, which come to all processes of a terminal or a job.

    Who starts them heeds the signal, and tells them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _handling(choose: Callable[[signal.Signals, object], Handler | None]) -> Iterator[None]:
    """Replace handlers for a while, by what is chosen for a signal and its handler; only in the main thread."""
    before: dict[signal.Signals, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in (*_SIGNALS, signal.SIGALRM):
                found = signal.getsignal(number)
                chosen = choose(number, found)
                if chosen is not None:
                    before[number] = found
                    signal.signal(number, chosen)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
