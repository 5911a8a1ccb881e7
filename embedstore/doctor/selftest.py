"""Whether language models compute right on a device of this machine: run once on a new machine, and after an upgrade.

Two tiny models with random weights, one of each architecture, are written into a temporary folder and loaded as any
checkpoint is; a model that is named is examined beside them. Of each of them, in this order: `half` on the device
against float32 on the processor; a sequence alone, in a full pack, and in two threads at once; the canaries of a space
that a processor has made; which kernels ran; how fast packs of several sizes are; memory that runs out; values that
overflow. What is provoked is put back.

Everything runs on a processor too, where memory and overflow are pretended.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from embedstore.doctor.findings import Finding
from embedstore.doctor.installation import installed
from embedstore.doctor.tiny_models import random_sequences, tiny_checkpoints
from embedstore.errors import InputError
from embedstore.filling import canaries
from embedstore.identity import Molecule
from embedstore.models.attention import has_flash
from embedstore.models.devices import give_back_memory, machine_place, matrix_product_rate, pick_device
from embedstore.models.embedder import Model
from embedstore.models.machine import Setting, keep_rate, kept_file, processor
from embedstore.models.packed import Encoder, PackedEmbedder
from embedstore.models.pooling import See
from embedstore.models.resolution import ModelOptions, resolve
from embedstore.models.tuning import embed_timed
from embedstore.store.store import SpaceStore

_LENGTHS = (1, 2, 7, 20, 33, 60, 61, 61, 90, 120, 200, 340)
_MEMORY_LEFT_BYTES = 128 << 20
_TOKENS_TOO_MANY = 1 << 18
_CPU_PACKS, _GPU_PACKS = (512, 2048), (8192, 32_768, 131_072)
_SPECIAL_TOKENS = 2
_UNITS: dict[Molecule, str] = {"protein": "residues", "dna": "bases"}
_PACKS_A_WORKER = 2
_SPEED_LENGTH = {"protein": 330, "dna": 500}
_USUAL_WIDTH = 64  # of a head
_FACTOR = 1e9  # makes any state overflow in float16
_SHOWN_KERNELS = 6
_KERNEL_NAME = 60  # those of templates go on for hundreds of characters
_ATTENTION_KINDS = ("flash", "mem_efficient", "cudnn", "math")
_LIBRARIES = ("embedstore-bio", "torch", "tokenizers", "safetensors", "numpy")


@dataclass(frozen=True, slots=True)
class Selftest:
    """All that was found.

    Attributes
    ----------
    device : that was examined, with its name.
    findings : in the order of the page.
    seconds : how long it took.
    """

    device: str
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def healthy(self) -> bool:
        """Whether nothing fails."""
        return all(finding.state != "fail" for finding in self.findings)

    @property
    def verdict(self) -> str:
        """Whether stores may be filled on this device, a sentence."""
        failed = [f"{finding.check} of {finding.group}" for finding in self.findings if finding.state == "fail"]
        if failed:
            return f"Verdict: do not fill stores on {self.device}: {', '.join(failed)}."
        noted = sum(finding.state == "warn" for finding in self.findings)
        return f"Verdict: stores may be filled on {self.device}{f'; {noted} to note' if noted else ''}."

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        found = [asdict(finding) for finding in self.findings]
        return {"device": self.device, "healthy": self.healthy, "findings": found, "seconds": round(self.seconds, 3)}


def selftest(
    device: str | None = None,
    model: str | None = None,
    weights: Path | None = None,
    *,
    store: SpaceStore | None = None,
) -> Selftest:
    """Examine a device; the speed of a model that is named is kept, as `bench` keeps it.

    Parameters
    ----------
    device : "cpu", "cuda", "cuda:N" or "mps"; None: the best there is.
    model : name or path of a model that is examined beside the tiny ones.
    weights : its weights, if not those in the local cache.
    store : whose space of that model, if it has one, gives the canaries.

    Raises
    ------
    InputError : there is no such device, it does not compute, or the model has no weights.
    ModelError : the model cannot be loaded.
    """
    started = time.perf_counter()
    if model is not None:
        _require_weights(model, weights)
    place = pick_device(device)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else processor()
    with tempfile.TemporaryDirectory(prefix="embedstore-selftest-") as folder:
        own = SpaceStore.open(Path(folder, "store"), create=True)
        subjects = [partial(_Subject, str(each), ModelOptions(), place, own) for each in tiny_checkpoints(Path(folder))]
        if model is not None:
            options = ModelOptions(weights=weights)
            subjects.append(partial(_Subject, model, options, place, own, named=True, store=store))
        loaded: list[Finding] = []
        for subject in subjects:
            try:
                loaded += subject().findings()
            except RuntimeError as error:  # whatever torch says of a copy to the device
                loaded.append(_broken(Path(subject.args[0]).name, "loading", error))
        findings = [*_device_findings(place, name), *loaded]  # in which attention is as loading has set it
    return Selftest(f"{place} ({name})", tuple(findings), time.perf_counter() - started)


def _require_weights(name: str, weights: Path | None) -> None:
    shape = resolve(name, ModelOptions(weights=weights)).shape
    if shape is None or shape.layers is None:
        raise InputError(f"Cannot test {name}: it is built in and has no weights. Give a language model.")


def _device_findings(place: torch.device, name: str) -> Iterator[Finding]:
    versions: dict[str, Any] = {"python": platform.python_version()} | {each: installed(each) for each in _LIBRARIES}
    if place.type == "cuda":
        versions |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}  # type: ignore[no-untyped-call]
    yield Finding("device", "versions", "ok", ", ".join(f"{each} {versions[each]}" for each in versions), data=versions)
    data: dict[str, Any] = {"device": str(place), "name": name}
    found = name
    if place.type == "cuda":
        major, minor = torch.cuda.get_device_capability(place)
        free, total = torch.cuda.mem_get_info(place)
        data |= {"capability": [major, minor], "memory_bytes": total, "free_bytes": free}
        found += f", compute capability {major}.{minor}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    yield Finding("device", "device", "ok", found, data=data)
    flash = has_flash(place, torch.float16, _USUAL_WIDTH)
    data = {"flash": flash}
    found = "calls for neighbours of equal length, nothing is padded"
    if place.type == "cuda":
        kinds = {kind: getattr(torch.backends.cuda, f"{kind}_sdp_enabled")() for kind in _ATTENTION_KINDS}
        data |= {"allowed": kinds}
        proteins = "one flash call for a whole pack" if flash else "calls for neighbours of similar length"
        allowed = ", ".join(kind for kind, is_allowed in kinds.items() if is_allowed)
        found = f"proteins in half: {proteins}; all else: calls for neighbours of similar length, by {allowed}"
    yield Finding("device", "attention", "ok", found, data=data)


class _Subject:
    """One model on the device."""

    def __init__(
        self,
        name: str,
        options: ModelOptions,
        place: torch.device,
        own: SpaceStore,
        *,
        named: bool = False,
        store: SpaceStore | None = None,
    ) -> None:
        self._place, self._named = place, named
        self._model = resolve(name, options)
        self._on_device = _loaded(self._model, str(place))
        self._in_full = resolve(name, ModelOptions(precision="full", weights=options.weights))
        self._exact = _loaded(self._in_full, "cpu")
        self._tolerance = self._model.recipe.tolerance
        self._molecule: Molecule = self._model.recipe.molecule
        self._sequences = random_sequences(self._molecule, _LENGTHS)
        self._space = None if store is None else store.find_space(self._model.recipe)
        self._own_space = own.create_space(self._model.recipe, self._model.name, canaries.compute(self._exact))

    def findings(self) -> Iterator[Finding]:
        first = (self._numbers, self._packs, self._canaries)
        for check in (*first, self._kernels, self._speed, self._memory, self._overflow):
            try:
                yield check()
            except RuntimeError as error:  # whatever torch says of a kernel
                yield _broken(self._model.name, check.__name__.strip("_"), error)

    def _finding(self, check: str, difference: float, found: str, advice: str, **data: Any) -> Finding:
        fine = difference <= self._tolerance
        text = f"{found}: differs by {difference:.1g} of the largest value, {self._tolerance:g} is allowed"
        data |= {"difference": difference, "tolerance": self._tolerance}
        return Finding(self._model.name, check, "ok" if fine else "fail", text, "" if fine else advice, data)

    def _numbers(self) -> Finding:
        difference = _difference(_vectors(self._exact, self._sequences), _vectors(self._on_device, self._sequences))
        arithmetic = str(self._on_device.encoder.dtype).removeprefix("torch.")
        found = f"{arithmetic} here against float32 on the processor"
        advice = "Do not fill stores on this device; say what it is and which torch, in an issue."
        return self._finding("numbers", difference, found, advice, arithmetic=arithmetic)

    def _packs(self) -> Finding:
        budget = self._on_device.pack_residues
        together = _vectors(self._on_device, self._sequences)
        alone = np.concatenate([_vectors(self._on_device, [sequence]) for sequence in self._sequences])
        others = random_sequences(self._molecule, [max(_LENGTHS)] * (budget // (max(_LENGTHS) + _SPECIAL_TOKENS)))
        full = _vectors(self._on_device, [*self._sequences, *others])[: len(together)]
        with ThreadPoolExecutor(2) as executor:
            halves = executor.map(lambda part: _vectors(self._on_device, self._sequences[part::2]), range(2))
            in_threads = np.empty_like(together)
            for part, vectors in enumerate(halves):
                in_threads[part::2] = vectors
        difference = max(_difference(together, each) for each in (alone, full, in_threads))
        advice = "A vector depends on its neighbours here: do not fill stores on this device."
        return self._finding("packs", difference, "a sequence alone, in full packs, and in two threads", advice)

    def _canaries(self) -> Finding:
        space = self._own_space if self._space is None else self._space
        whose = "a space that the processor made" if self._space is None else f"space {space.name} of the store"
        sequences = [sequence.encode("ascii") for sequence in space.canaries.sequences]
        difference = _difference(space.canaries.vectors, _vectors(self._on_device, sequences))
        advice = "Fills of that space are refused on this device: see the numbers above, and the versions."
        return self._finding("canaries", difference, f"against those of {whose}", advice, space=space.id)

    def _memory(self) -> Finding:
        expected = _vectors(self._on_device, self._sequences)
        count = -(-_TOKENS_TOO_MANY // sum(_LENGTHS)) if self._place.type == "cuda" else 1
        with self._little_memory() as embedder:
            before = embedder.budget.tokens
            embedded = embedder.embed(self._sequences * count)
        tokens = embedder.budget.tokens
        difference = _difference(np.tile(expected, (count, 1)), embedded.vectors) if not embedded.failures else np.inf
        found = f"with too little memory, in packs of {tokens} tokens in the end"
        advice = "Give packs of a fixed size that fits: embedstore tune."
        if tokens == before and not embedded.failures:
            said = f"memory sufficed for packs of {tokens} tokens, though it was limited: nothing was tried"
            return Finding(self._model.name, "memory", "warn", said, "Say which device and which torch, in an issue.")
        return self._finding("memory", difference, found, advice, pack_tokens=tokens)

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
        def load_in_full() -> Encoder:
            on_processor = self._place.type == "cpu"
            return self._exact.encoder if on_processor else _loaded(self._in_full, str(self._place)).encoder

        overflowing = self._on_device.with_encoder(_TooLarge(self._on_device.encoder), load_in_full)
        difference = _difference(_vectors(self._exact, self._sequences), _vectors(overflowing, self._sequences))
        advice = "Make spaces with `embedstore fill --precision full` on this device."
        return self._finding("overflow", difference, "what overflows, computed once more in float32", advice)

    def _kernels(self) -> Finding:
        on_gpu = self._place.type == "cuda"
        embedder = self._on_device.with_setting(Setting(workers=1))
        spent = (_on_gpu if on_gpu else _on_cpu)(embedder, self._sequences)
        total = sum(spent.values())
        if total == 0:
            said, advice = "the profiler saw none", "Where profiling is allowed, the selftest names them."
            return Finding(self._model.name, "kernels", "warn", said, advice, {"shares": {}})
        shares = {name: spent[name] / total for name in sorted(spent, key=lambda name: -spent[name]) if spent[name] > 0}
        shown = list(shares.items())[:_SHOWN_KERNELS]
        found = ", ".join(f"{name[:_KERNEL_NAME]} {share:.0%}" for name, share in shown)
        flash = self._molecule == "protein" and has_flash(self._place, embedder.encoder.dtype, _USUAL_WIDTH)
        advice = slow_attention(list(spent), flash=flash) if on_gpu else ""
        return Finding(self._model.name, "kernels", "warn" if advice else "ok", found, advice, {"shares": shares})

    def _speed(self) -> Finding:
        sizes = _GPU_PACKS if self._place.type == "cuda" else _CPU_PACKS
        own = self._on_device.budget.tokens
        found = {tokens: self._speed_in_packs_of(tokens) for tokens in sorted({*sizes, own})}
        curve = ", ".join(f"{rate:,.0f} in packs of {tokens:,}" for tokens, (rate, _) in found.items())
        share = max(share for _, share in found.values())
        data: dict[str, Any] = {
            "residues_per_s": {tokens: rate for tokens, (rate, _) in found.items()},
            "share_of_matmul": share,
        }
        text = f"{_UNITS[self._molecule]}/s: {curve} tokens; {share:.0%} of the device's rate of large matrix products"
        if self._named:
            place = machine_place(self._place, self._on_device.encoder.dtype)
            data["kept_in"] = str(kept_file()) if keep_rate(self._model.recipe, place, found[own][0]) else None
        return Finding(self._model.name, "speed", "ok", text, data=data)

    def _speed_in_packs_of(self, tokens: int) -> tuple[float, float]:
        """Residues or bases a second, and the share of the rate of large matrix products."""
        kept = self._on_device.setting
        embedder = self._on_device.with_setting(replace(kept, pack_tokens=tokens))
        length = _SPEED_LENGTH[self._molecule]
        count = max(1, _PACKS_A_WORKER * embedder.workers * embedder.pack_residues // length)
        sequences = random_sequences(self._molecule, [length] * count)
        embed_timed(embedder, sequences[: embedder.workers])
        seconds = embed_timed(embedder, sequences).steady_seconds
        limit = matrix_product_rate(
            self._place,
            embedder.encoder.dtype,
            workers=embedder.workers,
            threads=embedder.threads,
            seconds=min(1.0, seconds),
        )
        return length * count / seconds, embedder.operations(sequences) / seconds / limit


def slow_attention(kernels: Sequence[str], *, flash: bool) -> str:
    """Say which of the kernels that ran make attention slower than it could be; "" if none does.

    Parameters
    ----------
    kernels : names of those that ran on a GPU.
    flash : whether flash attention was to run.
    """
    names = [name.lower() for name in kernels]
    if flash and not any("flash" in name for name in names):
        return "Flash attention was to run and did not: it is slower than it could be."
    if any("cudnn" in name and "sdpa" in name for name in names):
        return "cuDNN's attention ran, which plans anew for each shape: say which torch, in an issue."
    if any("softmax" in name for name in names):
        return "Attention was computed step by step: no fused kernel took these shapes. Say which torch, in an issue."
    return ""


def _broken(group: str, check: str, error: RuntimeError) -> Finding:
    """Say that a check ended with an error of torch."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    advice = "Do not fill stores on this device; say what it is and which torch, in an issue."
    return Finding(group, check, "fail", f"torch failed: {said}", advice, {"error": type(error).__name__})


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

    def hidden_states(
        self, token_ids: Tensor, lengths: Sequence[int], see: See | None = None, depth: int | None = None
    ) -> Tensor:
        if len(token_ids) > self._most_tokens:
            raise torch.OutOfMemoryError(f"out of memory: {len(token_ids)} tokens, pretended by the selftest")
        return self._encoder.hidden_states(token_ids, lengths, see, depth)


class _TooLarge(_Wrapped):
    """Its states are too large for float16."""

    def hidden_states(
        self, token_ids: Tensor, lengths: Sequence[int], see: See | None = None, depth: int | None = None
    ) -> Tensor:
        return (self._encoder.hidden_states(token_ids, lengths, see, depth).float() * _FACTOR).half()
