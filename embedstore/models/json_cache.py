"""Small JSON files that only ever save time, in `$XDG_CACHE_HOME/embedstore`.

Such a file is written whole under a temporary name and renamed; a damaged or unreadable one counts as empty. Two
processes may write at once: one of them wins, and what the other one knew is found out again.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedstore.errors import InputError
from embedstore.home import expanded


def cache_file(name: str) -> Path:
    """Return where the file of that name lies; nowhere, without a home directory."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return expanded(base) / "embedstore" / name
    except InputError:
        return Path(os.devnull) / "embedstore" / name


def read_entries(file: Path) -> dict[str, Any]:
    """Return the entries of the file's JSON object; none if it cannot be read."""
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def write_entries(file: Path, entries: Mapping[str, Any]) -> bool:
    """Replace the file, and tell whether that was possible."""
    try:
        _replace(file, entries)
    except OSError:
        return False
    return True


def _replace(file: Path, entries: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.stem}-", suffix=file.suffix)
    try:
        with os.fdopen(handle, "w") as stream:
            json.dump(entries, stream, indent=1)
        Path(temporary).replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
