"""Vectors of records as one file for other programs: `ids`, `keys` and `X`, one row per record, in their order.

The formats are those of `array_files`; `space`, `space_id` and `recipe` (JSON) are attributes. Vectors pass through by
blocks; the file appears under its name when it is complete.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore import array_files
from embedstore.array_files import SUFFIXES, TEXT, Column
from embedstore.atomic import replacing
from embedstore.errors import InputError
from embedstore.retrieval import Retrieved

__all__ = ["SUFFIXES", "check_path", "export"]

_BLOCK_BYTES = 16 << 20
_IDS_A_BLOCK = 1 << 16


def export(rows: Retrieved, path: Path) -> None:
    """Write ids, keys and vectors of records; what was at `path` before is replaced.

    Parameters
    ----------
    rows : the records, with the vectors that belong to them.
    path : its suffix, one of `SUFFIXES`, says the format.

    Raises
    ------
    InputError : the suffix is none of `SUFFIXES`, a folder of something else is there, or an id holds a NUL character.
    StorageError : the file cannot be written.
    CorruptStoreError : vectors cannot be read.
    """
    check_path(path)
    odd = next((id_ for id_ in rows.ids if "\0" in id_), None)
    if odd is not None:
        raise InputError(f"Cannot export to {path}: the id {odd!r} holds a NUL character, which no format can store.")
    with replacing(path) as temporary:
        array_files.write_columns(temporary, path.suffix, _columns(rows), partial(_attributes, rows))


def check_path(path: Path) -> None:
    """Refuse a path that cannot be exported to.

    Parameters
    ----------
    path : where the file is to lie.

    Raises
    ------
    InputError : its suffix is none of `SUFFIXES`, or a folder of something else is there.
    """
    array_files.check_path(path, "export to")


def _columns(rows: Retrieved) -> list[Column]:
    count, dtype = len(rows.ids), np.dtype(rows.recipe.dtype)
    block_rows = max(1, _BLOCK_BYTES // (rows.recipe.dim * dtype.itemsize))

    def ids() -> Iterator[NDArray[Any]]:
        for start in range(0, count, _IDS_A_BLOCK):
            yield np.array(rows.ids[start : start + _IDS_A_BLOCK], dtype=TEXT)

    def keys() -> Iterator[NDArray[Any]]:
        for start in range(0, count, _IDS_A_BLOCK):
            yield rows.keys[start : start + _IDS_A_BLOCK]

    def vectors() -> Iterator[NDArray[Any]]:
        for start in range(0, count, block_rows):
            yield rows.read(start, start + block_rows)

    return [
        Column("ids", (count,), TEXT, _IDS_A_BLOCK, ids),
        Column("keys", rows.keys.shape, rows.keys.dtype, _IDS_A_BLOCK, keys),
        Column("X", (count, rows.recipe.dim), dtype, block_rows, vectors),
    ]


def _attributes(rows: Retrieved) -> dict[str, str]:
    """What a reader needs to know where the numbers come from."""
    recipe = json.dumps(rows.recipe.to_json(), sort_keys=True)
    return {"space": rows.name, "space_id": rows.recipe.id, "recipe": recipe}
