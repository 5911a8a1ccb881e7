"""embedstore import-classifier: take over a head that VirNucPro trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstore_cli import options


def import_classifier(
    file: Annotated[Path, typer.Argument(metavar="MODEL.pth", help="A head of VirNucPro.", show_default=False)],
    dna: Annotated[str, typer.Option("--dna", metavar="NAME|DIR", help="Its DNA model: dnabert_s.")],
    protein: Annotated[str, typer.Option("--protein", metavar="NAME|DIR", help="Its protein model: esm2_t36_3b.")],
    length: Annotated[int, typer.Option("--length", metavar="N", min=3, help="Bases of the chunks it was trained on.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="CLASSIFIER", help="Folder to write.")],
    store: options.StorePlace = None,
    weights: options.Weights = None,
    precision: options.PrecisionChoice = None,
    quiet: options.Quiet = False,
) -> None:
    """Make a classifier of a head that VirNucPro trained.

    The file is a pickled module: it is read without executing anything in it, and refused if it is anything else.
    """
    from embedstore.classify.virnucpro_head import HeadSource
    from embedstore.classify.virnucpro_head import import_classifier as import_head
    from embedstore.library import open_store
    from embedstore_cli.output import notice

    choices = options.options_of_models((dna, protein), weights, precision)
    head = HeadSource(dna, protein, length)
    classifier = import_head(file, head, output, open_store(store, create=True), choices)
    if not quiet:
        notice(f"Wrote a classifier of {classifier.schema.dim} columns to {output}.")
