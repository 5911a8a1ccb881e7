"""Figures of scores, drawn as SVG text with Matplotlib's own objects, without its global state or any display.

All have one size, so that they line up beside each other. What a colour means is said by the key that goes with a
figure (`sections.Mark`), which the page writes under the drawing: there it wraps, whatever the names, and hides no
data. A class has one look in all figures of a page.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.classify.metrics import ECE_BINS
from embedstore.classify.scores import Scores
from embedstore.classify.sections import Figure, Mark
from embedstore.errors import MissingDependencyError, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
"""Okabe and Ito's, which people with any colour vision can tell apart, without the yellow."""
_LINES = ("solid", "dashed", "dotted")
_GREY = "#8d979f"
_INK = "#22292f"
_STYLE = {
    "font.size": 9.0,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "embedstore",
    "text.parse_math": False,  # a $ in a label is a $
}
_WIDTH_IN = 4.4
_HEIGHT_IN = 3.7
_RIGHT_IN = 0.14
_TOP_IN = 0.12
_BOTTOM_IN = 0.56
_LEFT_IN = 0.62
_LINE_IN = 0.16
"""Height of a line of small text."""
_CURVE_POINTS = 400
_NAME_CHARACTERS = 40
_ROW_CHARACTERS = 22
_ROW_LINES = 3
_LABELLED_CELLS = 8
"""Up to so many classes the cells of a confusion matrix have room for numbers."""
_LINE_CHARACTERS = 58
_BINS = np.linspace(0, 1, 26)


def loss_plot(curves: Sequence[Sequence[dict[str, Any]]], epochs: int) -> Figure:
    """Training and validation loss of each epoch, a line a network; and the epochs that were chosen."""
    kinds = (("training_loss", "training", _COLORS[0]), ("validation_loss", "validation", _COLORS[1]))
    with _figure("epoch", "loss") as (axes, finish):
        for curve in curves:
            numbers = [epoch["number"] for epoch in curve]
            for name, _, color in kinds:
                marker = "o" if len(curve) < 3 else None
                axes.plot(numbers, [epoch[name] for epoch in curve], color=color, marker=marker, linewidth=0.8)
        axes.axvline(epochs, color=_GREY, linestyle=":", linewidth=1)
        axes.locator_params(axis="x", integer=True)
        marks = (*(Mark(label, color) for _, label, color in kinds), Mark("epochs of the head", _GREY, "dotted"))
        return Figure(finish(), "Loss of each epoch, a line for each network and fold.", marks)


def strength_plot(path: Sequence[dict[str, Any]], chosen: float) -> Figure:
    """Log loss out of fold by the strength of the penalty."""
    with _figure("strength of the penalty", "log loss out of fold") as (axes, finish):
        strengths, losses = ([point[name] for point in path] for name in ("strength", "loss"))
        axes.plot(strengths, losses, color=_COLORS[0], marker="o", ms=4)
        axes.set_xscale("log")
        axes.axvline(chosen, color=_GREY, linestyle=":", linewidth=1)
        marks = (Mark("log loss", _COLORS[0]), Mark("the strength that was chosen", _GREY, "dotted"))
        return Figure(finish(), "Log loss of the folds by the strength of the penalty.", marks)


def roc_plot(scores: Scores) -> Figure:
    """True against false positive rate, each class against the rest."""
    from sklearn.metrics import roc_curve

    with _figure("false positive rate", "true positive rate") as (axes, finish):
        axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1)
        for place in _classes(scores):
            false_rate, true_rate, _ = roc_curve(scores.y == place, scores.probabilities[:, place])
            axes.plot(*_thinned(false_rate, true_rate), **_look(place), clip_on=False)
        _unit(axes)
        chance = Mark("ignoring the sequence", _GREY, "dotted")
        return Figure(finish(), "ROC: each class against the rest.", (*_marks(scores), chance))


def precision_recall_plot(scores: Scores) -> Figure:
    """Precision against recall, each class against the rest."""
    from sklearn.metrics import precision_recall_curve

    with _figure("recall", "precision") as (axes, finish):
        for place in _classes(scores):
            precision, recall, _ = precision_recall_curve(scores.y == place, scores.probabilities[:, place])
            axes.plot(*_thinned(recall, precision), **_look(place), clip_on=False)
            axes.axhline(float((scores.y == place).mean()), color=_look(place)["color"], linestyle=":", linewidth=0.8)
        _unit(axes)
        caption = "Precision and recall: each class against the rest. Dotted: share of the class, the base rate."
        return Figure(finish(), caption, _marks(scores))


