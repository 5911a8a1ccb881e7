"""Classifiers at work: predict (classify sequences), compare (which features, or which classifiers, do better)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli.arguments import DnaInputs, Models, names
from embedstore_cli.classifying import (
    Folds,
    Head,
    HeadChoice,
    HowGrouped,
    IgnoreUnlabelled,
    InputDropout,
    OldHead,
    Positive,
    Strength,
    how_grouped,
    models_of,
    of_head,
    reading,
    warn_of_report,
)
from embedstore_cli.context import FILLING, OUTPUT, Context, shared
from embedstore_cli.output import count, duration, list_rejections, notice, write_facts, write_json, write_table
from embedstore_cli.progress import Lines, fill_shown
from embedstore_cli.sampling import Compat, Fill, Labels, code_choice, seen_facts

if TYPE_CHECKING:
    from embedstore.classify.prediction import PredictProgress, PredictReport
    from embedstore.comparison.comparing import Comparison
    from embedstore.comparison.verdicts import DecideOptions


ClassifierPlaces = Annotated[
    list[Path],
    typer.Option(
        "--classifier", "-c", metavar="DIR", help="What `train` wrote; several are averaged.", show_default=False
    ),
]


class Primary(StrEnum):
    """The metric that decides."""

    auroc = "auroc"
    auprc = "auprc"
    f1 = "f1"
    precision = "precision"
    recall = "recall"
    balanced_accuracy = "balanced_accuracy"
    mcc = "mcc"
    accuracy = "accuracy"


@shared(FILLING, OUTPUT)
def predict(
    context: Context,
    inputs: DnaInputs,
    classifier: ClassifierPlaces,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the tables.")],
    models: Models = None,
    length: Annotated[
        int | None, typer.Option("--length", metavar="N", min=3, help="Bases of a chunk: refused if not as trained.")
    ] = None,
    genetic_code: Annotated[
        str | None,
        typer.Option("--genetic-code", metavar="N|auto|FILE", help="As for prepare: refused if not as trained."),
    ] = None,
    min_length: Annotated[
        int | None, typer.Option("--min-length", metavar="N", min=0, help="Do not cut shorter sequences. Default: 60.")
    ] = None,
    compat: Annotated[Compat | None, typer.Option("--compat", help="Write VirNucPro's two tables too.")] = None,
    dna_only_fallback: Annotated[
        bool, typer.Option("--dna-only-fallback", help="Call contigs without an open frame from their DNA alone.")
    ] = False,
    positive: Annotated[
        str | None,
        typer.Option(
            "--positive", metavar="LABEL", help="The class that is looked for. Default: as trained, or virus."
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option("--min-score", metavar="S", min=0, max=1, help="Call a contig positive from this score on."),
    ] = None,
    fdr: Annotated[
        float | None,
        typer.Option("--fdr", metavar="Q", min=0, max=1, help="Expected share of false ones among contigs called so."),
    ] = None,
    prevalence: Annotated[
        float | None,
        typer.Option("--prevalence", metavar="P", help="Share of the positive class in the input, between 0 and 1."),
    ] = None,
    write_called: Annotated[
        bool, typer.Option("--write-called", help="Write the contigs called positive to called.fna.")
    ] = False,
    track: Annotated[
        bool, typer.Option("--track", help="Write scores.bedgraph and segments.tsv: scores along each contig.")
    ] = False,
) -> None:
    """Classify sequences: cut, embed what is missing, score.

    Several classifiers (-c A -c B) are averaged: each reads its own columns of the same samples.
    Writes predictions.tsv, contigs.tsv and predict.json into DIR. To go on after a stop, start the same command again.
    """
    from embedstore.classify.classifier import load_classifier
    from embedstore.classify.prediction import PredictOptions
    from embedstore.classify.prediction import predict as predict_sequences

    loaded, named = [load_classifier(one) for one in classifier], names(models)
    choices = PredictOptions(
        models=named,
        length_bases=length,
        genetic_code=None if genetic_code is None else code_choice(genetic_code),
        min_length_bases=min_length,
        compat=None if compat is None else "virnucpro",
        dna_only_fallback=dna_only_fallback,
        positive=positive,
        min_score=min_score,
        fdr=fdr,
        prevalence=prevalence,
        write_called=write_called,
        track=track,
        fill=context.fill_options(),
        model_options=context.options_of_models([name for one in loaded for name in models_of(one, named)]),
    )
    with _shown(quiet=context.quiet) as progress:
        report = predict_sequences(
            inputs, loaded, output, store=context.open(create=True), options=choices, progress=progress
        )
    if context.json:
        write_json(report.to_json())
    else:
        _write_predicted(report, quiet=context.quiet)
    raise typer.Exit(0 if report.complete else 3)


@contextmanager
def _shown(*, quiet: bool) -> Iterator[PredictProgress]:
    """Show how far it is on standard error."""
    from embedstore.classify.prediction import PredictProgress

    lines = Lines(quiet=quiet)
    with fill_shown(quiet=quiet, first="") as on_fill:
        yield PredictProgress(
            on_cut=lambda counts: lines.show(f"cut {counts.bases:,} bases, {counts.samples:,} samples"),
            on_fill=on_fill,
            on_scored=lambda done, expected: lines.show(f"scored {done:,} of {expected:,} samples"),
        )


def _write_predicted(report: PredictReport, *, quiet: bool) -> None:
    list_rejections(report.rejected, "rejected")
    if quiet:
        return
    counts, tally = report.counts, report.tally
    computed = ", ".join(f"{count(filled.computed)} by {filled.space.name}" for filled in report.filled)
    missing, called = tally.samples_without_vector, report.called
    threshold = "" if called.threshold is None else f"{called.threshold:.6f}" if called.sequences else "none is reached"
    write_facts(
        [
            ("read", f"{count(counts.sequences)} sequences, {count(counts.bases)} bases"),
            ("samples", f"{count(counts.samples)} of {count(counts.chunks)} chunks"),
            *seen_facts(counts.seen.to_json(), groups=False),  # often each contig is one
            ("computed", computed),
            *[(f"sequences {call}", count(number)) for call, number in sorted(tally.contigs.items())],
            *[
                (f"from DNA alone {call}", f"{count(number)} sequences without an open frame")
                for call, number in sorted(tally.contigs_from_dna.items())
            ],
            *([("known to the classifier by sequence", count(tally.known))] if report.recognises else []),
            *([(f"least score of {called.label}", threshold)] if threshold else []),
            *([("samples without a vector", count(missing))] if missing else []),
            ("took", duration(report.seconds)),
            ("written to", str(report.output)),
        ]
    )


@shared(FILLING, OUTPUT)
def compare(
    context: Context,
    samples: Annotated[Path, typer.Argument(metavar="SAMPLES.tsv", help="What `prepare` wrote.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="REPORT", help="Folder to write.")],
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "--models",
            "-m",
            metavar="A,B",
            help="A set of models or spaces; give it for each set.",
            show_default=False,
        ),
    ] = None,
    classifiers: Annotated[
        list[Path] | None,
        typer.Option(
            "--classifier",
            "-c",
            metavar="DIR",
            help="In place of sets: a classifier that `train` wrote; give it for each. Nothing is trained then.",
            show_default=False,
        ),
    ] = None,
    primary: Annotated[
        Primary, typer.Option("--primary", help="The metric that decides; of the positive class, if there is one.")
    ] = Primary.auroc,
    margin: Annotated[
        float,
        typer.Option("--margin", metavar="X", min=0, max=1, help="Worse by less than this is good enough."),
    ] = 0.01,
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="NAME", help="The set that others are held against. Default: the first."),
    ] = None,
    average: Annotated[
        list[str] | None,
        typer.Option(
            "--average",
            metavar="NAME",
            help="Average the scores of sets as one more contender; give it for each of them.",
            show_default=False,
        ),
    ] = None,
    head: Head = HeadChoice.linear,
    folds: Folds = 5,
    seeds: Annotated[
        int,
        typer.Option("--seeds", metavar="N", min=1, help="How many seeds; each deals the groups out to other folds."),
    ] = 10,
    positive: Positive = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="The first seed.")] = 1,
    strength: Strength = None,
    input_dropout: InputDropout = None,
    network: OldHead = None,
    labels: Labels = None,
    groups: HowGrouped = None,
    ignore_unlabelled: IgnoreUnlabelled = False,
    fill: Fill = False,
) -> None:
    """Compare sets of features, or trained classifiers.

    Is one better than the reference, not inferior, or inferior? Every set is trained and scored on the same samples
    with the same folds. Writes comparison.html and
    comparison.json: verdicts, paired differences of all metrics with intervals, contigs whose call changes, what the
    vectors cost, how alike the spaces are. Classifiers (-c) are scored as they are, on samples of groups that made
    none of them.
    """
    from embedstore.comparison.verdicts import DecideOptions

    if models and classifiers:
        raise typer.BadParameter("give sets of models (-m) or classifiers (-c), not both")
    if classifiers:
        clusters, asked = how_grouped(groups)
        if asked:
            raise typer.BadParameter("--groups auto only has a meaning with sets of models (-m): nothing is split")
        wanted = DecideOptions(primary.value, margin, reference, tuple(average or ()))
        _compare_classifiers(
            context, samples, classifiers, output, labels, clusters, wanted, positive, seed=seed, fill=fill
        )
        return
    if len(models or ()) < 2:
        raise typer.BadParameter(
            "give --models twice or more, as --models old --models new --models old,new; or classifiers, as -c A -c B"
        )
    from embedstore.classify.heads import TrainOptions
    from embedstore.classify.provenance import Provenance
    from embedstore.comparison.comparing import compare as compare_sets

    chosen = network or head
    training = TrainOptions(
        head=chosen.value,
        seed=seed,
        folds=folds,
        positive=positive,
        ignore_unlabelled=ignore_unlabelled,
        device=context.device,
        **of_head(chosen, HeadChoice.linear, strength=strength),
        **of_head(chosen, HeadChoice.mlp, input_dropout=input_dropout),
    )
    choices = context.options_of_models(names(models))
    clusters, relatives = how_grouped(groups)
    with reading(context, samples, (), labels, clusters, choices, fill=fill) as how:
        comparison = compare_sets(
            samples,
            models or (),
            output,
            reading=how,
            relatives=relatives,
            options=training,
            seeds=seeds,
            decide=DecideOptions(primary.value, margin, reference, tuple(average or ())),
            made=Provenance.now(context.command_line),
            on_trained=None if context.quiet else lambda name, number, _: notice(f"trained on {name}, seed {number}"),
        )
    warn_of_report(comparison.report_failed, f"The numbers are in {output}")
    if context.json:
        write_json(comparison.to_json())
    elif not context.quiet:
        from embedstore.comparison.page import lead

        _write_differences(comparison, lead(comparison.document), output)


def _compare_classifiers(
    context: Context,
    samples: Path,
    classifiers: list[Path],
    output: Path,
    labels: Path | None,
    groups: Path | None,
    wanted: DecideOptions,
    positive: str | None,
    *,
    seed: int,
    fill: bool,
) -> None:
    if len(classifiers) < 2:
        raise typer.BadParameter("give --classifier twice or more, as -c old -c new")
    from embedstore.classify.classifier import load_classifier
    from embedstore.classify.provenance import Provenance
    from embedstore.comparison.classifiers import compare_classifiers

    loaded = [load_classifier(each) for each in classifiers]
    choices = context.options_of_models([name for each in loaded for name in models_of(each, ())])
    with reading(context, samples, (), labels, groups, choices, fill=fill) as how:
        made = Provenance.now(context.command_line)
        comparison = compare_classifiers(
            samples, loaded, how, output, seed=seed, decide=wanted, positive=positive, made=made
        )
    warn_of_report(comparison.report_failed, f"The numbers are in {output}")
    if context.json:
        write_json(comparison.to_json())
    elif not context.quiet:
        from embedstore.comparison.page import lead_of_classifiers

        _write_differences(comparison, lead_of_classifiers(comparison.document), output)


def _write_differences(comparison: Comparison, on: str, output: Path) -> None:
    """Write the verdicts, what was compared, all differences, and where the files are."""
    from embedstore.comparison.page import DRAWN, difference_text, pair_name

    found = comparison.document
    for one in found["verdicts"]["sets"]:
        notice(one["sentence"])
    columns = ("difference", *(f">{name}" for _, name in DRAWN))
    rows = [
        (pair_name(pair), *(difference_text(pair["metrics"][path]) for path, _ in DRAWN))
        for pair in found["differences"]
    ]
    notice(f"{on} In brackets: {found['intervals']['level']:.0%} intervals; * : 0 is not in it.")
    write_table(columns, rows)
    for one in found["calls"]:
        if one["fragments"]:
            notice(
                f"{one['of']} calls {one['changed']:,.1f} of {one['fragments']:,.0f} contigs ({one['share']:.1%}) "
                f"otherwise than {one['reference']}."
            )
    notice(f"Wrote {output / 'comparison.json'}{'' if comparison.report_failed else ' and comparison.html'}.")
