"""Servers that send too much, too slowly, from elsewhere, or something else than was asked for."""

from __future__ import annotations

import errno
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from sample_rows import assert_right, new_space, open_space, sample_batch, sample_keys, sample_recipe
from store.object_servers import AnsweringServer, FaultProxy, Request, S3Server, signed_by_own_authority

from embedstore.doctor import diagnose
from embedstore.errors import CorruptStoreError, EmbedStoreError, StorageError
from embedstore.storage.listing import INDEX_NAME, WebIndex
from embedstore.storage.local import LocalStorage
from embedstore.storage.objects import ObjectStorage
from embedstore.storage.protocol import Entry
from embedstore.storage.ranges import KEPT_FILE_BYTES
from embedstore.storage.retrying import Patience
from embedstore.storage.web import WebClient, WebStorage
from embedstore_cli.main import main

QUICK = Patience(attempts=2, first_pause_s=0.01, longest_pause_s=0.02, timeout_s=0.5)
LARGE = KEPT_FILE_BYTES + 100
HUGE = 4 << 30
FLOOD_LIMIT = 32 << 20
"""What fits into the buffers of a connection, and then some; all attempts together."""


def answering(answer: Callable[[Request], None], index: WebIndex | None = None) -> AnsweringServer:
    """A web server of a store with one small and one large file."""
    files = {"small": Entry("small", 100, 1), "large": Entry("large", LARGE, 1)}
    content = (index or WebIndex(1, files, {})).to_bytes()

    def answer_or_index(request: Request) -> None:
        if request.path == f"/{INDEX_NAME}":
            request.send(200, content)
        else:
            answer(request)

    return AnsweringServer(answer_or_index)


