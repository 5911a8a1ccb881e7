"""The heads of classifiers: what a user chooses, and what they compute, without torch or scikit-learn.

    linear   standardised x ─▶ output: logistic regression
    mlp      standardised x ─▶ hidden (512) ─▶ batch norm ─▶ ReLU ─▶ dropout 0.5 (in training) ─▶ output; the mean
             of some such networks
    trees    extremely randomised trees: the mean of the shares of classes in the leaves

`mlp` is the head of VirNucPro (Li-Jing-1997/VirNucPro at 0f93f27, train.py), with standardised inputs. How heads are
fitted is in `fitting`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import InputError, WeightsError

HeadKind = Literal["linear", "mlp", "trees"]
CalibrationKind = Literal["temperature", "vector", "none"]

MOST_FOLDS = 100
MOST_MEMBERS = 100


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How a classifier is trained.

    Attributes
    ----------
    head : "linear" is logistic regression; "mlp" is VirNucPro's head; "trees" are extremely randomised trees.
    seed : of the folds, the first weights, the order of samples, dropout and trees.
    folds : parts of the groups; each is scored by a head that was fitted to the others. Fewer are made where a class
        has fewer independent groups.
    test_share : of the samples, about, that are set aside and used for nothing but a test; 0: the scores of the folds
        are the test.
    balance_classes : weigh samples so that all classes count alike; scores are then calibrated for classes that occur
        equally often, otherwise for the frequencies in the samples.
    group_exponent : a sample of a group of n samples weighs n to minus this: 0, all samples alike; 1, all groups alike.
    positive : the class that reports look at first; None: of two classes the one that is called "virus", if there is
        one.
    strength : of the L2 penalty of "linear", on standardised columns, beside the mean log loss; None: chosen by the
        folds.
    members : networks of "mlp", each from a seed of its own, whose logits are averaged.
    trees : of "trees".
    input_dropout : of "mlp": share of the inputs that are left out at random in training; helps where genomes are few.
    patience_epochs : of "mlp": training ends after so many epochs in which the validation loss did not fall.
    ignore_unlabelled : leave samples without a label out, rather than refuse them.
    device : of "mlp": "cpu", "cuda:0"; None: the best there is.
    dna_only_fallback : train a second head along, on the DNA blocks alone, for sequences without a sample.

    Raises
    ------
    InputError : a number is out of range.
    """

    head: HeadKind = "linear"
    seed: int = 1
    folds: int = 5
    test_share: float = 0.0
    balance_classes: bool = True
    group_exponent: float = 0.75
    positive: str | None = None
    calibration: CalibrationKind = "temperature"
    strength: float | None = None
    members: int = 3
    trees: int = 300
    max_epochs: int = 200
    patience_epochs: int = 10
    batch_rows: int = 1024
    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    input_dropout: float = 0.0
    ignore_unlabelled: bool = False
    device: str | None = None
    dna_only_fallback: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.test_share < 1:
            raise InputError(f"Cannot train: expected a share to test on from 0 to below 1, found {self.test_share}.")
        if not 2 <= self.folds <= MOST_FOLDS:
            raise InputError(f"Cannot train: expected 2 to {MOST_FOLDS} folds, found {self.folds}.")
        if not 0 <= self.group_exponent <= 1:
            raise InputError(f"Cannot train: expected a group exponent from 0 to 1, found {self.group_exponent}.")
        if self.strength is not None and not 0 < self.strength < float("inf"):
            raise InputError(f"Cannot train: expected a strength above 0, found {self.strength}.")
        if self.members > MOST_MEMBERS:
            raise InputError(f"Cannot train: expected at most {MOST_MEMBERS} members, found {self.members}.")
        for name in ("max_epochs", "patience_epochs", "learning_rate", "members", "trees"):
            if not getattr(self, name) > 0:
                raise InputError(f"Cannot train: expected {name} above 0, found {getattr(self, name)}.")
        if not 0 <= self.input_dropout < 1:
            raise InputError(f"Cannot train: expected an input dropout from 0 to below 1, found {self.input_dropout}.")
        if self.batch_rows < 2:
            raise InputError(f"Cannot train: expected at least 2 rows a batch, found {self.batch_rows}.")

    def to_json(self) -> dict[str, Any]:
        """The options as JSON values."""
        return asdict(self)


HIDDEN_UNITS = 512
DROPOUT = 0.5
NORM_EPSILON = 1e-5

_BLOCK_ROWS = 512

