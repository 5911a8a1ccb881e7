"""A merged file gives the right rows or an error, whatever happened to it; anybody's reader opens it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from toy_features import right_rows, toy_samples, toy_store

from embedstore.errors import EmbedStoreError, FormatVersionError, InputError
from embedstore.features import Features, Samples, merge, open_features, write_features
from embedstore.features.columns import HEADER
from embedstore.features.features import Indices, RowSource

MODELS = ("toy_dna", "toy_protein")
SUFFIXES = ("zarr", "h5", "npz")


@pytest.fixture(scope="module")
def samples() -> Samples:
    return toy_samples(30)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory, samples: Samples) -> Path:
    """A folder with the same features in each format."""
    folder = tmp_path_factory.mktemp("intact")
    view = merge(samples, MODELS, store=toy_store(folder / "store", samples))
    for suffix in SUFFIXES:
        write_features(view, folder / f"features.{suffix}")
    return folder


@pytest.fixture
def copy(tmp_path: Path, intact: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the merged file of the parametrised suffix, to damage."""
    source, target = intact / f"features.{request.param}", tmp_path / f"features.{request.param}"
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)
    return target


def files_of(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def judge(path: Path, samples: Samples) -> bool:
    """Tell whether opening and reading raised; if not, everything must be right."""
    try:
        features = open_features(path)
        rows = features.rows()
    except EmbedStoreError:
        return True
    assert rows.tobytes() == right_rows(samples).tobytes()
    assert features.ids.tolist() == samples.ids.tolist()
    assert features.samples.labels.texts().tolist() == samples.labels.texts().tolist()
    assert np.array_equal(features.samples.keys["dna"], samples.keys["dna"])
    return False


@pytest.mark.parametrize("copy", SUFFIXES, indirect=True)
def test_flipped_byte_raises_or_changes_nothing(copy: Path, samples: Samples) -> None:
    random = np.random.default_rng(5)
    raised = 0
    for file in files_of(copy):
        content = file.read_bytes()
        for place in random.choice(len(content), min(len(content), 1 if copy.is_dir() else 60), replace=False):
            damaged = bytearray(content)
            damaged[place] ^= 1 << int(random.integers(8))
            file.write_bytes(damaged)
            raised += judge(copy, samples)
        file.write_bytes(content)
    assert raised
    assert not judge(copy, samples)


@pytest.mark.parametrize("copy", SUFFIXES, indirect=True)
def test_every_damaged_byte_of_the_rows_is_found(copy: Path, samples: Samples) -> None:
    rows = right_rows(samples).tobytes()
    file = next(file for file in files_of(copy) if rows in file.read_bytes())
    content = file.read_bytes()
    start = content.index(rows)
    for place in range(0, len(rows), 13):
        damaged = bytearray(content)
        damaged[start + place] ^= 0x10
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"damaged|not finite"):
            open_features(copy).rows()