def bucket_at(url: str, monkeypatch: pytest.MonkeyPatch) -> ObjectStorage:
    """A bucket of a server that does not check signatures."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    return ObjectStorage("s3://bucket/store", patience=QUICK)


# Too much


@pytest.mark.parametrize("chunked", [False, True])
def test_a_small_file_that_does_not_end_is_cut_off(chunked: bool) -> None:
    def answer(request: Request) -> None:
        if chunked:
            request.begin(200, {"Transfer-Encoding": "chunked"})
            for _ in range(HUGE >> 16):
                request.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
        else:
            request.flood(200, HUGE)

    with answering(answer) as server:
        with pytest.raises(CorruptStoreError, match="expected 100 bytes, found 101"):
            WebStorage(server.url, patience=QUICK).read("small")
        assert server.sent_bytes < FLOOD_LIMIT


def test_a_range_that_does_not_end_is_cut_off() -> None:
    first = f"bytes 0-0/{LARGE}"

    def answer(request: Request) -> None:
        if request.headers["Range"] == "bytes=0-0":
            request.send(206, b"x", Content_Range=first)
        else:
            request.flood(206, HUGE, Content_Range=f"bytes 10-109/{LARGE}")

    with answering(answer) as server:
        blob = WebStorage(server.url, patience=QUICK).open("large", LARGE)
        with pytest.raises(StorageError, match="expected 100 bytes, found more"):
            blob.bytes(10, 100)
        assert server.sent_bytes < FLOOD_LIMIT


def test_a_range_of_a_bucket_that_does_not_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: Request) -> None:
        if request.command == "HEAD":
            request.begin(200, {"Content-Length": str(LARGE)})
        else:
            request.flood(206, HUGE, Content_Range=f"bytes 10-109/{LARGE}")

    with AnsweringServer(answer) as server:
        blob = bucket_at(server.url, monkeypatch).open("large", LARGE)
        with pytest.raises(StorageError, match=r"expected 100 bytes, found \d+ and more"):
            blob.bytes(10, 100)
        assert server.sent_bytes < 4 * FLOOD_LIMIT


def test_a_document_of_a_bucket_that_is_too_long_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    with AnsweringServer(lambda request: request.flood(200, HUGE)) as server:
        storage = bucket_at(server.url, monkeypatch)
        with pytest.raises(CorruptStoreError, match="expected at most 67108864 bytes, found 4294967296"):
            storage.read("document")
        with pytest.raises(CorruptStoreError, match="expected at most 10 bytes"):
            storage.read("document", 10)
        assert server.sent_bytes < 4 * FLOOD_LIMIT


def test_a_document_that_the_index_says_is_too_long_is_not_asked_for() -> None:
    index = WebIndex(1, {"document": Entry("document", HUGE, 1)}, {})
    with answering(lambda request: request.send(500), index) as server:
        with pytest.raises(CorruptStoreError, match="expected at most 67108864 bytes"):
            WebStorage(server.url, patience=QUICK).read("document")
        assert len(server.heard) == 1


def test_an_index_that_does_not_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedstore.storage.web.INDEX_BYTES", 1000)
    with AnsweringServer(lambda request: request.flood(200, HUGE)) as server:
        with pytest.raises(CorruptStoreError, match="expected at most 1000 bytes"):
            WebStorage(server.url, patience=QUICK).list("")
        assert server.sent_bytes < FLOOD_LIMIT


def test_the_body_of_a_refusal_is_not_read() -> None:
    with AnsweringServer(lambda request: request.flood(503, HUGE)) as server:
        with pytest.raises(StorageError, match="the server answered 503"):
            WebStorage(server.url, patience=QUICK).list("")
        assert server.sent_bytes < FLOOD_LIMIT


# Too slowly


def test_a_byte_a_moment_is_a_time_out() -> None:
    with answering(lambda request: request.trickle(200, 100)) as server:
        storage = WebStorage(server.url, patience=QUICK)
        started = time.monotonic()
        with pytest.raises(StorageError, match="time-out"):
            storage.read("small")
        assert time.monotonic() - started < 4


def test_headers_that_come_byte_by_byte_are_a_time_out() -> None:
    def answer(request: Request) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n" + b"Name: value\r\n" * 50:
            request.wfile.write(bytes([byte]))
            time.sleep(0.1)

    with AnsweringServer(answer) as server:
        started = time.monotonic()
        with pytest.raises(StorageError, match="Cannot read"):
            WebStorage(server.url, patience=QUICK).list("")
        assert time.monotonic() - started < 4


def test_a_byte_a_moment_from_a_bucket_is_a_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with AnsweringServer(lambda request: request.trickle(200, 100)) as server:
        patience = Patience(attempts=8, first_pause_s=0.01, longest_pause_s=0.02, timeout_s=0.3, total_s=0.5)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
        started = time.monotonic()
        with pytest.raises(StorageError, match="Cannot read"):
            ObjectStorage("s3://bucket/store", patience=patience).read("name")
        assert time.monotonic() - started < 8


def test_the_time_of_an_answer_grows_with_its_size() -> None:
    patience = Patience()
    assert patience.limit_s(100) < 121
    assert patience.limit_s(64 << 20) == pytest.approx(120 + 4096)


# From elsewhere


def test_a_redirect_on_the_same_server_is_followed() -> None:
    def answer(request: Request) -> None:
        if request.path == "/moved/small":
            request.send(200, bytes(100))
        else:
            request.send(302, Location="/moved/small")

    with answering(answer) as server:
        assert WebStorage(server.url, patience=QUICK).read("small") == bytes(100)


@pytest.mark.parametrize("scheme", ["http", "https", "file"])
def test_a_redirect_to_another_server_is_refused_and_sends_no_password(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ada password example-secret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with AnsweringServer(lambda request: request.send(200, bytes(100))) as other:
        there = f"{scheme}://127.0.0.1:{other.port}/small?token=hidden-token"
        with answering(lambda request: request.send(307, Location=there)) as server:
            storage = WebStorage(server.url, patience=QUICK)
            with pytest.raises(StorageError, match=rf"from {server.url}/small to {scheme}://127\.0\.0\.1") as caught:
                storage.read("small")
        assert other.heard == []
        assert "hidden" not in str(caught.value)
        assert "authorization" in server.heard[0][1]


def test_a_redirect_without_an_end_is_refused() -> None:
    with answering(lambda request: request.send(301, Location=f"{request.path}x")) as server:
        with pytest.raises(StorageError, match="redirects it more than 5 times"):
            WebStorage(server.url, patience=QUICK).read("small")
        assert len(server.heard) == 7


@pytest.mark.parametrize("location", ["http://[", "http://127.0.0.1:port/x"])
def test_a_redirect_to_what_is_no_address_is_refused(location: str) -> None:
    with (
        answering(lambda request: request.send(302, Location=location)) as server,
        pytest.raises(StorageError, match="redirects it to"),
    ):
        WebStorage(server.url, patience=QUICK).read("small")


# Something else


def test_numbers_in_headers_are_not_believed() -> None:
    huge = "9" * 5000
    with (
        answering(lambda request: request.send(206, b"x", Content_Range=f"bytes 0-0/{huge}")) as server,
        pytest.raises(CorruptStoreError),
    ):
        WebStorage(server.url, patience=QUICK).open("large", LARGE)
    with (
        AnsweringServer(lambda request: request.send(503, Retry_After=huge)) as server,
        pytest.raises(StorageError, match="503"),
    ):
        WebStorage(server.url, patience=QUICK).list("")


def test_what_is_compressed_without_being_asked_is_named() -> None:
    with answering(lambda request: request.send(200, b"x" * 30, Content_Encoding="gzip")) as server:
        with pytest.raises(StorageError, match="compressed"):
            WebStorage(server.url, patience=QUICK).read("small")
        assert server.heard[-1][1]["Accept-Encoding"] == "identity"


def test_a_web_server_that_stops_sending_ranges_sends_complete_files() -> None:
    content = np.random.default_rng(0).integers(0, 256, LARGE, dtype=np.uint8)
    ranges = [True]

    def answer(request: Request) -> None:
        if ranges[0]:
            first, last = map(int, request.headers["Range"].removeprefix("bytes=").split("-"))
            request.send(206, content[first : last + 1].tobytes(), Content_Range=f"bytes {first}-{last}/{LARGE}")
        else:
            request.send(200, content.tobytes())

    with answering(answer) as server:
        blob = WebStorage(server.url, patience=QUICK).open("large", LARGE)
        assert np.array_equal(blob.bytes(10, 100), content[10:110])
        ranges[0] = False
        assert np.array_equal(blob.bytes(10, 100), content[10:110])
        before = len(server.heard)
        rows = np.array([5, 1])
        assert np.array_equal(blob.rows(0, 100, rows), content[:600].reshape(6, 100)[rows])
        assert len(server.heard) == before


@pytest.fixture
def without_ranges(
    bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, FaultProxy]]:
    """An empty bucket whose server sends whole files."""
    with FaultProxy(s3_server.url, {}) as proxy:
        proxy.ranges = False
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield bucket, proxy


def test_a_bucket_whose_server_knows_no_ranges_is_fetched_completely(
    without_ranges: tuple[str, FaultProxy], tmp_path: Path
) -> None:
    place, proxy = without_ranges
    space = new_space(tmp_path / "store", "zarr", sample_recipe(dim=1024))
    keys = sample_keys(range(4000))
    space.append(sample_batch(keys, space.recipe))
    local, remote = LocalStorage(tmp_path / "store"), ObjectStorage(f"{place}/store")
    for entry in local.walk(""):
        remote.write(entry.name, [local.read(entry.name)])
    found = open_space(ObjectStorage(f"{place}/store"))
    some = keys[np.random.default_rng(0).integers(0, len(keys), 100)]
    assert_right(found, some)
    before = proxy.requests
    assert_right(found, some)
    assert proxy.requests == before


def test_doctor_and_init_say_that_a_server_knows_no_ranges(
    without_ranges: tuple[str, FaultProxy], capsys: pytest.CaptureFixture[str]
) -> None:
    place, proxy = without_ranges
    assert main(["init", f"{place}/lab"]) == 0
    assert "sends whole files" in capsys.readouterr().err
    findings = {(finding.group, finding.check): finding for finding in diagnose(f"{place}/lab").findings}
    assert (findings["remote", "ranges"].state, findings["remote", "ranges"].data) == ("warn", {"ranges": False})
    proxy.ranges = True
    assert main(["init", f"{place}/other"]) == 0
    assert "whole files" not in capsys.readouterr().err
    findings = {(finding.group, finding.check): finding for finding in diagnose(f"{place}/lab").findings}
    assert findings["remote", "ranges"].state == "ok"


def test_a_full_temporary_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(lambda request: request.send(200, bytes(LARGE))) as server:
        storage = WebStorage(server.url, patience=QUICK)
        storage.list("")
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "tempdir", "/nonexistent")
            with pytest.raises(StorageError, match=r"in a temporary file: No such file.*TMPDIR"):
                storage.open("large", LARGE)

        def full(*arguments: object, **options: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "TemporaryFile", full)
            before = len(server.heard)
            with pytest.raises(StorageError, match=r"No space left on device.*TMPDIR"):
                storage.open("large", LARGE)
            assert len(server.heard) == before + 1  # it is not tried again


def test_a_whole_file_that_does_not_end_fills_no_disk() -> None:
    with answering(lambda request: request.flood(200, HUGE)) as server:
        with pytest.raises(CorruptStoreError, match=f"expected {LARGE} bytes, found more"):
            WebStorage(server.url, patience=QUICK).open("large", LARGE)
        assert server.sent_bytes < FLOOD_LIMIT


# Certificates, names, proxies


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[AnsweringServer, Path]]:
    """A server over TLS, and the certificate of the authority that vouches for it."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    context, authority = signed_by_own_authority(tmp_path)
    with AnsweringServer(lambda request: request.send(200, b"content"), context) as server:
        yield server, authority


