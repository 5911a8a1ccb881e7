"""Options that several commands share, and the values that they make."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
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


Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT",
        help="FASTA, FASTQ or GenBank, plain or compressed; - is standard input.",
        show_default=False,
    ),
]
OptionalInputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[INPUT...]",
        help="FASTA, FASTQ or GenBank, plain or compressed; - is standard input. Default: realistic lengths.",
        show_default=False,
    ),
]
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
Weights = Annotated[
    Path | None, typer.Option("--weights", metavar="DIR", help="Weights of a named model, if not in the usual cache.")
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
        help="A store to look up after the own one; may be given several times. Default: $EMBEDSTORE_UPSTREAM.",
        callback=_upstream_variable,
        show_default=False,
    ),
]
PullThrough = Annotated[
    bool,
    typer.Option("--pull-through", help="Keep in the own store what others have.", callback=_pull_through_variable),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")]


def model_options(
    weights: Path | None,
    precision: Precision | None,
    long: Long | None,
    max_length: int | None,
    pooling: Pooling | None,
) -> ModelOptions:
    """Gather what was said about the model."""
    from embedstore.models.resolution import ModelOptions

    return ModelOptions(
        weights=weights,
        precision=None if precision is None else precision.value,
        long=None if long is None else long.value,
        max_length=max_length,
        pooling=None if pooling is None else pooling.value,
    )


def fill_options(device: str | None, any_molecule: bool) -> FillOptions:
    """Gather what was said about the fill."""
    from embedstore.filling import FillOptions

    return FillOptions(device=device, any_molecule=any_molecule)
