"""Relatives: groups whose DNA is too alike to be on two sides of a split, found by k-mer sketches.

    dna.fna, beside the table of samples ─▶ a sketch a group (`sequences.sketch`) ─▶ containments ─▶ pairs of groups

Only the stop-free chunks of a genome are in that file, both strands of most, so that a containment is a little less
than that of the genomes. Two genomes of 95 % identity share about a third of their 21-mers, of 98 % two thirds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.errors import InputError
from embedstore.features import Samples
from embedstore.identity import canonical
from embedstore.records import Record
from embedstore.samples.outputs import DNA_NAME
from embedstore.sequences.in_memory import records_of
from embedstore.sequences.sketch import Hashes, Sketches, SketchOptions, shared_pairs, sketch_sources

LEAST_CONTAINMENT = 0.1
"""Of the smaller sketch in the other one: about 90 % identity."""
_LEAST_SHARED = 3
"""Hashes that two sketches share, for short sources, where one may be chance."""
_OPTIONS = SketchOptions("dna", 21, 100)


@dataclass(frozen=True, slots=True)
class Relative:
    """Two groups that are alike.

    Attributes
    ----------
    labels : of each; where they differ, one may be labelled wrongly.
    containment : share of the k-mers of the smaller one that the other one has.
    """

    first: str
    second: str
    labels: tuple[str, str]
    containment: float

    def __str__(self) -> str:
        said = f"{self.first} and {self.second} share {self.containment:.0%} of their k-mers"
        one, other = self.labels
        return said if one == other else f"{said}, but one is labelled {one}, the other {other}"

    def to_json(self) -> dict[str, Any]:
        """The pair as JSON values."""
        return asdict(self)


def find_relatives(
    samples: Samples, folder: Path, containment: float = LEAST_CONTAINMENT, *, threads: int = 2
) -> tuple[Relative, ...]:
    """Find the pairs of groups of samples that are alike, by name.

    Parameters
    ----------
    samples : of which the groups are looked at.
    folder : with `dna.fna`, as `prepare` wrote it.

    Raises
    ------
    InputError : there is no such file, or it does not have all of the samples.
    """
    places = {name: place for place, name in enumerate(samples.ids.tolist())}
    sketches = sketch_sources(_runs(samples, places, folder / DNA_NAME), _OPTIONS, threads=threads)
    if places:
        raise InputError(
            f"Cannot look for relatives in {folder / DNA_NAME}: expected the sequences of all samples, found "
            f"{len(places):,} missing, first {next(iter(places))}. Give the table that `prepare` wrote beside it."
        )
    groups = _by_group(sketches)
    labels = _labels(samples)
    return tuple(
        Relative(*names, (labels[names[0]], labels[names[1]]), pair.containment)
        for pair in shared_pairs(groups, containment)
        if pair.shared >= _LEAST_SHARED
        for names in [(groups.names[pair.first], groups.names[pair.second])]
    )


def _runs(samples: Samples, places: dict[str, int], file: Path) -> Iterator[tuple[str, Sequence[bytes]]]:
    """Yield sequences that follow each other in one group; what has been read is removed from `places`."""
    groups = samples.groups.texts()
    name, held = "", list[bytes]()
    for record in records_of(file):
        place = places.pop(record.id, None) if isinstance(record, Record) else None
        if place is None or not isinstance(record, Record):
            continue
        group = str(groups[place])
        if group != name and held:
            yield name, held
            held = []
        name = group
        held.append(canonical(record.sequence, "dna"))
    if held:
        yield name, held


def _by_group(sketches: Sketches) -> Sketches:
    """Join the sketches of one name; names are sorted."""
    parts: dict[str, list[Hashes]] = {}
    for place, name in enumerate(sketches.names):
        parts.setdefault(name, []).append(sketches.hashes[sketches.starts[place] : sketches.starts[place + 1]])
    names = sorted(name for name in parts if name)
    return Sketches.of(sketches.options, names, [np.unique(np.concatenate(parts[name])) for name in names])


def _labels(samples: Samples) -> dict[str, str]:
    """Return the label of each group; of several the first."""
    return dict(zip(samples.groups.texts()[::-1].tolist(), samples.labels.texts()[::-1].tolist(), strict=True))
