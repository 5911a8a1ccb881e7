"""Whether language models compute right on a device of this machine: run once on a new machine, and after an upgrade.

Two tiny models with random weights, one of each architecture, are written into a temporary folder and loaded as any
checkpoint is; a model that is named is examined beside them. Of each of them, in this order: `half` on the device
against float32 on the processor; a sequence alone, in a pack, and in two threads at once; memory that runs out; values
that overflow; which kernels ran; how fast packs of several sizes are. What is provoked is put back.

Everything runs on a processor too, where memory and overflow are pretended.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, processors
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from embedstore.doctor.findings import Finding
from embedstore.errors import InputError
from embedstore.identity import Molecule
from embedstore.models.attention import has_flash
from embedstore.models.devices import give_back_memory, matrix_product_rate, pick_device
from embedstore.models.dnabert import CLS, SEP, UNK, DnabertShape
from embedstore.models.embedder import Model
from embedstore.models.esm import EsmShape
from embedstore.models.machine import Setting, processor
from embedstore.models.packed import Encoder, PackedEmbedder
from embedstore.models.resolution import ModelOptions, resolve
from embedstore.models.tuning import embed_timed

_SEED = 20_261_124
_LENGTHS = (1, 2, 7, 20, 33, 60, 61, 61, 90, 120, 200, 340)
_MEMORY_LEFT_BYTES = 128 << 20
_TOKENS_TOO_MANY = 1 << 18
_CPU_PACKS, _GPU_PACKS = (512, 2048), (8192, 32_768, 131_072)
_SPECIAL_TOKENS = 2
_SPEED_LENGTH = {"protein": 330, "dna": 500}
_FACTOR = 1e6  # makes any state overflow in float16
_SHOWN_KERNELS = 6


@dataclass(frozen=True, slots=True)
class Selftest:
    """All that was found.

    Attributes
    ----------
    device : that was examined, with its name.
    seconds : how long it took.
    """

    device: str
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def healthy(self) -> bool:
        """Whether nothing fails."""
        return all(finding.state != "fail" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        found = [asdict(finding) for finding in self.findings]
        return {"device": self.device, "healthy": self.healthy, "findings": found, "seconds": round(self.seconds, 3)}


def selftest(device: str | None = None, model: str | None = None, weights: Path | None = None) -> Selftest:
    """Examine a device.

    Parameters
    ----------
    device : "cpu", "cuda", "cuda:N" or "mps"; None: the best there is.
    model : name or path of a model that is examined beside the tiny ones.
    weights : its weights, if not those in the local cache.

    Raises
    ------
    InputError : there is no such device, it does not compute, or the model has no weights.
    ModelError : the model cannot be loaded.
    """
    started = time.perf_counter()
    place = pick_device(device)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else processor()
    with tempfile.TemporaryDirectory(prefix="embedstore-selftest-") as folder:
        checkpoints = tiny_checkpoints(Path(folder))
        subjects = [] if model is None else [_Subject(model, ModelOptions(weights=weights), place)]
        subjects = [*(_Subject(str(checkpoint), ModelOptions(), place) for checkpoint in checkpoints), *subjects]
        findings = [*_device_findings(place, name)]
        for subject in subjects:
            findings += subject.findings()
    return Selftest(f"{place} ({name})", tuple(findings), time.perf_counter() - started)


def _device_findings(place: torch.device, name: str) -> Iterator[Finding]:
    data: dict[str, Any] = {"torch": torch.__version__, "device": str(place), "name": name}
    found = f"{name}, torch {torch.__version__}"
    if place.type == "cuda":
        major, minor = torch.cuda.get_device_capability(place)
        free, total = torch.cuda.mem_get_info(place)
        data |= {"capability": [major, minor], "cuda": torch.version.cuda, "memory_bytes": total, "free_bytes": free}
        found += f", CUDA {torch.version.cuda}, compute capability {major}.{minor}"
        found += f", {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    yield Finding("device", "device", "ok", found, data=data)
    flash = has_flash(place, torch.float16, 64)
    groups = "equal length" if place.type == "cpu" else "similar length, padded"
    found = "one flash call for a whole pack of proteins in half" if flash else f"a call for neighbours of {groups}"
    yield Finding("device", "attention", "ok", found, data={"flash": flash})


class _Subject:
    """One model on the device."""

    def __init__(self, name: str, options: ModelOptions, place: torch.device) -> None:
        self._place = place
        self._model = resolve(name, options)
        if self._model.shape is None or self._model.shape.layers is None:
            raise InputError(f"Cannot test {name}: it is built in and has no weights. Give a language model.")
        self._on_device = _loaded(self._model, str(place))
        self._exact = _loaded(resolve(name, ModelOptions(precision="full", weights=options.weights)), "cpu")
        self._tolerance = self._model.recipe.tolerance
        self._molecule: Molecule = self._model.recipe.molecule
        self._sequences = random_sequences(self._molecule, _LENGTHS)

    def findings(self) -> Iterator[Finding]:
        yield self._numbers()
        yield self._packs()
        yield self._memory()
        yield self._overflow()
        yield self._kernels()
        yield self._speed()

    def _finding(self, check: str, difference: float, found: str, advice: str, **data: Any) -> Finding:
        fine = difference <= self._tolerance
        text = f"{found}: differ by {difference:.1e} of the largest value, at most {self._tolerance:g} is allowed"
        data |= {"difference": difference, "tolerance": self._tolerance}
        return Finding(self._model.name, check, "ok" if fine else "fail", text, "" if fine else advice, data)

    def _numbers(self) -> Finding:
        difference = _difference(_vectors(self._exact, self._sequences), _vectors(self._on_device, self._sequences))
        arithmetic = str(self._on_device.encoder.dtype).removeprefix("torch.")
        found = f"{arithmetic} here against float32 on the processor"
        advice = "Do not fill stores on this device; say what it is and which torch, in an issue."
        return self._finding("numbers", difference, found, advice, arithmetic=arithmetic)

    def _packs(self) -> Finding:
        together = _vectors(self._on_device, self._sequences)
        alone = np.concatenate([_vectors(self._on_device, [sequence]) for sequence in self._sequences])
        with ThreadPoolExecutor(2) as executor:
            halves = executor.map(lambda part: _vectors(self._on_device, self._sequences[part::2]), range(2))
            in_threads = np.empty_like(together)
            for part, vectors in enumerate(halves):
                in_threads[part::2] = vectors
        difference = max(_difference(together, alone), _difference(together, in_threads))
        advice = "A vector depends on its neighbours here: do not fill stores on this device."
        return self._finding("packs", difference, "a sequence in a pack, alone, and in two threads", advice)

    def _memory(self) -> Finding:
        expected = _vectors(self._on_device, self._sequences)
        count = -(-_TOKENS_TOO_MANY // sum(_LENGTHS)) if self._place.type == "cuda" else 1
        with self._little_memory() as embedder:
            embedded = embedder.embed(self._sequences * count)
        difference = _difference(np.tile(expected, (count, 1)), embedded.vectors) if not embedded.failures else np.inf
        found = f"with too little memory, in packs of {embedder.budget.tokens} tokens in the end"
        advice = "Give packs of a fixed size that fits: embedstore tune."
        return self._finding("memory", difference, found, advice, pack_tokens=embedder.budget.tokens)

    @contextmanager
    def _little_memory(self) -> Iterator[PackedEmbedder]:
        """An embedder whose packs do not fit at first."""
        if self._place.type != "cuda":
            yield self._on_device.with_encoder(_TooSmall(self._on_device.encoder, max(_LENGTHS) + _SPECIAL_TOKENS))
            return
        give_back_memory(self._place)
        total = torch.cuda.mem_get_info(self._place)[1]
        left = torch.cuda.memory_reserved(self._place) + _MEMORY_LEFT_BYTES
        torch.cuda.set_per_process_memory_fraction(min(1.0, left / total), self._place)
        try:
            yield self._on_device.with_setting(Setting(pack_tokens=_TOKENS_TOO_MANY, workers=1))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self._place)

    def _overflow(self) -> Finding:
        embedder, encoder = self._on_device, self._on_device.encoder
        full = _TooLarge(encoder, torch.float32)
        overflowing = embedder.with_encoder(_TooLarge(encoder, torch.float16), lambda: full)
        exact = embedder.with_encoder(full)
        overflowing.recipe = exact.recipe = replace(embedder.recipe, dtype="float32")
        difference = _difference(_vectors(exact, self._sequences), _vectors(overflowing, self._sequences))
        advice = "Use --precision full on this device."
        return self._finding("overflow", difference, "what overflows, computed once more in float32", advice)

    def _kernels(self) -> Finding:
        on_gpu = self._place.type == "cuda"
        embedder = self._on_device.with_setting(Setting(workers=1))
        spent = _on_gpu(embedder, self._sequences) if on_gpu else _on_cpu(embedder, self._sequences)
        kernels = sorted((name for name in spent if spent[name] > 0), key=lambda name: -spent[name])[:_SHOWN_KERNELS]
        wanted = on_gpu and self._molecule == "protein" and has_flash(self._place, self._on_device.encoder.dtype, 64)
        missing = wanted and not any("flash" in name for name in spent)
        found, data = ", ".join(kernels), {"kernels": kernels}
        if missing:
            advice = "Flash attention was to run and did not: it is slower than it could be."
            return Finding(self._model.name, "kernels", "warn", found, advice, data)
        return Finding(self._model.name, "kernels", "ok", found, data=data)

    def _speed(self) -> Finding:
        rates: dict[int, float] = {}
        share = 0.0
        for tokens in _GPU_PACKS if self._place.type == "cuda" else _CPU_PACKS:
            embedder = self._on_device.with_setting(Setting(pack_tokens=tokens))
            length = _SPEED_LENGTH[self._molecule]
            count = max(1, 2 * embedder.workers * embedder.pack_residues // length)
            sequences = random_sequences(self._molecule, [length] * count)
            embed_timed(embedder, sequences[: embedder.workers])
            seconds = embed_timed(embedder, sequences).steady_seconds
            rates[tokens] = length * count / seconds
            dtype = embedder.encoder.dtype
            limit = matrix_product_rate(
                self._place, dtype, workers=embedder.workers, threads=embedder.threads, seconds=min(1.0, seconds)
            )
            share = max(share, embedder.operations(sequences) / seconds / limit)
        curve = ", ".join(f"{rate:,.0f} in packs of {tokens} tokens" for tokens, rate in rates.items())
        found = f"residues/s: {curve}; {share:.0%} of the device's matrix products"
        return Finding(self._model.name, "speed", "ok", found, data={"residues_per_s": rates, "share_of_matmul": share})


def _on_gpu(embedder: PackedEmbedder, sequences: Sequence[bytes]) -> dict[str, float]:
    """Time of each kernel that ran."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        embedder.embed(sequences)
    return {event.key: float(event.self_device_time_total) for event in profile.key_averages()}


