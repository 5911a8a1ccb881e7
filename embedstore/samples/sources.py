"""From records to sources: canonical DNA with a unique id, a group and a label. What is no DNA is kept aside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from embedstore.errors import MoleculeError, SequenceError
from embedstore.identity import canonical, looks_like_dna
from embedstore.samples.inputs import SourceFile
from embedstore.samples.naming import UniqueNames
from embedstore.sequences import read
from embedstore.types import Record, Rejection

_JUDGED_RECORDS = 1000
"""Records by which it is judged whether the input is DNA at all."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One sequence that chunks are cut from.

    Attributes
    ----------
    id : unique in the table.
    record_id : as it was read.
    letters : canonical DNA.
    raw : as it was read: blanks and case are still there, and U.
    """

    id: str
    record_id: str
    file: SourceFile
    group: str
    label: str
    letters: bytes
    raw: bytes


@dataclass(slots=True)
class SourceReader:
    """Iterates over the sources of files, and keeps aside the records that are none.

    Every file is opened before the first source is given out, so that a wrong name is told at once.

    Raises
    ------
    SequenceFileError : see `embedstore.sequences.read`.
    MoleculeError : more than half of the first 1 000 records are proteins.
    """

    files: Sequence[SourceFile]
    read: int = 0
    """Records, rejected ones included."""
    rejected: list[Rejection] = field(default_factory=list)
    _proteins: int = 0

    def __iter__(self) -> Iterator[Source]:
        read([file.path for file in self.files])
        ids, groups = UniqueNames(), UniqueNames()
        for file in self.files:
            file_group = groups.unique(file.stem)
            for record in read([file.path]):
                self.read += 1
                letters = self._letters(record)
                if self.read == _JUDGED_RECORDS:
                    self._judge_molecule()
                if letters is None or isinstance(record, Rejection):
                    continue
                id_ = ids.unique(record.id)
                group = file_group if file.group_by == "file" else id_
                yield Source(id_, record.id, file, group, file.label, letters, record.sequence)
        if self.read < _JUDGED_RECORDS:
            self._judge_molecule()

    def _letters(self, record: Record | Rejection) -> bytes | None:
        if isinstance(record, Rejection):
            self.rejected.append(record)
            return None
        try:
            return canonical(record.sequence, "dna")
        except SequenceError as error:
            self.rejected.append(Rejection(record.file, record.line, record.id, error.reason))
            if self.read <= _JUDGED_RECORDS and _is_protein(record.sequence):
                self._proteins += 1
            return None

    def _judge_molecule(self) -> None:
        if self._proteins * 2 > self.read:
            raise MoleculeError(
                f"Cannot prepare samples from this input: expected DNA, found that {self._proteins} of the first "
                f"{self.read} records are proteins. Give the genomes that they come from; proteins need no preparing, "
                "and can be filled as they are."
            )


def _is_protein(sequence: bytes) -> bool:
    try:
        return not looks_like_dna(canonical(sequence, "protein"))
    except SequenceError:
        return False
