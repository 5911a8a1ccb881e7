"""What the operating system does to a store in a folder: full or failing disks, mounts that vanish, late listings."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sample_rows import LAYOUTS, assert_right, new_space, open_space, sample_batch, sample_keys

from embedstore.errors import CorruptStoreError, StorageError
from embedstore.storage import file_systems, local
from embedstore.storage.local import LocalStorage
from embedstore.store.documents import SegmentFormat
from embedstore.upkeep import collect


def _can_mount() -> bool:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0


needs_mounts = pytest.mark.skipif(not _can_mount(), reason="needs root and unshare, to mount")


def failing(number: int) -> Callable[..., int]:
    def fail(*arguments: object, **options: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


def in_mount(place: Path, code: str, size: str = "8m") -> str:
    """Run Python beside a memory file system mounted at a place, in mounts of its own; return what it prints."""
    place.mkdir(exist_ok=True)
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = f'mount -t tmpfs -o size={size} none "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command, "sh", str(place), sys.executable, _BEGIN + code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


_BEGIN = """
import os, subprocess, sys
from pathlib import Path
from sample_rows import *
from embedstore.errors import StorageError
place = Path(sys.argv[1])
"""


@needs_mounts
def test_a_store_whose_file_system_is_unmounted_is_not_made_again_below_the_mount_point(tmp_path: Path) -> None:
    code = """
for store in (place, place / "lab" / "store"):
    space = new_space(store, "zarr")
    space.append(sample_batch(sample_keys(range(3)), space.recipe))
    subprocess.run(["mount", "--move", str(place), "/mnt"], check=True)
    for attempt in (lambda: space.append(sample_batch(sample_keys(range(3, 6)), space.recipe)), space.refresh):
        try:
            attempt()
        except StorageError as error:
            print(error)
    print(list(place.iterdir()))
    subprocess.run(["mount", "--move", "/mnt", str(place)], check=True)
    print(space.append(sample_batch(sample_keys(range(3, 6)), space.recipe)))
    assert_right(open_space(store), sample_keys(range(6)))
    subprocess.run(f"rm -r {place}/*", shell=True, check=True)
"""
    told = in_mount(tmp_path / "mount", code).splitlines()
    assert len(told) == 8
    for first, second, left, appended in (told[:4], told[4:]):
        assert "unmounted?" in first
        assert "unmounted?" in second
        assert (left, appended) == ("[]", "3")
    assert list((tmp_path / "mount").iterdir()) == []


@pytest.mark.parametrize("leaves", ["nothing", "an empty folder"])
def test_a_store_that_vanishes_is_not_made_again(tmp_path: Path, leaves: str) -> None:
    place, away = tmp_path / "disk" / "store", tmp_path / "away"
    space = new_space(place, "hdf5")
    space.append(sample_batch(sample_keys(range(3)), space.recipe))
    place.rename(away)
    if leaves == "an empty folder":
        place.mkdir()
    with pytest.raises(StorageError, match="unmounted"):
        space.append(sample_batch(sample_keys(range(3, 6)), space.recipe))
    with pytest.raises(StorageError, match="unmounted"):
        space.refresh()
    assert not list(place.rglob("*"))
    assert place.exists() == (leaves == "an empty folder")
    if place.exists():
        place.rmdir()
    shutil.copytree(away, place)  # mounted again, it may have other numbers
    assert space.append(sample_batch(sample_keys(range(3, 6)), space.recipe)) == 3
    assert_right(open_space(place), sample_keys(range(6)))


@needs_mounts
def test_a_full_disk_is_reported_and_nothing_half_written_stays(tmp_path: Path) -> None:
    code = """
recipe = sample_recipe(dim=4096)
space = new_space(place / "store", "hdf5", recipe)
space.append(sample_batch(sample_keys(range(3)), recipe))
try:
    space.append(sample_batch(sample_keys(range(3, 300)), recipe))
except StorageError as error:
    print(error)
