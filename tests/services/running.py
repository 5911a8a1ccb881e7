"""Real servers, on free ports of the loopback, stopped again; a test is skipped where one is not installed."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import pytest

ROOT = Path(__file__).resolve().parents[2]
_FOUND_IN = os.pathsep.join([str(ROOT / "build/services/node_modules/.bin"), os.environ.get("PATH", ""), "/usr/sbin"])
_START_S = 30
_VERSION = "2018-11-09"  # of the signatures: older ones have fewer fields


def program(name: str) -> str:
    """Path of an installed server; the test is skipped without it."""
    found = shutil.which(name, path=_FOUND_IN)
    if found is None:
        pytest.skip(f"needs {name}: run `make test-services`, which installs it")
    return found


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def running(command: Sequence[str], port: int) -> Iterator[None]:
    """Run a server from when it takes connections."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            end_s = time.monotonic() + _START_S
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                assert process.poll() is None, process.stderr.read() if process.stderr else ""
                assert time.monotonic() < end_s, f"{command[0]} does not start"
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


@dataclass(frozen=True, slots=True)
class Azurite:
    """A running emulator of Azure's blobs, with the account and key that its documentation gives."""

    url: str
    account: str = "devstoreaccount1"
    key: str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    @property
    def endpoint(self) -> str:
        return f"{self.url}/{self.account}"

    def make_container(self, name: str) -> None:
        """Make a container, with a token for it."""
        facts = {"sv": _VERSION, "ss": "b", "srt": "c", "sp": "c", "se": _soon()}
        text = [self.account, facts["sp"], facts["ss"], facts["srt"], "", facts["se"], "", "", facts["sv"], ""]
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=30)
        connection.request("PUT", f"/{self.account}/{name}?restype=container&{self._signed(facts, text)}")
        assert connection.getresponse().status == 201
        connection.close()

    def token(self, container: str, permissions: str = "racwdl") -> str:
        """A shared access signature for a container."""
        facts = {"sv": _VERSION, "sr": "c", "sp": permissions, "se": _soon()}
        place = f"/blob/{self.account}/{container}"
        text = [facts["sp"], "", facts["se"], place, "", "", "", facts["sv"], facts["sr"], *[""] * 6]
        return self._signed(facts, text)

    def _signed(self, facts: dict[str, str], text: Sequence[str]) -> str:
        digest = hmac.new(base64.b64decode(self.key), "\n".join(text).encode(), hashlib.sha256).digest()
        return urlencode({**facts, "sig": base64.b64encode(digest).decode()})


def _soon() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextlib.contextmanager
def running_azurite(folder: Path) -> Iterator[Azurite]:
    port = free_port()
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder), "--silent"]
    command = [program("azurite-blob"), *options, "--skipApiVersionCheck", "--disableTelemetry"]
    with running(command, port):
        yield Azurite(f"http://127.0.0.1:{port}")


@contextlib.contextmanager
def running_s3rver(folder: Path, *buckets: str) -> Iterator[str]:
    """Run s3rver with some buckets and gives its URL; key and secret are S3RVER."""
    port = free_port()
    made = [option for bucket in buckets for option in ("--configure-bucket", bucket)]
    with running([program("s3rver"), "-a", "127.0.0.1", "-p", str(port), "-d", str(folder), *made], port):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def running_nginx(folder: Path, server: str) -> Iterator[int]:
    """Run nginx with the inside of a `server` block; gives its port."""
    port = free_port()
    user = "user root;" if os.getuid() == 0 else ""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    listen = f"listen 127.0.0.1:{port}{' ssl' if 'ssl_certificate' in server else ''};"
    (folder / "nginx.conf").write_text(
        f"daemon off; {user} pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {temporary} server {{ {listen} {server} }} }}\n"
    )
    command = [program("nginx"), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with running(command, port):
        yield port
