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
from embedstore_cli.sampling import Fill, Labels, seen_facts

if TYPE_CHECKING:
    from embedstore.classify.blocks import Reading
    from embedstore.classify.classifier import Classifier
    from embedstore.classify.heads import TrainOptions
    from embedstore.classify.splitting import Split
    from embedstore.classify.training import TrainReport
    from embedstore.models.resolution import ModelOptions


class HeadChoice(StrEnum):
    """What is trained."""

    linear = "linear"
    mlp = "mlp"
    trees = "trees"


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
HowGrouped = Annotated[
    str | None,
    typer.Option(
        "--groups",
        metavar="auto|source|FILE",
        help="What a split must not divide. auto: genomes, and those alike by sequence; source: genomes as in the "
        "table; FILE: clusters, as a table, of MMseqs2 or of CD-HIT. Default: auto where dna.fna is there.",
    ),
]
SplitTable = Annotated[
    Path | None,
    typer.Option("--split", metavar="FILE", help="Table of sample, source or group, and part. Default: by group."),
]
Head = Annotated[
    HeadChoice, typer.Option("--head", help="linear: logistic regression; mlp: VirNucPro's head; trees: a forest.")
]
OldHead = Annotated[HeadChoice | None, typer.Option("--network", "--kind", hidden=True)]
Folds = Annotated[
    int,
    typer.Option(
        "--folds",
        metavar="N",
        min=2,
        help="Each of so many parts of the groups is scored by a head fitted to the others.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Same seed, same weights.")]
TestShare = Annotated[
    float,
    typer.Option(
        "--test",
        min=0,
        max=1,
        metavar="X",
        help="Share of the samples, about, that is set aside to test on. 0: the folds.",
    ),
]
Positive = Annotated[
    str | None,
    typer.Option(
        "--positive",
        metavar="LABEL",
        help="The class to look for, first in reports. Default: virus, if it is one of two.",
    ),
]
Strength = Annotated[
    float | None,
    typer.Option("--strength", metavar="X", help="Of the penalty of linear. Default: chosen by the folds."),
]
Members = Annotated[
    int | None, typer.Option("--members", metavar="N", min=1, help="Networks of mlp whose mean is taken. Default: 3.")
]
Calibration = Annotated[CalibrationChoice, typer.Option("--calibration", help="How scores become probabilities.")]
Balance = Annotated[bool, typer.Option("--balance/--no-balance", help="Weigh samples so that all classes count alike.")]
Epochs = Annotated[int | None, typer.Option("--epochs", metavar="N", min=1, help="Of mlp, at most. Default: 200.")]
Patience = Annotated[
    int | None,
    typer.Option("--patience", metavar="N", min=1, help="Of mlp: stop after so many epochs in vain. Default: 10."),
]
BatchRows = Annotated[
    int | None, typer.Option("--batch", metavar="N", min=2, help="Of mlp: samples in a batch. Default: 1024.")
]
LearningRate = Annotated[
    float | None, typer.Option("--learning-rate", metavar="X", help="Of mlp, of AdamW. Default: 0.0001.")
]
InputDropout = Annotated[
    float | None,
    typer.Option("--input-dropout", metavar="X", min=0, max=1, help="Of mlp: share of inputs left out. Default: 0."),
]
IgnoreUnlabelled = Annotated[
    bool, typer.Option("--ignore-unlabelled", help="Leave samples without a label out, rather than refuse them.")
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace the classifier that is there, without asking.")]

_SHOWN_OF_POSITIVE = (("auroc", "AUROC"), ("auprc", "AUPRC"), ("recall", "recall"), ("precision", "precision"))
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
    groups: HowGrouped = None,
    split: SplitTable = None,
    head: Head = HeadChoice.linear,
    folds: Folds = 5,
    test: TestShare = 0.0,
    positive: Positive = None,
    seed: Seed = 1,
    calibration: Calibration = CalibrationChoice.temperature,
    balance: Balance = True,
    strength: Strength = None,
    members: Members = None,
    epochs: Epochs = None,
    patience: Patience = None,
    batch: BatchRows = None,
    learning_rate: LearningRate = None,
    input_dropout: InputDropout = None,
    network: OldHead = None,
    dna_only_fallback: Annotated[
        bool, typer.Option("--dna-only-fallback", help="Train a second head along, for contigs without an open frame.")
    ] = False,
    ignore_unlabelled: IgnoreUnlabelled = False,
    force: Force = False,
    fill: Fill = False,
) -> None:
    """Train a classifier, and test it on unseen groups.

    Folds, and the test part if there is one, share no group (genome) and no sequence. Reported scores are of heads that
    have not seen the sample; the head in the folder is fitted to all folds. Writes classifier.safetensors,
    classifier.json, report.html and scores.tsv.
    """
    from embedstore.classify.classifier import DOCUMENT_NAME
    from embedstore.classify.heads import TrainOptions

    if not force and (output / DOCUMENT_NAME).exists():
        confirm(f"Replace the classifier {output}", "--force")
    chosen = network or head
    of_mlp = of_head(
        chosen,
        HeadChoice.mlp,
        members=members,
        max_epochs=epochs,
        patience_epochs=patience,
        batch_rows=batch,
        learning_rate=learning_rate,
        input_dropout=input_dropout,
    )
    choices = TrainOptions(
        head=chosen.value,
        seed=seed,
        folds=folds,
        test_share=test,
        positive=positive,
        balance_classes=balance,
        calibration=calibration.value,
        ignore_unlabelled=ignore_unlabelled,
        dna_only_fallback=dna_only_fallback,
        device=context.device,
        **of_head(chosen, HeadChoice.linear, strength=strength),
        **of_mlp,
    )
    named = names(models)
    clusters, relatives = how_grouped(groups)
    with reading(context, given, named, labels, clusters, context.options_of_models(named), fill=fill) as how:
        report = _trained(context, given, output, choices, how, split, relatives=relatives)
    warn_of_report(report.report_failed, f"The classifier is in {report.output}")
    if context.json:
        write_json(report.to_json())
    elif not context.quiet:
        _write_trained(report)


