"""Reports for people: one HTML page that needs nothing else, with the numbers of the JSON and plots of the scores."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from embedstore.classify import plots
from embedstore.classify.classifier import Classifier
from embedstore.classify.scores import Scores
from embedstore.errors import EmbedStoreError, plain

HEADLINES = (
    ("auroc", "AUROC"),
    ("auprc", "AUPRC"),
    ("balanced_accuracy", "balanced accuracy"),
    ("accuracy", "accuracy"),
    ("mcc", "MCC"),
    ("f1", "F1"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("brier", "Brier score"),
    ("ece", "ECE"),
    ("brier_balanced", "Brier score, classes balanced"),
    ("ece_balanced", "ECE, classes balanced"),
)
_OF_CLASS = (("auroc", "AUROC"), ("auprc", "AUPRC"), ("f1", "F1"), ("precision", "precision"), ("recall", "recall"))
_GROUPS_SHOWN = 200
_WITH_INTERVAL = re.compile(r"([–+\-0-9.*]+) <([–+\-0-9. to]+)>")
UNDRAWABLE = (EmbedStoreError, OSError, ImportError, ValueError, RuntimeError, LookupError, TypeError, ArithmeticError,
              AttributeError, MemoryError)  # fmt: skip
"""What matplotlib and its fonts were seen to raise. Numbers that took hours are worth more than a page about them."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #2b3238; background: #fff; max-width: 62em; margin: 2em auto;
  padding: 0 1.2em }
