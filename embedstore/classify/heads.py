"""The networks of classifiers: what a user chooses, what they compute, and how they are fitted.

`TrainOptions` is checked once. `Network` holds the tensors and computes without torch:

    mlp      standardised x ─▶ hidden (512) ─▶ batch norm ─▶ ReLU ─▶ dropout 0.5 (in training) ─▶ output
    linear   standardised x ─▶ output

`mlp` is the head of VirNucPro (Li-Jing-1997/VirNucPro at 0f93f27, train.py), with standardised inputs.

`fit` uses large batches, each from one gather, and stops early by the validation part. Rows come from the features in
random order; only where all of them fit into a bounded cache are they read once, so memory does not grow with the data.
On a CPU the same seed gives the same weights, bit for bit.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import InputError, MissingDependencyError, WeightsError
from embedstore.features import Features
from embedstore.features.features import Indices

NetworkKind = Literal["mlp", "linear"]
CalibrationKind = Literal["temperature", "vector", "none"]


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How a classifier is trained.

    Attributes
    ----------
    network : "mlp" is VirNucPro's head; "linear" is logistic regression, the baseline.
    seed : of the split, the first weights, the order of samples and dropout.
    validation_share, calibration_share, test_share : of the samples, about; the rest is trained on.
    input_dropout : share of the inputs that are left out at random in training; helps where genomes are few.
    balance_classes : weigh samples so that all classes count alike; scores are then calibrated for classes that occur
        equally often, otherwise for the frequencies in the calibration part.
    patience_epochs : training ends after so many epochs in which the validation loss did not fall.
    ignore_unlabelled : leave samples without a label out, rather than refuse them.
    device : "cpu", "cuda:0"; None: the best there is.

    Raises
    ------
    InputError : a number is out of range.
    """

    network: NetworkKind = "mlp"
    seed: int = 1
    validation_share: float = 0.15
    calibration_share: float = 0.15
    test_share: float = 0.2
    balance_classes: bool = True
    calibration: CalibrationKind = "temperature"
    max_epochs: int = 200
    patience_epochs: int = 10
    batch_rows: int = 1024
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    input_dropout: float = 0.0
    ignore_unlabelled: bool = False
    device: str | None = None

    def __post_init__(self) -> None:
        shares = (self.validation_share, self.calibration_share, self.test_share)
        if self.test_share <= 0:
            raise InputError(
                f"Cannot train: expected a share of samples to test on above 0, found {self.test_share}: without a "
                "test set, the quality of a classifier is unknown."
            )
        if self.validation_share <= 0 or self.calibration_share < 0 or sum(shares) >= 1:
            raise InputError(
                f"Cannot train: expected shares for validation (above 0), calibration and test that leave something to "
                f"train on, found {', '.join(map(str, shares))}. Choose smaller ones."
            )
        if (self.calibration_share == 0) != (self.calibration == "none"):
            raise InputError(
                f"Cannot train: expected a calibration part exactly if there is a calibration, found a share of "
                f"{self.calibration_share} and calibration {self.calibration}."
            )
        for name in ("max_epochs", "patience_epochs", "learning_rate"):
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

Tensors = Mapping[str, NDArray[np.float32]]
Rows = NDArray[np.float32]


