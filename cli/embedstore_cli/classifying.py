"""What the commands about classifiers share."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedstore_cli.command import ARGUMENTS

if TYPE_CHECKING:
    from embedstore.classify.blocks import Reading
    from embedstore.classify.classifier import Classifier
    from embedstore.classify.provenance import Provenance
    from embedstore.models.resolution import ModelOptions

Labels = Annotated[
    Path | None,
    typer.Option("--labels", metavar="FILE", help="Table of sample, source or group, and label, with a header."),
]
Groups = Annotated[
    Path | None,
    typer.Option(
        "--groups", metavar="FILE", help="Table of sample, source or group, and cluster: what a split must not divide."
    ),
]
Fill = Annotated[
    bool, typer.Option("--fill", help="First compute what is missing, from dna.fna and protein.faa beside the table.")
]
ClassifierPlace = Annotated[
    Path, typer.Option("--classifier", "-c", metavar="DIR", help="What `train` wrote.", show_default=False)
]

_SHOWN = (
    ("auroc", "AUROC"),
    ("auprc", "AUPRC"),
    ("balanced_accuracy", "balanced accuracy"),
    ("mcc", "MCC"),
    ("f1", "F1"),
    ("ece", "ECE"),
)


@contextmanager
def reading(
    given: Path,
    store: str | None,
    models: Sequence[str],
    labels: Path | None,
    groups: Path | None,
    choices: Mapping[str, ModelOptions],
    *,
    fill: bool,
    device: str | None,
    quiet: bool,
) -> Iterator[Reading]:
    """Say how features are come by; a merged file needs no store."""
    from embedstore.classify.blocks import Reading
    from embedstore.features import FillFrom, is_merged_file
    from embedstore_cli import places
    from embedstore_cli.options import fill_options
    from embedstore_cli.progress import shown

    if is_merged_file(given):
        yield Reading(models=models, labels=labels, groups=groups)
        return
    with shown(quiet=quiet) as on_progress:
        source = FillFrom(given.parent, fill_options(device, True), on_progress) if fill else False
        yield Reading(places.opened(store, create=fill), models, labels, groups, source, choices)


def models_of(classifier: Classifier, models: Sequence[str]) -> Sequence[str]:
    """Return the names that a classifier's models go by: those that were given, or else its own."""
    return models or [block.space for block in classifier.schema.blocks]


def metric_facts(evaluation: Mapping[str, Any], on: str) -> list[tuple[str, str]]:
    """Name the main metrics with their intervals."""
    intervals = evaluation["intervals"]["numbers"]
    facts = [(on, f"{evaluation['samples']:,.0f} samples of {evaluation['groups']:,} groups")]
    for key, name in _SHOWN:
        low, high = intervals.get(key, (None, None))
        interval = "" if low is None else f" ({low:.3f} to {high:.3f})"
        facts.append((name, "not defined" if evaluation[key] is None else f"{evaluation[key]:.3f}{interval}"))
    return facts


def made_by(context: typer.Context) -> Provenance:
    """State that this command makes something now."""
    from embedstore.classify.provenance import Provenance

    return Provenance.now(f"{context.command_path} {shlex.join(context.meta[ARGUMENTS])}")


def report_warning(failed: str, kept: str) -> None:
    """Say on standard error that a report could not be drawn, and where the results are all the same."""
    from embedstore_cli.output import notice

    if failed:
        notice(f"Warning: its report could not be drawn: {failed}. {kept}.")
