"""Plots of a report, as SVG text. Matplotlib's own objects are used, without its global state or any display."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.classify.metrics import ECE_BINS
from embedstore.classify.scores import Scores
from embedstore.errors import MissingDependencyError, plain

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
            "Cannot draw a report: matplotlib is not installed. Install it with `pip install 'embedstore[train]'`."
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
