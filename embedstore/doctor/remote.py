"""What a store behind a URL allows: reaching, listing, reading, writing, and how long that takes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

from embedstore.doctor.findings import Finding
from embedstore.errors import EmbedStoreError, StoreError
from embedstore.store.documents import ROOT_NAME
from embedstore.store.local import TEMPORARY_PREFIX
from embedstore.store.ranges import Ranged
from embedstore.store.storage import Storage

_GROUP = "remote"
_ROUNDS = 3
_SLOW_S = 1.0
_MAX_CLOCK_OFFSET_S = 5.0
_CONTENT = b"embedstore doctor\n"


def reading_findings(storage: Storage) -> Iterator[Finding]:
    """Try to list and read; one finding that fails ends it."""
    try:
        storage.list("")
        times = []
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            _read_root(storage)
            times.append(time.perf_counter() - started)
    except (EmbedStoreError, OSError) as error:
        advice = "Check the address, the network, and the credentials in the environment or the usual files."
        yield Finding(_GROUP, "reachable", "fail", str(error), advice)
        return
    median_s = sorted(times)[len(times) // 2]
    found = f"lists and reads, {median_s * 1e3:.0f} ms a request"
    slow = median_s > _SLOW_S
    advice = "Keep a store nearby in front of it: --upstream with --pull-through." if slow else ""
    yield Finding(_GROUP, "reachable", "warn" if slow else "ok", found, advice, {"request_s": median_s})


def ranges_findings(storage: Storage, name: str) -> Iterator[Finding]:
    """Ask for a part of a file, and say what came; nothing where there is no such file."""
    if not isinstance(storage, Ranged):
        return
    try:
        answered = storage.answers_ranges(name, storage.entry(name).size_bytes)
    except FileNotFoundError:
        return
    except (EmbedStoreError, OSError) as error:
        yield Finding(_GROUP, "ranges", "fail", str(error), "Look at the server: reading parts of files fails.")
        return
    data = {"ranges": answered}
    if answered:
        yield Finding(_GROUP, "ranges", "ok", "sends parts of files, where these are asked for", "", data)
    else:
        found = "sends whole files, where parts of them are asked for"
        advice = "Reading works, by way of temporary files (TMPDIR). nginx, Apache and object stores send parts."
        yield Finding(_GROUP, "ranges", "warn", found, advice, data)


def _read_root(storage: Storage) -> None:
    try:
        storage.read(ROOT_NAME)
    except FileNotFoundError:
        return


def writing_findings(storage: Storage) -> Iterator[Finding]:
    """Try to write a file that readers skip, to read it and a part of it, and to remove it."""
    name = f"{TEMPORARY_PREFIX}doctor-{uuid.uuid4().hex}"
    try:
        before = time.time()
        try:
            entry = storage.write(name, [_CONTENT])
            after = time.time()
            right = storage.read(name) == _CONTENT
            listed = any(each.name == name for each in storage.list(""))
            ranges = tuple(ranges_findings(storage, name))
        finally:
            storage.delete(name)
    except (StoreError, FileNotFoundError) as error:
        advice = "Enough to read from it; to fill it, ask for permission to write and delete."
        yield Finding(_GROUP, "writing", "warn", f"refused: {error}", advice, {"writable": False})
        return
    data = {"writable": True, "read_back": right, "listed_at_once": listed}
    if not right:
        yield Finding(_GROUP, "writing", "fail", "what is read back is something else", "Use another service.", data)
    elif not listed:
        advice = "Nothing gets lost by it; at worst a sequence is computed twice."
        yield Finding(_GROUP, "writing", "warn", "works, but new files are listed late", advice, data)
    else:
        yield Finding(_GROUP, "writing", "ok", "writes, lists at once, deletes", "", data)
    yield from ranges
    yield _clock(entry.modified_ns / 1e9, before, after)


def _clock(written: float, before: float, after: float) -> Finding:
    offset_s = 0.0 if before <= written <= after else written - (before + after) / 2
    found = f"the storage's differs from this machine's by {offset_s:+.1f} s"
    if abs(offset_s) > _MAX_CLOCK_OFFSET_S:
        advice = "embedstore goes by the storage's clock; set this machine's by NTP."
        return Finding(_GROUP, "clock", "warn", found, advice, {"offset_s": offset_s})
    return Finding(_GROUP, "clock", "ok", found, "", {"offset_s": offset_s})
