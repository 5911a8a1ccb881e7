r"""The table of samples: one row for each thing that is classified, as `samples.tsv`.

Tab-separated, UTF-8, one header line, `\n` line ends, no quoting; control characters are escaped, see `output.cell`.
Columns are found by name; other columns are allowed. `start` and `end` are as in GFF: 1-based, both ends included,
always on the forward strand of the source. `frame` is 1, 2 or 3, counted from the chunk's first base on `strand`. An
empty label means unlabelled.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from embedstore.atomic import cell, from_cell
from embedstore.errors import InputError, plain
from embedstore.records import KEY_BYTES, Keys

COLUMNS = ("sample", "source", "group", "label", "start", "end", "strand", "frame", "dna_key", "protein_key")

_KEY_PREFIX = "SQ."
_KEY_CHARACTERS = 32
_STRANDS = ("+", "-")
_BATCH_ROWS = 1 << 16
_LARGEST_DIGITS = 18
_SHOWN_CHARACTERS = 80


class Sample(NamedTuple):
    """One row. Keys are the 24-byte keys of its sequences."""

    sample: str
    source: str
    group: str
    label: str
    start: int
    end: int
    strand: str
    frame: int
    dna_key: bytes
    protein_key: bytes


@dataclass(frozen=True, slots=True, eq=False)
class SampleBatch:
    """Rows of the table as columns of one length n.

    Parameters
    ----------
    samples : n ids.
    sources : n ids of the sequences that they were cut from.
    groups : n names.
    labels : n texts, "" for none.
    starts : (n,) int64.
    ends : (n,) int64.
    strands : n of + and -.
    frames : (n,) int64.
    dna_keys : (n, 24) uint8.
    protein_keys : (n, 24) uint8.

    Raises
    ------
    InputError : the columns differ in length.
    """

    samples: tuple[str, ...]
    sources: tuple[str, ...]
    groups: tuple[str, ...]
    labels: tuple[str, ...]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    strands: tuple[str, ...]
    frames: NDArray[np.int64]
    dna_keys: Keys
    protein_keys: Keys

    def __post_init__(self) -> None:
        lengths = [len(column) for column in self._columns()]
        if len(set(lengths)) > 1:
            raise InputError(f"Cannot make a batch of samples: expected columns of one length, found {lengths}.")

    def __len__(self) -> int:
        return len(self.samples)

    def rows(self) -> Iterator[Sample]:
        """Iterate over the rows."""
        starts, ends, frames = self.starts.tolist(), self.ends.tolist(), self.frames.tolist()
        dna_keys, protein_keys = map(bytes, self.dna_keys), map(bytes, self.protein_keys)
        texts = (self.samples, self.sources, self.groups, self.labels)
        columns = zip(*texts, starts, ends, self.strands, frames, dna_keys, protein_keys, strict=True)
        return map(Sample._make, columns)

    def _columns(self) -> tuple[Sequence[str] | NDArray[np.int64] | Keys, ...]:
        texts = (self.samples, self.sources, self.groups, self.labels, self.strands)
        return (*texts, self.starts, self.ends, self.frames, self.dna_keys, self.protein_keys)


class SampleWriter:
    """Writes the table to a binary stream, the header at once."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._stream.write(("\t".join(COLUMNS) + "\n").encode())

    def write(self, batch: SampleBatch) -> None:
        """Append rows."""
        columns = (
            *(map(cell, texts) for texts in (batch.samples, batch.sources, batch.groups, batch.labels)),
            map(str, batch.starts.tolist()),
            map(str, batch.ends.tolist()),
            batch.strands,
            map(str, batch.frames.tolist()),
            _key_texts(batch.dna_keys),
            _key_texts(batch.protein_keys),
        )
        lines = ["\t".join(fields) for fields in zip(*columns, strict=True)]
        self._stream.write("\n".join([*lines, ""]).encode())


def read_samples(path: str | Path, batch_rows: int = _BATCH_ROWS) -> Iterator[SampleBatch]:
    """Read the table in batches of at most `batch_rows` rows, in its order.

    Raises
    ------
    InputError : it is not such a table, or a row is malformed; the message has the line.
    """
    with _open(path) as stream:
        try:
            places = _column_places(stream.readline(), path)
            line = 2
            while lines := list(islice(stream, batch_rows)):
                yield _parse(lines, places, path, line)
                line += len(lines)
        except OSError as error:
            raise InputError(f"Cannot read the samples {path}: {error.strerror or error}.") from error
        except UnicodeDecodeError as error:
            raise InputError(f"Cannot read the samples {path}: expected UTF-8 text, found {error.reason}.") from error


