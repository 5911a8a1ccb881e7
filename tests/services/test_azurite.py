"""Azure's blobs, by Azurite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from services.exercise import failure, holds_stores
from services.running import Azurite, running_azurite

pytestmark = pytest.mark.slow
pytest.importorskip("obstore", reason="needs the extra `remote`")


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with running_azurite(tmp_path_factory.mktemp("azurite")) as server:
        server.make_container("lab")
        yield server


@pytest.fixture(params=["endpoint", "token", "emulator"])
def reached(azurite: Azurite, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment that says how to reach it, in each way; gives the way."""
    if request.param == "emulator":
        monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
        monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", azurite.url)
        return "emulator"
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", azurite.account)
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", azurite.endpoint)
    if request.param == "token":
        monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", azurite.token("lab"))
    else:
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", azurite.key)
    return str(request.param)


def test_a_container_holds_stores(reached: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    holds_stores(f"az://lab/{reached}", tmp_path, capsys)


def test_a_container_that_is_not_there_is_named(reached: str, capsys: pytest.CaptureFixture[str]) -> None:
    if reached == "token":  # which is for one container and may not know of others
        assert "Check the credentials" in failure(capsys, "ls", "--store", "az://nothing/store")
        return
    assert "there is no such container" in failure(capsys, "init", "az://nothing/store")
    assert "there is no such container" in failure(capsys, "ls", "--store", "az://nothing/store")


def test_a_wrong_key_is_named_and_not_repeated(
    azurite: Azurite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", azurite.account)
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", azurite.endpoint)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "aGlkZGVuLXNlY3JldA==")
    said = failure(capsys, "ls", "--store", "az://lab/x")
    assert "Check the credentials" in said
    assert "aGlkZGVuLXNlY3JldA" not in said
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    token = azurite.token("lab", "rl")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", token)
    said = failure(capsys, "init", "az://lab/y")
    assert "Check the credentials" in said
    assert token[-20:] not in said