@pytest.mark.parametrize("copy", SUFFIXES, indirect=True)
def test_truncated_or_missing_file_raises(copy: Path, samples: Samples) -> None:
    for file in files_of(copy):
        content = file.read_bytes()
        for length in sorted({0, 1, len(content) // 3, len(content) // 2}):
            file.write_bytes(content[:length])
            assert judge(copy, samples), f"{file} cut to {length} bytes"
        if copy.is_dir():
            file.unlink()
            assert judge(copy, samples), f"{file} removed"
        file.write_bytes(content)
    assert not judge(copy, samples)


@pytest.mark.parametrize("copy", SUFFIXES, indirect=True)
def test_file_truncated_while_it_is_open_raises(copy: Path, samples: Samples) -> None:
    features = open_features(copy)
    rows = right_rows(samples).tobytes()
    file = next(file for file in files_of(copy) if rows in file.read_bytes())
    with file.open("r+b") as stream:
        stream.truncate(100)
    with pytest.raises(InputError, match="Merge again"):
        features.rows()


@pytest.mark.parametrize("copy", SUFFIXES, indirect=True)
def test_value_that_is_not_finite_names_the_sample(copy: Path, samples: Samples) -> None:
    rows = right_rows(samples).tobytes()
    file = next(file for file in files_of(copy) if rows in file.read_bytes())
    content = bytearray(file.read_bytes())
    place = content.index(rows) + (17 * 8 + 6) * 4
    content[place : place + 4] = np.float32(np.nan).tobytes()
    file.write_bytes(content)
    features = open_features(copy)
    assert len(features.rows(range(17))) == 17
    with pytest.raises(InputError, match=r"contig4:17: expected a number in column 6 \(toy_protein\), found nan"):
        features.rows()


class _Infinite:
    """Rows one of which is not finite, as no store gives them."""

    def gather(self, indices: Indices, rows: np.ndarray) -> None:  # type: ignore[type-arg]
        rows[:] = np.where(indices[:, None] == 3, np.inf, 1.0)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_value_that_is_not_finite_is_never_written(tmp_path: Path, intact: Path, samples: Samples, suffix: str) -> None:
    source: RowSource = _Infinite()
    features = Features(samples, open_features(intact / "features.h5").schema, source, "made up")
    with pytest.raises(InputError, match="contig0:3"):
        write_features(features, tmp_path / f"features.{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_failing_source_leaves_the_old_file(tmp_path: Path, intact: Path, samples: Samples, suffix: str) -> None:
    output = tmp_path / f"features.{suffix}"
    write_features(open_features(intact / "features.npz"), output)
    features = Features(samples, open_features(intact / "features.h5").schema, _Infinite(), "made up")
    with pytest.raises(InputError):
        write_features(features, output)
    assert not judge(output, samples)
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


def test_other_files_are_refused(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["X"] = np.zeros((3, 4), np.float32)
    np.savez(tmp_path / "other.npz", X=np.zeros((3, 4), np.float32), ids=np.array(["a", "b", "c"]))
    np.savez(tmp_path / "pickled.npz", X=np.zeros((3, 4), np.float32), ids=np.array([{}, 1], dtype=object), row_crc=1)
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "text.h5").write_text("no archive")
    (tmp_path / "empty.zarr").mkdir()
    (tmp_path / "folder.h5").mkdir()
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(InputError, match=path.name):
            open_features(path)
    for name in ("missing.h5", "missing.zarr", "missing.npz", "samples.tsv"):
        with pytest.raises(InputError, match=name):
            open_features(tmp_path / name)


@pytest.mark.parametrize("copy", ["h5"], indirect=True)
def test_newer_format_asks_for_an_upgrade(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        header = json.loads(file.attrs[HEADER])
        file.attrs[HEADER] = json.dumps({**header, "version": 2})
    with pytest.raises(FormatVersionError, match="version 2"):
        open_features(copy)


@pytest.mark.parametrize("copy", ["h5"], indirect=True)
def test_other_schema_put_over_the_rows_is_found(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        header = json.loads(file.attrs[HEADER])
        header["schema"]["preparation"]["chunk_length"] = 300
        file.attrs[HEADER] = json.dumps(header)
    with pytest.raises(InputError, match="damaged"):
        open_features(copy)


def test_any_reader_opens_them(intact: Path, samples: Samples) -> None:
    expected = right_rows(samples)
    with h5py.File(intact / "features.h5") as file:
        assert np.array_equal(file["X"][:], expected)
        assert file["ids"].asstr()[:].tolist() == samples.ids.tolist()
        assert json.loads(file.attrs[HEADER])["schema"]["blocks"][1]["start"] == 5
    group = zarr.open_group(intact / "features.zarr", mode="r")
    assert np.array_equal(group["X"][:], expected)
    assert group["ids"][:].tolist() == samples.ids.tolist()
    with np.load(intact / "features.npz", allow_pickle=False) as archive:
        assert np.array_equal(archive["X"], expected)
        assert archive["ids"].tolist() == samples.ids.tolist()
        assert np.array_equal(archive["dna_key"], samples.keys["dna"])


def test_deflated_rows_are_refused(tmp_path: Path, intact: Path) -> None:
    with (
        zipfile.ZipFile(intact / "features.npz") as source,
        zipfile.ZipFile(tmp_path / "deflated.npz", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(InputError, match="deflated"):
        open_features(tmp_path / "deflated.npz")


_MERGE_MUCH = """
import sys, threading, time
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
from toy_features import toy_samples
from embedstore.features import Features, Schema, open_features, write_features
from toy_features import PREPARATION, toy_recipe

class Rows:
    def gather(self, indices, rows):
        rows[:] = (indices[:, None] % 1000).astype(np.float32)

def anonymous_kib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

peak, running = 0, True
def watch():
    global peak
    while running:
        peak = max(peak, anonymous_kib())
        time.sleep(0.002)

path = Path(sys.argv[2])
samples = toy_samples(70_000)
schema = Schema.of_spaces([("toy", toy_recipe("dna", 1024))], PREPARATION, samples.labels.names.tolist())
write_features(Features(samples.take(np.arange(100)), schema, Rows(), "warm up"), path)
before = anonymous_kib()
watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
write_features(Features(samples, schema, Rows(), "made up"), path)
features = open_features(path)
order = np.random.default_rng(1).permutation(len(features))
for start in range(0, len(order), 4096):
    batch = order[start : start + 4096]
    assert np.array_equal(features.rows(batch)[:, 7], (batch % 1000).astype(np.float32))
running = False
watcher.join()
print(peak - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc to measure memory")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_is_bounded_however_large_the_features(tmp_path: Path, suffix: str) -> None:
    """Writes and reads 290 MB of rows; what the kernel maps of the file does not count."""
    path = tmp_path / f"features.{suffix}"
    command = [sys.executable, "-c", _MERGE_MUCH, str(Path(__file__).parent), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    grown_mib = int(done.stdout) / 1024
    assert grown_mib < 200, f"{grown_mib:.0f} MiB for 290 MB of rows"
