"""Train VirNucPro's head: our loop and its own, a pass over the same features each, side by side.

VirNucPro's loop is re-created from its description (Li-Jing-1997/VirNucPro at 0f93f27, train.py): tensors a file of
10 000 samples in a Dataset that looks for the file of each sample, a DataLoader with batches of 32, SGD with momentum,
the loss of every batch fetched. It loads with 12 worker processes (`--workers 12`), which on few cores cost more than
they save. Ours reads from a merged file that is mapped, in batches of 1 024. The limit of either on a processor is its
rate of matrix products: `matrix_products_alone` are the two large ones of a batch of 1 024, forward and backward.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.memory import resident_bytes
from benchmarks.timing import environment, parser, print_report, rounded, scratch_folder
from embedstore.classify import fitting
from embedstore.classify.fitting import PartRows
from embedstore.classify.heads import TrainOptions
from embedstore.classify.networks import WeightedRows, fit_networks
from embedstore.features import Categories, Features, Preparation, Samples, Schema, open_features, write_features
from embedstore.features.features import TEXT
from embedstore.features.schema import Block
from embedstore.identity import key_array

_FILE_ROWS = 10_000
_BATCH_ROWS = 32
_VALIDATION_ROWS = 256
_EPOCHS = 4


class FileDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Tensors of several files; each sample's file is looked for from the first."""

    def __init__(self, files: Sequence[tuple[torch.Tensor, int]]) -> None:
        self._files = files

    def __len__(self) -> int:
        return sum(len(rows) for rows, _ in self._files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        before = 0
        for rows, label in self._files:
            if before + len(rows) > index:
                return rows[index - before], torch.tensor(label)
            before += len(rows)
        raise IndexError(index)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; print and return the report."""
    options = parser("training", __doc__)
    options.add_argument("--samples", type=int, default=20_000, help="(default: %(default)s)")
    options.add_argument(
        "--dim", type=int, default=556, help="columns; tnf and aac_dpc have 556 (default: %(default)s)"
    )
    options.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    options.add_argument("--workers", type=int, default=0, help="of VirNucPro's loader (default: %(default)s)")
    given = options.parse_args(arguments)
    described = environment("embedstore", "torch", "numpy")
    with scratch_folder(given.directory, 3 * 4 * given.samples * given.dim) as folder:
        measured = _measured(folder, given.samples, given.dim, given.rounds, given.workers, given.seed)
    report = {
        "benchmark": "training",
        "environment": {**described, "threads": torch.get_num_threads()},
        "samples": given.samples,
        "dim": given.dim,
        **measured,
    }
    print_report(report, as_json=given.json)
    return report


def _measured(folder: Path, count: int, dim: int, rounds: int, workers: int, seed: int) -> dict[str, Any]:
    features = _features(folder, count, dim, seed)
    theirs = _their_files(features)
    runs = {
        "virnucpro": lambda: _their_pass(theirs, dim, workers, seed),
        "ours": lambda: _our_pass(features, seed),
        "ours_beyond_the_cache": lambda: _our_pass(features, seed, cache_bytes=0),
        "matrix_products_alone": lambda: _products_alone(dim) * count,
    }
    microseconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            microseconds[name].append(run() / count * 1e6)
    medians = {name: statistics.median(values) for name, values in microseconds.items()}
    return {
        "virnucpro_to_ours": rounded(medians["virnucpro"] / medians["ours"]),
        "virnucpro_to_ours_beyond_the_cache": rounded(medians["virnucpro"] / medians["ours_beyond_the_cache"]),
        "microseconds_a_sample": {name: rounded(median) for name, median in medians.items()},
        "workers_of_virnucpro": workers,
        "peak_mib": rounded(resident_bytes().peak / 2**20),
    }


def _their_pass(dataset: FileDataset, dim: int, workers: int, seed: int) -> float:
    """Seconds of one epoch as VirNucPro trains."""
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Linear(dim, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, 2)
    )  # fmt: skip
    optimizer = torch.optim.SGD(module.parameters(), lr=2e-4, momentum=0.9)
    loss_of = nn.CrossEntropyLoss()
    loader = DataLoader(dataset, batch_size=_BATCH_ROWS, shuffle=True, num_workers=workers)
    module.train()
    total = 0.0
    started = time.perf_counter()
    for rows, labels in loader:
        optimizer.zero_grad()
        loss = loss_of(module(rows), labels)
        loss.backward()
        optimizer.step()
        total += loss.item()
    return time.perf_counter() - started


def _our_pass(features: Features, seed: int, cache_bytes: int = fitting.CACHE_BYTES) -> float:
    """Seconds that each further epoch takes us: what comes once, whatever the number of epochs, cancels out."""
    y, count = features.y, len(features)
    train = WeightedRows(PartRows(features, np.arange(count), y), np.ones(count))
    validation = train.take(np.arange(_VALIDATION_ROWS))
    options = TrainOptions(head="mlp", seed=seed, patience_epochs=_EPOCHS, learning_rate=1e-5)
    seconds = []
    before, fitting.CACHE_BYTES = fitting.CACHE_BYTES, cache_bytes
    try:
        for epochs in (1, _EPOCHS):
            started = time.perf_counter()
            fit_networks(train, validation, 2, options, [seed], epochs)
            seconds.append(time.perf_counter() - started)
    finally:
        fitting.CACHE_BYTES = before
    return (seconds[1] - seconds[0]) / (_EPOCHS - 1)


def _products_alone(dim: int) -> float:
    """Seconds a sample that the products of the hidden layer take, forward and for the gradient of its weights."""
    rows, weights, gradients = torch.randn(1024, dim), torch.randn(512, dim), torch.randn(1024, 512)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        rows @ weights.T
        gradients.T @ rows
        seconds.append(time.perf_counter() - started)
    return min(seconds) / len(rows)


def _features(folder: Path, count: int, dim: int, seed: int) -> Features:
    """Write and open a merged file of random rows of two classes."""
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((count, dim), np.float32)
    names = np.array([f"sample{number}" for number in range(count)], dtype=TEXT)
    ones = np.ones(count, np.int64)
    samples = Samples(
        ids=names,
        sources=Categories.of(names),
        groups=Categories.of(names),
        labels=Categories.of(["virus" if number % 2 else "host" for number in range(count)]),
        start=ones,
        end=ones,
        strand=ones.astype(np.int8),
        frame=ones.astype(np.int8),
        keys={"dna": key_array(number.to_bytes(24) for number in range(count))},
    )
    schema = Schema((Block("random", "0" * 64, "dna", 0, dim),), Preparation(), ("host", "virus"))
    write_features(Features(samples, schema, _Rows(rows), "random"), folder / "features.npz")
    return open_features(folder / "features.npz")


class _Rows:
    """Rows in memory."""

    def __init__(self, rows: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        self._rows = rows

    def gather(self, indices: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> None:
        rows[:] = self._rows[indices]


def _their_files(features: Features) -> FileDataset:
    rows = torch.from_numpy(features.rows())
    pieces = [(place, rows[features.y == place]) for place in (0, 1)]
    return FileDataset([(part, label) for label, piece in pieces for part in piece.split(_FILE_ROWS)])


if __name__ == "__main__":
    main()
