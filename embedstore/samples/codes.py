"""Which genetic code a source is translated with: one for all, that of a table, its record's own, or an estimate.

The estimate looks at the share of stop-free frames around the codons that a code reads as residues, and the standard
code as stops. Before a codon that ends proteins is a stop-free stretch, and behind it what chance gives; a codon that
is read as a residue has such a stretch on both sides. So of all such codons behind a stretch of `STRETCH_CODONS`
without a stop *of the code in question*, in all six frames, those are counted that have another such stretch behind
them. The same is counted of the stops that the code keeps: this is chance at the same composition. A code is believed
if the share is at least `LEAST_SHARE`, `MARGIN` times that of its own stops, and seen in `LEAST_STRETCHES` stretches,
in each of which at most `MOST_A_STRETCH` codons count, so that one array of repeats does not decide. Of several such
codes that with the most stops is taken, and without one the standard code, which translates as code 11.

Codes are told apart by their stops alone: 4 stands for all that read TGA as a residue (3, 5, 9, 10, 13, 21, 24, 25),
15 for those that read TAG as one (16, 32), 6 for those whose one stop is TGA (29, 30). Codes 12 and 26 have the stops
of the standard code, 22 and 23 add some, 27, 28 and 31 stop where the context says so, and 14 and 33, of whose stops
only TAG is left, are not told from code 4 by genomes as short as those that have them: these have to be stated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from embedstore.atomic import from_cell
from embedstore.errors import InputError, plain
from embedstore.samples.sources import ChosenCode, Source
from embedstore.sequences.translation import (
    CODON_BASES,
    CODONS,
    codons_at_places,
    genetic_code,
    reverse_complement,
)

STANDARD_CODE = 1
AUTO = "auto"

CANDIDATES = (2, 15, 4, 6)
"""Codes that are looked for, those with the most stops first."""

STRETCH_CODONS = (80, 80, 80, 160)
"""Twice as many where a code has one stop and not two: chance then leaves as few, 8 % of them in random DNA."""

LEAST_SHARE = 0.4
MARGIN = 3.0
LEAST_STRETCHES = 8
MOST_A_STRETCH = 5

LEAST_BASES = 15_000
"""Shorter sources take the code of their group: the smallest animal mitochondria have about so many."""

LEAST_GROUP_BASES = 10_000
"""Shorter groups keep the standard code unseen: they hold too few genes to show another."""

_BORDER = b"NNN"
_HELD_BASES = 1 << 24
_NAMES_SHOWN = 10
_CHARACTERS_SHOWN = 80


@dataclass(frozen=True, slots=True)
class CodeTable:
    """Genetic codes of some sources or groups; all others have the standard code.

    Parameters
    ----------
    named : what its names are of.
    codes : name -> number of NCBI's translation table.
    file : where it was read, for messages.

    Raises
    ------
    InputError : there is no such genetic code.
    """

    named: Literal["source", "group"]
    codes: Mapping[str, int]
    file: str = "the table of genetic codes"

    def __post_init__(self) -> None:
        for number in set(self.codes.values()):
            genetic_code(number)

    @property
    def numbers(self) -> tuple[int, ...]:
        """All codes that may be used, in order."""
        return tuple(sorted({STANDARD_CODE, *self.codes.values()}))

    def __str__(self) -> str:
        return self.file


CodeChoice = int | Literal["auto"] | CodeTable
"""One code for all, an estimate for each source, or what a table says."""


def read_code_table(path: str | PathLike[str]) -> CodeTable:
    """Read a table with a header of `source` or `group`, and `genetic_code`, separated by tabs.

    Raises
    ------
    InputError : it is not such a table, or gives one name two codes; the line is named.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the genetic codes {path}: {error}.") from error
    header = lines[0].split("\t")
    named: Literal["source", "group"] = "source" if "source" in header else "group"
    if named not in header or "genetic_code" not in header:
        raise InputError(
            f"Cannot read the genetic codes {path}: expected a header with source or group, and genetic_code, "
            f"separated by a tab, found {plain(repr(lines[0]), _CHARACTERS_SHOWN)}."
        )
    places = (header.index(named), header.index("genetic_code"))
    codes: dict[str, int] = {}
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split("\t")
        where = f"Cannot read the genetic codes {path}: line {number}"
        if len(fields) <= max(places):
            raise InputError(f"{where}: expected {len(header)} fields, found {len(fields)}.")
        name, text = from_cell(fields[places[0]]), fields[places[1]].strip()
        if not (text.isascii() and text.isdecimal() and len(text) <= 3):
            shown = plain(repr(text), _CHARACTERS_SHOWN)
            raise InputError(f"{where}: expected the number of a genetic code, found {shown}.")
        if codes.setdefault(name, int(text)) != int(text):
            raise InputError(f"{where}: expected code {codes[name]} for {name} as above, found {int(text)}.")
    return CodeTable(named, codes, str(path))


