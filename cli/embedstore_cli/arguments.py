"""What the arguments of commands are and mean: sequence files, models with their weights, durations and sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

_INPUT_HELP = "FASTA, FASTQ or GenBank, plain or compressed; a folder of them; - is standard input."
_SUFFIXES = frozenset(
    (
        *(".fa", ".faa", ".fna", ".ffn", ".fas", ".fsa", ".fasta", ".aa", ".pep"),
        *(".fq", ".fastq", ".gb", ".gbk", ".gbff", ".gp", ".genbank"),
    )
)
_COMPRESSED = frozenset((".gz", ".bgz", ".bz2", ".xz", ".zst"))


def sequence_files(inputs: list[str] | None) -> list[str] | None:
    """Put the sequence files of a folder in its place, sorted; hidden ones are left out."""
    return None if inputs is None else [file for one in inputs for file in _files_of(one)]


def _files_of(one: str) -> list[str]:
    from embedstore.errors import InputError
    from embedstore.home import expanded

    place = expanded(one)
    if one in ("", "-") or not place.is_dir():
        return [str(place) if one.startswith("~") else one]
    found = sorted(str(path) for path in place.rglob("*") if _is_sequence_file(path, place))
    if not found:
        raise InputError(
            f"Cannot read the folder {one}: expected files of sequences, found none whose name ends with one of "
            f"{' '.join(sorted(_SUFFIXES))}, compressed or not."
        )
    return found


def _is_sequence_file(path: Path, folder: Path) -> bool:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return bool(suffixes) and suffixes[-1] in _SUFFIXES and not hidden and path.is_file()


Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT", help=_INPUT_HELP, show_default=False, callback=sequence_files)
]
OptionalInputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUT",
        help=f"{_INPUT_HELP} Default: realistic lengths.",
        show_default=False,
        callback=sequence_files,
    ),
]
DnaInputs = Annotated[list[str], typer.Argument(metavar="INPUT", help=_INPUT_HELP, show_default=False)]
Model = Annotated[
    str, typer.Option("--model", "-m", metavar="NAME|DIR", help="A model (see `embedstore models`), or a checkpoint.")
]
OptionalModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|DIR",
        help="A language model that is examined too, or a checkpoint.",
        show_default=False,
    ),
]
_SOME_MODELS = typer.Option(
    "--model",
    "--models",
    "-m",
    metavar="NAME|DIR",
    help="Models or spaces, in the order of their columns: given several times, or as A,B.",
    show_default=False,
)
SomeModels = Annotated[list[str], _SOME_MODELS]
Models = Annotated[list[str] | None, _SOME_MODELS]


def names(models: Sequence[str] | None) -> tuple[str, ...]:
    """-m a,b -m c -> ("a", "b", "c")"""
    return tuple(name for one in models or () for name in one.split(","))


def weights_of(models: Sequence[str], given: Sequence[str] | None) -> dict[str, Path]:
    """Return the weights of each model that some are given for.

    Raises
    ------
    typer.BadParameter : it is not clear which model is meant, or the model has none.
    """
    from embedstore.errors import plain
    from embedstore.home import expanded
    from embedstore.models.registry import MODELS

    with_weights = [name for name in dict.fromkeys(models) if not (name in MODELS and MODELS[name].built_in)]
    if given and not with_weights:
        raise typer.BadParameter(f"--weights: {', '.join(map(plain, models))} needs none")
    found: dict[str, Path] = {}
    bare: list[str] = []
    for text in given or ():
        name, separator, place = text.partition("=")
        if separator and name in with_weights:
            if name in found:
                raise typer.BadParameter(f"--weights: {plain(name)} has weights twice")
            found[name] = expanded(place)
        elif separator and name in MODELS:
            raise typer.BadParameter(f"--weights: expected one of {', '.join(map(plain, with_weights))}, found {name}")
        else:
            bare.append(text)
    without = [name for name in with_weights if name not in found]
    if bare and (len(bare) > 1 or len(without) != 1):
        raise typer.BadParameter(
            f"--weights: expected MODEL=DIR, of {', '.join(map(plain, with_weights))}; found {plain(bare[0])}, "
            "which may be of several or of none"
        )
    if bare:
        found[without[0]] = expanded(bare[0])
    return found


_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_BYTES: dict[str, int | None] = {"b": 1} | {
    f"{prefix}{unit}": base**power
    for power, prefix in enumerate("kmgt", start=1)
    for unit, base in (("", 1024), ("ib", 1024), ("b", 1000))
}


def seconds(text: str) -> float:
    """7d -> 604800.0"""
    return _quantity(
        text, {**_SECONDS, "": 1 if text.strip() == "0" else None}, "a duration such as 90s, 30min, 12h, 7d"
    )


def size_bytes(text: str) -> int:
    """500GB -> 500000000000; a bare number is refused, since it could be of anything, except 0."""
    units = _BYTES | {"": 1 if text.strip() == "0" else None}
    return round(_quantity(text, units, "a size with its unit, such as 500 MB, 500 GB, 500 GiB, 2 TB"))


def _quantity(text: str, units: Mapping[str, int | None], expected: str) -> float:
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    unit = units.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise typer.BadParameter(f"expected {expected}, found {text!r}")
    return float(match[1]) * unit
