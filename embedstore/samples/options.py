"""How samples are cut: what a user chooses, checked once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from embedstore.errors import InputError
from embedstore.samples.inputs import GroupBy
from embedstore.sequences.chunking import Bounds, even_chunks, virnucpro_chunks
from embedstore.sequences.translation import CODON_BASES, GeneticCode, genetic_code

Compat = Literal["virnucpro"]

MIN_LENGTH_BASES = 60
"""What Prodigal asks of a gene that the end of a contig cuts: a shorter frame is free of stops by chance."""

_STANDARD_CODE = 1


@dataclass(frozen=True, slots=True)
class PrepareOptions:
    """How samples are cut.

    Parameters
    ----------
    length_bases : of a chunk, at least 3.
    genetic_code : number of NCBI's translation table.
    min_length_bases : shorter sequences give no sample, and are counted; None: 60, or none with `compat`.
    group_by : "file" or "record"; None: a file that was named is grouped by record, the files of a folder by file.
    compat : "virnucpro" cuts and translates as VirNucPro does, quirks included.

    Raises
    ------
    InputError : a number is out of range, there is no such genetic code, or VirNucPro has no such option.
    """

    length_bases: int = 500
    genetic_code: int = _STANDARD_CODE
    min_length_bases: int | None = None
    group_by: GroupBy | None = None
    compat: Compat | None = None

    def __post_init__(self) -> None:
        if self.length_bases < CODON_BASES:
            raise InputError(
                f"Cannot cut chunks of {self.length_bases} bases: expected at least {CODON_BASES}, a codon. "
                "Choose another length."
            )
        if self.compat is not None and (self.genetic_code != _STANDARD_CODE or self.min_length_bases is not None):
            raise InputError(
                "Cannot be compatible with VirNucPro so: expected genetic code 1 and no minimal length, as it has no "
                f"choice of them, found code {self.genetic_code} and a minimal length of {self.min_length_bases}. "
                "Leave these options out, or prepare without compat."
            )
        if not 0 <= self.shortest_bases <= self.length_bases:
            raise InputError(
                f"Cannot cut samples: expected a minimal length between 0 and the chunk length, found "
                f"{self.shortest_bases} and {self.length_bases}. Choose a smaller minimal length."
            )
        genetic_code(self.genetic_code)

    @property
    def shortest_bases(self) -> int:
        """Sequences must have at least as many bases."""
        if self.min_length_bases is not None:
            return self.min_length_bases
        return 0 if self.compat else min(MIN_LENGTH_BASES, self.length_bases)

    @property
    def code(self) -> GeneticCode:
        """Tables of the genetic code."""
        return genetic_code(self.genetic_code)

    @property
    def cut(self) -> Callable[[int, int], Bounds]:
        """Function that tells where a sequence is cut, see `embedstore.sequences.chunking`."""
        return virnucpro_chunks if self.compat == "virnucpro" else even_chunks

    def to_json(self) -> dict[str, Any]:
        """The options as JSON values."""
        return {
            "length": self.length_bases,
            "genetic_code": self.genetic_code,
            "min_length": self.shortest_bases,
            "group_by": self.group_by,
            "compat": self.compat,
        }

    def preparation(self) -> dict[str, Any]:
        """What a schema compares: samples that differ in it do not belong together."""
        return {
            "chunk_length": self.length_bases,
            "genetic_code": self.genetic_code,
            "frames": "stop-free",
            "compat": self.compat,
        }
