"""Relatives: groups whose sequences are too alike to be on two sides of a split, found by k-mer sketches.

    dna.fna, protein.faa, beside the table of samples ─▶ sketches of each group (`sequences.sketch`)
        ─▶ containments, of 21-mers of DNA and of 10-mers of residues ─▶ pairs of groups that are alike

Only the stop-free chunks of a genome are in these files, so that a containment is a little less than that of the
genomes, and a genome of few chunks may have none in common with a strain of it. Two genomes of 98 % identity share
about 0.65 of their 21-mers, of 95 % a third, of 90 % a tenth; their proteins tell relatives whose DNA has changed more,
such as SARS-CoV and SARS-CoV-2 (0.04 of their 21-mers, 0.4 of the 10-mers of their proteins).

The thresholds lie between what was measured on 64 genomes of 46 genera: those that are not relatives share less than
0.02 of all 21-mers of their DNA and 0.06 of the 10-mers of their proteins, and mutated twins of 5 % at least 0.2 of
their DNA if they have a chunk in common (288 of 289 were found); of 10 % about 0.1. What is sampled varies around that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from embedstore.errors import InputError
from embedstore.features import Samples
from embedstore.features.features import Categories
from embedstore.identity import Molecule, canonical
from embedstore.records import Record
from embedstore.samples.outputs import DNA_NAME, PROTEIN_NAME
from embedstore.sequences.in_memory import records_of
from embedstore.sequences.sketch import Near, Sketches, SketchIndex, SketchOptions, scaled_for, sketch_sources
from embedstore.sequences.translation import CODON_BASES
from embedstore.store.segment_files import as_strings

DNA = SketchOptions("dna", 21, 1)
RESIDUES = SketchOptions("residues", 10, 1)
LEAST_DNA = 0.03
"""Share of the 21-mers of the smaller of two groups that makes them relatives: about 85 % identity."""
LEAST_RESIDUES = 0.15
"""The same of the 10-mers of proteins: about 83 % identity of residues."""
LEAST_SHARED = 3
"""Hashes that two groups share, for short ones, where one may be chance."""
MOST_HASHES = 1 << 23
"""Of all groups together, of DNA and of proteins each: 64 MiB."""
_FILES: Mapping[str, str] = {"dna": DNA_NAME, "residues": PROTEIN_NAME}
_RUN_SEQUENCES = 1 << 14
MOST_NAMED = 1000
"""Pairs that are kept for reports."""


@dataclass(frozen=True, slots=True)
class Relative:
    """Two groups that are alike.

    Attributes
    ----------
    labels : of each; where they differ, one may be labelled wrongly.
    containment : share of the 21-mers of the smaller one that the other one has.
    of_residues : likewise of the 10-mers of their proteins.
    """

    first: str
    second: str
    labels: tuple[str, str]
    containment: float
    of_residues: float = 0.0

    @property
    def two_labels(self) -> bool:
        """Whether the two are labelled differently."""
        return self.labels[0] != self.labels[1] and "" not in self.labels

    def __str__(self) -> str:
        of_proteins = self.containment < LEAST_DNA
        share, of_what = (self.of_residues, "their proteins' ") if of_proteins else (self.containment, "their ")
        said = f"{self.first} and {self.second} share {share:.0%} of {of_what}k-mers"
        one, other = self.labels
        return f"{said}, but one is labelled {one}, the other {other}" if self.two_labels else said

    def to_json(self) -> dict[str, Any]:
        """The pair as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Alike:
    """Which groups are relatives.

    Attributes
    ----------
    count : pairs.
    two_labels : pairs of which one is labelled otherwise than the other.
    named : at most 1,000 of the pairs, those under two labels first, then the most alike.
    links : pairs of names, enough to connect all that are relatives.
    """

    count: int = 0
    two_labels: int = 0
    named: tuple[Relative, ...] = ()
    links: tuple[tuple[str, str], ...] = ()


