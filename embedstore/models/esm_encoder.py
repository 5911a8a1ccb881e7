"""The encoder of ESM-2 (Lin et al. 2023, doi:10.1126/science.ade2574) and FastESM2, without padding.

A pack is a list of sequences written one after another. Every projection is one matrix product over the whole pack, and
attention runs over groups of equal lengths: nothing is padded, and no vector depends on its neighbours. Positions are
rotary (Su et al. 2021, arXiv:2104.09864), with the frequencies that the checkpoint holds: where they were stored
rounded, recomputed ones give other numbers.

Shapes in the comments: t tokens of the pack; n sequences of one length l; h heads of width e; d = h * e; f the width
between the two feed-forward products.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional

try:  # new in torch 2.10; needs a CUDA device
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # pragma: no cover
    varlen_attn = None  # type: ignore[assignment]

_TOKEN_DROPOUT_SCALE = 1 - 0.15 * 0.8
"""Trained with 15 % of tokens masked, 80 % of these blanked; inference scales as if that were so on average."""


@dataclass(frozen=True, slots=True)
class EsmShape:
    """Sizes of one checkpoint."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    norm_epsilon: float
    token_dropout: bool

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor that the encoder needs, by Hugging Face's names without the `esm.` prefix."""
        hidden, inner = self.hidden, self.intermediate
        shapes: dict[str, tuple[int, ...]] = {"embeddings.word_embeddings.weight": (self.vocabulary, hidden)}
        for number in range(self.layers):
            layer = f"encoder.layer.{number}."
            shapes |= {
                layer + "attention.LayerNorm.weight": (hidden,),
                layer + "attention.LayerNorm.bias": (hidden,),
                layer + "attention.self.query.weight": (hidden, hidden),
                layer + "attention.self.query.bias": (hidden,),
                layer + "attention.self.key.weight": (hidden, hidden),
                layer + "attention.self.key.bias": (hidden,),
                layer + "attention.self.value.weight": (hidden, hidden),
                layer + "attention.self.value.bias": (hidden,),
                layer + "attention.self.rotary_embeddings.inv_freq": (hidden // self.heads // 2,),
                layer + "attention.output.dense.weight": (hidden, hidden),
                layer + "attention.output.dense.bias": (hidden,),
                layer + "LayerNorm.weight": (hidden,),
                layer + "LayerNorm.bias": (hidden,),
                layer + "intermediate.dense.weight": (inner, hidden),
                layer + "intermediate.dense.bias": (inner,),
                layer + "output.dense.weight": (hidden, inner),
                layer + "output.dense.bias": (hidden,),
            }
        shapes["encoder.emb_layer_norm_after.weight"] = (hidden,)
        shapes["encoder.emb_layer_norm_after.bias"] = (hidden,)
        return shapes


@dataclass(frozen=True, slots=True, eq=False)
class _Affine:
    """Weight and bias of a projection or of a layer norm."""

    weight: Tensor
    bias: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> _Affine:
        return _Affine(self.weight.to(device, dtype), self.bias.to(device, dtype))


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    attention_norm: _Affine
    qkv: _Affine
    attention_out: _Affine
    norm: _Affine
    expand: _Affine
    contract: _Affine
    frequencies: int
    """Which of the encoder's sets of rotary frequencies this layer has; in practice all have the first."""

    def to(self, device: torch.device, dtype: torch.dtype) -> _Layer:
        return _Layer(
            self.attention_norm.to(device, dtype),
            self.qkv.to(device, dtype),
            self.attention_out.to(device, dtype),
            self.norm.to(device, dtype),
            self.expand.to(device, dtype),
            self.contract.to(device, dtype),
            self.frequencies,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Pack:
    """What all layers need to know of a pack."""

    groups: Sequence[tuple[int, int, int]]
    """(first token, count, length) of neighbours of one length."""
    positions: Tensor
    """(t,): of each token in its sequence."""
    starts: Tensor
    """(number of sequences + 1,) int32, for variable-length attention."""
    longest: int


class EsmEncoder:
    """Weights of one checkpoint on one device, and the way through them. Threads may share it."""

    def __init__(
        self,
        shape: EsmShape,
        embeddings: Tensor,
        frequencies: Sequence[Tensor],
        layers: Sequence[_Layer],
        final_norm: _Affine,
    ) -> None:
        self.shape = shape
        self._embeddings = embeddings
        self._frequencies = tuple(frequencies)
        self._layers = tuple(layers)
        self._final_norm = final_norm

    @classmethod
    def from_tensors(cls, shape: EsmShape, tensors: Mapping[str, Tensor]) -> EsmEncoder:
        """Take the float32 tensors that `shape.tensors()` names."""

        def affine(name: str) -> _Affine:
            return _Affine(tensors[name + ".weight"], tensors[name + ".bias"])

        frequencies: list[Tensor] = []

        def frequency_set(values: Tensor) -> int:
            for number, known in enumerate(frequencies):
                if torch.equal(known, values):
                    return number
            frequencies.append(values)
            return len(frequencies) - 1

        def layer(name: str) -> _Layer:
            heads = [affine(f"{name}attention.self.{part}") for part in ("query", "key", "value")]
            return _Layer(
                attention_norm=affine(name + "attention.LayerNorm"),
                qkv=_Affine(torch.cat([h.weight for h in heads]), torch.cat([h.bias for h in heads])),
                attention_out=affine(name + "attention.output.dense"),
                norm=affine(name + "LayerNorm"),
                expand=affine(name + "intermediate.dense"),
                contract=affine(name + "output.dense"),
                frequencies=frequency_set(tensors[name + "attention.self.rotary_embeddings.inv_freq"]),
            )

        embeddings = tensors["embeddings.word_embeddings.weight"]
        return cls(
            shape,
            embeddings * _TOKEN_DROPOUT_SCALE if shape.token_dropout else embeddings,
            frequencies,
            [layer(f"encoder.layer.{number}.") for number in range(shape.layers)],
            affine("encoder.emb_layer_norm_after"),
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are, and the token ids must be."""
        return self._embeddings.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights and of the arithmetic."""
        return self._embeddings.dtype

    def to(self, device: torch.device, dtype: torch.dtype) -> EsmEncoder:
        """Return the encoder with its weights elsewhere, or of another precision."""
        return EsmEncoder(
            self.shape,
            self._embeddings.to(device, dtype),
            [frequencies.to(device) for frequencies in self._frequencies],  # angles are always computed in float32
            [layer.to(device, dtype) for layer in self._layers],
            self._final_norm.to(device, dtype),
        )

    @torch.inference_mode()
    def hidden_states(self, token_ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return the states after the last layer and its norm.

        Parameters
        ----------
        token_ids : (t,) int64. Sequences, each with `<cls>` and `<eos>`, one after another.
        lengths : tokens of each sequence; they add up to t. Any order is right; equal lengths side by side are fastest.

        Returns
        -------
        (t, d) of the weights' dtype.
        """
        pack = self._pack(lengths)
        states = functional.embedding(token_ids, self._embeddings)  # (t, d)
        rotations = [self._rotation(frequencies, pack) for frequencies in self._frequencies]
        for layer in self._layers:
            states += self._attend(layer, states, pack, rotations[layer.frequencies])  # (t, d)
            states += self._feed_forward(layer, states)  # (t, d)
        return self._norm(self._final_norm, states)

    def _pack(self, lengths: Sequence[int]) -> _Pack:
        starts = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)
        positions = torch.arange(int(starts[-1])) - torch.repeat_interleave(starts[:-1], starts.diff())
        return _Pack(
            groups=list(_groups(lengths)),
            positions=positions.to(self.device, non_blocking=True),
            starts=starts.to(torch.int32).to(self.device, non_blocking=True),
            longest=max(lengths),
        )

    def _rotation(self, frequencies: Tensor, pack: _Pack) -> tuple[Tensor, Tensor]:
        """Cosine and sine of each token's angles, (t, 1, e / 2) each."""
        angles = torch.arange(pack.longest, device=self.device).float()[:, None] * frequencies  # (l, e / 2)
        table = torch.stack((angles.cos(), angles.sin())).to(self.dtype)  # (2, l, e / 2)
        cosine, sine = table[:, pack.positions, None]  # (t, 1, e / 2) each
        return cosine, sine

    def _attend(self, layer: _Layer, states: Tensor, pack: _Pack, rotation: tuple[Tensor, Tensor]) -> Tensor:
        heads, width = self.shape.heads, self.shape.hidden // self.shape.heads
        qkv = _project(layer.qkv, self._norm(layer.attention_norm, states)).view(-1, 3, heads, width)  # (t, 3, h, e)
        query = _rotated(qkv[:, 0], rotation)  # (t, h, e)
        key = _rotated(qkv[:, 1], rotation)  # (t, h, e)
        mixed = _attention(query, key, qkv[:, 2], pack)  # (t, d)
        return _project(layer.attention_out, mixed)

    def _feed_forward(self, layer: _Layer, states: Tensor) -> Tensor:
        inner = functional.gelu(_project(layer.expand, self._norm(layer.norm, states)))  # (t, f); by the error function
        return _project(layer.contract, inner)  # (t, d)

    def _norm(self, norm: _Affine, states: Tensor) -> Tensor:
        return functional.layer_norm(states, (self.shape.hidden,), norm.weight, norm.bias, self.shape.norm_epsilon)


def _project(affine: _Affine, states: Tensor) -> Tensor:
    return functional.linear(states, affine.weight, affine.bias)


def _rotated(vectors: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (i, i + e / 2) of (t, h, e) by its angle."""
    cosine, sine = rotation  # (t, 1, e / 2)
    first, second = vectors.chunk(2, -1)  # (t, h, e / 2) each
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)


def _groups(lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    start = 0
    for length, run in groupby(lengths):
        count = sum(1 for _ in run)
        yield start, count, length
        start += count * length


def _attention(query: Tensor, key: Tensor, value: Tensor, pack: _Pack) -> Tensor:
    """Attend within each sequence; (t, h, e) each -> (t, d)."""
    if varlen_attn is not None and query.is_cuda and query.dtype == torch.float16:
        mixed: Tensor = varlen_attn(query, key, value, pack.starts, pack.starts, pack.longest, pack.longest)  # type: ignore[assignment]
        return mixed.flatten(1)
    parts = []
    for start, count, length in pack.groups:
        tokens = slice(start, start + count * length)
        group = [part[tokens].unflatten(0, (count, length)).transpose(1, 2) for part in (query, key, value)]
        parts.append(functional.scaled_dot_product_attention(*group).transpose(1, 2).flatten(0, 1))  # (n l, h, e)
    return torch.cat(parts).flatten(1)
