"""Every example of README and the pages is run as a reader would: block after block, in one folder a page."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from example_blocks import examples, pages
from example_reader import Reader
from example_world import use_small_models, web_server, write_hub_cache, write_virnucpro_head, write_world
from store.object_servers import S3Server

BEFORE: Mapping[str, str] = {
    "README.md": """
        mkdir examples
        cp proteins.faa examples/proteins.faa
    """,
    "docs/guide/classify.md": "embedstore prepare virus=genomes/virus host=genomes/host -o other",
    "docs/guide/dnabert_s.md": "mv dnabert_checkpoint my-dnabert",
    "docs/guide/features.md": """
        embedstore prepare virus=genomes/virus host=genomes/host -o samples
        embedstore merge samples/samples.tsv --models dnabert_s,fastesm2_650 --fill -o first.npz
    """,
    "docs/guide/models.md": "mv esm_checkpoint DIR",
    "docs/guide/places.md": "embedstore fill proteins.faa --model aac_dpc",
    "docs/guide/readers.md": "embedstore fill proteins.faa --model aac_dpc",
    "docs/guide/sharing.md": """
        embedstore init /mnt/lab/store
        embedstore fill proteins.faa --model fastesm2_650 --store /mnt/lab/store
        embedstore init /srv/www/embeddings
        embedstore fill proteins.faa --model fastesm2_650 --store /srv/www/embeddings
        embedstore publish-index --store /srv/www/embeddings
    """,
    "docs/guide/trust.md": "mkdir ~/.ssh ~/lab",
    "docs/guide/upkeep.md": """
        embedstore init lab-store
        embedstore fill proteins.faa --model fastesm2_650
        embedstore fill proteins.faa --model esm2_t6_8m
    """,
}
"""What a page takes for granted that a reader has done before, as lines of a shell."""

BUCKETS = ("lab", "lab-bucket")


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
    for name in ("home", "lab", "mnt/lab", "srv/www", "project/lab"):
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
        yield Reader(folder, {"https://lab.example.org": address}, monkeypatch)


@pytest.mark.parametrize("page", pages())
def test_examples_of_a_page_run(page: str, reader: Reader) -> None:
    for line in BEFORE.get(page, "").strip().splitlines():
        reader.shell(line.strip())
    for example in examples(page):
        if not example.reason:
            reader.run(example)


def test_examples_that_are_not_run_say_why() -> None:
    found = [example for page in pages() for example in examples(page)]
    skipped = Counter(example.reason for example in found if example.reason)
    print(f"{len(found) - skipped.total()} examples are run, {skipped.total()} are not:", *skipped.items(), sep="\n")
    assert all(len(reason.split()) > 1 for reason in skipped)
    assert skipped.total() < len(found) / 4