Tensors = Mapping[str, NDArray[Any]]
Rows = NDArray[np.float32]
"""(n, d) float32."""


def tensor_shapes(kind: HeadKind, dim: int, classes: int, members: int = 1) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of all tensors of a "linear" or "mlp" head.

    Parameters
    ----------
    members : networks of an "mlp"; the tensors of the first have plain names, the others' begin with their number.
    """
    standard: dict[str, tuple[int, ...]] = {"input.mean": (dim,), "input.deviation": (dim,)}
    if kind == "linear":
        return standard | {"output.weight": (classes, dim), "output.bias": (classes,)}
    norm = {f"norm.{name}": (HIDDEN_UNITS,) for name in ("weight", "bias", "running_mean", "running_var")}
    hidden: dict[str, tuple[int, ...]] = {"hidden.weight": (HIDDEN_UNITS, dim), "hidden.bias": (HIDDEN_UNITS,)}
    member = hidden | norm | {"output.weight": (classes, HIDDEN_UNITS), "output.bias": (classes,)}
    return standard | {
        member_prefix(number) + name: shape for number in range(members) for name, shape in member.items()
    }


def member_prefix(number: int) -> str:
    """Return what the names of a member's tensors begin with."""
    return f"{number}." if number else ""


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A trained "linear" or "mlp" head.

    Attributes
    ----------
    tensors : float32, exactly those of `tensor_shapes`.
    members : networks whose logits are averaged.

    Raises
    ------
    WeightsError : a tensor is missing, is not expected, has another shape or dtype, or is not finite.
    """

    kind: HeadKind
    dim: int
    classes: int
    tensors: Tensors
    members: int = 1

    def __post_init__(self) -> None:
        problems = tensor_problems(self.tensors, tensor_shapes(self.kind, self.dim, self.classes, self.members))
        if problems:
            raise WeightsError(f"Cannot use this {self.kind} head: {'; '.join(problems)}.")

    def logits(self, rows: Rows) -> NDArray[np.float32]:
        """Compute the logits of rows: (n, d) float32 to (n, classes) float32.

        The arithmetic is float64, rounded at the end, and matrix products are always of the same shape, for which the
        last rows are padded with zeros: linear-algebra libraries add in another order at the edges of a matrix, so that
        in float32 a row's numbers would depend on where it stands.
        """
        found = np.empty((len(rows), self.classes), np.float32)
        wide = {name: tensor.astype(np.float64) for name, tensor in self.tensors.items()}
        block = np.zeros((_BLOCK_ROWS, self.dim), np.float64)
        for start in range(0, len(rows), _BLOCK_ROWS):
            piece = rows[start : start + _BLOCK_ROWS]
            block[: len(piece)] = piece
            found[start : start + len(piece)] = self._block_logits(block, wide)[: len(piece)]
        return found

    def _block_logits(self, rows: NDArray[np.float64], tensors: Mapping[str, NDArray[np.float64]]) -> Any:
        standard = (rows - tensors["input.mean"]) / tensors["input.deviation"]  # (b, d)
        each = [self._member_logits(standard, tensors, member_prefix(number)) for number in range(self.members)]
        return sum(each[1:], each[0]) / self.members  # (b, classes)

    def _member_logits(
        self, hidden: NDArray[np.float64], tensors: Mapping[str, NDArray[np.float64]], prefix: str
    ) -> NDArray[np.float64]:
        def tensor(name: str) -> NDArray[np.float64]:
            return tensors[prefix + name]

        if self.kind == "mlp":
            hidden = hidden @ tensor("hidden.weight").T + tensor("hidden.bias")  # (b, 512)
            scale = tensor("norm.weight") / np.sqrt(tensor("norm.running_var") + NORM_EPSILON)
            hidden = np.maximum((hidden - tensor("norm.running_mean")) * scale + tensor("norm.bias"), 0)
        logits: NDArray[np.float64] = hidden @ tensor("output.weight").T + tensor("output.bias")
        return logits


def tensor_problems(found: Mapping[str, NDArray[Any]], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """List what is wrong with tensors; nothing, if they are exactly those expected, float32, finite."""
    problems = [f"expected {name}, found none" for name in expected if name not in found]
    for name, tensor in found.items():
        if name not in expected:
            problems.append(f"expected no {name}, found one")
        elif tensor.shape != expected[name] or tensor.dtype != np.float32:
            problems.append(f"expected {name} of {expected[name]} float32, found {tensor.shape} {tensor.dtype}")
        elif not np.isfinite(tensor).all():
            problems.append(f"expected finite numbers in {name}, found others")
        elif name in ("input.deviation",) and not (tensor > 0).all():
            problems.append(f"expected numbers above 0 in {name}, found others")
        elif name.endswith("norm.running_var") and not (tensor >= 0).all():
            problems.append(f"expected no negative number in {name}, found one")
    return problems


FOREST_DTYPES: Mapping[str, Any] = {
    "trees.starts": np.int64,
    "trees.column": np.int32,
    "trees.threshold": np.float64,
    "trees.left": np.int32,
    "trees.right": np.int32,
    "trees.share": np.float32,
}
"""Nodes of all trees one after the other; `starts` (t + 1,) says where each tree's begin, its root first.

