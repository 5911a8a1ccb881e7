"""Reports for people: one self-contained HTML page with the numbers of the JSON and plots of the scores.

Plots are SVG text, drawn with Matplotlib's own objects, without its global state or any display.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.classify.classifier import Classifier
from embedstore.classify.metrics import ECE_BINS
from embedstore.classify.tables import Scores
from embedstore.errors import EmbedStoreError, MissingDependencyError, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = ("#2f6f9f", "#c0623a", "#4f8a5b", "#8a6fae", "#b08d2e", "#6b7b8c", "#a8466b", "#3a8f8f")
_GREY = "#9aa3ab"
_STYLE = {
    "font.size": 9.0,
    "axes.edgecolor": _GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "embedstore",
    "text.parse_math": False,  # a $ in a label is a $
}
_CURVE_POINTS = 400
_NAME_CHARACTERS = 40
_BINS = np.linspace(0, 1, 41)


def loss_plot(epochs: Sequence[dict[str, Any]], best_epoch: int) -> str:
    """Training and validation loss of each epoch."""
    with _figure("epoch", "loss") as (axes, finish):
        numbers = [epoch["number"] for epoch in epochs]
        for name, color in (("training_loss", _COLORS[0]), ("validation_loss", _COLORS[1])):
            axes.plot(numbers, [epoch[name] for epoch in epochs], color=color, label=name.replace("_", " "))
        axes.axvline(best_epoch, color=_GREY, linestyle=":", linewidth=1)
        _legend(axes)
        return finish()


def roc_plot(scores: Scores) -> str:
    """True against false positive rate, each class against the rest."""
    from sklearn.metrics import roc_curve

    with _figure("false positive rate", "true positive rate", square=True) as (axes, finish):
        axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1)
        for label, place, color in _classes(scores):
            false_rate, true_rate, _ = roc_curve(scores.y == place, scores.probabilities[:, place])
            axes.plot(*_thinned(false_rate, true_rate), color=color, label=label)
        _legend(axes, loc="lower right")
        return finish()


def precision_recall_plot(scores: Scores) -> str:
    """Precision against recall, each class against the rest."""
    from sklearn.metrics import precision_recall_curve

    with _figure("recall", "precision", square=True) as (axes, finish):
        for label, place, color in _classes(scores):
            precision, recall, _ = precision_recall_curve(scores.y == place, scores.probabilities[:, place])
            axes.plot(*_thinned(recall, precision), color=color, label=label)
            axes.axhline(float((scores.y == place).mean()), color=color, linestyle=":", linewidth=0.8)
        axes.set_ylim(0, 1.02)
        _legend(axes, loc="lower left")
        return finish()


def calibration_plot(scores: Scores) -> str:
    """How often samples of a score are of the class, if classes count alike."""
    with _figure("mean score", "share of the class", square=True) as (axes, finish):
        axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1)
        weights = 1 / np.maximum(np.bincount(scores.y, minlength=len(scores.labels)), 1)[scores.y]
        for label, place, color in _classes(scores):
            numbers = scores.probabilities[:, place]
            bins = np.minimum((numbers * ECE_BINS).astype(np.int64), ECE_BINS - 1)
            sizes = np.bincount(bins, weights=weights, minlength=ECE_BINS)
            sums = (weights * numbers, weights * (scores.y == place))
            means = [np.bincount(bins, weights=one, minlength=ECE_BINS) for one in sums]
            held = sizes > 0
            axes.plot(means[0][held] / sizes[held], means[1][held] / sizes[held], "o-", color=color, label=label, ms=3)
        _legend(axes, loc="upper left")
        return finish()


def confusion_plot(confusion: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """Calls of the samples of each class, as shares of the class, with their numbers."""
    counts = np.array(confusion, np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with _figure("called", "true", square=True, tight=True) as (axes, finish):
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(shares.shape):
            color = "white" if shares[row, column] > 0.5 else "#333333"
            text = f"{int(counts[row, column]):,}\n{shares[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", color=color)
        axes.set_xticks(range(len(labels)), [_name(label) for label in labels])
        axes.set_yticks(range(len(labels)), [_name(label) for label in labels])
        return finish()


def class_scores_plot(scores: Scores) -> str:
    """Distribution of the score of the last class in samples of each class."""
    last = len(scores.labels) - 1
    with _figure(f"score of {_name(scores.labels[last])}", "density of samples") as (axes, finish):
        for place in np.unique(scores.y).tolist():
            label, color = _name(scores.labels[place]), _COLORS[place % len(_COLORS)]
            numbers = scores.probabilities[scores.y == place, last]
            axes.hist(numbers, bins=_BINS.tolist(), density=True, color=color, alpha=0.5, label=label)
        _legend(axes)
        return finish()


def length_plot(scores: Scores, parts: Sequence[dict[str, Any]]) -> str:
    """Accuracy, and the score of the true class, by length of the samples."""
    with _figure("length of the sample, bases", "share, score", tight=True) as (axes, finish):
        places = range(len(parts))
        lengths = scores.lengths_bases
        of_truth = scores.probabilities[np.arange(len(scores.y)), scores.y]
        pieces = [of_truth[(lengths >= part["from"]) & (lengths <= part["to"])] for part in parts]
        axes.boxplot(pieces, positions=list(places), widths=0.5, showfliers=False, medianprops={"color": _COLORS[0]})
        right = [part["accuracy"] for part in parts]
        axes.plot(list(places), right, "s", color=_COLORS[1], ms=5, label="accuracy (boxes: score of the true class)")
        axes.set_xticks(list(places), [f"{part['from']}–{part['to']}\nn={part['samples']:,}" for part in parts])
        axes.set_ylim(0, 1.02)
        _legend(axes, loc="lower right")
        return finish()


def intervals_plot(what: str, numbers: Mapping[str, tuple[float, float, float]]) -> str:
    """Numbers with their intervals, (number, low, high) by name, above each other; dotted: 0."""
    with _figure(what, "") as (axes, finish):
        axes.axvline(0, color=_GREY, linestyle=":", linewidth=1)
        for place, (name, (number, low, high)) in enumerate(numbers.items()):
            axes.plot([low, high], [-place, -place], color=_COLORS[0], linewidth=1.5)
            axes.plot([number], [-place], "o", color=_COLORS[0], ms=5)
            axes.text(0.02, 0.25 - place, _name(name), transform=axes.get_yaxis_transform(), fontsize=8)
        axes.set_ylim(-len(numbers) + 0.4, 0.7)
        axes.set_yticks([])
        return finish()


def _classes(scores: Scores) -> Iterator[tuple[str, int, str]]:
    """Classes that occur, with their colours; of two, whose curves mirror each other, both are shown."""
    for place, label in enumerate(scores.labels):
        if 0 < (scores.y == place).sum() < len(scores.y):
            yield _name(label), place, _COLORS[place % len(_COLORS)]


def _name(text: str) -> str:
    """Write a label into a drawing, whatever it holds."""
    shown = plain(text, _NAME_CHARACTERS)
    return f" {shown}" if shown.startswith("_") else shown  # matplotlib leaves such curves out of a legend


def _legend(axes: Axes, **options: Any) -> None:
    """Name the curves, if there are any."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(**options)


