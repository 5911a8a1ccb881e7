"""Asking a web server for files and ranges of them, until an answer is whole."""

from __future__ import annotations

import netrc
import os
import re
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import quote, urlsplit

import numpy as np
import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError
from urllib3.util import make_headers

from embedstore.errors import CorruptStoreError, InputError, StorageError
from embedstore.store.local import MappedBlob
from embedstore.store.ranges import REQUESTS_AT_ONCE, Content
from embedstore.store.redaction import redacted, redacted_url
from embedstore.store.retrying import IncompleteError, Patience, Retrying

T = TypeVar("T")

_PIECE_BYTES = 1 << 20
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_GONE = frozenset({404, 410})
_FAILURES = (HTTPError, IncompleteError, OSError)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_MOST_RETRY_AFTER_S = 60.0
_NO_NAME = "/nonexistent"

Answer = urllib3.BaseHTTPResponse


class WebClient:
    """Gets files below one URL.

    Errors: FileNotFoundError for what is not there, StorageError when the server does not answer as it should,
    CorruptStoreError for a file of another size than expected.

    Parameters
    ----------
    url : of a folder.

    Raises
    ------
    InputError : the URL holds credentials, or a query.
    """

    def __init__(self, url: str, patience: Patience) -> None:
        parts = urlsplit(url)
        self.location = redacted_url(url).rstrip("/")
        if "@" in parts.netloc or parts.query or parts.fragment or not parts.hostname:
            raise InputError(
                f"Cannot open a store at {self.location}: expected a host and a path, found another address. "
                "Names and passwords come from ~/.netrc, never from the address."
            )
        self._retrying = Retrying(patience)
        self._pool = _pool(parts.scheme, parts.hostname, patience)
        self._headers = {"Accept-Encoding": "identity", **_credentials(parts.hostname)}

    def whole(self, name: str, size_bytes: int) -> Content:
        """Return the content of a file: (size,) uint8."""

        def fetch(answer: Answer) -> Content:
            content = _body(answer)
            _refuse_size(name, size_bytes, len(content))
            return content

        return self._ask(name, {}, fetch)

    def unless_same(self, name: str, tag: str | None) -> tuple[Content, str | None] | None:
        """Return a file past all caches, with its tag; None where the tag is still that one."""
        tags = {} if tag is None else {"If-None-Match": tag}

        def fetch(answer: Answer) -> tuple[Content, str | None] | None:
            return None if tag and answer.status == 304 else (_body(answer), answer.headers.get("ETag"))

        return self._ask(name, {"Cache-Control": "no-cache", **tags}, fetch)

    def is_there(self, name: str) -> bool:
        """Tell whether the server has a file."""
        try:
            self._ask(name, {}, lambda answer: None)
        except FileNotFoundError:
            return False
        return True

    def range(self, name: str, start: int, length: int) -> Content:
        """Return some bytes of a file: (length,) uint8."""

        def fetch(answer: Answer) -> Content:
            if answer.status != 206:
                raise StorageError(
                    f"Cannot read {self._named(name)}: expected a range (206), found all of it ({answer.status}), "
                    "though ranges were answered before. Try again."
                )
            found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if found is None or (int(found[1]), int(found[2])) != (start, start + length - 1):
                raise IncompleteError(f"expected bytes from {start}, found {answer.headers.get('Content-Range')}")
            content = _body(answer)
            if len(content) != length:
                raise IncompleteError(f"expected {length} bytes, found {len(content)}")
            return content

        return self._ask(name, {"Range": f"bytes={start}-{start + length - 1}"}, fetch)

    def mapped_unless_ranges(self, name: str, size_bytes: int) -> MappedBlob | None:
        """Ask for the first byte. A server that knows no ranges sends all of the file, which is then mapped."""

        def fetch(answer: Answer) -> MappedBlob | None:
            if answer.status == 206:
                found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
                _refuse_size(name, size_bytes, int(found[3]) if found else 0)
                return None
            with tempfile.TemporaryFile(prefix="embedstore-") as file:
                received = _copy(answer, file)
                _refuse_size(name, size_bytes, received)
                # Without a name nobody can truncate it, which is what the path is asked for.
                return MappedBlob(name, Path(_NO_NAME), file.fileno(), size_bytes)

        return self._ask(name, {"Range": "bytes=0-0"}, fetch)

    def _ask(self, name: str, headers: Mapping[str, str], take: Callable[[Answer], T]) -> T:
        def ask() -> T:
            with self._answer(name, headers) as answer:
                if answer.status in _GONE:
                    raise FileNotFoundError(2, "No such file", self._named(name))
                if answer.status in _BUSY:
                    raise IncompleteError(f"status {answer.status}")
                if answer.status not in (200, 206, 304):
                    raise self._refused(name, answer.status)
                return take(answer)

        try:
            return self._retrying.do(ask, _FAILURES)
        except FileNotFoundError:
            raise
        except _FAILURES as error:
            cause = error.reason if isinstance(error, MaxRetryError) and error.reason else error
            reason = redacted(str(cause)).partition("\n")[0][:300]
            raise StorageError(
                f"Cannot read {self._named(name)}: {reason}. Try again; if it stays, check the network and the address."
            ) from None

    @contextmanager
    def _answer(self, name: str, headers: Mapping[str, str]) -> Iterator[Answer]:
        answer = self._pool.request(
            "GET",
            f"{self.location}/{quote(name)}",
            headers={**self._headers, **headers},
            preload_content=False,
            decode_content=False,
        )
        try:
            yield answer
        except BaseException:
            answer.close()  # what is left unread must not be taken for the next answer
            raise
        answer.drain_conn()
        answer.release_conn()

    def _refused(self, name: str, status: int) -> StorageError:
        advice = (
            "Check ~/.netrc, and what the server lets you see."
            if status in (401, 403, 407)
            else "Check the address, and that it is the folder of a store."
        )
        return StorageError(f"Cannot read {self._named(name)}: the server answered {status}. {advice}")

    def _named(self, name: str) -> str:
        return f"{self.location}/{name}"