assert_right(open_space(place / "store"), sample_keys(range(3)))
print([path for path in place.rglob(".tmp-*")])
"""
    error, left = in_mount(tmp_path / "mount", code, size="1m").splitlines()
    assert "Cannot write" in error
    assert "No space left on device. No space is left, or no inodes" in error
    assert "embedstore gc" in error
    assert "permission" not in error
    assert left == "[]"


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "embedstore gc"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "permission"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "disk"),
        (errno.ESTALE, "mounted"),
        (errno.ENOTCONN, "mounted"),
        (errno.EMFILE, "ulimit"),
    ],
)
def test_errors_say_what_to_do_by_their_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    storage = LocalStorage(tmp_path)
    monkeypatch.setattr(os, "write", failing(number))
    with pytest.raises(StorageError, match=rf"Cannot write {tmp_path}/name: {os.strerror(number)}\. .*{advice}"):
        storage.write("name", [b"x"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_read_error_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: SegmentFormat) -> None:
    """Where files are not mapped; there the system kills a process that touches a page that cannot be read."""
    space = new_space(LocalStorage(tmp_path, mapped=False), layout)
    space.append(sample_batch(sample_keys(range(3)), space.recipe))
    space = open_space(LocalStorage(tmp_path, mapped=False))
    monkeypatch.setattr(os, "preadv", failing(errno.EIO))
    with pytest.raises(CorruptStoreError, match="Input/output error") as caught:
        space.read(sample_keys(range(3)))
    assert "data/" in caught.value.file
    monkeypatch.setattr(os, "read", failing(errno.EIO))
    with pytest.raises(StorageError, match=r"Cannot read .*embedstore.json: Input/output error\. The disk"):
        LocalStorage(tmp_path).read("embedstore.json")


def test_a_file_that_is_truncated_while_it_is_read_unmapped_is_damage(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path, mapped=True)
    storage.write("name", [bytes(10_000)])
    blob = storage.open("name", 10_000, mapped=False)
    os.truncate(tmp_path / "name", 5_000)
    assert blob.bytes(0, 5_000).tobytes() == bytes(5_000)
    with pytest.raises(CorruptStoreError, match="ends at byte 5000"):
        blob.rows(0, 100, np.arange(100))


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        *((kind, True) for kind in ("ext4", "xfs", "btrfs", "overlay", "tmpfs")),
        *((kind, False) for kind in ("fuse.sshfs", "fuse.ext2", "fuseblk", "nfs4", "virtiofs", "something-new", None)),
    ],
)
def test_only_what_is_known_to_be_local_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str | None, known: bool
) -> None:
    def table() -> str:
        if kind is None:
            raise FileNotFoundError
        return f"22 1 8:1 / / rw - {kind} /dev/sda1 rw\n"

    monkeypatch.setattr(file_systems, "mount_table", table)
    storage = LocalStorage(tmp_path)
    storage.write("name", [b"content"])
    assert isinstance(storage.open("name", 7), local.MappedBlob if known else local.PreadBlob)


def test_a_folder_that_another_host_is_making_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As over sshfs: it cannot be made, being there, and is not there yet when we look."""
    made, refusals = Path.mkdir, iter([FileExistsError, PermissionError, FileNotFoundError] * 50)

    def refuse(folder: Path, *arguments: int) -> None:
        error = next(refusals, None)
        if error is not None:
            raise error(errno.EEXIST, "somebody else's")
        made(folder, *arguments)

    storage = LocalStorage(tmp_path, mapped=False)  # so that it is known not to be local
    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(local, "_LONGEST_PAUSE_S", 0.001)
    assert storage.write("spaces/0/name", [b"x"]).size_bytes == 1
    assert next(refusals, None) is None
    monkeypatch.setattr(local, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(Path, "mkdir", failing(errno.EEXIST))
    with pytest.raises(StorageError, match="disappeared as often as it was made"):
        storage.write("pins/name", [b"x"])
    monkeypatch.setattr(Path, "mkdir", failing(errno.EACCES))
    with pytest.raises(StorageError, match="Permission denied"):
        storage.write("pins/name", [b"x"])


def test_what_is_removed_outside_data_is_synced_before_the_next_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(tmp_path)
    names = ["spaces/0/commits/a", "spaces/0/commits/b", *(f"spaces/0/data/{n}/key/c/0" for n in range(3))]
    names += ["spaces/0/gc/note", "embedstore.json"]
    for name in names:
        storage.write(name, [b"x"])
    steps: list[str] = []
    unlink, sync = Path.unlink, local.StoreFolders.sync

    def noted_unlink(path: Path, missing_ok: bool = False) -> None:
        steps.append(str(path.relative_to(tmp_path)))
        unlink(path, missing_ok)

    def noted_sync(folders: local.StoreFolders, folder: str) -> None:
        steps.append(f"sync {folder}")
        sync(folders, folder)

    monkeypatch.setattr(Path, "unlink", noted_unlink)
    monkeypatch.setattr(local.StoreFolders, "sync", noted_sync)
    for name in names[:-1]:
        storage.delete(name)
    first, second, *data, note = names[:-1]
    assert steps[:4] == [first, "sync spaces/0/commits", second, "sync spaces/0"]
    assert steps[4:7] == data
    assert sorted(steps[7:-2]) == ["sync spaces/0", "sync spaces/0/data"]
    assert steps[-2:] == [note, "sync "]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_empty_folder_stays_after_collecting(tmp_path: Path, layout: SegmentFormat) -> None:
    space = new_space(tmp_path, layout)
    for round_ in range(3):
        for number in range(3):
            space.append(sample_batch(sample_keys([10 * round_ + number]), space.recipe))
        for _ in range(2):
            collect(space.storage, grace_s=0, max_size_bytes=0)
        space.refresh()
    folders = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_dir()}
    assert folders == {"spaces", f"spaces/{space.id}"}


