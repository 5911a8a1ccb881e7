"""Stores with content that embedstore never wrote: it harms nothing beside it, and no name in it is followed."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mutations import canonical, index_content, index_parts
from sample_rows import (
    LAYOUTS,
    assert_right,
    files_of,
    new_space,
    open_space,
    sample_batch,
    sample_canaries,
    sample_keys,
    sample_recipe,
)

from embedstore.errors import CorruptStoreError, EmbedStoreError, InputError, StorageError
from embedstore.sharing import pull, push
from embedstore.storage.listing import INDEX_NAME, WebIndex
from embedstore.storage.local import LocalStorage
from embedstore.store import SpaceStore
from embedstore.store.documents import MAX_CREATED_NS, SegmentFormat
from embedstore.store.segment_files import as_strings
from embedstore.store.signing import PublicKey, Signer, Trust
from embedstore.store.verification import verify
from embedstore.strict_json import MAX_DEPTH, sealed
from embedstore.upkeep import collect, compact, pin, remove_space, repair
from embedstore.upkeep.web_index import publish_web_index
from embedstore_cli.main import main

KEYS = sample_keys(range(12))
NEW_KEYS = sample_keys(range(50, 54))
OTHER = sample_recipe(model="other", dim=6)
_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SIGNER = Signer(PublicKey(_KEY.public_key().public_bytes_raw(), "alice"), _KEY.sign)


both_layouts = pytest.mark.parametrize("layout", LAYOUTS, indirect=True)


@pytest.fixture
def layout(request: pytest.FixtureRequest) -> SegmentFormat:
    """One file a segment, unless the test is about segments."""
    found: SegmentFormat = getattr(request, "param", "hdf5")
    return found


@pytest.fixture
def place(tmp_path: Path, layout: SegmentFormat) -> Path:
    """Two spaces; `toy` has two segments, the older of them merged from two that are still there."""
    place = tmp_path / "store"
    space = new_space(place, layout)
    for start in (0, 4):
        space.append(sample_batch(KEYS[start : start + 4], space.recipe))
    compact(space)
    space.append(sample_batch(KEYS[8:], space.recipe))
    new_space(place, layout, OTHER, "other").append(sample_batch(KEYS, OTHER))
    return place


@pytest.fixture(autouse=True)
def _without_syncing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut leaves is for other tests."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def folder_of(place: Path) -> Path:
    return place / "spaces" / sample_recipe().id


def live_commits(place: Path) -> list[Path]:
    return [folder_of(place) / "commits" / f"{each.commit_id}.json" for each in open_space(place).segments()]


def put_commit(place: Path, document: Any) -> Path:
    content = canonical(document)
    path = folder_of(place) / "commits" / f"{hashlib.sha256(content).hexdigest()}.json"
    path.write_bytes(content)
    return path


def change_commit(path: Path, **changes: Any) -> dict[str, Any]:
    return {**json.loads(path.read_bytes()), **changes}


def assert_both_are_right(place: Path) -> None:
    assert_right(open_space(place), KEYS)
    assert_right(open_space(place, "other"), KEYS)


def collect_all(place: Path) -> None:
    for _ in range(2):
        collect(LocalStorage(place), grace_s=0)


def remove_other(place: Path) -> None:
    store = SpaceStore.open(place)
    remove_space(store, store.space("other"))


UPKEEP: dict[str, Callable[[Path], object]] = {
    "gc": collect_all,
    "gc to a size": lambda place: collect(LocalStorage(place), grace_s=0, max_size_bytes=1 << 40),
    "repair": lambda place: repair(LocalStorage(place)),
    "compact": lambda place: compact(open_space(place)),
    "publish-index": lambda place: publish_web_index(LocalStorage(place)),
    "pin": lambda place: pin(SpaceStore.open(place), "paper"),
    "verify": lambda place: verify(LocalStorage(place), deep=True),
    "append": lambda place: open_space(place).append(sample_batch(NEW_KEYS, sample_recipe())),
}


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["gc", "gc to a size", "repair"])
@both_layouts
def test_a_file_of_a_segment_that_is_called_like_a_commit_takes_no_commit_along(place: Path, operation: str) -> None:
    pin(SpaceStore.open(place), "paper")
    live = live_commits(place)
    for data in [*folder_of(place).glob("data/*"), folder_of(place) / "data" / ("0" * 32)]:
        folder = data if data.is_dir() else data.with_suffix("")
        for commit in live:
            (folder / "commits").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(commit, folder / commit.name)
            shutil.copyfile(commit, folder / "commits" / commit.name)
    UPKEEP[operation](place)
    assert_both_are_right(place)
    assert all(commit.exists() for commit in live)


def test_a_pulled_segment_that_owns_a_file_called_like_a_commit_takes_none_along(tmp_path: Path) -> None:
    """As a stranger may publish it: the commit lists a file whose name is the digest of a commit of ours."""
    near, far = tmp_path / "near", tmp_path / "far"
    new_space(near, "zarr").append(sample_batch(KEYS[:4], sample_recipe()))
    victim = live_commits(near)[0]
    new_space(far, "zarr").append(sample_batch(KEYS[4:], sample_recipe()))
    commit = live_commits(far)[0]
    document = json.loads(commit.read_bytes())
    name = f"data/{document['nonce']}/commits/{victim.name}"
    (folder_of(far) / name).parent.mkdir()
    (folder_of(far) / name).write_bytes(b"x")
    document["files"][name] = {"size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    commit.unlink()
    put_commit(far, document)
    assert pull(SpaceStore.open(near), SpaceStore.open(far)).complete
    compact(open_space(near))
    collect_all(near)
    assert_right(open_space(near), KEYS)
    store = SpaceStore.open(near)
    remove_space(store, store.space("toy"))
    assert SpaceStore.open(near).spaces() == []


@pytest.mark.parametrize("where", ["commits/sub", "data", "data/0", "Commits", "upper", "temporary"])
@both_layouts
def test_replaces_counts_only_from_where_readers_look(place: Path, where: str) -> None:
    live = live_commits(place)
    content = canonical(change_commit(live[-1], replaces=[path.stem for path in live]))
    name = f"{hashlib.sha256(content).hexdigest()}.json"
    folder = folder_of(place) / {"upper": "commits", "temporary": "commits", "data/0": f"data/{'0' * 32}"}.get(
        where, where
    )
    folder.mkdir(parents=True, exist_ok=True)
    name = {"upper": name.upper(), "temporary": f".tmp-{name}"}.get(where, name)
    (folder / name).write_bytes(content)
    for operation in ("verify", "append", "compact", "gc", "repair"):
        UPKEEP[operation](place)
        assert_both_are_right(place)


@pytest.mark.parametrize("name", ["{id}.bak", "{id}-copy", "{ID}", ".snapshot", "{id}0", "x"])
def test_a_copy_of_a_space_is_ignored_and_stays(place: Path, name: str) -> None:
    folder = folder_of(place)
    copy = folder.with_name(name.format(id=folder.name, ID=folder.name.upper()))
    shutil.copytree(folder, copy)
    before = {path: path.read_bytes() for path in files_of(copy)}
    assert [space.name for space in SpaceStore.open(place).spaces()] == ["other", "toy"]
    for operation in UPKEEP.values():
        operation(place)
        assert {path: path.read_bytes() for path in files_of(copy)} == before
    report = verify(LocalStorage(place), deep=True)
    assert (report.problems, report.unchecked) == ([], [])
    publish_web_index(LocalStorage(place))
    assert not any(
        file.startswith(f"spaces/{copy.name}/") for file in WebIndex.from_bytes((place / INDEX_NAME).read_bytes()).files
    )
    assert_both_are_right(place)


@pytest.mark.parametrize("stray", [".DS_Store", "._x.json", ".nfs0001", "lost+found/", "Thumbs.db", "a b\n\x1b[2J.txt"])
@both_layouts
def test_stray_files_stop_nothing_and_stay(place: Path, stray: str) -> None:
    open_space(place).optimise()
    pin(SpaceStore.open(place), "before")
    collect(LocalStorage(place))
    folders = [place, *(path for path in place.rglob("*") if path.is_dir())]
    put = [folder / stray.rstrip("/") / ("inside" if stray.endswith("/") else "") for folder in folders]
    for path in put:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
    for operation in UPKEEP.values():
        operation(place)
        assert_both_are_right(place)
    gone = [path for path in put if not path.exists()]
    # In the folder of one segment, nobody can tell a file of that segment from another one that is called alike.
    assert all(stray == "Thumbs.db" and "data" in path.parent.parent.parts for path in gone)


# One bad space --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", UPKEEP)
def test_a_flipped_byte_in_one_space_document_leaves_the_other_space_usable(place: Path, operation: str) -> None:
    document = folder_of(place) / "space.json"
    content = document.read_bytes()
    document.write_bytes(content.replace(b'"toy"', b'"tox"', 1))
    if operation not in ("append", "compact"):
        UPKEEP[operation](place)
    space = open_space(place, "other")
    assert_right(space, KEYS)
    space.append(sample_batch(NEW_KEYS, OTHER))
    compact(space)
    pin(SpaceStore.open(place), "after")
    assert_right(open_space(place, "other"), NEW_KEYS)
    if operation == "repair":  # which took it away: the next fill of the same model brings all back
        assert not document.exists()
        SpaceStore.open(place).create_space(sample_recipe(), "toy", sample_canaries(sample_recipe()))
    else:
        document.write_bytes(content)
    assert_both_are_right(place)


def test_the_commands_go_on_beside_a_damaged_space(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "store"
    monkeypatch.setenv("EMBEDSTORE_PATH", str(place))
    monkeypatch.chdir(tmp_path)
    Path("x.faa").write_text(">a\nMKTAYIAKQR\n")
    assert main(["fill", "x.faa", "--model", "aac_dpc", "--quiet"]) == 0
    new_space(place, "zarr").append(sample_batch(KEYS, sample_recipe()))
    (folder_of(place) / "space.json").write_bytes(b"{}")
    Path("y.faa").write_text(">b\nACDEFGHIKL\n")
    for expected, *command in (
        (0, "fill", "y.faa", "--model", "aac_dpc", "--quiet"),
        (0, "get", "x.faa", "y.faa", "--model", "aac_dpc", "-o", "x.npz", "--quiet"),
        (0, "ls"),
        (0, "info"),
        (0, "info", "aac_dpc"),
        (0, "compact", "aac_dpc"),
        (0, "gc"),
        (0, "publish-index"),
        (0, "pin", "paper"),
        (1, "verify"),
    ):
        capsys.readouterr()
        code = main([str(part) for part in command])
        shown = capsys.readouterr()
        assert code == expected, (command, shown)
        assert "Traceback" not in shown.out + shown.err
    assert main(["verify", "--repair"]) == 1  # the next fill of its model brings the document back
    assert main(["get", "x.faa", "y.faa", "--model", "aac_dpc", "-o", "x.npz", "--quiet"]) == 0


# Numbers --------------------------------------------------------------------------------------------------------------


@both_layouts
def test_the_newest_moment_there_is_stops_neither_appends_nor_merging(place: Path) -> None:
    last = live_commits(place)[-1]
    document = change_commit(last, created_ns=MAX_CREATED_NS, provenance={"newest_ns": MAX_CREATED_NS})
    last.unlink()
    put_commit(place, document)
    space = open_space(place)
    for start in (0, 2):
        space.append(sample_batch(NEW_KEYS[start : start + 2], space.recipe))
    assert compact(space).segments_after == 1
    space.append(sample_batch(sample_keys(range(80, 90)), space.recipe))
    space.optimise()
    collect_all(place)
    collect(LocalStorage(place), max_size_bytes=1 << 40, older_than_s=1.0e6)
    assert_both_are_right(place)
    assert_right(open_space(place), NEW_KEYS)
    assert verify(LocalStorage(place), deep=True).clean


@pytest.mark.parametrize(
    "provenance",
    [
        {"compute_seconds": -1},
        {"compute_seconds": 1e308},
        {"letters": 2**63},
        {"letters": 10**400},
        {"letters": True},
        {"newest_ns": MAX_CREATED_NS + 1},
        {"newest_ns": -1},
        {"newest_ns": 1.5},
    ],
    ids=lambda each: str(each)[:40],
)
def test_provenance_out_of_range_is_refused_where_it_is_read_and_reported(place: Path, provenance: Any) -> None:
    with pytest.raises(InputError):
        open_space(place).append(sample_batch(NEW_KEYS, sample_recipe()), provenance)
    path = put_commit(place, change_commit(live_commits(place)[-1], provenance=provenance))
    with pytest.raises(CorruptStoreError, match=path.name):
        open_space(place).info()
    assert str(path.relative_to(place)) in {each.file for each in verify(LocalStorage(place)).problems}
    assert_right(open_space(place, "other"), KEYS)


@pytest.mark.parametrize("array", ["key", "vectors", "row_crc"])
@both_layouts
def test_parts_that_overlap_are_refused_and_reported(place: Path, array: str) -> None:
    last = live_commits(place)[-1]
    document = json.loads(last.read_bytes())
    part = document["arrays"][array][0]
    half = part["rows"] // 2
    document["arrays"][array] = [{**part, "rows": half}, {**part, "rows": part["rows"] - half}]
    last.unlink()
    path = put_commit(place, document)
    with pytest.raises(CorruptStoreError, match="inside array"):
        open_space(place).read(KEYS)
    found = {each.file for each in verify(LocalStorage(place), deep=True).problems}
    assert str(path.relative_to(place)) in found
    assert_right(open_space(place, "other"), KEYS)


NESTED = json.loads("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


@pytest.mark.parametrize(
    "literal", ["NaN", "-Infinity", "1e999", json.dumps(NESTED), '"\\ud800"'], ids=lambda each: each[:9]
)
def test_an_ignored_field_that_could_not_be_written_again_is_refused(place: Path, literal: str) -> None:
    """Met at the next copy, it would be an error that names nothing."""
    last = live_commits(place)[-1]
    content = canonical(change_commit(last, note="@")).replace(b'"@"', literal.encode())
    last.unlink()
    (last.with_name(f"{hashlib.sha256(content).hexdigest()}.json")).write_bytes(content)
    with pytest.raises(CorruptStoreError):
        open_space(place).read(KEYS)
    report = pull(SpaceStore.open(place.parent / "near", create=True), SpaceStore.open(place))
    assert not report.complete
    assert verify(LocalStorage(place)).problems
    assert_right(open_space(place, "other"), KEYS)


def test_provenance_too_deep_to_be_read_is_refused_before_it_is_written(place: Path) -> None:
    with pytest.raises(InputError, match="levels"):
        open_space(place).append(sample_batch(NEW_KEYS, sample_recipe()), {"x": NESTED})


# Whole commits in another form ----------------------------------------------------------------------------------------


@both_layouts
def test_repair_leaves_a_commit_that_says_more_of_its_parts_than_this_version_knows(place: Path) -> None:
    last = live_commits(place)[-1]
    document = json.loads(last.read_bytes())
    document["arrays"]["key"][0]["note"] = 1
    document["arrays"]["norm"] = []
    for fact in document["files"].values():
        fact["note"] = 1
    last.unlink()
    path = put_commit(place, document)
    assert verify(LocalStorage(place), deep=True).clean
    repair(LocalStorage(place))
    assert path.exists()
    assert_both_are_right(place)


def test_repair_leaves_a_complete_commit_that_is_not_in_canonical_form(place: Path) -> None:
    last = live_commits(place)[-1]
    content = json.dumps(json.loads(last.read_bytes())).encode()
    last.unlink()
    path = last.with_name(f"{hashlib.sha256(content).hexdigest()}.json")
    path.write_bytes(content)
    report = repair(LocalStorage(place))
    assert path.exists()
    assert [problem.file for problem in report.left] == [str(path.relative_to(place))]
    assert_both_are_right(place)


@both_layouts
def test_ignored_fields_survive_a_signed_copy(tmp_path: Path, layout: SegmentFormat) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    trust = Trust(SIGNER, {SIGNER.public.fingerprint: SIGNER.public})
    new_space(near, layout)
    SpaceStore(LocalStorage(near), trust=trust).space("toy").append(sample_batch(KEYS, sample_recipe()))
    (signed,) = live_commits(near)
    document = change_commit(signed, written_by={"version": "9.0", "é": [1, None]})
    for path in [signed, *folder_of(near).glob("signatures/*")]:
        path.unlink()
    path = put_commit(near, document)
    message = b"embedstore commit 1\n" + path.stem.encode()
    signature = {
        "format": "embedstore-signature",
        "commit": path.stem,
        "public_key": SIGNER.public.text,
        "signature": base64.b64encode(SIGNER.sign(message)).decode(),
        "a later fact": 1,
    }
    (folder_of(near) / "signatures").mkdir(exist_ok=True)
    (folder_of(near) / "signatures" / f"{path.stem}.{SIGNER.public.fingerprint}.json").write_bytes(sealed(signature))
    assert push(SpaceStore(LocalStorage(near), trust=trust), SpaceStore.open(far, create=True)).complete
    space = SpaceStore(LocalStorage(far), trust=Trust(members=trust.members)).space("toy")
    assert_right(space, KEYS)
    (segment,) = space.segments()
    assert segment.commit.extra == {"written_by": {"version": "9.0", "é": [1, None]}}
    assert segment.commit.signed_id == path.stem


def test_fields_that_may_be_ignored_are_in_every_document(place: Path) -> None:
    open_space(place).optimise()
    pin(SpaceStore.open(place), "paper")
    collect(LocalStorage(place))
    publish_web_index(LocalStorage(place))
    sealed_documents = [
        place / "embedstore.json",
        place / INDEX_NAME,
        *place.glob("pins/*"),
        *place.glob("spaces/*/gc/*"),
    ]
    for path in [*sealed_documents, *place.glob("spaces/*/space.json")]:
        document = json.loads(path.read_bytes())
        del document["sha256"]
        path.write_bytes(sealed({**document, "a later fact": {"x": [1]}}))
    for operation in UPKEEP:
        if operation != "pin":
            UPKEEP[operation](place)
        assert_both_are_right(place)
    report = verify(LocalStorage(place), deep=True)
    assert (report.problems, report.unchecked) == ([], [])


# Derived files and documents of the collection ------------------------------------------------------------------------


def index_of(place: Path) -> Path:
    (path,) = folder_of(place).glob("index/*.idx")
    return path


@both_layouts
def test_an_index_that_hides_keys_is_found_and_repaired(place: Path) -> None:
    open_space(place).optimise()
    path = index_of(place)
    header, arrays = index_parts(path.read_bytes())
    header["keys"] = 5
    path.write_bytes(index_content(header, tuple(array[:5] for array in arrays)))  # type: ignore[arg-type]
    assert open_space(place).contains(KEYS).sum() == 5
    assert [each.file for each in verify(LocalStorage(place), deep=True).problems] == [str(path.relative_to(place))]
    assert repair(LocalStorage(place)).left == []
    assert_both_are_right(place)


MALFORMED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "magic only": lambda content: content[:8],
    "no header": lambda content: content[:16],
    "zeros": lambda content: bytes(len(content)),
    "header of no bytes": lambda content: content[:8] + bytes(8) + content[16:],
    "header beyond the file": lambda content: content[:8] + len(content).to_bytes(8, "little") + content[16:],
    "header of 2**64-1 bytes": lambda content: content[:8] + b"\xff" * 8 + content[16:],
    "cut": lambda content: content[:-1],
    "longer": lambda content: content + bytes(14),
    "keys: text": lambda content: with_header(content, keys="12"),
    "keys: true": lambda content: with_header(content, keys=True),
    "keys: -1": lambda content: with_header(content, keys=-1),
    "keys: one less": lambda content: with_header(content, keys=11),
    "keys: 2**62": lambda content: with_header(content, keys=2**62),
    "keys: 10**400": lambda content: with_header(content, keys="@raw@3"),
    "keys: NaN": lambda content: with_header(content, keys="@raw@0"),
    "keys: deep": lambda content: with_header(content, keys="@raw@6"),
    "keys: half deep": lambda content: with_header(content, keys="@raw@8"),
    "no keys": lambda content: with_header(content, keys=None),
    "commits: numbers": lambda content: with_header(content, commits=[1, 2]),
    "commits: object": lambda content: with_header(content, commits={}),
    "commits: paths": lambda content: with_header(content, commits=["../x", "y"]),
    "commits: none": lambda content: with_header(content, commits=[]),
    "commits: twice": lambda content: with_commits(content, lambda commits: commits * 2),
    "commits: 70 000": lambda content: with_commits(content, lambda commits: commits * 35_000),
    "commits: gone": lambda content: with_commits(content, lambda commits: [*commits, "0" * 64]),
    "crc32c: text": lambda content: with_header(content, crc32c="x"),
    "crc32c: 2**64": lambda content: with_header(content, crc32c=2**64),
    "not sorted": lambda content: with_arrays(content, lambda prefix, row, segment: (prefix[::-1], row, segment)),
    "no such row": lambda content: with_arrays(content, lambda prefix, row, segment: (prefix, row + 2**31, segment)),
    "no such segment": lambda content: with_arrays(content, lambda prefix, row, segment: (prefix, row, segment + 9)),
    "other rows": lambda content: with_arrays(content, lambda prefix, row, segment: (prefix, row[::-1], segment)),
}


def with_header(content: bytes, **changes: Any) -> bytes:
    header, arrays = index_parts(content)
    return index_content({**header, **changes}, arrays, keep_checksum="crc32c" in changes)


def with_commits(content: bytes, change: Callable[[list[str]], list[str]]) -> bytes:
    header, arrays = index_parts(content)
    return index_content({**header, "commits": change(header["commits"])}, arrays)


def with_arrays(content: bytes, change: Callable[[Any, Any, Any], tuple[Any, Any, Any]]) -> bytes:
    header, arrays = index_parts(content)
    return index_content(
        header, tuple(each.astype(old.dtype) for each, old in zip(change(*arrays), arrays, strict=True))
    )


@pytest.mark.parametrize("how", MALFORMED)
def test_a_malformed_index_is_skipped_at_open_and_reported(place: Path, how: str) -> None:
    open_space(place).optimise()
    path = index_of(place)
    path.write_bytes(MALFORMED[how](path.read_bytes()))
    space = open_space(place)
    there = KEYS[space.contains(KEYS)]  # one with a right checksum may hide keys, and nothing else
    assert_right(space, there)
    assert len(there) == len(KEYS) or how in ("no such row", "no such segment", "other rows")
    assert set(as_strings(space.keys()).tolist()) == set(as_strings(KEYS).tolist())
    report = verify(LocalStorage(place), deep=True)
    about = [each.file for each in report.problems]
    assert about == [str(path.relative_to(place))] or how in ("commits: gone",)
    assert repair(LocalStorage(place)).left == []
    assert_both_are_right(place)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b"\xff",
        sealed({"format": "another", "files": []}),
        sealed({"format": "embedstore-condemned", "files": [1]}),
        sealed({"format": "embedstore-condemned", "files": {}}),
        sealed(
            {"format": "embedstore-condemned", "files": ["../../x", "/etc/passwd", "space.json", "", "commits/x.json"]}
        ),
    ],
    ids=range(8),
)
def test_a_damaged_or_foreign_document_of_a_collection_stops_nothing(place: Path, content: bytes) -> None:
    document = folder_of(place) / "gc" / f"{'0' * 32}.json"
    document.parent.mkdir(exist_ok=True)
    document.write_bytes(content)
    (place / "x").write_bytes(b"mine")
    for operation in UPKEEP:
        UPKEEP[operation](place)
        assert_both_are_right(place)
    assert (place / "x").exists()
    assert verify(LocalStorage(place), deep=True).clean


# The index for web servers --------------------------------------------------------------------------------------------


def test_an_index_is_published_of_a_store_with_a_commit_that_is_not_text(place: Path) -> None:
    path = live_commits(place)[-1]
    path.write_bytes(path.read_bytes().replace(b'"format"', b'"\xfformat"', 1))
    publish_web_index(LocalStorage(place))
    index = WebIndex.from_bytes((place / INDEX_NAME).read_bytes())
    name = str(path.relative_to(place))
    assert name in index.files
    assert name not in index.documents


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"../x": [1, 1]}},
        {"files": {"/etc/passwd": [1, 1]}},
        {"files": {"": [1, 1]}},
        {"files": {"a//b": [1, 1]}},
        {"files": {"a/./b": [1, 1]}},
        {"files": {"a/\x1b[2J": [1, 1]}},
        {"files": {"a\nb": [1, 1]}},
        {"files": {"a": [-1, 1]}},
        {"files": {"a": [2**63, 1]}},
        {"files": {"a": [1, 1.5]}},
        {"files": {"a": [True, 1]}},
        {"files": {"a": [1]}},
        {"files": {"a": [1, 1, 1]}},
        {"files": {"a": {}}},
        {"files": []},
        {"documents": {"a": "x"}},
        {"files": {"a": [2, 1]}, "documents": {"a": "x"}},
        {"files": {"a": [1, 1]}, "documents": {"a": 1}},
        {"documents": []},
        {"created_ns": -1},
        {"created_ns": 2**63},
        {"format": "x"},
    ],
    ids=str,
)
def test_an_index_of_a_hostile_server_is_refused(changes: dict[str, Any]) -> None:
    document = {"format": "embedstore-index", "created_ns": 1, "files": {}, "documents": {}, **changes}
    with pytest.raises(CorruptStoreError, match=INDEX_NAME):
        WebIndex.from_bytes(sealed(document))


def test_an_index_with_a_name_twice_is_refused() -> None:
    content = sealed({"format": "embedstore-index", "created_ns": 1, "files": {"a": [1, 1]}, "documents": {}})
    with pytest.raises(CorruptStoreError, match=INDEX_NAME):
        WebIndex.from_bytes(content.replace(b' "files": {\n', b' "files": {\n  "a": [2, 2],\n'))


def test_typed_errors_only(place: Path) -> None:
    for content in (b"", b"null", b"[]", b"\x00", b'"x"', b"1" * 5_000):
        with pytest.raises(EmbedStoreError):
            WebIndex.from_bytes(content)
    assert np.array_equal(open_space(place).contains(KEYS), np.ones(len(KEYS), np.bool_))


# What the storage refuses ---------------------------------------------------------------------------------------------


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("replace", [replace_by_folder, replace_by_pipe])
@pytest.mark.parametrize("document", ["space.json", "commits/*.json", "gc/*.json", "signatures/*.json", "index/*.idx"])
def test_a_document_that_cannot_be_opened_stops_nothing_of_another_space(
    place: Path, document: str, replace: Callable[[Path], None]
) -> None:
    signing = SpaceStore(LocalStorage(place), trust=Trust(SIGNER)).space("toy")
    signing.append(sample_batch(NEW_KEYS, sample_recipe()))
    signing.optimise()
    collect(LocalStorage(place))
    path = sorted(folder_of(place).glob(document))[-1]
    replace(path)
    near = SpaceStore.open(place.parent / "near", create=True)
    for operation in (
        lambda: open_space(place, "other").append(sample_batch(NEW_KEYS, OTHER)),
        lambda: compact(open_space(place, "other")),
        lambda: collect_all(place),
        lambda: publish_web_index(LocalStorage(place)),
        lambda: verify(LocalStorage(place), deep=True),
        lambda: repair(LocalStorage(place)),
        lambda: pull(near, SpaceStore.open(place), ["other"]),
    ):
        operation()
        assert_right(open_space(place, "other"), KEYS)
    assert_right(near.space("other"), KEYS)
    assert path.exists() or path.suffix == ".idx"


def test_a_repair_does_not_take_a_refusal_for_damage(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file without permission to read is, in a folder from which it may be removed."""
    refused = {str(path.relative_to(place)) for path in folder_of(place).rglob("*") if path.is_file()}
    before = {name: (place / name).read_bytes() for name in refused}
    read = LocalStorage.read

    def without_permission(storage: LocalStorage, name: str, *limits: int) -> bytes:
        if name in refused:
            raise StorageError(f"Cannot read {name}: Permission denied.")
        return read(storage, name, *limits)

    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "read", without_permission)
        assert verify(LocalStorage(place), deep=True).problems
        assert repair(LocalStorage(place)).left
        assert_right(open_space(place, "other"), KEYS)
        collect_all(place)
    assert {name: (place / name).read_bytes() for name in refused} == before
    assert_both_are_right(place)