h1 { font-size: 1.5em; font-weight: 600; margin-bottom: .2em }
h2 { font-size: 1.1em; font-weight: 600; margin: 2em 0 .6em }
p.about { color: #66707a; margin-top: 0 }
.plots { display: flex; flex-wrap: wrap; gap: 1.2em }
figure { margin: 0 }
figcaption { color: #66707a; font-size: .87em }
svg { max-width: 100%; height: auto }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .2em 1em .2em 0; text-align: right; vertical-align: bottom }
th { color: #66707a; font-weight: 500; border-bottom: 1px solid #d9dee2 }
td:first-child, th:first-child { text-align: left }
tr:nth-child(even) td { background: #f7f9fa }
.interval { color: #8a949d }
"""


def drawn_or_why(draw: Callable[[], str]) -> tuple[str | None, str]:
    """Draw a page; if that fails, return None and the reason: what the page is about stands without it."""
    try:
        return draw(), ""
    except UNDRAWABLE as error:
        return None, plain(error) or type(error).__name__


def training_report(classifier: Classifier, test: Scores) -> str:
    """Describe a classifier and how it did on its test part."""
    about = classifier.about
    split = about["split"]
    blocks = ", ".join(f"{block.space} ({block.dim})" for block in classifier.schema.blocks)
    facts = [
        ("network", classifier.network.kind),
        ("features", f"{classifier.schema.dim} columns: {blocks}"),
        ("preparation", _preparation(classifier)),
        ("trained on", str(about["trained_on"])),
        ("best epoch", f"{about['best_epoch']} of {len(about['epochs'])}, seed {about['options']['seed']}"),
        ("calibration", classifier.calibration.kind),
        *[
            (part, f"{samples:,} samples of {len(split['groups'][part]):,} groups")
            for part, samples in split["samples"].items()
        ],
        ("groups kept together, as they share a sequence", str(sum(map(len, split["joined_groups"])))),
        ("versions", ", ".join(f"{name} {found}" for name, found in about["versions"].items())),
    ]
    parts = [
        "<h2>How it was trained</h2>",
        table((), facts),
        figures([("Loss of each epoch; the dotted line is the one that was kept.",
                 plots.loss_plot(about["epochs"], about["best_epoch"]))]),
    ]  # fmt: skip
    lead = "How the classifier did on groups that were not used for training, early stopping or calibration."
    return page(f"Classifier {Path(classifier.name).name}", lead, [*_evaluation(about["test"], test), *parts])


def evaluation_report(classifier: Classifier, evaluation: Mapping[str, Any], scores: Scores) -> str:
    """Describe how a classifier did on labelled samples."""
    seen = evaluation.get("groups_seen_in_training", [])
    lead = f"On {scores.samples.origin}."
    if seen:
        lead += (
            f" {len(seen)} of its groups were used to make the classifier, so this is no test: {', '.join(seen[:5])}."
        )
    return page(f"Evaluation of {Path(classifier.name).name}", lead, _evaluation(evaluation, scores))


def _evaluation(evaluation: Mapping[str, Any], scores: Scores) -> list[str]:
    intervals = evaluation["intervals"]
    return [
        "<h2>Metrics</h2>",
        f"<p class=about>{evaluation['samples']:,.0f} samples of {evaluation['groups']:,} groups. Classes are averaged "
        f"plainly. In grey: {intervals['level']:.0%} intervals, {intervals['replicates']} bootstrap samples of "
        f"{escape(intervals['of'])}.</p>",
        table(("metric", "value"), [(name, _number(evaluation, key)) for key, name in HEADLINES]),
        "<h2>By class</h2>",
        table(*_of_classes(evaluation)),
        "<h2>Plots</h2>",
        figures(_drawn(evaluation, scores)),
        "<h2>By length of the sample</h2>",
        table(*_summaries(evaluation["by_length"], "bases", scores.labels)),
        "<h2>By group</h2>",
        table(*_summaries(evaluation["by_group"][:_GROUPS_SHOWN], "group", scores.labels)),
    ]


def _drawn(evaluation: Mapping[str, Any], scores: Scores) -> list[tuple[str, str]]:
    return [
        ("ROC: each class against the rest", plots.roc_plot(scores)),
        ("Precision and recall; dotted: share of the class", plots.precision_recall_plot(scores)),
        ("Calibration, classes weighted alike: a dot below the line is too sure", plots.calibration_plot(scores)),
        ("Confusion matrix: shares of each true class", plots.confusion_plot(evaluation["confusion"], scores.labels)),
        ("Scores by class", plots.class_scores_plot(scores)),
        ("Scores by length", plots.length_plot(scores, evaluation["by_length"])),
    ]


def _of_classes(evaluation: Mapping[str, Any]) -> tuple[Sequence[str], list[Sequence[str]]]:
    classes = evaluation["classes"]
    first = next(iter(classes.values()))
    precisions, prevalences = first["recall_at_precision"], first["precision_at_prevalence"]
    header = (
        "class",
        "samples",
        *(name for _, name in _OF_CLASS),
        *(f"recall at precision {precision}" for precision in precisions),
        *(f"precision at {float(prevalence):.0%} prevalence" for prevalence in prevalences),
    )
    rows: list[Sequence[str]] = [
        (
            label,
            f"{numbers['samples']:,.0f}",
            *(_number(evaluation, "classes", label, key) for key, _ in _OF_CLASS),
            *(decimal(numbers["recall_at_precision"][precision]) for precision in precisions),
            *(decimal(numbers["precision_at_prevalence"][prevalence]) for prevalence in prevalences),
        )
        for label, numbers in classes.items()
    ]
    return header, rows


def _summaries(
    parts: Iterable[Mapping[str, Any]], what: str, labels: Sequence[str]
) -> tuple[Sequence[str], list[Sequence[str]]]:
    header = (what, "samples", "accuracy", "AUROC", *(f"recall of {label}" for label in labels))
    rows = [
        (
            part["group"] if "group" in part else f"{part['from']:,}–{part['to']:,}",
            f"{part['samples']:,}",
            decimal(part["accuracy"]),
            decimal(part["auroc"]),
            *(decimal(part["recall"][label]) for label in labels),
        )
        for part in parts
    ]
    return header, list(rows)


def _number(evaluation: Mapping[str, Any], *names: str) -> str:
    """Write a metric with its interval. A label may hold any character, so names are not told apart by one."""
    value: Any = evaluation
    for name in names:
        value = value[name]
    low, high = evaluation["intervals"]["numbers"].get("/".join(names), (None, None))
    return decimal(value) if low is None else f"{decimal(value)} <{decimal(low)}–{decimal(high)}>"


def decimal(value: float | None) -> str:
    """Write a number that may not be defined."""
    return "–" if value is None else f"{value:.3f}"


def _preparation(classifier: Classifier) -> str:
    stated = classifier.schema.preparation
    facts = {
        "chunks of": stated.chunk_length,
        "genetic code": stated.genetic_code,
        "frames": stated.frames,
        "as by": stated.compat,
    }
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None) or "not stated"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as HTML; of a cell `0.9 <0.8–1.0>` the interval is grey."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{_cell(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f"<div class=wide><table>{f'<tr>{head}</tr>' if head else ''}{body}</table></div>"


def _cell(text: str) -> str:
    """Escape a text; of a number with an interval in angle brackets, the interval is grey."""
    found = _WITH_INTERVAL.fullmatch(text)
    if found is None:
        return escape(text)
    return f"{escape(found[1])} <span class=interval>{escape(found[2])}</span>"


def escape(text: str) -> str:
    """Write a text as HTML; nothing in it is an element or steers what shows it."""
    return html.escape(plain(text))


def figures(drawn: Iterable[tuple[str, str]]) -> str:
    """Return plots, given as (what they show, SVG), as HTML."""
    parts = (f"<figure>{svg}<figcaption>{escape(text)}</figcaption></figure>" for text, svg in drawn)
    return f"<div class=plots>{''.join(parts)}</div>"


def page(title: str, lead: str, parts: Iterable[str]) -> str:
    """Return a page that needs nothing else; `parts` are HTML."""
    return (
        f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>{escape(title)}</title>"
        f"<style>{_STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n"
        f"<p class=about>{escape(lead)}</p>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
