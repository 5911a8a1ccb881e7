"""How many files are held open, and what is known of one that is opened again."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from sample_rows import new_space, sample_batch, sample_keys

from embedstore.errors import CorruptStoreError
from embedstore.storage import open_files
from embedstore.storage.local import LocalStorage
from embedstore.storage.open_files import OpenFiles, most_open_files


@pytest.mark.parametrize(("limit", "most"), [(64, 16), (256, 64), (1024, 256), (1 << 20, 256), (16, 8), (-1, 256)])
def test_a_quarter_of_what_the_process_may_is_held_open(monkeypatch: pytest.MonkeyPatch, limit: int, most: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY if limit < 0 else limit, 1 << 20))
    assert most_open_files() == most


def run(code: str, place: Path) -> str:
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code, str(place)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("mapped", [True, False])
def test_a_process_that_may_open_64_files_reads_a_space_of_more(tmp_path: Path, mapped: bool) -> None:
    space = new_space(tmp_path, "zarr")
    for number in range(40):
        space.append(sample_batch(sample_keys([number]), space.recipe))
    code = f"""
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from sample_rows import *
space = SpaceStore(LocalStorage(Path(sys.argv[1]), mapped={mapped})).space("toy")
assert_right(space, sample_keys(range(40)))
print(space.append(sample_batch(sample_keys([40]), space.recipe)))
"""
    assert run(code, tmp_path) == "1\n"


def test_where_others_hold_files_open_half_of_ours_are_let_go(tmp_path: Path) -> None:
    space = new_space(tmp_path, "hdf5")
    for number in range(40):
        space.append(sample_batch(sample_keys([number]), space.recipe))
    code = """
import os, resource, sys
from pathlib import Path
from sample_rows import *
from embedstore.errors import StorageError
space = open_space(Path(sys.argv[1]))
space.refresh()
highest = max(int(name) for name in os.listdir("/dev/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, highest + 20))
assert_right(space, sample_keys(range(40)))
space = open_space(Path(sys.argv[1]))
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
try:
    space.read(sample_keys(range(40)))
except StorageError as error:
    print(error)
"""
    told = run(code, tmp_path)
    assert "Too many open files. Raise the limit of open files" in told


def test_a_file_that_was_replaced_after_it_was_checked_is_checked_again(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    digests = {}
    for name in ("a", "b"):
        storage.write(name, [name.encode() * 100])
        digests[name] = open_files.sha256_of(storage.open(name, 100), 100)
    files = OpenFiles(storage, 1, check_digests=True)
    assert files.blob("a", 100, digests["a"]).bytes(0, 1).tobytes() == b"a"
    files.blob("b", 100, digests["b"])  # `a` is let go
    before = (tmp_path / "a").stat()
    storage.replace("a", [b"x" * 100])
    os.utime(tmp_path / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(CorruptStoreError, match="expected SHA-256"):
        files.blob("a", 100, digests["a"])
    with (tmp_path / "b").open("r+b") as file:  # the same file, with the time that it had
        file.write(b"x")
    with pytest.raises(CorruptStoreError, match="expected SHA-256"):
        OpenFiles(storage, 1, check_digests=True).blob("b", 100, digests["b"])


def test_a_file_that_stays_the_same_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = LocalStorage(tmp_path)
    checked: list[int] = []
    for name in ("a", "b"):
        storage.write(name, [b"x" * 100])
    digest = open_files.sha256_of(storage.open("a", 100), 100)
    sha256_of = open_files.sha256_of
    monkeypatch.setattr(open_files, "sha256_of", lambda blob, size: (checked.append(1), sha256_of(blob, size))[1])
    files = OpenFiles(storage, 1, check_digests=True)
    for name in ("a", "b", "a", "b"):
        files.blob(name, 100, digest)
    assert len(checked) == 2
