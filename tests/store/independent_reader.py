"""A reader of stores written from `docs/format.md` alone: the standard library, and nothing of embedstore."""

from __future__ import annotations

import hashlib
import json
import mmap
import re
import struct
from bisect import bisect_left
from pathlib import Path
from typing import Any


class Unreadable(Exception):
    """The store breaks the format."""


def demand(right: bool, what: object) -> None:
    if not right:
        raise Unreadable(what)


def crc32c(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def canonical(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def sealed_document(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_bytes())
    demand(canonical(document) == path.read_bytes(), path)
    stated = document.pop("sha256")
    demand(hashlib.sha256(canonical(document)).hexdigest() == stated, path)
    return document


class Reader:
    """The space of one name in a store."""

    def __init__(self, store: Path, name: str) -> None:
        root = sealed_document(store / "embedstore.json")
        demand(root["format"] == "embedstore" and root["minimal_reader_version"] <= 1 and not root["features"], root)
        documents = [(path, sealed_document(path)) for path in store.glob("spaces/*/space.json")]
        ((path, document),) = [found for found in documents if found[1]["name"] == name]
        self._space, recipe = path.parent, document["recipe"]
        compact = json.dumps(recipe, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        demand(hashlib.sha256(compact).hexdigest() == document["id"] == self._space.name, path)
        self._row_format = f"<{recipe['dim']}{'e' if recipe['dtype'] == 'float16' else 'f'}"
        self.live = self._live_commits()

    def _live_commits(self) -> list[tuple[str, dict[str, Any]]]:
        """Oldest first."""
        commits = {}
        for path in (self._space / "commits").iterdir():
            if re.fullmatch(r"[0-9a-f]{64}\.json", path.name):
                demand(hashlib.sha256(path.read_bytes()).hexdigest() == path.stem, path)
                commits[path.stem] = json.loads(path.read_bytes())
                demand(commits[path.stem]["space"] == self._space.name, path)
        dead = {old for commit in commits.values() for old in commit["replaces"]}
        live = [(name, commit) for name, commit in commits.items() if name not in dead]
        return sorted(live, key=lambda found: (found[1]["created_ns"], found[0]))

    def _array(self, commit: dict[str, Any], array: str, row_bytes: int) -> list[bytes]:
        rows: list[bytes] = []
        for part in commit["arrays"][array]:
            demand(re.fullmatch(rf"data/{commit['nonce']}(\.h5|(/\w[\w.]*)+)", part["file"]) is not None, part)
            with (self._space / part["file"]).open("rb") as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            demand(len(content) == commit["files"][part["file"]]["size"], part)
            starts = range(part["offset"], part["offset"] + part["rows"] * row_bytes, row_bytes)
            rows += [content[start : start + row_bytes] for start in starts]
        demand(len(rows) == commit["rows"] and len(rows[-1]) == row_bytes, commit)
        return rows

    def read(self, key: bytes) -> bytes:
        """The bytes of the vector of a key; KeyError if there is none."""
        for _, commit in self.live:
            keys = self._array(commit, "key", 24)
            row = bisect_left(keys, key)
            if row < len(keys) and keys[row] == key:
                vector = self._array(commit, "vectors", struct.calcsize(self._row_format))[row]
                demand(crc32c(key + vector) == struct.unpack("<I", self._array(commit, "row_crc", 4)[row])[0], commit)
                return vector
        raise KeyError(key)

    def numbers(self, key: bytes) -> tuple[float, ...]:
        return struct.unpack(self._row_format, self.read(key))


def read_index(content: bytes) -> tuple[list[str], dict[int, list[tuple[int, int]]]]:
    """Read an index file: the commits that it covers, and prefix -> [(segment, row)]."""
    (length,) = struct.unpack("<Q", content[8:16])
    header = json.loads(content[16 : 16 + length])
    start, count = -(-(16 + length) // 64) * 64, header["keys"]
    demand(content[:8] == b"EMBIDX01" and start + 14 * count == len(content), header)
    checked = json.dumps([header["commits"], count], separators=(",", ":")).encode() + content[start:]
    demand(crc32c(checked) == header["crc32c"], header)
    places: dict[int, list[tuple[int, int]]] = {}
    arrays = struct.unpack(f"<{count}Q{count}I{count}H", content[start:])
    for prefix, row, segment in zip(arrays[:count], arrays[count : 2 * count], arrays[2 * count :], strict=True):
        places.setdefault(prefix, []).append((segment, row))
    return header["commits"], places
