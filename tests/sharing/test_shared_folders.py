"""A store in a shared folder: members with any umask write and collect, others read or do not, as the folder says.

Needs real users, so it runs as root only; each member is a process of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import stat
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from sharing_stores import OTHER, RECIPE
from store.sample_rows import assert_right, sample_batch, sample_canaries, sample_keys

from embedstore.errors import StorageError
from embedstore.library import make_store
from embedstore.storage.file_systems import share
from embedstore.storage.local import LocalStorage
from embedstore.store import SpaceStore
from embedstore.upkeep import collect, compact
from embedstore_cli.main import main

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act as several users")
LAB = 65_001
ANNA, BEN, GUEST = 65_101, 65_102, 65_103
PROTEINS = Path(__file__).resolve().parents[2] / "examples" / "proteins.faa"

_processes = multiprocessing.get_context("fork")


def act_as(user: int, group: int, umask: int, action: Callable[[], object]) -> object:
    """Run something in a process of a user; returns its result, or raises what it raised as a RuntimeError."""

    def run(answer: Connection) -> None:
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)
        os.umask(umask)
        try:
            answer.send((True, action()))
        except BaseException as error:  # noqa: BLE001 - handed on to the test
            answer.send((False, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))

    ours, theirs = _processes.Pipe(duplex=False)
    process = _processes.Process(target=run, args=(theirs,))
    process.start()
    theirs.close()
    done, result = ours.recv()
    process.join()
    if not done:
        raise RuntimeError(result)
    return result


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def place() -> Iterator[Path]:
    """Where a store of the group LAB is to be; every user can come by, which pytest's own folders do not allow."""
    with tempfile.TemporaryDirectory(prefix="embedstore-shared-") as folder:
        Path(folder).chmod(0o755)
        store = Path(folder, "store")
        store.mkdir()
        os.chown(store, ANNA, LAB)
        yield store


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import what commands need, as the users may not be able to read where Python is installed."""
    own, output = tmp_path_factory.mktemp("own"), tmp_path_factory.mktemp("output") / "x.npz"
    at = ["--store", str(own)]
    assert main(["fill", str(PROTEINS), "--model", "aac_dpc", *at]) == 0
    assert main(["get", str(PROTEINS), "--model", "aac_dpc", "--output", str(output), *at]) == 0
    assert main(["ls", *at]) == 0
    assert main(["verify", "--deep", *at]) == 0


def append(place: Path, numbers: range) -> Callable[[], int]:
    def run() -> int:
        space = SpaceStore.open(place).create_space(RECIPE, "toy", sample_canaries(RECIPE))
        return space.append(sample_batch(sample_keys(numbers), RECIPE))

    return run


def read(place: Path, numbers: range) -> Callable[[], None]:
    return lambda: assert_right(SpaceStore.open(place).space("toy"), sample_keys(numbers))


def everything_in(place: Path) -> Iterator[Path]:
    yield place
    yield from place.rglob("*")


@needs_root
@pytest.mark.parametrize("others", [0o5, 0o0], ids=["others may read", "others may not"])
def test_two_members_with_different_umasks_share_a_store(place: Path, others: int) -> None:
    place.chmod(0o770 | others)
    act_as(ANNA, LAB, 0o077, lambda: make_store(place, shared=True) and None)
    assert stat.S_IMODE(place.stat().st_mode) == 0o2770 | others
    assert act_as(ANNA, LAB, 0o077, append(place, range(10))) == 10
    assert act_as(BEN, LAB, 0o022, append(place, range(5, 20))) == 10
    assert act_as(ANNA, LAB, 0o077, append(place, range(20, 25))) == 5
    for user, umask in ((ANNA, 0o022), (BEN, 0o077)):
        act_as(user, LAB, umask, read(place, range(25)))
    for path in everything_in(place):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert path.stat().st_gid == LAB
        assert mode == (0o2770 | others if path.is_dir() else 0o660 | (others & 0o4)), path
    if others:
        act_as(GUEST, GUEST, 0o022, read(place, range(25)))
    else:
        with pytest.raises(RuntimeError, match=r"StorageError: Cannot .*: Permission denied"):
            act_as(GUEST, GUEST, 0o022, read(place, range(25)))
    with pytest.raises(RuntimeError, match=r"StorageError: Cannot .*: Permission denied"):
        act_as(GUEST, GUEST, 0o022, append(place, range(30, 31)))


@needs_root
@pytest.mark.parametrize("name", ["spaces/new/name", "spaces/new/data/name"])
def test_a_folder_that_a_member_has_made_and_not_yet_opened_is_waited_for(place: Path, name: str) -> None:
    act_as(ANNA, LAB, 0o077, lambda: make_store(place, shared=True) and None)
    (place / "spaces").mkdir()
    for folder in (place / "spaces", place / "spaces" / "new"):
        folder.mkdir(exist_ok=True)
        os.chown(folder, ANNA, LAB)
    (place / "spaces").chmod(0o2770)
    (place / "spaces" / "new").chmod(0o700)

    def write() -> int:
        opening = threading.Timer(0.1, lambda: os.write(started, b"x"))
        opening.start()
        return LocalStorage(place).write(name, [b"x"]).size_bytes

    waiting, started = os.pipe()

    def open_to_the_group() -> None:
        os.read(waiting, 1)
        (place / "spaces" / "new").chmod(0o2770)

    opener = threading.Thread(target=open_to_the_group)
    opener.start()
    assert act_as(BEN, LAB, 0o022, write) == 1
    opener.join()
    os.close(waiting)
    os.close(started)
    assert (place / name).stat().st_gid == LAB


@needs_root
def test_members_merge_and_collect_what_others_have_written(place: Path) -> None:
    place.chmod(0o770)
    act_as(ANNA, LAB, 0o077, lambda: make_store(place, shared=True) and None)
    act_as(ANNA, LAB, 0o077, append(place, range(6)))
    act_as(BEN, LAB, 0o022, append(place, range(6, 9)))

    def tidy() -> int:
        store = SpaceStore.open(place)
        space = store.space("toy")
        compact(space)
        space.optimise()
        collect(store.storage, grace_s=0)
        collect(store.storage, grace_s=0)
        return len(list(store.storage.walk(f"{space.folder}data/")))

    before = len([path for path in place.rglob("data/*/*") if path.is_file()])
    act_as(BEN, LAB, 0o077, tidy)
    act_as(ANNA, LAB, 0o022, read(place, range(9)))
    assert len([path for path in place.rglob("data/*/*") if path.is_file()]) < before
    assert SpaceStore.open(place).verify(deep=True).clean


@needs_root
@pytest.mark.usefixtures("imported")
def test_a_member_who_may_only_read_gets_all_that_is_there_and_is_told_early(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place.chmod(0o775)
    act_as(ANNA, LAB, 0o077, lambda: make_store(place, shared=True) and None)
    fill = ["fill", str(PROTEINS), "--model", "aac_dpc", "--store", str(place)]
    assert act_as(ANNA, LAB, 0o077, lambda: main(fill)) == 0
    before = sorted(everything_in(place))
    output = place.parent / "guest"
    output.mkdir()
    os.chown(output, GUEST, GUEST)
    more = output / "more.faa"
    more.write_text(PROTEINS.read_text() + ">new\nMKVLAAGGMKVLAAGG\n")
    more.chmod(0o644)
    get = ["get", str(PROTEINS), "--model", "aac_dpc", "--store", str(place), "--output", str(output / "x.npz")]
    for command in (fill, get, ["ls", "--store", str(place)], ["verify", "--deep", "--store", str(place)]):
        assert act_as(GUEST, GUEST, 0o077, lambda command=command: main(command)) == 0
    capfd.readouterr()
    incomplete = ["fill", str(more), "--model", "aac_dpc", "--store", str(place)]
    assert act_as(GUEST, GUEST, 0o022, lambda: main(incomplete)) == 1
    error = capfd.readouterr().err
    assert f"Cannot add to the store {place}: Cannot write " in error
    assert "Permission denied" in error
    assert "Traceback" not in error
    assert sorted(everything_in(place)) == before


@needs_root
@pytest.mark.usefixtures("imported")
def test_a_member_who_may_only_read_adds_in_a_store_of_their_own_behind_which_it_lies(place: Path) -> None:
    place.chmod(0o775)
    act_as(ANNA, LAB, 0o022, lambda: make_store(place, shared=True) and None)
    fill = ["fill", str(PROTEINS), "--model", "aac_dpc", "--quiet", "--store"]
    assert act_as(ANNA, LAB, 0o022, lambda: main([*fill, str(place)])) == 0
    own = place.parent / "own"
    own.mkdir()
    os.chown(own, GUEST, GUEST)
    assert act_as(GUEST, GUEST, 0o077, lambda: main([*fill, str(own), "--upstream", str(place), "--pull-through"])) == 0
    assert len(SpaceStore.open(own).space("aac_dpc")) == 14


@needs_root
def test_a_store_that_is_there_is_opened_to_its_group_by_its_owner_only(place: Path) -> None:
    place.chmod(0o2770)
    place.chmod(0o770)
    act_as(ANNA, LAB, 0o077, append_to_new(place))
    with pytest.raises(RuntimeError, match="Only the owner of a file can"):
        act_as(BEN, LAB, 0o022, lambda: share(place))
    act_as(ANNA, LAB, 0o077, lambda: make_store(place, shared=True) and None)
    act_as(BEN, LAB, 0o022, append(place, range(3, 5)))
    act_as(ANNA, LAB, 0o077, read(place, range(5)))


def append_to_new(place: Path) -> Callable[[], int]:
    def run() -> int:
        make_store(place)
        return append(place, range(3))()

    return run


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("dear reader")
    (tmp_path / "notes").chmod(0o600)
    assert main(["init", "--shared", str(tmp_path)]) == 1
    assert stat.S_IMODE((tmp_path / "notes").stat().st_mode) == 0o600


def test_a_bucket_is_not_shared_by_permissions_of_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--shared", "s3://bucket/lab"]) == 1
    assert "expected a folder" in capsys.readouterr().err


def test_a_private_store_follows_the_umask(tmp_path: Path) -> None:
    with _umask(0o077):
        make_store(tmp_path / "store").create_space(OTHER, "other", sample_canaries(OTHER))
    assert {stat.S_IMODE(path.stat().st_mode) for path in everything_in(tmp_path / "store")} == {0o700, 0o600}


def test_writability_is_known_before_anything_is_computed(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    space = store.create_space(OTHER, "other", sample_canaries(OTHER))
    store.require_writable(None)
    store.require_writable(space)
    assert store.verify().orphans == []
    (tmp_path / "store" / "spaces" / OTHER.id / "data").write_text("in the way")
    with pytest.raises(StorageError, match=r"Cannot add to the store .*: Cannot write "):
        store.require_writable(space)
