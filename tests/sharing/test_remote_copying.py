"""Copying to and from object stores and web servers that break requests: nothing lost, nothing wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sharing_stores import OTHER, assert_clean, contents_of, make_store
from store.object_servers import FaultProxy, running_web_server
from store.sample_rows import assert_right, sample_keys, sample_recipe

from embedstore.errors import CorruptStoreError, StorageError
from embedstore.library import open_store, publish_index
from embedstore.sharing import CopyReport, pull, push, sync
from embedstore.sharing.space_copier import PassingFile
from embedstore.storage.local import LocalStorage
from embedstore.storage.objects import ObjectStorage
from embedstore.store import SpaceStore
from embedstore_cli.main import main

WIDE = sample_recipe(model="wide", dim=4096)
_MAX_ATTEMPTS = 20


def until_done(copy: Callable[[], CopyReport]) -> CopyReport:
    """Do it again as long as the storage refuses, as a person would."""
    for _ in range(_MAX_ATTEMPTS):
        try:
            return copy()
        except StorageError:
            continue
    raise AssertionError(f"not done in {_MAX_ATTEMPTS} attempts")


def test_push_and_pull_by_way_of_a_bucket(tmp_path: Path, bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    near = make_store(tmp_path / "near", range(30), range(30, 50))
    make_store(near.storage, range(7), recipe=OTHER, name="other")
    at_near = ["--store", str(tmp_path / "near"), "--json"]
    assert main(["push", f"{bucket}/lab", *at_near]) == 0
    pushed = json.loads(capsys.readouterr().out)
    assert (pushed["copied"], pushed["skipped"], pushed["complete"]) == (57, 0, True)
    assert {space["name"]: space["copied"] for space in pushed["spaces"]} == {"toy": 50, "other": 7}
    assert main(["push", f"{bucket}/lab", *at_near]) == 0
    assert json.loads(capsys.readouterr().out)["copied"] == 0
    assert main(["pull", f"{bucket}/lab", "--store", str(tmp_path / "other"), "--space", "toy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["copied"] == 50
    other = SpaceStore.open(tmp_path / "other")
    assert contents_of(other) == contents_of(near)
    assert_right(other.space("toy"), sample_keys(range(50)))
    make_store(other.storage, range(50, 60))
    assert main(["sync", f"{bucket}/lab", "--store", str(tmp_path / "other"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["copied"] == 17
    assert_clean(SpaceStore.open(f"{bucket}/lab"))
    assert_clean(other)


def test_a_dry_run_of_the_command_says_how_much(
    tmp_path: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(tmp_path / "near", range(30))
    make_store(ObjectStorage(f"{bucket}/lab"), range(10))
    assert main(["push", f"{bucket}/lab", "--store", str(tmp_path / "near"), "--dry-run"]) == 0
    line = capsys.readouterr().out.splitlines()[1].split()
    assert line[:4] == ["push", "toy", "20", "10"]
    assert len(SpaceStore.open(f"{bucket}/lab").space("toy")) == 10


def test_faults_of_every_kind_lose_nothing_and_bring_nothing_wrong(
    tmp_path: Path, faulty_bucket: tuple[str, FaultProxy]
) -> None:
    url, proxy = faulty_bucket
    near = make_store(tmp_path / "near", range(20), range(20, 30), layout="hdf5")
    until_done(lambda: push(near, SpaceStore.open(f"{url}/lab", create=True)))
    back = make_store(tmp_path / "back", range(15, 40), layout="hdf5")
    until_done(lambda: sync(back, SpaceStore.open(f"{url}/lab")))
    assert proxy.injected.total() > 10
    proxy.faults.clear()
    far = SpaceStore.open(f"{url}/lab")
    for store in (back, far):
        assert_right(store.space("toy"), sample_keys(range(40)))
        assert_clean(store)


def test_a_large_file_that_is_damaged_does_not_arrive(tmp_path: Path, bucket: str) -> None:
    near = make_store(tmp_path / "near", range(700), recipe=WIDE, name="wide")
    segment = near.space("wide").segments()[0]
    part = segment.commit.arrays["vectors"][0]
    assert segment.commit.files[part.file].size_bytes > 8 << 20  # so that it is sent in parts
    name = f"{segment._folder}{part.file}"
    path = tmp_path / "near" / name
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    far = ObjectStorage(f"{bucket}/lab")
    fact, dtype = segment.commit.files[part.file], np.dtype(np.float32)
    with pytest.raises(CorruptStoreError):
        PassingFile(LocalStorage(tmp_path / "near"), name, fact, [], dtype).copy_to(far, name)
    report = push(SpaceStore.open(tmp_path / "near"), SpaceStore(far, create=True))
    assert (report.copied, report.complete) == (0, False)
    content[-9] ^= 1
    path.write_bytes(content)
    assert push(SpaceStore.open(tmp_path / "near"), SpaceStore(far)).copied == 700
    assert_right(SpaceStore(far).space("wide"), sample_keys(range(0, 700, 50)))
    assert_clean(SpaceStore(far))


def test_a_web_server_is_pulled_from_and_never_pushed_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = make_store(tmp_path / "lab", range(10), range(10, 25))
    publish_index(tmp_path / "lab")
    near = make_store(tmp_path / "near", range(5))
    with running_web_server(tmp_path / "lab") as url:
        assert pull(near, SpaceStore.open(url)).copied == 20
        assert main(["push", url, "--store", str(tmp_path / "near")]) == 0  # nothing is missing
        make_store(near.storage, range(30, 32))
        capsys.readouterr()
        assert main(["push", url, "--store", str(tmp_path / "near")]) == 1
        assert "Error: " in capsys.readouterr().err
    assert len(contents_of(near) & contents_of(lab)) == 1
    assert_right(near.space("toy"), sample_keys([*range(25), 30, 31]))
    assert_clean(near)


def test_a_bucket_behind_the_local_store_is_asked_once_for_a_row(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(make_store(tmp_path / "near", range(50)), SpaceStore.open(f"{bucket}/lab", create=True))
    for _ in range(2):
        store = open_store(tmp_path / "own", create=True, upstream=[f"{bucket}/lab"], pull_through=True)
        assert_right(store.space("toy"), sample_keys(range(40)))
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # a warning that nobody answers would be an error
    assert len(SpaceStore.open(tmp_path / "own").space("toy")) == 40
