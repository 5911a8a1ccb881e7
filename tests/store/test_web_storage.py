"""Stores read from web servers: one that knows no ranges, and one that does."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_rows import LAYOUTS, assert_right, files_of, new_space, open_space, sample_batch, sample_keys, sample_recipe
from store.object_servers import Fault, FaultProxy, S3Server, running_web_server

from embedstore.errors import (
    CorruptStoreError,
    EmbedStoreError,
    InputError,
    MissingEmbeddingError,
    StorageError,
    StoreNotFoundError,
)
from embedstore.storage.listing import INDEX_NAME, WebIndex
from embedstore.storage.local import LocalStorage
from embedstore.storage.objects import ObjectStorage
from embedstore.storage.retrying import Patience
from embedstore.storage.web import WebStorage
from embedstore.store.verification import verify
from embedstore.upkeep import collect, compact
from embedstore.upkeep.web_index import publish_web_index

QUICK = Patience(attempts=5, first_pause_s=0.02, longest_pause_s=0.2, timeout_s=2.0)
KEYS = sample_keys(range(50))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder, and the URL at which it is served."""
    folder = tmp_path_factory.mktemp("served")
    with running_web_server(folder) as url:
        yield folder, url


@pytest.fixture
def store(served: tuple[Path, str], request: pytest.FixtureRequest) -> tuple[Path, str]:
    """A store of two segments, and the URL at which it is served."""
    folder, url = served
    name = f"store-{time.monotonic_ns()}"
    space = new_space(folder / name, getattr(request, "param", "zarr"))
    space.append(sample_batch(KEYS[:30], space.recipe))
    space.append(sample_batch(KEYS[30:], space.recipe))
    space.optimise()
    publish_web_index(LocalStorage(folder / name))
    return folder / name, f"{url}/{name}"


@pytest.mark.parametrize("store", LAYOUTS, indirect=True)
def test_a_served_folder_reads_like_the_folder(store: tuple[Path, str]) -> None:
    folder, url = store
    storage = WebStorage(url)
    space = open_space(storage)
    assert len(space) == 50
    assert_right(space, KEYS)
    report = verify(storage, deep=True)
    assert (report.problems, report.orphans) == ([], [])
    local = LocalStorage(folder)
    assert [entry for entry in local.list("") if entry.name != INDEX_NAME] == storage.list("")
    assert set(local.walk("spaces/")) == set(storage.walk("spaces/"))


def test_opening_takes_one_request(store: tuple[Path, str]) -> None:
    _, url = store
    with FaultProxy(url, {}) as proxy:
        space = open_space(WebStorage(url.replace(url.split("/")[2], proxy.url.split("/")[2])))
        assert space.name == "toy"
        assert proxy.requests == 1
        space.segments()
        assert proxy.requests <= 2


def test_all_that_changes_is_refused(store: tuple[Path, str]) -> None:
    storage = WebStorage(store[1])
    for change in (
        lambda: storage.write("name", [b"x"]),
        lambda: storage.replace("name", [b"x"]),
        lambda: storage.delete("embedstore.json"),
        lambda: open_space(storage).append(sample_batch(sample_keys([99]), sample_recipe())),
        lambda: publish_web_index(storage),
    ):
        with pytest.raises(StorageError, match="read-only"):
            change()


def test_a_folder_without_an_index_names_the_command(served: tuple[Path, str]) -> None:
    folder, url = served
    new_space(folder / "bare", "zarr")
    with pytest.raises(StorageError, match="publish-index"):
        open_space(WebStorage(f"{url}/bare"))
    with pytest.raises(StoreNotFoundError, match="No store at"):
        open_space(WebStorage(f"{url}/nothing"))


@pytest.mark.parametrize("address", ["http://ada:secret@host/x", "http://host/x?token=secret", "http:///x"])
def test_an_address_holds_no_credentials(address: str) -> None:
    with pytest.raises(InputError) as caught:
        WebStorage(address)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("store", LAYOUTS, indirect=True)
