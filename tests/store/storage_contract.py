"""What the store relies on, whatever the storage: every backend inherits these tests and gives a `storage` fixture."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from embedstore.errors import CorruptStoreError
from embedstore.storage.protocol import Buffer, Storage


class StorageContract:
    """Inherit as `class TestX(StorageContract)` and override `storage` with a fixture that yields an empty one."""

    @pytest.fixture
    def storage(self) -> Storage:
        raise NotImplementedError

    def test_location_names_the_place(self, storage: Storage) -> None:
        assert isinstance(storage.location, str)
        assert storage.location

    def test_write_then_read_gives_the_same_bytes(self, storage: Storage) -> None:
        content = bytes(range(256)) * 3
        entry = storage.write("a/b/c.bin", [content[:100], content[100:]])
        assert storage.read("a/b/c.bin") == content
        assert (entry.name, entry.size_bytes) == ("a/b/c.bin", len(content))

    def test_write_takes_arrays_of_any_shape_and_dtype(self, storage: Storage) -> None:
        table = np.arange(12, dtype="<f4").reshape(3, 4)
        storage.write("table", [b"head", table, np.zeros((0, 4), "<f4")])
        assert storage.read("table") == b"head" + table.tobytes()

    def test_an_empty_file_is_a_file(self, storage: Storage) -> None:
        storage.write("empty", [])
        assert storage.read("empty") == b""
        assert storage.entry("empty").size_bytes == 0
        assert storage.open("empty", 0).bytes(0, 0).tobytes() == b""

    def test_the_first_content_under_a_name_stays(self, storage: Storage) -> None:
        storage.write("a/name", [b"first"])
        entry = storage.write("a/name", [b"second, and longer"])
        assert storage.read("a/name") == b"first"
        assert entry.size_bytes == len(b"first")

    def test_what_is_replaced_is_read_as_it_is_now(self, storage: Storage) -> None:
        storage.replace("name", [b"first"])
        entry = storage.replace("name", [b"second, ", b"and longer"])
        assert storage.read("name") == b"second, and longer"
        assert entry == storage.entry("name")
        assert [each.name for each in storage.list("")] == ["name"]

    def test_of_writers_at_once_one_wins_and_all_return(self, storage: Storage) -> None:
        """On an object store the last one, which is no harm: names are digests of the content, or random."""
        contents = [bytes([number]) * 1000 for number in range(8)]
        start = threading.Barrier(len(contents))

        def write(content: bytes) -> None:
            start.wait()
            storage.write("deep/er/name", [content])

        threads = [threading.Thread(target=write, args=(content,)) for content in contents]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert storage.read("deep/er/name") in contents
        assert [entry.name for entry in storage.list("deep/er/")] == ["deep/er/name"]

    def test_nothing_is_seen_of_a_file_while_it_is_written(self, storage: Storage) -> None:
        def parts() -> Iterator[Buffer]:
            yield b"half"
            with pytest.raises(FileNotFoundError):
                storage.read("a/name")
            assert "a/name" not in [entry.name for entry in storage.list("a/")]
            yield b"rest"

        storage.write("a/name", parts())
        assert storage.read("a/name") == b"halfrest"

    def test_a_write_that_fails_leaves_nothing(self, storage: Storage) -> None:
        def parts() -> Iterator[Buffer]:
            yield b"half"
            raise ValueError

        with pytest.raises(ValueError):
            storage.write("a/name", parts())
        with pytest.raises(FileNotFoundError):
            storage.entry("a/name")
        assert storage.list("a/") == []

    def test_list_gives_files_and_folders_sorted(self, storage: Storage) -> None:
        for name in ("top", "a/two", "a/one", "a/b/three", "a/b/c/four", "a-b"):
            storage.write(name, [name.encode()])
        assert [entry.name for entry in storage.list("")] == ["a-b", "a/", "top"]
        assert [entry.name for entry in storage.list("a/")] == ["a/b/", "a/one", "a/two"]
        sizes = {entry.name: entry.size_bytes for entry in storage.list("a/")}
        assert sizes["a/one"] == len(b"a/one")

    def test_walk_gives_every_file_below_a_folder(self, storage: Storage) -> None:
        for name in ("top", "a/two", "a/b/three", "a/b/c/four", "a-b/five"):
            storage.write(name, [name.encode()])
        assert sorted(entry.name for entry in storage.walk("a/")) == ["a/b/c/four", "a/b/three", "a/two"]
        assert {entry.name: entry.size_bytes for entry in storage.walk("")}["a-b/five"] == len(b"a-b/five")
        assert len(list(storage.walk(""))) == 5
        assert list(storage.walk("nowhere/")) == []

    def test_a_missing_folder_is_empty(self, storage: Storage) -> None:
        assert storage.list("nowhere/") == []
        assert storage.list("") == []

    def test_entry_agrees_with_the_listing_and_times_ascend(self, storage: Storage) -> None:
        first, second = storage.write("a/1", [b"x"]), storage.write("a/2", [b"yy"])
        assert storage.entry("a/1") == first
        assert storage.list("a/") == [first, second]
        assert 0 < first.modified_ns <= second.modified_ns

    @pytest.mark.parametrize("name", ["missing", "no/such/folder"])
    def test_a_name_that_is_not_there_is_file_not_found(self, storage: Storage, name: str) -> None:
        storage.write("other", [b"x"])
        with pytest.raises(FileNotFoundError):
            storage.read(name)
        with pytest.raises(FileNotFoundError):
            storage.entry(name)
        with pytest.raises(FileNotFoundError):
            storage.open(name, 1)

    def test_delete_removes_and_may_be_repeated(self, storage: Storage) -> None:
        storage.write("a/1", [b"x"])
        storage.write("a/2", [b"y"])
        storage.delete("a/1")
        storage.delete("a/1")
        storage.delete("never/was")
        assert [entry.name for entry in storage.list("a/")] == ["a/2"]

    def test_a_deleted_name_may_be_written_again(self, storage: Storage) -> None:
        storage.write("a/b/name", [b"x"])
        storage.delete("a/b/name")
        storage.write("a/b/name", [b"y"])
        assert storage.read("a/b/name") == b"y"

    @pytest.mark.parametrize("wrong", [0, 9, 11, 1 << 40])
    def test_opening_with_another_size_is_damage(self, storage: Storage, wrong: int) -> None:
        storage.write("a/name", [bytes(10)])
        with pytest.raises(CorruptStoreError, match="found 10") as caught:
            storage.open("a/name", wrong)
        assert caught.value.file == "a/name"

    def test_bytes_are_read_from_any_place(self, storage: Storage) -> None:
        content = np.random.default_rng(0).bytes(10_000)
        storage.write("name", [content])
        blob = storage.open("name", len(content))
        for start, length in ((0, 10_000), (0, 0), (1, 7), (9_999, 1), (4_095, 4_098)):
            assert blob.bytes(start, length).tobytes() == content[start : start + length]

    @pytest.mark.parametrize("start", [0, 3])
    def test_rows_come_in_the_order_asked(self, storage: Storage, start: int) -> None:
        table = np.random.default_rng(0).integers(0, 256, (50, 6), dtype=np.uint8)
        content = b"!" * start + table.tobytes() + b"tail"
        storage.write("name", [content])
        blob = storage.open("name", len(content))
        for rows in ([], [0], [49, 0, 49, 7], list(range(50))):
            assert np.array_equal(blob.rows(start, 6, np.array(rows, np.int64)), table[rows].reshape(-1, 6))

    def test_gathered_rows_are_the_callers_own(self, storage: Storage) -> None:
        storage.write("name", [bytes(12)])
        blob = storage.open("name", 12)
        blob.rows(0, 4, np.array([0, 1, 2]))[:] = 7
        assert not blob.rows(0, 4, np.array([0, 1, 2])).any()

    def test_a_document_is_read_up_to_a_bound(self, storage: Storage) -> None:
        storage.write("a/name", [bytes(1000)])
        assert len(storage.read("a/name", 1000)) == 1000
        with pytest.raises(CorruptStoreError, match="expected at most 999 bytes, found 1000") as caught:
            storage.read("a/name", 999)
        assert caught.value.file == "a/name"

    def test_what_is_opened_unmapped_is_read_alike(self, storage: Storage) -> None:
        table = np.random.default_rng(0).integers(0, 256, (50, 6), dtype=np.uint8)
        storage.write("name", [table])
        blob = storage.open("name", table.nbytes, mapped=False)
        assert blob.bytes(7, 90).tobytes() == table.tobytes()[7:97]
        for rows in ([], [3], [49, 0, 49, 7], list(range(20, 50)), [5, 4, 3]):
            assert np.array_equal(blob.rows(0, 6, np.array(rows, np.int64)), table[rows].reshape(-1, 6))

    def test_an_opened_file_is_distinguished_from_another_of_its_name(self, storage: Storage) -> None:
        """Or it cannot be told, and its digest is compared whenever it is opened."""
        storage.write("name", [b"content"])
        first, again = storage.open("name", 7).identity, storage.open("name", 7).identity
        assert first == again
        storage.replace("name", [b"CONTENT"])
        assert first is None or storage.open("name", 7).identity != first

    def test_a_deleted_folder_goes_only_if_no_file_lies_in_it(self, storage: Storage) -> None:
        storage.write("spaces/0/data/1/key", [b"x"])
        storage.delete("spaces/0/data/1/")
        storage.delete("spaces/0/data/2/")
        assert [entry.name for entry in storage.walk("")] == ["spaces/0/data/1/key"]

    def test_nothing_is_left_of_a_folder_whose_files_are_deleted(self, storage: Storage) -> None:
        names = [f"spaces/0/data/1/{name}" for name in ("key/c/0/0", "key/zarr.json", "vectors/c/0/0", "zarr.json")]
        for name in ("embedstore.json", *names):
            storage.write(name, [b"x"])
        for name in names:
            storage.delete(name)
        assert [entry.name for entry in storage.list("")] == ["embedstore.json"]