def _on_cpu(embedder: PackedEmbedder, sequences: Sequence[bytes]) -> dict[str, float]:
    """Time of each operator that ran; the profiler, for these, writes to standard error."""
    watch = _Stopwatch()
    with watch:
        embedder.embed(sequences)
    return dict(watch.seconds)


class _Stopwatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Time of each operator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seconds: dict[str, float] = defaultdict(float)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        started = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        self.seconds[func.name().removeprefix("aten::")] += time.perf_counter() - started
        return result


def _loaded(model: Model, device: str) -> PackedEmbedder:
    return cast(PackedEmbedder, model.load(device))


def _vectors(embedder: PackedEmbedder, sequences: Sequence[bytes]) -> NDArray[np.float32]:
    embedded = embedder.embed(sequences)
    vectors = embedded.vectors.copy()
    vectors[list(embedded.failures)] = np.nan
    return vectors


def _difference(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Largest difference relative to the largest value of the vector; infinite where there is no number."""
    scale = np.maximum(np.abs(expected).max(axis=1), np.finfo(np.float32).tiny)
    difference = float((np.abs(expected - found).max(axis=1) / scale).max())
    return difference if np.isfinite(difference) else float("inf")


def random_sequences(molecule: Molecule, lengths: Sequence[int]) -> list[bytes]:
    """Make canonical sequences of these lengths, the same each time."""
    residues = list(b"ACDEFGHIKLMNPQRSTVWYX" if molecule == "protein" else b"ACGTN")
    draw = np.random.default_rng(_SEED)
    return [draw.choice(residues, length).astype(np.uint8).tobytes() for length in lengths]


def tiny_checkpoints(folder: Path) -> list[Path]:
    """Write a tiny ESM-2 and a tiny DNABERT, with random weights, in the layout of the published ones."""
    common = {"num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256}
    esm = {"model_type": "esm", "vocab_size": 33, "position_embedding_type": "rotary", "token_dropout": True}
    dnabert = {"model_type": "bert", "vocab_size": 9, "type_vocab_size": 2, "hidden_act": "gelu"}
    proteins, dna = folder / "tiny_esm2", folder / "tiny_dnabert"
    esm_shape = EsmShape(64, 3, 4, 256, 33, 1e-5, True)
    _write(proteins, common | esm | {"layer_norm_eps": 1e-5}, esm_shape.tensors())
    _write(dna, common | dnabert | {"layer_norm_eps": 1e-12}, DnabertShape(64, 3, 4, 256, 9, 2, 1e-12).tensors())
    _tokenizer().save(str(dna / "tokenizer.json"))
    return [proteins, dna]


def _write(folder: Path, configuration: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    generator = torch.Generator().manual_seed(_SEED)
    tensors = {}
    for name, sizes in shapes.items():
        if name.endswith("inv_freq"):
            tensors[name] = 10_000.0 ** -(torch.arange(sizes[0]) / sizes[0])
        elif "norm" in name.lower() and name.endswith("weight"):
            tensors[name] = torch.ones(sizes)
        else:
            tensors[name] = torch.randn(sizes, generator=generator) * sizes[-1] ** -0.5
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(configuration))
    save_file(tensors, folder / "model.safetensors")


def _tokenizer() -> Tokenizer:
    vocabulary = {token: number for number, token in enumerate((UNK, CLS, SEP, "[PAD]", "[MASK]", *"ACGT"))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNK))
    tokenizer.add_special_tokens([UNK, CLS, SEP, "[PAD]", "[MASK]"])
    special = [(token, vocabulary[token]) for token in (CLS, SEP)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{CLS} $A {SEP}", special_tokens=special)
    return tokenizer


class _Wrapped:
    """An encoder that does something to the states of another one."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.device, self.dtype = encoder.device, encoder.dtype

    def operations(self, lengths: Sequence[int]) -> int:
        return self._encoder.operations(lengths)


class _TooSmall(_Wrapped):
    """It holds so many tokens at once."""

    def __init__(self, encoder: Encoder, most_tokens: int) -> None:
        super().__init__(encoder)
        self._most_tokens = most_tokens

    def hidden_states(self, token_ids: Tensor, lengths: Sequence[int]) -> Tensor:
        if len(token_ids) > self._most_tokens:
            raise torch.OutOfMemoryError(f"out of memory: {len(token_ids)} tokens, pretended by the selftest")
        return self._encoder.hidden_states(token_ids, lengths)


class _TooLarge(_Wrapped):
    """Its states are too large for float16."""

    def __init__(self, encoder: Encoder, dtype: torch.dtype) -> None:
        super().__init__(encoder)
        self._states = dtype

    def hidden_states(self, token_ids: Tensor, lengths: Sequence[int]) -> Tensor:
        return (self._encoder.hidden_states(token_ids, lengths).float() * _FACTOR).to(self._states)
