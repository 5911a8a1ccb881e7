"""Encoders of protein T5 models: ProtT5, ProstT5 and Ankh: tokenizer, encoder without padding, loading.

*Tokens.* One residue, one token, by our own table: SentencePiece, given residues with blanks between them, makes one
`<unk>` of a run of unknown ones, and transformers 5 puts an `<unk>` before every residue of Ankh. `</s>` comes after
the residues and nothing before them; in ProstT5 `<AA2fold>` does, which says that amino acids follow, not structure.

U, Z, O and B are tokens of the vocabulary, but were X when ProtT5 was trained (Elnaggar et al. 2021,
doi:10.1109/TPAMI.2021.3095381), and the code of its model card writes them so: that is the default here,
`uzob_as_x`. The authors' script `prott5_embedder.py` leaves B as it is: `uzo_as_x`. Ankh keeps all four: `kept`. That
is a field of the recipe; the table itself is part of this code and of its tag, and no file of the tokenizer is read.

*Encoder* (T5: Raffel et al. 2020, arXiv:1910.10683). A pack is a list of sequences written one after another. Every
projection is one matrix product over the whole pack; attention stays within a sequence (`attention`), and no vector
depends on its neighbours. Where it differs from a common encoder: no projection and no norm has a bias; norms divide by
the root mean square alone, taken in float32; scores are not divided by the root of the width; h * e is not d; and
positions are a bias on the scores, learnt by the *bucket* of the distance between two tokens, in the first layer, and
the same in all. ProtT5 and ProstT5 have ReLU between the feed-forward products; Ankh's feed-forward is gated (Shazeer
2020, arXiv:2002.05202), with GELU by the tanh approximation.

What overflows in float16, as the feed-forward products of T5 do, is infinite, then not a number in the next norm, and
so reaches the vector and is computed again in float32 by `packed`.

*Checkpoint.* Hugging Face's, of the encoder or of the whole model, of which `decoder.` and `lm_head.` are left out.
`encoder.embed_tokens.weight` is another name of `shared.weight`, in some files beside it.

Shapes in the comments: t tokens of the pack; h heads of width e; d the width of the states; f the width between the two
feed-forward products.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from embedstore.errors import WeightsError
from embedstore.identity import RareResidues, Recipe
from embedstore.models.attention import Attend, attention, reach
from embedstore.models.checkpoint import Checkpoint, shown
from embedstore.models.encoder import PackEncoder, through_layers
from embedstore.models.packed import PackedEmbedder, load_packed
from embedstore.models.pooling import See
from embedstore.models.weights import read_tensors

VOCABULARY = ("<pad>", "</s>", "<unk>", *"ALGVSREDTIPKFQNYMHWCXBOUZ")
"""Tokens in the order of their ids, the same in all three; behind them are `<extra_id_…>` and others of no use here."""

_FIRST_IDS: Mapping[str, int] = {"prost_t5": 149}  # <AA2fold>
"""Architecture -> token before the residues."""

_AS_X: Mapping[RareResidues, bytes] = {"kept": b"", "uzo_as_x": b"UZO", "uzob_as_x": b"UZOB"}


class ResidueTokenizer:
    """Content tokens of proteins; see `packed.Tokenizer`.

    Parameters
    ----------
    first_id : of the token before the residues, None for none.
    rare_residues : which of U, Z, O and B are read as X.
    """

    last_id = VOCABULARY.index("</s>")

    def __init__(self, first_id: int | None, rare_residues: RareResidues) -> None:
        self.first_id = first_id
        self._ids = np.full(256, VOCABULARY.index("<unk>"), dtype=np.int64)
        for number, token in enumerate(VOCABULARY):
            if len(token) == 1:
                self._ids[ord(token)] = number
        self._ids[list(_AS_X[rare_residues])] = VOCABULARY.index("X")

    def content_ids(self, sequence: bytes) -> NDArray[np.int64]:
        """(len(sequence),) int64, without what is before and after them."""
        return self._ids[np.frombuffer(sequence, dtype=np.uint8)]

    def contents(self, sequences: Sequence[bytes]) -> list[NDArray[np.int64]]:
        """`content_ids` of each sequence."""
        return [self.content_ids(sequence) for sequence in sequences]


@dataclass(frozen=True, slots=True)
class T5Shape:
    """Sizes of one checkpoint.

    Attributes
    ----------
    width : of a head.
    buckets, max_distance : of relative positions, see `buckets_by_distance`.
    gated : the feed-forward block is gated, with GELU; otherwise it has ReLU.
    """

    hidden: int
    layers: int
    heads: int
    width: int
    intermediate: int
    vocabulary: int
    buckets: int
    max_distance: int
    norm_epsilon: float
    gated: bool

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor that the encoder needs, by Hugging Face's names."""
        hidden, inner, attended = self.hidden, self.intermediate, self.heads * self.width
        shapes: dict[str, tuple[int, ...]] = {
            "shared.weight": (self.vocabulary, hidden),
            _POSITIONS: (self.buckets, self.heads),
            "encoder.final_layer_norm.weight": (hidden,),
        }
        for number in range(self.layers):
            layer = f"encoder.block.{number}.layer."
            shapes |= {f"{layer}0.SelfAttention.{part}.weight": (attended, hidden) for part in "qkv"}
            shapes |= {f"{layer}1.DenseReluDense.{part}.weight": (inner, hidden) for part in self.expansions}
            shapes |= {
                f"{layer}0.SelfAttention.o.weight": (hidden, attended),
                f"{layer}0.layer_norm.weight": (hidden,),
                f"{layer}1.DenseReluDense.wo.weight": (hidden, inner),
                f"{layer}1.layer_norm.weight": (hidden,),
            }
        return shapes

    @property
    def expansions(self) -> tuple[str, ...]:
        """Names of the projections from d to f."""
        return ("wi_0", "wi_1") if self.gated else ("wi",)

    def operations(self, lengths: Sequence[int]) -> int:
        """Floating-point operations of the matrix products: two for each weight and token, or pair of tokens."""
        attended = self.heads * self.width
        products = 4 * attended + (len(self.expansions) + 1) * self.intermediate
        pairs = sum(length**2 for length in lengths)
        return 2 * self.layers * self.hidden * products * sum(lengths) + 4 * self.layers * attended * pairs