A row goes to the node `left` if its value in `column` is at most `threshold`, else `right`; both are places in the
whole list, greater than the node's own. A leaf has column -1, and the share of each class, (nodes, classes).
"""

_LEAST_SHARE = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """Trained trees.

    Attributes
    ----------
    tensors : those of `FOREST_DTYPES`.

    Raises
    ------
    WeightsError : a tensor is missing, is not expected, or is not that of trees.
    """

    dim: int
    classes: int
    tensors: Tensors
    kind: HeadKind = "trees"
    members: int = 1

    def __post_init__(self) -> None:
        problems = forest_problems(self.tensors, self.dim, self.classes)
        if problems:
            raise WeightsError(f"Cannot use these trees: {'; '.join(problems)}.")

    def logits(self, rows: Rows) -> NDArray[np.float32]:
        """Compute the logits of rows, the logarithms of the trees' mean shares: (n, d) to (n, classes) float32."""
        column, threshold, left, right, share = (
            self.tensors[f"trees.{name}"] for name in ("column", "threshold", "left", "right", "share")
        )
        roots = self.tensors["trees.starts"][:-1]
        shares = np.zeros((len(rows), self.classes))
        everyone = np.arange(len(rows))
        for root in roots.tolist():
            node = np.full(len(rows), root, np.int64)
            moving = everyone
            while len(moving):
                here = node[moving]
                at_leaf = column[here] < 0
                moving, here = moving[~at_leaf], here[~at_leaf]
                goes_left = rows[moving, column[here]] <= threshold[here]
                node[moving] = np.where(goes_left, left[here], right[here])
            shares += share[node]
        logits: NDArray[np.float32] = np.log(np.maximum(shares / len(roots), _LEAST_SHARE)).astype(np.float32)
        return logits


def forest_problems(found: Tensors, dim: int, classes: int) -> list[str]:
    """List what is wrong with the tensors of trees; nothing, if each row comes to a leaf of each tree."""
    if set(found) != set(FOREST_DTYPES):
        return [f"expected the tensors {', '.join(FOREST_DTYPES)}, found {', '.join(sorted(found)) or 'none'}"]
    wrong = [
        f"expected {name} of {np.dtype(kind).name}, found {found[name].dtype}"
        for name, kind in FOREST_DTYPES.items()
        if found[name].dtype != kind
    ]
    nodes = found["trees.column"].size
    shapes = dict.fromkeys(FOREST_DTYPES, (nodes,)) | {"trees.share": (nodes, classes)}
    shapes["trees.starts"] = (found["trees.starts"].size,)
    wrong += [
        f"expected {name} of {shape}, found {found[name].shape}"
        for name, shape in shapes.items()
        if found[name].shape != shape
    ]
    return wrong or _tree_problems(found, dim)


def _tree_problems(found: Tensors, dim: int) -> list[str]:
    starts, column, share = found["trees.starts"], found["trees.column"], found["trees.share"]
    nodes = len(column)
    if len(starts) < 2 or starts[0] != 0 or starts[-1] != nodes or (np.diff(starts) < 1).any():
        return ["expected trees that follow each other, each with a node"]
    places = np.flatnonzero(column >= 0)
    ends = np.repeat(starts[1:], np.diff(starts))[places]
    problems = []
    if (column >= dim).any():
        problems.append(f"expected columns below {dim}, found others")
    if not np.isfinite(found["trees.threshold"][places]).all():
        problems.append("expected finite thresholds, found others")
    for side in ("left", "right"):
        children = found[f"trees.{side}"][places]
        if (children <= places).any() or (children >= ends).any():
            problems.append(f"expected the node {side} behind its own, in its tree, found others")
    if not np.isfinite(share).all() or (share < 0).any() or (share > 1).any():
        problems.append("expected shares from 0 to 1, found others")
    return problems


Head = Network | Forest
