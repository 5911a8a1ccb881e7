"""Fitting heads, out of fold and to everything.

`cross_fit` gives every training row the logits of a head that was fitted to the other folds, and the head that is
fitted to all of them. Rows are weighted, so that classes count alike and a genome of ten thousand samples not a
thousand times as much as one of ten.

*Linear.* L2 logistic regression, solved to convergence by L-BFGS. All folds are fitted at once: they share the rows and
differ in weights, so that each pass over the rows serves all of them. The strength of the penalty is chosen on a path
from strong to weak by the log loss of the held-out folds; for the logits of a fold it is chosen by the other folds.

*Trees.* scikit-learn's extremely randomised trees, kept as arrays.

*Networks* are in `networks`, which needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.classify.heads import FOREST_DTYPES, Forest, Head, Network, Rows, TrainOptions
from embedstore.errors import MissingDependencyError
from embedstore.features import Features
from embedstore.features.features import Indices

CACHE_BYTES = 512 << 20
"""Training rows up to this size are read once and kept."""
_PIECE_ROWS = 1 << 14

Floats = NDArray[np.float64]
Classes = NDArray[np.int64]

STRENGTHS = tuple(float(10.0**power) for power in np.arange(0, -6.01, -0.5))
"""Strengths that are tried for each column of the features, from strong to weak."""
_WORSE_IN_A_ROW = 2
"""Weaker penalties are no longer tried once so many were worse than the best."""
_MOST_STEPS = 2000
_TOLERANCE = 1e-8
_FINAL_TOLERANCE = 1e-12
"""Of the loss, relative, from one step to the next."""
_MOST_AXES = 8192
"""Columns up to this number are turned to their principal axes."""
_LEAF_SAMPLES = 5

OnFitted = Callable[[str], object]
"""Told in a line what was fitted."""


@dataclass(frozen=True, slots=True, eq=False)
class PartRows:
    """The rows of one part: numbers of them in the features, and their classes, (n,) each."""

    features: Features
    indices: Indices
    y: Classes

    def pieces(self) -> Iterator[tuple[Rows, Classes]]:
        """Yield all rows in order, with their classes, by pieces of bounded size."""
        for start in range(0, len(self.y), _PIECE_ROWS):
            here = slice(start, start + _PIECE_ROWS)
            yield self.features.rows(self.indices[here]), self.y[here]

    def take(self, places: Indices) -> PartRows:
        """Some of them."""
        return PartRows(self.features, self.indices[places], self.y[places])


@dataclass(frozen=True, slots=True, eq=False)
class CrossFitted:
    """A head that was fitted to all rows, and what heads that have not seen a row say of it.

    Attributes
    ----------
    logits : (n, classes) float32, out of fold.
    about : how it went, JSON values.
    """

    head: Head
    logits: NDArray[np.float32]
    about: dict[str, Any]


def row_weights(y: Classes, groups: NDArray[np.int64], classes: int, options: TrainOptions) -> Floats:
    """(n,) how much each row counts, with mean 1; see `balanced_weights`."""
    weights = balanced_weights(y, groups, classes, options)
    weights *= len(y) / weights.sum()
    return weights


def balanced_weights(y: Classes, groups: NDArray[np.int64], classes: int, options: TrainOptions) -> Floats:
    """(n,) how much each of some samples, or fragments, counts beside the others.

    Parameters
    ----------
    groups : (n,) numbers of their groups.
    """
    _, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    weights: Floats = sizes[members].astype(np.float64) ** -options.group_exponent
    if options.balance_classes:
        weights /= np.bincount(y, weights, minlength=classes)[y]
    return weights


def cross_fit(
    rows: PartRows,
    folds: NDArray[np.int64],
    weights: Floats,
    classes: int,
    options: TrainOptions,
    *,
    on_fitted: OnFitted | None = None,
) -> CrossFitted:
    """Fit a head to each set of all folds but one, and one to all rows.

    Parameters
    ----------
    folds : (n,) number of each row's fold, from 0.
    weights : (n,) how much each row counts.

    Raises
    ------
    InputError : a value of the features is not finite.
    MissingDependencyError : scikit-learn or torch is not installed, and the head needs it.
    """
    if options.head == "linear":
        return _cross_fit_linear(rows, folds, weights, classes, options, on_fitted)
    if options.head == "trees":
        return _cross_fit_trees(rows, folds, weights, classes, options, on_fitted)
    from embedstore.classify.networks import cross_fit_networks

    return cross_fit_networks(rows, folds, weights, classes, options, on_fitted)


def moments(rows: PartRows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of each column, (d,) float32 each; a constant column has deviation 1."""
    mean, deviation = _moments(_WideRows(rows, keep=False), np.ones((len(rows.y), 1)))
    return mean[0].astype(np.float32), deviation[0].astype(np.float32)


