"""embedstore verify: is everything there, and whole?"""

from __future__ import annotations

from typing import Annotated

import typer

from embedstore_cli import options


def verify(
    store: options.StorePlace = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read and check every byte.")] = False,
    require_signed: options.RequireSigned = None,
    json: options.Json = False,
) -> None:
    """Check that the store is whole.

    Exit code 1 if it is not.
    """
    from embedstore.library import verify_store
    from embedstore_cli.output import count, notice, size, write_json

    report = verify_store(store, deep=deep, require_signed=require_signed)
    if json:
        write_json(report.to_json())
    else:
        for problem in report.problems:
            print(f"{problem.file}: {problem.reason}")
        for orphan in report.orphans:
            print(f"{orphan}: nothing refers to it (left by a stopped process; harmless)")
        state = "Clean" if report.clean else f"Problems: {count(len(report.problems))}"
        notice(f"{state}; checked {count(report.checked_files)} files, {size(report.checked_bytes)}.")
    raise typer.Exit(0 if report.clean else 1)