def calibration_plot(scores: Scores) -> Figure:
    """How often samples of a score are of the class, if classes count alike."""
    with _figure("mean score", "share of the class") as (axes, finish):
        axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1)
        weights = 1 / np.maximum(np.bincount(scores.y, minlength=len(scores.labels)), 1)[scores.y]
        for place in _classes(scores):
            numbers = scores.probabilities[:, place]
            bins = np.minimum((numbers * ECE_BINS).astype(np.int64), ECE_BINS - 1)
            sizes = np.bincount(bins, weights=weights, minlength=ECE_BINS)
            sums = (weights * numbers, weights * (scores.y == place))
            means = [np.bincount(bins, weights=one, minlength=ECE_BINS) for one in sums]
            held = sizes > 0
            x, y = means[0][held] / sizes[held], means[1][held] / sizes[held]
            axes.plot(x, y, **_look(place), marker="o", ms=3, clip_on=False)
        _unit(axes)
        caption = "Calibration, classes weighted alike. A dot below the dotted line: the scores are too high."
        return Figure(finish(), caption, _marks(scores))


def confusion_plot(confusion: Sequence[Sequence[int]], labels: Sequence[str]) -> Figure:
    """Calls of the samples of each class, as shares of the class, with their numbers."""
    counts = np.array(confusion, np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with _figure("called", "", left_in=1.75) as (axes, finish):
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for row, column in np.ndindex(shares.shape if len(labels) <= _LABELLED_CELLS else (0, 0)):
            color = "white" if shares[row, column] > 0.6 else _INK
            texts = (f"{shares[row, column]:.0%}", f"{int(counts[row, column]):,}")
            for text, size, offset in zip(texts, (9, 7.5), (4, -7), strict=True):
                _write(axes, text, (column, row), (0, offset), ha="center", color=color, fontsize=size)
        _name_cells(axes, labels)
        caption = "Confusion matrix. Rows: the true class; columns: the call; colour and %: share of the true class."
        return Figure(finish(), caption)


def class_scores_plot(scores: Scores) -> Figure:
    """Distribution, in samples of each class, of the score of the last class; of their own class if there are many."""
    of_two = len(scores.labels) == 2
    name = _shortened(scores.labels[-1], _NAME_CHARACTERS) if of_two else "the true class"
    with _figure(f"score of {name}", "density of samples") as (axes, finish):
        for place in np.unique(scores.y).tolist():
            numbers = scores.probabilities[scores.y == place, -1 if of_two else place]
            if of_two:
                look = {"histtype": "stepfilled", "color": _look(place)["color"], "alpha": 0.3}
                axes.hist(numbers, bins=_BINS.tolist(), density=True, **look)
            axes.hist(numbers, bins=_BINS.tolist(), density=True, histtype="step", **_look(place))
        axes.set_xlim(0, 1)
        return Figure(finish(), "Scores of the samples of each true class.", _marks(scores))


def length_plot(scores: Scores, parts: Sequence[dict[str, Any]]) -> Figure:
    """Accuracy, and the score of the true class, by length of the samples."""
    with _figure("bases of the sample, at most", "share, score") as (axes, finish):
        places = list(range(len(parts)))
        lengths = scores.lengths_bases
        of_truth = scores.probabilities[np.arange(len(scores.y)), scores.y]
        pieces = [of_truth[(lengths >= part["from"]) & (lengths <= part["to"])] for part in parts]
        looks: dict[str, Any] = {f"{part}props": {"color": _GREY} for part in ("box", "whisker", "cap")}
        looks["medianprops"] = {"color": _COLORS[0]}
        axes.boxplot(pieces, positions=places, widths=0.4, showfliers=False, manage_ticks=False, **looks)
        axes.plot(places, [part["accuracy"] for part in parts], "s", color=_COLORS[1], ms=6)
        axes.set_xticks(places, [f"{part['to']:,}" for part in parts])
        for place, part in zip(places, parts, strict=True):
            axes.text(place, 1.04, f"n = {part['samples']:,}", ha="center", va="center", fontsize=8)
        axes.set_xlim(-0.6, len(parts) - 0.4)
        axes.set_ylim(0, 1.08)
        axes.set_yticks(np.linspace(0, 1, 6))
        marks = (Mark("accuracy", _COLORS[1], "square"), Mark("score of the true class: median", _COLORS[0]))
        caption = "By length. Boxes: the middle half of the scores of the true class."
        return Figure(finish(), caption, marks)


def intervals_plot(what: str, numbers: Mapping[str, tuple[float, float, float]]) -> Figure:
    """Numbers with their intervals, (number, low, high) by name, above each other; dotted: 0.

    Parameters
    ----------
    what : the numbers are.
    numbers : a name may have several lines.
    """
    names = [[_shortened(line, _LINE_CHARACTERS) for line in name.split("\n")] for name in numbers]
    lines = sum(len(name) + 1.3 for name in names)
    with _figure(what, "", left_in=0.14, height_in=max(_HEIGHT_IN, 0.8 + lines * _LINE_IN)) as (axes, finish):
        axes.axvline(0, color=_GREY, linestyle=":", linewidth=1)
        top = 0.0
        for name, (number, low, high) in zip(names, numbers.values(), strict=True):
            for line in name:
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
                axes.text(
                    0.01, top, line, transform=axes.get_yaxis_transform(), fontsize=8, va="center", color=_INK, bbox=box
                )
                top -= 1
            axes.plot([low, high], [top + 0.1] * 2, color=_COLORS[0], linewidth=1.5)
            axes.plot([number], [top + 0.1], "o", color=_COLORS[0], ms=5)
            top -= 1.3
        axes.set_ylim(top + 0.3, 0.7)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.06)
        return Figure(finish(), f"{what[:1].upper()}{what[1:]}. Dotted: no difference.")


