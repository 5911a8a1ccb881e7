"""Auditing a space: are its vectors the ones that its model gives?

Checksums prove bytes, signatures prove who published them; neither proves that a model produced them. So some of the
stored vectors are computed again and compared. A store keeps no sequences: the input provides them.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import secrets
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import InputError, MissingEmbeddingError
from embedstore.filling import canaries
from embedstore.filling.computing import embed_packs
from embedstore.filling.filler import open_intake
from embedstore.filling.intake import DistinctKeys, Intake, Window
from embedstore.filling.pool import Pool, packs_of
from embedstore.filling.summary import SpaceSummary
from embedstore.filling.target import SpaceTarget
from embedstore.identity import key_array, key_text
from embedstore.models.embedder import Embedder
from embedstore.records import Record, Rejection
from embedstore.store.space import Space
from embedstore.store.store import recipe_conflict
from embedstore.strict_json import facts

_SEED_BITS = 32


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """How to audit.

    Attributes
    ----------
    sample : how many distinct sequences to compute again, at most.
    seed : the same seed picks the same sequences; None: a new one each time, so that nobody can prepare for it.
    device : where the model runs, "cpu", "cuda:0"; None: the best there is.
    any_molecule : take proteins that look like DNA.
    """

    sample: int = 100
    seed: int | None = None
    device: str | None = None
    any_molecule: bool = False


@dataclass(frozen=True, slots=True)
class DifferingVector:
    """A stored vector that the model does not reproduce.

    Attributes
    ----------
    id : of the first record that had the sequence.
    key : `SQ.…`.
    difference : largest absolute difference of a value; NaN if one is not finite.
    allowed : how large it may be.
    commit : id of the commit that it is read from; empty, as what follows, if that is in an upstream store.
    created : when that was published, by the storage's clock, ISO 8601 in UTC.
    signed_by : whose valid signatures the commit has: names of members, else fingerprints of keys.
    provenance : what the commit says of how it was computed.
    """

    id: str
    key: str
    difference: float
    allowed: float
    commit: str = ""
    created: str = ""
    signed_by: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit found.

    Attributes
    ----------
    read : records.
    held : distinct sequences of them that the space has.
    sampled : how many of these were computed again.
    largest_difference : between a stored vector and its computation, relative to the largest value of the vector.
    failed : sequences that the space has a vector for, and the model has not.
    rejected : records that are not sequences of the space's molecule.
    """

    space: SpaceSummary
    seed: int
    read: int
    held: int
    sampled: int
    matching: int
    differing: tuple[DifferingVector, ...]
    failed: tuple[Rejection, ...]
    rejected: tuple[Rejection, ...]
    largest_difference: float
    seconds: float

    @property
    def clean(self) -> bool:
        """Whether the model reproduces the whole sample."""
        return not self.differing and not self.failed

    def to_json(self) -> dict[str, Any]:
        return {
            **facts(self),
            "clean": self.clean,
            "differing": [{**facts(each), "difference": _finite(each.difference)} for each in self.differing],
            "largest_difference": _finite(self.largest_difference),
            "seconds": round(self.seconds, 3),
        }


def audit(records: Iterable[Record | Rejection], target: SpaceTarget, options: AuditOptions) -> AuditReport:
    """Compute some stored vectors again and compare; nothing is stored.

    Parameters
    ----------
    records : sequences to choose from; those that are missing from the space are skipped.
    target : the model and its space.
    options : how many, which ones, and where to compute.

    Raises
    ------
    InputError : there is no such space yet, or it has none of the sequences.
    MoleculeError : the input is of the other molecule than the space.
    CanaryError : the model does not give the space's fixed vectors, so it cannot judge the others.
    ModelError : the model is not available.
    CorruptStoreError : a stored vector is damaged.
    """
    started = time.perf_counter()
    space = target.space
    if space is None:
        raise InputError(f"Cannot audit space {target.name}: nothing is stored in it yet. Fill it first.")
    intake = open_intake(records, target, any_molecule=options.any_molecule)
    seed = secrets.randbits(_SEED_BITS) if options.seed is None else options.seed
    sample = _drawn(intake, space, options.sample, seed)
    if not sample.chosen:
        raise InputError(
            f"Cannot audit space {space.name}: it has none of the {intake.read} sequences of the input. "
            "Give sequences that were filled into it."
        )
    embedder = _loaded(target, options.device)
    canaries.check(space, embedder)
    compared = _Comparison(space, sample)
    compared.run(embedder)
    return AuditReport(
        space=SpaceSummary.of(space.recipe, space.name),
        seed=seed,
        read=intake.read,
        held=sample.held,
        sampled=len(sample.chosen),
        matching=compared.matching,
        differing=tuple(sorted(compared.differing, key=lambda each: (each.commit, each.key))),
        failed=tuple(compared.failed),
        rejected=tuple(intake.rejected),
        largest_difference=compared.largest,
        seconds=time.perf_counter() - started,
    )