_OPTIONS = {"max_epochs": "--epochs", "patience_epochs": "--patience", "batch_rows": "--batch"}


def of_head(chosen: HeadChoice, head: HeadChoice, **given: Any) -> dict[str, Any]:
    """Return the options of a head that were given; those of another one than is chosen are wrong usage."""
    found = {name: value for name, value in given.items() if value is not None}
    if found and chosen is not head:
        shown = ", ".join(_OPTIONS.get(name, f"--{name.replace('_', '-')}") for name in found)
        raise typer.BadParameter(f"{shown} only has a meaning with --head {head.value}, found --head {chosen.value}")
    return found


def _trained(
    context: Context,
    given: Path,
    output: Path,
    choices: TrainOptions,
    how: Reading,
    split: Path | None,
    *,
    relatives: bool | None,
) -> TrainReport:
    """Train, and say how it goes on standard error."""
    from embedstore.classify.provenance import Provenance
    from embedstore.classify.training import train as train_classifier

    return train_classifier(
        given,
        output,
        options=choices,
        reading=how,
        split=split,
        relatives=relatives,
        on_fitted=None if context.quiet else notice,
        on_split=None if context.quiet else lambda parts: notice(_split_line(parts)),
        made=Provenance.now(context.command_line),
    )


def how_grouped(groups: str | None) -> tuple[Path | None, bool | None]:
    """Return the table of clusters, if there is one, and whether relatives are kept together."""
    asked = {None: None, "auto": True, "source": False}
    return (None, asked[groups]) if groups in asked else (Path(str(groups)), None)


def _split_line(split: Split) -> str:
    parts = ", ".join(f"{part} {len(rows):,} of {len(split.groups[part])} groups" for part, rows in split.rows.items())
    joined = (
        f"; {len(split.joined)} sets of groups kept together, as they share a sequence or are relatives"
        if split.joined
        else ""
    )
    left_out = f"; {split.unlabelled:,} without a label left out" if split.unlabelled else ""
    return f"samples: {parts}{joined}{left_out}"


