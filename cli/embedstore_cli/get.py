"""embedstore get: write the vectors of sequences to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstore_cli import options


def _exportable(path: Path) -> Path:
    from embedstore.errors import plain
    from embedstore.export import SUFFIXES

    if path.suffix not in SUFFIXES:
        raise typer.BadParameter(f"{plain(path)} ends in none of {', '.join(SUFFIXES)}")
    return path


def get(
    inputs: options.Inputs,
    model: options.Model,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="X.npz|.h5|.zarr", help="What to write: ids, keys, X.", callback=_exportable
        ),
    ],
    fill: Annotated[bool, typer.Option("--fill", help="First compute and store what is missing.")] = False,
    store: options.StorePlace = None,
    upstream: options.Upstream = None,
    pull_through: options.PullThrough = False,
    pin: options.Pin = None,
    name: options.Name = None,
    weights: options.Weights = None,
    precision: options.PrecisionChoice = None,
    long: options.LongChoice = None,
    max_length: options.MaxLength = None,
    pooling: options.PoolingChoice = None,
    device: options.Device = None,
    any_molecule: options.AnyMolecule = False,
    sign_with: options.SignWith = None,
    require_signed: options.RequireSigned = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write the vectors of sequences to a file.

    A row a record, in the order of the input.
    """
    from embedstore.errors import InputError
    from embedstore.export import check_path, export
    from embedstore.retrieval import fill_and_retrieve, retrieve
    from embedstore.sequences import read
    from embedstore_cli import places
    from embedstore_cli.output import count, list_rejections, notice, write_json
    from embedstore_cli.progress import shown

    check_path(output)
    records = read(inputs)
    choices = options.model_options(model, weights, precision, long, max_length, pooling)
    if fill and pin is not None:
        raise InputError("Cannot fill what is read as it was pinned: leave out --fill or --pin.")
    if fill:
        target = places.target_to_fill(store, model, choices, name, quiet=quiet)
        with shown(quiet=quiet, molecule=target.recipe.molecule) as on_progress:
            how = options.fill_options(device, any_molecule)
            found = fill_and_retrieve(records, target, how, on_progress=on_progress)
    else:
        target = places.opened(store, pin=pin).target(model, name=name, options=choices)
        found = retrieve(records, target, any_molecule=any_molecule)
    export(found, output)
    if json:
        write_json({"output": str(output), **found.to_json()})
    else:
        list_rejections(found.rejected, "rejected")
        list_rejections(found.failed, "failed")
        if not quiet:
            notice(f"Wrote {count(len(found))} × {count(found.recipe.dim)} {found.recipe.dtype} to {output}.")
    raise typer.Exit(3 if found.rejected or found.failed else 0)
