"""Records of whatever holds sequences: a path, bare sequences, pairs, mappings, Biopython's and pandas' objects.

Objects of pandas and Biopython are told by the module of their class, so that neither is imported for others' sake.
What could be meant in two ways is refused.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from embedstore.errors import InputError
from embedstore.records import Record, Rejection
from embedstore.sequences.reading import read

_EXPECTED = "expected a path, or a list of sequences, Records, Biopython records or (id, sequence) pairs"


def records_of(given: Any) -> Iterator[Record | Rejection]:
    """Make records of what holds sequences; `line` is the position, from 1, where there is no file.

    Raises
    ------
    InputError : one sequence in place of many, or something that is not a sequence, or is ambiguous.
    """
    if isinstance(given, Path) or (isinstance(given, str) and _is_file(given)):
        yield from read([given])
    elif isinstance(given, (str, bytes, Record, Rejection)) or _is_from(given, "Bio", "Seq", "MutableSeq", "SeqRecord"):
        raise InputError(
            f"Cannot take {type(given).__name__} as sequences: {_EXPECTED}. "
            "Give [sequence] for one; a text is a path only where a file of that name exists."
        )
    elif isinstance(given, io.IOBase):
        raise InputError(f"Cannot take an open file as sequences: {_EXPECTED}. Give its path.")
    elif _is_from(given, "pandas", "DataFrame"):
        yield from _of_pairs(_pairs_of_frame(given))
    elif isinstance(given, Mapping) or _is_from(given, "pandas", "Series"):
        yield from _of_pairs(given.items())
    elif isinstance(given, Iterable):
        for position, item in enumerate(given, start=1):
            yield from _of_item(item, position)
    else:
        raise InputError(f"Cannot take {type(given).__name__} as sequences: {_EXPECTED}.")


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a sequence is too long for a name
        return False


def _of_item(item: Any, position: int) -> Iterator[Record | Rejection]:
    if isinstance(item, (Record, Rejection)):
        yield item
    elif isinstance(item, Path):
        yield from read([item])
    elif isinstance(item, tuple) and len(item) == 2:
        yield Record(_id_text(item[0], position), _sequence_bytes(item[1], position), "", position)
    elif _is_from(item, "Bio", "SeqRecord"):
        yield Record(_id_text(item.id, position), _sequence_bytes(item, position), "", position)
    else:
        yield Record("", _sequence_bytes(item, position), "", position)


def _of_pairs(pairs: Iterable[tuple[Any, Any]]) -> Iterator[Record]:
    for position, (name, sequence) in enumerate(pairs, start=1):
        yield Record(_id_text(name, position), _sequence_bytes(sequence, position), "", position)


def _pairs_of_frame(frame: Any) -> Iterable[tuple[Any, Any]]:
    columns = list(frame.columns)
    found = [name for name in columns if name in ("sequence", "seq")]
    if len(found) != 1 or columns.count("id") > 1:
        raise InputError(
            "Cannot take a DataFrame as sequences: expected one column named sequence or seq, and at most one named "
            f"id, found {', '.join(map(repr, columns)) or 'none'}. Name them so, or give the column itself."
        )
    return zip(frame["id"] if "id" in columns else frame.index, frame[found[0]], strict=True)


def _id_text(name: Any, position: int) -> str:
    if isinstance(name, bytes):
        return name.decode("utf-8", "replace")
    if name is None or isinstance(name, (tuple, list, Mapping)) or name != name:
        raise InputError(f"Cannot take the id of item {position}: expected a text, found {type(name).__name__}.")
    return str(name)


def _sequence_bytes(item: Any, position: int) -> bytes:
    if _is_from(item, "Bio", "SeqRecord"):
        item = item.seq
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode("utf-8", "replace")
    if _is_from(item, "Bio", "Seq", "MutableSeq"):
        return bytes(item)
    raise InputError(
        f"Cannot take item {position} as a sequence: expected a Record, str, bytes, Biopython Seq or SeqRecord, or "
        f"an (id, sequence) pair, found {type(item).__name__}."
    )


def _is_from(item: object, package: str, *names: str) -> bool:
    """Tell whether an object is of a class of that package, or of one derived from it."""
    return any(each.__name__ in names and each.__module__.partition(".")[0] == package for each in type(item).__mro__)