def _write_trained(report: TrainReport) -> None:
    from embedstore.classify.report import fallback_text, simple_head_text

    tested = "tested on" if report.evaluation["tested_on"] == "test" else "scored out of fold"
    simple = report.classifier.about["simple_head"]
    fallback = report.evaluation.get("dna_only_fallback")
    write_facts(
        [
            ("head", report.classifier.head.kind),
            ("groups alike", _alike_text(report)),
            *metric_facts(report.evaluation, tested),
            *([] if fallback is None else [("on DNA alone", fallback_text(fallback))]),
            *([] if simple is None else [("beside linear", simple_head_text(simple))]),
            ("took", duration(report.seconds)),
            ("written to", str(report.output)),
        ]
    )


def _alike_text(report: TrainReport) -> str:
    """Say what was found of relatives."""
    found = report.classifier.about["grouping"]
    if not found["looked_at"]:
        return f"not looked for, as {found['why']}"
    kept = "kept together" if found["by"] == "sequence" else f"{found['pairs_in_two_parts']:,} in two parts"
    two_labels = found["pairs_under_two_labels"]
    return f"{found['pairs']:,} pairs, {kept}" + (f"; {two_labels:,} under two labels" if two_labels else "")


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
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of the draws of groups.")] = 1,
    positive: Positive = None,
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
        evaluation = evaluate_classifier(given, loaded, output, reading=how, seed=seed, positive=positive, made=made)
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

    on_note = None if context.quiet else notice
    if is_merged_file(given):
        yield Reading(models=models, labels=labels, groups=groups, on_note=on_note)
        return
    with fill_shown(quiet=context.quiet or not fill) as on_progress:
        source = FillFrom(given.parent, context.fill_options(), on_progress) if fill else False
        yield Reading(context.open(create=fill), models, labels, groups, source, choices, on_note)


def models_of(classifier: Classifier, models: Sequence[str]) -> Sequence[str]:
    """Return the names that a classifier's models go by: those that were given, or else its own."""
    return models or [block.space for block in classifier.schema.blocks]


def metric_facts(evaluation: Mapping[str, Any], on: str) -> list[tuple[str, str]]:
    """Name the main metrics with their intervals: of the class that is looked for, of contigs, of all classes."""
    intervals = evaluation["intervals"]["numbers"]

    def written(value: float | None, path: str) -> str:
        low, high = intervals.get(path, (None, None))
        interval = "" if low is None else f" ({low:.3f} to {high:.3f})"
        return "not defined" if value is None else f"{value:.3f}{interval}"

    facts = [(on, f"{evaluation['samples']:,.0f} samples of {evaluation['groups']:,} groups")]
    positive = evaluation.get("positive")
    if positive is not None:
        label = positive["label"]
        shown = [(f"{label} {name}", key) for key, name in _SHOWN_OF_POSITIVE]
        facts += [(name, written(positive[key], f"classes/{label}/{key}")) for name, key in shown]
        facts.append((f"{label} false positive rate", written(positive["false_positive_rate"], "")))
    facts += [(f"contigs of {part['length_bases']:,} bases", contig_text(part)) for part in evaluation["contigs"]]
    if "seen" in evaluation:
        seen = evaluation["seen"]
        unknown = ("seen", f"not known: {evaluation.get('seen_unknown')}")
        facts += [unknown] if seen is None else seen_facts(seen)
    return facts + [(name, written(evaluation[key], key)) for key, name in _SHOWN]


def contig_text(part: Mapping[str, Any]) -> str:
    """Say how fragments of one length are called."""
    shown = part.get("positive", part)
    of_others = "" if shown is part else f", false positive rate {decimal(shown['false_positive_rate'])}"
    of_all = part.get("of_all")
    if of_all is not None:
        recall = of_all.get("positive", of_all)["recall"]
        of_others = f" ({decimal(recall)} of all, {of_all['share_with_sample']:.1%} of which have a call){of_others}"
    return f"AUROC {decimal(shown['auroc'])}, recall {decimal(shown['recall'])}{of_others}"


def decimal(number: float | None) -> str:
    """Write a share; what is not defined is a dash."""
    return "–" if number is None else f"{number:.3f}"


def warn_of_report(failed: str, kept: str) -> None:
    """Say on standard error that a report could not be drawn, and where the results are all the same."""
    if failed:
        notice(f"Warning: its report could not be drawn: {failed}. {kept}.")