def test_a_repair_of_a_segment_waits_until_all_of_its_files_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "store"
    new_space(place, "zarr").append(sample_batch(KEYS, sample_recipe()))
    (commit,) = live_commits(place)
    arrays = json.loads(commit.read_bytes())["arrays"]
    vectors, refused = (folder_of(place) / arrays[name][0]["file"] for name in ("vectors", "row_crc"))
    vectors.write_bytes(b"!" + vectors.read_bytes()[1:])
    read = LocalStorage.read

    def without_permission(storage: LocalStorage, name: str, *limits: int) -> bytes:
        if name == str(refused.relative_to(place)):
            raise StorageError(f"Cannot read {name}: Permission denied.")
        return read(storage, name, *limits)

    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "read", without_permission)
        waiting = repair(LocalStorage(place))
    assert waiting.left
    assert not waiting.removed
    report = repair(LocalStorage(place))
    assert (report.rows_lost, report.rows_kept) == (1, len(KEYS) - 1)


def test_what_a_repair_brings_back_to_life_is_repaired_too(tmp_path: Path, layout: SegmentFormat) -> None:
    """A damaged segment, its repaired copy, which is damaged later on, and a good vector of what was lost."""
    place = tmp_path / "store"
    new_space(place, layout).append(sample_batch(KEYS, sample_recipe()))
    spoil(place, live_commits(place)[0], rows=1)
    assert repair(LocalStorage(place)).rows_lost == 1
    open_space(place).append(sample_batch(KEYS, sample_recipe()))
    spoil(place, next(path for path in live_commits(place) if json.loads(path.read_bytes())["replaces"]), rows=11)
    assert repair(LocalStorage(place)).left == []
    assert_right(open_space(place), KEYS)


