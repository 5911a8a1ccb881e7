"""Features as a Zarr v3 group. The chunks of `X` are not compressed: each is a file of raw rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec

from embedstore.errors import InputError
from embedstore.features.columns import HEADER, ROW_DTYPE, Column, Content, expect_columns
from embedstore.store.documents import Part


def write(path: Path, columns: Sequence[Column], header: Callable[[], str]) -> None:
    """Write a new group; `header` is asked when all columns have passed."""
    group = zarr.open_group(path, mode="w-", zarr_format=3)
    for column in columns:
        count, width = column.shape[0], column.shape[1:]
        array = group.create_array(
            column.name,
            shape=column.shape,
            chunks=(min(count, column.block_rows) or 1, *width),
            dtype="string" if column.is_text else column.dtype,
            compressors=None if column.name == "X" else "auto",
            # A chunk that is gone must not read as zeros, and none may be left out.
            fill_value=np.nan if column.name == "X" else None,
            config={"write_empty_chunks": True},
        )
        start = 0
        for block in column.blocks():
            array[start : start + len(block)] = block
            start += len(block)
    group.attrs[HEADER] = header()


def read(path: Path) -> Content:
    """Read all but the rows, and find where those lie.

    Raises
    ------
    InputError : not such a group. Errors of zarr : it is damaged.
    """
    group = zarr.open_group(path, mode="r", zarr_format=3)
    # A group's own listing only warns of members that are damaged.
    names = [folder.name for folder in path.iterdir() if folder.is_dir()]
    expect_columns(names)
    arrays: dict[str, Any] = {name: group[name] for name in names}
    columns = {name: np.asarray(array[:]) for name, array in arrays.items() if name != "X"}
    rows = arrays["X"]
    header = group.attrs.get(HEADER, "")
    return Content(str(header), columns, rows.shape, path, _parts(path, rows))


def _parts(path: Path, rows: Any) -> tuple[Part, ...]:
    raw = [BytesCodec(endian="little")]
    chunk_rows, *width = rows.chunks
    codecs = rows.metadata.codecs
    if rows.dtype != ROW_DTYPE or list(codecs) != raw or tuple(width) != rows.shape[1:] or rows.shards is not None:
        raise InputError(f"expected X to be float32 in chunks of whole rows, not compressed, found {rows.metadata}")
    count = rows.shape[0]
    parts = []
    for start in range(0, count, chunk_rows):
        file = "X/" + rows.metadata.encode_chunk_key((start // chunk_rows, 0))
        chunk_bytes = chunk_rows * rows.shape[1] * ROW_DTYPE.itemsize
        found = (path / file).stat().st_size if (path / file).is_file() else 0
        if found != chunk_bytes:
            raise InputError(f"expected {chunk_bytes} bytes in {file}, found {found}")
        parts.append(Part(file, 0, min(chunk_rows, count - start)))
    return tuple(parts)
