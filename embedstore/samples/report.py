"""What prepare did, as a value and as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedstore.samples.cutting import REASONS, CutSamples
from embedstore.samples.inputs import LabelledInput
from embedstore.samples.options import PrepareOptions
from embedstore.types import Rejection


@dataclass(slots=True)
class PrepareCounts:
    """How much went in and came out; brought up to date as a run goes.

    Attributes
    ----------
    records : read, rejected ones included.
    bases : of all sequences that were accepted and are cut up completely.
    chunks : those that gave samples, and those that were dropped.
    dropped : chunks that gave no sample, by reason.
    samples_by_label : "" is unlabelled.
    """

    records: int = 0
    sequences: int = 0
    bases: int = 0
    chunks: int = 0
    samples: int = 0
    samples_by_label: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(REASONS, 0)))

    def add(self, cut: CutSamples, records: int) -> None:
        """Take in the samples of one window, and how many records were read so far."""
        self.records = records
        self.samples += len(cut.table)
        self.samples_by_label.update(cut.table.labels)
        for summary in cut.finished:
            self.sequences += 1
            self.bases += summary.length_bases
            self.chunks += summary.chunks
            self.dropped.update(summary.dropped)

    def to_json(self) -> dict[str, Any]:
        """The counts as JSON values."""
        return {
            "records": self.records,
            "sequences": self.sequences,
            "bases": self.bases,
            "chunks": self.chunks,
            "samples": self.samples,
            "samples_by_label": dict(self.samples_by_label),
            "dropped": dict(self.dropped),
        }


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """What prepare did.

    Attributes
    ----------
    output : folder of the files.
    skipped : files of input folders that are not called like DNA files.
    """

    output: Path
    options: PrepareOptions
    inputs: tuple[LabelledInput, ...]
    files: int
    skipped: tuple[str, ...]
    counts: PrepareCounts
    rejected: tuple[Rejection, ...]
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether every record was a DNA sequence."""
        return not self.rejected

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "inputs": [{"path": one.path, "label": one.label} for one in self.inputs],
            "options": self.options.to_json(),
            "preparation": self.options.preparation(),
            "files": self.files,
            "skipped_files": list(self.skipped),
            **self.counts.to_json(),
            "rejected": [rejection._asdict() for rejection in self.rejected],
            "seconds": round(self.seconds, 3),
        }
