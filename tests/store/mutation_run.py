"""A store with a little of everything; one document of it is changed, and then everything is done with it.

Whatever was changed (see `mutations`): only errors of embedstore's own, no wrong vector, nothing lost that could be
read before, the other space as usable as ever, little memory and little time.

Run by hand as `mutation_run.py LAYOUT COUNT SEED FOLDER [OPERATIONS]`: prints what was found as JSON.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mutations import Mutator
from sample_rows import new_space, right_vectors, sample_batch, sample_keys, sample_recipe

from embedstore.errors import EmbedStoreError, FormatVersionError
from embedstore.identity import Recipe
from embedstore.sharing import pull, push, sync
from embedstore.storage.local import LocalStorage
from embedstore.storage.retrying import Patience
from embedstore.storage.web import WebStorage
from embedstore.store import Space, SpaceStore
from embedstore.store.documents import SegmentFormat
from embedstore.store.signing import PublicKey, Signer, Trust
from embedstore.store.verification import verify
from embedstore.upkeep import collect, compact, pin, remove_space, repair, unpin
from embedstore.upkeep.web_index import publish_web_index

VICTIM = sample_recipe()
OTHER = sample_recipe(model="other", dim=6, dtype="float16", precision="half")
KEYS = sample_keys(range(40))
NEW_KEYS = sample_keys(range(100, 104))
PIN = "paper"
MOST_GROWN_BYTES = 200 << 20
MOST_SECONDS = 10.0
_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SIGNER = Signer(PublicKey(_KEY.public_key().public_bytes_raw(), "alice"), _KEY.sign)
SIGNED = Trust(SIGNER, {SIGNER.public.fingerprint: SIGNER.public})
_QUICK = Patience(attempts=2, first_pause_s=0.01, longest_pause_s=0.02, timeout_s=5.0)
_SPACE_BYTES = 4 << 30  # of addresses: a larger array than that cannot be asked for


def make_store(place: Path, layout: SegmentFormat) -> None:
    """Two spaces; in the first, segments that were merged, one that was repaired, one that is signed, and all the rest.

    What is live of it: 40 rows in five segments, of which an index covers four.
    """
    space = new_space(place, layout, VICTIM, "victim")
    other = new_space(place, layout, OTHER, "other")
    for start in range(0, 20, 5):
        space.append(sample_batch(KEYS[start : start + 5], VICTIM), {"compute_seconds": 1.5, "letters": 100})
        other.append(sample_batch(KEYS[start * 2 : start * 2 + 10], OTHER))
        if start == 5:
            compact(space)
    damaged = max(place.glob(f"spaces/{VICTIM.id}/commits/*.json"), key=lambda file: file.stat().st_mtime_ns)
    part = json.loads(damaged.read_bytes())["arrays"]["vectors"][0]
    with (damaged.parent.parent / part["file"]).open("r+b") as file:
        file.seek(part["offset"])
        file.write(b"!")
    repair(LocalStorage(place))
    space.refresh()
    space.append(sample_batch(KEYS[15:30], VICTIM))
    space.optimise()
    pin(SpaceStore(LocalStorage(place)), PIN)
    signing = SpaceStore(LocalStorage(place), trust=Trust(SIGNER)).space("victim")
    signing.append(sample_batch(KEYS[30:], VICTIM), {"host": "here"})
    collect(LocalStorage(place))
    publish_web_index(LocalStorage(place))
    kinds = ("commits", "index", "gc", "signatures", "data")
    assert all(any((place / "spaces" / VICTIM.id / kind).iterdir()) for kind in kinds)


def make_half(place: Path, layout: SegmentFormat) -> None:
    """A store that has some of the rows."""
    space = new_space(place, layout, VICTIM, "victim")
    space.append(sample_batch(KEYS[3:12], VICTIM))
    new_space(place, layout, OTHER, "other").append(sample_batch(KEYS[:5], OTHER))


def open_store(place: Path, **options: Any) -> SpaceStore:
    return SpaceStore(LocalStorage(place), **options)


@dataclass
class Run:
    """What was done, and what was found."""

    mutations: int = 0
    operations: int = 0
    seconds: float = 0.0
    slowest: tuple[float, str] = (0.0, "")
    grown_bytes: int = 0
    grown_at: str = ""
    outcomes: dict[str, int] = field(default_factory=dict)
    spent_s: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


class Wrong(AssertionError):
    """Something was read, or lost, that must not be."""


class Case:
    """One changed store, and the folders for what is done with it."""

    def __init__(self, work: Path, url: str, layout: SegmentFormat, kind: str) -> None:
        self.work = work
        self.url = url
        self.layout = layout
        self.kind = kind
        self.place = work / "changed"
        self.readable = rows_of(self.place, VICTIM) if kind != "none" else set()
        self._copies = 0

    def copy(self, of: str = "changed") -> Path:
        self._copies += 1
        place = self.work / f"copy{self._copies}"
        shutil.copytree(self.work / of, place, copy_function=os.link)  # nothing that is written is ever changed
        return place

    def fresh(self) -> SpaceStore:
        self._copies += 1
        return SpaceStore(LocalStorage(self.work / f"copy{self._copies}"), create=True, segment_format=self.layout)

    def clean(self) -> None:
        """Remove what was made from the changed store."""
        for copy in self.work.glob("copy*"):
            shutil.rmtree(copy)


def judge(space: Space, recipe: Recipe) -> set[bytes]:
    """Read all keys that a space may have, all at once and one by one; return those that can be read."""
    right = {key.tobytes(): vector.tobytes() for key, vector in zip(KEYS, right_vectors(KEYS, recipe), strict=True)}
    right |= {k.tobytes(): v.tobytes() for k, v in zip(NEW_KEYS, right_vectors(NEW_KEYS, recipe), strict=True)}
    with suppress(EmbedStoreError):
        for key in space.keys():  # noqa: SIM118 - a method of a space
            if key.tobytes() not in right:
                with suppress(EmbedStoreError):
                    space.read(key[None])
                    raise Wrong(f"{space.name} gives a vector for a key that it never had")
    readable = set()
    try:
        there = KEYS[space.contains(KEYS)]
        for key, vector in zip(there, space.read(there), strict=True):
            _compare(space, key.tobytes(), vector, right)
            readable.add(key.tobytes())
    except EmbedStoreError:
        for key in KEYS:
            with suppress(EmbedStoreError):
                _compare(space, key.tobytes(), space.read(key[None])[0], right)
                readable.add(key.tobytes())
    return readable


def _compare(space: Space, key: bytes, vector: Any, right: dict[bytes, bytes]) -> None:
    if vector.tobytes() != right[key]:
        raise Wrong(f"{space.name} gives a wrong vector")


def rows_of(place: Path | SpaceStore, recipe: Recipe, **options: Any) -> set[bytes]:
    """The keys of a space that can be read from a store, each vector compared; a space of any changed recipe counts."""
    try:
        store = open_store(place, **options) if isinstance(place, Path) else place
        spaces = store.spaces()
    except EmbedStoreError:
        return set()
    found: set[bytes] = set()
    for space in spaces:
        if (space.id == OTHER.id) == (recipe is OTHER):
            found |= judge(space, recipe)
    return found


def assert_other_is_right(place: Path | SpaceStore, expected: int = 40, **options: Any) -> None:
    found = rows_of(place, OTHER, **options)
    if len(found) != expected:
        raise Wrong(f"of the other space {len(found)} rows can be read, not {expected}")


def read_all(case: Case) -> None:
    rows_of(case.place, VICTIM)
    if case.kind != "root":
        assert_other_is_right(case.place)
        assert_other_is_right(case.place, trust=Trust())
    store = open_store(case.place)
    for space in store.spaces():
        len(space), repr(space), space.segments(), space.ignored_commits
        space.info()


def read_signed(case: Case) -> None:
    store = open_store(case.place, trust=SIGNED)
    for space in store.spaces():
        if space.id != OTHER.id:
            judge(space, VICTIM)
            for segment in space.segments():
                space.signatures.signers(segment.commit_id)


def read_pinned(case: Case) -> None:
    store = open_store(case.place, pin=PIN)
    for space in store.spaces():
        judge(space, OTHER if space.id == OTHER.id else VICTIM)


def read_by_name(case: Case) -> None:
    space = open_store(case.place).space("victim")
    list(space.keys())
    space.sources(KEYS[:1])


def check(case: Case, *, deep: bool) -> None:
    report = verify(LocalStorage(case.place), deep=deep)
    json.dumps(report.to_json())
    about_other = [problem for problem in report.problems if problem.file.startswith(f"spaces/{OTHER.id}/")]
    if about_other and case.kind != "pin":
        raise Wrong(f"verify reports what is right: {about_other}")
    verify(LocalStorage(case.place), deep=deep, members=SIGNED.members)


def check_shallow(case: Case) -> None:
    check(case, deep=False)


def check_deep(case: Case) -> None:
    check(case, deep=True)


def append_there(case: Case) -> None:
    place = case.copy()
    open_store(place).space(VICTIM.id).append(sample_batch(NEW_KEYS, VICTIM), {"letters": 3})
    if not {key.tobytes() for key in NEW_KEYS} <= {*map(bytes, open_store(place).space(VICTIM.id).keys())}:
        raise Wrong("what was appended and acknowledged is not there")
    assert_kept(case, place)


def append_to_other(case: Case) -> None:
    place = case.copy()
    store = open_store(place)  # a root that cannot be read refuses here
    space = store.space(OTHER.id)
    space.append(sample_batch(NEW_KEYS, OTHER))
    compact(space)
    assert_other_is_right(place)
    open_store(place).space(OTHER.id).read(NEW_KEYS)


def append_signed(case: Case) -> None:
    place = case.copy()
    space = open_store(place, trust=SIGNED).space(VICTIM.id)
    space.append(sample_batch(NEW_KEYS, VICTIM))
    assert_kept(case, place)


def assert_kept(case: Case, place: Path) -> None:
    """All that could be read can be read, and the other space is as it was."""
    if case.kind != "root":
        assert_other_is_right(place)
    lost = case.readable - rows_of(place, VICTIM)
    if lost:
        raise Wrong(f"{len(lost)} of {len(case.readable)} rows can be read no more")


def fix(case: Case) -> None:
    place = case.copy()
    report = repair(LocalStorage(place))
    json.dumps(report.to_json())
    try:
        open_store(place)
    except FormatVersionError:
        return
    assert_other_is_right(place)
    assert_kept(case, place)
    for space in open_store(place).spaces():
        with suppress(EmbedStoreError):
            space.append(sample_batch(NEW_KEYS, space.recipe))


def collect_twice(case: Case) -> None:
    place = case.copy()
    try:
        collect(LocalStorage(place), grace_s=0)
        collect(LocalStorage(place), grace_s=0)
    finally:
        assert_kept(case, place)


def collect_for_members(case: Case) -> None:
    place = case.copy()
    try:
        collect(LocalStorage(place), grace_s=0, members=SIGNED.members)
    finally:
        assert_kept(case, place)


def collect_the_oldest(case: Case) -> None:
    place = case.copy()
    storage = LocalStorage(place)
    collect(storage, grace_s=0, max_size_bytes=1 << 40, dry_run=True)
    collect(storage, grace_s=0, max_size_bytes=1 << 40)
    assert_kept(case, place)
    collect(storage, max_size_bytes=2_000, older_than_s=1e9)
    rows_of(place, VICTIM)
    rows_of(place, OTHER)


def merge(case: Case) -> None:
    place = case.copy()
    try:
        for space in open_store(place).spaces():
            with suppress(EmbedStoreError):
                json.dumps(compact(space).to_json())
    finally:
        assert_kept(case, place)
    with suppress(EmbedStoreError):
        collect(LocalStorage(place), grace_s=0)
    assert_kept(case, place)


def pull_into_nothing(case: Case) -> None:
    there = case.fresh()
    pull(there, open_store(case.place), dry_run=True)
    assert_arrived(there, pull(there, open_store(case.place)).to_json())


def pull_into_half(case: Case) -> None:
    there = open_store(case.copy("half"))
    assert_arrived(there, pull(there, open_store(case.place)).to_json())


def pull_signed(case: Case) -> None:
    there = SpaceStore(LocalStorage(case.copy("half")), trust=Trust(members=SIGNED.members))
    pull(there, SpaceStore(LocalStorage(case.place), trust=Trust(members=SIGNED.members)))
    rows_of(there, VICTIM)
    assert verify(there.storage, deep=True).clean


def assert_arrived(there: SpaceStore, report: dict[str, Any]) -> None:
    json.dumps(report)
    assert_other_is_right(SpaceStore(there.storage))
    rows_of(SpaceStore(there.storage), VICTIM)
    problems = verify(there.storage, deep=True).problems
    if problems:
        raise Wrong(f"what was pulled is not clean: {problems}")


def push_into_it(case: Case) -> None:
    place = case.copy()
    try:
        push(open_store(case.work / "half"), open_store(place))
    finally:
        assert_kept(case, place)


def sync_both(case: Case) -> None:
    place, half = case.copy(), case.copy("half")
    try:
        sync(open_store(half), open_store(place))
    finally:
        assert_kept(case, place)
        if case.kind != "root":
            assert_other_is_right(half)


def read_on_the_web(case: Case) -> None:
    """Read by way of `index.json` as it is, then as it is published again."""
    name = case.copy().name
    with suppress(EmbedStoreError):
        _read_web(f"{case.url}/{case.work.name}/{name}")
    publish_web_index(LocalStorage(case.work / name))
    store = _read_web(f"{case.url}/{case.work.name}/{name}")
    assert_other_is_right(store)
    verify(store.storage, deep=True)


def _read_web(url: str) -> SpaceStore:
    store = SpaceStore(WebStorage(url, patience=_QUICK))
    rows_of(store, VICTIM)
    rows_of(store, OTHER)
    return store


def pin_and_unpin(case: Case) -> None:
    place = case.copy()
    store = open_store(place)
    try:
        pin(store, "another")
        rows_of(place, VICTIM, pin="another")
        assert_other_is_right(place, pin="another")
        unpin(store, "another")
        unpin(store, PIN)
        collect(store.storage, grace_s=0)
    finally:
        assert_kept(case, place)


def remove(case: Case) -> None:
    place = case.copy()
    store = open_store(place)
    try:
        with suppress(EmbedStoreError):
            unpin(store, PIN)
        remove_space(store, store.space(VICTIM.id))
    finally:
        if case.kind != "root":
            assert_other_is_right(place)


OPERATIONS: dict[str, Callable[[Case], None]] = {
    "read": read_all,
    "read signed": read_signed,
    "read pinned": read_pinned,
    "read by name": read_by_name,
    "verify": check_shallow,
    "verify deep": check_deep,
    "append": append_there,
    "append to the other": append_to_other,
    "append signed": append_signed,
    "repair": fix,
    "gc": collect_twice,
    "gc for members": collect_for_members,
    "gc to a size": collect_the_oldest,
    "compact": merge,
    "pull": pull_into_nothing,
    "pull into half": pull_into_half,
    "pull signed": pull_signed,
    "push into it": push_into_it,
    "sync": sync_both,
    "web": read_on_the_web,
    "pin, unpin": pin_and_unpin,
    "rm": remove,
}
READING = [name for name in OPERATIONS if name.startswith(("read", "verify"))]


def run(layout: SegmentFormat, count: int, seed: int, work: Path, most_operations: int) -> Run:
    """Change a store in some ways, one after another, and do things with each.

    Parameters
    ----------
    most_operations : how many of those that write are tried on each changed store; reading is always.
    """
    done = Run()
    work.mkdir(parents=True)
    make_store(work / "whole", layout)
    make_half(work / "half", layout)
    with serving(work.parent) as url:
        for name in _warm_up(work, url, layout):
            done.faults.append(f"unchanged: {name}")
        before = peak_bytes()
        started = time.monotonic()
        for number in range(seed, seed + count):
            kind, change = changed(work, number)
            random_order = random.Random(number)
            writing = random_order.sample([name for name in OPERATIONS if name not in READING], most_operations)
            done.mutations += 1
            case = Case(work, url, layout, kind)
            for name in [*READING, *writing]:
                _try(done, f"{number} {change}", name, case)
            case.clean()
        done.seconds = time.monotonic() - started
        done.grown_bytes = peak_bytes() - before
    return done


class _Handler(SimpleHTTPRequestHandler):
    """Serves files without waiting 40 ms for the acknowledgement of each header."""

    disable_nagle_algorithm = True

    def send_head(self) -> BytesIO | BinaryIO | None:
        if Path(self.translate_path(self.path)).is_file():  # a pipe would be waited for
            return super().send_head()
        self.send_error(404)
        return None

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # of five, a sixth connection at once is tried again after a second


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder from a thread; gives its URL."""
    with _Server(("127.0.0.1", 0), partial(_Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def changed(work: Path, seed: int) -> tuple[str, str]:
    """Copy the whole store to `changed`, and change one document there."""
    shutil.rmtree(work / "changed", ignore_errors=True)
    shutil.copytree(work / "whole", work / "changed", copy_function=_copy)
    return Mutator(work / "changed", VICTIM.id, seed).mutate()


def _copy(source: str, destination: str) -> None:
    """Copy documents, which are changed in place; data are moved at most."""
    (os.link if "/data/" in source else shutil.copyfile)(source, destination)


def _warm_up(work: Path, url: str, layout: SegmentFormat) -> Iterator[str]:
    """Do everything with a store that is as it should be: nothing may fail, and all that is loaded once is loaded."""
    shutil.copytree(work / "whole", work / "changed")
    case = Case(work, url, layout, "none")
    case.readable = rows_of(case.place, VICTIM)
    assert len(case.readable) == len(KEYS)
    for name, operation in OPERATIONS.items():
        try:
            operation(case)
        except Exception:  # noqa: BLE001 - whatever it is, it is reported
            yield f"{name}\n{traceback.format_exc()}"
    case.clean()


def _try(done: Run, change: str, name: str, case: Case) -> None:
    started, peak = time.monotonic(), peak_bytes()
    outcome = "fine"
    try:
        OPERATIONS[name](case)
    except EmbedStoreError as error:
        outcome = type(error).__name__
    except Exception:  # noqa: BLE001 - whatever it is, it is reported
        outcome = "fault"
        done.faults.append(f"{change} × {name}\n{traceback.format_exc()}")
    seconds, grown = time.monotonic() - started, peak_bytes() - peak
    done.operations += 1
    done.spent_s[name] = done.spent_s.get(name, 0) + seconds
    done.outcomes[f"{name}: {outcome}"] = done.outcomes.get(f"{name}: {outcome}", 0) + 1
    done.slowest = max(done.slowest, (seconds, f"{change} × {name}"))
    if grown > (16 << 20):
        done.grown_at += f"{change} × {name}: {grown >> 20} MB\n"
    if seconds > MOST_SECONDS or grown > MOST_GROWN_BYTES:
        done.faults.append(f"{change} × {name}: {seconds:.1f} s, {grown >> 20} MB")


def peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main(layout: Any, count: int, seed: int, work: Path, operations: int = len(OPERATIONS) - len(READING)) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_SPACE_BYTES, _SPACE_BYTES))
    os.fsync = lambda descriptor: None  # what a power cut leaves is for other tests
    print(json.dumps(run(layout, count, seed, work, operations).__dict__))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), *map(int, sys.argv[5:]))
