"""S3, by s3rver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from services.exercise import failure, holds_stores
from services.running import running_s3rver

pytestmark = pytest.mark.slow
pytest.importorskip("obstore", reason="needs the extra `remote`")


@pytest.fixture(scope="module")
def s3rver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_s3rver(tmp_path_factory.mktemp("s3rver"), "lab") as url:
        yield url


@pytest.fixture(autouse=True)
def environment(s3rver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": s3rver,
        "AWS_ACCESS_KEY_ID": "S3RVER",
        "AWS_SECRET_ACCESS_KEY": "S3RVER",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)


def test_a_bucket_holds_stores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    holds_stores("s3://lab/below", tmp_path, capsys)


def test_a_bucket_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no such bucket" in failure(capsys, "init", "s3://nothing/store")
    assert "there is no such bucket" in failure(capsys, "ls", "--store", "s3://nothing/store")


def test_a_wrong_key_is_named_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "HIDDENKEY")
    said = failure(capsys, "ls", "--store", "s3://lab/below")
    assert "Check the credentials" in said
    assert "HIDDENKEY" not in said
