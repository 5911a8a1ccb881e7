"""SHA-256 of files, remembered: hashing the weights of a large model takes seconds to a minute.

A digest is remembered by path, size and modification time (nanoseconds) in `$XDG_CACHE_HOME/embedstore/digests.json`.
The file is a cache and nothing more (`json_cache`): without it, hashing is done again.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from embedstore.models import json_cache

_SETTLED_NS = 2_000_000_000
"""A file younger than this may still change without its time changing, on file systems with coarse clocks."""

_MOST_ENTRIES = 1000


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits, from the cache when the file is unchanged.

    Raises
    ------
    OSError : the file cannot be read.
    """
    path = path.resolve()
    before = path.stat()
    stamp = [before.st_size, before.st_mtime_ns]
    known = _read_cache().get(str(path))
    if known is not None and known[:2] == stamp:
        return str(known[2])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        after = os.fstat(file.fileno())
    unchanged = [after.st_size, after.st_mtime_ns] == stamp
    if unchanged and time.time_ns() - after.st_mtime_ns > _SETTLED_NS:
        _remember(str(path), [*stamp, digest])
    return digest


def files_sha256(paths: Sequence[Path]) -> str:
    """Return one digest for the files of a checkpoint.

    That of the file when there is one; of several (shards) the SHA-256 of their digests in the order of their names,
    a line each.
    """
    digests = [file_sha256(path) for path in sorted(paths, key=lambda path: path.name)]
    return combined_sha256(digests)


def combined_sha256(digests: Sequence[str]) -> str:
    """Combine the digests of shards, given in the order of the files' names."""
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode("ascii")).hexdigest()


def cache_file() -> Path:
    """Where digests are remembered."""
    return json_cache.cache_file("digests.json")


def _read_cache() -> dict[str, list[int | str]]:
    return {path: entry for path, entry in json_cache.read_entries(cache_file()).items() if _is_entry(entry)}


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 3
        and isinstance(entry[0], int)
        and isinstance(entry[1], int)
        and isinstance(entry[2], str)
        and len(entry[2]) == 64
    )


def _remember(path: str, entry: list[int | str]) -> None:
    entries = _read_cache()
    entries.pop(path, None)
    entries[path] = entry
    json_cache.write_entries(cache_file(), dict(list(entries.items())[-_MOST_ENTRIES:]))
