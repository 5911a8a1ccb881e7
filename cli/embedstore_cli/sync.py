"""embedstore sync: copy in both directions what is missing from either store."""

from __future__ import annotations

from embedstore_cli import copying, options


def sync(
    far: copying.FarStore,
    store: options.StorePlace = None,
    space: copying.Spaces = None,
    dry_run: copying.DryRun = False,
    sign_with: options.SignWith = None,
    require_signed: options.RequireSigned = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Copy in both directions what is missing from either store.

    Everything is checked on the way. To go on after a stop, start the same command again.
    """
    from embedstore.library import open_store
    from embedstore.sharing import sync as sync_spaces

    there = open_store(far, upstream=())
    near = open_store(store, create=not dry_run, segment_format=there.segment_format, upstream=())
    lines = copying.Lines(quiet=quiet)
    report = sync_spaces(near, there, space or (), dry_run=dry_run, on_copied=lines.show)
    copying.write(report, json=json, quiet=quiet)
