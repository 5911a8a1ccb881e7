"""Options that several commands share, and the values that they make."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from embedstore.filling import FillOptions
    from embedstore.models.resolution import ModelOptions


def _environment_variable(name: str) -> Callable[[Path | None], Path | None]:
    """Pass the file of an option on as an environment variable, so that every process of the command goes by it."""

    def put(file: Path | None) -> Path | None:
        if file is not None:
            from embedstore.home import expanded

            os.environ[name] = str(expanded(file).absolute())
        return file

    return put


class Format(StrEnum):
    """How segments are written."""

    zarr = "zarr"
    hdf5 = "hdf5"


class Precision(StrEnum):
    """Precision of the arithmetic and of what is stored."""

    half = "half"
    full = "full"


class Pooling(StrEnum):
    """Which tokens a language model's vector is the mean of."""

    mean = "mean"
    mean_all = "mean_all"


class Long(StrEnum):
    """What happens to sequences that are longer than the model takes."""

    window = "window"
    truncate = "truncate"
    reject = "reject"
    none = "none"


_INPUT_HELP = "FASTA, FASTQ or GenBank, plain or compressed; a folder of them; - is standard input."
_SUFFIXES = frozenset(
    (
        *(".fa", ".faa", ".fna", ".ffn", ".fas", ".fsa", ".fasta", ".aa", ".pep"),
        *(".fq", ".fastq", ".gb", ".gbk", ".gbff", ".gp", ".genbank"),
    )
)
_COMPRESSED = frozenset((".gz", ".bgz", ".bz2", ".xz", ".zst"))


def _files(inputs: list[str] | None) -> list[str] | None:
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
    list[str],
    typer.Argument(metavar="INPUT", help=_INPUT_HELP, show_default=False, callback=_files),
]
OptionalInputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[INPUT...]", help=f"{_INPUT_HELP} Default: realistic lengths.", show_default=False, callback=_files
    ),
]
DnaInputs = Annotated[list[str], typer.Argument(metavar="INPUT", help=_INPUT_HELP, show_default=False)]
Model = Annotated[
    str, typer.Option("--model", "-m", metavar="NAME|DIR", help="A model (see `embedstore models`), or a checkpoint.")
]
StorePlace = Annotated[
    str | None,
    typer.Option(
        "--store",
        "-s",
        metavar="PATH|URL",
        help="The store. Default: $EMBEDSTORE_PATH, else $XDG_DATA_HOME/embedstore.",
        show_default=False,
    ),
]
Pin = Annotated[
    str | None,
    typer.Option("--pin", metavar="NAME", help="Read exactly what `embedstore pin NAME` kept.", show_default=False),
]
Name = Annotated[str | None, typer.Option("--name", help="Name of the space, if not that of the model.")]
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
Weights = Annotated[
    list[str] | None,
    typer.Option(
        "--weights",
        metavar="[MODEL=]DIR",
        help="Weights of a named model, if not in the usual cache; may be given several times. Without MODEL=: of the "
        "only model that has weights.",
        show_default=False,
    ),
]
PrecisionChoice = Annotated[
    Precision | None, typer.Option("--precision", help="half: stored as float16; full: float32. Part of the space.")
]
LongChoice = Annotated[
    Long | None,
    typer.Option(
        "--long",
        help="Sequences beyond the maximal length: overlapping windows (default), cut, rejected, or no limit. "
        "Part of the space.",
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        "--max-length", metavar="N", min=1, help="Residues or tokens the model sees at once. Part of the space."
    ),
]
PoolingChoice = Annotated[
    Pooling | None,
    typer.Option("--pooling", help="Mean over residues, or over special tokens too. Part of the space."),
]
Device = Annotated[str | None, typer.Option("--device", metavar="D", help="cpu, cuda, cuda:1; default: the best.")]
AnyMolecule = Annotated[bool, typer.Option("--any-molecule", help="Take proteins that look like DNA.")]
Seconds = Annotated[
    float, typer.Option("--seconds", metavar="S", min=0.01, help="How long each measurement takes, about.")
]
SignWith = Annotated[
    Path | None,
    typer.Option(
        "--sign-with",
        metavar="KEY",
        help="Sign what is stored with this OpenSSH key (Ed25519). Default: $EMBEDSTORE_SIGNING_KEY.",
        callback=_environment_variable("EMBEDSTORE_SIGNING_KEY"),
    ),
]
RequireSigned = Annotated[
    Path | None,
    typer.Option(
        "--require-signed",
        metavar="MEMBERS",
        help="Read only what one of these keys has signed; lines as in .pub files. Default: $EMBEDSTORE_MEMBERS.",
        callback=_environment_variable("EMBEDSTORE_MEMBERS"),
    ),
]


def _upstream_variable(places: list[str] | None) -> list[str] | None:
    if places:
        os.environ["EMBEDSTORE_UPSTREAM"] = shlex.join(places)
    return places


def _pull_through_variable(chosen: bool) -> bool:
    if chosen:
        os.environ["EMBEDSTORE_PULL_THROUGH"] = "1"
    return chosen


Upstream = Annotated[
    list[str] | None,
    typer.Option(
        "--upstream",
        metavar="PATH|URL",
        help="A store to look up after yours; may be given several times. Default: $EMBEDSTORE_UPSTREAM.",
        callback=_upstream_variable,
        show_default=False,
    ),
]
PullThrough = Annotated[
    bool,
    typer.Option("--pull-through", help="Keep in your store what others have.", callback=_pull_through_variable),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")]


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


def options_of_models(
    models: Sequence[str], weights: Sequence[str] | None, precision: Precision | None
) -> dict[str, ModelOptions]:
    """Gather what was said about each of several models."""
    from embedstore.models.resolution import ModelOptions

    found = weights_of(models, weights)
    given = {
        name: ModelOptions(weights=found.get(name), precision=None if precision is None else precision.value)
        for name in models
    }
    return {name: options for name, options in given.items() if options != ModelOptions()}


def model_options(
    model: str,
    weights: Sequence[str] | None,
    precision: Precision | None,
    long: Long | None,
    max_length: int | None,
    pooling: Pooling | None,
) -> ModelOptions:
    """Gather what was said about the model."""
    from embedstore.models.resolution import ModelOptions

    return ModelOptions(
        weights=weights_of([model], weights).get(model),
        precision=None if precision is None else precision.value,
        long=None if long is None else long.value,
        max_length=max_length,
        pooling=None if pooling is None else pooling.value,
    )


def fill_options(device: str | None, any_molecule: bool) -> FillOptions:
    """Gather what was said about the fill."""
    from embedstore.filling import FillOptions

    return FillOptions(device=device, any_molecule=any_molecule)
