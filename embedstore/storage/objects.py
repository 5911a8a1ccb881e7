"""A store below a prefix of an object store: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`.

The layout is that of a folder. Nothing depends on conditional writes, which not every server has: names are random or
digests, so two writers of one name write the same bytes, and to look first is enough.

Credentials and addresses come from the environment, or from the usual files of the cloud's own tools. They stay there:
no message repeats them. Nothing that a server says is believed: a body is counted while it comes, and no more of it is
taken than was asked for.

Failures that pass are met twice. The library below repeats a request that the server refused (500, 502, 503, 429) or
that got no answer, parts of a large file too. What it does not repeat (half an answer) is done again here, all of which
is harmless: reading changes nothing, and writing a name again writes the same bytes. For a failure that stays, the
library gives a text with all that was sent; a message has only what is found in it by a pattern, or its first line,
without credentials.

Other programs write keys that are not paths: `a//b`, `../c`, control characters. The library cannot list a bucket that
holds one: it ends the whole listing. So the pages of an S3 listing are asked for here, and such keys are skipped. The
library still signs them, since it knows all sources of credentials: it signs an address and puts a name behind it, so
the address is the listing's, and the name the value of a parameter without a meaning (`x-id`, as Amazon's own clients
send it).
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import datetime, timedelta
from functools import cached_property
from itertools import chain
from typing import Any, TypeVar
from urllib.parse import quote, unquote, unquote_plus, urlsplit

import numpy as np
import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store

from embedstore.errors import CorruptStoreError, InputError, StorageError
from embedstore.storage.clouds import ADDRESSES, CONTAINERS, SOURCES, added_authorities, cloud_settings
from embedstore.storage.clouds import ADVICE as CERTIFICATE_ADVICE
from embedstore.storage.protocol import DOCUMENT_BYTES, Blob, Buffer, Entry, memory
from embedstore.storage.ranges import (
    KEPT_FILE_BYTES,
    REQUESTS_AT_ONCE,
    Content,
    NoRangesError,
    RangedBlob,
    RangeReader,
    mapped,
)
from embedstore.storage.retrying import IncompleteError, Patience, Retrying, redacted
from embedstore.storage.web import WebClient

_LASTING = (
    exceptions.PermissionDeniedError,
    exceptions.UnauthenticatedError,
    exceptions.InvalidPathError,
    exceptions.NotSupportedError,
    exceptions.UnknownConfigurationKeyError,
)
_STATUS = re.compile(r"status code: (\d+ [A-Za-z ]+)")
_BUSY = ("408", "409", "429")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_CERTIFICATE = re.compile(r"InvalidCertificate\(\s*(\w+)")
_HOST = re.compile(r"Error performing \w+ https?://([^/\s?]+)")
_NO_CONTAINER = ("<Code>NoSuchBucket</Code>", "<Code>ContainerNotFound</Code>", "The specified bucket does not exist")
_NO_RANGES = "Received non-partial response"
# Where libraries look for credentials when nothing names any.
_METADATA_SERVICES = ("169.254.169.254", "169.254.170.2", "/latest/api/token", "metadata.google.internal")


def explained(scheme: str, action: str, error: Exception, secrets: Collection[str]) -> tuple[str, str]:
    """Return what went wrong and what to do.

    Parameters
    ----------
    action : what was tried: read, write, list …, or `use` for the settings.
    secrets : credentials that are not in the environment.
    """
    text = str(error)
    if of_container(error, action):
        return f"there is no such {CONTAINERS[scheme]}", f"Make it, or check the address ({ADDRESSES[scheme]})."
    if isinstance(error, exceptions.InvalidPathError):
        said = ascii(text.partition("\n\nDebug source")[0].rpartition("path: ")[2][:200])
        return f"a key that is not a path lies there ({said})", (
            f"Delete it with the tool that wrote it, or give the store a {CONTAINERS[scheme]} of its own."
        )
    if any(host in text for host in _METADATA_SERVICES):
        return "found no credentials", f"They come from {SOURCES[scheme]}."
    connection = _connection(scheme, text)
    if connection is not None:
        return connection
    secret_free = redacted(text.partition("\n\nDebug source")[0], secrets)
    facts = [found[1].strip() for pattern in (_STATUS, _CODE) if (found := pattern.search(secret_free))]
    said = ", ".join(facts) or secret_free.partition("\n")[0].rpartition(" - ")[2][:300]
    if said.startswith(("401", "403")):
        return said, f"Check the credentials and what they may do; they come from {SOURCES[scheme]}."
    if action == "use":
        return said, f"Check the settings: {SOURCES[scheme]}; {ADDRESSES[scheme]}."
    return said, f"Try again; if it stays, check the network and the address ({ADDRESSES[scheme]})."


def passes(error: Exception) -> bool:
    """Tell whether a failure may be gone next time."""
    text = str(error)
    status = _STATUS.search(text)
    refused = status is not None and status[1].startswith("4") and not status[1].startswith(_BUSY)
    lasting = refused or isinstance(error, (FileNotFoundError, *_LASTING)) or _CERTIFICATE.search(text) is not None
    return not lasting and not any(host in text for host in _METADATA_SERVICES)


def of_container(error: Exception, action: str) -> bool:
    """Tell whether it is the bucket or container that is not there; an empty folder is listed, so none is missing."""
    text = str(error)
    unlisted = action == "list" and "status code: 404" in text
    return unlisted or any(sign in text for sign in _NO_CONTAINER)


def of_ranges(error: Exception) -> bool:
    """Tell whether a server that was asked for a range sent all of the file."""
    return _NO_RANGES in str(error)


def _connection(scheme: str, text: str) -> tuple[str, str] | None:
    """What went wrong before anything was answered."""
    found = _HOST.search(text)
    host = found[1].rpartition("@")[2] if found else "the server"
    address = f"Check the address ({ADDRESSES[scheme]}) and the network."
    certificate = _CERTIFICATE.search(text)
    if certificate is not None:
        return f"the certificate of {host} is not trusted ({certificate[1]})", CERTIFICATE_ADVICE
    if "No CA certificates were loaded" in text:
        return "no certificates of authorities were found", CERTIFICATE_ADVICE
    if "ProxyAuthRequired" in text or "ConnectFailed(" in text:
        proxy = "HTTPS_PROXY and HTTP_PROXY; NO_PROXY lists hosts that are reached without"
        return f"the proxy does not let through to {host}", f"Check {proxy}."
    if "InvalidMessage(" in text or "InvalidContentType" in text:
        return f"{host} does not speak TLS", f"Check the address ({ADDRESSES[scheme]}): https or http?"
    if "dns error" in text:
        return f"no connection to the server: no address is known for the name {host} (DNS)", address
    if "kind: Connect" in text:
        refused = "refused" if "ConnectionRefused" in text else "not made"
        return f"no connection to the server: a connection to {host} was {refused}", address
    if "kind: Timeout" in text:
        return f"{host} did not answer in time", f"Try again; if it stays: {address}"
    return None


PAGE_BYTES = 16 << 20
"""A page holds a thousand keys of up to a kilobyte each, with as much around them."""
MOST_PAGES = 10_000

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def s3_entries(fetch: Callable[[str], bytes], location: str, prefix: str, *, deep: bool) -> Iterator[Entry]:
    """Yield what lies below a prefix of a bucket, names relative to it; folders end with `/`.

    Parameters
    ----------
    fetch : query -> the bucket's answer to it.
    location : what to call the place in messages.
    prefix : "" or ending with `/`.
    deep : at any depth, without folders.
    """
    token: str | None = None
    for _ in range(MOST_PAGES):
        query = {"list-type": "2", "encoding-type": "url", "prefix": prefix}
        query |= {} if deep else {"delimiter": "/"}
        query |= {} if token is None else {"continuation-token": token}
        page = _page(fetch("&".join(f"{name}={quote(value, safe='')}" for name, value in sorted(query.items()))))
        try:
            yield from _entries(page, prefix)
        except (ValueError, OverflowError):
            raise StorageError(
                f"Cannot list {location}: a size or time in the answer is invalid. Check the address."
            ) from None
        token = page.findtext("NextContinuationToken")
        if page.findtext("IsTruncated") != "true" or not token:
            return
    raise StorageError(
        f"Cannot list {location}: expected at most {MOST_PAGES:,} pages, found more. Give the store its own bucket."
    )


def is_path(name: str) -> bool:
    """Tell whether a key, relative to the store, is one that a store could hold."""
    return not _CONTROL.search(name) and not any(part in ("", ".", "..") for part in name.split("/"))


def _entries(page: ElementTree.Element, prefix: str) -> Iterator[Entry]:
    plain = unquote_plus if page.findtext("EncodingType") == "url" else str
    for found in page.findall("CommonPrefixes"):
        yield from _named(plain(found.findtext("Prefix", "")), prefix, 0, 0)
    for found in page.findall("Contents"):
        size_bytes, moment = int(found.findtext("Size", "")), found.findtext("LastModified", "")
        modified_ns = int(datetime.fromisoformat(moment).timestamp()) * 1_000_000_000
        yield from _named(plain(found.findtext("Key", "")), prefix, size_bytes, modified_ns)


def _named(key: str, prefix: str, size_bytes: int, modified_ns: int) -> Iterator[Entry]:
    name = key.removeprefix(prefix)
    is_folder = name.endswith("/") and not modified_ns
    if key.startswith(prefix) and is_path(name.removesuffix("/") if is_folder else name):
        yield Entry(name, size_bytes, modified_ns)


def _page(content: bytes) -> ElementTree.Element:
    try:
        page = ElementTree.fromstring(content)  # noqa: S314 - see above
    except ElementTree.ParseError as error:
        raise StorageError(f"Cannot list a bucket: its answer is invalid XML ({error}). Check the address.") from None
    for element in page.iter():
        element.tag = element.tag.rpartition("}")[2]
    return page


T = TypeVar("T")
Entries = list[Entry]


_PART_BYTES = 8 << 20  # S3 takes 10 000 parts of a file, which makes 80 GB
_PARTS_AT_ONCE = 4
_PIECE_BYTES = 8 << 20
_LIST_CHUNK = 1000  # what one answer of S3 holds
_MOST_LISTED = 10_000_000
_SIGNED_FOR = timedelta(minutes=15)
_FAILURES = (exceptions.BaseError, IncompleteError, OSError)


class ObjectStorage:
    """Files below a prefix of a bucket.

    Parameters
    ----------
    url : `s3://bucket/prefix`; the prefix may be empty. `gs` and `az` likewise.
    patience : how long the server is waited for.

    Raises
    ------
    InputError : not such a URL, or one that holds credentials.
    StorageError : its settings cannot be used.
    """

    requests_at_once = REQUESTS_AT_ONCE

    def __init__(self, url: str, *, patience: Patience | None = None) -> None:
        self._scheme, self._bucket, self._prefix = _parsed(url)
        self._patience = patience or Patience()
        self._settings = cloud_settings(self._scheme, os.environ)
        self._authorities = added_authorities()
        self.location = f"{self._scheme}://{self._bucket}/{self._prefix}".rstrip("/")
        # Five tries in some two seconds; what lasts longer is waited for above, where it is known what passes.
        self._store = self._connected(retries=5, longest_pause_s=min(3.0, self._patience.longest_pause_s))
        self._reader = RangeReader(self._range, self._whole, self._mapped)
        self._retrying = Retrying(self._patience)

    def read(self, name: str, limit_bytes: int = DOCUMENT_BYTES) -> bytes:
        return self._ask("read", name, lambda: self._content(name, most_bytes=limit_bytes)).tobytes()

    def write(self, name: str, parts: Iterable[Buffer]) -> Entry:
        try:
            there = self.entry(name)
        except FileNotFoundError:
            return self.replace(name, parts)
        for _ in parts:  # who makes them may rely on being asked
            pass
        return there

    def replace(self, name: str, parts: Iterable[Buffer]) -> Entry:
        """Write a file in place of the one that may be there; others see the old or the new one, whole."""
        blocks = _blocks(parts)
        first = next(blocks, b"")
        second = next(blocks, None)
        if second is None:
            self._ask("write", name, lambda: obstore.put(self._store, name, first, use_multipart=False))
            size_bytes = len(first)
        else:
            size_bytes = self._put_in_parts(name, chain([first, second], blocks))
        self._reader.kept.drop(name)
        written = self.entry(name)
        if written.size_bytes != size_bytes:
            raise StorageError(
                f"Cannot write {self._named(name)}: expected {size_bytes} bytes to be there, found "
                f"{written.size_bytes}. Another writer was at it, or it was damaged on the way. Try again."
            )
        return written

    def list(self, folder: str) -> Entries:
        def collect() -> Entries:
            found = obstore.list_with_delimiter(self._store, folder or None)
            folders = [Entry(f"{name.rstrip('/')}/", 0, 0) for name in found["common_prefixes"] if name.strip("/")]
            return folders + [_entry(meta) for meta in found["objects"]]

        found = self._ask("list", folder, lambda: self._around_odd_keys(collect, folder, deep=False))
        return sorted(entry for entry in found if entry.name.strip("/") != folder.strip("/"))

    def walk(self, folder: str) -> Iterator[Entry]:
        def collect() -> Entries:
            entries: Entries = []
            for chunk in obstore.list(self._store, folder or None, chunk_size=_LIST_CHUNK):
                entries += map(_entry, chunk)
                if len(entries) > _MOST_LISTED:
                    raise StorageError(
                        f"Cannot list {self._named(folder)}: expected at most {_MOST_LISTED:,} files, found more. "
                        "Give the store a prefix of its own."
                    )
            return entries

        found = self._ask("list", folder, lambda: self._around_odd_keys(collect, folder, deep=True))
        # Some programs mark a folder by an empty file, whose name is here without its `/`.
        folders = {name for entry in found for name in _folders(entry.name)} | {folder.strip("/")}
        yield from (entry for entry in found if entry.size_bytes or entry.name not in folders)

    def _around_odd_keys(self, collect: Callable[[], Entries], folder: str, *, deep: bool) -> Entries:
        """List a folder, also one with keys that are no paths, which the library stops at."""
        try:
            return collect()
        except exceptions.InvalidPathError:
            if self._scheme != "s3":
                raise
        prefix = f"{self._prefix}/{folder}" if self._prefix else folder
        found = s3_entries(self._listing, self.location, prefix, deep=deep)
        return [entry._replace(name=f"{folder}{entry.name}") for entry in found]

    def _listing(self, query: str) -> bytes:
        """Return the bucket's answer to a query."""
        settings = self._settings
        region = settings.config.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        server = settings.endpoint.rstrip("/") or f"https://s3.{region or 'us-east-1'}.amazonaws.com"
        bucket = server if _is_true("AWS_VIRTUAL_HOSTED_STYLE_REQUEST") else f"{server}/{self._bucket}"
        if not _is_true("AWS_SKIP_SIGNATURE"):
            address: Any = {
                **settings.config,
                "endpoint": f"{bucket}/?{query}&x-id=",
                "virtual_hosted_style_request": "true",
            }
            listing = S3Store(self._bucket, config=address, client_options={"allow_http": settings.allow_http})
            query = urlsplit(obstore.sign(listing, "GET", "ListObjectsV2", _SIGNED_FOR)).query
        return WebClient(bucket, self._patience, from_netrc=False).answer(query, PAGE_BYTES)

    def entry(self, name: str) -> Entry:
        return _entry(self._ask("look at", name, lambda: obstore.head(self._store, name)))

    def delete(self, name: str) -> None:
        def delete() -> None:
            try:
                obstore.delete(self._store, name)
            except FileNotFoundError as error:
                if of_container(error, "delete"):
                    raise

        self._ask("delete", name, delete)
        self._reader.kept.drop(name)

    def open(self, name: str, size_bytes: int, *, mapped: bool = True) -> Blob:
        if size_bytes <= KEPT_FILE_BYTES:
            self._reader.whole(name, size_bytes)
        else:
            found = self.entry(name).size_bytes
            if found != size_bytes:
                raise CorruptStoreError(name, f"expected {size_bytes} bytes, found {found}")
        return RangedBlob(self._reader, name, size_bytes)

    def answers_ranges(self, name: str, size_bytes: int) -> bool:
        """Ask for the last byte of a file, and tell whether that came rather than the whole file."""
        try:
            return len(self._range(name, size_bytes - 1, 1)) == 1
        except NoRangesError:
            return False

    def _content(self, name: str, expected_bytes: int | None = None, most_bytes: int | None = None) -> Content:
        found = obstore.get(self._store, name)
        size_bytes = found.meta["size"]
        if expected_bytes is not None and size_bytes != expected_bytes:
            raise CorruptStoreError(name, f"expected {expected_bytes} bytes, found {size_bytes}")
        if most_bytes is not None and size_bytes > most_bytes:
            raise CorruptStoreError(name, f"expected at most {most_bytes} bytes, found {size_bytes}")
        return _exactly(found, size_bytes)

    def _whole(self, name: str, size_bytes: int) -> Content:
        return self._ask("read", name, lambda: self._content(name, size_bytes))

    def _mapped(self, name: str, size_bytes: int) -> Blob:
        """Fetch a large file whole, from a server that knows no ranges."""
        store = self._connected(retries=0, longest_pause_s=1.0, size_bytes=size_bytes)

        def fetch() -> Blob:
            return mapped(name, size_bytes, _pieces(obstore.get(store, name), size_bytes))

        return self._ask("read", name, fetch)

    def _range(self, name: str, start: int, length: int) -> Content:
        def fetch() -> Content:
            try:
                return _exactly(obstore.get(self._store, name, options={"range": (start, start + length)}), length)
            except exceptions.GenericError as error:
                if of_ranges(error):
                    raise NoRangesError from None
                raise

        return self._ask("read", name, fetch)

    def _put_in_parts(self, name: str, blocks: Iterable[bytes]) -> int:
        """Write a large file as its parts come; returns its size. What was handed on cannot be asked for again."""
        sent = 0

        def counted() -> Iterator[bytes]:
            nonlocal sent
            for block in blocks:
                sent += len(block)
                yield block

        def put() -> None:
            obstore.put(
                self._sending,
                name,
                counted(),
                use_multipart=True,
                chunk_size=_PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
            )

        try:
            self._ask("write", name, put, lambda error: not sent and passes(error))
        except StorageError:
            if next(iter(blocks), None) is None and self._has_size(name, sent):  # only the last answer was lost
                return sent
            raise
        return sent

    def _has_size(self, name: str, size_bytes: int) -> bool:
        try:
            return self.entry(name).size_bytes == size_bytes
        except (FileNotFoundError, StorageError):
            return False

    def _ask(
        self,
        action: str,
        name: str,
        operation: Callable[[], T],
        may_pass: Callable[[Exception], bool] = passes,
    ) -> T:
        """Do something on the server, with patience; errors as the protocol has them."""
        try:
            return self._retrying.do(operation, _FAILURES, may_pass)
        except FileNotFoundError as error:
            if of_container(error, action) or action == "write":
                raise self._error(action, name, error) from None
            raise FileNotFoundError(2, "No such file", self._named(name)) from None
        except _FAILURES as error:
            raise self._error(action, name, error) from None  # its text is the library's, with all that was sent

    def _error(self, action: str, name: str, error: Exception) -> StorageError:
        said, advice = explained(self._scheme, action, error, self._settings.secrets)
        return StorageError(f"Cannot {action} {self._named(name)}: {said}. {advice}")

    def _named(self, name: str) -> str:
        return f"{self.location}/{name}"

    @cached_property
    def _sending(self) -> S3Store | GCSStore | AzureStore:
        """Parts of a large file cannot be asked for again, so what sends them has all the patience itself."""
        patience = self._patience
        return self._connected(retries=5 + patience.attempts, longest_pause_s=patience.longest_pause_s)

    def _connected(
        self, *, retries: int, longest_pause_s: float, size_bytes: int = 0
    ) -> S3Store | GCSStore | AzureStore:
        """Connect with so much patience, also for the body of one large file."""
        limit_s = self._patience.limit_s(size_bytes)
        client: dict[str, Any] = {
            "timeout": timedelta(seconds=limit_s),
            "connect_timeout": timedelta(seconds=self._patience.connect_timeout_s),
            "allow_http": self._settings.allow_http,
        }
        if self._authorities is not None:
            client["root_certificate"] = self._authorities
        first_pause_s = min(0.1, longest_pause_s / 2)
        pauses = {"init_backoff": timedelta(seconds=first_pause_s), "max_backoff": timedelta(seconds=longest_pause_s)}
        retry: Any = {"max_retries": retries, "backoff": {**pauses, "base": 2}}
        shared: dict[str, Any] = {"prefix": self._prefix or None, "client_options": client, "retry_config": retry}
        shared["config"] = dict(self._settings.config)
        kind: Any = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[self._scheme]
        try:
            store: S3Store | GCSStore | AzureStore = kind(self._bucket, **shared)
        except (exceptions.BaseError, ValueError) as error:
            raise self._error("use", "", error) from None
        return store


