"""ESM-C (Cambrian), from a checkpoint in any of its layouts: tokens, encoder without padding, loading.

*Tokens* are those of ESM-2 but for id 31, a break between chains, which no canonical sequence holds.

*Encoder* (ESM Team 2024, evolutionaryscale.ai/blog/esm-cambrian; layers as in its `esm` package and in transformers). A
pack is a list of sequences written one after another. Every projection is one matrix product over the whole pack;
attention stays within a sequence (`attention`), and no vector depends on its neighbours. What differs from ESM-2:
projections have no bias; queries and keys are normed over the whole width, before they are divided into heads; the
frequencies of the rotary positions (`rotary`) are not in the checkpoint; what a layer adds to the states is divided by
sqrt(layers / 36), which is done to the weights of the adding projections; the feed-forward block is gated (SwiGLU:
Shazeer 2020, arXiv:2002.05202); the last norm has no bias. States "of the last layer" are after that norm, as in
transformers; the original package hands out those before it, too.

*Checkpoint*, in three layouts of the same tensors: Hugging Face's (with or without `esmc.`), the `.pth` of 2024, and
Transformer Engine's names, whose `_extra_state` is left out. The latter two hold queries, keys and values as one
matrix, and gate and value of the feed-forward block as another. Heads for other tasks are left out by name.

Shapes in the comments: t tokens of the pack; h heads of width e; d = h * e; f the width between the two feed-forward
products.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from embedstore.errors import WeightsError
from embedstore.identity import Recipe
from embedstore.models import esm, rotary
from embedstore.models.attention import Attend, attention
from embedstore.models.checkpoint import Checkpoint, shown
from embedstore.models.encoder import PackEncoder, through_layers
from embedstore.models.packed import PackedEmbedder, load_packed
from embedstore.models.pooling import See
from embedstore.models.weights import EXTRA_STATE, read_tensors

_CHAIN_BREAK = 31
VOCABULARY = (*esm.VOCABULARY[:_CHAIN_BREAK], "|", *esm.VOCABULARY[_CHAIN_BREAK + 1 :])
"""Tokens in the order of their ids."""

_EMBEDDINGS = 64  # of which the vocabulary uses the first 33
_NORM_EPSILON = 1e-5
_ROTARY_BASE = 10_000.0
_POSITIONS = {"rope_theta": _ROTARY_BASE, "rope_type": "default"}
_LAYERS_UNSCALED = 36


@dataclass(frozen=True, slots=True)
class EsmcShape:
    """Sizes of one checkpoint."""

    hidden: int
    layers: int
    heads: int
    intermediate: int

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor that the encoder needs, by Hugging Face's names without the `esmc.` prefix."""
        hidden, inner = self.hidden, self.intermediate
        shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (_EMBEDDINGS, hidden)}
        for number in range(self.layers):
            layer = f"layers.{number}."
            shapes |= {
                layer + "input_layernorm.weight": (hidden,),
                layer + "input_layernorm.bias": (hidden,),
                layer + "self_attn.q_proj.weight": (hidden, hidden),
                layer + "self_attn.k_proj.weight": (hidden, hidden),
                layer + "self_attn.v_proj.weight": (hidden, hidden),
                layer + "self_attn.q_norm.weight": (hidden,),
                layer + "self_attn.k_norm.weight": (hidden,),
                layer + "self_attn.o_proj.weight": (hidden, hidden),
                layer + "post_attention_layernorm.weight": (hidden,),
                layer + "post_attention_layernorm.bias": (hidden,),
                layer + "mlp.gate_proj.weight": (inner, hidden),
                layer + "mlp.up_proj.weight": (inner, hidden),
                layer + "mlp.down_proj.weight": (hidden, inner),
            }
        shapes["norm.weight"] = (hidden,)
        return shapes

    def operations(self, lengths: Sequence[int]) -> int:
        """Floating-point operations of the matrix products: two for each weight and token, or pair of tokens."""
        weights = self.layers * self.hidden * (4 * self.hidden + 3 * self.intermediate)
        pairs = sum(length**2 for length in lengths)
        return 2 * weights * sum(lengths) + 4 * self.layers * self.hidden * pairs


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """Weights of one layer; those that add to the states are scaled."""

    attention_norm: Tensor
    attention_norm_bias: Tensor
    qkv: Tensor
    """(3 d, d): of queries and keys, the values of each pair are adjacent."""
    query_norm: Tensor
    key_norm: Tensor
    attention_out: Tensor
    norm: Tensor
    norm_bias: Tensor
    gate_and_value: Tensor
    """(2 f, d)."""
    contract: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> _Layer:
        return _Layer(*(getattr(self, field.name).to(device, dtype) for field in fields(self)))


