"""A segment as a Zarr v3 group: any zarr reader opens it, and each chunk file is raw rows plus a CRC-32C.

    data/<nonce>/zarr.json
    data/<nonce>/<array>/zarr.json
    data/<nonce>/<array>/c/<chunk>/0        (`row_crc` has one dimension: c/<chunk>)

Chunks hold at most 256 MiB. All chunks of an array have one size, as Zarr wants it; it is chosen so that less than a
row a chunk is padding.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import google_crc32c
import numpy as np

from embedstore.store.documents import Part
from embedstore.store.rows import SegmentFiles, SortedRows
from embedstore.store.storage import Buffer

CHUNK_BYTES = 256 << 20

_WIDTH_NAMES = {"key": ["key_byte"], "vectors": ["value"], "row_crc": []}


def write(files: SegmentFiles, rows: SortedRows, attributes: dict[str, object]) -> dict[str, tuple[Part, ...]]:
    """Write the group; return where each array's rows lie."""
    folder = f"data/{files.nonce}"
    files.write(f"{folder}/zarr.json", [_json({"zarr_format": 3, "node_type": "group", "attributes": attributes})])
    return {array: _write_array(files, rows, f"{folder}/{array}", array) for array in rows.shapes}


def _write_array(files: SegmentFiles, rows: SortedRows, folder: str, array: str) -> tuple[Part, ...]:
    shape, dtype = rows.shapes[array]
    row_bytes = rows.row_bytes(array)
    chunk_rows = _chunk_rows(len(rows), row_bytes)
    files.write(f"{folder}/zarr.json", [_json(_array_metadata(array, shape, dtype, chunk_rows))])
    parts = []
    for chunk, start in enumerate(range(0, len(rows), chunk_rows)):
        stop = min(start + chunk_rows, len(rows))
        file = f"{folder}/c/{chunk}" + "/0" * (len(shape) - 1)
        padding = bytes((start + chunk_rows - stop) * row_bytes)
        files.write(file, _with_checksum(chain(rows.pieces(array, start, stop), [padding] if padding else [])))
        parts.append(Part(file, 0, stop - start))
    return tuple(parts)


def _chunk_rows(count: int, row_bytes: int) -> int:
    chunks = -(-count * row_bytes // CHUNK_BYTES)
    return -(-count // chunks)


def _with_checksum(pieces: Iterable[Buffer]) -> Iterator[Buffer]:
    """Append the CRC-32C that Zarr's `crc32c` codec wants: four bytes, little-endian."""
    checksum = 0
    for piece in pieces:
        checksum = google_crc32c.extend(checksum, piece)
        yield piece
    yield checksum.to_bytes(4, "little")


def _array_metadata(array: str, shape: tuple[int, ...], dtype: np.dtype[Any], chunk_rows: int) -> dict[str, object]:
    endian = {"configuration": {"endian": "little"}} if dtype.itemsize > 1 else {}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk_rows, *shape[1:]]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        # A chunk that is gone must not read as zeros.
        "fill_value": "NaN" if dtype.kind == "f" else 0,
        "codecs": [{"name": "bytes", **endian}, {"name": "crc32c"}],
        "attributes": {},
        "dimension_names": ["row", *_WIDTH_NAMES[array]],
        "storage_transformers": [],
    }


def _json(document: dict[str, object]) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode("utf-8")