def _open(path: str | Path) -> TextIO:
    try:
        return Path(path).open(encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(f"Cannot read the samples {path}: {error.strerror}. Give a table of samples.") from error


def _column_places(header: str, path: str | Path) -> list[int]:
    names = header.rstrip("\r\n").split("\t")
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise InputError(
            f"Cannot read the samples {path}: expected the columns {', '.join(COLUMNS)} separated by tabs, found a "
            f"first line without {', '.join(missing)}. `embedstore prepare` writes such a table."
        )
    return [names.index(name) for name in COLUMNS]


def _parse(lines: list[str], places: list[int], path: str | Path, first_line: int) -> SampleBatch:
    rows = [line.rstrip("\r\n").split("\t") for line in lines]
    fields_needed = max(places) + 1
    for number, row in enumerate(rows, start=first_line):
        if len(row) < fields_needed:
            raise _malformed(path, number, f"expected at least {fields_needed} fields, found {len(row)}")
    columns = [tuple([row[place] for row in rows]) for place in places]
    if any("\\" in line for line in lines):
        columns[:4] = [tuple(map(from_cell, texts)) for texts in columns[:4]]
    samples, sources, groups, labels, starts, ends, strands, frames, dna_keys, protein_keys = columns
    for number, strand in enumerate(strands, start=first_line):
        if strand not in _STRANDS:
            raise _malformed(path, number, f"expected + or - as the strand, found {_shown(strand)}")
    return SampleBatch(
        samples,
        sources,
        groups,
        labels,
        _numbers(starts, "start", path, first_line),
        _numbers(ends, "end", path, first_line),
        strands,
        _numbers(frames, "frame", path, first_line),
        _keys(dna_keys, "dna_key", path, first_line),
        _keys(protein_keys, "protein_key", path, first_line),
    )


def _numbers(texts: tuple[str, ...], column: str, path: str | Path, first_line: int) -> NDArray[np.int64]:
    for number, text in enumerate(texts, start=first_line):
        if not (text.isascii() and text.isdecimal() and len(text) <= _LARGEST_DIGITS):
            raise _malformed(path, number, f"expected a whole number as {column}, found {_shown(text)}")
    return np.array([int(text) for text in texts], dtype=np.int64)


def _key_texts(keys: Keys) -> list[str]:
    """Write keys as text, all at once: see `_keys`."""
    joined = base64.urlsafe_b64encode(keys.tobytes()).decode("ascii")
    return [_KEY_PREFIX + joined[place : place + _KEY_CHARACTERS] for place in range(0, len(joined), _KEY_CHARACTERS)]


def _keys(texts: tuple[str, ...], column: str, path: str | Path, first_line: int) -> Keys:
    """Read keys as one text: each is whole groups of base64 characters, so they can be decoded end to end."""
    for number, text in enumerate(texts, start=first_line):
        if len(text) != len(_KEY_PREFIX) + _KEY_CHARACTERS or not text.startswith(_KEY_PREFIX):
            raise _malformed(
                path,
                number,
                f"expected SQ. and {_KEY_CHARACTERS} base64url characters as {column}, found {_shown(text)}",
            )
    joined = "".join([text[len(_KEY_PREFIX) :] for text in texts])
    try:
        keys = base64.b64decode(joined, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        keys = b""
    if len(keys) != KEY_BYTES * len(texts):
        lines = f"{first_line} to {first_line + len(texts) - 1}"
        raise InputError(f"Cannot read the samples {path}: expected base64url characters as {column} in lines {lines}.")
    return np.frombuffer(keys, dtype=np.uint8).reshape(-1, KEY_BYTES)


def _shown(text: str) -> str:
    return plain(repr(text), _SHOWN_CHARACTERS)


def _malformed(path: str | Path, line: int, reason: str) -> InputError:
    return InputError(f"Cannot read the samples {path}: line {line}: {reason}.")
