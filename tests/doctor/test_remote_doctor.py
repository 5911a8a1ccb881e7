"""The doctor at stores behind URLs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from store.object_servers import running_web_server

from embedstore.doctor import diagnose
from embedstore.library import open_store
from embedstore.storage.local import LocalStorage
from embedstore.storage.locations import open_storage
from embedstore.upkeep.web_index import publish_web_index


def found(place: str) -> dict[tuple[str, str], Any]:
    return {(finding.group, finding.check): finding for finding in diagnose(place).findings}


def test_a_bucket_is_tried_and_left_as_it_was(bucket: str) -> None:
    place = f"{bucket}/lab"
    findings = found(place)
    assert findings["store", "root document"].state == "warn"
    assert findings["remote", "writing"].data == {"writable": True, "read_back": True, "listed_at_once": True}
    open_store(place, create=True).fill(["MKV"], "aac_dpc")
    before = sorted(entry.name for entry in open_storage(place).walk(""))
    findings = found(place)
    assert findings["store", "contents"].data["rows"] == 1
    assert findings["remote", "reachable"].data["request_s"] > 0
    assert abs(findings["remote", "clock"].data["offset_s"]) < 5
    assert ("file system", "fsync") not in findings
    assert sorted(entry.name for entry in open_storage(place).walk("")) == before


def test_an_unreachable_endpoint_fails_and_shows_no_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hidden-secret@127.0.0.1:9")
    monkeypatch.setattr("embedstore.storage.retrying.time.sleep", lambda seconds: None)
    diagnosis = diagnose(f"{bucket}/lab")
    assert not diagnosis.healthy
    assert "secret" not in str(diagnosis.to_json())


def test_a_web_server_is_read_only(tmp_path: Path) -> None:
    open_store(tmp_path / "lab", create=True).fill(["MKV"], "aac_dpc")
    publish_web_index(LocalStorage(tmp_path / "lab"))
    with running_web_server(tmp_path) as url:
        findings = found(f"{url}/lab")
    assert findings["store", "contents"].data["rows"] == 1
    assert "read-only" in findings["remote", "writing"].found
    assert all(finding.state != "fail" for finding in findings.values())