def test_a_flipped_byte_in_each_kind_of_file_is_noticed_or_changes_nothing(store: tuple[Path, str]) -> None:
    folder, url = store
    rng = np.random.default_rng(0)
    kinds = {re.sub("[0-9a-f]{20,}", "", str(path)): path for path in files_of(folder)}
    for path in kinds.values():
        content = path.read_bytes()
        place = int(rng.integers(len(content)))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        noticed = False
        try:
            noticed = not verify(WebStorage(url, patience=QUICK), deep=True).clean
            assert_right(open_space(WebStorage(url, patience=QUICK)), KEYS)
        except (CorruptStoreError, MissingEmbeddingError):  # where a key was hit, its row is no longer found
            noticed = True
        carried = path.suffix == ".json" and path.name != INDEX_NAME and "data" not in path.parts
        assert noticed or carried, path  # what the index carries is not read from its own file
        path.write_bytes(content)


def test_a_file_that_vanished_is_damage_that_names_the_index(store: tuple[Path, str]) -> None:
    folder, url = store
    next(path for path in files_of(folder / "spaces") if "data" in path.parts and path.suffix != ".json").unlink()
    with pytest.raises(CorruptStoreError, match=r"is gone, and index\.json of .* names it"):
        assert_right(open_space(WebStorage(url)), KEYS)
    assert not verify(WebStorage(url), deep=True).clean


@pytest.mark.parametrize("store", LAYOUTS, indirect=True)
def test_a_file_of_another_size_is_damage(store: tuple[Path, str]) -> None:
    folder, url = store
    for path in files_of(folder / "spaces"):
        if "data" in path.parts and path.suffix != ".json":
            path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptStoreError, match=r"expected \d+ bytes, found \d+"):
        assert_right(open_space(WebStorage(url)), KEYS)


def test_an_index_older_than_one_seen_before_is_stale(store: tuple[Path, str]) -> None:
    folder, url = store
    old = (folder / INDEX_NAME).read_bytes()
    publish_web_index(LocalStorage(folder))
    storage = WebStorage(url, fresh_s=0)
    space = open_space(storage)
    (folder / INDEX_NAME).write_bytes(old)
    with pytest.raises(StorageError, match=r"index\.json: expected that of .* stale"):
        space.refresh()


def test_what_was_added_is_seen_once_it_is_published(store: tuple[Path, str]) -> None:
    folder, url = store
    space = open_space(WebStorage(url, fresh_s=0))
    more = sample_keys(range(50, 60))
    local = open_space(folder)
    local.append(sample_batch(more, local.recipe))
    assert not space.contains(more).any()
    publish_web_index(LocalStorage(folder))
    space.refresh()
    assert_right(space, np.concatenate([KEYS, more]))