def held_out_logits(
    rows: PartRows, folds: NDArray[np.int64], weights: Floats, classes: int, options: TrainOptions
) -> NDArray[np.float32]:
    """Return the out-of-fold logits of `cross_fit`, without the head that it fits to all rows.

    Parameters
    ----------
    folds : (n,) number of each row's fold, from 0.
    weights : (n,) how much each row counts.

    Raises
    ------
    InputError : a value of the features is not finite.
    MissingDependencyError : scikit-learn or torch is not installed, and the head needs it.
    """
    if options.head == "linear":
        return _linear_out_of_fold(_WideRows(rows, keep=True), folds, weights, classes, options, None).logits
    if options.head == "trees":
        return _trees_out_of_fold(_joined_rows(rows), rows.y, folds, weights, classes, options, None)
    from embedstore.classify.networks import networks_out_of_fold

    return networks_out_of_fold(rows, folds, weights, classes, options, None).logits


class _WideRows:
    """Rows in float64, piece by piece with the number of its first row, as often as they are asked for.

    Attributes
    ----------
    dim : of a row. y : (n,) the classes.
    """

    def __init__(self, rows: PartRows, *, keep: bool) -> None:
        """
        Parameters
        ----------
        keep : read them once, if they are small enough; otherwise they are read each time.
        """
        self.dim, self.y = rows.features.dim, rows.y
        self._rows = rows
        size_bytes = len(rows.y) * self.dim * np.dtype(np.float64).itemsize
        self._kept = list(self._read()) if keep and size_bytes <= CACHE_BYTES else None

    def __iter__(self) -> Iterator[tuple[int, Floats]]:
        return iter(self._kept) if self._kept is not None else self._read()

    def _read(self) -> Iterator[tuple[int, Floats]]:
        start = 0
        for piece, _ in self._rows.pieces():
            yield start, piece.astype(np.float64)
            start += len(piece)


