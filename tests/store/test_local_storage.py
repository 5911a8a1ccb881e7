from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from storage_contract import StorageContract

from embedstore.errors import CorruptStoreError, StorageError
from embedstore.storage.file_systems import file_system_kind
from embedstore.storage.local import TEMPORARY_PREFIX, LocalStorage
from embedstore.storage.protocol import is_stray


class TestMappedStorage(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> LocalStorage:
        return LocalStorage(tmp_path / "store", mapped=True)


class TestPreadStorage(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> LocalStorage:
        return LocalStorage(tmp_path / "store", mapped=False)


class TestStorageWithoutHardLinks(StorageContract):
    """As on FAT and some SMB and FUSE mounts."""

    @pytest.fixture
    def storage(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStorage:
        def refuse(source: object, target: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)
        return LocalStorage(tmp_path / "store")


@pytest.fixture(params=[True, False], ids=["mapped", "pread"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "store", mapped=request.param)


def test_a_file_where_a_folder_is_expected_is_a_storage_error(storage: LocalStorage, tmp_path: Path) -> None:
    storage.write("name", [b"x"])
    with pytest.raises(StorageError, match="Cannot write"):
        storage.write("name/below", [b"y"])
    with pytest.raises(StorageError, match="Cannot list"):
        storage.list("name/")


def test_a_folder_where_a_file_is_expected_is_a_storage_error(storage: LocalStorage) -> None:
    storage.write("a/name", [b"x"])
    with pytest.raises(StorageError, match="Cannot read"):
        storage.read("a")
    with pytest.raises(StorageError, match="Cannot delete"):
        storage.delete("a")


def test_no_temporary_file_stays_behind(storage: LocalStorage, tmp_path: Path) -> None:
    storage.write("a/name", [b"first"])
    storage.write("a/name", [b"second"])
    assert [path.name for path in (tmp_path / "store" / "a").iterdir()] == ["name"]


def test_writing_beside_somebody_who_deletes_all_that_appears(storage: LocalStorage) -> None:
    """A published index may be removed by the next writer at once, and the folder goes with its last file."""
    done = threading.Event()

    def delete_all() -> None:
        while not done.is_set():
            for entry in storage.list("index/"):
                if TEMPORARY_PREFIX not in entry.name:
                    storage.delete(entry.name)

    deleting = threading.Thread(target=delete_all)
    deleting.start()
    try:
        for number in range(300):
            assert storage.write(f"index/{number}", [b"content"]).size_bytes == len(b"content")
    finally:
        done.set()
        deleting.join()


def test_what_a_crash_left_is_listed_under_its_temporary_name(storage: LocalStorage, tmp_path: Path) -> None:
    storage.write("a/name", [b"x"])
    (tmp_path / "store" / "a" / f"{TEMPORARY_PREFIX}0").write_bytes(b"torn")
    assert [entry.name for entry in storage.list("a/")] == [f"a/{TEMPORARY_PREFIX}0", "a/name"]


@pytest.mark.parametrize("kept", [0, 1, 4096, 9_999])
def test_a_file_truncated_after_opening_raises_instead_of_killing(
    storage: LocalStorage, tmp_path: Path, kept: int
) -> None:
    storage.write("name", [bytes(10_000)])
    blob = storage.open("name", 10_000)
    os.truncate(tmp_path / "store" / "name", kept)
    with pytest.raises(CorruptStoreError):
        blob.bytes(0, 10_000).tobytes()


def test_a_file_deleted_after_opening_is_still_read(storage: LocalStorage) -> None:
    storage.write("name", [b"content"])
    blob = storage.open("name", 7)
    storage.delete("name")
    assert blob.bytes(0, 7).tobytes() == b"content"


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/", "ext4"),
        ("/home/ada", "nfs4"),
        ("/home", "nfs4"),
        ("/homes", "ext4"),
        ("/mnt/my data/x", "sshfs"),
        ("/mnt/données/x", "lustre"),
        ("/auto/lab", "nfs"),
    ],
)
def test_the_kind_of_file_system_is_told_by_the_mount_table(folder: str, kind: str) -> None:
    table = (
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "30 22 0:40 / /home rw shared:2 - nfs4 server:/home rw\n"
        "31 22 0:41 / /mnt/my\\040data rw - fuse.sshfs host: rw\n"
        "32 22 0:42 / /mnt/données rw - lustre mgs:/fs rw\n"
        "33 22 0:43 / /auto/lab rw - autofs auto rw\n"
        "34 33 0:44 / /auto/lab rw - nfs server:/lab rw\n"
    )
    assert file_system_kind(table, folder) == kind


def test_a_file_deleted_on_the_server_of_a_network_file_system_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader of a segment that was merged and collected looks again; reading bytes that are bad is damage."""
    storage = LocalStorage(tmp_path, mapped=False)
    storage.write("name", [b"content"])
    blob = storage.open("name", 7)

    def stale(descriptor: int, buffers: object, offset: int) -> int:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(os, "preadv", stale)
    with pytest.raises(FileNotFoundError):
        blob.bytes(0, 7)


@pytest.mark.parametrize(
    "name",
    [
        "lost+found",
        ".DS_Store",
        "._embedstore.json",
        ".snapshot/",
        ".snap",
        ".zfs",
        "Thumbs.db",
        "desktop.ini",
        "$RECYCLE.BIN/",
        "System Volume Information/",
        ".Trash-1000/",
        ".Trashes",
        ".nfs0000000001a2",
        ".fseventsd",
        ".Spotlight-V100",
        "a//",
        "",
        "bell\x07",
        "spaces/0/commits/._a.json",
        "line\nend",
    ],
)
def test_what_systems_put_into_folders_is_stray(name: str) -> None:
    assert is_stray(name)


@pytest.mark.parametrize(
    "name",
    ["embedstore.json", "spaces/", "pins", ".tmp-0", "index.json", "thesis", ".git", "lost", "données", "my snapshot"],
)
def test_what_people_and_embedstore_put_there_is_not(name: str) -> None:
    assert not is_stray(name)
