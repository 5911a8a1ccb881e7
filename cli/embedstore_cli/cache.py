"""embedstore cache: what this machine keeps beside stores."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from embedstore_cli import options

_KEPT = {"digests.json": "digests of weights files", "machine.json": "speeds and settings, of `bench` and `tune`"}


class Action(StrEnum):
    """What to do with it."""

    clear = "clear"


def cache(
    action: Annotated[
        Action | None,
        typer.Argument(metavar="[clear]", help="Remove what is kept, but for weights.", show_default=False),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: options.Json = False,
) -> None:
    """Show what this machine keeps beside stores, where, and how large it is.

    Weights belong to the cache of huggingface_hub, which other programs use too: they are shown, and never removed.
    """
    from embedstore.models.files import cache_file
    from embedstore_cli.output import confirm, notice, size, write_json, write_table

    ours = [(cache_file(name), what) for name, what in _KEPT.items() if cache_file(name).is_file()]
    if action is Action.clear:
        if ours and not yes:
            confirm(f"Remove {', '.join(str(path) for path, _ in ours)}")
        for path, _ in ours:
            path.unlink(missing_ok=True)
            notice(f"Removed {path}.")
        return
    found = [*ours, *_weights()]
    if json:
        write_json([{"path": str(path), "bytes": _bytes(path), "what": what} for path, what in found])
    elif found:
        write_table(("what", ">size", "path"), ([what, size(_bytes(path)), str(path)] for path, what in found))
    else:
        notice(f"Nothing is kept yet; {cache_file('')} is where it will be.")


def _weights() -> list[tuple[Path, str]]:
    """Return the folders of the named models' weights that were fetched."""
    from embedstore.models.registry import MODELS

    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return []
    folders = {
        spec.name: Path(HF_HUB_CACHE) / f"models--{spec.repository.replace('/', '--')}"
        for spec in MODELS.values()
        if not spec.built_in
    }
    return [(folder, f"weights of {name}") for name, folder in folders.items() if folder.is_dir()]


def _bytes(path: Path) -> int:
    """Return the size of a file, or of the files below a folder; what is linked counts once, where it lies."""
    if path.is_file():
        return path.stat().st_size
    return sum(
        os.lstat(Path(folder, name)).st_size
        for folder, _, names in os.walk(path)
        for name in names
        if not Path(folder, name).is_symlink()
    )