def _moments(rows: _WideRows, masks: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each column over some sets of rows, (m, d) each.

    Parameters
    ----------
    masks : (n, m), 1 for the rows of each set, 0 for others.
    """
    counts = masks.sum(axis=0)[:, None]
    mean, squares = np.zeros((masks.shape[1], rows.dim)), np.zeros((masks.shape[1], rows.dim))
    for start, piece in rows:
        mean += masks[start : start + len(piece)].T @ piece
    mean /= counts
    middle = mean.mean(axis=0)
    for start, piece in rows:
        squares += masks[start : start + len(piece)].T @ (piece - middle) ** 2
    deviation = np.sqrt(np.maximum(squares / counts - (mean - middle) ** 2, 0))
    deviation[deviation <= np.finfo(np.float32).eps * np.maximum(np.abs(mean), np.abs(middle))] = 1
    return mean, deviation


class _LinearProblem:
    """Some logistic regressions of the same rows, with different weights, as one function to minimise.

    Attributes
    ----------
    count : problems. classes, dim : of each.
    """

    def __init__(self, rows: _WideRows, weights: Floats, classes: int) -> None:
        """
        Parameters
        ----------
        weights : (n, m), of each row in each problem; 0 where it is held out.
        """
        self.count, self.classes, self.dim = weights.shape[1], classes, rows.dim
        self._rows = rows
        self._weights = weights / weights.sum(axis=0)
        self.mean, self.deviation = _moments(rows, (weights > 0).astype(np.float64))
        self._variances, self._axes = self._principal_axes() if self.dim <= _MOST_AXES else (np.ones(1), None)

    def _principal_axes(self) -> tuple[Floats, Floats | None]:
        """Variances and directions, (d,) and (d, d), of the standardised columns, over all rows of any problem."""
        weights, deviation = self._weights.mean(axis=1), self.deviation.mean(axis=0)
        mean, products = self.mean.mean(axis=0), np.zeros((self.dim, self.dim))
        for start, piece in self._rows:
            standard = (piece - mean) / deviation
            products += (standard * weights[start : start + len(piece), None]).T @ standard
        variances, axes = np.linalg.eigh(products)
        return np.maximum(variances, 0), axes

    def minimise(self, strength: float, start: Floats | None = None, tolerance: float = _TOLERANCE) -> Floats:
        """Return (m, classes, d + 1): weights of the standardised columns, and the bias, of each problem.

        Steps are taken along the principal axes of the columns, each scaled by about the curvature there, which makes
        ten times fewer of them.
        """
        from scipy.optimize import minimize

        shape = (self.count, self.classes, self.dim + 1)
        scale = np.ones(self.dim + 1)
        scale[:-1] = 1 / np.sqrt(self._variances / self.classes**2 + strength)  # mean of p (1 - p) is near that

        def turned(parameters: Floats, *, back: bool) -> Floats:
            if self._axes is None:
                return parameters
            found = parameters.copy()
            found[..., :-1] = parameters[..., :-1] @ (self._axes if back else self._axes.T)
            return found

        def loss(flat: Floats) -> tuple[float, Floats]:
            found, gradient = self._loss(turned(flat.reshape(shape) * scale, back=False), strength)
            return found, (turned(gradient, back=True) * scale).ravel()

        first = np.zeros(shape) if start is None else turned(start, back=True) / scale
        found = minimize(
            loss,
            first.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": _MOST_STEPS, "maxfun": 2 * _MOST_STEPS, "gtol": 0.0, "ftol": tolerance, "maxcor": 20},
        )
        return turned(np.asarray(found.x).reshape(shape) * scale, back=False)

    def logits(self, parameters: Floats) -> Floats:
        """(n, m, classes) of all rows."""
        columns, bias = self._plain(parameters)
        pieces = [piece @ columns + bias for _, piece in self._rows]
        return np.concatenate(pieces).reshape(-1, self.count, self.classes)

    def _plain(self, parameters: Floats) -> tuple[Floats, Floats]:
        """(d, m · classes) weights and (m · classes,) biases of columns that are not standardised."""
        scaled = parameters[..., :-1] / self.deviation[:, None, :]
        bias = parameters[..., -1] - (scaled * self.mean[:, None, :]).sum(axis=2)
        return scaled.reshape(-1, self.dim).T, bias.ravel()

    def _loss(self, parameters: Floats, strength: float) -> tuple[float, Floats]:
        columns, bias = self._plain(parameters)
        loss = 0.5 * strength * float((parameters[..., :-1] ** 2).sum())
        slopes, bias_slopes = np.zeros(columns.T.shape), np.zeros(len(bias))
        if self.classes == 2:  # which only differ in sign: one logit does
            columns, bias = columns[:, 1::2] - columns[:, ::2], bias[1::2] - bias[::2]
        for start, piece in self._rows:
            here = slice(start, start + len(piece))
            errors, part = _errors(piece @ columns + bias, self._weights[here], self._rows.y[here], self.classes)
            loss += part
            if self.classes == 2:
                up, bias_up = errors.T @ piece, errors.sum(axis=0)  # (m, d) and (m,)
                slopes[1::2] += up
                slopes[::2] -= up
                bias_slopes[1::2] += bias_up
                bias_slopes[::2] -= bias_up
            else:
                slopes += errors.T @ piece
                bias_slopes += errors.sum(axis=0)
        gradient = np.empty_like(parameters)
        gradient[..., -1] = bias_slopes.reshape(self.count, self.classes)
        centred = slopes.reshape(gradient[..., :-1].shape) - gradient[..., -1:] * self.mean[:, None, :]
        gradient[..., :-1] = centred / self.deviation[:, None, :] + strength * parameters[..., :-1]
        return loss, gradient


def _errors(logits: Floats, weights: Floats, y: Classes, classes: int) -> tuple[Floats, float]:
    """Return the slopes of the weighted log loss of rows by their logits, of the same shape, and the loss.

    Parameters
    ----------
    logits : (b, m · classes), of each problem; of two classes (b, m), how much larger the second's is.
    weights : (b, m). y : (b,).
    """
    if classes == 2:
        signs = 2.0 * y[:, None] - 1
        losses = np.logaddexp(0, -signs * logits)
        return -signs * weights * -np.expm1(-losses), float((weights * losses).sum())
    each = logits.reshape(*weights.shape, classes)
    each = each - each.max(axis=2, keepdims=True)
    powers = np.exp(each)
    sums = powers.sum(axis=2)
    of_class = np.take_along_axis(each, y[:, None, None], axis=2)[..., 0]
    errors = powers / sums[..., None]
    errors[np.arange(len(y)), :, y] -= 1
    errors *= weights[..., None]
    return errors.reshape(logits.shape), float((weights * (np.log(sums) - of_class)).sum())


@dataclass(frozen=True, slots=True, eq=False)
class _LinearFolds:
    """Logistic regressions of all folds: (n, classes) out-of-fold logits, and how the strengths did.

    Attributes
    ----------
    tried : strengths. losses : (s, folds) of each. chosen : place in `tried` for each fold.
    """

    logits: NDArray[np.float32]
    tried: list[float]
    losses: Floats
    chosen: list[int]


def _linear_out_of_fold(
    wide: _WideRows,
    folds: NDArray[np.int64],
    weights: Floats,
    classes: int,
    options: TrainOptions,
    on_fitted: OnFitted | None,
) -> _LinearFolds:
    count = int(folds.max()) + 1
    held_out = folds[:, None] == np.arange(count)  # (n, folds)
    problem = _LinearProblem(wide, np.where(held_out, 0.0, weights[:, None]), classes)
    # The squares of standardised columns add up, so that the penalty grows with their number.
    strengths = [options.strength] if options.strength else [strength * wide.dim for strength in STRENGTHS]
    tried, losses, logits = _path(problem, strengths, wide.y, folds, weights, on_fitted)
    chosen = [int(np.delete(losses, fold, axis=1).sum(axis=1).argmin()) for fold in range(count)]
    out_of_fold = np.stack(logits)[np.array(chosen)[folds], np.arange(len(folds))]  # (n, classes)
    return _LinearFolds(out_of_fold.astype(np.float32), tried, losses, chosen)


def _cross_fit_linear(
    rows: PartRows,
    folds: NDArray[np.int64],
    weights: Floats,
    classes: int,
    options: TrainOptions,
    on_fitted: OnFitted | None,
) -> CrossFitted:
    wide = _WideRows(rows, keep=True)
    found = _linear_out_of_fold(wide, folds, weights, classes, options, on_fitted)
    tried, losses = found.tried, found.losses
    best = int(losses.sum(axis=1).argmin())
    whole = _LinearProblem(wide, weights[:, None], classes)
    parameters = whole.minimise(tried[best], tolerance=_FINAL_TOLERANCE)[0]
    tensors = {
        "input.mean": whole.mean[0],
        "input.deviation": whole.deviation[0],
        "output.weight": parameters[:, :-1],
        "output.bias": parameters[:, -1],
    }
    head = Network("linear", whole.dim, classes, {name: one.astype(np.float32) for name, one in tensors.items()})
    about = {
        "strength": tried[best],
        "strengths_of_folds": [tried[place] for place in found.chosen],
        "path": [
            {"strength": strength, "loss": float(loss)}
            for strength, loss in zip(tried, losses.sum(axis=1) / weights.sum(), strict=True)
        ],
    }
    return CrossFitted(head, found.logits, about)


def _path(
    problem: _LinearProblem,
    strengths: Sequence[float],
    y: Classes,
    folds: NDArray[np.int64],
    weights: Floats,
    on_fitted: OnFitted | None,
) -> tuple[list[float], Floats, list[Floats]]:
    """Fit from strong to weak; return the strengths tried, (s, folds) losses and the out-of-fold logits of each."""
    parameters = None
    tried: list[float] = []
    losses: list[Floats] = []
    logits: list[Floats] = []
    for strength in strengths:
        parameters = problem.minimise(strength, parameters)
        found = problem.logits(parameters)[np.arange(len(y)), folds]  # (n, classes)
        each = log_losses(found, y) * weights
        tried.append(strength)
        logits.append(found)
        losses.append(np.bincount(folds, each, minlength=problem.count).astype(np.float64))
        totals = [float(loss.sum()) for loss in losses]
        if on_fitted is not None:
            on_fitted(f"strength {strength:.3g}: log loss {totals[-1] / weights.sum():.4f} out of fold")
        if len(totals) - 1 - int(np.argmin(totals)) >= _WORSE_IN_A_ROW:
            break
    return tried, np.stack(losses), logits


def log_losses(logits: NDArray[np.floating[Any]], y: Classes) -> Floats:
    """(n,) the log loss of each row."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    found: Floats = np.log(np.exp(wide).sum(axis=1)) - wide[np.arange(len(y)), y]
    return found


def _cross_fit_trees(
    rows: PartRows,
    folds: NDArray[np.int64],
    weights: Floats,
    classes: int,
    options: TrainOptions,
    on_fitted: OnFitted | None,
) -> CrossFitted:
    x = _joined_rows(rows)
    logits = _trees_out_of_fold(x, rows.y, folds, weights, classes, options, on_fitted)
    forest = _fit_trees(x, rows.y, weights, classes, options)
    return CrossFitted(forest, logits, {"nodes": len(forest.tensors["trees.column"])})


def _joined_rows(rows: PartRows) -> Rows:
    """(n, d): trees need all rows at once."""
    return np.concatenate([piece for piece, _ in rows.pieces()])


def _trees_out_of_fold(
    x: Rows,
    y: Classes,
    folds: NDArray[np.int64],
    weights: Floats,
    classes: int,
    options: TrainOptions,
    on_fitted: OnFitted | None,
) -> NDArray[np.float32]:
    logits = np.empty((len(x), classes), np.float32)
    for fold in range(int(folds.max()) + 1):
        held_out = folds == fold
        forest = _fit_trees(x[~held_out], y[~held_out], weights[~held_out], classes, options)
        logits[held_out] = forest.logits(x[held_out])
        if on_fitted is not None:
            loss = float(np.average(log_losses(logits[held_out], y[held_out]), weights=weights[held_out]))
            on_fitted(f"fold {fold + 1}: log loss {loss:.4f}")
    return logits


def _fit_trees(x: Rows, y: Classes, weights: Floats, classes: int, options: TrainOptions) -> Forest:
    try:
        from sklearn.ensemble import ExtraTreesClassifier
    except ImportError as error:
        raise MissingDependencyError(
            "Cannot fit trees: scikit-learn is not installed. Run `pip install 'embedstore-bio[train]'`."
        ) from error
    model = ExtraTreesClassifier(
        options.trees, min_samples_leaf=_LEAF_SAMPLES, max_features="sqrt", random_state=options.seed, n_jobs=-1
    )
    trees = [one.tree_ for one in model.fit(x, y, sample_weight=weights).estimators_]
    starts = np.cumsum([0, *(tree.node_count for tree in trees)])
    shares = []
    for tree in trees:
        share = np.zeros((tree.node_count, classes))
        values = tree.value[:, 0, :]
        share[:, model.classes_] = values / values.sum(axis=1, keepdims=True)
        shares.append(share)

    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(tree, name) for tree in trees])

    first = np.repeat(starts[:-1], np.diff(starts))
    is_leaf = joined("children_left") < 0
    tensors = {
        "trees.starts": starts,
        "trees.column": np.where(is_leaf, -1, joined("feature")),
        "trees.threshold": np.where(is_leaf, 0.0, joined("threshold")),
        "trees.left": np.where(is_leaf, 0, joined("children_left") + first),
        "trees.right": np.where(is_leaf, 0, joined("children_right") + first),
        "trees.share": np.concatenate(shares),
    }
    return Forest(x.shape[1], classes, {name: tensors[name].astype(kind) for name, kind in FOREST_DTYPES.items()})
