"""Builds the command line and runs it; the only place where an error becomes an exit code.

0 all well, 1 error, 2 wrong usage, 3 done but some records were rejected or failed; interrupted: 130 by Ctrl-C, 143 by
SIGTERM (`scancel`, a time limit), 129 by SIGHUP (a terminal that closed). What was computed before is stored. A second
signal, from a second later on, ends the process at once.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from embedstore.errors import DeviceWarning, EmbedStoreError, UpstreamWarning, plain
from embedstore.interruption import Interrupted, exit_code, heeded, signal_of
from embedstore_cli.checking import audit, compact, doctor, gc, selftest, verify
from embedstore_cli.classifying import evaluate, import_classifier, train
from embedstore_cli.command import Command, Group
from embedstore_cli.embedding import fill, get
from embedstore_cli.exchange import publish_index, pull, push, sync
from embedstore_cli.predicting import compare, predict
from embedstore_cli.sampling import merge, prepare
from embedstore_cli.storing import info, init, ls, pin, rm
from embedstore_cli.this_machine import bench, cache, completion, models, tune

_LONGEST_MESSAGE = 5_000
_LEAST_OF_SIGNALS = 129
_SHOWN_WARNINGS = (UpstreamWarning, DeviceWarning)

app = typer.Typer(
    name="embedstore",
    cls=Group,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # see command
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    *(init, fill, get, prepare, merge, train, evaluate, predict, compare, import_classifier),
    *(ls, info, models, tune, bench, push, pull, sync, publish_index),
    *(verify, audit, doctor, selftest, compact, gc, pin, rm, cache, completion),
):
    app.command(cls=Command)(command)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"embedstore {version('embedstore-bio')}")
        raise typer.Exit


@app.callback()
def _embedstore(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Embed sequences once, read them everywhere: a content-addressed store of embeddings."""


def run() -> NoReturn:
    """Run the command line of this process."""
    _open_closed_streams()
    _have_a_home()
    _escape_what_cannot_be_encoded()
    code = main(sys.argv[1:])
    if code >= _LEAST_OF_SIGNALS:
        os._exit(code)  # a model's thread may still be at work; everything that was to be stored is
    sys.exit(code)


def main(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code."""
    try:
        with heeded():
            code = _run_app(arguments)
            _flush()
    except EmbedStoreError as error:
        return _fail(str(error))
    except BrokenPipeError:
        _mute_output()
        return 1
    except OSError as error:
        _mute_output()
        return _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    except KeyboardInterrupt as stop:
        return _stopped(stop)
    return code


def _run_app(arguments: Sequence[str]) -> int:
    with warnings.catch_warnings():
        for shown in _SHOWN_WARNINGS:
            warnings.simplefilter("default", shown)
        show = warnings.showwarning
        warnings.showwarning = lambda *warning: (
            _notice(warning[0]) if issubclass(warning[1], _SHOWN_WARNINGS) else show(*warning)
        )
        try:
            app(list(arguments), prog_name="embedstore")
        except SystemExit as done:
            _raise_what_is_behind(done)
            return done.code if isinstance(done.code, int) else 0
    return 0


def _raise_what_is_behind(done: SystemExit) -> None:
    """Raise the interrupt that typer has made an exit of, if there is one."""
    error: BaseException | None = done
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            raise error
        error = error.__cause__ or error.__context__


def _stopped(stop: KeyboardInterrupt) -> int:
    name = signal_of(stop)
    stored = stop.stored if isinstance(stop, Interrupted) else ""
    with suppress(OSError):
        _say(f"Interrupted by {name}. {stored}".rstrip())
        _flush()
    return exit_code(name)


def _notice(warning: Warning | str) -> None:
    _say(f"Warning: {plain(warning)}")


def _fail(message: str) -> int:
    with suppress(OSError):  # nobody can be told
        _say(f"Error: {plain(message, _LONGEST_MESSAGE)}")
    return 1


def _say(text: str) -> None:
    if sys.stderr is not None:  # None, where it is closed, would be standard output
        print(text, file=sys.stderr)


def _open_closed_streams() -> None:
    """Send nowhere what goes to a stream that is closed: its number would be given to the next file that is opened."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _have_a_home() -> None:
    """Name a home that is not there, where none can be found: many libraries fail without a name."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/nonexistent"


def _escape_what_cannot_be_encoded() -> None:
    """Write characters that the terminal's encoding or a locale does not have as \u2026, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not (stream.encoding == "utf-8" and stream.errors != "strict"):
            stream.reconfigure(errors="backslashreplace")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed by who started us
            stream.flush()


def _mute_output() -> None:
    """Send what is still buffered nowhere, so that the interpreter does not stumble over it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
