"""Symbolic links, FIFOs and names that somebody put into a store lead nowhere."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
from sample_rows import LAYOUTS, assert_right, new_space, open_space, sample_batch, sample_keys

from embedstore.errors import CorruptStoreError, StorageError, StoreError
from embedstore.storage.file_systems import share
from embedstore.storage.local import LocalStorage
from embedstore.store import SpaceStore
from embedstore.store.documents import SegmentFormat
from embedstore.store.verification import verify
from embedstore.upkeep import collect, remove_space
from embedstore.upkeep.web_index import publish_web_index

KEYS = sample_keys(range(8))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that is not the store's, with something in it that is dear to somebody."""
    place = tmp_path / "outside"
    (place / "folder").mkdir(parents=True)
    (place / "key").write_text("a private key")
    (place / "folder" / "file").write_text("years of work")
    return place


@pytest.fixture
def place(tmp_path: Path) -> Path:
    space = new_space(tmp_path / "store", "zarr")
    space.append(sample_batch(KEYS, space.recipe))
    return tmp_path / "store"


def folder_of(place: Path) -> Path:
    (found,) = (place / "spaces").iterdir()
    return found


def test_a_linked_folder_is_neither_listed_nor_walked(place: Path, outside: Path) -> None:
    storage = LocalStorage(place)
    before = sorted(entry.name for entry in storage.walk(""))
    folder = folder_of(place)
    (folder / "data" / ("0" * 32)).symlink_to(outside / "folder")
    (folder / "data" / ("1" * 32)).symlink_to(outside)
    (place / "spaces" / "alias").symlink_to(folder.name)
    assert sorted(entry.name for entry in storage.walk("")) == before
    assert [space.name for space in SpaceStore.open(place).spaces()] == ["toy"]


def test_gc_and_rm_leave_what_a_linked_data_folder_leads_to(place: Path, outside: Path) -> None:
    (folder_of(place) / "data" / ("0" * 32)).symlink_to(outside / "folder")
    for _ in range(2):
        collect(LocalStorage(place), grace_s=0, max_size_bytes=0)
    assert (outside / "folder" / "file").read_text() == "years of work"
    remove_space(SpaceStore.open(place), open_space(place))
    assert (outside / "folder" / "file").read_text() == "years of work"
    assert (outside / "folder").is_dir()


def test_nothing_is_listed_written_or_deleted_through_a_linked_folder(place: Path, outside: Path) -> None:
    data = folder_of(place) / "data"
    data.rename(outside / "data")
    data.symlink_to(outside / "data")
    before = sorted(outside.rglob("*"))
    storage, name = LocalStorage(place), f"spaces/{data.parent.name}/data/"
    with pytest.raises(StorageError, match="data is a symbolic link"):
        storage.write(f"{name}new", [b"x"])
    with pytest.raises(StorageError, match="data is a symbolic link"):
        storage.replace(f"{name}new", [b"x"])
    with pytest.raises(StorageError, match="data is a symbolic link"):
        storage.list(name)
    for file in (path for path in before if path.is_file() and path.is_relative_to(outside / "data")):
        with pytest.raises(StorageError, match="data is a symbolic link"):
            storage.delete(f"{name}{file.relative_to(outside / 'data')}")
    storage.delete(f"{name}")
    space = open_space(place)
    with pytest.raises(StorageError, match=r"Cannot write .* is a symbolic link"):
        space.append(sample_batch(sample_keys(range(8, 9)), space.recipe))
    assert sorted(outside.rglob("*")) == before
    assert_right(space, KEYS)  # what is read is checked