def read_from_web(url: str) -> bytes:
    return WebClient(url, QUICK).whole("name", 7).tobytes()


@pytest.mark.parametrize("kind", ["web", "bucket"])
def test_a_private_authority_is_named_by_a_variable(
    secure: tuple[AnsweringServer, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, authority = secure

    def read() -> bytes:
        return read_from_web(server.url) if kind == "web" else bucket_at(server.url, monkeypatch).read("name")

    with pytest.raises(StorageError, match=r"the certificate of 127\.0\.0\.1.* is not trusted.*SSL_CERT_FILE"):
        read()
    for variable in ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, str(authority))
            assert read() == b"content"
            patch.setenv(variable, f"{authority}.gone")
            with pytest.raises(StorageError, match=rf"Cannot read the certificates in .*gone, which {variable} names"):
                read()
    monkeypatch.setenv("AWS_CA_BUNDLE", __file__)
    with pytest.raises(StorageError, match="expected certificates"):
        read()


@pytest.mark.parametrize("kind", ["web", "bucket"])
def test_what_fails_before_an_answer_is_said_plainly(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(url: str) -> None:
        if kind == "web":
            read_from_web(url)
        else:
            bucket_at(url, monkeypatch).read("name")

    with pytest.raises(StorageError, match=r"no address is known for the name no-such-host\.invalid \(DNS\)"):
        read("http://no-such-host.invalid")
    with pytest.raises(StorageError, match="refused"):
        read("http://127.0.0.1:9")
    with (
        AnsweringServer(lambda request: request.send(200, b"content")) as server,
        pytest.raises(StorageError, match=r"does not speak TLS.*https or http"),
    ):
        read(server.url.replace("http:", "https:"))
    with AnsweringServer(lambda request: request.send(407)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//ada:hidden-secret@"))
        with pytest.raises(StorageError, match=r"the proxy .*HTTPS_PROXY") as caught:
            read("https://data.example.org")
        assert "hidden" not in str(caught.value)


# Addresses and containers of other clouds


@pytest.mark.parametrize(
    ("place", "variables"),
    [
        ("az://container", {"AZURE_STORAGE_ENDPOINT": "{}"}),
        ("gs://bucket-1", {"GOOGLE_BASE_URL": "{}", "GOOGLE_BEARER_TOKEN": "token-of-tests"}),
        ("gs://bucket-1", {"STORAGE_EMULATOR_HOST": "{}"}),
        ("gs://bucket-1", {"STORAGE_EMULATOR_HOST": "{host}"}),
        ("s3://bucket", {"AWS_ENDPOINT_URL": "{}"}),
    ],
)
def test_an_endpoint_without_encryption_is_used_where_the_environment_names_it(
    place: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5LW9mLXRlc3Rz")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    missing = {
        "az": b"<Error><Code>ContainerNotFound</Code></Error>",
        "gs": b"<Error><Code>NoSuchBucket</Code></Error>",
        "s3": b"<Error><Code>NoSuchBucket</Code></Error>",
    }[place[:2]]
    noun = "container" if place.startswith("az") else "bucket"
    with AnsweringServer(lambda request: request.send(404, missing)) as server:
        for name, value in variables.items():
            monkeypatch.setenv(name, value.format(server.url, host=server.url.removeprefix("http://")))
        storage = ObjectStorage(place, patience=QUICK)
        for ask in (lambda: storage.list(""), lambda: storage.write("x", [b"x"]), lambda: list(storage.walk(""))):
            with pytest.raises(StorageError, match=f"there is no such {noun}"):
                ask()
        assert server.heard


@pytest.mark.parametrize("place", ["az://container", "gs://bucket-1"])
def test_settings_that_make_no_sense_are_not_worth_another_try(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "no base64!")
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", "no json: hidden-secret")
    with pytest.raises(EmbedStoreError, match="Check the settings") as caught:
        ObjectStorage(place)
    assert "hidden" not in str(caught.value)
