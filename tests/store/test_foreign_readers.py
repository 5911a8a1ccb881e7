"""Segments are what any reader of Zarr v3 and of HDF5 expects, chunk by chunk."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import google_crc32c
import h5py
import numpy as np
import pytest
import zarr
from sample_rows import (
    LAYOUTS,
    assert_right,
    new_space,
    open_space,
    right_vectors,
    sample_batch,
    sample_keys,
    sample_recipe,
)

from embedstore.errors import CorruptStoreError, StorageError
from embedstore.records import EmbeddingBatch
from embedstore.store import SpaceStore

KEYS = sample_keys(range(23))
SORTED_KEYS = KEYS[np.lexsort(KEYS.T[::-1])]
RECIPES = [sample_recipe(), sample_recipe(dtype="float16", precision="half", dim=5)]


def expected_arrays(recipe: Any) -> dict[str, np.ndarray[Any, Any]]:
    vectors = right_vectors(SORTED_KEYS, recipe)
    rows = zip(SORTED_KEYS, vectors, strict=True)
    checksums = [google_crc32c.value(key.tobytes() + row.tobytes()) for key, row in rows]
    return {"key": SORTED_KEYS, "vectors": vectors, "row_crc": np.array(checksums, np.uint32)}


def segment_folder(place: Path) -> Path:
    (folder,) = place.glob("spaces/*/data/*")
    return folder


@pytest.mark.parametrize("chunk_bytes", [1 << 28, 100, 1], ids=["one chunk", "some chunks", "a chunk a row"])
@pytest.mark.parametrize("recipe", RECIPES, ids=["float32", "float16"])
def test_zarr_reads_a_segment(tmp_path: Path, recipe: Any, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedstore.store.segment_files.CHUNK_BYTES", chunk_bytes)
    space = new_space(tmp_path, "zarr", recipe)
    space.append(sample_batch(KEYS, recipe))
    group = zarr.open_group(segment_folder(tmp_path), mode="r")
    for name, expected in expected_arrays(recipe).items():
        array = group[name]
        assert isinstance(array, zarr.Array)
        assert array.dtype == expected.dtype
        assert np.array_equal(np.asarray(array[:]), expected)
        names = {"key": ("row", "key_byte"), "vectors": ("row", "value"), "row_crc": ("row",)}
        assert array.metadata.dimension_names == names[name]  # type: ignore[union-attr] # xarray wants them
    about: Any = group.attrs["embedstore"]
    assert about["space_id"] == space.id
    assert about["recipe"] == recipe.to_json()
    assert_right(open_space(tmp_path), KEYS)
    assert open_space(tmp_path).read(KEYS[::-3]).tobytes() == right_vectors(KEYS[::-3], recipe).tobytes()
    assert SpaceStore.open(tmp_path).verify(deep=True).problems == []


def test_the_last_chunk_is_padded_as_zarr_wants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedstore.store.segment_files.CHUNK_BYTES", 100)
    recipe = sample_recipe()
    new_space(tmp_path, "zarr", recipe).append(sample_batch(KEYS, recipe))
    folder = segment_folder(tmp_path) / "vectors"
    chunk_rows = json.loads((folder / "zarr.json").read_bytes())["chunk_grid"]["configuration"]["chunk_shape"][0]
    sizes = {path.stat().st_size for path in folder.glob("c/*/0")}
    assert len(list(folder.glob("c/*/0"))) == -(-len(KEYS) // chunk_rows) > 1
    assert len(KEYS) % chunk_rows
    assert sizes == {chunk_rows * recipe.dim * 4 + 4}


def test_zarr_notices_a_flipped_byte(tmp_path: Path) -> None:
    recipe = sample_recipe()
    new_space(tmp_path, "zarr", recipe).append(sample_batch(KEYS, recipe))
    for name in ("key", "vectors", "row_crc"):
        (chunk,) = (path for path in segment_folder(tmp_path).glob(f"{name}/c/**/*") if path.is_file())
        content = bytearray(chunk.read_bytes())
        content[len(content) // 2] ^= 1
        chunk.write_bytes(content)
        with pytest.raises(ValueError, match="checksum"):
            np.asarray(zarr.open_group(segment_folder(tmp_path), mode="r")[name])


@pytest.mark.parametrize("name", ["key", "vectors", "row_crc"])
def test_a_missing_chunk_is_damage_and_not_nothing(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """zarr-python gives the fill value for it."""
    monkeypatch.setattr("embedstore.store.segment_files.CHUNK_BYTES", 50)
    recipe = sample_recipe()
    new_space(tmp_path, "zarr", recipe).append(sample_batch(KEYS, recipe))
    folder = segment_folder(tmp_path) / name / "c"
    chunk = folder / "1" if name == "row_crc" else folder / "1" / "0"
    chunk.unlink()
    with pytest.raises(CorruptStoreError, match="it is gone"):
        open_space(tmp_path).read(KEYS)
    problems = SpaceStore.open(tmp_path).verify().problems
    assert [problem.file for problem in problems] == [str(chunk.relative_to(tmp_path))]
    if name == "vectors":
        assert np.isnan(np.asarray(zarr.open_group(segment_folder(tmp_path), mode="r")[name])).any()


@pytest.mark.parametrize("recipe", RECIPES, ids=["float32", "float16"])
def test_h5py_reads_a_segment(tmp_path: Path, recipe: Any) -> None:
    space = new_space(tmp_path, "hdf5", recipe)
    space.append(sample_batch(KEYS, recipe))
    with h5py.File(segment_folder(tmp_path), "r") as file:
        assert set(file) == {"key", "vectors", "row_crc"}
        for name, expected in expected_arrays(recipe).items():
            assert file[name].dtype == expected.dtype
            assert file[name].chunks is None
            assert np.array_equal(file[name][:], expected)
        assert json.loads(file.attrs["embedstore"])["recipe"] == recipe.to_json()


def test_all_zero_vectors_are_written_and_read(tmp_path: Path) -> None:
    """zarr-python leaves out chunks that hold the fill value only, HDF5 space that was never written."""
    for layout in LAYOUTS:
        recipe = sample_recipe()
        space = new_space(tmp_path / layout, layout, recipe)
        zeros = np.zeros((len(KEYS), recipe.dim), np.float32)
        space.append(EmbeddingBatch(KEYS, zeros))
        assert open_space(tmp_path / layout).read(KEYS).tobytes() == zeros.tobytes()
        assert SpaceStore.open(tmp_path / layout).verify(deep=True).problems == []


def test_without_a_folder_for_temporary_files_hdf5_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = new_space(tmp_path, "hdf5")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(StorageError, match="folder for temporary files"):
        space.append(sample_batch(KEYS, space.recipe))
