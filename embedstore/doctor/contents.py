"""What a store holds: does it open, and does it need maintenance? Counted by listings and commits, so it is quick."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from embedstore.doctor.findings import Finding
from embedstore.errors import FormatVersionError, StoreError
from embedstore.storage.listing import ROOT_NAME
from embedstore.storage.local import TEMPORARY_PREFIX
from embedstore.storage.protocol import Storage
from embedstore.store.commits import CommitLog
from embedstore.store.documents import Root
from embedstore.store.space import Space
from embedstore.store.store import SpaceStore
from embedstore.upkeep.compaction import MANY_SMALL_SEGMENTS, SMALL_BYTES

_GROUP = "store"
_LISTED = ("commits/", "data/", "index/", "gc/", "signatures/")


def root_finding(storage: Storage) -> Finding:
    """Say whether a store is there, and can be read."""
    try:
        root = Root.from_bytes(storage.read(ROOT_NAME))
    except FileNotFoundError:
        if storage.list("spaces/"):
            advice = "Run `embedstore verify`, and restore embedstore.json from a backup."
            found = "it is gone, and there are spaces"
            return Finding(_GROUP, "root document", "fail", found, advice, {"there": True})
        advice = f"Make one with `embedstore init {storage.location}`; looking at the place where it would lie."
        return Finding(_GROUP, "root document", "warn", "there is no store", advice, {"there": False})
    except FormatVersionError as error:
        return Finding(_GROUP, "root document", "fail", str(error), "Upgrade embedstore.", {"there": True})
    except StoreError as error:
        advice = "Run `embedstore verify`, and restore it from a backup."
        return Finding(_GROUP, "root document", "fail", str(error), advice, {"there": True})
    data = {"there": True, "id": root.store_id, "version": root.version, "segment_format": root.segment_format}
    return Finding(_GROUP, "root document", "ok", f"format {root.version}, segments as {root.segment_format}", "", data)


def contents_findings(storage: Storage) -> Iterator[Finding]:
    """Count what a store holds, and its leftovers; it must open."""
    counts = _Counts()
    try:
        spaces = SpaceStore(storage).spaces()
    except StoreError as error:
        yield Finding(_GROUP, "spaces", "fail", str(error), "Run `embedstore verify`.")
        return
    counts.temporary = _temporary(storage, "")
    for space in spaces:
        try:
            _count(space, counts)
        except StoreError as error:
            yield Finding(_GROUP, "spaces", "fail", f"{space.name}: {error}", "Run `embedstore verify --deep`.")
    data = {"spaces": len(spaces), "rows": counts.rows, "bytes": counts.size_bytes, "segments": counts.segments}
    size_gib = counts.size_bytes / 2**30
    found = f"{len(spaces)} spaces, {counts.rows:,} rows in {counts.segments:,} segments, {size_gib:,.2f} GiB"
    yield Finding(_GROUP, "contents", "ok", found, "", data)
    yield from _maintenance(counts)


@dataclass(slots=True)
class _Counts:
    """Of all spaces together."""

    rows: int = 0
    """Rows of live segments; a key in several counts several times."""
    size_bytes: int = 0
    segments: int = 0
    most_small: int = 0
    """Small segments of the space that has most of them."""
    orphans: int = 0
    """Segments that no commit names: a crashed writer's, or of one that is still writing."""
    temporary: int = 0
    collections: int = 0
    oldest_collection_s: float = 0.0


def _count(space: Space, counts: _Counts) -> None:
    segments = space.segments()
    counts.rows += sum(map(len, segments))
    counts.size_bytes += sum(segment.commit.size_bytes for segment in segments)
    counts.segments += len(segments)
    small = sum(segment.commit.size_bytes < SMALL_BYTES for segment in segments)
    counts.most_small = max(counts.most_small, small)
    storage, folder = space.storage, space.folder
    commits = len(CommitLog(storage, folder).ids())
    written = sum(not _is_hidden(entry.name) for entry in storage.list(f"{folder}data/"))
    counts.orphans += max(0, written - commits)  # each commit names one
    counts.temporary += sum(_temporary(storage, f"{folder}{place}") for place in ("", *_LISTED))
    collections = [entry for entry in storage.list(f"{folder}gc/") if entry.name.endswith(".json")]
    counts.collections += len(collections)
    ages = [time.time() - entry.modified_ns / 1e9 for entry in collections]
    counts.oldest_collection_s = max([counts.oldest_collection_s, *ages])


def _is_hidden(name: str) -> bool:
    return name.rstrip("/").rpartition("/")[2].startswith(".")


def _temporary(storage: Storage, folder: str) -> int:
    names = (entry.name.removeprefix(folder) for entry in storage.list(folder))
    return sum(name.startswith(TEMPORARY_PREFIX) for name in names)


def _maintenance(counts: _Counts) -> Iterator[Finding]:
    data = {"most_in_a_space": counts.most_small}
    if counts.most_small > MANY_SMALL_SEGMENTS:
        found = f"{counts.most_small:,} in one space"
        yield Finding(_GROUP, "small segments", "warn", found, "Merge them with `embedstore compact`.", data)
    else:
        yield Finding(_GROUP, "small segments", "ok", f"at most {counts.most_small} in a space", "", data)
    data = {"segments": counts.orphans, "temporary_files": counts.temporary}
    found = f"{counts.orphans:,} segments without a commit, {counts.temporary:,} temporary files"
    left = counts.orphans or counts.temporary
    advice = (
        "Left by stopped processes, or of one that is still running; `embedstore gc` removes what is old."
        if left
        else ""
    )
    yield Finding(_GROUP, "left over", "ok", found, advice, data)
    if counts.collections:
        days = counts.oldest_collection_s / 86_400
        found = f"{counts.collections} not finished, the oldest {days:.1f} days old"
        advice = "`embedstore gc` continues them after the grace period."
        data_of = {"unfinished": counts.collections, "oldest_s": counts.oldest_collection_s}
        yield Finding(_GROUP, "collections", "ok", found, advice, data_of)
