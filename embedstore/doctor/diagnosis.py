"""The whole examination, in the order of the page."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from pathlib import Path

from embedstore.doctor.contents import contents_findings, root_finding
from embedstore.doctor.findings import Diagnosis, Finding, State
from embedstore.doctor.installation import model_findings, processor_findings, version_findings
from embedstore.doctor.storage import (
    mount_findings,
    probe_folder,
    ranges_findings,
    reading_findings,
    semantics_findings,
    sharing_findings,
    space_findings,
    writing_findings,
)
from embedstore.errors import EmbedStoreError, StoreError
from embedstore.home import expanded
from embedstore.storage.file_systems import advice_for
from embedstore.storage.listing import ROOT_NAME
from embedstore.storage.local import TEMPORARY_PREFIX
from embedstore.storage.locations import Location, is_url, open_storage
from embedstore.storage.protocol import Storage


def diagnose(location: Location) -> Diagnosis:
    """Examine a store, its place, and this machine.

    What the checks write is in one folder or file `.tmp-doctor-…`, which readers skip and which is
    removed, on Ctrl-C too. Nothing else is changed.

    Parameters
    ----------
    location : of a store, or of a place where you want one.
    """
    started = time.perf_counter()
    found = tuple(_findings(location))
    return Diagnosis(_name(location), found, time.perf_counter() - started)


def _findings(location: Location) -> Iterator[Finding]:
    yield from _remote(str(location)) if is_url(location) else _local(expanded(location).absolute())
    yield from version_findings()
    yield from processor_findings()
    yield from model_findings()


def _local(folder: Path) -> Iterator[Finding]:
    try:
        there = yield from _store(open_storage(folder))
    except (StoreError, OSError) as error:
        there = True
        yield Finding("store", "root document", "fail", str(error), "Check the path and its permissions.")
    place = _nearest_folder(folder)
    yield from mount_findings(place)
    yield from _probed(place, may_read_only=there)
    try:
        if there:  # what a store's parent allows to others is nobody's mistake
            yield from sharing_findings(place)
        yield from space_findings(place)
    except OSError as error:
        reason = f"cannot be looked at: {error.strerror or error}"
        yield Finding("access", "sharing", "fail", reason, "Ask the owner of the folder.")


def _store(storage: Storage) -> Generator[Finding, None, bool]:
    """Yield the findings about the store itself; the value is whether there is one."""
    root = root_finding(storage)
    yield root
    if root.state == "ok":
        yield from contents_findings(storage)
    return bool(root.data.get("there", True))


def _probed(place: Path, *, may_read_only: bool) -> Iterator[Finding]:
    """Try what the file system does, where we may write."""
    try:
        with probe_folder(place) as inside:
            yield Finding("access", "writing", "ok", f"{place} can be read and written", "", {"writable": True})
            yield from semantics_findings(inside)
    except OSError as error:
        found = f"refused in {place}: {error.strerror or error}"
        state: State = "warn" if may_read_only else "fail"
        advice = advice_for(error) or "Choose another place."
        if may_read_only:
            advice = f"Enough to read; how the file system behaves was not tried. To fill it: {advice}"
        yield Finding("access", "writing", state, found, advice, {"writable": False})
        return
    yield from _removed(place)


def _removed(place: Path) -> Iterator[Finding]:
    """Say so if we could write, but not delete, or if a doctor was killed here."""
    left = sorted(path.name for path in place.glob(f"{TEMPORARY_PREFIX}doctor-*"))
    if left:
        advice = f"Delete them by hand, unless a doctor is running: {place / left[0]}"
        yield Finding("access", "deleting", "warn", f"{len(left)} folders of a doctor are there", advice)


def _nearest_folder(folder: Path) -> Path:
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def _remote(url: str) -> Iterator[Finding]:
    try:
        storage = open_storage(url)
    except EmbedStoreError as error:
        yield Finding("remote", "reachable", "fail", str(error), "Check the address, and what is installed.")
        return
    reachable = tuple(reading_findings(storage))
    yield from reachable
    if any(finding.state == "fail" for finding in reachable):
        return
    yield from _store(storage)
    if url.lower().startswith(("http://", "https://")):
        found = "read-only: a web server"
        yield from ranges_findings(storage, ROOT_NAME)
        yield Finding(
            "remote", "writing", "ok", found, "Publish its index again with `embedstore publish-index` after changes."
        )
    else:
        yield from writing_findings(storage)


def _name(location: Location) -> str:
    if not is_url(location):
        return str(expanded(location).absolute())
    try:
        return open_storage(location).location
    except EmbedStoreError:
        return str(location).partition("://")[0] + "://…"
