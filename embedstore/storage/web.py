"""A store that a web server shows, for reading: `https://…` or `http://…`, any server that serves the folder.

A web server cannot list, so `index.json` says what there is (see `web_index`). A cache on the way may answer with an
old one. What then does not fit is noticed: an index older than one seen before, a file that is gone or has another
size. Rows are checked as everywhere.

Servers that know ranges are asked for ranges. Others answer with the whole file, which is then kept for as long as it
is open, in a temporary file without a name, and mapped; so is a file of which a range is refused later.

Nothing that a server says is believed. A body is counted, and no more of it is read than was asked for; with its
headers it must come as fast as `Patience.limit_s` says. A redirect is followed on the same server only, so that neither
another host nor an unencrypted line answers in its place, or sees credentials.
"""

from __future__ import annotations

import http.client
import io
import netrc
import os
import re
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import numpy as np
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NameResolutionError, ProxyError, ReadTimeoutError, SSLError
from urllib3.util import create_urllib3_context, make_headers

from embedstore.errors import CorruptStoreError, InputError, StorageError, StoreNotFoundError
from embedstore.home import expanded
from embedstore.storage.clouds import ADVICE, added_authorities
from embedstore.storage.listing import INDEX_BYTES, INDEX_NAME, ROOT_NAME, WebIndex
from embedstore.storage.local import MappedBlob
from embedstore.storage.protocol import DOCUMENT_BYTES, Blob, Buffer, Entry
from embedstore.storage.ranges import (
    KEPT_FILE_BYTES,
    REQUESTS_AT_ONCE,
    Content,
    NoRangesError,
    RangedBlob,
    RangeReader,
    mapped,
)
from embedstore.storage.retrying import IncompleteError, Patience, Retrying, redacted, redacted_url

T = TypeVar("T")

_PIECE_BYTES = 16 << 20
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_GONE = frozenset({404, 410})
_MOVED = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_FAILURES = (HTTPError, IncompleteError, OSError)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_MOST_RETRY_AFTER_S = 60.0
_RETRY = urllib3.Retry()
_DEFAULT_PORTS = {"http": 80, "https": 443}

Answer = urllib3.BaseHTTPResponse


