"""embedstore predict: classify sequences."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import options
from embedstore_cli.classifying import ClassifierPlace

if TYPE_CHECKING:
    from embedstore.classify.prediction import PredictProgress, PredictReport

_LINE_EVERY_S = 30.0


class Compat(StrEnum):
    """Whose tables are written too."""

    virnucpro = "virnucpro"


def predict(
    inputs: options.DnaInputs,
    classifier: ClassifierPlace,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the tables.")],
    models: options.Models = None,
    length: Annotated[
        int | None, typer.Option("--length", metavar="N", min=3, help="Bases of a chunk: refused if not as trained.")
    ] = None,
    genetic_code: Annotated[
        int | None, typer.Option("--genetic-code", metavar="N", help="NCBI table: refused if not as trained.")
    ] = None,
    min_length: Annotated[
        int | None, typer.Option("--min-length", metavar="N", min=0, help="Do not cut shorter sequences. Default: 60.")
    ] = None,
    compat: Annotated[Compat | None, typer.Option("--compat", help="Write VirNucPro's two tables too.")] = None,
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
    """Classify sequences: cut, embed what is missing, score.

    Writes predictions.tsv, contigs.tsv and predict.json into DIR. To go on after a stop, start the same command again.
    """
    from embedstore.classify.classifier import load_classifier
    from embedstore.classify.prediction import PredictOptions
    from embedstore.classify.prediction import predict as predict_sequences
    from embedstore_cli import places
    from embedstore_cli.classifying import models_of
    from embedstore_cli.output import write_json

    loaded, named = load_classifier(classifier), options.names(models)
    choices = PredictOptions(
        models=named,
        length_bases=length,
        genetic_code=genetic_code,
        min_length_bases=min_length,
        compat=None if compat is None else "virnucpro",
        fill=options.fill_options(device, True),
        model_options=options.options_of_models(models_of(loaded, named), weights, precision),
    )
    with _shown(quiet=quiet) as progress:
        report = predict_sequences(inputs, loaded, output, places.opened(store, create=True), choices, progress)
    if json:
        write_json(report.to_json())
    else:
        _write_text(report, quiet=quiet)
    raise typer.Exit(0 if report.complete else 3)


def _write_text(report: PredictReport, *, quiet: bool) -> None:
    from embedstore_cli.output import count, duration, list_rejections, write_facts

    list_rejections(report.rejected, "rejected")
    if quiet:
        return
    counts, tally = report.counts, report.tally
    computed = ", ".join(f"{count(filled.computed)} by {filled.space.name}" for filled in report.filled)
    missing = tally.samples_without_vector
    write_facts(
        [
            ("read", f"{count(counts.sequences)} sequences, {count(counts.bases)} bases"),
            ("samples", f"{count(counts.samples)} of {count(counts.chunks)} chunks"),
            ("computed", computed),
            *[(f"sequences {call}", count(number)) for call, number in sorted(tally.contigs.items())],
            *([("samples without a vector", count(missing))] if missing else []),
            ("took", duration(report.seconds)),
            ("written to", str(report.output)),
        ]
    )


@contextmanager
def _shown(*, quiet: bool) -> Iterator[PredictProgress]:
    """Show how far it is on standard error."""
    from embedstore.classify.prediction import PredictProgress
    from embedstore_cli.progress import shown

    if quiet or sys.stderr is None:
        yield PredictProgress()
        return
    lines = _Lines()
    with shown(quiet=quiet) as on_fill:
        yield PredictProgress(
            on_cut=lambda counts: lines.show(f"cut {counts.bases:,} bases, {counts.samples:,} samples"),
            on_fill=on_fill,
            on_scored=lambda done, expected: lines.show(f"scored {done:,} of {expected:,} samples"),
        )


class _Lines:
    """Says something on standard error every 30 s."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def show(self, text: str) -> None:
        now = time.monotonic()
        if now - self._said >= _LINE_EVERY_S:
            self._said = now
            print(text, file=sys.stderr, flush=True)
