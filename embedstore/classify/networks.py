"""Fitting VirNucPro's head: several networks, each from a seed of its own, whose logits are averaged.

Large batches, each from one gather. Out of fold, a network stops by the validation loss of the next fold, which it is
not fitted to; fitted to everything, it runs for as many epochs as those did in the middle. Rows come from the features
in random order; only where all of them fit into a bounded cache are they read once, so memory does not grow with the
data. On a CPU the same seed gives the same weights, bit for bit.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.classify import fitting
from embedstore.classify.fitting import CrossFitted, Floats, OnFitted, PartRows, moments
from embedstore.classify.heads import (
    DROPOUT,
    HIDDEN_UNITS,
    NORM_EPSILON,
    Network,
    Rows,
    Tensors,
    TrainOptions,
    member_prefix,
)
from embedstore.errors import InputError, MissingDependencyError
from embedstore.features.features import Indices

try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise MissingDependencyError(
        "Cannot train an mlp: torch is not installed. Run `pip install 'embedstore-bio[train]'`."
    ) from error

_LEAST_FOLDS = 3
_SEEDS_APART = 1000


@dataclass(frozen=True, slots=True)
class Epoch:
    """How one pass over the training rows went.

    Attributes
    ----------
    training_loss, validation_loss : mean log loss, weighted; the second is NaN without a validation part.
    """

    number: int
    training_loss: float
    validation_loss: float

    def to_json(self) -> dict[str, Any]:
        """The epoch as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class WeightedRows:
    """Rows of a part, and how much each counts, (n,)."""

    rows: PartRows
    weights: Floats

    def take(self, places: Indices) -> WeightedRows:
        """Some of them."""
        return WeightedRows(self.rows.take(places), self.weights[places])


@dataclass(frozen=True, slots=True, eq=False)
class NetworkFolds:
    """Networks of all folds: (n, classes) out-of-fold logits, and the best epochs and curves of each network."""

    logits: NDArray[np.float32]
    best_epochs: list[int]
    curves: list[list[dict[str, Any]]]


def networks_out_of_fold(
    rows: PartRows,
    folds: NDArray[np.int64],
    weights: Floats,
    classes: int,
    options: TrainOptions,
    on_fitted: OnFitted | None,
) -> NetworkFolds:
    """Fit networks to each set of all folds but one; see `fitting.held_out_logits`.

    Raises
    ------
    InputError : there are fewer than three folds, a value is not finite, or the loss is in no epoch.
    """
    count = int(folds.max()) + 1
    if count < _LEAST_FOLDS:
        raise InputError(
            f"Cannot train an mlp: expected at least {_LEAST_FOLDS} folds, found {count}: one is scored, one stops the "
            "training, the others are trained on. Add groups, or choose another head."
        )
    everything, seeds = WeightedRows(rows, weights), _seeds_of(options)
    logits = np.empty((len(rows.y), classes), np.float32)
    best_epochs: list[int] = []
    curves: list[list[dict[str, Any]]] = []
    for fold in range(count):
        held_out, validation = folds == fold, folds == (fold + 1) % count
        train = everything.take(np.flatnonzero(~held_out & ~validation))
        fits = fit_networks(train, everything.take(np.flatnonzero(validation)), classes, options, seeds)
        network = _joined([one.network for one in fits])
        places = np.flatnonzero(held_out)
        logits[places] = np.concatenate([network.logits(piece) for piece, _ in rows.take(places).pieces()])
        best_epochs += [one.best_epoch for one in fits]
        curves += [[epoch.to_json() for epoch in one.epochs] for one in fits]
        if on_fitted is not None:
            on_fitted(f"fold {fold + 1}: best epochs {', '.join(str(one.best_epoch) for one in fits)}")
    return NetworkFolds(logits, best_epochs, curves)


def _seeds_of(options: TrainOptions) -> list[int]:
    return [_SEEDS_APART * options.seed + member for member in range(options.members)]


def cross_fit_networks(
    rows: PartRows,
    folds: NDArray[np.int64],
    weights: Floats,
    classes: int,
    options: TrainOptions,
    on_fitted: OnFitted | None,
) -> CrossFitted:
    """Fit networks to each set of all folds but one, and to all rows; see `fitting.cross_fit`.

    Raises
    ------
    InputError : there are fewer than three folds, a value is not finite, or the loss is in no epoch.
    """
    found = networks_out_of_fold(rows, folds, weights, classes, options, on_fitted)
    epochs = int(np.median(found.best_epochs))
    whole = fit_networks(WeightedRows(rows, weights), None, classes, options, _seeds_of(options), epochs)
    about = {"best_epochs": found.best_epochs, "epochs": epochs, "curves": found.curves}
    return CrossFitted(_joined([one.network for one in whole]), found.logits, about)