class WebClient:
    """Gets files below one URL.

    Errors: FileNotFoundError for what is not there, StorageError when the server does not answer as it should,
    CorruptStoreError for a file of another size than expected.

    Parameters
    ----------
    url : of a folder.
    from_netrc : send the name and password that `~/.netrc` has for the host.

    Raises
    ------
    InputError : the URL holds credentials, or a query.
    """

    def __init__(self, url: str, patience: Patience, *, from_netrc: bool = True) -> None:
        parts = urlsplit(url)
        self.location = redacted_url(url).rstrip("/")
        if "@" in parts.netloc or parts.query or parts.fragment or not parts.hostname:
            raise InputError(
                f"Cannot open a store at {self.location}: expected a host and a path, found another address. "
                "Names and passwords come from ~/.netrc, never from the address."
            )
        self._patience = patience
        self._retrying = Retrying(patience)
        self._pool = _pool(parts.scheme, parts.hostname, patience)
        self._headers = {"Accept-Encoding": "identity", **(_credentials(parts.hostname) if from_netrc else {})}

    def whole(self, name: str, size_bytes: int) -> Content:
        """Return the content of a file: (size,) uint8."""

        def fetch(answer: Answer) -> Content:
            content = _body(answer, size_bytes)
            _refuse_size(name, size_bytes, len(content))
            return content

        return self._ask(name, {}, fetch)

    def unless_same(self, name: str, tag: str | None) -> tuple[Content, str | None] | None:
        """Return a file as the server has it, not a cache, with its tag; None where the tag is still that one.

        Raises
        ------
        CorruptStoreError : it is longer than `INDEX_BYTES`.
        """
        tags = {} if tag is None else {"If-None-Match": tag}

        def fetch(answer: Answer) -> tuple[Content, str | None] | None:
            if tag and answer.status == 304:
                return None
            content = _body(answer, INDEX_BYTES)
            if len(content) > INDEX_BYTES:
                raise CorruptStoreError(name, f"expected at most {INDEX_BYTES} bytes, found more")
            return content, answer.headers.get("ETag")

        return self._ask(name, {"Cache-Control": "no-cache", **tags}, fetch)

    def answer(self, query: str, most_bytes: int) -> bytes:
        """Return what the folder answers to a query, at most so much of it.

        Raises
        ------
        StorageError : it is longer.
        """

        def fetch(answer: Answer) -> bytes:
            content = _body(answer, most_bytes).tobytes()
            if len(content) > most_bytes:
                raise StorageError(f"Cannot read {self.location}: expected at most {most_bytes} bytes, found more.")
            return content

        return self._ask("", {}, fetch, query)

    def is_there(self, name: str) -> bool:
        """Tell whether the server has a file."""
        try:
            self._ask(name, {}, lambda answer: None)
        except FileNotFoundError:
            return False
        return True

    def range(self, name: str, start: int, length: int) -> Content:
        """Return some bytes of a file: (length,) uint8; NoRangesError when the server sends all of it."""

        def fetch(answer: Answer) -> Content:
            if answer.status != 206:
                raise NoRangesError
            found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if found is None or (int(found[1]), int(found[2])) != (start, start + length - 1):
                raise IncompleteError(f"expected bytes from {start}, found {answer.headers.get('Content-Range')}")
            content = _body(answer, length)
            if len(content) != length:
                raise IncompleteError(f"expected {length} bytes, found more")
            return content

        return self._ask(name, {"Range": f"bytes={start}-{start + length - 1}"}, fetch)

    def mapped_unless_ranges(self, name: str, size_bytes: int) -> MappedBlob | None:
        """Ask for the first byte. A server that knows no ranges sends all of the file, which is then mapped."""

        def fetch(answer: Answer) -> MappedBlob | None:
            if answer.status != 206:
                return mapped(name, size_bytes, _pieces(answer, size_bytes))
            found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            _refuse_size(name, size_bytes, int(found[3]) if found else 0)
            _body(answer, 1)  # so that the connection can be used again
            return None

        return self._ask(name, {"Range": "bytes=0-0"}, fetch)

    def mapped(self, name: str, size_bytes: int) -> MappedBlob:
        """Fetch a file whole into a temporary file without a name, and map it."""
        return self._ask(name, {}, lambda answer: mapped(name, size_bytes, _pieces(answer, size_bytes)))

    def _ask(self, name: str, headers: Mapping[str, str], take: Callable[[Answer], T], query: str = "") -> T:
        def ask() -> T:
            _PROGRESS.begun_s, _PROGRESS.patience, _PROGRESS.received = time.monotonic(), self._patience, 0
            with self._answer(name, headers, query) as answer:
                if answer.status in _GONE:
                    raise FileNotFoundError(2, "No such file", self._named(name))
                if answer.status in _BUSY:
                    raise IncompleteError(f"the server answered {answer.status}", _retry_after_s(answer))
                if answer.status not in (200, 206, 304):
                    raise self._refused(name, answer.status)
                if answer.headers.get("Content-Encoding", "identity") != "identity":
                    raise self._compressed(name)
                return take(answer)

        try:
            return self._retrying.do(ask, _FAILURES, _passes)
        except FileNotFoundError:
            raise
        except _FAILURES as error:
            reason, advice = self._explained(error)
            raise StorageError(f"Cannot read {self._named(name)}: {reason}. {advice}") from None

    @contextmanager
    def _answer(self, name: str, headers: Mapping[str, str], query: str) -> Iterator[Answer]:
        """Send a request, and follow redirects on the same server. A connection is kept if all was read from it."""
        url = f"{self.location}/{quote(name)}" + f"?{query}" * bool(query)
        for _ in range(_MOST_REDIRECTS + 1):
            answer = self._pool.request(
                "GET",
                url,
                headers={**self._headers, **headers},
                preload_content=False,
                decode_content=False,
                redirect=False,
                retries=False,
            )
            try:
                if answer.status not in _MOVED or not answer.headers.get("Location"):
                    yield answer
                    return
                url = self._moved(name, url, answer.headers["Location"])
            finally:
                if answer.length_remaining == 0:
                    answer.drain_conn()
                    answer.release_conn()
                else:  # what is left unread must not be taken for the next answer
                    answer.close()
        raise StorageError(
            f"Cannot read {self._named(name)}: the server redirects it more than {_MOST_REDIRECTS} times. "
            "Check the address."
        )

    def _moved(self, name: str, before: str, location: str) -> str:
        try:
            after = urljoin(before, location)
            same = _server(urlsplit(before)) == _server(urlsplit(after))
        except ValueError:
            raise StorageError(
                f"Cannot read {self._named(name)}: the server redirects it to an invalid address. Check the address."
            ) from None
        if not same:
            raise StorageError(
                f"Cannot read {self._named(name)}: the server redirects it to another one, from "
                f"{redacted_url(before)} to {redacted_url(after)}. Open the store there, if you trust it."
            )
        return after

    def _explained(self, error: Exception) -> tuple[str, str]:
        """What went wrong, and what to do."""
        advice = "Try again; if it stays, check the network and the address."
        host = urlsplit(self.location).hostname
        if isinstance(error, SSLError):
            certificate = _certificate_reason(error)
            if certificate is not None:
                return f"the certificate of {host} is not trusted ({certificate})", ADVICE
            return f"{host} does not speak TLS as expected ({_first_line(error)})", "Check the address: https or http?"
        if isinstance(error, ProxyError):
            return f"the proxy does not answer ({_first_line(error.original_error)})", (
                "Check HTTPS_PROXY and HTTP_PROXY; NO_PROXY lists hosts that are reached without."
            )
        if isinstance(error, NameResolutionError):
            return f"no address is known for the name {host} (DNS)", "Check the address and the network."
        if isinstance(error, ReadTimeoutError):
            return f"time-out, after {_PROGRESS.received} bytes of an answer", advice
        return _first_line(error), advice

    def _refused(self, name: str, status: int) -> StorageError:
        advice = (
            "Check ~/.netrc, and what the server lets you see."
            if status in (401, 403, 407)
            else "Check the address, and that it is the folder of a store."
        )
        return StorageError(f"Cannot read {self._named(name)}: the server answered {status}. {advice}")

    def _compressed(self, name: str) -> StorageError:
        return StorageError(
            f"Cannot read {self._named(name)}: expected it as it lies there, found it compressed, which was not asked "
            "for. Switch that off for the folder."
        )

    def _named(self, name: str) -> str:
        return f"{self.location}/{name}"


