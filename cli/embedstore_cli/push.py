"""embedstore push: copy to another store what is missing from it."""

from __future__ import annotations

from embedstore_cli import copying, options


def push(
    far: copying.FarStore,
    store: options.StorePlace = None,
    space: copying.Spaces = None,
    dry_run: copying.DryRun = False,
    sign_with: options.SignWith = None,
    require_signed: options.RequireSigned = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Copy to another store what is missing from it.

    Everything is checked on the way. To go on after a stop, start the same command again.
    """
    from embedstore.library import open_store
    from embedstore.sharing import push as push_spaces

    near = open_store(store, upstream=())
    there = open_store(far, create=not dry_run, segment_format=near.segment_format, upstream=())
    lines = copying.Lines(quiet=quiet)
    report = push_spaces(near, there, space or (), dry_run=dry_run, on_copied=lines.show)
    copying.write(report, json=json, quiet=quiet)