def find_relatives(samples: Samples, folder: Path, *, threads: int = 2) -> tuple[Relative, ...]:
    """Find the pairs of groups of samples that are alike, by name; at most 1,000 of them.

    Parameters
    ----------
    samples : of which the groups are looked at.
    folder : with `dna.fna` and `protein.faa`, as `prepare` wrote them; without proteins only DNA is compared.

    Raises
    ------
    InputError : there is no DNA, or a file does not have all of the samples.
    """
    sketches = sketch_samples(samples, samples.groups, folder, threads=threads)
    return tuple(sorted(alike(sketches, labels_of(samples)).named, key=lambda one: (one.first, one.second)))


def sketch_samples(samples: Samples, column: Categories, folder: Path, *, threads: int = 2) -> tuple[Sketches, ...]:
    """Sketch the DNA of samples, and their proteins if these are there, by group or source; names are sorted.

    Parameters
    ----------
    column : groups or sources of the samples; those without one are left out.
    folder : with `dna.fna`, and perhaps `protein.faa`.

    Raises
    ------
    InputError : there is no DNA, or a file does not have all of the samples.
    """
    kinds = [DNA, RESIDUES] if (folder / PROTEIN_NAME).is_file() else [DNA]
    return tuple(_sketched(samples, column, folder, kind, threads) for kind in kinds)