class _Progress(threading.local):
    """Of the answer that this thread waits for: since when, with which patience, and how much has come of it."""

    begun_s = 0.0
    patience: Patience | None = None
    received = 0


_PROGRESS = _Progress()


class _TimedReading(socket.SocketIO):
    """Reads from a connection as long as it is fast enough; sockets by themselves only time each byte."""

    def readinto(self, buffer: Any) -> int | None:
        patience, received = _PROGRESS.patience, _PROGRESS.received
        if patience is not None and time.monotonic() - _PROGRESS.begun_s > patience.limit_s(received):
            raise TimeoutError
        more = super().readinto(buffer)
        _PROGRESS.received += more or 0
        return more


class _TimedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_TimedReading(sock, "r"))
        sock._io_refs += 1  # type: ignore[attr-defined]  # as `makefile` counts; the last one to go closes the socket


class _TimedConnection(HTTPConnection):
    response_class = _TimedResponse


class _TimedSecureConnection(HTTPSConnection):
    response_class = _TimedResponse


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _TimedConnection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TimedSecureConnection


def _pool(scheme: str, host: str, patience: Patience) -> urllib3.PoolManager:
    settings: dict[str, Any] = {
        "maxsize": REQUESTS_AT_ONCE,
        "timeout": urllib3.Timeout(connect=patience.connect_timeout_s, read=patience.timeout_s),
    }
    if scheme == "https":
        context = create_urllib3_context()
        context.load_default_certs()  # SSL_CERT_FILE and SSL_CERT_DIR
        added = added_authorities()
        if added is not None:
            context.load_verify_locations(cadata=added)
        settings["ssl_context"] = context
    proxy = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(scheme)
    if proxy is None:
        pool = urllib3.PoolManager(**settings)
    else:
        user = urlsplit(proxy)
        login = f"{user.username}:{user.password or ''}" if user.username else None
        headers = make_headers(proxy_basic_auth=login)
        pool = urllib3.ProxyManager(redacted_url(proxy), proxy_headers=headers, **settings)
    pool.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    return pool