def _joined(networks: list[Network]) -> Network:
    """One head of several networks that have the same standardisation."""
    first = networks[0]
    tensors: dict[str, NDArray[Any]] = {}
    for number, network in enumerate(networks):
        for name, tensor in network.tensors.items():
            tensors[name if name.startswith("input.") else member_prefix(number) + name] = tensor
    return Network("mlp", first.dim, first.classes, tensors, len(networks))


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A network with the weights of its best epoch, and all epochs.

    Attributes
    ----------
    best_epoch : number of the epoch with the least validation loss; the last one without a validation part.
    """

    network: Network
    epochs: tuple[Epoch, ...]
    best_epoch: int


def fit_networks(
    train: WeightedRows,
    validation: WeightedRows | None,
    classes: int,
    options: TrainOptions,
    seeds: Sequence[int],
    epochs: int | None = None,
) -> list[Fitted]:
    """Fit networks to the same rows, which are read once for all of them if they are small enough.

    Parameters
    ----------
    validation : the training stops by; None: after `epochs`.
    seeds : of each network.

    Raises
    ------
    InputError : a value of the features is not finite, or the loss is in no epoch.
    """
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    rows = _TrainingRows(train.rows)
    mean, deviation = rows.standard
    dim = train.rows.features.dim
    fits = []
    for seed in seeds:
        with _seeded(seed, device):
            run = _Run(_module(options, dim, classes, seed).to(device), rows, device, options, seed)
            best, done, best_epoch = run.fit(train, validation, epochs or options.max_epochs)
        tensors: Tensors = {name: one.cpu().numpy() for name, one in best.items() if name != "norm.num_batches_tracked"}
        network = Network("mlp", dim, classes, {"input.mean": mean, "input.deviation": deviation, **tensors})
        fits.append(Fitted(network, done, best_epoch))
    return fits


class _Run:
    """One fit: the module, what is needed for its loss, and the rows."""

    def __init__(
        self, module: nn.Module, rows: _TrainingRows, device: torch.device, options: TrainOptions, seed: int
    ) -> None:
        self._module = module
        self._rows = rows
        self._device = device
        self._options = options
        self._seed = seed
        self._optimizer = torch.optim.AdamW(
            module.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
        )

    def fit(
        self, train: WeightedRows, validation: WeightedRows | None, epochs: int
    ) -> tuple[Mapping[str, Tensor], tuple[Epoch, ...], int]:
        """Return the state of the best epoch, all epochs, and the number of the best."""
        shuffler = np.random.default_rng(self._seed)
        done: list[Epoch] = []
        best, best_epoch, least_loss = copy.deepcopy(self._module.state_dict()), 0, float("inf")
        for number in range(1, epochs + 1):
            loss = self._pass(train, shuffler.permutation(len(train.weights)))
            done.append(Epoch(number, loss, float("nan") if validation is None else self._loss_of(validation)))
            if (loss if validation is None else done[-1].validation_loss) < least_loss:
                # `state_dict` refers to the weights that go on changing: only a copy stays the best.
                best, best_epoch = copy.deepcopy(self._module.state_dict()), number
                least_loss = float("inf") if validation is None else done[-1].validation_loss
            if validation is not None and number - best_epoch >= self._options.patience_epochs:
                break
        if not best_epoch:
            raise InputError(
                "Cannot train: expected a finite loss, found none in every epoch. "
                f"Choose a lower learning rate than {self._options.learning_rate}."
            )
        return best, tuple(done), best_epoch

    def _pass(self, train: WeightedRows, order: Indices) -> float:
        """Train on all rows once; return the mean loss."""
        self._module.train()
        batches = np.array_split(order, -(-len(order) // self._options.batch_rows))  # none is left with a single row
        total = torch.zeros((), device=self._device)
        for batch in batches:
            x = torch.from_numpy(self._rows.take(batch)).to(self._device)  # (b, d)
            y = torch.from_numpy(train.rows.y[batch]).to(self._device)
            weights = torch.from_numpy(train.weights[batch].astype(np.float32)).to(self._device)
            each = nn.functional.cross_entropy(self._module(x), y, reduction="none")  # (b,)
            loss = (each * weights).sum() / weights.sum()
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            total += loss.detach() * len(batch)
        return float(total) / len(order)

    def _loss_of(self, part: WeightedRows) -> float:
        self._module.eval()
        losses, start = 0.0, 0
        for rows, y in part.rows.pieces():
            with torch.inference_mode():
                x = torch.from_numpy(_standardised(rows, self._rows.standard)).to(self._device)
                logits = self._module(x).double().cpu().numpy()
            losses += float(fitting.log_losses(logits, y) @ part.weights[start : start + len(y)])
            start += len(y)
        return losses / float(part.weights.sum())


class _TrainingRows:
    """Standardised rows of the training part, kept if they are small enough, otherwise gathered each time.

    Attributes
    ----------
    standard : mean and deviation of each column, (d,) each.
    """

    def __init__(self, part: PartRows) -> None:
        self._part = part
        self.standard = moments(part)
        size_bytes = len(part.y) * part.features.dim * np.dtype(np.float32).itemsize
        keep = size_bytes <= fitting.CACHE_BYTES
        self._cached = _standardised(part.features.rows(part.indices), self.standard) if keep else None

    def take(self, places: Indices) -> Rows:
        """(k, d) float32."""
        if self._cached is not None:
            return self._cached[places]
        return _standardised(self._part.features.rows(self._part.indices[places]), self.standard)


def _standardised(rows: Rows, standard: tuple[Rows, Rows]) -> Rows:
    """Standardise rows in place."""
    rows -= standard[0]
    rows /= standard[1]
    return rows


def _module(options: TrainOptions, dim: int, classes: int, seed: int) -> nn.Module:
    """Make the network to train, its parameters named as in `tensor_shapes`."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if options.input_dropout:
        layers["input_dropout"] = _Dropout(options.input_dropout, seed)
    hidden, output = nn.Linear(dim, HIDDEN_UNITS), nn.Linear(HIDDEN_UNITS, classes)
    for layer in (hidden, output):
        nn.init.xavier_uniform_(layer.weight)
    norm = nn.BatchNorm1d(HIDDEN_UNITS, eps=NORM_EPSILON)
    layers |= OrderedDict(hidden=hidden, norm=norm, relu=nn.ReLU(), dropout=_Dropout(DROPOUT, seed), output=output)
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
