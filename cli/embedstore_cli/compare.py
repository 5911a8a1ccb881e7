"""embedstore compare: which sets of features do better on the same samples and splits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import options
from embedstore_cli.classifying import Fill, Groups, Labels
from embedstore_cli.train import NetworkChoice

if TYPE_CHECKING:
    from embedstore.comparison.comparing import Comparison


def _several(sets: list[str]) -> list[str]:
    if len(sets) < 2:
        raise typer.BadParameter("give it twice or more, as --models old --models new --models old,new")
    return sets


def compare(
    context: typer.Context,
    samples: Annotated[Path, typer.Argument(metavar="SAMPLES.tsv", help="What `prepare` wrote.", show_default=False)],
    models: Annotated[
        list[str],
        typer.Option(
            "--model",
            "--models",
            "-m",
            metavar="A,B",
            help="A set of models or spaces; give it for each set.",
            callback=_several,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="REPORT", help="Folder to write.")],
    network: Annotated[
        NetworkChoice, typer.Option("--network", "--kind", help="mlp: VirNucPro's head; linear: the baseline.")
    ] = NetworkChoice.mlp,
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, help="How many; each has its own split.")] = 3,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="The first of them.")] = 1,
    input_dropout: Annotated[
        float, typer.Option("--input-dropout", metavar="X", min=0, max=1, help="Inputs left out in training.")
    ] = 0.0,
    labels: Labels = None,
    groups: Groups = None,
    ignore_unlabelled: Annotated[
        bool, typer.Option("--ignore-unlabelled", help="Leave samples without a label out, rather than refuse them.")
    ] = False,
    fill: Fill = False,
    store: options.StorePlace = None,
    upstream: options.Upstream = None,
    pull_through: options.PullThrough = False,
    weights: options.Weights = None,
    precision: options.PrecisionChoice = None,
    device: options.Device = None,
    sign_with: options.SignWith = None,
    require_signed: options.RequireSigned = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare sets of features: an old model's, a new one's, both together, the built-in baseline's.

    Every set is trained and tested on the same samples with the same splits. Writes comparison.html and
    comparison.json: paired differences of all metrics with intervals, what the vectors cost, how alike the spaces are.
    """
    from embedstore.classify.heads import TrainOptions
    from embedstore.comparison.comparing import compare as compare_sets
    from embedstore_cli.classifying import made_by, reading, report_warning
    from embedstore_cli.output import notice, write_json

    training = TrainOptions(
        network=network.value,
        seed=seed,
        input_dropout=input_dropout,
        ignore_unlabelled=ignore_unlabelled,
        device=device,
    )
    choices = options.options_of_models(options.names(models), weights, precision)
    with reading(samples, store, (), labels, groups, choices, fill=fill, device=device, quiet=quiet) as how:
        comparison = compare_sets(
            samples,
            models,
            how,
            output,
            training,
            seeds=seeds,
            on_trained=None if quiet else lambda name, number, _: notice(f"trained on {name}, seed {number}"),
            made=made_by(context),
        )
    report_warning(comparison.report_failed, f"The numbers are in {output}")
    if json:
        write_json(comparison.to_json())
    elif not quiet:
        _write_text(comparison, output)


def _write_text(comparison: Comparison, output: Path) -> None:
    from embedstore.comparison.page import DRAWN, difference_text, lead, pair_name
    from embedstore_cli.output import notice, write_table

    found = comparison.document
    columns = ("difference", *(f">{name}" for _, name in DRAWN))
    rows = [
        (pair_name(pair), *(difference_text(pair["metrics"][path]) for path, _ in DRAWN))
        for pair in found["differences"]
    ]
    notice(f"{lead(found)} In brackets: {found['intervals']['level']:.0%} intervals; * : 0 is not in it.")
    write_table(columns, rows)
    notice(f"Wrote {output / 'comparison.json'}{'' if comparison.report_failed else ' and comparison.html'}.")
