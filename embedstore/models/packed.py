"""The embedder of all language models: tokens, windows, packs, states, vectors.

An architecture brings a tokenizer and an encoder that works on packs, that is on sequences written one after another
without padding. Everything else is the same for all of them and is done here, in this order: a sequence becomes content
tokens, is cut into windows, each window gets its special tokens, windows are packed by length and computed, the states
of each are summed with weights that add up to one for each sequence, and vectors that are not finite are computed once
more in full precision.

Windows: a sequence of l content tokens is cut into the fewest windows of `max_length` tokens that overlap by at least
`overlap`, evenly placed from its start to its end. A token in k windows counts 1/k in each of them, so that the pooled
vector is the mean over all tokens of the mean of their states.

Memory: a pack that does not fit is split, and later packs are made smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedstore.identity import Recipe
from embedstore.models.devices import cores, torch_threads
from embedstore.models.embedder import Embedded, packs
from embedstore.models.machine import Setting


def weighted_sums(states: Tensor, weights: Tensor, lengths: Sequence[int]) -> Tensor:
    """Sum the token states of each sequence of a pack, each state times its weight.

    With weights that add up to one this is their mean. Sums are taken sequence by sequence: a value that is not finite
    stays with its own sequence.

    Parameters
    ----------
    states : (t, d) of any floating type. Sequences one after another.
    weights : (t,) float32, same device.
    lengths : tokens of each sequence; they add up to t.

    Returns
    -------
    (len(lengths), d) float32, same device.
    """
    parts = zip(torch.split(weights, list(lengths)), torch.split(states.float(), list(lengths)), strict=True)
    return torch.stack([weight @ state for weight, state in parts])  # (n, d)


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Content tokens `start` … `stop` of a sequence, and what each of them counts."""

    start: int
    stop: int
    weights: NDArray[np.float64]
    """(stop - start,): one by the number of windows that contain the token."""


