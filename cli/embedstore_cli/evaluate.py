"""embedstore evaluate: how a classifier does on labelled samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstore_cli import options
from embedstore_cli.classifying import ClassifierPlace, Fill, Groups, Labels


def evaluate(
    context: typer.Context,
    given: Annotated[
        Path,
        typer.Argument(
            metavar="FEATURES|SAMPLES.tsv", help="What `merge` or what `prepare` wrote.", show_default=False
        ),
    ],
    classifier: ClassifierPlace,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Write evaluation.json, report.html and scores.tsv there."),
    ] = None,
    models: options.Models = None,
    labels: Labels = None,
    groups: Groups = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of the bootstrap.")] = 1,
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
    """Score labelled samples with a classifier, and measure.

    Whether the features are those that the classifier was trained on is looked at first.
    """
    from embedstore.classify.classifier import load_classifier
    from embedstore.classify.evaluation import evaluate as evaluate_classifier
    from embedstore_cli.classifying import made_by, metric_facts, models_of, reading, report_warning
    from embedstore_cli.output import notice, write_facts, write_json

    loaded, named = load_classifier(classifier), options.names(models)
    choices = options.options_of_models(models_of(loaded, named), weights, precision)
    with reading(given, store, named, labels, groups, choices, fill=fill, device=device, quiet=quiet) as how:
        evaluation = evaluate_classifier(given, loaded, how, output, seed=seed, made=made_by(context))
    report_warning(evaluation.report_failed, f"The numbers are in {output}")
    seen = evaluation.metrics["groups_seen_in_training"]
    if seen and not quiet:
        notice(f"{len(seen)} of the groups were used to make the classifier: of these, this is no test.")
    if json:
        write_json(evaluation.to_json())
    elif not quiet:
        written = [] if output is None else [("written to", str(output))]
        write_facts([*metric_facts(evaluation.metrics, "evaluated on"), *written])
