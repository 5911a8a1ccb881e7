"""Merged files from strangers: refused before memory is asked for, and no other file is opened for them."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from toy_features import toy_samples, toy_store

from embedstore.errors import InputError
from embedstore.features import merge, open_features, write_features
from embedstore.features.columns import HEADER
from embedstore.features.features import Categories
from embedstore.features.layouts import zstd

MODELS = ("toy_dna", "toy_protein")
ALLOWED_GROWTH_KIB = 200 << 10


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, samples = tmp_path_factory.mktemp("intact"), toy_samples(30)
    view = merge(samples, MODELS, store=toy_store(folder / "store", samples))
    for suffix in ("zarr", "h5", "npz"):
        write_features(view, folder / f"features.{suffix}")
    return folder


@pytest.fixture(autouse=True)
def _bounded(intact: Path) -> Iterator[None]:
    """No memory beyond 200 MB, no operation beyond 10 s."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < ALLOWED_GROWTH_KIB
    assert time.monotonic() - started < 10


def refuse(path: Path, reason: str) -> None:
    with pytest.raises(InputError, match=rf"(?s)Cannot open features .*{reason}"):
        open_features(path)


# npz


def npy(shape: tuple[int, ...], descr: str, data: bytes = b"") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


def objects() -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("ids", objects(), "ids.npy"),
        ("ids", pickle.dumps([1]), "Merge again"),
        ("ids", npy((30,), "<U1000000000"), "dtype"),
        ("ids", npy((30,), "<U10000000"), "ids.npy, found 0 bytes"),
        ("y", npy((10**12,), "<i8"), "y.npy, found 0 bytes"),
        ("y", npy((31,), "<i8", bytes(8 * 31)), "column y of 30 rows"),
        ("y", npy((30,), "<f8", bytes(8 * 30)), "column y of 30 rows"),
        ("X", npy((10**12, 8), "<f4"), "X"),
        ("X", npy((30, 10**9), "<f4"), "d at most"),
        ("X", npy((30,), "<f4"), r"expected X of \(n, d\)"),
        ("another", npy((30,), "<f4", bytes(120)), "a column another"),
        (HEADER, npy((2,), "<U2", bytes(16)), "X"),
    ],
)
def test_npz_that_claims_what_it_does_not_hold_is_refused(
    tmp_path: Path, intact: Path, name: str, content: bytes, reason: str
) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(intact / "features.npz") as old, zipfile.ZipFile(path, "w") as new:
        for member in old.namelist():
            if member != f"{name}.npy":
                new.writestr(member, old.read(member))
        new.writestr(f"{name}.npy", content)
    refuse(path, reason)


