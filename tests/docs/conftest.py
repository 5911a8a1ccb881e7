"""A reader of the examples, in a folder with what they speak of."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from example_reader import Reader
from example_world import use_small_models, web_server, write_hub_cache, write_virnucpro_head, write_world
from store.object_servers import S3Server

BUCKETS = ("lab", "lab-bucket", "bucket")
PLACES = ("home", "lab", "mnt/lab", "srv/www", "project/lab", "shared", "var/www")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What readers find in their folder, and `../hub`, the cache of weights."""
    folder = tmp_path_factory.mktemp("world")
    write_hub_cache(folder / "hub")
    (folder / "files").mkdir()
    write_world(folder / "files")
    write_virnucpro_head(folder / "files" / "500_model.pth")
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Networks this small are trained faster by one thread than by several that wait for each other."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def reader(
    world: Path, tmp_path: Path, s3_environment: S3Server, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Reader]:
    folder = tmp_path / "reader"
    shutil.copytree(world / "files", folder)
    for name in PLACES:
        (folder / name).mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    for name in ("EMBEDSTORE_UPSTREAM", "EMBEDSTORE_PULL_THROUGH", "EMBEDSTORE_SIGNING_KEY", "EMBEDSTORE_MEMBERS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setenv("EMBEDSTORE_PATH", "lab-store")
    monkeypatch.chdir(folder)
    use_small_models(world / "hub", monkeypatch)
    for bucket in BUCKETS:
        s3_environment.make_bucket(bucket)
    with web_server(folder / "srv" / "www") as address:
        yield Reader(folder, dict.fromkeys(("https://lab.example.org", "https://example.org"), address), monkeypatch)
