"""What a classifier was made from, by sequence: so that a test on it is seen to be none, whatever it is called.

    sketches of the groups that were trained on ─▶ sketches.safetensors, in the classifier's folder
    sketches of sources that are evaluated or predicted ─▶ the share of each that is known, and of which group

A source is known if a group has at least `LEAST_DNA` of its 21-mers or `LEAST_RESIDUES` of the 10-mers of its proteins:
of its own ones, however large the group is. A source of less than a thousand bases may be missed, where the group is a
large genome, of which one k-mer of a hundred is kept.

The file has for each kind, `dna` and `residues`, tensors `.hashes` (uint64, those of one group after the other),
`.starts` and `.scaled` (int64). Names and labels of the groups are in classifier.json, with the file's SHA-256. It is
read when it is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from embedstore.classify.relatives import (
    DNA,
    LEAST_DNA,
    LEAST_RESIDUES,
    LEAST_SHARED,
    MOST_HASHES,
    RESIDUES,
    sketch_samples,
)
from embedstore.errors import InputError, MissingDependencyError, WeightsError, plain
from embedstore.features import Samples
from embedstore.samples.outputs import DNA_NAME
from embedstore.sequences.sketch import Sketches, SketchIndex, SketchOptions, scaled_for, sketch_short
from embedstore.sequences.translation import CODON_BASES

SKETCHES_NAME = "sketches.safetensors"
_LARGEST_BYTES = 2 * 2 * 8 * MOST_HASHES + (1 << 26)
"""Twice what training keeps, as the hashes of a group are counted from its length."""
_THRESHOLDS = (LEAST_DNA, LEAST_RESIDUES)
_SHOWN = 1000
_LEAST_SCALED = 10
"""Of sources that are predicted: nearly all groups keep a tenth at most, and sorting all k-mers takes the most time."""


@dataclass(frozen=True, slots=True)
class KnownAs:
    """The group that a source is known by.

    Attributes
    ----------
    group, label : which one, and what it was labelled.
    of_dna : share of the source's 21-mers that the group has.
    of_residues : likewise of the 10-mers of its proteins.
    """

    group: str
    label: str
    of_dna: float
    of_residues: float


class Known:
    """Sketches of the groups that a classifier was made from.

    Parameters
    ----------
    labels : of each group, in the order of the sketches.
    sketches : of their DNA, and perhaps of their proteins; the names are the same.
    """

    def __init__(self, labels: Sequence[str], sketches: Sequence[Sketches]) -> None:
        self.groups = sketches[0].names
        self.labels = tuple(labels)
        self.sketches = tuple(sketches)
        self._indices: tuple[SketchIndex, ...] | None = None

    @classmethod
    def of(cls, sketches: Sequence[Sketches], labels: Mapping[str, str], groups: Sequence[str]) -> Known:
        """Keep the sketches of some groups, with their labels."""
        kept = set(groups)
        some = [_only(one, kept) for one in sketches]
        return cls([labels[name] for name in some[0].names], some)

    def find(self, sources: Sequence[Sketches]) -> dict[str, KnownAs]:
        """Return the sources that are known, each by the group that has most of it.

        Parameters
        ----------
        sources : their DNA, and perhaps their proteins; names are the same.
        """
        if self._indices is None:
            self._indices = tuple(map(SketchIndex, self.sketches))
        shares: dict[tuple[str, int], list[float]] = {}
        for kind, (index, some, least) in enumerate(zip(self._indices, sources, _THRESHOLDS, strict=False)):
            for near in index.near(some, least, least_shared=LEAST_SHARED, of="first"):
                triples = zip(near.first.tolist(), near.second.tolist(), near.containment.tolist(), strict=True)
                for source, group, share in triples:
                    shares.setdefault((some.names[source], group), [0.0, 0.0])[kind] = share
        best: dict[str, tuple[float, int]] = {}
        for (source, group), both in shares.items():
            best[source] = max(best.get(source, (-1.0, 0)), (max(both), -group))
        found = {source: -place for source, (_, place) in best.items()}
        return {
            source: KnownAs(self.groups[group], self.labels[group], *shares[source, group])
            for source, group in found.items()
        }

    def to_json(self) -> dict[str, Any]:
        """What classifier.json says of the sketches, without the checksum."""
        kinds = {one.options.kind: {"k": one.options.k} for one in self.sketches}
        return {"kinds": kinds, "groups": list(self.groups), "labels": list(self.labels)}

    def to_bytes(self) -> bytes:
        """The content of the file."""
        tensors = {
            f"{one.options.kind}.{name}": np.ascontiguousarray(array)
            for one in self.sketches
            for name, array in (("hashes", one.hashes), ("starts", one.starts), ("scaled", one.scaled))
        }
        content: bytes = safetensors_numpy().save(tensors)
        return content


Recall = Callable[[], Known]
"""Reads what a classifier was made from, when it is asked for."""


def read_known(file: Path, stated: Mapping[str, Any]) -> Known:
    """Read the sketches of a classifier.

    Parameters
    ----------
    stated : what classifier.json says of them: `kinds`, `groups`, `labels`, `sha256`.

    Raises
    ------
    WeightsError : the file is damaged, or is not what is stated.
    """
    from safetensors import SafetensorError

    try:
        with file.open("rb") as stream:
            content = stream.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise WeightsError(f"Cannot read {file}: {error.strerror}. Train the classifier again.") from error
    if len(content) > _LARGEST_BYTES:
        raise WeightsError(f"Cannot use {file}: expected at most {_LARGEST_BYTES} bytes, found more.")
    found = hashlib.sha256(content).hexdigest()
    if found != stated.get("sha256"):
        raise WeightsError(
            f"Cannot use {file}: it is damaged, or of another classifier: expected SHA-256 "
            f"{plain(repr(stated.get('sha256')), 80)}, found {found}. Train the classifier again."
        )
    try:
        tensors = safetensors_numpy().load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"Cannot read {file}: it is damaged: {error}. Train the classifier again.") from error
    groups, labels, kinds = (stated.get(name) for name in ("groups", "labels", "kinds"))
    if not (_are_texts(groups) and _are_texts(labels) and len(groups) == len(labels) and isinstance(kinds, dict)):
        raise _not_as_stated(file, "a group and a label for each sketch")
    options = [one for one in (DNA, RESIDUES) if kinds.get(one.kind) == {"k": one.k}]
    if not options or options[0] is not DNA or len(options) != len(kinds):
        raise _not_as_stated(file, "sketches of 21-mers of DNA and of 10-mers of residues")
    expected = {f"{one.kind}.{name}" for one in options for name in ("hashes", "starts", "scaled")}
    if set(tensors) != expected:
        raise _not_as_stated(file, f"the tensors {', '.join(sorted(expected))}")
    return Known(labels, [_sketches(file, tensors, one, tuple(groups)) for one in options])


def _are_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _sketches(file: Path, tensors: Mapping[str, Any], options: SketchOptions, names: tuple[str, ...]) -> Sketches:
    hashes, starts, scaled = (tensors[f"{options.kind}.{name}"] for name in ("hashes", "starts", "scaled"))
    shapes = (hashes.ndim, starts.shape, scaled.shape) == (1, (len(names) + 1,), (len(names),))
    if not shapes or (hashes.dtype, starts.dtype, scaled.dtype) != (np.uint64, np.int64, np.int64):
        raise _not_as_stated(file, f"uint64 hashes and int64 starts of {len(names)} groups")
    if starts[0] != 0 or starts[-1] != len(hashes) or (np.diff(starts) < 0).any() or (scaled < 1).any():
        raise _not_as_stated(file, "starts from 0 to the number of hashes, and a scale of 1 or more")
    is_start = np.zeros(len(hashes), np.bool_)
    is_start[starts[:-1][np.diff(starts) > 0]] = True
    if (~is_start[1:] & (hashes[1:] <= hashes[:-1])).any():
        raise _not_as_stated(file, "sorted, distinct hashes of each group")
    return Sketches(options, names, hashes, starts, scaled)


def _not_as_stated(file: Path, expected: str) -> WeightsError:
    return WeightsError(f"Cannot use {file}: expected {expected}, found something else. Train the classifier again.")


def _only(sketches: Sketches, names: set[str]) -> Sketches:
    kept = [one for one in sketches.each() if one[0] in names]
    return Sketches.of(sketches.options, *zip(*kept, strict=True)) if kept else Sketches.of(sketches.options, (), ())


@dataclass(frozen=True, slots=True)
class Recognised:
    """Which sources of samples a classifier knows.

    Attributes
    ----------
    sources : known source -> by which group.
    of : how many were looked at.
    why : why they were not looked at; "" if they were.
    """

    sources: Mapping[str, KnownAs]
    of: int
    why: str = ""

    def line(self) -> str:
        """Say it."""
        if self.why:
            return f"whether the classifier knows the sequences is not known: {self.why}"
        return f"the classifier knows {len(self.sources):,} of {self.of:,} sources by sequence"

    def to_json(self) -> dict[str, Any]:
        """What was found as JSON values, with at most 1,000 sources."""
        if self.why:
            return {"looked_at": 0, "why": self.why}
        named = list(self.sources.items())[:_SHOWN]
        return {
            "looked_at": self.of,
            "known": len(self.sources),
            "groups": sorted({one.group for one in self.sources.values()})[:_SHOWN],
            "named": [{"source": source, **asdict(one)} for source, one in named],
        }


NO_SKETCHES = "the classifier has no sketches of what it was made from"
NO_DNA = f"the sequences of the samples ({DNA_NAME}) are not beside them"
NOT_ALL_DNA = f"{DNA_NAME} does not have all of the samples"


def recognise(recall: Recall | None, samples: Samples, folder: Path | None) -> Recognised:
    """Find which sources of samples a classifier knows by sequence.

    Parameters
    ----------
    recall : reads its sketches; None: it has none.
    folder : with `dna.fna` of the samples; None: they are features, of which the sequences are not there.

    Raises
    ------
    WeightsError : the sketches are damaged.
    """
    if recall is None:
        return Recognised({}, 0, NO_SKETCHES)
    if folder is None or not (folder / DNA_NAME).is_file():
        return Recognised({}, 0, NO_DNA)
    known = recall()
    try:
        sketches = sketch_samples(samples, samples.sources, folder)
    except InputError:
        return Recognised({}, 0, NOT_ALL_DNA)
    found = known.find(sketches)
    codes = samples.sources.codes
    return Recognised(dict(sorted(found.items())), len(np.unique(codes[codes >= 0])))


class SourceRecogniser:
    """Recognises sources as they are cut, in memory that does not grow with their number.

    Samples come in the order of the sources; each source is looked up once all of its samples are there.
    """

    def __init__(self, known: Known) -> None:
        self._known = known
        self._held: dict[str, list[tuple[bytes, bytes]]] = {}

    def add(
        self, sources: Sequence[str], dna: Sequence[bytes], proteins: Sequence[bytes], finished: Sequence[str]
    ) -> dict[str, KnownAs]:
        """Add samples of sources; return which of the sources that end with them are known."""
        for source, *both in zip(sources, dna, proteins, strict=True):
            self._held.setdefault(source, []).append((both[0], both[1]))
        ended = [(source, self._held.pop(source)) for source in finished if source in self._held]
        if not ended:
            return {}
        return self._known.find(tuple(_sketched(ended, options) for options in (DNA, RESIDUES)))


def _sketched(sources: Sequence[tuple[str, Sequence[tuple[bytes, bytes]]]], options: SketchOptions) -> Sketches:
    of_proteins = options.kind == "residues"
    texts = [[pair[of_proteins] for pair in pairs] for _, pairs in sources]
    bases = np.array([sum(len(dna) for dna, _ in pairs) for _, pairs in sources], np.int64)
    scaled = np.maximum(scaled_for(bases // CODON_BASES if of_proteins else bases, MOST_HASHES), _LEAST_SCALED)
    names = [name for name, _ in sources]
    return sketch_short(list(zip(names, texts, strict=True)), options, scaled)


def safetensors_numpy() -> Any:
    """Import safetensors, or say how to install it."""
    try:
        import safetensors.numpy
    except ImportError as error:
        raise MissingDependencyError(
            "Cannot use classifiers: safetensors is not installed. Run `pip install 'embedstore-bio[train]'`."
        ) from error
    return safetensors.numpy