def choose_codes(sources: Iterable[Source], choice: CodeChoice) -> Iterable[Source]:
    """Give sources their genetic codes, in order; with one code for all they stay as they are.

    Raises
    ------
    InputError : a table names something that is not among the sources; raised after the last of them.
    """
    if isinstance(choice, int):
        return sources
    return _as_in_table(sources, choice) if isinstance(choice, CodeTable) else _estimated(sources)


def _as_in_table(sources: Iterable[Source], table: CodeTable) -> Iterator[Source]:
    unknown = dict.fromkeys(table.codes)
    for source in sources:
        name = source.id if table.named == "source" else source.group
        unknown.pop(name, None)
        number = table.codes.get(name)
        yield replace(source, code=ChosenCode(number or STANDARD_CODE, "default" if number is None else "table"))
    if unknown:
        shown = ", ".join(plain(name, _CHARACTERS_SHOWN) for name in list(unknown)[:_NAMES_SHOWN])
        raise InputError(
            f"Cannot use the genetic codes {table.file}: expected names of {table.named}s of the input, found "
            f"{len(unknown)} that are none: {shown}{' …' if len(unknown) > _NAMES_SHOWN else ''}. Correct the names."
        )


def _estimated(sources: Iterable[Source]) -> Iterator[Source]:
    """Hold the sources of a group back until it ends, or until what has been seen of it is enough to decide."""
    for _, group in groupby(sources, key=lambda source: source.group):
        seen = _GroupSoFar()
        held: list[tuple[Source, ChosenCode | None]] = []
        decided: ChosenCode | None = None
        for source in group:
            held.append((source, stated_code(source) or seen.add(source.dna)))
            if decided is None and seen.bases >= _HELD_BASES:
                decided = seen.decide()
            if decided is not None:
                yield from _coded(held, decided)
                held.clear()
        yield from _coded(held, decided or seen.decide())


class _GroupSoFar:
    """What the sources of a group show: long ones each on its own, short ones end to end."""

    def __init__(self) -> None:
        self.bases = 0
        self._seen = np.zeros((len(CANDIDATES), 5), np.int64)
        self._short: list[bytes] = []

    def add(self, dna: bytes) -> ChosenCode | None:
        """Add a source; return the code that it shows, or None where that is left to its group."""
        is_undecided = self.bases < _HELD_BASES
        self.bases += len(dna)
        if len(dna) < LEAST_BASES:
            if is_undecided:
                self._short.append(dna)
            return None
        shown = read_through(dna)
        self._seen += shown
        return ChosenCode(decide(shown), "stops")

    def decide(self) -> ChosenCode:
        """Return the code that all of them show."""
        if self.bases < LEAST_GROUP_BASES:
            return ChosenCode(STANDARD_CODE, "default")
        of_short = read_through(_BORDER.join(self._short))
        self._short.clear()
        return ChosenCode(decide(self._seen + of_short), "group")


def _coded(held: Iterable[tuple[Source, ChosenCode | None]], of_group: ChosenCode) -> Iterator[Source]:
    for source, own in held:
        yield replace(source, code=own or of_group)


def stated_code(source: Source) -> ChosenCode | None:
    """Return the code that most coding sequences of a GenBank record state; None where none does."""
    stated = Counter(region.table for region in source.coding if region.table is not None)
    if not stated:
        return None
    return ChosenCode(min(stated, key=lambda number: (-stated[number], number)), "transl_table")


def decide(seen: NDArray[np.int64]) -> int:
    """Return the code that what was seen speaks for, see the module.

    Parameters
    ----------
    seen : as `read_through` returns it, or a sum of such.
    """
    for code, (behind_one, read, stops, passed, places) in zip(CANDIDATES, seen.tolist(), strict=True):
        chance = (passed + 1) / (stops + 1)
        if places >= LEAST_STRETCHES and read >= max(LEAST_SHARE, MARGIN * chance) * behind_one:
            return code
    return STANDARD_CODE