def test_a_linked_folder_of_documents_is_an_error_not_an_empty_one(place: Path, outside: Path) -> None:
    """No pins, no commits, or nothing condemned would let data be removed that is needed."""
    for name in ("commits", "gc", "signatures"):
        folder = folder_of(place) / name
        folder.mkdir(exist_ok=True)
        folder.rename(outside / name)
        folder.symlink_to(outside / name)
        with pytest.raises(StorageError, match=r"Cannot list .* is a symbolic link"):
            LocalStorage(place).list(f"spaces/{folder_of(place).name}/{name}/")
        for _ in range(2):
            with pytest.raises(StorageError, match=r" is a symbolic link"):
                collect(LocalStorage(place), grace_s=0)
        folder.unlink()
        folder.symlink_to(outside / "nothing")  # where it leads to is unmounted
        with pytest.raises(StorageError, match=r" is a symbolic link"):
            collect(LocalStorage(place), grace_s=0)
        folder.unlink()
        (outside / name).rename(folder)
    (place / "pins").symlink_to(outside)
    with pytest.raises(StorageError, match=r" is a symbolic link"):
        collect(LocalStorage(place), grace_s=0)
    (place / "pins").unlink()
    collect(LocalStorage(place), grace_s=0)
    assert_right(open_space(place), KEYS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_data_files_may_be_links_to_files_as_in_git_annex(tmp_path: Path, layout: SegmentFormat) -> None:
    place, annex = tmp_path / "store", tmp_path / "store" / ".git" / "annex" / "objects"
    space = new_space(place, layout)
    space.append(sample_batch(KEYS, space.recipe))
    annex.mkdir(parents=True)
    files = [path for path in (place / "spaces").rglob("*") if path.is_file()]
    for number, file in enumerate(files):  # the documents too
        file.rename(annex / str(number))
        file.symlink_to(os.path.relpath(annex / str(number), file.parent))
    assert_right(open_space(place), KEYS)
    assert verify(LocalStorage(place), deep=True).problems == []
    storage = LocalStorage(place)
    sizes = {entry.name: entry.size_bytes for entry in storage.walk("spaces/")}
    assert sizes == {str(file.relative_to(place)): file.stat().st_size for file in files}
    for file in files:
        storage.delete(str(file.relative_to(place)))
    assert len(list(annex.iterdir())) == len(files)
    assert list(storage.walk("spaces/")) == []


def test_data_files_may_be_links_to_files_anywhere_as_in_link_farms(place: Path, outside: Path) -> None:
    (place / "spaces").rename(outside / "spaces")
    for file in (path for path in (outside / "spaces").rglob("data/**/*") if path.is_file()):
        linked = place / file.relative_to(outside)
        linked.parent.mkdir(parents=True, exist_ok=True)
        linked.symlink_to(file)
    for file in (path for path in (outside / "spaces").rglob("*.json") if "data" not in path.parts):
        linked = place / file.relative_to(outside)
        linked.parent.mkdir(parents=True, exist_ok=True)
        linked.write_bytes(file.read_bytes())
    assert_right(open_space(place), KEYS)
    assert verify(LocalStorage(place), deep=True).problems == []


def test_documents_of_a_store_inside_an_annexed_repository_may_be_links_into_its_annex(tmp_path: Path) -> None:
    annex = tmp_path / "repository" / ".git" / "annex" / "objects"
    annex.mkdir(parents=True)
    (annex / "0").write_bytes(b"{}")
    pins = tmp_path / "repository" / "store" / "pins"
    pins.mkdir(parents=True)
    (pins / "a.json").symlink_to(annex / "0")
    assert LocalStorage(pins.parent).read("pins/a.json") == b"{}"
    other = tmp_path / "other"
    (other / "pins").mkdir(parents=True)
    (other / "pins" / "a.json").symlink_to(annex / "0")
    with pytest.raises(CorruptStoreError, match="leads out of the store"):
        LocalStorage(other).read("pins/a.json")


def test_what_a_linked_document_leads_to_is_not_published(place: Path, outside: Path) -> None:
    (place / "pins").mkdir()
    (place / "pins" / "x.json").symlink_to(outside / "key")
    (place / "pins" / "y.json").symlink_to(outside / "nothing")
    with pytest.raises(CorruptStoreError, match="leads out of the store") as caught:
        LocalStorage(place).read("pins/x.json")
    assert caught.value.file == "pins/x.json"
    try:
        publish_web_index(LocalStorage(place))
    except StoreError:
        return
    assert b"private" not in (place / "index.json").read_bytes()


def test_a_store_whose_own_folder_is_a_link_is_as_any_other(place: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.symlink_to(place)
    space = open_space(linked)
    space.append(sample_batch(sample_keys(range(8, 12)), space.recipe))
    collect(LocalStorage(linked), grace_s=0)
    assert_right(open_space(place), sample_keys(range(12)))
    (place / "pins").mkdir()
    (place / "pins" / "a.json").write_text("{}")
    (place / "pins" / "b.json").symlink_to("a.json")
    assert LocalStorage(linked).read("pins/b.json") == b"{}"


def test_no_fifo_socket_or_device_is_listed_or_opened(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a FIFO waits until somebody writes to it."""
    storage, folder = LocalStorage(place), folder_of(place)
    before = sorted(entry.name for entry in storage.walk(""))
    names = [f"commits/{'0' * 64}.json", f"data/{'0' * 32}.h5", "gc/0.json", "index/0.idx"]
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        os.mkfifo(folder / name)
    (place / "pins").mkdir()
    os.mkfifo(place / "pins" / "a.json")
    (folder / "data" / "null").symlink_to("/dev/null")
    monkeypatch.chdir(folder / "data")  # an address may have 108 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    assert sorted(entry.name for entry in storage.walk("")) == before
    for name in (*names, "data/null", "data/socket"):
        full = f"spaces/{folder.name}/{name}"
        for operation in (storage.read, storage.entry, lambda name: storage.open(name, 0)):
            with pytest.raises(CorruptStoreError, match="FIFO, socket or device"):
                operation(full)
    assert_right(open_space(place), KEYS)
    collect(storage, grace_s=0)
    assert verify(storage, deep=True).problems == []


@pytest.mark.parametrize("name", ["../key", "spaces/../../key", "/key", "spaces/\0"])
def test_names_that_lead_out_of_the_store_are_refused(place: Path, name: str) -> None:
    (place.parent / "key").write_text("a private key")
    storage = LocalStorage(place)
    for operation in (storage.read, storage.entry, storage.delete, storage.list, lambda name: storage.write(name, [])):
        with pytest.raises(CorruptStoreError, match="below the folder of the store"):
            operation(name)
    assert (place.parent / "key").exists()


def test_a_name_that_a_link_to_nothing_has_is_not_said_to_be_written(tmp_path: Path) -> None:
    (tmp_path / "name").symlink_to(tmp_path / "nothing")
    with pytest.raises(StorageError, match=r"Cannot write .* a symbolic link to nothing"):
        LocalStorage(tmp_path).write("name", [b"x"])
    assert LocalStorage(tmp_path).replace("name", [b"x"]).size_bytes == 1
    assert not (tmp_path / "name").is_symlink()
    assert not (tmp_path / "nothing").exists()


def test_sharing_a_store_never_opens_what_links_lead_to(place: Path, outside: Path) -> None:
    (outside / "key").chmod(0o600)
    (outside / "folder" / "file").chmod(0o600)
    (place / "pins").mkdir()
    (place / "pins" / "key").symlink_to(outside / "key")
    (place / "pins" / "folder").symlink_to(outside / "folder")
    os.mkfifo(place / "pins" / "fifo", 0o600)
    (place / "lost+found").mkdir(0o700)
    linked = place.parent / "linked"
    linked.symlink_to(place)
    share(linked)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (outside / "key", outside / "folder" / "file")}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((outside / "folder").stat().st_mode) & 0o2020 == 0
    assert stat.S_IMODE((place / "lost+found").stat().st_mode) == 0o700
    assert stat.S_IMODE((place / "pins" / "fifo").stat().st_mode) == 0o600
    assert stat.S_IMODE(place.stat().st_mode) & 0o2070 == 0o2070
    assert stat.S_IMODE((place / "embedstore.json").stat().st_mode) & 0o660 == 0o660