def test_deflated_npz_is_refused(tmp_path: Path, intact: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(intact / "features.npz") as old, zipfile.ZipFile(path, "w") as new:
        for member in old.namelist():
            compression = zipfile.ZIP_DEFLATED if member == "y.npy" else zipfile.ZIP_STORED
            new.writestr(member, old.read(member), compression)
    refuse(path, "deflated")


# HDF5


def soft_link(file: Any, name: str, _: Path) -> None:
    file.move(name, "else")
    file[name] = h5py.SoftLink("/else")


def external_link(file: Any, name: str, other: Path) -> None:
    del file[name]
    file[name] = h5py.ExternalLink(str(other), name)


def virtual(file: Any, name: str, other: Path) -> None:
    old = file[name]
    layout = h5py.VirtualLayout(old.shape, old.dtype)
    layout[...] = h5py.VirtualSource(str(other), name, old.shape)
    del file[name]
    file.create_virtual_dataset(name, layout)


def external_storage(file: Any, name: str, other: Path) -> None:
    old = file[name]
    shape, dtype = old.shape, old.dtype
    del file[name]
    file.create_dataset(name, shape, dtype, external=[(str(other), 0, h5py.h5f.UNLIMITED)])


def huge(file: Any, name: str, _: Path) -> None:
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    file.create_dataset(name, (10**12, *shape[1:]), dtype)


def huge_chunked(file: Any, name: str, _: Path) -> None:
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    file.create_dataset(name, (10**12, *shape[1:]), dtype, chunks=(1024, *shape[1:]))


def deflated(file: Any, name: str, _: Path) -> None:
    values = file[name][:]
    del file[name]
    file.create_dataset(name, data=values, compression="gzip")


def group(file: Any, name: str, _: Path) -> None:
    del file[name]
    file.create_group(name)


@pytest.mark.parametrize("name", ["X", "y", "row_crc"])
@pytest.mark.parametrize(
    "change", [soft_link, external_link, virtual, external_storage, huge, huge_chunked, deflated, group]
)
def test_hdf5_whose_columns_are_elsewhere_or_only_claimed_is_refused(
    tmp_path: Path, intact: Path, name: str, change: Callable[[Any, str, Path], None]
) -> None:
    path, other = tmp_path / "x.h5", tmp_path / "other.h5"
    shutil.copy(intact / "features.h5", path)
    shutil.copy(intact / "features.h5", other)
    with h5py.File(path, "r+") as file:
        change(file, name, other)
    read_before = other.stat().st_atime_ns
    refuse(path, name)
    assert other.stat().st_atime_ns == read_before


def test_hdf5_that_names_one_text_a_million_times_is_refused(tmp_path: Path, intact: Path) -> None:
    path = tmp_path / "x.h5"
    shutil.copy(intact / "features.h5", path)
    with h5py.File(path, "r+") as file:
        del file["source_names"]
        names = file.create_dataset("source_names", (20_000,), h5py.string_dtype("utf-8"))
        names[0] = "x" * 300_000
        names[1:] = ""
        offset = names.id.get_offset()
    with path.open("r+b") as stream:
        stream.seek(offset)
        place = stream.read(16)
        stream.seek(offset)
        stream.write(place * 20_000)  # 6 GB of text in 700 kB
    refuse(path, "texts of at most")


# Zarr


def described(path: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads((path / name / "zarr.json").read_text())
    change(document)
    (path / name / "zarr.json").write_text(json.dumps(document))


def set_shape(rows: int, chunk_rows: int | None = None) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["shape"][0] = rows
        if chunk_rows is not None:
            document["chunk_grid"]["configuration"]["chunk_shape"][0] = chunk_rows

    return change


def set_codecs(*names: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["codecs"] = [*document["codecs"][:1], *({"name": name, "configuration": {}} for name in names)]

    return change


@pytest.mark.parametrize("name", ["X", "y", "ids", "source_names", "dna_key"])
@pytest.mark.parametrize("change", [set_shape(10**15), set_shape(10**15, 10**15), set_shape(10**9, 10**9)])
def test_zarr_of_an_absurd_shape_is_refused(
    tmp_path: Path, intact: Path, name: str, change: Callable[[dict[str, Any]], None]
) -> None:
    path = Path(shutil.copytree(intact / "features.zarr", tmp_path / "x.zarr"))
    described(path, name, change)
    refuse(path, "")


@pytest.mark.parametrize("name", ["X", "y", "ids"])
@pytest.mark.parametrize("codec", ["gzip", "blosc", "sharding_indexed", "unheard_of"])
def test_zarr_of_other_codecs_is_refused(tmp_path: Path, intact: Path, name: str, codec: str) -> None:
    path = Path(shutil.copytree(intact / "features.zarr", tmp_path / "x.zarr"))
    described(path, name, set_codecs(codec))
    refuse(path, "")


@pytest.mark.parametrize("name", ["ids", "y"])
def test_zarr_chunk_that_is_a_bomb_is_refused(tmp_path: Path, intact: Path, name: str) -> None:
    path = Path(shutil.copytree(intact / "features.zarr", tmp_path / "x.zarr"))
    (path / name / "c" / "0").write_bytes(zstd.compress(b"\x1e\0\0\0" + bytes(64 << 20)))  # 30 texts; 2 kB
    refuse(path, f"bytes in 0 of {name}")


def test_zarr_chunk_that_claims_four_billion_texts_is_refused(tmp_path: Path, intact: Path) -> None:
    path = Path(shutil.copytree(intact / "features.zarr", tmp_path / "x.zarr"))
    file = path / "ids" / "c" / "0"
    texts = zstd.decompress(file.read_bytes())
    file.write_bytes(zstd.compress(b"\xff\xff\xff\xff" + texts[4:]))
    refuse(path, "expected 30 texts in 0 of ids")


def test_zarr_document_that_is_too_large_is_refused(tmp_path: Path, intact: Path) -> None:
    path = Path(shutil.copytree(intact / "features.zarr", tmp_path / "x.zarr"))
    os.truncate(path / "y" / "zarr.json", 1 << 33)  # sparse
    refuse(path, "at most 67108864 bytes")


# texts


@pytest.mark.parametrize("suffix", ["zarr", "h5", "npz"])
def test_names_with_control_characters_are_kept_and_nul_is_refused(tmp_path: Path, suffix: str) -> None:
    samples = toy_samples(30)
    odd = Categories.of([f"g\x1b[2J\t\n{number}" for number in range(30)])
    store = toy_store(tmp_path / "store", samples)
    write_features(merge(replace(samples, groups=odd), MODELS, store=store), tmp_path / f"x.{suffix}")
    assert open_features(tmp_path / f"x.{suffix}").samples.groups.texts().tolist() == odd.texts().tolist()
    with_nul = replace(samples, groups=Categories.of([f"g\0{number}" for number in range(30)]))
    nul = merge(with_nul, MODELS, store=store)
    with pytest.raises(InputError, match="column group_names holds a NUL"):
        write_features(nul, tmp_path / f"y.{suffix}")
    assert not (tmp_path / f"y.{suffix}").exists()