def _sketched(samples: Samples, column: Categories, folder: Path, kind: SketchOptions, threads: int) -> Sketches:
    file = folder / _FILES[kind.kind]
    has_name = column.codes >= 0
    bases = np.maximum(samples.end - samples.start + 1, 0)[has_name].astype(np.float64)
    lengths = np.bincount(column.codes[has_name], bases, minlength=len(column.names)).astype(np.int64)
    scaled = scaled_for(lengths if kind.kind == "dna" else lengths // CODON_BASES, MOST_HASHES)
    by_name = dict(zip(column.names.tolist(), scaled.tolist(), strict=True))
    places = {name: place for place, name in enumerate(samples.ids.tolist())}
    runs = _runs(column, places, file, "dna" if kind.kind == "dna" else "protein")
    found = sketch_sources(runs, kind, scaled=by_name, threads=threads).joined()
    if places:
        raise InputError(
            f"Cannot look for relatives in {file}: expected the sequences of all samples, found {len(places):,} "
            f"missing, first {next(iter(places))}. Give the table that `prepare` wrote beside it."
        )
    return found


def _runs(
    column: Categories, places: dict[str, int], file: Path, molecule: Molecule
) -> Iterator[tuple[str, Sequence[bytes]]]:
    """Yield sequences that follow each other in one group; what has been read is removed from `places`."""
    name, held, names = -1, list[bytes](), column.names
    for record in records_of(file):
        place = places.pop(record.id, None) if isinstance(record, Record) else None
        if place is None or not isinstance(record, Record) or column.codes[place] < 0:
            continue
        group = int(column.codes[place])
        if held and (group != name or len(held) >= _RUN_SEQUENCES):
            yield str(names[name]), held
            held = []
        name = group
        held.append(canonical(record.sequence, molecule))
    if held:
        yield str(names[name]), held


def labels_of(samples: Samples) -> dict[str, str]:
    """Return the label of each group; of several the first."""
    return dict(zip(samples.groups.texts()[::-1].tolist(), samples.labels.texts()[::-1].tolist(), strict=True))


def alike(sketches: Sequence[Sketches], labels: Mapping[str, str]) -> Alike:
    """Find which groups are relatives, by their DNA or by their proteins.

    Parameters
    ----------
    sketches : of the DNA of groups, and perhaps of their proteins.
    labels : of each group, "" for none.
    """
    names = sketches[0].names if sketches else ()
    if not names:
        return Alike()
    found = _Found(np.array([labels[name] for name in names]))
    for kind, (some, threshold) in enumerate(zip(sketches, (LEAST_DNA, LEAST_RESIDUES), strict=False)):
        for near in SketchIndex(some).near(None, threshold, least_shared=LEAST_SHARED, of="smaller"):
            found.add(near, kind)
    pairs = np.unique(np.concatenate(found.pairs))
    differ = found.differ(pairs // len(names), pairs % len(names))
    named = [
        Relative(names[one], names[other], (labels[names[one]], labels[names[other]]), *share)
        for (one, other), share in found.shares.items()
    ]
    named.sort(key=lambda one: (not one.two_labels, -max(one.containment, one.of_residues), one.first, one.second))
    links = tuple((names[one], names[other]) for one, other in found.links)
    return Alike(len(pairs), int(differ.sum()), tuple(named[:MOST_NAMED]), links)


class _Found:
    """Gathers pairs block by block: all of them as numbers, some with their shares, and what they connect."""

    def __init__(self, labels: NDArray[np.str_]) -> None:
        self._labels = labels
        self._heads = np.arange(len(labels))  # first group of what each one is connected with
        self.links: list[tuple[int, int]] = []
        self.pairs: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        self.shares: dict[tuple[int, int], list[float]] = {}

    def differ(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(m,) bool: which pairs are labelled differently."""
        one, other = self._labels[first], self._labels[second]
        found: NDArray[np.bool_] = (one != other) & (one != "") & (other != "")
        return found

    def add(self, near: Near, kind: int) -> None:
        """Add pairs that share DNA (0) or residues (1)."""
        if not len(near.first):
            return
        self.pairs.append(near.first * len(self._labels) + near.second)
        order = np.lexsort((-near.containment, ~self.differ(near.first, near.second)))
        for place in order[:MOST_NAMED].tolist():
            pair = (int(near.first[place]), int(near.second[place]))
            self.shares.setdefault(pair, [0.0, 0.0])[kind] = float(near.containment[place])
        before = self._heads
        edges = (np.ones(len(near.first), np.int8), (before[near.first], before[near.second]))
        graph = coo_array(edges, shape=(len(before), len(before)))
        joined = connected_components(graph, directed=False)[1][before]
        _, starts, places = np.unique(joined, return_index=True, return_inverse=True)
        self._heads = starts[places]
        heads = np.unique(before)
        moved = heads[self._heads[heads] != heads]
        self.links += list(zip(self._heads[moved].tolist(), moved.tolist(), strict=True))


def equal_under_two_labels(samples: Samples) -> list[dict[str, Any]]:
    """Return pairs of groups that have equal sequences under two labels, with how many, the most first."""
    found: dict[tuple[str, str, str, str, str], int] = {}
    groups = samples.groups.texts()
    for molecule, keys in samples.keys.items():
        texts = as_strings(np.ascontiguousarray(keys))
        order = np.argsort(texts, kind="stable")
        order = order[samples.labels.codes[order] >= 0]
        sorted_texts, labels = texts[order], samples.labels.codes[order]
        differ = (sorted_texts[1:] == sorted_texts[:-1]) & (labels[1:] != labels[:-1])
        for place in np.flatnonzero(differ).tolist():
            one, other = sorted(
                (str(groups[row]), str(samples.labels.names[samples.labels.codes[row]]))
                for row in (order[place], order[place + 1])
            )
            entry = (molecule, one[0], other[0], one[1], other[1])
            found[entry] = found.get(entry, 0) + 1
    return [
        {"molecule": molecule, "first": first, "second": second, "labels": [label, other], "sequences": count}
        for (molecule, first, second, label, other), count in sorted(
            found.items(), key=lambda item: (-item[1], item[0])
        )
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """What keeps groups together, and what was noticed about them.

    Attributes
    ----------
    joined : whether relatives are kept together; otherwise groups are those of the table.
    why : why they were not looked for, or are not kept together; "" if they are.
    sketches : of each group; none where the sequences are not there.
    equal : equal sequences under two labels, see `equal_under_two_labels`.
    """

    joined: bool
    why: str
    alike: Alike
    sketches: tuple[Sketches, ...]
    equal: tuple[Mapping[str, Any], ...]

    @property
    def links(self) -> tuple[tuple[str, str], ...]:
        """Pairs of groups that a split must not divide."""
        return self.alike.links if self.joined else ()

    def lines(self) -> list[str]:
        """Say how groups are made, and name what has two labels; warnings begin with "Warning"."""
        count = f"{self.alike.count:,} pairs of groups are alike by sequence"
        if self.joined:
            first = f"groups: {count}, and kept together"
        elif self.sketches:
            first = f"groups: those of the table, as {self.why}; {count}"
        else:
            first = f"groups: those of the table, as {self.why}: relatives are not looked for"
        named = [one for one in self.alike.named if one.two_labels]
        warnings = [f"Warning: {one}. One label may be wrong." for one in named[:_SAID]]
        if self.alike.two_labels > _SAID:
            warnings.append(f"Warning: so are {self.alike.two_labels - _SAID:,} other pairs; see the report.")
        said = {(one.first, one.second) for one in named}
        others = []
        for one in self.equal:
            if (one["first"], one["second"]) not in said:
                said.add((one["first"], one["second"]))
                others.append(one)
        warnings += [f"Warning: {equal_text(one)}. One label may be wrong." for one in others[:_SAID]]
        if len(others) > _SAID:
            warnings.append(f"Warning: so have {len(others) - _SAID:,} other pairs of groups; see the report.")
        return [first, *warnings]

    def apart(self, parts: Mapping[str, Sequence[str]]) -> int:
        """Return how many of the pairs that are named are in two parts of a split."""
        place = {name: part for part, names in parts.items() for name in names}
        return sum(place.get(one.first) != place.get(one.second) for one in self.alike.named)

    def to_json(self, parts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """What reports say of it, as JSON values; `relatives` are at most 1,000 pairs.

        Parameters
        ----------
        parts : of the split, with the names of their groups.
        """
        return {
            "relatives": [one.to_json() for one in sorted(self.alike.named, key=lambda one: (one.first, one.second))],
            "grouping": {
                "by": "sequence" if self.joined else "table",
                "why": self.why,
                "looked_at": bool(self.sketches),
                "least": {"dna_21_mers": LEAST_DNA, "residue_10_mers": LEAST_RESIDUES, "shared_hashes": LEAST_SHARED},
                "pairs": self.alike.count,
                "pairs_under_two_labels": self.alike.two_labels,
                "pairs_in_two_parts": self.apart(parts),
                "equal_under_two_labels": [dict(one) for one in self.equal[:MOST_NAMED]],
            },
        }


_SAID = 5
"""Pairs under two labels that are named on standard error."""


def equal_text(one: Mapping[str, Any]) -> str:
    """Say which equal sequences have two labels."""
    molecule = "DNA" if one["molecule"] == "dna" else one["molecule"]
    label, other = one["labels"]
    count = one["sequences"]
    what = f"{count:,} equal {molecule} sequence{'' if count == 1 else 's'}"
    return f"{what} in {one['first']}, labelled {label}, and {one['second']}, labelled {other}"


def group_by_sequence(samples: Samples, folder: Path | None, *, asked: bool | None, has_clusters: bool) -> Grouping:
    """Find relatives among the groups of samples, and decide whether they are kept together.

    Parameters
    ----------
    samples : with the groups and labels that apply.
    folder : with their sequences; None: these are not there.
    asked : keep relatives together, or do not; None: where the sequences are there, and no table gives clusters.
    has_clusters : a table gives clusters.

    Raises
    ------
    InputError : relatives are asked for and the sequences are not there, or not all of them.
    """
    equal = tuple(equal_under_two_labels(samples))
    if folder is None or not (folder / DNA_NAME).is_file():
        if asked:
            found = "features" if folder is None else f"{folder}, where it is not"
            raise InputError(
                f"Cannot look for relatives in {found}: expected the table of samples, beside which `prepare` wrote "
                f"{DNA_NAME}. Give that, or a table of groups."
            )
        return Grouping(False, f"{DNA_NAME} is not beside it", Alike(), (), equal)
    try:
        sketches = sketch_samples(samples, samples.groups, folder)
    except InputError:
        if asked:
            raise
        return Grouping(False, f"{DNA_NAME} does not have all of its samples", Alike(), (), equal)
    why = "a table of clusters is given" if has_clusters and asked is None else "that is asked for"
    joined = not has_clusters if asked is None else asked
    return Grouping(joined, "" if joined else why, alike(sketches, labels_of(samples)), sketches, equal)
