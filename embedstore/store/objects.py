"""A store below a prefix of an object store: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`.

The layout is that of a folder. Nothing depends on conditional writes, which not every server has: names are random or
digests, so two writers of one name write the same bytes, and to look first is enough.

Credentials and addresses come from the environment, or from the usual files of the cloud's own tools. They stay there:
no message repeats them.

Failures that pass are met twice. The library below repeats a request that the server refused (500, 502, 503, 429) or
that got no answer, parts of a large file too. What it gives up or does not repeat (half an answer) is done again here,
all of which is harmless: reading changes nothing, writing a name again writes the same bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from functools import cached_property
from itertools import chain
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import numpy as np
import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store

from embedstore.errors import CorruptStoreError, InputError, StorageError
from embedstore.store.aws_files import endpoint_of, settings_of_files
from embedstore.store.ranges import KEPT_FILE_BYTES, REQUESTS_AT_ONCE, Content, RangedBlob, RangeReader
from embedstore.store.redaction import redacted
from embedstore.store.retrying import IncompleteError, Patience, Retrying
from embedstore.store.storage import DOCUMENT_BYTES, Blob, Buffer, Entry, memory

T = TypeVar("T")

SCHEMES = ("s3", "gs", "az")

_PART_BYTES = 8 << 20  # S3 takes 10 000 parts of a file, which makes 80 GB
_PARTS_AT_ONCE = 4
_LIST_CHUNK = 1000  # what one answer of S3 holds
_FAILURES = (exceptions.BaseError, IncompleteError, OSError)
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
# Where libraries look for credentials when nothing names any.
_METADATA_SERVICES = ("169.254.169.254", "169.254.170.2", "/latest/api/token", "metadata.google.internal")
_SOURCES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE and ~/.aws",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or what `gcloud auth application-default login` left",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or another AZURE_ variable",
}
_ADDRESSES = {"s3": "AWS_ENDPOINT_URL, AWS_REGION", "gs": "GOOGLE_BASE_URL", "az": "AZURE_STORAGE_ENDPOINT"}


class ObjectStorage:
    """Files below a prefix of a bucket.

    Parameters
    ----------
    url : `s3://bucket/prefix`; the prefix may be empty. `gs` and `az` likewise.
    patience : how long the server is waited for.

    Raises
    ------
    InputError : not such a URL, or one that holds credentials. StorageError : its settings cannot be used.
    """

    requests_at_once = REQUESTS_AT_ONCE

    def __init__(self, url: str, *, patience: Patience | None = None) -> None:
        self._scheme, self._bucket, self._prefix = _parsed(url)
        self._patience = patience or Patience()
        self._secrets: tuple[str, ...] = ()
        self.location = f"{self._scheme}://{self._bucket}/{self._prefix}".rstrip("/")
        # Five tries in some two seconds; what lasts longer is waited for above, where it is known what passes.
        self._store = self._connected(retries=5, longest_pause_s=min(3.0, self._patience.longest_pause_s))
        self._reader = RangeReader(self._range, self._whole)
        self._retrying = Retrying(self._patience)

    def read(self, name: str, limit_bytes: int = DOCUMENT_BYTES) -> bytes:
        return self._ask("read", name, lambda: self._content(name, limit_bytes=limit_bytes)).tobytes()

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

    def list(self, folder: str) -> list[Entry]:
        found = self._ask("list", folder, lambda: obstore.list_with_delimiter(self._store, folder or None))
        folders = [Entry(f"{name.rstrip('/')}/", 0, 0) for name in found["common_prefixes"]]
        files = [_entry(meta) for meta in found["objects"]]
        return sorted(entry for entry in folders + files if entry.name.strip("/") != folder.strip("/"))

    def walk(self, folder: str) -> Iterator[Entry]:
        def collect() -> list[Entry]:
            listed = obstore.list(self._store, folder or None, chunk_size=_LIST_CHUNK)
            return [_entry(meta) for chunk in listed for meta in chunk]

        yield from self._ask("list", folder, collect)

    def entry(self, name: str) -> Entry:
        return _entry(self._ask("look at", name, lambda: obstore.head(self._store, name)))

    def delete(self, name: str) -> None:
        def delete() -> None:
            try:
                obstore.delete(self._store, name)
            except FileNotFoundError as error:
                if _of_bucket(error):
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

    def _content(self, name: str, expected_bytes: int | None = None, limit_bytes: int | None = None) -> Content:
        found = obstore.get(self._store, name)
        size_bytes = found.meta["size"]
        if expected_bytes is not None and size_bytes != expected_bytes:
            raise CorruptStoreError(name, f"expected {expected_bytes} bytes, found {size_bytes}")
        if limit_bytes is not None and size_bytes > limit_bytes:
            raise CorruptStoreError(name, f"expected at most {limit_bytes} bytes, found {size_bytes}")
        return _exactly(found.bytes(), size_bytes)

    def _whole(self, name: str, size_bytes: int) -> Content:
        return self._ask("read", name, lambda: self._content(name, size_bytes))

    def _range(self, name: str, start: int, length: int) -> Content:
        def fetch() -> Content:
            return _exactly(obstore.get_range(self._store, name, start=start, length=length), length)

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

        def passes(error: Exception) -> bool:
            return not sent and _passes(error)

        try:
            self._ask("write", name, put, passes)
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
        passes: Callable[[Exception], bool] | None = None,
    ) -> T:
        """Do something on the server, with patience; errors as the protocol has them."""
        try:
            return self._retrying.do(operation, _FAILURES, passes or _passes)
        except FileNotFoundError as error:
            if _of_bucket(error) or action == "write":
                raise self._error(action, name, error) from None
            raise FileNotFoundError(2, "No such file", self._named(name)) from None
        except _FAILURES as error:
            raise self._error(action, name, error) from None  # its text is the library's, with all that was sent

    def _error(self, action: str, name: str, error: Exception) -> StorageError:
        text = str(error)
        secret_free = redacted(text.partition("\n\nDebug source")[0], self._secrets)
        reason = secret_free.partition("\n")[0].rpartition(" - ")[2][:300]
        if "kind: Connect" in text:
            reason = f"no connection to the server ({reason})"
        facts = [found[1].strip() for pattern in (_STATUS, _CODE) if (found := pattern.search(secret_free))]
        said = ", ".join(facts) or reason
        if said.startswith(("401", "403")):
            advice = f"Check the credentials and what they may do; they come from {_SOURCES[self._scheme]}."
        elif any(host in text for host in _METADATA_SERVICES):
            said, advice = "found no credentials", f"They come from {_SOURCES[self._scheme]}."
        elif _of_bucket(error):
            said, advice = "there is no such bucket", f"Make it, or check the address ({_ADDRESSES[self._scheme]})."
        else:
            advice = f"Try again; if it stays, check the network and the address ({_ADDRESSES[self._scheme]})."
        return StorageError(f"Cannot {action} {self._named(name)}: {said}. {advice}")

    def _named(self, name: str) -> str:
        return f"{self.location}/{name}"

    @cached_property
    def _sending(self) -> S3Store | GCSStore | AzureStore:
        """Parts of a large file cannot be asked for again, so what sends them has all the patience itself."""
        patience = self._patience
        return self._connected(retries=5 + patience.attempts, longest_pause_s=patience.longest_pause_s)

    def _connected(self, *, retries: int, longest_pause_s: float) -> S3Store | GCSStore | AzureStore:
        client: dict[str, Any] = {
            "timeout": timedelta(seconds=self._patience.timeout_s),
            "connect_timeout": timedelta(seconds=self._patience.connect_timeout_s),
        }
        pauses = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=longest_pause_s)}
        retry: Any = {"max_retries": retries, "backoff": {**pauses, "base": 2}}
        shared: dict[str, Any] = {"prefix": self._prefix or None, "client_options": client, "retry_config": retry}
        try:
            if self._scheme == "gs":
                return GCSStore(self._bucket, **shared)
            if self._scheme == "az":
                return AzureStore(self._bucket, **shared)
            settings = settings_of_files(os.environ)
            self._secrets = tuple(value for name, value in settings.items() if name not in ("region", "endpoint"))
            endpoint = endpoint_of(os.environ) or settings.get("endpoint", "")
            if endpoint.startswith("http://"):  # whoever writes so wants it
                client["allow_http"] = True
            shared["config"] = settings
            return S3Store(self._bucket, **shared)
        except (exceptions.BaseError, ValueError) as error:
            raise self._error("use", "", error) from None


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


def _exactly(found: Any, length: int) -> Content:
    content = np.frombuffer(found, np.uint8)
    if len(content) != length:
        raise IncompleteError(f"expected {length} bytes, found {len(content)}")
    return content


def _passes(error: Exception) -> bool:
    """Tell whether a failure may be gone next time."""
    text = str(error)
    status = _STATUS.search(text)
    refused = status is not None and status[1].startswith("4") and not status[1].startswith(_BUSY)
    lasting = refused or isinstance(error, (FileNotFoundError, *_LASTING))
    return not lasting and not any(host in text for host in _METADATA_SERVICES)


def _of_bucket(error: Exception) -> bool:
    """Tell whether it is the bucket that is not there."""
    return "<Code>NoSuchBucket</Code>" in str(error)
