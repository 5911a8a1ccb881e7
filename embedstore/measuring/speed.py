"""How fast a model is here: `bench` measures it, `tune` finds and keeps the fastest setting.

Both measure with a `Workload`: sequences of files, or random ones of realistic lengths. `bench` also says which part
of the machine's speed the model reaches, and what a fill adds to it. It takes turns: the model alone, matrix products
in as many threads, and a fill of the same sequences from a FASTA file into a new store, both in a temporary folder.
Shares and ratios compare measurements that are adjacent in time.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from embedstore.errors import InputError
from embedstore.filling import canaries
from embedstore.filling.filler import fill, open_intake
from embedstore.filling.intake import DistinctKeys
from embedstore.filling.target import SpaceTarget
from embedstore.identity import Molecule
from embedstore.models.embedder import Embedded, Embedder, Model, ModelShape
from embedstore.models.machine import Place, Setting, keep_rate, keep_setting, kept_file, processor
from embedstore.models.tuning import Duration, Measured, choose, embed_timed, measure, rough_rate
from embedstore.records import Record, Rejection
from embedstore.sequences import read
from embedstore.store.store import SpaceStore

if TYPE_CHECKING:
    from embedstore.models.packed import PackedEmbedder

_SAMPLE_RECORDS = 16_384
_SAMPLE_RESIDUES = 32 << 20
_LONGEST_RESIDUES = 20_000  # a chromosome would take hours; what windows cost shows well before
_MOST_RESIDUES = 8 << 20

_MEDIAN_RESIDUES = 280
_SPREAD = 0.65
_RESIDUES = (30, 1022)
_CHUNK_BASES = 500


class Workload(Protocol):
    """Where sequences come from."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    def take(self, residues: float) -> list[bytes]:
        """Distinct canonical sequences of about so many residues together; at least one, and not more than fit."""
        ...


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """Random sequences: proteins as long as those of UniProt, log-normal with mean 350; DNA in chunks of 500 bases."""

    molecule: Molecule
    seed: int = 0

    @property
    def name(self) -> str:
        return "proteins of realistic lengths" if self.molecule == "protein" else f"chunks of {_CHUNK_BASES} bases"

    def take(self, residues: float) -> list[bytes]:
        draw = np.random.default_rng(self.seed)
        alphabet = np.frombuffer(b"ACGT" if self.molecule == "dna" else b"ACDEFGHIKLMNPQRSTVWY", np.uint8)
        sequences: list[bytes] = []
        wanted = min(residues, _MOST_RESIDUES)
        while not sequences or wanted > 0:
            length = _CHUNK_BASES
            if self.molecule == "protein":
                length = int(np.clip(draw.lognormal(np.log(_MEDIAN_RESIDUES), _SPREAD), *_RESIDUES))
            sequences.append(draw.choice(alphabet, length).tobytes())
            wanted -= length
        return sequences


@dataclass(frozen=True, slots=True)
class Sample:
    """Some of the sequences of files, and the size of all of them.

    Attributes
    ----------
    sequences : distinct, canonical, in random order, very long ones cut.
    records : accepted ones.
    unique : distinct sequences among them.
    residues : of the distinct sequences; equal ones are taken to be as frequent at every length.
    """

    sequences: tuple[bytes, ...]
    records: int
    unique: int
    residues: int
    name: str = "the input"

    def take(self, residues: float) -> list[bytes]:
        draw = random.Random(0)  # noqa: S311
        taken: dict[bytes, None] = {}
        wanted = min(residues, _MOST_RESIDUES)
        for number, sequence in enumerate(cycle(self.sequences)):
            # After the last, others of the same lengths.
            again = number >= len(self.sequences)
            taken[bytes(draw.sample(sequence, len(sequence))) if again else sequence] = None
            wanted -= len(sequence)
            if wanted <= 0:
                break
        return list(taken)


def sample_records(records: Iterable[Record | Rejection], model: Model, *, seed: int = 0) -> Sample:
    """Read all records, and keep a random sample that fits into memory.

    Parameters
    ----------
    records : as they are read.
    model : that would embed them.
    seed : the same one draws the same sample.

    Raises
    ------
    InputError : no record is a sequence of the model's molecule.
    MoleculeError : the input is of the other molecule than the model.
    """
    reservoir = _Reservoir(random.Random(seed))  # noqa: S311
    target = SpaceTarget(None, model.recipe, model.name, None, lambda: model)
    count = residues = 0
    with DistinctKeys() as distinct:
        for window in open_intake(records, target, any_molecule=False):
            distinct.add(window.key_array())
            for sequence in window.sequences:
                reservoir.offer(sequence[:_LONGEST_RESIDUES])
                residues += len(sequence)
            count += len(window.sequences)
        unique = distinct.count()
    if count == 0:
        raise InputError("Cannot measure with this input: expected at least one sequence, found none.")
    return Sample(reservoir.shuffled(), count, unique, round(residues * unique / count))