def test_empty_folders_that_a_stopped_process_left_go_with_the_next_removal(tmp_path: Path) -> None:
    storage, segment = LocalStorage(tmp_path), tmp_path / "spaces" / "0" / "data" / "1"
    storage.write("embedstore.json", [b"{}"])
    (segment / "key" / "c").mkdir(parents=True)
    (segment / "vectors" / "c" / "0").mkdir(parents=True)
    storage.delete("spaces/0/data/1/vectors/c/0/0")  # unlinked by somebody who was stopped then
    assert not (segment / "vectors").exists()
    storage.delete("spaces/0/data/1/")
    assert [path.name for path in tmp_path.iterdir()] == ["embedstore.json"]
    outside = tmp_path / "outside" / "empty"
    outside.mkdir(parents=True)
    (tmp_path / "spaces" / "0" / "data").mkdir(parents=True)
    (tmp_path / "spaces" / "0" / "data" / "1").symlink_to(outside.parent)
    storage.delete("spaces/0/data/1/")
    assert outside.is_dir()


def test_what_cannot_be_looked_at_is_listed_and_odd_names_are_not(tmp_path: Path) -> None:
    """To leave out a commit that is there would let what it needs be removed."""
    storage = LocalStorage(tmp_path)
    storage.write("a/name", [b"x"])
    (tmp_path / "a" / "loop").symlink_to("loop")
    (tmp_path / "a" / "nothing").symlink_to("nowhere")
    (tmp_path / "a" / "new\nline").touch()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/a/\xff")).touch()
    listed = {entry.name: entry.size_bytes for entry in storage.list("a/")}
    assert listed == {"a/loop": 0, "a/name": 1, "a/nothing": 0, "a/new\nline": 0}
    with pytest.raises(StorageError, match="Cannot open"):
        storage.open("a/loop", 0)


def test_a_deep_folder_is_walked_and_stray_ones_are_not(tmp_path: Path) -> None:
    storage, deep = LocalStorage(tmp_path), "d/" * 1500
    storage.write(f"{deep}name", [b"x"])
    storage.write(".snapshot/daily/spaces/0/space.json", [b"x"])
    storage.write("lost+found/name", [b"x"])
    assert [entry.name for entry in storage.walk("")] == [f"{deep}name"]
    storage.delete(f"{deep}name")  # pytest could not remove it
    assert not (tmp_path / "d").exists()


def test_a_full_or_missing_folder_for_temporary_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = new_space(tmp_path / "store", "hdf5")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(StorageError, match=rf"{tmp_path}/nowhere: No such file or directory\..* TMPDIR"):
        space.append(sample_batch(sample_keys(range(3)), space.recipe))


@needs_mounts
def test_a_full_folder_for_temporary_files_is_named(tmp_path: Path) -> None:
    code = """
import tempfile
(place / "full").write_bytes(bytes(4096))
tempfile.tempdir = str(place)
space = new_space(place.parent / "store", "hdf5")
try:
    space.append(sample_batch(sample_keys(range(3)), space.recipe))
except StorageError as error:
    print(error)
"""
    told = in_mount(tmp_path / "mount", code, size="4k")
    assert f"temporary files, {tmp_path / 'mount'}: No space left on device." in told


def test_a_document_that_grows_while_it_is_read_is_not_read_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, read = LocalStorage(tmp_path), os.read
    storage.write("name", [b"x" * 100])

    def read_growing(descriptor: int, count: int) -> bytes:
        with (tmp_path / "name").open("ab") as file:
            file.write(b"y" * 100)
        return read(descriptor, count)

    monkeypatch.setattr(os, "read", read_growing)
    with pytest.raises(CorruptStoreError, match="expected 100 bytes, found more"):
        storage.read("name")