def tensor_shapes(kind: NetworkKind, dim: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of all tensors of a network."""
    standard: dict[str, tuple[int, ...]] = {"input.mean": (dim,), "input.deviation": (dim,)}
    if kind == "linear":
        return standard | {"output.weight": (classes, dim), "output.bias": (classes,)}
    norm = {f"norm.{name}": (HIDDEN_UNITS,) for name in ("weight", "bias", "running_mean", "running_var")}
    hidden: dict[str, tuple[int, ...]] = {"hidden.weight": (HIDDEN_UNITS, dim), "hidden.bias": (HIDDEN_UNITS,)}
    return standard | hidden | norm | {"output.weight": (classes, HIDDEN_UNITS), "output.bias": (classes,)}


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A trained network.

    Attributes
    ----------
    tensors : float32, exactly those of `tensor_shapes`.

    Raises
    ------
    WeightsError : a tensor is missing, is not expected, has another shape or dtype, or is not finite.
    """

    kind: NetworkKind
    dim: int
    classes: int
    tensors: Tensors

    def __post_init__(self) -> None:
        problems = tensor_problems(self.tensors, tensor_shapes(self.kind, self.dim, self.classes))
        if problems:
            raise WeightsError(f"Cannot use this {self.kind} network: {'; '.join(problems)}.")

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
        hidden = (rows - tensors["input.mean"]) / tensors["input.deviation"]  # (b, d)
        if self.kind == "mlp":
            hidden = hidden @ tensors["hidden.weight"].T + tensors["hidden.bias"]  # (b, 512)
            scale = tensors["norm.weight"] / np.sqrt(tensors["norm.running_var"] + NORM_EPSILON)
            hidden = np.maximum((hidden - tensors["norm.running_mean"]) * scale + tensors["norm.bias"], 0)
        return hidden @ tensors["output.weight"].T + tensors["output.bias"]  # (b, classes)


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
        elif name == "norm.running_var" and not (tensor >= 0).all():
            problems.append(f"expected no negative number in {name}, found one")
    return problems


try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise MissingDependencyError(
        "Cannot train: torch is not installed. Install it with `pip install 'embedstore-bio[train]'`."
    ) from error

CACHE_BYTES = 512 << 20
"""Training rows up to this size are read once and kept."""
_PIECE_ROWS = 1 << 14


@dataclass(frozen=True, slots=True)
class Epoch:
    """How one pass over the training part went.

    Attributes
    ----------
    training_loss, validation_loss : mean log loss, with the classes' weights.
    balanced_accuracy : of the validation part.
    """

    number: int
    training_loss: float
    validation_loss: float
    balanced_accuracy: float

    def to_json(self) -> dict[str, Any]:
        """The epoch as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A network with the weights of its best epoch, and all epochs.

    Attributes
    ----------
    best_epoch : number of the epoch with the least validation loss.
    """

    network: Network
    epochs: tuple[Epoch, ...]
    best_epoch: int


OnEpoch = Callable[[Epoch], object]


@dataclass(frozen=True, slots=True, eq=False)
class PartRows:
    """The rows of one part: numbers of them in the features, and their classes, (n,) each."""

    features: Features
    indices: Indices
    y: NDArray[np.int64]

    def pieces(self) -> Iterator[tuple[Rows, NDArray[np.int64]]]:
        """Yield all rows in order, with their classes, by pieces of bounded size."""
        for start in range(0, len(self.y), _PIECE_ROWS):
            here = slice(start, start + _PIECE_ROWS)
            yield self.features.rows(self.indices[here]), self.y[here]


def fit(
    train: PartRows,
    validation: PartRows,
    class_weights: NDArray[np.float64],
    options: TrainOptions,
    *,
    on_epoch: OnEpoch | None = None,
) -> Fitted:
    """Fit a network.

    Parameters
    ----------
    class_weights : (classes,), how much a sample of each class counts.

    Raises
    ------
    InputError : a value of the features is not finite, or the loss is in no epoch.
    """
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    mean, deviation = _moments(train)
    classes, dim = len(class_weights), train.features.dim
    with _seeded(options.seed, device):
        module = _module(options, dim, classes).to(device)
        run = _Run(module, (mean, deviation), torch.tensor(class_weights, dtype=torch.float32), device, options)
        best, epochs, best_epoch = run.fit(train, validation, on_epoch)
    tensors = {name: tensor.cpu().numpy() for name, tensor in best.items() if name != "norm.num_batches_tracked"}
    return Fitted(
        Network(options.network, dim, classes, {"input.mean": mean, "input.deviation": deviation, **tensors}),
        epochs,
        best_epoch,
    )


class _Run:
    """One fit: the module, what is needed for its loss, and the rows."""

    def __init__(
        self,
        module: nn.Module,
        moments: tuple[Rows, Rows],
        class_weights: Tensor,
        device: torch.device,
        options: TrainOptions,
    ) -> None:
        self._module = module
        self._moments = moments
        self._device = device
        self._options = options
        self._loss = nn.CrossEntropyLoss(class_weights.to(device))
        self._class_weights = class_weights.numpy().astype(np.float64)
        self._optimizer = torch.optim.AdamW(
            module.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
        )

    def fit(
        self, train: PartRows, validation: PartRows, on_epoch: OnEpoch | None
    ) -> tuple[Mapping[str, Tensor], tuple[Epoch, ...], int]:
        """Return the state of the best epoch, all epochs, and the number of the best."""
        rows = _TrainingRows(train, self._moments)
        shuffler = np.random.default_rng(self._options.seed)
        epochs: list[Epoch] = []
        best, best_epoch, least_loss = copy.deepcopy(self._module.state_dict()), 0, float("inf")
        for number in range(1, self._options.max_epochs + 1):
            training_loss = self._pass(rows, train.y, shuffler.permutation(len(train.y)))
            epochs.append(Epoch(number, training_loss, *self._judge(validation)))
            if on_epoch is not None:
                on_epoch(epochs[-1])
            if epochs[-1].validation_loss < least_loss:
                # `state_dict` refers to the weights that go on changing: only a copy stays the best.
                best, best_epoch = copy.deepcopy(self._module.state_dict()), number
                least_loss = epochs[-1].validation_loss
            if number - best_epoch >= self._options.patience_epochs:
                break
        if not best_epoch:
            raise InputError(
                f"Cannot train: expected a finite validation loss, found {epochs[0].validation_loss} in every epoch. "
                f"Choose a lower learning rate than {self._options.learning_rate}."
            )
        return best, tuple(epochs), best_epoch

    def _pass(self, rows: _TrainingRows, y: NDArray[np.int64], order: Indices) -> float:
        """Train on all rows once; return the mean loss."""
        self._module.train()
        batches = np.array_split(order, -(-len(order) // self._options.batch_rows))  # none is left with a single row
        total = torch.zeros((), device=self._device)
        for batch in batches:
            x = torch.from_numpy(rows.take(batch)).to(self._device)  # (b, d)
            loss = self._loss(self._module(x), torch.from_numpy(y[batch]).to(self._device))
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
            total += loss.detach() * len(batch)
        return float(total) / len(order)

    def _judge(self, part: PartRows) -> tuple[float, float]:
        """Return the loss and the balanced accuracy of a part."""
        self._module.eval()
        losses, weights, right, seen = 0.0, 0.0, np.zeros(len(self._class_weights)), np.zeros(len(self._class_weights))
        for rows, y in part.pieces():
            with torch.inference_mode():
                x = torch.from_numpy(_standardised(rows, self._moments)).to(self._device)
                logits = self._module(x).double().cpu()
                each = nn.functional.cross_entropy(logits, torch.from_numpy(y), reduction="none").numpy()
            losses += float(each @ self._class_weights[y])
            weights += float(self._class_weights[y].sum())
            right += np.bincount(y[logits.argmax(dim=1).numpy() == y], minlength=len(seen))
            seen += np.bincount(y, minlength=len(seen))
        return losses / weights, float((right[seen > 0] / seen[seen > 0]).mean())


class _TrainingRows:
    """Standardised rows of the training part, kept if they are small enough, otherwise gathered each time."""

    def __init__(self, part: PartRows, moments: tuple[Rows, Rows]) -> None:
        self._part = part
        self._moments = moments
        size_bytes = len(part.y) * part.features.dim * np.dtype(np.float32).itemsize
        self._cached = _standardised(part.features.rows(part.indices), moments) if size_bytes <= CACHE_BYTES else None

    def take(self, places: Indices) -> Rows:
        """(k, d) float32."""
        if self._cached is not None:
            return self._cached[places]
        return _standardised(self._part.features.rows(self._part.indices[places]), self._moments)


def _standardised(rows: Rows, moments: tuple[Rows, Rows]) -> Rows:
    """Standardise rows in place."""
    rows -= moments[0]
    rows /= moments[1]
    return rows


def _moments(part: PartRows) -> tuple[Rows, Rows]:
    """Mean and standard deviation of each column, (d,) float32 each; a constant column has deviation 1."""
    count, dim = len(part.y), part.features.dim
    mean, squares = np.zeros(dim), np.zeros(dim)
    for rows, _ in part.pieces():
        mean += rows.sum(axis=0, dtype=np.float64)
    mean /= count
    for rows, _ in part.pieces():
        squares += ((rows - mean) ** 2).sum(axis=0)
    deviation = np.sqrt(squares / count).astype(np.float32)
    deviation[deviation <= np.finfo(np.float32).eps * np.abs(mean)] = 1
    return mean.astype(np.float32), deviation


def _module(options: TrainOptions, dim: int, classes: int) -> nn.Module:
    """Make the network to train, its parameters named as in `tensor_shapes`."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if options.input_dropout:
        layers["input_dropout"] = _Dropout(options.input_dropout, options.seed)
    if options.network == "linear":
        output = nn.Linear(dim, classes)
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)
        return nn.Sequential(OrderedDict(**layers, output=output))
    hidden, output = nn.Linear(dim, HIDDEN_UNITS), nn.Linear(HIDDEN_UNITS, classes)
    for layer in (hidden, output):
        nn.init.xavier_uniform_(layer.weight)
    norm = nn.BatchNorm1d(HIDDEN_UNITS, eps=NORM_EPSILON)
    layers |= OrderedDict(
        hidden=hidden, norm=norm, relu=nn.ReLU(), dropout=_Dropout(DROPOUT, options.seed), output=output
    )
    return nn.Sequential(layers)


class _Dropout(nn.Module):
    """Dropout whose random numbers come from numpy: torch's took 40 % of the time of a step on a CPU.

    Shares are rounded to 1/65536.
    """

    def __init__(self, share: float, seed: int) -> None:
        super().__init__()
        self._kept = round((1 - share) * 65536)
        self._generator = np.random.default_rng([seed, self._kept])

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if x.is_cuda:
            return nn.functional.dropout(x, 1 - self._kept / 65536)
        drawn = self._generator.integers(0, 65536, x.shape, np.uint16)
        mask = torch.from_numpy((drawn < self._kept).astype(np.float32)).to(x.device)
        return x * mask.mul_(65536 / self._kept)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch, and restore its generators afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
