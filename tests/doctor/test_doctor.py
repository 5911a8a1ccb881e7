"""The doctor says what is wrong with a place, and leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from embedstore.doctor import diagnose, storage
from embedstore.doctor.storage import Mount
from embedstore.library import open_store
from embedstore_cli.main import main

NOBODY = 65534


@pytest.fixture
def store(tmp_path: Path) -> Path:
    place = tmp_path / "store"
    made = open_store(place, create=True)
    for sequence in ("MKV", "MRT"):
        made.fill([sequence], "aac_dpc")
    return place


def found(place: Path | str) -> dict[tuple[str, str], Any]:
    document = json.loads(json.dumps(diagnose(place).to_json()))
    return {(finding["group"], finding["check"]): finding for finding in document["findings"]}


def files(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def test_a_store_on_a_local_disk_is_well(store: Path) -> None:
    before = files(store)
    diagnosis = diagnose(store)
    assert diagnosis.healthy
    assert files(store) == before
    states = {(finding.group, finding.check): finding.state for finding in diagnosis.findings}
    for check in ("fsync", "rename", "link", "exclusive creation", "listing", "clock", "mmap", "ranged read"):
        assert states["file system", check] in ("ok", "warn"), check
    assert states["store", "root document"] == states["access", "writing"] == "ok"


def test_the_json_keys_are_a_contract(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(store), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"store", "healthy", "findings", "seconds"}
    assert document["store"] == str(store)
    for finding in document["findings"]:
        assert set(finding) == {"group", "check", "state", "found", "advice", "data"}
        assert finding["state"] in ("ok", "warn", "fail")
    data = {(finding["group"], finding["check"]): finding["data"] for finding in document["findings"]}
    assert set(data["store", "contents"]) == {"spaces", "rows", "bytes", "segments"}
    assert data["store", "contents"]["rows"] == data["store", "contents"]["segments"] == 2
    assert set(data["store", "left over"]) == {"segments", "temporary_files"}
    assert {"kind", "mapped", "mount_point", "network", "read_only", "options", "listing_lag_s"} == set(
        data["file system", "mount"]
    )
    assert set(data["file system", "listing"]) == {"own_lag_s", "other_process_lag_s"}
    assert set(data["access", "space"]) == {"free_bytes", "total_bytes"}
    assert abs(data["file system", "clock"]["offset_s"]) < 5
    assert {"python", "embedstore", "numpy", "torch"} <= set(data["software", "versions"])
    assert set(data["models", "built in"]["models"]) == {"tnf", "aac_dpc"}


def test_the_page_is_one_page(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(store)]) == 0
    page = capsys.readouterr().out
    assert len(page.splitlines()) < 60
    assert max(map(len, page.splitlines())) <= max(100, len(str(store)) + 40)
    for group in ("store", "file system", "access", "software", "models"):
        assert page.splitlines().count(group) == 1


def test_where_no_store_is_the_place_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lab").mkdir()
    for place in (tmp_path / "lab", tmp_path / "lab" / "no" / "store"):
        findings = found(place)
        assert findings["store", "root document"]["state"] == "warn"
        assert "embedstore init" in findings["store", "root document"]["advice"]
        assert findings["file system", "link"]["state"] in ("ok", "warn")
        assert str(tmp_path / "lab") in findings["access", "writing"]["found"]
        assert ("access", "sharing") not in findings
    assert files(tmp_path) == ["lab"]
    assert main(["doctor", str(tmp_path / "lab")]) == 0
    assert main(["doctor", str(tmp_path / "lab"), "--json"]) == 0
    (tmp_path / "file").touch()
    assert found(tmp_path / "file")["store", "root document"]["state"] == "fail"
    capsys.readouterr()


def test_a_damaged_root_document_fails(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = store / "embedstore.json"
    right = root.read_bytes()
    for content in (right[:-9], right.replace(b"zarr", b"hdf5"), b""):
        root.write_bytes(content)
        assert main(["doctor", str(store)]) == 1
        assert "fail  root document: embedstore.json is damaged" in capsys.readouterr().out
    root.unlink()
    assert found(store)["store", "root document"]["state"] == "fail"


def test_a_damaged_commit_fails(store: Path) -> None:
    commit = next(store.glob("spaces/*/commits/*.json"))
    commit.write_bytes(commit.read_bytes()[:-9])
    findings = found(store)
    assert findings["store", "spaces"]["state"] == "fail"
    assert "verify" in findings["store", "spaces"]["advice"]


def test_what_is_left_over_is_counted(store: Path) -> None:
    (space,) = store.glob("spaces/*")
    (space / "data" / ("0" * 32)).mkdir()
    (space / "data" / ("0" * 32) / "zarr.json").write_bytes(b"{}")
    (space / "commits" / ".tmp-1").touch()
    (store / ".tmp-2").touch()
    (space / "gc").mkdir()
    (space / "gc" / "0.json").touch()
    findings = found(store)
    assert findings["store", "left over"]["data"] == {"segments": 1, "temporary_files": 2}
    assert findings["store", "collections"]["data"]["unfinished"] == 1
    assert findings["store", "small segments"]["data"] == {"most_in_a_space": 2}


def test_many_small_segments_should_be_merged(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedstore.doctor.contents.MANY_SMALL_SEGMENTS", 1)
    finding = found(store)["store", "small segments"]
    assert (finding["state"], "compact" in finding["advice"]) == ("warn", True)


def test_shared_folders_want_setgid_and_an_open_group(store: Path) -> None:
    store.chmod(0o775)
    findings = found(store)
    assert findings["access", "sharing"]["state"] == "warn"
    assert findings["access", "shared folders"]["state"] == "warn"
    for folder in (store, *(path for path in store.rglob("*") if path.is_dir())):
        folder.chmod(0o2775)
    findings = found(store)
    assert findings["access", "sharing"]["state"] == "ok"
    assert findings["access", "sharing"]["data"]["setgid"]
    assert ("access", "shared folders") not in findings


def test_a_reader_is_told_that_reading_is_enough(store: Path) -> None:
    """As another user where we are root, who may write everywhere."""
    before = files(store)
    if os.getuid() != 0:
        pytest.skip("needs root, to become somebody else")
    for path in (store, *store.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    passable = [path for path in store.parents if path.stat().st_mode & 0o001 == 0]
    modes = {path: path.stat().st_mode for path in passable}
    for path in passable:
        path.chmod(modes[path] | 0o001)
    code = (
        "import os, sys, json\n"
        "from embedstore.doctor.diagnosis import _local\n"
        "from embedstore.doctor.findings import Diagnosis\n"
        "from pathlib import Path\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "print(json.dumps(Diagnosis('', tuple(_local(Path(sys.argv[1]))), 0).to_json()))\n"
    )
    try:
        ran = subprocess.run([sys.executable, "-c", code, str(store)], capture_output=True, text=True, check=True)
        elsewhere = subprocess.run(
            [sys.executable, "-c", code, str(store.parent / "none")], capture_output=True, text=True, check=True
        )
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    document = json.loads(ran.stdout)
    findings = {(finding["group"], finding["check"]): finding for finding in document["findings"]}
    assert document["healthy"]
    assert findings["access", "writing"]["state"] == "warn"
    assert findings["access", "writing"]["data"] == {"writable": False}
    assert findings["store", "contents"]["data"]["rows"] == 2
    assert ("file system", "fsync") not in findings
    assert not json.loads(elsewhere.stdout)["healthy"]  # a place for a new store must be writable
    assert files(store) == before


def test_an_interrupted_doctor_leaves_nothing(store: Path) -> None:
    code = (
        "import sys, time\n"
        "from embedstore.doctor import diagnosis\n"
        "from embedstore.doctor.storage import probe_folder\n"
        "from pathlib import Path\n"
        "with probe_folder(Path(sys.argv[1])) as place:\n"
        "    (place / 'file').touch()\n"
        "    print('there', flush=True)\n"
        "    time.sleep(60)\n"
    )
    before = files(store)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(store)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        assert len(files(store)) == len(before) + 2
        process.send_signal(signal.SIGINT)
        process.wait(20)
    assert files(store) == before


def test_a_file_system_that_replaces_on_link_fails(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", lambda new, taken: Path(taken).write_bytes(Path(new).read_bytes()))
    assert found(store)["file system", "link"]["state"] == "fail"


def test_a_file_system_without_hard_links_is_minded(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(new: Path, taken: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    finding = found(store)["file system", "link"]
    assert (finding["state"], finding["data"]) == ("warn", {"links": False})


def test_a_clock_that_is_off_is_reported(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time
    monkeypatch.setattr(storage.time, "time", lambda: now() - 3600)
    finding = found(store)["file system", "clock"]
    assert finding["state"] == "warn"
    assert finding["data"]["offset_s"] == pytest.approx(3600, abs=5)
    assert "ahead of" in finding["found"]


@pytest.mark.parametrize(
    ("kind", "options", "lag_s"),
    [
        ("nfs4", "rw,acdirmax=30", 30),
        ("nfs4", "rw", 60),
        ("nfs", "rw,noac", 0),
        ("nfs", "rw,actimeo=3", 3),
        ("ext4", "rw", 0),
    ],
)
def test_how_late_other_machines_list_follows_from_the_mount(kind: str, options: str, lag_s: float) -> None:
    assert Mount(kind, "/lab", frozenset(options.split(","))).listing_lag_s == lag_s


def test_a_url_that_cannot_be_reached_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "gopher://lab/store", "--json"]) == 1
    (finding,) = [each for each in json.loads(capsys.readouterr().out)["findings"] if each["group"] == "remote"]
    assert finding["state"] == "fail"


@pytest.mark.parametrize(
    ("kind", "mapped"), [("ext4", True), ("fuse.sshfs", False), ("fuseblk", False), ("new", False)]
)
def test_what_is_not_known_to_be_a_local_disk_is_read_not_mapped(
    store: Path, monkeypatch: pytest.MonkeyPatch, kind: str, mapped: bool
) -> None:
    monkeypatch.setattr("embedstore.doctor.storage.mount_table", lambda: f"22 1 8:1 / / rw - {kind} /dev/sda1 rw\n")
    finding = found(store)["file system", "mount"]
    assert finding["data"]["mapped"] == mapped
    assert finding["data"]["kind"] == kind.removeprefix("fuse.")
    assert ("read in place, not mapped" in finding["found"]) == (not mapped)


def test_a_full_disk_is_no_question_of_permission(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(place: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", full)
    finding = found(store)["access", "writing"]
    assert "No space left on device" in finding["found"]
    assert "embedstore gc" in finding["advice"]
    assert "permission" not in finding["advice"]


def test_links_and_what_systems_put_there_are_not_closed_folders(store: Path) -> None:
    for folder in (store, *(path for path in store.rglob("*") if path.is_dir())):
        folder.chmod(0o2775)
    (store / "lost+found").mkdir(0o700)
    (store / "linked").symlink_to("/etc")
    assert ("access", "shared folders") not in found(store)