def _classes(scores: Scores) -> Iterator[int]:
    """Classes that occur beside others; of two, whose curves mirror each other, both are shown."""
    for place in range(len(scores.labels)):
        if 0 < (scores.y == place).sum() < len(scores.y):
            yield place


def _look(place: int) -> dict[str, Any]:
    """Colour and line of a class."""
    return {
        "color": _COLORS[place % len(_COLORS)],
        "linestyle": _LINES[place // len(_COLORS) % len(_LINES)],
    }


def _marks(scores: Scores) -> tuple[Mark, ...]:
    places = np.unique(scores.y).tolist()
    return tuple(Mark(scores.labels[place], _look(place)["color"], _look(place)["linestyle"]) for place in places)


def _unit(axes: Axes) -> None:
    """Show both axes from 0 to 1, with a little room for lines at the ends."""
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)


def _shortened(text: str, longest: int) -> str:
    """Write a label into a drawing, whatever it holds; of a long one, the two ends, by which names differ most."""
    shown, half = plain(text), longest // 2
    return shown if len(shown) <= longest else f"{shown[:half]}…{shown[-half:]}"


def _wrapped(text: str, width: int, most: int) -> list[str]:
    """Break a text into at most so many lines; what does not fit is left out at its middle."""
    shown = plain(text)
    lines = textwrap.wrap(shown, width) or [shown]
    if len(lines) <= most:
        return lines
    room = (width * most - 1) // 2
    return textwrap.wrap(f"{shown[:room]}…{shown[-room:]}", width, break_on_hyphens=False)[:most]


def _name_cells(axes: Axes, labels: Sequence[str]) -> None:
    """Name rows and columns; columns by the numbers of the rows where names are long."""
    places = range(len(labels))
    short = all(len(plain(label)) <= 30 // len(labels) for label in labels)
    axes.set_xticks(places, [plain(label) if short else str(place + 1) for place, label in enumerate(labels)])
    axes.set_yticks(places, [""] * len(labels))
    axes.tick_params(length=0)
    size = 8 if len(labels) <= _LABELLED_CELLS else 6
    room = max(1, min(_ROW_LINES, int(19 / len(labels))))
    for place, label in enumerate(labels):
        lines = _wrapped(label if short else f"{place + 1} {plain(label)}", _ROW_CHARACTERS, room)
        for number, line in enumerate(lines):
            offset, beside = (-5, (len(lines) / 2 - number - 0.5) * (size + 2)), axes.get_yaxis_transform()
            _write(axes, line, (0, place), offset, ha="right", color=_INK, fontsize=size, xycoords=beside)


def _write(axes: Axes, text: str, at: tuple[float, float], offset_points: tuple[float, float], **options: Any) -> None:
    """Write a line of text some points away from a place; a line at a time: browsers have fonts of other widths."""
    axes.annotate(text, at, xytext=offset_points, textcoords="offset points", va="center", **options)


def _thinned(x: Any, y: Any) -> tuple[Any, Any]:
    """Some points of a curve of many."""
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), _CURVE_POINTS)).astype(np.int64))
    return x[kept], y[kept]


@contextmanager
def _figure(
    x: str, y: str, *, left_in: float = _LEFT_IN, height_in: float = _HEIGHT_IN
) -> Iterator[tuple[Axes, Callable[[], str]]]:
    """Give axes to draw on, and a function that returns the drawing as an `<svg>` element.

    Parameters
    ----------
    left_in : inches that are left of the axes; the width of the figure stays.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure as Drawing
    except ImportError as error:
        raise MissingDependencyError(
            "Cannot draw a report: matplotlib is not installed. Install it with `pip install 'embedstore-bio[train]'`."
        ) from error
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Drawing(figsize=(_WIDTH_IN, height_in))
        inner = (_WIDTH_IN - left_in - _RIGHT_IN) / _WIDTH_IN, (height_in - _BOTTOM_IN - _TOP_IN) / height_in
        axes = figure.add_axes((left_in / _WIDTH_IN, _BOTTOM_IN / height_in, *inner))  # a layout engine draws all twice
        axes.set_xlabel(x)
        axes.set_ylabel(y)

        def finish() -> str:
            stream = io.StringIO()
            with warnings.catch_warnings():
                # Only its measure is not known: the text is in the drawing, and the browser has more fonts.
                warnings.filterwarnings("ignore", r"Glyph .* missing", UserWarning)
                figure.savefig(stream, format="svg", metadata={"Date": None})
            text = stream.getvalue()
            return text[text.index("<svg") :]

        yield axes, finish