def windows(length: int, max_length: int | None, overlap: int) -> list[Window]:
    """Cut a sequence of `length` tokens.

    Parameters
    ----------
    max_length : tokens of a window; None: one window whatever the length.
    overlap : tokens that neighbours share at least, below `max_length`.

    Returns
    -------
    Windows that cover the sequence; their weights add up to `length`.
    """
    if max_length is None or length <= max_length:
        return [Window(0, length, np.ones(length))]
    count = -(-(length - overlap) // (max_length - overlap))
    starts = [(length - max_length) * number // (count - 1) for number in range(count)]
    times = np.zeros(length)
    for start in starts:
        times[start : start + max_length] += 1
    return [Window(start, start + max_length, 1 / times[start : start + max_length]) for start in starts]


Compute = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Positions of the sequences of a pack -> their vectors, (n, d), in that order."""

_OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


class MemoryBudget:
    """Tokens that a pack may hold. Threads share it; it only decreases.

    Parameters
    ----------
    tokens : to begin with: what is fastest on the machine.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def packs(self, lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Partition sequences into packs of about equal size near the budget, see `embedder.packs`."""
        total = int(lengths.sum())
        parts = max(1, round(total / self.tokens))
        return packs(lengths, -(-total // parts))

    def lower(self, failed_tokens: int) -> None:
        """Remember that a pack of so many tokens did not fit."""
        self.tokens = max(1, min(self.tokens, failed_tokens // 2))


def compute_in_packs(
    lengths: Sequence[int], budget: MemoryBudget, compute: Compute
) -> tuple[dict[int, NDArray[np.float32]], dict[int, str]]:
    """Compute all sequences, in packs that fit.

    Parameters
    ----------
    lengths : tokens of each sequence.
    compute : called pack by pack. When it runs out of memory, the pack is split and the budget lowered.

    Returns
    -------
    position -> vector (d,), and position -> reason for each sequence that does not fit even alone.

    Raises
    ------
    Whatever else `compute` raises.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    vectors: dict[int, NDArray[np.float32]] = {}
    failures: dict[int, str] = {}
    pending = budget.packs(sizes)[::-1]
    while pending:
        pack = pending.pop()
        rows = _unless_out_of_memory(compute, pack)
        if rows is not None:
            vectors.update(zip(pack.tolist(), rows, strict=True))
        elif len(pack) == 1:
            failures[int(pack[0])] = f"memory does not suffice for its {sizes[pack[0]]} tokens at once"
        else:
            budget.lower(int(sizes[pack].sum()))
            rest = np.concatenate([pack, *pending])
            pending = [rest[part] for part in budget.packs(sizes[rest])][::-1]
    return vectors, failures


def _unless_out_of_memory(compute: Compute, pack: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """Result of `compute`, or None when memory did not suffice; what it had allocated is free again then."""
    try:
        return compute(pack)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # Only here, with the exception and its frames gone, can their tensors be given back to the device.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether Python, the CPU's allocator or the GPU's ran out of memory."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        sign in str(error) for sign in _OUT_OF_MEMORY
    )


_CPU_PACK_TOKENS = 2048
_GPU_PACK_TOKENS = 32_768
_GPU_WORKERS = 2  # one prepares and pools while the other's kernels run
_DEFAULTS = Setting()


class Tokenizer(Protocol):
    """Sequences to ids."""

    @property
    def first_id(self) -> int:
        """Put before each window."""
        ...

    @property
    def last_id(self) -> int:
        """Put after each window."""
        ...

    def content_ids(self, sequence: bytes) -> NDArray[np.int64]:
        """(t,) int64, without special tokens."""
        ...


class Encoder(Protocol):
    """Weights on a device. Threads may share it."""

    @property
    def device(self) -> torch.device:
        """Device of the weights, on which token ids must be."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights and of the arithmetic."""
        ...

    def hidden_states(self, token_ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """(t,) int64 of sequences that are `lengths` long -> (t, d), the states after the last layer."""
        ...

    def operations(self, lengths: Sequence[int]) -> int:
        """Floating-point operations of the matrix products for sequences of so many tokens."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """One window of one sequence, ready for the encoder."""

    sequence: int
    token_ids: NDArray[np.int64]
    weights: NDArray[np.float32]
    """(t,): zero for tokens that are not pooled; all pieces of a sequence together add up to one."""


class PackedEmbedder:
    """Embedder of a language model.

    Parameters
    ----------
    recipe : says how long sequences, special tokens and precision are handled.
    full_encoder : gives the same weights in float32, for what overflows in float16; called when first needed. None if
        `encoder` computes in float32 already.
    residues_per_token : about; by which `pack_residues` follows from the pack's tokens.
    setting : what is fastest on this machine, if known; it does not change results beyond the tolerance.
    """

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: Tokenizer,
        encoder: Encoder,
        *,
        full_encoder: Callable[[], Encoder] | None = None,
        residues_per_token: float = 1.0,
        setting: Setting = _DEFAULTS,
    ) -> None:
        self._on_cpu = encoder.device.type == "cpu"
        tokens = setting.pack_tokens or (_CPU_PACK_TOKENS if self._on_cpu else _GPU_PACK_TOKENS)
        self.recipe = recipe
        self.pack_residues = round(tokens * residues_per_token)
        self.workers = setting.workers or (cores() if self._on_cpu else _GPU_WORKERS)
        self.threads = setting.threads or 1
        self.budget = MemoryBudget(tokens)
        self.encoder = encoder
        self._tokenizer = tokenizer
        self._full_encoder = full_encoder
        self._residues_per_token = residues_per_token

    @property
    def setting(self) -> Setting:
        """How it runs; the tokens of a pack are fewer than it was made with if memory did not suffice."""
        return Setting(self.budget.tokens, self.workers, self.threads)

    def with_setting(self, setting: Setting) -> PackedEmbedder:
        """Return an embedder that shares the weights and has another setting."""
        return PackedEmbedder(
            self.recipe,
            self._tokenizer,
            self.encoder,
            full_encoder=self._full_encoder,
            residues_per_token=self._residues_per_token,
            setting=setting,
        )

    def operations(self, sequences: Sequence[bytes]) -> int:
        """Floating-point operations of the matrix products that embedding canonical sequences takes."""
        contents = [self._tokenizer.content_ids(sequence) for sequence in sequences]
        pieces = [piece for number, content in enumerate(contents) for piece in self._pieces(number, content)]
        return self.encoder.operations([len(piece.token_ids) for piece in pieces])

    def embed(self, sequences: Sequence[bytes]) -> Embedded:
        """Embed canonical sequences; see `embedder.Embedder`. Safe to call from several threads."""
        vectors = np.zeros((len(sequences), self.recipe.dim), dtype=np.float32)
        failures: dict[int, str] = {}
        pieces: list[_Piece] = []
        for number, sequence in enumerate(sequences):
            content = self._tokenizer.content_ids(sequence)
            reason = self._refusal(len(content))
            if reason is None:
                pieces += self._pieces(number, content)
            else:
                failures[number] = reason
        with self._held_threads():
            self._compute(pieces, vectors, failures)
        failures.update(self._not_storable(vectors, failures))
        return Embedded(vectors, failures)

    def _held_threads(self) -> AbstractContextManager[None]:
        return torch_threads(self.threads) if self._on_cpu else nullcontext()

    def _refusal(self, length: int) -> str | None:
        limit = self.recipe.max_length_tokens
        if self.recipe.long == "reject" and limit is not None and length > limit:
            return f"it has {length} tokens, more than the {limit} that the space allows"
        return None

    def _pieces(self, number: int, content: NDArray[np.int64]) -> list[_Piece]:
        if self.recipe.long == "truncate":
            content = content[: self.recipe.max_length_tokens]
        max_length = self.recipe.max_length_tokens if self.recipe.long == "window" else None
        parts = windows(len(content), max_length, self.recipe.window_overlap_tokens or 0)
        special = 1 / len(parts) if self.recipe.pooled_special_tokens else 0.0
        total = len(content) + 2 * special * len(parts)
        first, last = self._tokenizer.first_id, self._tokenizer.last_id
        return [
            _Piece(
                number,
                np.concatenate(([first], content[part.start : part.stop], [last])),
                (np.concatenate(([special], part.weights, [special])) / total).astype(np.float32),
            )
            for part in parts
        ]

    def _compute(self, pieces: Sequence[_Piece], vectors: NDArray[np.float32], failures: dict[int, str]) -> None:
        """Add the pieces' weighted sums to the rows of their sequences."""
        found, refused = self._sums(pieces, self.encoder)
        broken = [number for number, row in found.items() if not np.isfinite(row).all()]
        if broken and self._full_encoder is not None:
            again, refused_again = self._sums([pieces[number] for number in broken], self._full_encoder())
            found.update({broken[number]: row for number, row in again.items()})
            refused.update({broken[number]: reason for number, reason in refused_again.items()})
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is reported by sequence
            for number, row in found.items():
                vectors[pieces[number].sequence] += row
        failures.update({pieces[number].sequence: reason for number, reason in refused.items()})

    def _sums(
        self, pieces: Sequence[_Piece], encoder: Encoder
    ) -> tuple[dict[int, NDArray[np.float32]], dict[int, str]]:
        def compute(pack: NDArray[np.int64]) -> NDArray[np.float32]:
            return _pooled([pieces[number] for number in pack], encoder)

        return compute_in_packs([len(piece.token_ids) for piece in pieces], self.budget, compute)

    def _not_storable(self, vectors: NDArray[np.float32], failures: dict[int, str]) -> dict[int, str]:
        largest = float(np.finfo(self.recipe.dtype).max)
        with np.errstate(invalid="ignore"):
            storable = (np.abs(vectors) <= largest).all(axis=1)  # false for NaN
        reason = f"the model gives values that are not finite in {self.recipe.dtype}"
        return {int(row): reason for row in np.flatnonzero(~storable) if int(row) not in failures}


@torch.inference_mode()
def _pooled(pieces: Sequence[_Piece], encoder: Encoder) -> NDArray[np.float32]:
    """Weighted sums of the states of one pack, (n, d)."""
    lengths = [len(piece.token_ids) for piece in pieces]
    token_ids = _on(encoder.device, np.concatenate([piece.token_ids for piece in pieces]))  # (t,)
    weights = _on(encoder.device, np.concatenate([piece.weights for piece in pieces]))  # (t,)
    states = encoder.hidden_states(token_ids, lengths)  # (t, d)
    sums = weighted_sums(states, weights, lengths)  # (n, d)
    result: NDArray[np.float32] = sums.cpu().numpy()
    return result


def _on(device: torch.device, values: NDArray[np.int64] | NDArray[np.float32]) -> Tensor:
    tensor = torch.from_numpy(values)
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
