"""embedstore init: make a store."""

from __future__ import annotations

from typing import Annotated

import typer

from embedstore_cli.options import Format


def init(
    path: Annotated[str, typer.Argument(metavar="PATH|URL", help="Nothing, or an empty folder.", show_default=False)],
    segment_format: Annotated[
        Format,
        typer.Option("--format", help="hdf5 makes one file a segment: less of them for file systems that count."),
    ] = Format.zarr,
    shared: Annotated[
        bool,
        typer.Option("--shared", help="Let the folder's group write, whatever the umask of its members (setgid)."),
    ] = False,
) -> None:
    """Make a store.

    To share it with a group: mkdir STORE, chgrp GROUP STORE, embedstore init --shared STORE.
    """
    from embedstore.doctor.storage import ranges_findings
    from embedstore.library import make_store
    from embedstore.storage.listing import ROOT_NAME
    from embedstore_cli.output import notice

    store = make_store(path, segment_format=segment_format.value, shared=shared)
    notice(f"Store at {store.location}: segments will be written as {store.segment_format}.")
    for finding in ranges_findings(store.storage, ROOT_NAME):
        if finding.state != "ok":
            notice(f"The server {finding.found}. {finding.advice}")
