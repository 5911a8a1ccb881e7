"""The hub, as a real HTTP server on this machine, and its absence."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

REVISION = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b'{"model_type": "esm"}', "model.safetensors": b"weights"}

PROGRAM = """
import sys
from embedstore.errors import WeightsNotFoundError
from embedstore.models.resolution import find_weights
from embedstore.models.registry import ModelSpec
spec = ModelSpec("small", "esm2", 64, 3, "lab/small", sys.argv[1] or None, licence="CC-BY-NC-SA-4.0")
try:
    print(find_weights(spec, on_download=lambda line: print(line, file=sys.stderr)))
except WeightsNotFoundError as error:
    print("WeightsNotFoundError", error)
"""


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does for the files of one repository; asked for anything else, 404."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        if "/resolve/" in self.path:  # the package also asks for other things, for itself
            self.asked.append(self.path)
        name = self.path.rsplit("/", 1)[-1]
        content = FILES.get(name)
        if content is None or "/resolve/" not in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHub", (Hub,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def run(home: Path, revision: str = REVISION, **environment: str) -> str:
    without_proxies = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment = {**without_proxies, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **environment}
    environment.pop("HF_HUB_OFFLINE" if "HF_HUB_OFFLINE" not in environment else "", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, revision],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    Path(home, "told").write_text(done.stderr)
    return done.stdout.strip()


def test_the_licence_is_shown_before_a_download_and_only_then(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    run(tmp_path, HF_ENDPOINT=hub[0])
    line = "Downloading the weights of small from https://huggingface.co/lab/small: licence CC-BY-NC-SA-4.0."
    assert (tmp_path / "told").read_text().splitlines()[0] == line
    run(tmp_path, HF_HUB_OFFLINE="1")
    assert (tmp_path / "told").read_text() == ""


def test_only_the_needed_files_are_fetched_and_then_found_without_a_network(
    hub: tuple[str, list[str]], tmp_path: Path
) -> None:
    endpoint, asked = hub
    folder = Path(run(tmp_path, HF_ENDPOINT=endpoint))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == FILES
    assert {path.rsplit("/", 1)[-1] for path in asked} == set(FILES)
    assert all(REVISION in path for path in asked)
    assert run(tmp_path, HF_HUB_OFFLINE="1") == str(folder)


def test_a_model_without_a_pinned_revision_is_taken_from_main(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    endpoint, asked = hub
    folder = Path(run(tmp_path, revision="", HF_ENDPOINT=endpoint))
    assert folder.name == REVISION
    assert all("/resolve/main/" in path or REVISION in path for path in asked)
    assert run(tmp_path, revision="", HF_HUB_OFFLINE="1") == str(folder)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"), ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached")],
)
def test_without_a_network_the_message_says_what_to_do(
    environment: dict[str, str], reason: str, tmp_path: Path
) -> None:
    message = run(tmp_path, **environment)
    assert message.startswith("WeightsNotFoundError Cannot find the weights of small")
    assert reason in message
    assert f"https://huggingface.co/lab/small/tree/{REVISION}" in message
    assert "config.json, model.safetensors" in message
    assert "--weights DIR" in message


def test_a_repository_that_the_hub_does_not_have_is_not_a_traceback(
    hub: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(FILES, "model.safetensors")
    message = run(tmp_path, HF_ENDPOINT=hub[0])
    assert message.startswith("WeightsNotFoundError")
    assert "404" in message
