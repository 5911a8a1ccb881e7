"""Sequences to measure with: those of files, or random ones of realistic lengths."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle
from typing import Protocol

import numpy as np

from embedstore.errors import InputError
from embedstore.filling.distinct import DistinctKeys
from embedstore.filling.filler import open_intake
from embedstore.filling.target import SpaceTarget
from embedstore.identity import Molecule
from embedstore.models.embedder import Model
from embedstore.types import Record, Rejection

_SAMPLE_RECORDS = 16_384
_SAMPLE_LETTERS = 32 << 20
_LONGEST_LETTERS = 20_000  # a chromosome would take hours; what windows cost shows well before
_MOST_LETTERS = 8 << 20

_MEDIAN_RESIDUES = 280
_SPREAD = 0.65
_RESIDUES = (30, 1022)
_CHUNK_BASES = 500


class Workload(Protocol):
    """Where sequences come from."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    def take(self, letters: float) -> list[bytes]:
        """Distinct canonical sequences of about so many letters together; at least one, and not more than fit."""
        ...


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """Random sequences: proteins as long as those of UniProt, log-normal with mean 350; DNA in chunks of 500 bases."""

    molecule: Molecule
    seed: int = 0

    @property
    def name(self) -> str:
        return "proteins of realistic lengths" if self.molecule == "protein" else f"chunks of {_CHUNK_BASES} bases"

    def take(self, letters: float) -> list[bytes]:
        draw = np.random.default_rng(self.seed)
        alphabet = np.frombuffer(b"ACGT" if self.molecule == "dna" else b"ACDEFGHIKLMNPQRSTVWY", np.uint8)
        sequences: list[bytes] = []
        wanted = min(letters, _MOST_LETTERS)
        while not sequences or wanted > 0:
            length = _CHUNK_BASES
            if self.molecule == "protein":
                length = int(np.clip(draw.lognormal(np.log(_MEDIAN_RESIDUES), _SPREAD), *_RESIDUES))
            sequences.append(draw.choice(alphabet, length).tobytes())
            wanted -= length
        return sequences


@dataclass(frozen=True, slots=True)
class Sample:
    """Some of the sequences of files, and how much all of them are.

    Attributes
    ----------
    sequences : distinct, canonical, in random order, very long ones cut.
    records : accepted ones.
    unique : distinct sequences among them.
    letters : of the distinct sequences; equal ones are taken to be as frequent at every length.
    """

    sequences: tuple[bytes, ...]
    records: int
    unique: int
    letters: int
    name: str = "the input"

    def take(self, letters: float) -> list[bytes]:
        draw = random.Random(0)  # noqa: S311
        taken: dict[bytes, None] = {}
        wanted = min(letters, _MOST_LETTERS)
        for number, sequence in enumerate(cycle(self.sequences)):
            # After the last, others of the same lengths.
            again = number >= len(self.sequences)
            taken[bytes(draw.sample(sequence, len(sequence))) if again else sequence] = None
            wanted -= len(sequence)
            if wanted <= 0:
                break
        return list(taken)


def sample_records(records: Iterable[Record | Rejection], model: Model, *, seed: int = 0) -> Sample:
    """Read all records, and keep a random sample that fits into memory.

    Raises
    ------
    InputError : no record is a sequence of the model's molecule.
    MoleculeError : the input is of the other molecule than the model.
    """
    reservoir = _Reservoir(random.Random(seed))  # noqa: S311
    target = SpaceTarget(None, model.recipe, model.name, None, lambda: model)
    count = letters = 0
    with DistinctKeys() as distinct:
        for window in open_intake(records, target, any_molecule=False):
            distinct.add(window.key_array())
            for sequence in window.sequences:
                reservoir.offer(sequence[:_LONGEST_LETTERS])
                letters += len(sequence)
            count += len(window.sequences)
        unique = distinct.count()
    if count == 0:
        raise InputError("Cannot measure with this input: expected at least one sequence, found none.")
    return Sample(reservoir.shuffled(), count, unique, round(letters * unique / count))


class _Reservoir:
    """Keeps each of the sequences it is offered with the same chance, and not too many letters."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._kept: list[bytes] = []
        self._capacity = _SAMPLE_RECORDS
        self._letters = 0
        self._offered = 0

    def offer(self, sequence: bytes) -> None:
        self._offered += 1
        if len(self._kept) < self._capacity and self._offered == len(self._kept) + 1:
            self._kept.append(sequence)
            self._letters += len(sequence)
        else:
            place = self._draw.randrange(self._offered)
            if place < len(self._kept):
                self._letters += len(sequence) - len(self._kept[place])
                self._kept[place] = sequence
        while self._letters > _SAMPLE_LETTERS and len(self._kept) > 1:
            self._halve()

    def shuffled(self) -> tuple[bytes, ...]:
        distinct = list(dict.fromkeys(self._kept))
        self._draw.shuffle(distinct)
        return tuple(distinct)

    def _halve(self) -> None:
        self._kept = self._draw.sample(self._kept, len(self._kept) // 2)
        self._capacity = len(self._kept)
        self._letters = sum(map(len, self._kept))
