"""What is seen of the sequences: how many of their chunks have an open frame, by class, by group and by length.

A chunk with a stop in every frame gives no sample, and a sequence of such chunks only gets no call: what is measured on
samples says nothing of them. `prepare` and `predict` count while they cut, `train` and `evaluate` count again from the
sources in `prepare.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from embedstore.samples.cutting import SourceSummary

LENGTH_BOUNDS = (500, 1000, 3000, 10_000)
"""Bases at which the classes of length begin, but for the first."""
MOST_GROUPS = 10_000
"""Of more groups, such as contigs, the share of each is in the lines of the sources only."""


@dataclass(slots=True)
class SeenCounts:
    """Numbers of some sequences.

    Attributes
    ----------
    sources : sequences, `sources_without_sample` of them without a chunk that gave a sample.
    chunks : all, `chunks_seen` of them with an open frame, so that they gave samples.
    """

    sources: int = 0
    sources_without_sample: int = 0
    chunks: int = 0
    chunks_seen: int = 0

    def add(self, source: SourceSummary) -> None:
        """Add a sequence."""
        self.sources += 1
        self.sources_without_sample += not source.samples
        self.chunks += source.chunks
        self.chunks_seen += source.chunks_seen

    def to_json(self) -> dict[str, Any]:
        """The numbers as JSON values, with the share of the chunks that are seen; None of no chunk."""
        return {
            "sources": self.sources,
            "sources_without_sample": self.sources_without_sample,
            "chunks": self.chunks,
            "chunks_seen": self.chunks_seen,
            "share": self.chunks_seen / self.chunks if self.chunks else None,
        }


def _of_lengths() -> list[SeenCounts]:
    return [SeenCounts() for _ in range(len(LENGTH_BOUNDS) + 1)]


@dataclass(slots=True)
class Seen:
    """Tally of the chunks with an open frame.

    Attributes
    ----------
    by_label : "" is unlabelled.
    by_length : one more than `LENGTH_BOUNDS`.
    by_group : None of more than `MOST_GROUPS`.
    """

    total: SeenCounts = field(default_factory=SeenCounts)
    by_label: dict[str, SeenCounts] = field(default_factory=dict)
    by_length: list[SeenCounts] = field(default_factory=_of_lengths)
    by_group: dict[str, SeenCounts] | None = field(default_factory=dict)

    def add(self, source: SourceSummary) -> None:
        """Add a sequence."""
        parts = [
            self.total,
            self.by_label.setdefault(source.label, SeenCounts()),
            self.by_length[int(np.searchsorted(LENGTH_BOUNDS, source.length_bases, side="right"))],
        ]
        if self.by_group is not None:
            parts.append(self.by_group.setdefault(source.group, SeenCounts()))
        for part in parts:
            part.add(source)
        if self.by_group is not None and len(self.by_group) > MOST_GROUPS:
            self.by_group = None

    def to_json(self) -> dict[str, Any]:
        """The tally as JSON values: that of all, and lists by label, by length and by group (or None)."""
        edges = (0, *LENGTH_BOUNDS)
        spans = [*((low, high - 1) for low, high in pairwise(edges)), (edges[-1], None)]
        lengths = [
            {"from": low, "to": high, **counts.to_json()}
            for (low, high), counts in zip(spans, self.by_length, strict=True)
            if counts.sources
        ]
        return {
            **self.total.to_json(),
            "by_label": _listed("label", self.by_label),
            "by_length": lengths,
            "by_group": None if self.by_group is None else _listed("group", self.by_group),
        }


def _listed(name: str, parts: Mapping[str, SeenCounts]) -> list[dict[str, Any]]:
    return [{name: each, **parts[each].to_json()} for each in sorted(parts)]
