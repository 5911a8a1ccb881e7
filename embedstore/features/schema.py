"""What the columns of features mean, how their samples were prepared, and which classes their labels name.

A schema travels with features into a classifier. Before anything is trained, evaluated or predicted, `Schema.require`
compares the two, since numbers of the right width in the wrong place raise no error by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from embedstore.errors import InputError, SchemaError, plain
from embedstore.identity import Molecule, Recipe
from embedstore.samples.codes import AUTO
from embedstore.samples.cutting import CODING, STOP_FREE
from embedstore.sequences.translation import same_code
from embedstore.strict_json import facts

_ID_DIGITS = 8
_SHOWN_CHARACTERS = 80

LARGEST_DIM = 1 << 20
"""Columns of features; what a file from elsewhere states beyond it is refused before memory is asked for."""
_MOST_LABELS = 10_000
_MOST_CHARACTERS = 10_000
_RANGES = {"start": (0, LARGEST_DIM), "stop": (1, LARGEST_DIM), "chunk_length": (1, 1 << 40), "genetic_code": (1, 100)}
_FORMS = {
    "space_id": re.compile(r"[0-9a-f]{64}"),
    "molecule": re.compile(r"dna|protein"),
    "genetic_code": re.compile(r"auto|[0-9]{1,2}(,[0-9]{1,2})+"),
}


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive columns of features: the vectors of one space.

    Attributes
    ----------
    space : its name, a label for people.
    space_id : what decides whether two blocks hold the same numbers, 64 hexadecimal digits.
    start : its first column.
    stop : the column after its last.
    """

    space: str
    space_id: str
    molecule: Molecule
    start: int
    stop: int

    @property
    def dim(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        return f"{self.space} ({self.space_id[:_ID_DIGITS]}…, {self.dim} of {self.molecule})"


@dataclass(frozen=True, slots=True)
class Preparation:
    """How samples were cut from their sources; None where nobody stated it.

    Attributes
    ----------
    chunk_length : bases.
    genetic_code : number of the NCBI translation table; "auto" where each source has its own; several as "1,4".
    frames : which reading frames of a chunk may become samples.
    compat : whose quirks were reproduced, "virnucpro".
    """

    chunk_length: int | None = None
    genetic_code: int | str | None = None
    frames: str | None = None
    compat: str | None = None

    @classmethod
    def from_json(cls, document: object) -> Self:
        """Read a preparation back from its parsed JSON.

        Raises
        ------
        InputError : a field is missing, is unknown, or has a value of another type.
        """
        return cls(**_checked(cls, document))


@dataclass(frozen=True, slots=True)
class Schema:
    """The ordered blocks of features, the preparation of their samples, and their classes in order.

    Raises
    ------
    InputError : blocks do not follow each other from column 0, or a class is named twice.
    """

    blocks: tuple[Block, ...]
    preparation: Preparation = Preparation()
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        start = 0
        for block in self.blocks:
            if block.start != start or block.stop <= start:
                raise InputError(
                    f"Cannot arrange features: expected block {block.space} to begin at column {start} and to be at "
                    f"least one wide, found columns {block.start} to {block.stop}."
                )
            start = block.stop
        if not self.blocks:
            raise InputError("Cannot arrange features without a block: name at least one model.")
        if len({block.space_id for block in self.blocks}) != len(self.blocks):
            raise InputError(f"Cannot arrange features: a space occurs twice in {_listed(self.blocks)}.")
        if len(set(self.labels)) != len(self.labels):
            raise InputError(f"Cannot arrange features: a class is named twice in {', '.join(self.labels)}.")

    @classmethod
    def of_spaces(
        cls, spaces: Iterable[tuple[str, Recipe]], preparation: Preparation, labels: Sequence[str] = ()
    ) -> Self:
        """Arrange spaces, given as (name, recipe), one after the other.

        Parameters
        ----------
        spaces : (name, recipe) of each.
        preparation : of the samples.
        labels : names of the classes.
        """
        blocks, start = [], 0
        for name, recipe in spaces:
            blocks.append(Block(name, recipe.id, recipe.molecule, start, start + recipe.dim))
            start += recipe.dim
        return cls(tuple(blocks), preparation, tuple(labels))

    @property
    def dim(self) -> int:
        """Number of columns."""
        return self.blocks[-1].stop

    @property
    def molecules(self) -> tuple[Molecule, ...]:
        """What the samples must have a sequence of, each once, in the order of the blocks."""
        return tuple(dict.fromkeys(block.molecule for block in self.blocks))

    def require(self, found: Schema, *, what: str, owner: str) -> None:
        """Refuse features whose blocks or preparation are not those of this schema. Labels are `require_labels`'s part.

        Parameters
        ----------
        found : schema of the features.
        what : the features, for the message: "features.zarr".
        owner : what expects this schema: "the classifier in virus/".

        Raises
        ------
        SchemaError : names both sides of every difference.
        """
        of_blocks = _block_differences(self.blocks, found.blocks)
        of_preparation = _preparation_differences(self.preparation, found.preparation)
        advice = []
        if GENETIC_CODE in of_preparation:
            ours, theirs = of_preparation[GENETIC_CODE]
            advice.append(
                f"{owner[:1].upper()}{owner[1:]} was trained with genetic code {ours}, the samples of {what} are "
                f"prepared with {theirs}."
            )
        if of_preparation:
            advice.append("Prepare the samples again as it was done for what expects them.")
        if of_blocks:
            advice.append(f"Merge with --models {','.join(block.space for block in self.blocks)} from the same store.")
        differences = of_blocks | of_preparation
        sides = "; ".join(f"{place}: expected {ours}, found {theirs}" for place, (ours, theirs) in differences.items())
        if differences:
            raise SchemaError(f"Cannot use {what} with {owner}: {sides}. {' '.join(advice)}", differences)

    def require_labels(self, found: Sequence[str], *, what: str, owner: str) -> None:
        """Refuse class names that this schema does not have; not all of them need to occur.

        Parameters
        ----------
        found : names of classes.
        what : what has them, for the message.
        owner : what expects this schema, for the message.

        Raises
        ------
        SchemaError : names the unknown ones and those that are known.
        """
        unknown = [label for label in found if label not in self.labels]
        if unknown:
            ours, theirs = ", ".join(self.labels) or "no labels", ", ".join(unknown)
            raise SchemaError(
                f"Cannot use {what} with {owner}: labels: expected {ours}, found {theirs}. "
                "Name the classes alike (--labels FILE).",
                {"labels": (tuple(self.labels), tuple(found))},
            )

    def to_json(self) -> dict[str, Any]:
        """The schema as JSON values; `from_json` reads it back."""
        return facts(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Read a schema back from its parsed JSON.

        Raises
        ------
        InputError : a field is missing, is unknown, or has a value of another type.
        """
        if not isinstance(document, dict) or set(document) != {field.name for field in fields(cls)}:
            raise InputError("Cannot read a schema: expected an object of blocks, preparation and labels.")
        blocks, labels = document["blocks"], document["labels"]
        if not isinstance(blocks, list) or not isinstance(labels, list):
            raise InputError("Cannot read a schema: expected lists of blocks and of labels.")
        if not all(isinstance(label, str) and len(label) <= _MOST_CHARACTERS for label in labels):
            raise InputError(f"Cannot read a schema: expected labels that are texts of at most {_MOST_CHARACTERS}.")
        if len(labels) > _MOST_LABELS:
            raise InputError(f"Cannot read a schema: expected at most {_MOST_LABELS} labels, found {len(labels)}.")
        return cls(
            tuple(Block(**_checked(Block, block)) for block in blocks),
            Preparation.from_json(document["preparation"]),
            tuple(labels),
        )


_TYPES: dict[str, type] = {"str": str, "int": int, "Molecule": str, "None": type(None)}


def _checked(kind: type[Block] | type[Preparation], document: object) -> dict[str, Any]:
    """Return a JSON object that has exactly the fields of a value, each of its type."""
    expected = {field.name: str(field.type) for field in fields(kind)}
    if not isinstance(document, dict) or set(document) != set(expected):
        raise InputError(f"Cannot read a schema: expected a {kind.__name__.lower()} of {', '.join(expected)}.")
    for name, type_name in expected.items():
        value = document[name]
        if isinstance(value, bool) or not isinstance(value, tuple(_TYPES[each] for each in type_name.split(" | "))):
            raise InputError(f"Cannot read a schema: expected {name} of type {type_name}, found {_shown(value)}.")
        problem = _out_of_range(name, value)
        if problem:
            raise InputError(f"Cannot read a schema: expected {name} {problem}, found {_shown(value)}.")
    return document


def _out_of_range(name: str, value: object) -> str:
    """Say what was expected of a value that is of the right type."""
    low, high = _RANGES.get(name, (0, 0))
    form = _FORMS.get(name)
    if isinstance(value, int) and not low <= value <= high:
        return f"from {low} to {high}"
    if isinstance(value, str) and form is not None and not form.fullmatch(value):
        return f"like {form.pattern}"
    return (
        f"of at most {_MOST_CHARACTERS} characters" if isinstance(value, str) and len(value) > _MOST_CHARACTERS else ""
    )


def _shown(value: object) -> str:
    return plain(repr(value), _SHOWN_CHARACTERS)


def _block_differences(expected: Sequence[Block], found: Sequence[Block]) -> dict[str, tuple[object, object]]:
    """Where two rows of blocks differ. Names are not compared: one recipe gives the same numbers under any name."""
    ours, theirs = [block.space_id for block in expected], [block.space_id for block in found]
    if ours == theirs:
        return {}
    if sorted(ours) == sorted(theirs):
        return {"order of blocks": (_listed(expected), _listed(found))}
    if len(ours) != len(theirs):
        return {"blocks": (_listed(expected), _listed(found))}
    return {
        f"block {number}": (_described(block, other), _described(other, block))
        for number, (block, other) in enumerate(zip(expected, found, strict=True), start=1)
        if block.space_id != other.space_id
    }


def _listed(blocks: Sequence[Block]) -> str:
    return ", ".join(map(str, blocks))


def _described(block: Block, other: Block) -> str:
    """Describe a block; of two that only differ in the recipe, say that it is what differs."""
    if (block.space, block.dim) == (other.space, other.dim):
        return f"{block.space} of recipe {block.space_id}"
    return str(block)


GENETIC_CODE = "genetic code"
"""What a difference of genetic codes is called."""


def _preparation_differences(expected: Preparation, found: Preparation) -> dict[str, tuple[object, object]]:
    ours, theirs = asdict(expected), asdict(found)
    accepts = {"genetic_code": _accepts_codes, "frames": _accepts_frames}
    return {
        name.replace("_", " "): (_stated(ours[name]), _stated(theirs[name]))
        for name in ours
        if ours[name] != theirs[name] and not (name in accepts and accepts[name](ours[name], theirs[name]))
    }


def _accepts_codes(expected: int | str | None, found: int | str | None) -> bool:
    """Tell whether samples of some codes are like those of others: codes count as equal that translate equally.

    What was prepared with several codes accepts each of them, and "auto" every code: it stands for the right one.
    """
    if expected is None or found is None or found == AUTO:
        return False
    ours, theirs = str(expected).split(","), str(found).split(",")
    return expected == AUTO or all(any(same_code(int(one), int(other)) for other in ours) for one in theirs)


def _accepts_frames(expected: str | None, found: str | None) -> bool:
    """Tell whether samples of some frames do for others: what was trained on coding ones is for all that may be coding.

    Not the other way: samples without the wrong frames would make a classifier look better than it is on contigs.
    """
    return expected == CODING and found == STOP_FREE


def _stated(value: object) -> object:
    return "none stated" if value is None else value
