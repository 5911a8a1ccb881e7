"""From genomes to features: prepare (cut genomes and contigs into samples), merge (join samples with their vectors)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedstore.errors import plain
from embedstore_cli.arguments import SomeModels, names
from embedstore_cli.context import FILLING, OUTPUT, Context, shared
from embedstore_cli.output import count, duration, list_rejections, notice, write_facts, write_json
from embedstore_cli.progress import fill_shown, line_shown

if TYPE_CHECKING:
    from embedstore.features import Features
    from embedstore.filling import FillReport
    from embedstore.records import Rejection
    from embedstore.samples import PrepareCounts, PrepareReport
    from embedstore.samples.codes import CodeChoice

Labels = Annotated[
    Path | None,
    typer.Option("--labels", metavar="FILE", help="Table of sample, source or group, and label, with a header."),
]
Fill = Annotated[
    bool, typer.Option("--fill", help="First compute what is missing, from dna.fna and protein.faa beside the table.")
]


def code_choice(text: str) -> CodeChoice:
    """Read `N`, `auto` or the path of a table."""
    from embedstore.samples import read_code_table

    if text == "auto":
        return "auto"
    if text.isascii() and text.isdecimal() and len(text) < _CODE_DIGITS:
        return int(text)
    if not Path(text).is_file():
        raise typer.BadParameter(f"expected a number, auto or a table of genetic codes, found {text!r}")
    return read_code_table(text)


_CODE_DIGITS = 9
_REASONS_SHOWN = 20


class GroupBy(StrEnum):
    """What is one group: a genome."""

    file = "file"
    record = "record"


class Compat(StrEnum):
    """Whose output is reproduced."""

    virnucpro = "virnucpro"


@shared(OUTPUT)
def prepare(
    context: Context,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="[LABEL=]INPUT...",
            help="A file or a folder of FASTA, FASTQ or GenBank, plain or compressed; - is standard input.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the samples.")],
    length: Annotated[int, typer.Option("--length", metavar="N", min=3, help="Bases of a chunk.")] = 500,
    genetic_code: Annotated[
        str | None,
        typer.Option(
            "--genetic-code",
            metavar="N|auto|FILE",
            help="NCBI translation table; auto: by source; FILE: a table of source or group, and genetic_code.",
        ),
    ] = None,
    min_length: Annotated[
        int | None,
        typer.Option("--min-length", metavar="N", min=0, help="Drop shorter sequences. Default: 60."),
    ] = None,
    group_by: Annotated[
        GroupBy | None,
        typer.Option("--group-by", help="What is one genome. Default: each file of a folder, each record of a file."),
    ] = None,
    compat: Annotated[
        Compat | None, typer.Option("--compat", help="Write what VirNucPro would write, byte for byte.")
    ] = None,
    coding_only: Annotated[
        bool, typer.Option("--coding-only", help="Only the coding sequences of GenBank, each in its frame and code.")
    ] = False,
    keep_closed: Annotated[
        bool, typer.Option("--keep-closed", help="Write the chunks without an open frame too, as closed.fna.")
    ] = False,
) -> None:
    """Cut genomes into chunks, and chunks into samples.

    A sample is a chunk with one of its frames that has no stop codon.
    Writes samples.tsv, dna.fna, protein.faa and prepare.json into DIR, all or none of them.
    """
    from embedstore.samples import PrepareOptions
    from embedstore.samples import prepare as prepare_samples

    choices = PrepareOptions(
        length_bases=length,
        genetic_code=None if genetic_code is None else code_choice(genetic_code),
        min_length_bases=min_length,
        group_by=None if group_by is None else group_by.value,
        compat=None if compat is None else "virnucpro",
        coding_only=coding_only,
        keep_closed=keep_closed,
    )
    with line_shown(quiet=context.quiet) as show:
        on_progress = None if show is None else lambda counts: show(_line(counts))
        report = prepare_samples(inputs, output, choices, on_progress=on_progress)
    if context.json:
        write_json(report.to_json())
    else:
        _write_report(report, quiet=context.quiet)
    raise typer.Exit(0 if report.complete else 3)


def _line(counts: PrepareCounts) -> str:
    return f"read {counts.records:,}, {counts.bases:,} bases, {counts.samples:,} samples"


def _write_report(report: PrepareReport, *, quiet: bool) -> None:
    list_rejections(report.rejected, "rejected")
    _list_unusable(report.unusable)
    if quiet:
        return
    if report.skipped:
        notice(f"skipped {count(len(report.skipped))} files of folders, not named like DNA, as {report.skipped[0]}")
    counts = report.counts
    facts = [
        ("read", f"{count(counts.sequences)} sequences, {count(counts.bases)} bases, {count(report.files)} files"),
        ("chunks", f"{count(counts.chunks)} of {count(report.options.length_bases)} bases"),
        *[(f"dropped, {reason}", count(number)) for reason, number in counts.dropped.items() if number],
        ("samples", count(counts.samples)),
        *[(f"labelled {label}", count(number)) for label, number in counts.samples_by_label.items() if label],
        *seen_facts(counts.seen.to_json()),
    ]
    if not isinstance(report.options.codes, int):
        codes = sorted(counts.genetic_codes.items(), key=lambda item: int(item[0].partition(",")[0]))
        facts.append(("genetic codes", ", ".join(f"{code} ({count(number)} sequences)" for code, number in codes)))
    if report.unusable:
        facts.append(("skipped", f"{count(len(report.unusable))} CDS features"))
    if report.rejected:
        facts.append(("rejected", f"{count(len(report.rejected))} records"))
    write_facts([*facts, ("took", duration(report.seconds)), ("written to", str(report.output))])


def _list_unusable(features: Sequence[Rejection]) -> None:
    """Name the first CDS feature that was skipped for each reason, on standard error; pseudogenes come by the dozen."""
    reasons = Counter(feature.reason for feature in features)
    for reason, number in reasons.most_common(_REASONS_SHOWN):
        first = next(feature for feature in features if feature.reason == reason)
        named = f"{first.file}:{first.line} {plain(first.id)}"
        notice(f"skipped {count(number)} CDS features, as {named}: {plain(reason)}")
    if len(reasons) > _REASONS_SHOWN:
        notice(f"… and others for {len(reasons) - _REASONS_SHOWN} more reasons; prepare.json lists all")


_GROUPS_SHOWN = 3


def seen_facts(seen: Mapping[str, Any], *, groups: bool = True) -> list[tuple[str, str]]:
    """Say of which share of the chunks there are samples: of all, by class, by length, and of the groups with least.

    Parameters
    ----------
    seen : see `embedstore.samples.seen`.
    groups : name those with least.
    """

    def listed(parts: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
        return ", ".join(f"{name} {share(part['share'])}" for name, part in parts)

    without, sources = seen["sources_without_sample"], seen["sources"]
    known = f"{share(seen['share'])} of the chunks have an open frame"
    facts = [("seen", f"{known}; {count(without)} of {count(sources)} sequences have none")]
    labels = [(part["label"] or "unlabelled", part) for part in seen["by_label"]]
    lengths = [(span(part), part) for part in seen["by_length"]]
    least = sorted(seen["by_group"] or (), key=lambda part: part["share"] or 0.0)[:_GROUPS_SHOWN]
    facts += [("seen by class", listed(labels))] if len(labels) > 1 else []
    facts += [("seen by length", listed(lengths))] if len(lengths) > 1 else []
    facts += [("least seen", listed((part["group"], part) for part in least))] if groups and len(least) > 1 else []
    return facts


def share(number: float | None) -> str:
    """Write a share; what is not defined is a dash."""
    return "–" if number is None else f"{number:.1%}"


def span(part: Mapping[str, Any]) -> str:
    """Write a range of lengths in bases."""
    return f"{part['from']:,} and more" if part["to"] is None else f"{part['from']:,} to {part['to']:,}"


def _mergeable(path: Path) -> Path:
    from embedstore.features.merged_files import SUFFIXES

    if path.suffix not in SUFFIXES:
        raise typer.BadParameter(f"{path} ends in none of {', '.join(SUFFIXES)}")
    return path


@shared(FILLING, ["pin"], OUTPUT)
def merge(
    context: Context,
    samples: Annotated[Path, typer.Argument(metavar="SAMPLES.tsv", help="What `prepare` wrote.", show_default=False)],
    models: SomeModels,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FEATURES.zarr|.h5|.npz", help="What to write.", callback=_mergeable),
    ],
    labels: Labels = None,
    fill: Fill = False,
) -> None:
    """Join samples with their vectors, side by side.

    The file holds all that training needs, and the schema that keeps features and classifiers together.
    """
    from embedstore.features import FillFrom
    from embedstore.features import merge as merge_features

    named = names(models)
    choices = context.options_of_models(named)
    reports: list[FillReport] = []
    with fill_shown(quiet=context.quiet or not fill) as on_progress:
        source = FillFrom(samples.parent, context.fill_options(), on_progress, reports.append)
        features = merge_features(
            samples,
            named,
            output,
            store=context.open(create=fill),
            fill=source if fill else False,
            labels=labels,
            options=choices,
        )
    if context.json:
        write_json(_document(features, output, reports))
    elif not context.quiet:
        notice(f"Wrote {count(len(features))} × {count(features.dim)} to {output}.")


def _document(features: Features, output: Path, reports: list[FillReport]) -> dict[str, object]:
    return {"output": str(output), **features.to_json(), "filled": [report.to_json() for report in reports]}
