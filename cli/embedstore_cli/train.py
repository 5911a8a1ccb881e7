"""embedstore train: train a classifier on samples."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import options
from embedstore_cli.classifying import Fill, Groups, Labels, made_by, metric_facts, reading, report_warning
from embedstore_cli.output import confirm, duration, notice, write_facts, write_json

if TYPE_CHECKING:
    from embedstore.classify.blocks import Reading
    from embedstore.classify.heads import Epoch, TrainOptions
    from embedstore.classify.provenance import Provenance
    from embedstore.classify.splitting import Split
    from embedstore.classify.training import TrainReport


class NetworkChoice(StrEnum):
    """What is trained."""

    mlp = "mlp"
    linear = "linear"


class CalibrationChoice(StrEnum):
    """How scores become probabilities."""

    temperature = "temperature"
    vector = "vector"
    none = "none"


_SHARE = typer.Option(min=0, max=1, metavar="X", help="Share of the samples, about.")
Share = Annotated[float, _SHARE]
Given = Annotated[
    Path,
    typer.Argument(metavar="FEATURES|SAMPLES.tsv", help="What `merge` or what `prepare` wrote.", show_default=False),
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="CLASSIFIER", help="Folder to write.")]
SplitTable = Annotated[
    Path | None,
    typer.Option("--split", metavar="FILE", help="Table of sample, source or group, and part. Default: by group."),
]
Network = Annotated[NetworkChoice, typer.Option("--network", help="mlp: VirNucPro's head; linear: the baseline.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Same seed, same weights.")]
Calibration = Annotated[CalibrationChoice, typer.Option("--calibration", help="How scores become probabilities.")]
Balance = Annotated[bool, typer.Option("--balance/--no-balance", help="Weigh samples so that all classes count alike.")]
Epochs = Annotated[int, typer.Option("--epochs", metavar="N", min=1, help="At most.")]
Patience = Annotated[
    int, typer.Option("--patience", metavar="N", min=1, help="Stop after so many epochs without progress.")
]
BatchRows = Annotated[int, typer.Option("--batch", metavar="N", min=2, help="Samples in a batch.")]
LearningRate = Annotated[float, typer.Option("--learning-rate", metavar="X", help="Of AdamW.")]
InputDropout = Annotated[
    float, typer.Option("--input-dropout", metavar="X", min=0, max=1, help="Share of inputs left out in training.")
]
IgnoreUnlabelled = Annotated[
    bool, typer.Option("--ignore-unlabelled", help="Leave samples without a label out, rather than refuse them.")
]


def train(
    context: typer.Context,
    given: Given,
    output: Output,
    models: options.Models = None,
    labels: Labels = None,
    groups: Groups = None,
    split: SplitTable = None,
    network: Network = NetworkChoice.mlp,
    seed: Seed = 1,
    validation: Share = 0.15,
    calibration_share: Share = 0.15,
    test: Share = 0.2,
    calibration: Calibration = CalibrationChoice.temperature,
    balance: Balance = True,
    epochs: Epochs = 200,
    patience: Patience = 10,
    batch: BatchRows = 1024,
    learning_rate: LearningRate = 1e-3,
    input_dropout: InputDropout = 0.0,
    ignore_unlabelled: IgnoreUnlabelled = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the classifier that is there.")] = False,
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
    """Train a classifier, and test it on groups that it has never seen.

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
        device=device,
    )
    named = options.names(models)
    how_made = options.options_of_models(named, weights, precision)
    with reading(given, store, named, labels, groups, how_made, fill=fill, device=device, quiet=quiet) as how:
        report = _trained(given, output, choices, how, split, made_by(context), quiet=quiet)
    report_warning(report.report_failed, f"The classifier is in {report.output}")
    if json:
        write_json(report.to_json())
    elif not quiet:
        _write_text(report)


def _trained(
    given: Path, output: Path, choices: TrainOptions, how: Reading, split: Path | None, made: Provenance, *, quiet: bool
) -> TrainReport:
    """Train, and say how it goes on standard error."""
    from embedstore.classify.training import train as train_classifier

    return train_classifier(
        given,
        output,
        choices,
        how,
        split=split,
        on_epoch=None if quiet else lambda epoch: notice(_epoch_line(epoch)),
        on_split=None if quiet else lambda parts: notice(_split_line(parts)),
        made=made,
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


def _write_text(report: TrainReport) -> None:
    epochs = f"{report.fitted.best_epoch} of {len(report.fitted.epochs)}"
    write_facts(
        [
            ("network", f"{report.classifier.network.kind}, best epoch {epochs}"),
            *metric_facts(report.evaluation, "tested on"),
            ("took", duration(report.seconds)),
            ("written to", str(report.output)),
        ]
    )
