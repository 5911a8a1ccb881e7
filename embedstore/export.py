"""Vectors of selected records as one file for other programs: `ids`, `keys` and `X`, a row a record, in their order.

    .npz    numpy; ids as fixed-width unicode, nothing pickled; members `space`, `space_id` and `recipe` (JSON) beside
    .h5     HDF5; ids as variable-length UTF-8; `space`, `space_id` and `recipe` are attributes of the root
    .zarr   Zarr v3 group, the same as HDF5

Vectors pass through by blocks; the file appears under its name when it is complete.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from embedstore.atomic import replacing
from embedstore.errors import InputError
from embedstore.records import KEY_BYTES, Vectors
from embedstore.retrieval import Retrieved

_BLOCK_BYTES = 16 << 20
_IDS_A_BLOCK = 1 << 16


def export(rows: Retrieved, path: Path) -> None:
    """Write ids, keys and vectors of records; what was at `path` before is replaced.

    Raises
    ------
    InputError : the suffix is none of `SUFFIXES`, a folder of something else is there, or an id holds a NUL character.
    StorageError : the file cannot be written. CorruptStoreError : vectors cannot be read.
    """
    check_path(path)
    odd = next((id_ for id_ in rows.ids if "\0" in id_), None)
    if odd is not None:
        raise InputError(f"Cannot export to {path}: the id {odd!r} holds a NUL character, which no format can store.")
    with replacing(path) as temporary:
        _WRITERS[path.suffix](temporary, rows)


def check_path(path: Path) -> None:
    """Refuse a path that cannot be exported to.

    Raises
    ------
    InputError : its suffix is none of `SUFFIXES`, or a folder of something else is there.
    """
    if path.suffix not in _WRITERS:
        raise InputError(f"Cannot export to {path}: expected a name that ends in {', '.join(SUFFIXES)}.")
    if path.is_dir() and not (path.suffix == ".zarr" and (path / "zarr.json").is_file()):
        raise InputError(
            f"Cannot export to {path}: a folder that embedstore did not write is there. Give another name."
        )


def _write_npz(path: Path, rows: Retrieved) -> None:
    ids_dtype = np.dtype(f"<U{max(map(len, rows.ids), default=1) or 1}")
    with zipfile.ZipFile(path, "x", zipfile.ZIP_STORED) as archive:
        with archive.open("ids.npy", "w", force_zip64=True) as member:
            _write_npy_header(member, (len(rows.ids),), ids_dtype)
            for _, ids in _id_blocks(rows, max(1, min(_IDS_A_BLOCK, _BLOCK_BYTES // ids_dtype.itemsize))):
                member.write(np.array(ids, dtype=ids_dtype).tobytes())
        with archive.open("keys.npy", "w", force_zip64=True) as member:
            _write_npy_header(member, rows.keys.shape, rows.keys.dtype)
            member.write(rows.keys.tobytes())
        with archive.open("X.npy", "w", force_zip64=True) as member:
            _write_npy_header(member, (len(rows.keys), rows.recipe.dim), np.dtype(rows.recipe.dtype))
            for _, vectors in _vector_blocks(rows):
                member.write(vectors.tobytes())
        for name, text in _attributes(rows).items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.array(text), allow_pickle=False)


def _write_npy_header(member: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)


def _write_hdf5(path: Path, rows: Retrieved) -> None:
    import h5py

    with h5py.File(path, "x") as file:
        ids = file.create_dataset("ids", (len(rows.ids),), dtype=h5py.string_dtype("utf-8"))
        for start, some in _id_blocks(rows):
            ids[start : start + len(some)] = some
        file.create_dataset("keys", data=rows.keys)
        vectors = file.create_dataset("X", (len(rows.keys), rows.recipe.dim), dtype=np.dtype(rows.recipe.dtype))
        for start, block in _vector_blocks(rows):
            vectors[start : start + len(block)] = block
        file.attrs.update(_attributes(rows))


def _write_zarr(path: Path, rows: Retrieved) -> None:
    import zarr

    count, dim, dtype = len(rows.ids), rows.recipe.dim, np.dtype(rows.recipe.dtype)
    group = zarr.open_group(path, mode="w-", zarr_format=3, attributes={**_attributes(rows)})
    ids = group.create_array("ids", shape=(count,), dtype="string", chunks=(min(count, _IDS_A_BLOCK) or 1,))
    for start, some in _id_blocks(rows):
        ids[start : start + len(some)] = np.array(some, dtype=object)
    keys = group.create_array("keys", shape=(count, KEY_BYTES), dtype="uint8", chunks=(count or 1, KEY_BYTES))
    if count:
        keys[:] = rows.keys
    chunk_rows = min(count, _block_rows(rows)) or 1
    vectors = group.create_array("X", shape=(count, dim), dtype=dtype, chunks=(chunk_rows, dim), compressors=None)
    for start, block in _vector_blocks(rows):
        vectors[start : start + len(block)] = block


_WRITERS: dict[str, Callable[[Path, Retrieved], None]] = {".npz": _write_npz, ".h5": _write_hdf5, ".zarr": _write_zarr}
SUFFIXES = tuple(_WRITERS)


def _block_rows(rows: Retrieved) -> int:
    """Vectors that are in memory at once."""
    return max(1, _BLOCK_BYTES // (rows.recipe.dim * np.dtype(rows.recipe.dtype).itemsize))


def _vector_blocks(rows: Retrieved) -> Iterator[tuple[int, Vectors]]:
    """Yield (first row, vectors of some rows)."""
    step = _block_rows(rows)
    for start in range(0, len(rows), step):
        yield start, rows.read(start, start + step)


def _id_blocks(rows: Retrieved, step: int = _IDS_A_BLOCK) -> Iterator[tuple[int, list[str]]]:
    """Yield (first row, ids of some rows)."""
    for start in range(0, len(rows), step):
        yield start, rows.ids[start : start + step]


def _attributes(rows: Retrieved) -> dict[str, str]:
    """What a reader needs to know where the numbers come from."""
    recipe = json.dumps(rows.recipe.to_json(), sort_keys=True)
    return {"space": rows.name, "space_id": rows.recipe.id, "recipe": recipe}