class _CappedRetry(urllib3.Retry):
    """Minds what the server says of when to come back, within reason."""

    def get_retry_after(self, response: Answer) -> float | None:
        asked = super().get_retry_after(response)
        return None if asked is None else min(asked, _MOST_RETRY_AFTER_S)


def _pool(scheme: str, host: str, patience: Patience) -> urllib3.PoolManager:
    settings: dict[str, Any] = {
        "maxsize": REQUESTS_AT_ONCE,
        "timeout": urllib3.Timeout(connect=patience.connect_timeout_s, read=patience.timeout_s),
        "retries": _CappedRetry(
            total=3,
            connect=1,
            backoff_factor=patience.first_pause_s / 2,
            backoff_jitter=patience.first_pause_s / 2,
            status_forcelist=_BUSY,
            raise_on_status=False,
        ),
    }
    proxy = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(scheme)
    if proxy is None:
        return urllib3.PoolManager(**settings)
    user = urlsplit(proxy)
    login = f"{user.username}:{user.password or ''}" if user.username else None
    return urllib3.ProxyManager(redacted_url(proxy), proxy_headers=make_headers(proxy_basic_auth=login), **settings)


def _credentials(host: str) -> dict[str, str]:
    """The header that carries what `~/.netrc` says of a host."""
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        found = netrc.netrc(path).authenticators(host)
    except FileNotFoundError:
        return {}
    except (netrc.NetrcParseError, OSError):
        # Its text may hold a secret, so the reason is not passed on.
        raise StorageError(f"Cannot read {path}. Mend the file: it must be yours, and readable by you alone.") from None
    return {} if found is None else make_headers(basic_auth=f"{found[0]}:{found[2]}")


def _body(answer: Answer) -> Content:
    return np.frombuffer(answer.read(), np.uint8)


def _copy(answer: Answer, file: IO[bytes]) -> int:
    received = 0
    for piece in answer.stream(_PIECE_BYTES):
        received += file.write(piece)
    file.flush()
    return received


def _refuse_size(name: str, expected: int, found: int) -> None:
    if found != expected:
        raise CorruptStoreError(name, f"expected {expected} bytes, found {found}")
