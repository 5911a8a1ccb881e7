"""Features as a Zarr v3 group. The chunks of `X` are not compressed: each is a file of raw rows."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec, VLenUTF8Codec, ZstdCodec

from embedstore.errors import InputError
from embedstore.features.columns import HEADER, ROW_DTYPE, Column, Content, expect_columns
from embedstore.features.samples import TEXT
from embedstore.store.documents import Part

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_LARGEST_DOCUMENT_BYTES = 64 << 20
_LARGEST_RATIO = 500
"""Names and ids compress to a twentieth at most; what claims to be much smaller is a bomb."""
_HEAD_BYTES = (128 << 10) + 64
"""A block of zstd and what comes before it."""
_TEXT_BYTES = 4
"""Of each text at least, its length; and of the number of texts, before the first."""


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
    # A group's own listing only warns of members that are damaged.
    names = [folder.name for folder in path.iterdir() if folder.is_dir()]
    for file in [path / "zarr.json", *(path / name / "zarr.json" for name in names)]:
        if file.stat().st_size > _LARGEST_DOCUMENT_BYTES:
            raise InputError(f"expected at most {_LARGEST_DOCUMENT_BYTES} bytes in {file.name}, found more")
    group = zarr.open_group(path, mode="r", zarr_format=3, use_consolidated=False)
    arrays: dict[str, Any] = {name: group[name] for name in names}
    expect_columns({name: (array.shape, _dtype(array)) for name, array in arrays.items()})
    parts = _parts(path, arrays["X"])
    for name, array in arrays.items():
        if name != "X":
            _check_chunks(path, name, array)
    columns = {name: np.asarray(array[:]) for name, array in arrays.items() if name != "X"}
    header = group.attrs.get(HEADER, "")
    return Content(str(header), columns, arrays["X"].shape, path, parts)


def _unpacked_head(head: bytes) -> tuple[int | None, bytes]:
    """What a zstd frame states of the size of its content, None if nothing, and the first bytes of that."""
    try:
        stated_bytes = zstd.get_frame_info(head).decompressed_size
        return stated_bytes, zstd.ZstdDecompressor().decompress(head, _TEXT_BYTES)
    except (zstd.ZstdError, EOFError) as error:
        raise InputError(f"it is damaged: {error}") from error


def _dtype(array: Any) -> np.dtype[Any]:
    if not isinstance(array, zarr.Array):
        raise InputError(f"expected arrays in the group, found {array}")
    return TEXT if isinstance(array.dtype, np.dtypes.StringDType) else array.dtype


def _check_chunks(path: Path, name: str, array: Any) -> None:
    """Refuse chunks that are larger than the array needs, or that would become so when they are decompressed."""
    codecs = [type(codec) for codec in array.metadata.codecs]
    first = VLenUTF8Codec if array.dtype == TEXT else BytesCodec
    rows, chunk_rows = array.shape[0], array.chunks[0]
    if codecs not in ([first, ZstdCodec], [first]) or array.chunks[1:] != array.shape[1:] or chunk_rows > max(rows, 1):
        raise InputError(f"expected {name} in chunks of whole rows, compressed with zstd, found {array.metadata}")
    for start in range(0, rows, chunk_rows):
        place = (start // chunk_rows, *[0] * (array.ndim - 1))
        file = path / name / array.metadata.encode_chunk_key(place)
        with file.open("rb") as stream:
            head, held_bytes = stream.read(_HEAD_BYTES), file.stat().st_size
        stated_bytes, content = _unpacked_head(head) if ZstdCodec in codecs else (held_bytes, head[:_TEXT_BYTES])
        if array.dtype == TEXT and int.from_bytes(content, "little") != chunk_rows:
            raise InputError(f"expected {chunk_rows} texts in {file.name} of {name}, found another number")
        if array.dtype == TEXT:
            least_bytes, largest_bytes = _TEXT_BYTES * chunk_rows, _LARGEST_RATIO * held_bytes + (1 << 20)
        else:
            least_bytes = largest_bytes = chunk_rows * math.prod(array.shape[1:]) * array.dtype.itemsize
        if stated_bytes is None or not least_bytes <= stated_bytes <= largest_bytes:
            raise InputError(
                f"expected {least_bytes} to {largest_bytes} bytes in {file.name} of {name}, found {stated_bytes}"
            )


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