def _thinned(x: Any, y: Any) -> tuple[Any, Any]:
    """Some points of a curve of many."""
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), _CURVE_POINTS)).astype(np.int64))
    return x[kept], y[kept]


@contextmanager
def _figure(x: str, y: str, *, square: bool = False, tight: bool = False) -> Iterator[tuple[Axes, Callable[[], str]]]:
    """Give axes to draw on, and a function that returns the drawing as an `<svg>` element.

    Parameters
    ----------
    tight : make room for long labels, which takes twice the time.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "Cannot draw a report: matplotlib is not installed. Install it with `pip install 'embedstore-bio[train]'`."
        ) from error
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        width = 3.6 if square else 4.8
        figure = Figure(figsize=(width, 3.4))
        axes = figure.add_axes((0.7 / width, 0.15, 1 - 0.8 / width, 0.82))  # a layout engine would draw all twice
        axes.set_xlabel(x)
        axes.set_ylabel(y)

        def finish() -> str:
            stream = io.StringIO()
            with warnings.catch_warnings():
                # Only its measure is not known: the text is in the drawing, and the browser has more fonts.
                warnings.filterwarnings("ignore", r"Glyph .* missing", UserWarning)
                figure.savefig(stream, format="svg", metadata={"Date": None}, bbox_inches="tight" if tight else None)
            text = stream.getvalue()
            return text[text.index("<svg") :]

        yield axes, finish


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

_PAGE_STYLE = """
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
    """Draw a page; if that fails, return None and the reason: the results do not depend on the page."""
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
                 loss_plot(about["epochs"], about["best_epoch"]))]),
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
        ("ROC: each class against the rest", roc_plot(scores)),
        ("Precision and recall; dotted: share of the class", precision_recall_plot(scores)),
        ("Calibration, classes weighted alike: a dot below the line is too sure", calibration_plot(scores)),
        ("Confusion matrix: shares of each true class", confusion_plot(evaluation["confusion"], scores.labels)),
        ("Scores by class", class_scores_plot(scores)),
        ("Scores by length", length_plot(scores, evaluation["by_length"])),
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
    """Write a text as HTML; nothing in it is an element or a control character."""
    return html.escape(plain(text))


def figures(drawn: Iterable[tuple[str, str]]) -> str:
    """Return plots, given as (what they show, SVG), as HTML."""
    parts = (f"<figure>{svg}<figcaption>{escape(text)}</figcaption></figure>" for text, svg in drawn)
    return f"<div class=plots>{''.join(parts)}</div>"


def page(title: str, lead: str, parts: Iterable[str]) -> str:
    """Return a self-contained page; `parts` are HTML."""
    return (
        f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>{escape(title)}</title>"
        f"<style>{_STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n"
        f"<p class=about>{escape(lead)}</p>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