def _credentials(host: str) -> dict[str, str]:
    """The header that carries what `~/.netrc` says of a host."""
    path = expanded(os.environ.get("NETRC") or "~/.netrc")
    try:
        found = netrc.netrc(path).authenticators(host)
    except FileNotFoundError:
        return {}
    except (netrc.NetrcParseError, OSError):
        # Its text may hold a secret, so the reason is not passed on.
        raise StorageError(f"Cannot read {path}. Fix the file: it must be yours, and readable by you alone.") from None
    return {} if found is None else make_headers(basic_auth=f"{found[0]}:{found[2]}")


def _server(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)


def _retry_after_s(answer: Answer) -> float:
    """When to come back, as a busy server says, within reason."""
    try:
        asked_s = _RETRY.get_retry_after(answer)  # seconds, or a date
    except (HTTPError, ValueError, OverflowError):
        return 0.0
    return min(asked_s or 0.0, _MOST_RETRY_AFTER_S)


def _passes(error: Exception) -> bool:
    """Tell whether a failure may be gone next time."""
    return not isinstance(error, FileNotFoundError) and _certificate_reason(error) is None


def _certificate_reason(error: BaseException) -> str | None:
    """What is wrong with a server's certificate, if that is what failed."""
    causes = [error, error.__cause__, error.__context__, *error.args]
    refused = next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None)
    return None if refused is None else refused.verify_message


def _first_line(error: BaseException) -> str:
    return redacted(str(error)).partition("\n")[0][:300]


def _body(answer: Answer, size_bytes: int) -> Content:
    """Return a body as uint8, at most one byte more of it than `size_bytes`."""
    pieces = list(_pieces(answer, size_bytes))
    return np.frombuffer(pieces[0] if len(pieces) == 1 else b"".join(pieces), np.uint8)


def _pieces(answer: Answer, size_bytes: int) -> Iterator[bytes]:
    """Yield a body as it comes, at most one byte more of it than `size_bytes`."""
    left = size_bytes + 1
    while left and (piece := answer.read(min(_PIECE_BYTES, left))):
        left -= len(piece)
        yield piece
    if left and answer.length_remaining:
        raise IncompleteError(f"expected {answer.length_remaining} bytes more than came")


def _refuse_size(name: str, expected: int, found: int) -> None:
    if found != expected:
        raise CorruptStoreError(name, f"expected {expected} bytes, found {found}")


