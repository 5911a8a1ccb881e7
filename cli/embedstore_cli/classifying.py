"""Classifiers: train, evaluate, import-classifier; and what all commands about classifiers share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedstore_cli.arguments import Models, names
from embedstore_cli.context import FILLING, OUTPUT, Context, shared
from embedstore_cli.output import confirm, duration, notice, write_facts, write_json
from embedstore_cli.progress import fill_shown
from embedstore_cli.sampling import Fill, Labels

if TYPE_CHECKING:
    from embedstore.classify.blocks import Reading
    from embedstore.classify.classifier import Classifier
    from embedstore.classify.heads import Epoch, TrainOptions
    from embedstore.classify.splitting import Split
    from embedstore.classify.training import TrainReport
    from embedstore.models.resolution import ModelOptions


class NetworkChoice(StrEnum):
    """What is trained."""

    mlp = "mlp"
    linear = "linear"


class CalibrationChoice(StrEnum):
    """How scores become probabilities."""

    temperature = "temperature"
    vector = "vector"
    none = "none"


Given = Annotated[
    Path,
    typer.Argument(metavar="FEATURES|SAMPLES.tsv", help="What `merge` or what `prepare` wrote.", show_default=False),
]
ClassifierPlace = Annotated[
    Path, typer.Option("--classifier", "-c", metavar="DIR", help="What `train` wrote.", show_default=False)
]
Groups = Annotated[
    Path | None,
    typer.Option(
        "--groups", metavar="FILE", help="Table of sample, source or group, and cluster: what a split must not divide."
    ),
]
SplitTable = Annotated[
    Path | None,
    typer.Option("--split", metavar="FILE", help="Table of sample, source or group, and part. Default: by group."),
]
Network = Annotated[
    NetworkChoice, typer.Option("--network", "--kind", help="mlp: VirNucPro's head; linear: the baseline.")
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Same seed, same weights.")]
ValidationShare = Annotated[
    float,
    typer.Option("--validation", min=0, max=1, metavar="X", help="Share of the samples, about, to stop training by."),
]
CalibrationShare = Annotated[
    float,
    typer.Option(
        "--calibration-share", min=0, max=1, metavar="X", help="Share of the samples, about, to calibrate on."
    ),
]
TestShare = Annotated[
    float, typer.Option("--test", min=0, max=1, metavar="X", help="Share of the samples, about, to test on.")
]
Calibration = Annotated[CalibrationChoice, typer.Option("--calibration", help="How scores become probabilities.")]
Balance = Annotated[bool, typer.Option("--balance/--no-balance", help="Weigh samples so that all classes count alike.")]
Epochs = Annotated[int, typer.Option("--epochs", metavar="N", min=1, help="Epochs at most.")]
Patience = Annotated[
    int, typer.Option("--patience", metavar="N", min=1, help="Stop after so many epochs without progress.")
]
BatchRows = Annotated[int, typer.Option("--batch", metavar="N", min=2, help="Samples in a batch.")]
LearningRate = Annotated[float, typer.Option("--learning-rate", metavar="X", help="Learning rate of AdamW.")]
InputDropout = Annotated[
    float, typer.Option("--input-dropout", metavar="X", min=0, max=1, help="Share of inputs left out in training.")
]
IgnoreUnlabelled = Annotated[
    bool, typer.Option("--ignore-unlabelled", help="Leave samples without a label out, rather than refuse them.")
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace the classifier that is there, without asking.")]

_SHOWN = (
    ("auroc", "AUROC"),
    ("auprc", "AUPRC"),
    ("balanced_accuracy", "balanced accuracy"),
    ("mcc", "MCC"),
    ("f1", "F1"),
    ("ece", "ECE"),
)


@shared(FILLING, OUTPUT)
def train(
    context: Context,
    given: Given,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="CLASSIFIER", help="Folder to write.")],
    models: Models = None,
    labels: Labels = None,
    groups: Groups = None,
    split: SplitTable = None,
    network: Network = NetworkChoice.mlp,
    seed: Seed = 1,
    validation: ValidationShare = 0.15,
    calibration_share: CalibrationShare = 0.15,
    test: TestShare = 0.2,
    calibration: Calibration = CalibrationChoice.temperature,
    balance: Balance = True,
    epochs: Epochs = 200,
    patience: Patience = 10,
    batch: BatchRows = 1024,
    learning_rate: LearningRate = 1e-3,
    input_dropout: InputDropout = 0.0,
    ignore_unlabelled: IgnoreUnlabelled = False,
    force: Force = False,
    fill: Fill = False,
) -> None:
    """Train a classifier, and test it on unseen groups.

    Train, validation, calibration and test share no group (genome) and no sequence. Writes a folder with
    classifier.safetensors, classifier.json, report.html and scores.tsv.
    """
    from embedstore.classify.classifier import DOCUMENT_NAME
    from embedstore.classify.heads import TrainOptions

    if not force and (output / DOCUMENT_NAME).exists():
        confirm(f"Replace the classifier {output}", "--force")
    choices = TrainOptions(
        network=network.value,
        seed=seed,
        validation_share=validation,
        calibration_share=0.0 if calibration is CalibrationChoice.none else calibration_share,
        test_share=test,
        balance_classes=balance,
        calibration=calibration.value,
        max_epochs=epochs,
        patience_epochs=patience,
        batch_rows=batch,
        learning_rate=learning_rate,
        input_dropout=input_dropout,
        ignore_unlabelled=ignore_unlabelled,
        device=context.device,
    )
    named = names(models)
    with reading(context, given, named, labels, groups, context.options_of_models(named), fill=fill) as how:
        report = _trained(context, given, output, choices, how, split)
    warn_of_report(report.report_failed, f"The classifier is in {report.output}")
    if context.json:
        write_json(report.to_json())
    elif not context.quiet:
        _write_trained(report)


def _trained(
    context: Context, given: Path, output: Path, choices: TrainOptions, how: Reading, split: Path | None
) -> TrainReport:
    """Train, and say how it goes on standard error."""
    from embedstore.classify.provenance import Provenance
    from embedstore.classify.training import train as train_classifier

    return train_classifier(
        given,
        output,
        choices,
        how,
        split=split,
        on_epoch=None if context.quiet else lambda epoch: notice(_epoch_line(epoch)),
        on_split=None if context.quiet else lambda parts: notice(_split_line(parts)),
        made=Provenance.now(context.command_line),
    )


def _split_line(split: Split) -> str:
    parts = ", ".join(f"{part} {len(rows):,} of {len(split.groups[part])} groups" for part, rows in split.rows.items())
    joined = f"; {len(split.joined)} sets of groups kept together, as they share a sequence" if split.joined else ""
    left_out = f"; {split.unlabelled:,} without a label left out" if split.unlabelled else ""
    return f"samples: {parts}{joined}{left_out}"


def _epoch_line(epoch: Epoch) -> str:
    return (
        f"epoch {epoch.number}: loss {epoch.training_loss:.4f}, validation {epoch.validation_loss:.4f}, "
        f"balanced accuracy {epoch.balanced_accuracy:.3f}"
    )


def _write_trained(report: TrainReport) -> None:
    epochs = f"{report.fitted.best_epoch} of {len(report.fitted.epochs)}"
    write_facts(
        [
            ("network", f"{report.classifier.network.kind}, best epoch {epochs}"),
            *metric_facts(report.evaluation, "tested on"),
            ("took", duration(report.seconds)),
            ("written to", str(report.output)),
        ]
    )


@shared(FILLING, OUTPUT)
def evaluate(
    context: Context,
    given: Given,
    classifier: ClassifierPlace,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Write evaluation.json, report.html and scores.tsv there."),
    ] = None,
    models: Models = None,
    labels: Labels = None,
    groups: Groups = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of the bootstrap.")] = 1,
    fill: Fill = False,
) -> None:
    """Score labelled samples with a classifier, and measure.

    First of all it is checked that the features are those that the classifier was trained on.
    """
    from embedstore.classify.classifier import load_classifier
    from embedstore.classify.evaluation import evaluate as evaluate_classifier
    from embedstore.classify.provenance import Provenance

    loaded, named = load_classifier(classifier), names(models)
    choices = context.options_of_models(models_of(loaded, named))
    with reading(context, given, named, labels, groups, choices, fill=fill) as how:
        made = Provenance.now(context.command_line)
        evaluation = evaluate_classifier(given, loaded, how, output, seed=seed, made=made)
    warn_of_report(evaluation.report_failed, f"The numbers are in {output}")
    seen = evaluation.metrics["groups_seen_in_training"]
    if seen and not context.quiet:
        notice(f"{len(seen)} of the groups were used to make the classifier: of these, this is no test.")
    if context.json:
        write_json(evaluation.to_json())
    elif not context.quiet:
        written = [] if output is None else [("written to", str(output))]
        write_facts([*metric_facts(evaluation.metrics, "evaluated on"), *written])


@shared(["store", "upstream", "sign_with", "require_signed", "weights", "precision", "quiet"])
def import_classifier(
    context: Context,
    file: Annotated[Path, typer.Argument(metavar="MODEL.pth", help="A head of VirNucPro.", show_default=False)],
    dna: Annotated[str, typer.Option("--dna", metavar="NAME|DIR", help="Its DNA model: dnabert_s.")],
    protein: Annotated[str, typer.Option("--protein", metavar="NAME|DIR", help="Its protein model: esm2_t36_3b.")],
    length: Annotated[int, typer.Option("--length", metavar="N", min=3, help="Bases of the chunks it was trained on.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="CLASSIFIER", help="Folder to write.")],
) -> None:
    """Make a classifier of a head that VirNucPro trained.

    The file is a pickled module: it is read without executing anything in it, and refused if it is anything else. No
    vector is computed: the models are only looked up.
    """
    from embedstore.classify.virnucpro_head import HeadSource
    from embedstore.classify.virnucpro_head import import_classifier as import_head

    choices = context.options_of_models((dna, protein))
    head = HeadSource(dna, protein, length)
    classifier = import_head(file, head, output, context.open(create=True), choices)
    if not context.quiet:
        notice(f"Wrote a classifier of {classifier.schema.dim} columns to {output}.")


@contextmanager
def reading(
    context: Context,
    given: Path,
    models: Sequence[str],
    labels: Path | None,
    groups: Path | None,
    choices: Mapping[str, ModelOptions],
    *,
    fill: bool,
) -> Iterator[Reading]:
    """Say where features come from; a merged file needs no store."""
    from embedstore.classify.blocks import Reading
    from embedstore.features import FillFrom, is_merged_file

    if is_merged_file(given):
        yield Reading(models=models, labels=labels, groups=groups)
        return
    with fill_shown(quiet=context.quiet or not fill) as on_progress:
        source = FillFrom(given.parent, context.fill_options(), on_progress) if fill else False
        yield Reading(context.open(create=fill), models, labels, groups, source, choices)


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


def warn_of_report(failed: str, kept: str) -> None:
    """Say on standard error that a report could not be drawn, and where the results are all the same."""
    if failed:
        notice(f"Warning: its report could not be drawn: {failed}. {kept}.")
