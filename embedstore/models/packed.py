"""The embedder of all language models: tokens, windows, packs, states, vectors.

An architecture brings a tokenizer and an encoder that works on packs, that is on sequences written one after another
without padding. Everything else is the same for all of them and is done here, in this order: a sequence becomes content
tokens, is cut into windows, each window gets its special tokens, windows are packed by length and computed, the states
of each are pooled, and vectors that are not finite are computed once more in full precision. How states are pooled is
in `pooling`; how sequences are divided, and what happens when memory runs out, in `batching`.

One pass gives the vectors of several recipes, if these differ in layer and pooling alone: `for_recipes`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedstore.errors import InputError
from embedstore.identity import Recipe
from embedstore.models.batching import MemoryBudget, compute_in_packs, is_out_of_memory, windows
from embedstore.models.checkpoint import Checkpoint
from embedstore.models.devices import (
    Streams,
    arithmetic,
    cores,
    give_back_memory,
    machine_place,
    pick_device,
    synchronize,
    too_little_memory,
    torch_threads,
)
from embedstore.models.embedder import Embedded
from embedstore.models.machine import Setting, kept_setting
from embedstore.models.pooling import Level, Part, Piece, See, combined, pooled

_CPU_PACK_TOKENS = 2048
_GPU_PACK_TOKENS = 32_768
_GPU_WORKERS = 2  # one prepares and pools while the other's kernels run
_DEFAULTS = Setting()
_OF_LEVELS = {"layer", "pooling", "pooled_special_tokens"}

Parts = Sequence[Part]
"""Of one window, one of each level."""


class Tokenizer(Protocol):
    """Sequences to ids."""

    @property
    def first_id(self) -> int | None:
        """Put before each window; None: nothing is."""
        ...

    @property
    def last_id(self) -> int | None:
        """Put after each window; None: nothing is."""
        ...

    def content_ids(self, sequence: bytes) -> NDArray[np.int64]:
        """(t,) int64, without special tokens."""
        ...

    def contents(self, sequences: Sequence[bytes]) -> list[NDArray[np.int64]]:
        """`content_ids` of each sequence; other threads run meanwhile."""
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

    def hidden_states(
        self, token_ids: Tensor, lengths: Sequence[int], see: See | None = None, depth: int | None = None
    ) -> Tensor:
        """(t,) int64 of sequences that are `lengths` long -> (t, d), the states after the last layer and its norm.

        Parameters
        ----------
        see : told the states after the embedding and after each layer, before any last norm.
        depth : compute only so many layers; what is returned is then of no use.
        """
        ...

    def operations(self, lengths: Sequence[int]) -> int:
        """Floating-point operations of the matrix products for sequences of so many tokens."""
        ...


class WholeEncoder(Encoder, Protocol):
    """An encoder as `load_packed` gets it: float32 on the CPU."""

    @property
    def parameters(self) -> int:
        """Numbers in all weights."""
        ...

    def to(self, device: torch.device, dtype: torch.dtype) -> Encoder:
        """Return it on another device or in another precision."""
        ...


class PackedEmbedder:
    """Embedder of a language model.

    Parameters
    ----------
    recipe : says how long sequences, special tokens and precision are handled, which layer is pooled and how.
    others : recipes that differ from it in layer and pooling alone, for `embed_all`.
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
        others: Sequence[Recipe] = (),
        full_encoder: Callable[[], Encoder] | None = None,
        residues_per_token: float = 1.0,
        setting: Setting = _DEFAULTS,
    ) -> None:
        self._on_cpu = encoder.device.type == "cpu"
        tokens = setting.pack_tokens or (_CPU_PACK_TOKENS if self._on_cpu else _GPU_PACK_TOKENS)
        self.recipe = recipe
        self.recipes = (recipe, *others)
        self._levels = [Level.of(each) for each in self.recipes]
        self.pack_residues = round(tokens * residues_per_token)
        self.workers = setting.workers or (cores() if self._on_cpu else _GPU_WORKERS)
        self.threads = setting.threads or 1
        self.budget = MemoryBudget(tokens)
        self.encoder = encoder
        self._tokenizer = tokenizer
        self._full = None if full_encoder is None else _Once(full_encoder)
        self._residues_per_token = residues_per_token
        self._streams = Streams(encoder.device)

    @property
    def setting(self) -> Setting:
        """How it runs; the tokens of a pack are fewer than it was made with if memory did not suffice."""
        return Setting(self.budget.tokens, self.workers, self.threads)

    def with_setting(self, setting: Setting) -> PackedEmbedder:
        """Return an embedder that shares the weights and has another setting."""
        other = PackedEmbedder(
            self.recipe,
            self._tokenizer,
            self.encoder,
            others=self.recipes[1:],
            residues_per_token=self._residues_per_token,
            setting=setting,
        )
        other._full = self._full
        return other

    def with_encoder(self, encoder: Encoder, full_encoder: Callable[[], Encoder] | None = None) -> PackedEmbedder:
        """Return an embedder with the same recipe, tokenizer and setting, and another encoder."""
        return PackedEmbedder(
            self.recipe,
            self._tokenizer,
            encoder,
            others=self.recipes[1:],
            full_encoder=full_encoder,
            residues_per_token=self._residues_per_token,
            setting=self.setting,
        )

    def for_recipes(self, recipes: Sequence[Recipe]) -> PackedEmbedder:
        """Return an embedder that shares the weights and gives the vectors of several recipes in one pass.

        Raises
        ------
        InputError : they differ in more than layer and pooling.
        """
        for recipe in recipes:
            further = self.recipe.differences(recipe).keys() - _OF_LEVELS
            if further:
                raise InputError(
                    "Cannot compute several spaces in one pass: expected recipes that differ in layer and pooling, "
                    f"found others in {', '.join(sorted(further))}. Fill these spaces one by one."
                )
        other = self.with_setting(self.setting)
        other.recipe, other.recipes = recipes[0], tuple(recipes)
        other._levels = [Level.of(each) for each in recipes]
        return other

    def operations(self, sequences: Sequence[bytes]) -> int:
        """Floating-point operations of the matrix products that embedding canonical sequences takes."""
        contents = enumerate(self._tokenizer.contents(sequences))
        pieces = [piece for number, content in contents for piece in self._pieces(number, content)]
        return self.encoder.operations([len(piece.token_ids) for piece in pieces])

    def embed(self, sequences: Sequence[bytes]) -> Embedded:
        """Embed canonical sequences; see `embedder.Embedder`. Safe to call from several threads."""
        return self.embed_all(sequences)[0]

    def embed_all(self, sequences: Sequence[bytes]) -> list[Embedded]:
        """Do the same for each of the recipes, in one pass."""
        refused: dict[int, str] = {}
        pieces: list[Piece] = []
        for number, content in enumerate(self._tokenizer.contents(sequences)):
            reason = self._refusal(len(content))
            if reason is None:
                pieces += self._pieces(number, content)
            else:
                refused[number] = reason
        with self._held_threads():
            found, failed = self._computed(pieces)
        refused.update({pieces[number].sequence: reason for number, reason in failed.items()})
        ends = np.searchsorted([piece.sequence for piece in pieces], np.arange(len(sequences) + 1)).tolist()
        of_sequences = [range(start, end) for start, end in pairwise(ends)]
        return [self._embedded(place, found, pieces, of_sequences, refused) for place in range(len(self._levels))]

    def _embedded(
        self,
        place: int,
        parts: Sequence[Parts],
        pieces: Sequence[Piece],
        of_sequences: Sequence[range],
        refused: Mapping[int, str],
    ) -> Embedded:
        """Make the vectors of one of the levels of the parts of all pieces."""
        pooling = self._levels[place].pooling
        vectors = np.zeros((len(of_sequences), self.recipe.dim), dtype=np.float32)
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is reported by sequence
            for number, span in enumerate(of_sequences):
                if number not in refused:
                    shares = [pieces[piece].share for piece in span] if len(span) > 1 else [1.0]
                    vectors[number] = combined(pooling, [parts[piece][place] for piece in span], shares)
        failures = dict(refused)
        failures.update(self._not_storable(vectors, failures))
        return Embedded(vectors, failures)

    def _held_threads(self) -> AbstractContextManager[None]:
        return torch_threads(self.threads) if self._on_cpu else nullcontext()

    def _refusal(self, length: int) -> str | None:
        limit = self.recipe.max_length_tokens
        if self.recipe.long == "reject" and limit is not None and length > limit:
            return f"it has {length} tokens, more than the {limit} that the space allows"
        return None

    def _pieces(self, number: int, content: NDArray[np.int64]) -> list[Piece]:
        if self.recipe.long == "truncate":
            content = content[: self.recipe.max_length_tokens]
        max_length = self.recipe.max_length_tokens if self.recipe.long == "window" else None
        parts = windows(len(content), max_length, self.recipe.window_overlap_tokens or 0)
        before, after = ([] if each is None else [each] for each in (self._tokenizer.first_id, self._tokenizer.last_id))
        return [
            Piece.of(number, content, slice(part.start, part.stop), part.weights, len(parts), before, after)
            for part in parts
        ]

    def _computed(self, pieces: Sequence[Piece]) -> tuple[list[Parts], dict[int, str]]:
        """Return the parts of each piece, one of each level, and pieces without one -> why."""
        found, refused = self._sums(pieces, self.encoder, self.budget)
        broken = [number for number, parts in found.items() if not all(np.isfinite(part).all() for part in parts)]
        if broken and self._full is not None:
            again, refused_again = self._in_full([pieces[number] for number in broken], self._full)
            found.update({broken[number]: parts for number, parts in again.items()})
            refused.update({broken[number]: reason for number, reason in refused_again.items()})
        return [found.get(number, ()) for number in range(len(pieces))], refused

    def _in_full(self, pieces: Sequence[Piece], full: _Once) -> tuple[dict[int, Parts], dict[int, str]]:
        """Compute in float32; if memory runs out, the pieces fail, never the run."""
        encoder = full.get(self.budget, self.encoder.device)
        if encoder is None:
            reason = "it overflows in float16, and memory does not suffice for the weights in float32"
            return {}, dict.fromkeys(range(len(pieces)), reason)
        return self._sums(pieces, encoder, self.budget)

    def _sums(
        self, pieces: Sequence[Piece], encoder: Encoder, budget: MemoryBudget
    ) -> tuple[dict[int, Parts], dict[int, str]]:
        def compute(pack: NDArray[np.int64]) -> list[Parts]:
            with self._streams.one():
                return list(zip(*pooled([pieces[number] for number in pack], encoder, self._levels), strict=True))

        give_back = partial(give_back_memory, encoder.device)
        return compute_in_packs([len(piece.token_ids) for piece in pieces], budget, compute, give_back)

    def _not_storable(self, vectors: NDArray[np.float32], failures: dict[int, str]) -> dict[int, str]:
        largest = float(np.finfo(self.recipe.dtype).max)
        with np.errstate(invalid="ignore"):
            storable = (np.abs(vectors) <= largest).all(axis=1)  # false for NaN
        reason = f"the model gives values that are not finite in {self.recipe.dtype}"
        return {int(row): reason for row in np.flatnonzero(~storable) if int(row) not in failures}