class WebStorage:
    """Files below a URL; all that would change them is refused.

    Parameters
    ----------
    url : of the folder in which `embedstore.json` and `index.json` lie.
    patience : how long the server is waited for.
    fresh_s : how old an index may be to be asked once more; look-ups come in bursts.

    Raises
    ------
    InputError : the URL holds credentials, or a query.
    """

    requests_at_once = REQUESTS_AT_ONCE

    def __init__(self, url: str, *, patience: Patience | None = None, fresh_s: float = 1.0) -> None:
        self._client = WebClient(url, patience or Patience())
        self.location = self._client.location
        self._reader = RangeReader(self._range, self._whole, self._mapped)
        self._fresh_s = fresh_s
        self._lock = threading.Lock()
        self._index: WebIndex | None = None
        self._tag: str | None = None
        self._looked_s = 0.0

    def read(self, name: str, limit_bytes: int = DOCUMENT_BYTES) -> bytes:
        size_bytes = self.entry(name).size_bytes
        if size_bytes > limit_bytes:
            raise CorruptStoreError(name, f"expected at most {limit_bytes} bytes, found {size_bytes}")
        carried = self._current().documents.get(name)
        return self._whole(name, size_bytes).tobytes() if carried is None else carried

    def write(self, name: str, parts: Iterable[Buffer]) -> Entry:
        raise self._read_only("write", name)

    def replace(self, name: str, parts: Iterable[Buffer]) -> Entry:
        raise self._read_only("write", name)

    def delete(self, name: str) -> None:
        raise self._read_only("delete", name)

    def list(self, folder: str) -> list[Entry]:
        found = set()
        for name, entry in self._look().files.items():
            if name.startswith(folder):
                below, slash, _ = name[len(folder) :].partition("/")
                found.add(Entry(f"{folder}{below}/", 0, 0) if slash else entry)
        return sorted(found)

    def walk(self, folder: str) -> Iterator[Entry]:
        for name, entry in self._look().files.items():
            if name.startswith(folder):
                yield entry

    def entry(self, name: str) -> Entry:
        found = self._current().files.get(name)
        if found is None:
            raise FileNotFoundError(2, "No such file", f"{self.location}/{name}")
        return found

    def open(self, name: str, size_bytes: int, *, mapped: bool = True) -> Blob:
        listed = self.entry(name).size_bytes
        if listed != size_bytes:
            raise CorruptStoreError(name, f"expected {size_bytes} bytes, found {listed}")
        if size_bytes <= KEPT_FILE_BYTES:
            self._reader.whole(name, size_bytes)
            return RangedBlob(self._reader, name, size_bytes)
        received = self._listed(name, lambda: self._client.mapped_unless_ranges(name, size_bytes))
        return received or RangedBlob(self._reader, name, size_bytes)

    def answers_ranges(self, name: str, size_bytes: int) -> bool:
        """Ask for the last byte of a file, and tell whether that came rather than the whole file."""
        try:
            return len(self._range(name, size_bytes - 1, 1)) == 1
        except NoRangesError:
            return False

    def _whole(self, name: str, size_bytes: int) -> Content:
        return self._listed(name, lambda: self._client.whole(name, size_bytes))

    def _mapped(self, name: str, size_bytes: int) -> Blob:
        return self._listed(name, lambda: self._client.mapped(name, size_bytes))

    def _range(self, name: str, start: int, length: int) -> Content:
        return self._listed(name, lambda: self._client.range(name, start, length))

    def _listed(self, name: str, ask: Callable[[], T]) -> T:
        """Ask for a file that the index names; one that is gone must be gone from the index too."""
        try:
            return ask()
        except FileNotFoundError:
            index = self._look(at_once=True)
            if name not in index.files:  # merged away and collected since we looked
                raise
        raise CorruptStoreError(
            name,
            f"it is gone, and {INDEX_NAME} of {_moment(index)} names it: write the index again with `publish-index`",
        )

    def _current(self) -> WebIndex:
        return self._index or self._look()

    def _look(self, *, at_once: bool = False) -> WebIndex:
        """Return the index as it is now, or was a moment ago."""
        with self._lock:
            if self._index is None or at_once or time.monotonic() - self._looked_s >= self._fresh_s:
                self._index = self._fetched()
                self._looked_s = time.monotonic()
            return self._index

    def _fetched(self) -> WebIndex:
        before = self._index
        try:
            found = self._client.unless_same(INDEX_NAME, self._tag if before else None)
        except FileNotFoundError:
            raise self._without_index() from None
        if found is None:
            assert before is not None  # noqa: S101 - only then a tag was sent
            return before
        index = WebIndex.from_bytes(found[0].tobytes())
        if before is not None and index.created_ns < before.created_ns:
            raise StorageError(
                f"Cannot read {self.location}/{INDEX_NAME}: expected that of {_moment(before)} or a later one, found "
                f"that of {_moment(index)}. A cache on the way is stale: exclude from it {INDEX_NAME}, and try again."
            )
        self._tag = found[1]
        return index

    def _without_index(self) -> StorageError | StoreNotFoundError:
        if not self._client.is_there(ROOT_NAME):
            return StoreNotFoundError(
                f"No store at {self.location}: neither {INDEX_NAME} nor {ROOT_NAME} is there. Check the address."
            )
        return StorageError(
            f"Cannot read the store at {self.location}: {INDEX_NAME} is not there, and a web server cannot list. "
            "Write it with `embedstore publish-index --store FOLDER`, where the store lies."
        )

    def _read_only(self, action: str, name: str) -> StorageError:
        return StorageError(
            f"Cannot {action} {self.location}/{name}: a web server is read-only. "
            "Fill a store in a folder or an object store, and read this one."
        )


def _moment(index: WebIndex) -> str:
    return datetime.fromtimestamp(index.created_ns / 1e9, UTC).isoformat(timespec="seconds")