_POSITIONS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"


def buckets_by_distance(buckets: int, max_distance: int) -> Tensor:
    """Return the bucket of two tokens by their distance i - j, from -max_distance to max_distance; int64.

    Half of the buckets are for keys j that come after the query i, half for the others. In each, half are for one
    distance each, and half for ranges that grow as the logarithm; the last one is for all distances from
    `max_distance` on. Computed as transformers does, in float32, since rounding decides at the borders.
    """
    after = -torch.arange(-max_distance, max_distance + 1)  # j - i, (2 max_distance + 1,)
    side, distance = buckets // 2, after.abs()
    exact = side // 2
    growth = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (side - exact)
    far = (exact + growth.long()).clamp(max=side - 1)
    return (after > 0) * side + torch.where(distance < exact, distance, far)


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    attention_norm: Tensor
    qkv: Tensor
    attention_out: Tensor
    norm: Tensor
    expand: Tensor
    """(f, d), or gated (2 f, d): of the gate, and of what is gated."""
    contract: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> _Layer:
        return _Layer(*(getattr(self, field.name).to(device, dtype) for field in fields(self)))


class T5Encoder(PackEncoder[T5Shape]):
    """Weights of one checkpoint on one device, and the forward pass. Threads may share it.

    Parameters
    ----------
    positions : (h, 2 max_distance + 1): bias by distance i - j.
    """

    def __init__(
        self, shape: T5Shape, embeddings: Tensor, positions: Tensor, layers: Sequence[_Layer], final_norm: Tensor
    ) -> None:
        super().__init__(shape, embeddings)
        self._positions = positions
        self._layers = tuple(layers)
        self._final_norm = final_norm

    @classmethod
    def from_tensors(cls, shape: T5Shape, tensors: Mapping[str, Tensor]) -> T5Encoder:
        """Take the float32 tensors that `shape.tensors()` names."""

        def stacked(name: str, parts: Sequence[str]) -> Tensor:
            found = [tensors[f"{name}.{part}.weight"] for part in parts]
            return found[0] if len(found) == 1 else torch.cat(found)

        def layer(name: str) -> _Layer:
            return _Layer(
                attention_norm=tensors[name + "0.layer_norm.weight"],
                qkv=stacked(name + "0.SelfAttention", "qkv"),
                attention_out=tensors[name + "0.SelfAttention.o.weight"],
                norm=tensors[name + "1.layer_norm.weight"],
                expand=stacked(name + "1.DenseReluDense", shape.expansions),
                contract=tensors[name + "1.DenseReluDense.wo.weight"],
            )

        return cls(
            shape,
            tensors["shared.weight"],
            tensors[_POSITIONS][buckets_by_distance(shape.buckets, shape.max_distance)].t().contiguous(),
            [layer(f"encoder.block.{number}.layer.") for number in range(shape.layers)],
            tensors["encoder.final_layer_norm.weight"],
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> T5Encoder:
        """Return the encoder on another device or in another precision."""
        return T5Encoder(
            self.shape,
            self._embeddings.to(device, dtype),
            self._positions.to(device, dtype),
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
        token_ids : (t,) int64. Sequences, each with its special tokens, one after another.
        lengths : tokens of each sequence; they add up to t. In any order; similar lengths side by side are fastest.
        see : told the states after the embedding and after each layer, before the norm.
        depth : compute only so many layers; what is returned is then of no use.

        Returns
        -------
        (t, d) of the weights' dtype.
        """
        bias = self._bias(reach(lengths))
        attend = attention(lengths, width=self.shape.width, device=self.device, dtype=self.dtype, bias=bias, scale=1.0)
        states = functional.embedding(token_ids, self._embeddings)  # (t, d)

        def compute(layer: _Layer, states: Tensor) -> Tensor:
            self._add_attention(layer, states, attend)
            self._feed_forward(layer, states)
            return states

        return self._norm(self._final_norm, through_layers(self._layers, states, compute, see, depth))

    def _bias(self, longest: int) -> Tensor:
        """Bias from distance 1 - longest to longest - 1, (h, 2 longest - 1)."""
        far = self.shape.max_distance
        distances = torch.arange(1 - longest, longest, device=self.device).clamp_(-far, far).add_(far)
        return self._positions.index_select(1, distances)

    def _add_attention(self, layer: _Layer, states: Tensor, attend: Attend) -> None:
        """Add the layer's attention to the states."""
        qkv = functional.linear(self._norm(layer.attention_norm, states), layer.qkv)  # (t, 3 h e)
        mixed = attend(qkv.view(-1, 3, self.shape.heads, self.shape.width))  # (t, h e)
        self.add_projection(states, layer.attention_out, mixed)

    def _feed_forward(self, layer: _Layer, states: Tensor) -> None:
        """Add the layer's feed-forward block to the states; what is large is changed in place."""
        inner = functional.linear(self._norm(layer.norm, states), layer.expand)  # (t, f), or gated (t, 2 f)
        if self.shape.gated:
            inner, value = inner.chunk(2, dim=1)  # (t, f) each
            torch.ops.aten.gelu_(inner, approximate="tanh").mul_(value)
        else:
            torch.relu_(inner)
        self.add_projection(states, layer.contract, inner)

    def _norm(self, weight: Tensor, states: Tensor) -> Tensor:
        return functional.rms_norm(states, (self.shape.hidden,), weight, self.shape.norm_epsilon)


_LEFT_OUT = re.compile(r"decoder\.|lm_head\.|encoder\.embed_tokens\.weight$")
"""The decoder and its head, and another name of `shared.weight`."""


def load(recipe: Recipe, checkpoint: Checkpoint, device: str | None) -> PackedEmbedder:
    """Load a T5 encoder; see `packed.load_packed`."""
    tokenizer = ResidueTokenizer(_FIRST_IDS.get(checkpoint.architecture), recipe.rare_residues)
    return load_packed(recipe, checkpoint, device, read_encoder, tokenizer)


def read_encoder(checkpoint: Checkpoint) -> T5Encoder:
    """Read the weights, as float32 on the CPU.

    Raises
    ------
    WeightsError : a tensor or the configuration is not that of the architecture.
    """
    shape = read_shape(checkpoint)
    tensors = read_tensors(checkpoint, shape.tensors(), lambda name: [] if _LEFT_OUT.match(name) else [name])
    return T5Encoder.from_tensors(shape, tensors)


def read_shape(checkpoint: Checkpoint) -> T5Shape:
    """Take the sizes from the configuration.

    Raises
    ------
    WeightsError : an entry is missing or does not fit this architecture.
    """
    epsilon = checkpoint.configuration.get("layer_norm_epsilon", 1e-6)
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise _unfit(checkpoint, "a layer_norm_epsilon", epsilon)
    shape = T5Shape(
        hidden=checkpoint.dim,
        layers=checkpoint.layers,
        heads=checkpoint.size("num_heads"),
        width=checkpoint.size("d_kv"),
        intermediate=checkpoint.size("d_ff"),
        vocabulary=checkpoint.size("vocab_size"),
        buckets=checkpoint.size("relative_attention_num_buckets"),
        max_distance=checkpoint.size("relative_attention_max_distance"),
        norm_epsilon=epsilon,
        gated=checkpoint.configuration.get("feed_forward_proj") == "gated-gelu",
    )
    if shape.buckets % 4:
        raise _unfit(checkpoint, "a multiple of 4 as relative_attention_num_buckets", shape.buckets)
    if shape.max_distance <= shape.buckets // 4:
        raise _unfit(checkpoint, f"a relative_attention_max_distance above {shape.buckets // 4}", shape.max_distance)
    return shape


def _unfit(checkpoint: Checkpoint, expected: str, found: Any) -> WeightsError:
    return WeightsError(
        f"Cannot load {checkpoint.path} as {checkpoint.architecture}: expected {expected} in its configuration, "
        f"found {shown(found)}."
    )