def test_an_index_leaves_out_what_nothing_refers_to(store: tuple[Path, str]) -> None:
    folder, _ = store
    space = open_space(folder)
    place = folder / "spaces" / space.id
    for name in ("data/x.h5", "gc/condemned.json", ".DS_Store", "commits/.tmp-1"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(b"left")
    published = publish_web_index(LocalStorage(folder))
    index = WebIndex.from_bytes((folder / INDEX_NAME).read_bytes())
    assert published.files == len(index.files)
    assert not [name for name in index.files if name.endswith(("x.h5", "condemned.json", "DS_Store", ".tmp-1"))]
    again = publish_web_index(LocalStorage(folder))
    assert again.created_ns > published.created_ns


@pytest.mark.parametrize(
    "change",
    [
        {"format": "embedstore"},
        {"files": {"a": [1]}},
        {"files": {"a": [1, "2"]}},
        {"files": []},
        {"documents": {"a": "text"}},
        {"created_ns": 1.5},
    ],
)
def test_an_index_of_another_form_is_refused(change: dict[str, Any]) -> None:
    from embedstore.strict_json import sealed

    index = {"format": "embedstore-index", "files": {"a": [3, 1]}, "documents": {"a": "abc"}, "created_ns": 1}
    assert WebIndex.from_bytes(sealed(index)).documents == {"a": b"abc"}
    with pytest.raises(CorruptStoreError):
        WebIndex.from_bytes(sealed({**index, **change}))


@pytest.fixture
def large(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A store with a file that is not read whole where that can be helped."""
    space = new_space(tmp_path / "store", "zarr", sample_recipe(dim=1024))
    keys = sample_keys(range(4000))
    space.append(sample_batch(keys, space.recipe))
    return tmp_path / "store", keys


def test_a_server_without_ranges_sends_a_large_file_once(large: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    folder, keys = large
    publish_web_index(LocalStorage(folder))
    with running_web_server(folder) as url, FaultProxy(url, {}) as proxy:
        space = open_space(WebStorage(proxy.url))
        some = keys[np.random.default_rng(0).integers(0, len(keys), 100)]
        assert_right(space, some)
        before = proxy.requests
        assert_right(space, some)
        assert proxy.requests == before


def test_a_bucket_is_read_in_ranges_with_a_name_and_password(
    large: tuple[Path, np.ndarray], bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, keys = large
    local, remote = LocalStorage(folder), ObjectStorage(f"{bucket}/public/store")
    for entry in local.walk(""):
        remote.write(entry.name, [local.read(entry.name)])
    publish_web_index(remote)
    url = f"{s3_server.url}/{bucket.removeprefix('s3://')}/public/store"
    monkeypatch.setenv("NETRC", str(folder / "netrc"))
    with pytest.raises(StorageError, match=r"403.*netrc"):
        open_space(WebStorage(url))
    (folder / "netrc").write_text("machine 127.0.0.1 login ada password example-secret\n")
    (folder / "netrc").chmod(0o600)
    storage = WebStorage(url)
    assert_right(open_space(storage), keys[::7])
    assert verify(storage, deep=True).clean


def test_reading_survives_faults(large: tuple[Path, np.ndarray]) -> None:
    folder, keys = large
    publish_web_index(LocalStorage(folder))
    with running_web_server(folder) as url, FaultProxy(url, {}) as proxy:
        for fault in Fault:
            proxy.once(fault, fault)
            assert_right(open_space(WebStorage(proxy.url, patience=QUICK)), keys[:50])
            assert proxy.injected[fault] == 2
        proxy.faults = {Fault.ERROR_503: 1.0}
        with pytest.raises(EmbedStoreError, match="Cannot read"):
            open_space(WebStorage(proxy.url, patience=QUICK))


def test_a_published_index_is_json_of_one_form(store: tuple[Path, str]) -> None:
    document = json.loads((store[0] / INDEX_NAME).read_bytes())
    assert sorted(document) == ["created_ns", "documents", "files", "format", "sha256"]
    assert document["files"]["embedstore.json"][0] == (store[0] / "embedstore.json").stat().st_size


def test_a_reader_outlives_what_it_reads(store: tuple[Path, str]) -> None:
    """Merged, collected and published again while somebody reads: the index is fetched again, and nothing is damage."""
    folder, url = store
    reader = open_space(WebStorage(url))
    assert len(reader) == 50
    compact(open_space(folder))
    for _ in range(3):
        collect(LocalStorage(folder), grace_s=0)
    publish_web_index(LocalStorage(folder))
    assert_right(reader, KEYS)
    assert len(reader.segments()) == 1


def test_a_busy_server_is_asked_again_when_it_says(store: tuple[Path, str]) -> None:
    _, url = store
    with FaultProxy(url.rpartition("/")[0], {}) as proxy:
        proxy.retry_after_s = 1
        proxy.once(Fault.THROTTLED)
        started = time.monotonic()
        assert len(open_space(WebStorage(f"{proxy.url}/{url.rpartition('/')[2]}", patience=QUICK))) == 50
        assert time.monotonic() - started >= 1
