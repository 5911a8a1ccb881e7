"""Servers for tests: S3 (moto in a process of its own), a web server, a proxy that injects faults, one that answers
as a test says, and an authority that signs certificates.

The fixtures at the end come to every test through `tests/conftest.py`. Run as a program, this file is the S3 server.
"""

from __future__ import annotations

import contextlib
import datetime
import http.client
import http.server
import ipaddress
import itertools
import random
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

STORE_TESTS = Path(__file__).resolve().parent
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
_NUMBERS = itertools.count()


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running S3 server; `url` is its endpoint."""

    url: str

    def make_bucket(self, name: str) -> str:
        """Make an empty bucket; returns its name."""
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        connection.request("PUT", f"/{name}")
        answer = connection.getresponse()
        answer.read()
        connection.close()
        assert answer.status == 200
        return name


class Fault(Enum):
    """What the proxy does to a request."""

    ERROR_500 = "500"
    ERROR_503 = "503"
    THROTTLED = "429"
    STALLED = "no answer, then a closed connection"
    RESET = "closed before it was forwarded"
    LOST_RESPONSE = "forwarded and done, but the answer is lost"
    TRUNCATED_BODY = "half of the answer's body"


ALL_FAULTS: Mapping[Fault, float] = dict.fromkeys(Fault, 0.04)
"""Of a hundred requests, 28 suffer."""


class FaultProxy:
    """A proxy in front of an HTTP server that injects faults by a seeded schedule.

    Parameters
    ----------
    target : URL of the server.
    faults : how often each occurs, of all requests; may be changed while it runs.
    refuses : a status with which all requests are answered, None: they are not.
    retry_after_s : when to come back, as said with 429 and 503.
    stall_s : how long a stalled request waits before its connection is closed.
    ranges : whether the server behind it hears of ranges; else it sends whole files.

    Attributes
    ----------
    url : its own address.
    requests : how many came in.
    injected : how often each fault was injected.
    """

    def __init__(self, target: str, faults: Mapping[Fault, float], *, seed: int = 0, stall_s: float = 0.5) -> None:
        self.faults = dict(faults)
        self.injected: Counter[Fault] = Counter()
        self.requests = 0
        self.refuses: int | None = None
        self.retry_after_s: int | None = None
        self.stall_s = stall_s
        self.ranges = True
        self._next: list[Fault | None] = []
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        address = urlsplit(target)
        self.target = (address.hostname or "", address.port or 80)
        self._server = _QuietServer(("127.0.0.1", 0), _ProxyHandler)
        self._server.proxy = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultProxy:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def once(self, *faults: Fault) -> None:
        """Inject these faults into the next requests, one each, whatever the schedule says."""
        self.after(0, *faults)

    def after(self, requests: int, *faults: Fault) -> None:
        """Inject these faults, one each, after some requests that are let through."""
        with self._lock:
            self._next = [None] * requests + list(faults)

    def draw(self) -> Fault | None:
        """Decide on the next request."""
        with self._lock:
            self.requests += 1
            if self._next:
                fault = self._next.pop(0)
                self.injected.update([fault] if fault else [])
                return fault
            place = self._random.random()
            for fault, share in self.faults.items():
                place -= share
                if place < 0:
                    self.injected[fault] += 1
                    return fault
            return None


class _QuietServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    proxy: FaultProxy

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that give up are what this server is for."""


