"""Object stores, against an S3 server in a process of its own."""

from __future__ import annotations

import http.client
from typing import Any
from urllib.parse import urlsplit

import pytest
from sample_rows import assert_right, new_space, open_space, sample_batch, sample_keys
from storage_contract import StorageContract
from store.object_servers import AnsweringServer, S3Server

from embedstore.errors import StorageError
from embedstore.storage.objects import ObjectStorage, is_path, s3_entries
from embedstore.store.verification import verify
from embedstore.upkeep import collect
from embedstore.upkeep.web_index import publish_web_index


class TestObjectStorage(StorageContract):
    @pytest.fixture
    def storage(self, bucket: str) -> ObjectStorage:
        return ObjectStorage(f"{bucket}/some prefix/below")


class TestObjectStorageAtTheTopOfABucket(StorageContract):
    @pytest.fixture
    def storage(self, bucket: str) -> ObjectStorage:
        return ObjectStorage(bucket)


ODD_KEYS = (
    "store//x",
    "store/spaces//y",
    "store/a%01b",
    "store/tab%09",
    "store/%7F",
    "store/../up",
    "store/./here",
    "store/tail//",
    "/leading",
    "//leading",
)
MARKERS = ("store/", "store/spaces/", "store/empty/")


def put(server: S3Server, path: str) -> None:
    """Put an object whose key no client would send."""
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    connection.request("PUT", f"/{path}", b"")
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.parametrize("at_the_top", [False, True])
def test_keys_that_are_no_paths_stop_nothing(bucket: str, s3_server: S3Server, at_the_top: bool) -> None:
    """Other programs leave them; a store lists, reads and checks itself all the same."""
    place = bucket if at_the_top else f"{bucket}/store"
    space = new_space(ObjectStorage(place), "zarr")
    space.append(sample_batch(sample_keys(range(20)), space.recipe))
    before = sorted(ObjectStorage(place).walk("")), ObjectStorage(place).list("spaces/")
    name = bucket.removeprefix("s3://")
    for key in (*ODD_KEYS, *MARKERS):
        put(s3_server, f"{name}/{key.removeprefix('store/') if at_the_top and key not in MARKERS else key}")
    storage = ObjectStorage(place)
    walked = {entry.name for entry in storage.walk("")}
    assert {entry.name for entry in before[0]} <= walked
    assert not [name for name in walked if not is_path(name)]
    assert [entry for entry in storage.list("spaces/") if entry.name.strip("/")] == before[1]
    assert all(entry.name.strip("/") for entry in storage.list(""))
    assert_right(open_space(storage), sample_keys(range(20)))
    open_space(storage).append(sample_batch(sample_keys(range(20, 30)), space.recipe))
    assert verify(storage, deep=True).problems == []
    collect(storage, grace_s=0)
    publish_web_index(storage)
    assert_right(open_space(ObjectStorage(place)), sample_keys(range(30)))


def test_a_listing_around_odd_keys_continues_for_pages(bucket: str, s3_server: S3Server, monkeypatch: Any) -> None:
    monkeypatch.setattr("embedstore.storage.objects.PAGE_BYTES", 1 << 20)
    storage = ObjectStorage(f"{bucket}/many")
    names = [f"{number:04}" for number in range(1005)]
    address = urlsplit(s3_server.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    for name in [*names, "/x", "more//y", "more/z"]:
        connection.request("PUT", f"/{bucket.removeprefix('s3://')}/many/{name}", b"x")
        connection.getresponse().read()
    connection.close()
    assert [entry.name for entry in storage.walk("")] == [*names, "more/z"]
    assert [entry.name for entry in storage.list("")] == [*names, "more/"]


@pytest.mark.parametrize(
    "content",
    [
        b"<no xml",
        b"<R><Contents><Key>a</Key><Size>many</Size><LastModified>2020-01-01T00:00:00Z</LastModified></Contents></R>",
        b"<R><Contents><Key>a</Key><Size>1</Size><LastModified>yesterday</LastModified></Contents></R>",
        b"<R><IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken></R>",
    ],
)
def test_a_listing_that_makes_no_sense_is_an_error(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedstore.storage.objects.MOST_PAGES", 3)
    with pytest.raises(StorageError, match="Cannot list"):
        list(s3_entries(lambda query: content, "s3://bucket", "", deep=True))


@pytest.mark.parametrize(
    ("place", "listing"),
    [
        ("gs://bucket-1", "<Contents><Key>{}</Key><Size>1</Size><LastModified>{}</LastModified></Contents>"),
        (
            "az://container",
            "<Blobs><Blob><Name>{}</Name><Properties><Last-Modified>{}</Last-Modified>"
            "<Content-Length>1</Content-Length><Content-Type>x</Content-Type></Properties></Blob></Blobs>",
        ),
    ],
)
def test_an_odd_key_of_another_cloud_is_named(place: str, listing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = "2020-01-01T00:00:00.000Z" if place.startswith("gs") else "Wed, 01 Jan 2020 00:00:00 GMT"
    body = f"<R><ContainerName>c</ContainerName>{listing.format('a//b', moment)}</R>".encode()
    with AnsweringServer(lambda request: request.send(200, body)) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5LW9mLXRlc3Rz")
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", server.url)
        with pytest.raises(StorageError, match=r"a key that is not a path lies there.*a//b.*of its own"):
            list(ObjectStorage(place).walk(""))