def _parsed(url: str) -> tuple[str, str, str]:
    """Split a URL into scheme, bucket and prefix."""
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InputError(
            f"Cannot open a store at {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}: expected a bucket "
            "and a prefix, found more. Credentials come from the environment, never from the address."
        )
    if not parts.netloc:
        raise InputError(f"Cannot open a store at {url}: expected {parts.scheme}://BUCKET/PREFIX, found no bucket.")
    prefix = "/".join(part for part in unquote(parts.path).split("/") if part)
    return parts.scheme, parts.netloc, prefix


def _blocks(parts: Iterable[Buffer]) -> Iterator[bytes]:
    """Yield the bytes of some parts in blocks of one size, the last one shorter."""
    block = bytearray()
    for part in parts:
        view = memory(part)
        while len(view):
            taken = _PART_BYTES - len(block)
            block += view[:taken]
            view = view[taken:]
            if len(block) == _PART_BYTES:
                yield bytes(block)
                block.clear()
    if block:
        yield bytes(block)


def _entry(meta: Any) -> Entry:
    return Entry(meta["path"], meta["size"], _whole_seconds_ns(meta["last_modified"]))


def _whole_seconds_ns(moment: datetime) -> int:
    """Some answers say fractions of a second of the same time and some do not."""
    return int(moment.timestamp()) * 1_000_000_000


def _pieces(found: Any, size_bytes: int) -> Iterator[bytes]:
    """Yield a body as it comes, at most a piece more of it than `size_bytes`."""
    received = 0
    for piece in found.stream(min_chunk_size=min(_PIECE_BYTES, size_bytes)):
        yield piece
        received += len(piece)
        if received > size_bytes:
            return


def _exactly(found: Any, length: int) -> Content:
    """Return the body of an answer: (length,) uint8, not copied where it comes in one piece."""
    pieces = [np.frombuffer(piece, np.uint8) for piece in _pieces(found, length)]
    received = sum(map(len, pieces))
    if received != length:
        raise IncompleteError(f"expected {length} bytes, found {received}{' and more' * (received > length)}")
    return pieces[0] if len(pieces) == 1 else np.concatenate([np.zeros(0, np.uint8), *pieces])


def _folders(name: str) -> Iterator[str]:
    """Yield the folders in which a file lies."""
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _is_true(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes", "on", "y", "t")