class _ProxyHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    server: _QuietServer

    def _handle(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if proxy.refuses is not None:
            secret = self.headers.get("Authorization", "")
            self._answer(proxy.refuses, "Refused", {}, f"<Error><Code>Refused</Code>{secret}</Error>".encode())
            return
        fault = proxy.draw()
        if fault in (Fault.ERROR_500, Fault.ERROR_503, Fault.THROTTLED):
            later = {} if proxy.retry_after_s is None else {"Retry-After": str(proxy.retry_after_s)}
            self._answer(int(fault.value), "Injected", later, b"<Error><Code>Injected</Code></Error>")
            return
        if fault is Fault.STALLED:
            time.sleep(proxy.stall_s)
        if fault in (Fault.STALLED, Fault.RESET):
            self._hang_up()
            return
        status, reason, headers, content = self._forward(proxy.target, body)
        if fault is Fault.LOST_RESPONSE:
            self._hang_up()
        elif fault is Fault.TRUNCATED_BODY:
            self._answer(status, reason, headers, content, sent=len(content) // 2)
            self._hang_up()
        else:
            self._answer(status, reason, headers, content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815 - named by http.server

    def _forward(self, target: tuple[str, int], body: bytes) -> tuple[int, str, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(*target, timeout=60)
        try:
            headers = dict(self.headers.items())
            if not self.server.proxy.ranges:
                headers.pop("range", None)
                headers.pop("Range", None)
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            if length is not None:
                headers["Content-Length"] = length
            return answer.status, answer.reason, headers, content
        finally:
            connection.close()

    def _answer(
        self, status: int, reason: str, headers: Mapping[str, str], content: bytes, sent: int | None = None
    ) -> None:
        self.send_response_only(status, reason)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:sent])

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


class AnsweringServer:
    """A server that answers each request as a function says.

    Attributes
    ----------
    url : its address.
    heard : (path, headers) of each request.
    sent_bytes : of all bodies that went through `send`.
    """

    def __init__(self, answer: Callable[[Request], None], context: ssl.SSLContext | None = None) -> None:
        self.heard: list[tuple[str, dict[str, str]]] = []
        self.sent_bytes = 0
        self.answer = answer
        self._server = _AnsweringHTTPServer(("127.0.0.1", 0), Request)
        self._server.answering = self
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> AnsweringServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _AnsweringHTTPServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    answering: AnsweringServer

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what this server is for."""


class Request(http.server.BaseHTTPRequestHandler):
    """One request to an `AnsweringServer`."""

    protocol_version = "HTTP/1.1"
    server: _AnsweringHTTPServer

    def _handle(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.answering.heard.append((self.path, dict(self.headers.items())))
        self.server.answering.answer(self)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_CONNECT = _handle  # noqa: N815 - named by http.server

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Send status and headers."""
        self.send_response(status)
        for name, value in {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT", "ETag": '"x"', **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send a whole answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.begin(status, {"Content-Length": str(len(body)), **named})
        if self.command != "HEAD":
            self.write(body)

    def write(self, body: bytes) -> None:
        """Send some of a body; counted only if it got away."""
        self.wfile.write(body)
        self.server.answering.sent_bytes += len(body)

    def flood(self, status: int, size_bytes: int, **headers: str) -> None:
        """Send so many bytes, as long as anybody takes them."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.begin(status, {"Content-Length": str(size_bytes), **named})
        for _ in range(size_bytes >> 16):
            self.write(bytes(1 << 16))

    def trickle(self, status: int, size_bytes: int, **headers: str) -> None:
        """Send a byte every tenth of a second, as long as anybody takes them."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.begin(status, {"Content-Length": str(size_bytes), **named})
        for _ in range(size_bytes):
            self.write(b"x")
            self.wfile.flush()
            time.sleep(0.1)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def signed_by_own_authority(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Make an authority and a certificate of 127.0.0.1: (what a server needs, file of the authority's certificate)."""
    x509 = pytest.importorskip("cryptography.x509", reason="needs cryptography")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("An authority", "127.0.0.1")]

    def signed(number: int, *extensions: Any) -> bytes:
        builder = x509.CertificateBuilder(
            names[0], names[number], keys[number].public_key(), x509.random_serial_number()
        ).not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=2))
        builder = builder.add_extension(x509.BasicConstraints(number == 0, None), critical=True)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    (folder / "authority.pem").write_bytes(signed(0, x509.SubjectKeyIdentifier.from_public_key(keys[0].public_key())))
    key = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    alternatives = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key())
    (folder / "server.pem").write_bytes(signed(1, alternatives, issuer) + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context, folder / "authority.pem"


@contextlib.contextmanager
def running_web_server(folder: Path) -> Iterator[str]:
    """Serve a folder with `python -m http.server`, which knows no ranges; gives its URL."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(folder)]
    with _running(command) as first_line:
        found = re.search(r"port (\d+)", first_line)
        assert found, first_line
        yield f"http://127.0.0.1:{found[1]}"


@contextlib.contextmanager
def running_s3_server() -> Iterator[S3Server]:
    """Run an empty S3 server in its own process."""
    with _running([sys.executable, "-u", __file__]) as first_line:
        yield S3Server(first_line.strip())


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[str]:
    """Run a server and give the first line that it prints."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline()
        finally:
            process.kill()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One S3 server for all tests."""
    pytest.importorskip("moto", reason="needs moto's server")
    pytest.importorskip("obstore", reason="needs the extra `remote`")
    with running_s3_server() as server:
        yield server


@pytest.fixture
def s3_environment(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """Point the usual variables at the server."""
    for name, value in s3_variables(s3_server.url).items():
        monkeypatch.setenv(name, value)
    return s3_server


def s3_variables(url: str) -> dict[str, str]:
    """The variables of the environment that name an S3 server."""
    return {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE0TEST",
        "AWS_SECRET_ACCESS_KEY": "example-secret-of-the-tests",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
    }


@pytest.fixture
def bucket(s3_environment: S3Server) -> str:
    """An empty bucket on the server, as `s3://name`; the environment says how to reach it."""
    return f"s3://{s3_environment.make_bucket(f'bucket-{next(_NUMBERS)}')}"


@pytest.fixture
def faulty_bucket(
    bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, FaultProxy]]:
    """An empty bucket behind a proxy that injects all kinds of faults: (URL, proxy)."""
    with FaultProxy(s3_server.url, ALL_FAULTS, stall_s=0.2) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield bucket, proxy


def _serve_s3() -> None:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    print(f"http://{host}:{port}", flush=True)
    sys.stdin.read()  # until our parent is gone


if __name__ == "__main__":
    _serve_s3()