class EsmcEncoder(PackEncoder[EsmcShape]):
    """Weights of one checkpoint on one device, and the forward pass. Threads may share it."""

    def __init__(
        self, shape: EsmcShape, embeddings: Tensor, frequencies: Tensor, layers: Sequence[_Layer], final_norm: Tensor
    ) -> None:
        super().__init__(shape, embeddings)
        self._frequencies = frequencies
        self._layers = tuple(layers)
        self._final_norm = final_norm
        self._rotate = rotary.rotator(self.device, self.dtype)

    @classmethod
    def from_tensors(cls, shape: EsmcShape, tensors: Mapping[str, Tensor]) -> EsmcEncoder:
        """Take the float32 tensors that `shape.tensors()` names, on the CPU."""
        width, scale = shape.hidden // shape.heads, math.sqrt(shape.layers / _LAYERS_UNSCALED)
        order = rotary.pair_order(width, shape.heads)  # (d,)

        def layer(name: str) -> _Layer:
            def weight(part: str) -> Tensor:
                return tensors[f"{name}{part}.weight"]

            query, key = (weight(f"self_attn.{part}_proj")[order] for part in "qk")
            return _Layer(
                attention_norm=weight("input_layernorm"),
                attention_norm_bias=tensors[name + "input_layernorm.bias"],
                qkv=torch.cat([query, key, weight("self_attn.v_proj")]),
                query_norm=weight("self_attn.q_norm")[order],
                key_norm=weight("self_attn.k_norm")[order],
                attention_out=weight("self_attn.o_proj") / scale,
                norm=weight("post_attention_layernorm"),
                norm_bias=tensors[name + "post_attention_layernorm.bias"],
                gate_and_value=torch.cat([weight("mlp.gate_proj"), weight("mlp.up_proj")]),
                contract=weight("mlp.down_proj") / scale,
            )

        return cls(
            shape,
            tensors["embed_tokens.weight"],
            1.0 / (_ROTARY_BASE ** (torch.arange(0, width, 2, dtype=torch.float32) / width)),  # (e / 2,)
            [layer(f"layers.{number}.") for number in range(shape.layers)],
            tensors["norm.weight"],
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> EsmcEncoder:
        """Return the encoder on another device or in another precision."""
        return EsmcEncoder(
            self.shape,
            self._embeddings.to(device, dtype),
            self._frequencies.to(device),  # computed on the CPU; angles are always computed in float32
            [layer.to(device, dtype) for layer in self._layers],
            self._final_norm.to(device, dtype),
        )

    @torch.inference_mode()
    def hidden_states(
        self, token_ids: Tensor, lengths: Sequence[int], see: See | None = None, depth: int | None = None
    ) -> Tensor:
        """Return the states after the last layer and its norm.

        Parameters
        ----------
        token_ids : (t,) int64. Sequences, each with `<cls>` and `<eos>`, one after another.
        lengths : tokens of each sequence; they add up to t. In any order; similar lengths side by side are fastest.
        see : told the states after the embedding and after each layer, before the norm.
        depth : compute only so many layers; what is returned is then of no use.

        Returns
        -------
        (t, d) of the weights' dtype.
        """
        attend = attention(lengths, width=self._width, device=self.device, dtype=self.dtype)
        states = functional.embedding(token_ids, self._embeddings)  # (t, d)
        rotation = rotary.rotation(self._frequencies, rotary.positions(lengths, self.device), max(lengths))

        def compute(layer: _Layer, states: Tensor) -> Tensor:
            self._add_attention(layer, states, attend, rotation)
            self._feed_forward(layer, states)
            return states

        return self._norm(through_layers(self._layers, states, compute, see, depth), self._final_norm)

    @property
    def _width(self) -> int:
        """Of a head."""
        return self.shape.hidden // self.shape.heads

    def _add_attention(self, layer: _Layer, states: Tensor, attend: Attend, rotation: Tensor) -> None:
        """Add the layer's attention to the states."""
        normed = self._norm(states, layer.attention_norm, layer.attention_norm_bias)  # (t, d)
        qkv = functional.linear(normed, layer.qkv).view(-1, 3, self.shape.hidden)  # (t, 3, d)
        for place, weight in enumerate((layer.query_norm, layer.key_norm)):
            part = qkv[:, place]  # (t, d)
            part.copy_(self._norm(part, weight))
        by_head = qkv.view(-1, 3, self.shape.heads, self._width)  # (t, 3, h, e)
        self._rotate(by_head[:, :2], rotation)
        self.add_projection(states, layer.attention_out, attend(by_head))

    def _feed_forward(self, layer: _Layer, states: Tensor) -> None:
        """Add the layer's feed-forward block to the states."""
        normed = self._norm(states, layer.norm, layer.norm_bias)  # (t, d)
        gate, value = functional.linear(normed, layer.gate_and_value).chunk(2, 1)  # (t, f) each
        self.add_projection(states, layer.contract, functional.silu(gate, inplace=True).mul_(value))

    def _norm(self, states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.layer_norm(states, (self.shape.hidden,), weight, bias, _NORM_EPSILON)


_LEFT_OUT = re.compile(rf"(lm_head|sequence_head|classifier)\.|(.*\.)?{EXTRA_STATE}$")
"""Heads for other tasks, and what Transformer Engine keeps beside the weights."""

_BLOCK = re.compile(r"transformer\.blocks\.(\d+)\.(.+)")
_NORM, _OTHER_NORM = "input_layernorm.", "post_attention_layernorm."
_QKV = tuple(f"self_attn.{part}_proj.weight" for part in "qkv")
_GATE_AND_VALUE = ("mlp.gate_proj.weight", "mlp.up_proj.weight")
_IN_BLOCK: Mapping[str, tuple[str, ...]] = {
    "attn.q_ln.weight": ("self_attn.q_norm.weight",),
    "attn.k_ln.weight": ("self_attn.k_norm.weight",),
    "attn.out_proj.weight": ("self_attn.o_proj.weight",),
    # the .pth of 2024
    "attn.layernorm_qkv.0.weight": (_NORM + "weight",),
    "attn.layernorm_qkv.0.bias": (_NORM + "bias",),
    "attn.layernorm_qkv.1.weight": _QKV,
    "ffn.0.weight": (_OTHER_NORM + "weight",),
    "ffn.0.bias": (_OTHER_NORM + "bias",),
    "ffn.1.weight": _GATE_AND_VALUE,
    "ffn.3.weight": ("mlp.down_proj.weight",),
    # Transformer Engine
    "attn.layernorm_qkv.layer_norm_weight": (_NORM + "weight",),
    "attn.layernorm_qkv.layer_norm_bias": (_NORM + "bias",),
    "attn.layernorm_qkv.weight": _QKV,
    "ffn.layer_norm_weight": (_OTHER_NORM + "weight",),
    "ffn.layer_norm_bias": (_OTHER_NORM + "bias",),
    "ffn.fc1_weight": _GATE_AND_VALUE,
    "ffn.fc2_weight": ("mlp.down_proj.weight",),
}
"""Names within a block of the original package -> Hugging Face's within a layer."""
_OUTSIDE_BLOCKS = {"embed.weight": "embed_tokens.weight", "transformer.norm.weight": "norm.weight"}


def load(recipe: Recipe, checkpoint: Checkpoint, device: str | None) -> PackedEmbedder:
    """Load an ESM-C; see `packed.load_packed`."""
    return load_packed(recipe, checkpoint, device, read_encoder, esm.ProteinTokenizer(VOCABULARY))


def read_encoder(checkpoint: Checkpoint) -> EsmcEncoder:
    """Read the weights, as float32 on the CPU."""
    shape = read_shape(checkpoint)
    return EsmcEncoder.from_tensors(shape, read_tensors(checkpoint, shape.tensors(), expected_names))


def read_shape(checkpoint: Checkpoint) -> EsmcShape:
    """Take the sizes from the configuration.

    Raises
    ------
    WeightsError : an entry is missing or does not fit this architecture.
    """
    configuration = checkpoint.configuration
    hidden, heads = checkpoint.dim, checkpoint.size("num_attention_heads")
    if hidden % (2 * heads):
        raise WeightsError(
            f"Cannot load {checkpoint.path} as ESM-C: {hidden} values do not make {heads} heads of an even width."
        )
    stated = configuration.get("rope_parameters") or {}
    positions = _POSITIONS | stated if isinstance(stated, dict) else stated
    for entry, found, expected in (
        ("vocab_size", configuration.get("vocab_size"), _EMBEDDINGS),
        ("hidden_act", configuration.get("hidden_act", "silu"), "silu"),
        ("attention_bias", configuration.get("attention_bias") or False, False),
        ("mlp_bias", configuration.get("mlp_bias") or False, False),
        ("num_key_value_heads", configuration.get("num_key_value_heads") or heads, heads),
        ("head_dim", configuration.get("head_dim") or hidden // heads, hidden // heads),
        ("rope_parameters", positions, _POSITIONS),
    ):
        if found != expected:
            raise WeightsError(
                f"Cannot load {checkpoint.path} as ESM-C: expected {entry} {expected} in its configuration, "
                f"found {shown(found)}."
            )
    return EsmcShape(hidden, checkpoint.layers, heads, checkpoint.size("intermediate_size"))


def expected_names(name: str) -> Sequence[str]:
    """Expected names for one of any layout; none for what embeddings do not need."""
    name = name.removeprefix("esmc.")
    if _LEFT_OUT.match(name):
        return []
    block = _BLOCK.fullmatch(name)
    if block is not None:
        return [f"layers.{block[1]}.{part}" for part in _IN_BLOCK.get(block[2], (block[2],))]
    return [_OUTSIDE_BLOCKS.get(name, name)]
