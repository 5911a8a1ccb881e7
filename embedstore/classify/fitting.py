"""Fitting a network: large batches, each from one gather, early stopping on the validation part.

Rows come from the features in random order; only where all of them fit into a bounded cache are they read once. So
memory does not grow with the data. On a CPU the same seed gives the same weights, bit for bit.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.classify.network import DROPOUT, HIDDEN_UNITS, NORM_EPSILON, Network, Rows
from embedstore.classify.options import TrainOptions
from embedstore.errors import InputError, MissingDependencyError
from embedstore.features import Features
from embedstore.features.samples import Indices

try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise MissingDependencyError(
        "Cannot train: torch is not installed. Install it with `pip install 'embedstore[train]'`."
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
    """Make the network to train, its parameters named as in `network.tensor_shapes`."""
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
    """Seed torch, and leave its generators behind as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