def spoil(place: Path, commit: Path, rows: int) -> None:
    part = json.loads(commit.read_bytes())["arrays"]["vectors"][0]
    with (folder_of(place) / part["file"]).open("r+b") as file:
        file.seek(part["offset"])
        file.write(b"!" * rows * 16)


def test_a_false_signature_does_not_go_along_with_a_copy(tmp_path: Path, layout: SegmentFormat) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    new_space(far, layout)
    SpaceStore(LocalStorage(far), trust=Trust(SIGNER)).space("toy").append(sample_batch(KEYS, sample_recipe()))
    (file,) = folder_of(far).glob("signatures/*.json")
    document = json.loads(file.read_bytes())
    del document["sha256"]
    file.write_bytes(sealed({**document, "signature": base64.b64encode(bytes(64)).decode()}))
    assert pull(SpaceStore.open(near, create=True), SpaceStore.open(far)).complete
    assert verify(LocalStorage(near), deep=True).clean
    assert_right(open_space(near), KEYS)


@both_layouts
def test_a_pulled_commit_whose_rows_have_changed_does_not_block_a_copy(tmp_path: Path, layout: SegmentFormat) -> None:
    """Its files have their digests, since the commit may say what it likes, but it says that the rows lie elsewhere."""
    near, far = tmp_path / "near", tmp_path / "far"
    new_space(far, layout).append(sample_batch(KEYS, sample_recipe()))
    (commit,) = live_commits(far)
    document = json.loads(commit.read_bytes())
    first, second = ({**document["arrays"]["row_crc"][0], "rows": 6} for _ in range(2))
    document["arrays"]["row_crc"] = [{**second, "offset": first["offset"] + 24}, first]
    commit.unlink()
    put_commit(far, document)
    report = pull(SpaceStore.open(near, create=True), SpaceStore.open(far))
    assert not report.complete
    assert verify(LocalStorage(near), deep=True).orphans == []
    assert open_space(near).append(sample_batch(KEYS, sample_recipe())) == len(KEYS)
    assert_right(open_space(near), KEYS)
