"""From records to windows of canonical sequences and their keys; unusable records are kept aside with their reason.

Distinct keys are counted exactly, in bounded memory however many there are: `DistinctKeys`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import compress, islice
from types import TracebackType
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import MoleculeError, SequenceError
from embedstore.identity import Molecule, canonical, key_array, looks_like_dna, sequence_key
from embedstore.models.registry import MODELS
from embedstore.records import KEY_BYTES, Keys, Record, Rejection

_PARTITIONS = 256


class DistinctKeys:
    """Counts distinct keys.

    Keys are held in memory until there are `capacity`; then the distinct ones go, sorted, to a temporary file. As keys
    are digests, their first byte parts them evenly: at the end each of the 256 parts is gathered from all sorted runs
    and counted alone.
    """

    def __init__(self, capacity: int = 1 << 18) -> None:
        self._capacity = capacity
        self._held: list[Keys] = []
        self._held_rows = 0
        self._file: IO[bytes] | None = None
        self._runs: list[NDArray[np.int64]] = []
        """One (257,) array a run: the file rows between which each part of it lies."""
        self._rows_written = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, keys: Keys) -> None:
        """Take in (n, 24) uint8 keys."""
        self._held.append(keys)
        self._held_rows += len(keys)
        if self._held_rows >= self._capacity:
            self._shrink()

    def count(self) -> int:
        """Return how many distinct keys were taken in so far."""
        distinct = sorted_distinct(np.concatenate(self._held)) if self._held else np.empty((0, KEY_BYTES), np.uint8)
        if not self._runs:
            return len(distinct)
        self._write_run(distinct)
        self._held, self._held_rows = [], 0
        return sum(self._count_part(part) for part in range(_PARTITIONS))

    def _shrink(self) -> None:
        distinct = sorted_distinct(np.concatenate(self._held))
        if len(distinct) > self._capacity // 2:
            self._write_run(distinct)
            distinct = distinct[:0]
        self._held, self._held_rows = [distinct], len(distinct)

    def _write_run(self, distinct: Keys) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="embedstore-keys-")  # noqa: SIM115
        self._file.seek(self._rows_written * KEY_BYTES)
        self._file.write(distinct.tobytes())
        bounds = np.searchsorted(distinct[:, 0], np.arange(_PARTITIONS + 1))
        self._runs.append(bounds + self._rows_written)
        self._rows_written += len(distinct)

    def _count_part(self, part: int) -> int:
        if self._file is None:
            return 0
        pieces = []
        for run in self._runs:
            start, stop = int(run[part]), int(run[part + 1])
            self._file.seek(start * KEY_BYTES)
            pieces.append(np.frombuffer(self._file.read((stop - start) * KEY_BYTES), np.uint8).reshape(-1, KEY_BYTES))
        return len(sorted_distinct(np.concatenate(pieces)))


def sorted_distinct(keys: Keys) -> Keys:
    """Return the distinct rows of (n, 24) uint8 keys, sorted by their bytes.

    Sorting the first eight bytes as one number nearly always sorts the keys; only if two keys share those and differ
    later are the others sorted too.
    """
    words = np.ascontiguousarray(keys).view(">u8")  # (n, 3)
    words = words[np.argsort(words[:, 0].astype(np.uint64))]
    same_head = words[1:, 0] == words[:-1, 0]
    same = (words[1:] == words[:-1]).all(axis=1)
    if not np.array_equal(same_head, same):
        words = words[np.lexsort((words[:, 2], words[:, 1], words[:, 0]))]
        same = (words[1:] == words[:-1]).all(axis=1)
    kept = np.ones(len(words), dtype=np.bool_)
    kept[1:] = ~same
    return np.ascontiguousarray(words[kept]).view(np.uint8)


WINDOW_RECORDS = 4096
WINDOW_RESIDUES = 8 << 20
FIRST_WINDOW_RECORDS = 1000
"""Records by which the molecule is judged before any work begins."""

_LOOKS_LIKE_DNA = "looks like DNA: at least 95 % of its residues are A, C, G, T, U or N"


@dataclass(frozen=True, slots=True)
class Window:
    """Accepted records, their canonical sequences and 24-byte keys: a row each, in the order of the input."""

    records: list[Record]
    sequences: list[bytes]
    keys: list[bytes]

    def key_array(self) -> Keys:
        """(n, 24) uint8."""
        return key_array(self.keys)

    def only(self, wanted: NDArray[np.bool_]) -> Window:
        """Return a window of those rows for which `wanted`, (n,), is true."""
        return Window(
            list(compress(self.records, wanted)),
            list(compress(self.sequences, wanted)),
            list(compress(self.keys, wanted)),
        )


@dataclass(slots=True)
class Intake:
    """Iterates over windows of `records`, and counts what it has read and rejected.

    Parameters
    ----------
    records : as they are read; a Rejection is passed on to `rejected`.
    molecule : what the model embeds.
    any_molecule : accept sequences that look like the other molecule.

    Raises
    ------
    MoleculeError : more than half of the first 1 000 records are of the other molecule.
    """

    records: Iterable[Record | Rejection]
    molecule: Molecule
    any_molecule: bool = False
    read: int = 0
    rejected: list[Rejection] = field(default_factory=list)
    _other_molecule: int = 0

    def __iter__(self) -> Iterator[Window]:
        source = iter(self.records)
        window = self._window(source, FIRST_WINDOW_RECORDS)
        self._judge_molecule()
        while window is not None:
            yield window
            window = self._window(source, WINDOW_RECORDS)

    def _window(self, source: Iterator[Record | Rejection], limit: int) -> Window | None:
        molecule = self.molecule
        watch_for_dna = molecule == "protein" and not self.any_molecule
        records: list[Record] = []
        sequences: list[bytes] = []
        read = residues = 0
        for record in islice(source, limit):
            read += 1
            if isinstance(record, Rejection):
                self.rejected.append(record)
                continue
            try:
                sequence = canonical(record.sequence, molecule)
            except SequenceError as error:
                self._reject(record, error.reason)
                continue
            if watch_for_dna and looks_like_dna(sequence):
                self._other_molecule += 1
                self._reject(record, _LOOKS_LIKE_DNA)
                continue
            records.append(record)
            sequences.append(sequence)
            residues += len(sequence)
            if residues >= WINDOW_RESIDUES:
                break
        self.read += read
        return Window(records, sequences, list(map(sequence_key, sequences))) if read else None

    def _reject(self, record: Record, reason: str) -> None:
        self.rejected.append(Rejection(record.file, record.line, record.id, reason))
        if self.molecule == "dna" and self.read < FIRST_WINDOW_RECORDS and _is_protein(record.sequence):
            self._other_molecule += 1

    def _judge_molecule(self) -> None:
        if self.any_molecule or self._other_molecule * 2 <= self.read:
            return
        other = "DNA" if self.molecule == "protein" else "protein"
        mine = "DNA" if self.molecule == "dna" else "protein"
        models = ", ".join(spec.name for spec in MODELS.values() if spec.molecule != self.molecule)
        insist = (
            "" if self.molecule == "dna" else " To embed them nonetheless, give --any-molecule (any_molecule=True)."
        )
        raise MoleculeError(
            f"Cannot embed this input with a {mine} model: expected {mine} sequences, found {other} in "
            f"{self._other_molecule} of the first {self.read} records. "
            f"Use a {other} model ({models}).{insist}"
        )


class Selection:
    """Ids and keys of the accepted records, in the order of the input: what was asked for."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._keys: list[Keys] = []

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, window: Window) -> None:
        """Take in the records of one more window."""
        self.ids.extend([record.id for record in window.records])
        self._keys.append(window.key_array())

    @property
    def keys(self) -> Keys:
        """(n, 24) uint8."""
        return np.concatenate(self._keys) if self._keys else np.empty((0, KEY_BYTES), np.uint8)


def _is_protein(sequence: bytes) -> bool:
    try:
        residues = canonical(sequence, "protein")
    except SequenceError:
        return False
    return not looks_like_dna(residues)