class _Once:
    """The encoder in float32, loaded when first needed, once for all threads."""

    def __init__(self, load: Callable[[], Encoder]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._tried = False
        self._encoder: Encoder | None = None

    def get(self, budget: MemoryBudget, device: torch.device) -> Encoder | None:
        """Return it, or None if memory does not suffice, even while no thread computes; that is not tried again."""
        with self._lock:
            if not self._tried:
                with budget.alone():
                    give_back_memory(device)
                    self._encoder = self._loaded(device)
                self._tried = True
            return self._encoder

    def _loaded(self, device: torch.device) -> Encoder | None:
        try:
            encoder = self._load()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        synchronize(device)  # other threads' streams read it, too
        return encoder


def load_packed(
    recipe: Recipe,
    checkpoint: Checkpoint,
    device: str | None,
    read_encoder: Callable[[Checkpoint], WholeEncoder],
    tokenizer: Tokenizer,
    *,
    residues_per_token: float = 1.0,
) -> PackedEmbedder:
    """Load a language model: what `load` of every architecture does.

    `half` computes in float16 on a GPU; everything else is computed in float32.

    Parameters
    ----------
    device : see `devices.pick_device`.
    read_encoder : reads the weights, as float32 on the CPU.

    Raises
    ------
    WeightsError : a tensor or the configuration is not that of the architecture.
    InputError : there is no such device.
    ModelError : memory does not suffice for the weights.
    """
    place = pick_device(device)
    dtype = arithmetic(recipe.precision, place)
    whole = _read(recipe, checkpoint, read_encoder)
    need_bytes = whole.parameters * dtype.itemsize
    try:
        encoder = whole.to(place, dtype)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        give_back_memory(place)
        raise too_little_memory(recipe.model, place, need_bytes, dtype) from error
    return PackedEmbedder(
        recipe,
        tokenizer,
        encoder,
        full_encoder=None if dtype == torch.float32 else lambda: read_encoder(checkpoint).to(place, torch.float32),
        residues_per_token=residues_per_token,
        setting=kept_setting(checkpoint.shape, machine_place(place, dtype)),
    )


def _read(recipe: Recipe, checkpoint: Checkpoint, read_encoder: Callable[[Checkpoint], WholeEncoder]) -> WholeEncoder:
    try:
        return read_encoder(checkpoint)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        need_bytes = sum(file.stat().st_size for file in checkpoint.weights)
        raise too_little_memory(recipe.model, torch.device("cpu"), need_bytes, torch.float32) from error
