"""embedstore merge: join samples with their vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import options

if TYPE_CHECKING:
    from embedstore.features import Features
    from embedstore.filling import FillReport


def _writable(path: Path) -> Path:
    from embedstore.features.files import SUFFIXES

    if path.suffix not in SUFFIXES:
        raise typer.BadParameter(f"{path} ends in none of {', '.join(SUFFIXES)}")
    return path


def merge(
    samples: Annotated[Path, typer.Argument(metavar="SAMPLES.tsv", help="What `prepare` wrote.", show_default=False)],
    models: options.SomeModels,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FEATURES.zarr|.h5|.npz", help="What to write.", callback=_writable),
    ],
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="FILE", help="Table of sample, source or group, and label, with a header."),
    ] = None,
    fill: Annotated[
        bool,
        typer.Option("--fill", help="First compute what is missing, from dna.fna and protein.faa beside the table."),
    ] = False,
    store: options.StorePlace = None,
    upstream: options.Upstream = None,
    pull_through: options.PullThrough = False,
    pin: options.Pin = None,
    weights: options.Weights = None,
    precision: options.PrecisionChoice = None,
    device: options.Device = None,
    sign_with: options.SignWith = None,
    require_signed: options.RequireSigned = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Put the vectors of samples side by side, joined by sequence.

    The file holds all that training needs, and the schema that keeps features and classifiers together.
    """
    from embedstore.features import FillFrom
    from embedstore.features import merge as merge_features
    from embedstore_cli import places
    from embedstore_cli.output import count, notice, write_json
    from embedstore_cli.progress import shown

    named = options.names(models)
    choices = options.options_of_models(named, weights, precision)
    reports: list[FillReport] = []
    with shown(quiet=quiet) as on_progress:
        source = FillFrom(samples.parent, options.fill_options(device, True), on_progress, reports.append)
        features = merge_features(
            samples,
            places.opened(store, create=fill, pin=pin),
            named,
            output,
            source if fill else False,
            labels=labels,
            options=choices,
        )
    if json:
        write_json(_document(features, output, reports))
    elif not quiet:
        notice(f"Wrote {count(len(features))} × {count(features.dim)} to {output}.")


def _document(features: Features, output: Path, reports: list[FillReport]) -> dict[str, object]:
    return {"output": str(output), **features.to_json(), "filled": [report.to_json() for report in reports]}
