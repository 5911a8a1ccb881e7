"""Stores that nginx serves: plainly, compressing, behind a password, over TLS with a private authority."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from services.exercise import failure, local_store, reads_like, run_json
from services.running import running_nginx
from store.object_servers import signed_by_own_authority

import embedstore
from embedstore_cli.main import main

pytestmark = pytest.mark.slow
pytest.importorskip("urllib3", reason="needs the extra `remote`")
_COMPRESSING = "gzip on; gzip_types *; gzip_proxied any; gzip_min_length 1;"


@contextlib.contextmanager
def served(folder: Path, server: str = "", scheme: str = "http") -> Iterator[str]:
    """Serve a folder; gives its URL."""
    (folder / "nginx").mkdir(exist_ok=True)
    with running_nginx(folder / "nginx", f"root {folder}; {server}") as port:
        yield f"{scheme}://127.0.0.1:{port}"


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A store with a published index; it has a file that is read in ranges."""
    tmp_path.chmod(0o755)
    local = local_store(tmp_path)
    rng = np.random.default_rng(0)
    records = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 30)) for _ in range(6000)]
    embedstore.open(local).fill(records, "aac_dpc")
    assert main(["publish-index", "--store", str(local)]) == 0
    assert any(path.stat().st_size > 8 << 20 for path in local.rglob("*") if path.is_file())
    return local


@pytest.mark.parametrize("server", ["", _COMPRESSING], ids=["plain", "gzip"])
def test_a_folder_is_read(local: Path, tmp_path: Path, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    with served(tmp_path, server) as url:
        place = f"{url}/local"
        reads_like(place, local, tmp_path)
        assert run_json(capsys, "verify", "--deep", "--store", place)["clean"] is True
        assert run_json(capsys, "pull", place, "--store", str(tmp_path / "pulled"))["copied"] == 6014
        findings = {found["check"]: found for found in run_json(capsys, "doctor", place)["findings"]}
        assert findings["ranges"]["data"] == {"ranges": True}
        assert "No store at" in failure(capsys, "ls", "--store", f"{url}/nothing")


def test_a_server_with_ranges_switched_off_sends_complete_files(
    local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(tmp_path, "max_ranges 0;") as url:
        reads_like(f"{url}/local", local, tmp_path)
        assert run_json(capsys, "verify", "--deep", "--store", f"{url}/local")["clean"] is True
        findings = {found["check"]: found for found in run_json(capsys, "doctor", f"{url}/local")["findings"]}
        assert findings["ranges"]["data"] == {"ranges": False}


def test_a_password_comes_from_netrc(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "users").write_text("ada:{PLAIN}example-secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with served(tmp_path, f'auth_basic "lab"; auth_basic_user_file {tmp_path}/users;') as url:
        assert "401. Check ~/.netrc" in failure(capsys, "ls", "--store", f"{url}/local")
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login ada password example-secret\n")
        (tmp_path / "netrc").chmod(0o600)
        reads_like(f"{url}/local", local, tmp_path)


def test_a_private_authority_is_trusted_by_a_variable(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    _, authority = signed_by_own_authority(tmp_path)
    certificate = f"ssl_certificate {tmp_path}/server.pem; ssl_certificate_key {tmp_path}/server.pem;"
    with served(tmp_path, certificate, "https") as url:
        said = failure(capsys, "ls", "--store", f"{url}/local")
        assert "certificate" in said
        assert "SSL_CERT_FILE" in said
        for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
            with monkeypatch.context() as patch:
                patch.setenv(variable, str(authority))
                reads_like(f"{url}/local", local, tmp_path)
