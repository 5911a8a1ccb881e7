"""`bench`: how fast a model is here, what of the machine it uses, and what a fill adds to it.

In turns: the model alone, matrix products in as many threads, and a fill of the same sequences from a FASTA file into a
store made for it, both in a temporary folder. Shares and ratios are of neighbours in time.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from embedstore.filling import canaries
from embedstore.filling.filler import fill
from embedstore.filling.target import SpaceTarget
from embedstore.measuring.tuning import place_of
from embedstore.measuring.workload import BuiltIn, Sample, Workload, sample_records
from embedstore.models.embedder import Embedded, Embedder, Model
from embedstore.models.machine import Place, Setting, keep_rate, processor
from embedstore.models.tuning import Duration, embed_timed, rough_rate
from embedstore.sequences import read
from embedstore.store.store import SpaceStore
from embedstore.types import Record, Rejection

if TYPE_CHECKING:
    from embedstore.models.packed import PackedEmbedder

_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What was measured; rates and ratios are medians of rounds.

    Attributes
    ----------
    letters_per_second : of the model alone, with all workers busy.
    matmul_gflops : matrix products in the same arithmetic and threads; None for models without weights.
    share_of_matmul : the model's own matrix products, by the time it took, as a share of that.
    fill_to_model : time of a fill by that of the model alone.
    projected_seconds : for a fill of the whole input, all of it missing; None without an input.
    """

    model: str
    place: Place
    setting: Setting
    workload: str
    sequences: int
    letters: int
    letters_per_second: float
    matmul_gflops: float | None
    share_of_matmul: float | None
    fill_to_model: float
    input: Sample | None = None

    @property
    def projected_seconds(self) -> float | None:
        return None if self.input is None else self.input.letters / self.letters_per_second * self.fill_to_model

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        document: dict[str, Any] = {
            "model": self.model,
            "device": self.place.device,
            "dtype": self.place.dtype,
            "pack_tokens": self.setting.pack_tokens,
            "workers": self.setting.workers,
            "threads": self.setting.threads,
            "workload": {"lengths": self.workload, "sequences": self.sequences, "letters": self.letters},
            "letters_per_second": round(self.letters_per_second, 1),
            "matmul_gflops": _rounded(self.matmul_gflops),
            "share_of_matmul": _rounded(self.share_of_matmul),
            "fill_to_model": _rounded(self.fill_to_model),
        }
        if self.input is not None:
            document["input"] = {
                "records": self.input.records,
                "unique": self.input.unique,
                "letters": self.input.letters,
                "projected_seconds": _rounded(self.projected_seconds),
            }
        return document


@dataclass(frozen=True, slots=True)
class _Round:
    model: Duration
    fill_s: float
    matmul_rate: float | None


def bench(
    model: Model,
    records: Iterable[Record | Rejection] | None = None,
    *,
    device: str | None = None,
    seconds: float = 3.0,
) -> Benchmark:
    """Measure a model on this machine, and keep its rate for the estimates of dry runs.

    Parameters
    ----------
    records : whose lengths count, and whose fill is projected; None: realistic lengths.
    seconds : about how long each of five rounds of the model takes.

    Raises
    ------
    InputError : there is no such device, or no sequence.
    ModelError : the model cannot be had or loaded.
    """
    sample = None
    if records is not None:
        sample = sample_records(records, model)
    workload: Workload = sample or BuiltIn(model.recipe.molecule)
    embedder = model.load(device)
    packed = None if model.shape is None or model.shape.layers is None else cast("PackedEmbedder", embedder)
    sequences = workload.take(rough_rate(embedder, workload.take) * seconds)
    letters = sum(map(len, sequences))
    rounds = _measured(model, embedder, packed, sequences)
    model_s = statistics.median(each.model.steady_seconds for each in rounds)
    place = Place(processor(), "float32") if packed is None else place_of(packed)
    keep_rate(model.recipe, place, letters / model_s)
    gflops = share = None
    if packed is not None:
        operations = packed.operations(sequences)
        rates = [each.matmul_rate for each in rounds if each.matmul_rate is not None]
        gflops = statistics.median(rates) / 1e9
        share = statistics.median(
            operations / each.model.steady_seconds / each.matmul_rate for each in rounds if each.matmul_rate
        )
    return Benchmark(
        model=model.name,
        place=place,
        setting=Setting(None, embedder.workers, 1) if packed is None else packed.setting,
        workload=workload.name,
        sequences=len(sequences),
        letters=letters,
        letters_per_second=letters / model_s,
        matmul_gflops=gflops,
        share_of_matmul=share,
        fill_to_model=statistics.median(each.fill_s / each.model.steady_seconds for each in rounds),
        input=sample,
    )


def _measured(
    model: Model, embedder: Embedder, packed: PackedEmbedder | None, sequences: Sequence[bytes]
) -> list[_Round]:
    rounds = []
    with tempfile.TemporaryDirectory(prefix="embedstore-bench-") as folder:
        fasta = Path(folder) / "sequences.fasta"
        fasta.write_bytes(b"".join(b">%d\n%s\n" % numbered for numbered in enumerate(sequences)))
        for number in range(_ROUNDS):
            alone = embed_timed(embedder, sequences)
            rate = None if packed is None else _matrix_products(packed, alone.seconds)
            rounds.append(_Round(alone, _fill_seconds(model, embedder, fasta, Path(folder, str(number))), rate))
    return rounds


def _matrix_products(embedder: PackedEmbedder, seconds: float) -> float:
    from embedstore.models.matrix_products import matrix_product_rate

    encoder = embedder.encoder
    return matrix_product_rate(
        encoder.device, encoder.dtype, workers=embedder.workers, threads=embedder.threads, seconds=seconds
    )


def _fill_seconds(model: Model, embedder: Embedder, fasta: Path, folder: Path) -> float:
    """Fill a new store.

    Left out is what a large fill does not notice: loading the model, its canaries, and that at the end some workers
    have nothing left.
    """
    watched = _Watched(embedder)
    store = SpaceStore.open(folder, create=True)
    target = SpaceTarget(store, model.recipe, "bench", None, lambda: Model(model.name, model.recipe, lambda _: watched))
    started = time.perf_counter()
    fill(read([fasta]), target)
    return time.perf_counter() - started - watched.idle_seconds_at_end()


class _Watched:
    """The embedder, with the canaries computed beforehand, and the times of its packs."""

    def __init__(self, embedder: Embedder) -> None:
        self.recipe, self.pack_letters, self.workers = embedder.recipe, embedder.pack_letters, embedder.workers
        self._embedder = embedder
        kept = canaries.compute(embedder)
        self._canaries = [sequence.encode("ascii") for sequence in kept.sequences]
        self._embedded = Embedded(kept.vectors)
        self._packs: list[tuple[float, float]] = []

    def embed(self, sequences: Sequence[bytes]) -> Embedded:
        if list(sequences) == self._canaries:
            return self._embedded
        started = time.perf_counter()
        embedded = self._embedder.embed(sequences)
        self._packs.append((started, time.perf_counter()))
        return embedded

    def idle_seconds_at_end(self) -> float:
        """Mean over the workers of how long they had nothing to do after the last pack was begun."""
        last_begun = max(start for start, _ in self._packs)
        last_done = max(end for _, end in self._packs)
        busy = sum(max(0.0, end - last_begun) for _, end in self._packs)
        return last_done - last_begun - busy / min(self.workers, len(self._packs))


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