class _Reservoir:
    """Keeps each of the sequences it is offered with the same chance, and not too many residues."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._kept: list[bytes] = []
        self._capacity = _SAMPLE_RECORDS
        self._residues = 0
        self._offered = 0

    def offer(self, sequence: bytes) -> None:
        self._offered += 1
        if len(self._kept) < self._capacity and self._offered == len(self._kept) + 1:
            self._kept.append(sequence)
            self._residues += len(sequence)
        else:
            place = self._draw.randrange(self._offered)
            if place < len(self._kept):
                self._residues += len(sequence) - len(self._kept[place])
                self._kept[place] = sequence
        while self._residues > _SAMPLE_RESIDUES and len(self._kept) > 1:
            self._halve()

    def shuffled(self) -> tuple[bytes, ...]:
        distinct = list(dict.fromkeys(self._kept))
        self._draw.shuffle(distinct)
        return tuple(distinct)

    def _halve(self) -> None:
        self._kept = self._draw.sample(self._kept, len(self._kept) // 2)
        self._capacity = len(self._kept)
        self._residues = sum(map(len, self._kept))


_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What was measured; rates and ratios are medians of rounds.

    Attributes
    ----------
    residues_per_second : of the model alone, with all workers busy.
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
    residues: int
    residues_per_second: float
    matmul_gflops: float | None
    share_of_matmul: float | None
    fill_to_model: float
    input: Sample | None = None

    @property
    def projected_seconds(self) -> float | None:
        return None if self.input is None else self.input.residues / self.residues_per_second * self.fill_to_model

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        document: dict[str, Any] = {
            "model": self.model,
            "device": self.place.device,
            "dtype": self.place.dtype,
            "pack_tokens": self.setting.pack_tokens,
            "workers": self.setting.workers,
            "threads": self.setting.threads,
            "workload": {"lengths": self.workload, "sequences": self.sequences, "residues": self.residues},
            "residues_per_second": round(self.residues_per_second, 1),
            "matmul_gflops": _rounded(self.matmul_gflops),
            "share_of_matmul": _rounded(self.share_of_matmul),
            "fill_to_model": _rounded(self.fill_to_model),
        }
        if self.input is not None:
            document["input"] = {
                "records": self.input.records,
                "unique": self.input.unique,
                "residues": self.input.residues,
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
    model : any, a language model or a built-in one.
    records : whose lengths count, and whose fill is projected; None: realistic lengths.
    device : "cpu", "cuda", "mps"; None: the best that is there.
    seconds : about how long each of five rounds of the model takes.

    Raises
    ------
    InputError : there is no such device, or no sequence.
    ModelError : the model is not available or cannot be loaded.
    """
    sample = None
    if records is not None:
        sample = sample_records(records, model)
    workload: Workload = sample or BuiltIn(model.recipe.molecule)
    embedder = model.load(device)
    packed = None if model.shape is None or model.shape.layers is None else cast("PackedEmbedder", embedder)
    sequences = workload.take(rough_rate(embedder, workload.take) * seconds)
    residues = sum(map(len, sequences))
    rounds = _measured(model, embedder, packed, sequences)
    model_s = statistics.median(each.model.steady_seconds for each in rounds)
    place = Place(processor(), "float32") if packed is None else place_of(packed)
    keep_rate(model.recipe, place, residues / model_s)
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
        residues=residues,
        residues_per_second=residues / model_s,
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
    from embedstore.models.devices import matrix_product_rate

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
        self.recipe, self.pack_residues, self.workers = embedder.recipe, embedder.pack_residues, embedder.workers
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


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was measured.

    Attributes
    ----------
    workload : what it was measured with.
    curve : one value a setting, in the order in which they were measured.
    chosen : one of them.
    kept_in : the file, None if it could not be written.
    """

    model: str
    place: Place
    workload: str
    curve: tuple[Measured, ...]
    chosen: Measured
    kept_in: str | None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "model": self.model,
            "device": self.place.device,
            "dtype": self.place.dtype,
            "workload": self.workload,
            "curve": [
                {
                    "pack_tokens": measured.setting.pack_tokens,
                    "workers": measured.setting.workers,
                    "threads": measured.setting.threads,
                    "residues_per_second": round(measured.residues_per_second, 1),
                    "fits": measured.fits,
                    "default": measured.default,
                    "chosen": measured is self.chosen,
                }
                for measured in self.curve
            ],
            "kept_in": self.kept_in,
        }


def tune(
    model: Model,
    records: Iterable[Record | Rejection] | None = None,
    *,
    device: str | None = None,
    seconds: float = 2.0,
    on_setting: Callable[[Setting], None] = lambda setting: None,
) -> Tuning:
    """Measure settings of a language model, and keep the best one for whenever it is loaded on this machine.

    Parameters
    ----------
    model : a language model.
    records : whose lengths count; None: realistic ones.
    device : "cpu", "cuda", "mps"; None: the best that is there.
    seconds : about how long each setting is measured in each of three rounds.
    on_setting : told what is measured next.

    Raises
    ------
    InputError : the model is built in: it has no settings; or there is no such device, or no sequence.
    ModelError : it is not available or cannot be loaded.
    """
    shape = language_model_shape(model)
    workload: Workload = BuiltIn(model.recipe.molecule)
    if records is not None:
        workload = sample_records(records, model)
    embedder = cast("PackedEmbedder", model.load(device))
    curve = measure(embedder, workload.take, seconds=seconds, on_setting=on_setting)
    chosen = choose(curve)
    place = place_of(embedder)
    kept = keep_setting(shape, place, chosen.setting)
    return Tuning(model.name, place, workload.name, tuple(curve), chosen, str(kept_file()) if kept else None)


def language_model_shape(model: Model) -> ModelShape:
    """Return the shape of a model with weights.

    Raises
    ------
    InputError : it has none.
    """
    if model.shape is None or model.shape.layers is None:
        raise InputError(f"Cannot tune {model.name}: it is built in and has no settings. Give a language model.")
    return model.shape


def place_of(embedder: PackedEmbedder) -> Place:
    """Return where a language model runs."""
    from embedstore.models.devices import machine_place

    return machine_place(embedder.encoder.device, embedder.encoder.dtype)