class _Sample:
    """An even sample of distinct keys: those whose keyed digests are smallest, whatever the order and repetitions."""

    def __init__(self, size: int, seed: int) -> None:
        self.chosen: dict[bytes, tuple[Record, bytes]] = {}
        """key -> first record that had it, canonical sequence"""
        self.held = 0
        self._size = size
        self._secret = seed.to_bytes(16, "big")
        self._largest_first: list[tuple[int, bytes]] = []

    def add(self, window: Window, rows: Iterable[int]) -> None:
        """Take in some records of a window."""
        for row in rows:
            key = window.keys[row]
            if key in self.chosen:
                continue
            digest = int.from_bytes(hashlib.blake2b(key, digest_size=8, key=self._secret).digest(), "big")
            if len(self.chosen) == self._size:
                if digest >= -self._largest_first[0][0]:
                    continue
                del self.chosen[heapq.heappop(self._largest_first)[1]]
            heapq.heappush(self._largest_first, (-digest, key))
            self.chosen[key] = window.records[row], window.sequences[row]


def _drawn(intake: Intake, space: Space, size: int, seed: int) -> _Sample:
    """Draw the sample from the sequences that the space has."""
    sample = _Sample(size, seed)
    with DistinctKeys() as distinct:
        for window in intake:
            keys = window.key_array()
            present = space.contains(keys)
            distinct.add(keys[present])
            sample.add(window, np.flatnonzero(present).tolist())
        sample.held = distinct.count()
    return sample


def _loaded(target: SpaceTarget, device: str | None) -> Embedder:
    """Load the model of the space; SpaceConflictError if it is another one's."""
    model = target.obtain()
    if model.recipe != target.recipe:
        raise recipe_conflict(target.name, target.recipe, model.recipe)
    return model.load(device)


class _Comparison:
    """Computes a sample and compares it with what is stored."""

    def __init__(self, space: Space, sample: _Sample) -> None:
        self.matching = 0
        self.differing: list[DifferingVector] = []
        self.failed: list[Rejection] = []
        self.largest = 0.0
        self._space = space
        self._sample = sample

    def run(self, embedder: Embedder) -> None:
        pool = Pool()
        chosen = self._sample.chosen
        window = Window([record for record, _ in chosen.values()], [each for _, each in chosen.values()], list(chosen))
        pool.add(window, range(len(chosen)))
        packs = packs_of(pool.sequences, embedder.pack_residues, embedder.workers)
        with closing(embed_packs(embedder.embed, packs, embedder.workers)) as results:
            for pack, embedded in results:
                self.failed += pool.rejections({pack.keys[row]: reason for row, reason in embedded.failures.items()})
                good = ~np.isin(np.arange(len(pack)), list(embedded.failures))
                self._compare(pack.only(good).keys, embedded.vectors[good])

    def _compare(self, keys: list[bytes], vectors: NDArray[np.float32]) -> None:
        """Compare computed vectors, (n, dim), with the stored ones of the same keys."""
        if not keys:
            return
        stored = self._space.read(key_array(keys)).astype(np.float64)
        computed = vectors.astype(self._space.dtype).astype(np.float64)
        largest = np.abs(computed).max(axis=1)
        difference = np.abs(stored - computed).max(axis=1)
        allowed = self._space.recipe.tolerance * largest
        wrong = ~(difference <= allowed)  # a stored NaN too
        relative = np.divide(difference, largest, out=np.where(difference > 0, np.inf, 0.0), where=largest > 0)
        self.largest = float(np.max([self.largest, *relative]))
        self.matching += int((~wrong).sum())
        for row in np.flatnonzero(wrong).tolist():
            self.differing.append(self._differing(keys[row], float(difference[row]), float(allowed[row])))

    def _differing(self, key: bytes, difference: float, allowed: float) -> DifferingVector:
        about = (self._sample.chosen[key][0].id, key_text(key), difference, allowed)
        try:
            (segment,) = self._space.sources(key_array([key]))
        except MissingEmbeddingError:  # an upstream store has it, not this one
            return DifferingVector(*about)
        commit = segment.commit
        return DifferingVector(
            *about,
            commit=segment.commit_id,
            created=datetime.fromtimestamp(commit.created_ns / 1e9, UTC).isoformat(timespec="seconds"),
            signed_by=tuple(self._space.signatures.signers(segment.commit_id)),
            provenance=dict(commit.provenance),
        )


def _finite(number: float) -> float | None:
    """Return a number that JSON can hold."""
    return number if math.isfinite(number) else None
