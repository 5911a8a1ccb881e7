"""embedstore verify: is everything there, and whole?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstore_cli import options


def verify(
    store: options.StorePlace = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read and check every byte.")] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Remove what is damaged, keep what is whole; the next fill computes the rest."),
    ] = False,
    require_signed: options.RequireSigned = None,
    sign_with: options.SignWith = None,
    json: options.Json = False,
) -> None:
    """Check that the store is whole.

    Exit code 1 if it is not.
    """
    from embedstore.library import verify_store
    from embedstore_cli.output import count, notice, size, write_json, write_line

    if repair:
        _repair(store, sign_with, json=json)
    report = verify_store(store, deep=deep, require_signed=require_signed)
    if json:
        write_json(report.to_json())
    else:
        for problem in report.problems:
            write_line(f"{problem.file}: {problem.reason}")
        for unchecked in report.unchecked:
            write_line(f"{unchecked.file}: not checked, {unchecked.reason}")
        for orphan in report.orphans:
            write_line(f"{orphan}: nothing refers to it (left by a stopped process; harmless)")
        state = "Clean" if report.clean else f"Problems: {count(len(report.problems))}"
        notice(f"{state}; checked {count(report.checked_files)} files, {size(report.checked_bytes)}.")
    raise typer.Exit(0 if report.clean else 1)


def _repair(store: str | None, sign_with: Path | None, *, json: bool) -> None:
    from embedstore.library import repair_store
    from embedstore_cli.output import count, notice, write_json, write_line

    report = repair_store(store, sign_with=sign_with)
    if json:
        write_json(report.to_json())
    else:
        for problem in report.removed:
            write_line(f"removed {problem.file}: {problem.reason}")
        for problem in report.left:
            write_line(f"left {problem.file}: {problem.reason}")
        lost, kept = count(report.rows_lost), count(report.rows_kept)
        notice(f"{lost} vectors are lost, the next fill computes them; {kept} beside them were kept.")
    raise typer.Exit(1 if report.left else 0)
