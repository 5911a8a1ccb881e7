"""embedstore doctor: can a store be trusted to this place, and to this machine?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import options

if TYPE_CHECKING:
    from embedstore.doctor import Diagnosis

_WIDTH = 100
_INDENT = " " * 8


def doctor(
    store: Annotated[
        str | None,
        typer.Argument(
            metavar="[STORE]", help="Folder or URL. Default: $EMBEDSTORE_PATH, else the usual one.", show_default=False
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Look at a store, its file system and this machine.

    Says what is well, what to note (warn) and what must be fixed first (fail). Exit code 1 if something fails.
    """
    from embedstore.doctor import diagnose
    from embedstore.library import default_place
    from embedstore_cli.output import write_json

    diagnosis = diagnose(default_place() if store is None else store)
    if json:
        write_json(diagnosis.to_json())
    else:
        _write_text(diagnosis)
    raise typer.Exit(0 if diagnosis.healthy else 1)


def _write_text(diagnosis: Diagnosis) -> None:
    """Write one page: a line a finding, what to do below it."""
    from embedstore_cli.output import duration, notice, write_line

    write_line(diagnosis.location)
    for group in dict.fromkeys(finding.group for finding in diagnosis.findings):
        print(f"\n{group}")
        for finding in diagnosis.findings:
            if finding.group == group:
                _write_wrapped(f"  {finding.state:<4}  ", f"{finding.check}: {finding.found}")
                if finding.advice:
                    _write_wrapped(f"{_INDENT}→ ", finding.advice)
    states = [finding.state for finding in diagnosis.findings]
    looked = f"Looked at {len(states)} things in {duration(diagnosis.seconds)}"
    notice(f"{looked}: {states.count('warn')} to note, {states.count('fail')} to fix.")


def _write_wrapped(start: str, text: str) -> None:
    from textwrap import wrap

    from embedstore.errors import plain

    lines = wrap(plain(text), _WIDTH - len(start), break_long_words=False, break_on_hyphens=False)
    print(start + f"\n{' ' * len(start)}".join(lines))