def read_through(dna: bytes) -> NDArray[np.int64]:
    """Count codons behind a stop-free stretch, and those with another one behind them, in all six frames.

    Parameters
    ----------
    dna : canonical DNA.

    Returns
    -------
    (4, 5) int64, a row for each of `CANDIDATES`: codons behind a stretch that it reads as a residue and the standard
    code as a stop, and those of them that are read through; the same of its own stops; stretches that hold one that is
    read through.
    """
    seen = np.zeros((len(CANDIDATES), 5), np.int64)
    if len(dna) < CODON_BASES * min(STRETCH_CODONS):
        return seen
    codons = codons_at_places(dna).tobytes()
    forward, reverse, is_stop, is_residue = _kinds()
    for kind_of_codon, step in ((forward, 1), (reverse, -1)):
        kinds = np.frombuffer(codons.translate(kind_of_codon), np.uint8)
        for phase in range(CODON_BASES):
            of_frame = kinds[phase::CODON_BASES][::step]
            places = np.flatnonzero(of_frame)
            bounded = _Frame(places, of_frame[places], len(of_frame))
            for row, stops, residues, stretch in zip(seen, is_stop, is_residue, STRETCH_CODONS, strict=True):
                row += bounded.count(stops, residues, stretch)
    return seen


_Flags = NDArray[np.bool_]
_TOLD_APART = (("TAA",), ("TAG",), ("TGA",), ("AGA", "AGG"))
_UNKNOWN_KIND = len(_TOLD_APART) + 1


@dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    """The codons of one frame, in reading order, that are a stop of any code, or unknown.

    Attributes
    ----------
    places : (s,) int64, in codons.
    kinds : (s,) uint8, which of them.
    codons : of the frame.
    """

    places: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    codons: int

    def count(self, is_stop: _Flags, is_residue: _Flags, stretch: int) -> list[int]:
        """Return what this frame adds to a row of `read_through`; unknown codons end a stretch, and the ends do.

        Parameters
        ----------
        is_stop : (6,) which kinds are stops of the code.
        is_residue : (6,) which kinds it reads as a residue, against the standard code.
        stretch : codons.
        """
        ends = is_stop[self.kinds] | (self.kinds == _UNKNOWN_KIND)
        bounds = np.concatenate([[-1], self.places[ends], [self.codons]])
        is_long = np.diff(bounds) > stretch  # of the stretch before each end
        before, behind = is_long[:-1] & is_stop[self.kinds[ends]], is_long[1:]
        asked = self.places[is_residue[self.kinds]]
        next_end = np.searchsorted(bounds, asked)
        is_behind_one = asked - bounds[next_end - 1] > stretch
        is_read_through = is_behind_one & (bounds[next_end] - asked > stretch)
        behind_one, read = np.bincount(next_end[is_behind_one]), np.bincount(next_end[is_read_through])
        return [
            int(np.minimum(behind_one, MOST_A_STRETCH).sum()),
            int(np.minimum(read, MOST_A_STRETCH).sum()),
            int(np.count_nonzero(before)),
            int(np.count_nonzero(before & behind)),
            int(np.count_nonzero(read)),
        ]


@cache
def _kinds() -> tuple[bytes, bytes, _Flags, _Flags]:
    """Return tables of the kinds of codons, forwards and on the other strand, and what each candidate makes of them."""
    kinds = {codon: kind for kind, alike in enumerate(_TOLD_APART, start=1) for codon in alike}
    forward, reverse = bytearray(256), bytearray(256)
    for place, codon in enumerate(CODONS):
        is_known = set(codon) <= set("ACGT")
        forward[place] = kinds.get(codon, 0) if is_known else _UNKNOWN_KIND
        other = reverse_complement(codon.encode()).decode()
        reverse[place] = kinds.get(other, 0) if is_known else _UNKNOWN_KIND

    def stops_of(number: int) -> _Flags:
        forward_table = genetic_code(number).forward
        of_kinds = [chr(forward_table[CODONS.index(alike[0])]) == "*" for alike in _TOLD_APART]
        return np.array([False, *of_kinds, False])

    is_stop = np.stack([stops_of(number) for number in CANDIDATES])
    return bytes(forward), bytes(reverse), is_stop, stops_of(STANDARD_CODE) & ~is_stop
