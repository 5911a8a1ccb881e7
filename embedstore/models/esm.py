"""ESM-2, FastESM2, ESM-1b and ESM-1v, from a checkpoint in any layout: tokens, encoder without padding, loading.

*Tokens.* One residue, one token. Hugging Face's EsmTokenizer turns a run of unknown residues into one `<unk>`, and
fair-esm raises KeyError; here each residue that is missing from the vocabulary (of the canonical ones that is J) is one
`<unk>`.

*Encoder* (ESM-2: Lin et al. 2023, doi:10.1126/science.ade2574). A pack is a list of sequences written one after
another. Every projection is one matrix product over the whole pack; attention stays within a sequence (`attention`),
and no vector depends on its neighbours. Positions are rotary (see `rotary`), with the frequencies that the checkpoint
holds: where they were stored rounded, recomputed ones give other numbers. Large intermediate results are changed in
place: on a CPU, fresh memory costs more than the arithmetic.

*ESM-1b* (Rives et al. 2021, doi:10.1073/pnas.2016239118) *and ESM-1v* (Meier et al. 2021,
doi:10.1101/2021.07.09.450648) are older. Positions are learned: a vector for each, of which the first residue's token
`<cls>` has number 2, is added to the token's; there are as many as the model was trained on, so that 1 022 residues are
the most that it sees at once. ESM-1b norms the sum before the first layer, ESM-1v does not.

Shapes in the comments: t tokens of the pack; h heads of width e; d = h * e; f the width between the two feed-forward
products.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from embedstore.errors import WeightsError
from embedstore.identity import Recipe
from embedstore.models import rotary
from embedstore.models.attention import Attend, attention
from embedstore.models.checkpoint import FIRST_POSITION, Checkpoint, shown
from embedstore.models.encoder import PackEncoder, through_layers
from embedstore.models.packed import PackedEmbedder, load_packed
from embedstore.models.pooling import See
from embedstore.models.weights import read_tensors

VOCABULARY = (
    *("<cls>", "<pad>", "<eos>", "<unk>"),
    *"LAGVSERTIDPKQNFYMHWCXBUZO.-",
    *("<null_1>", "<mask>"),
)
"""Tokens in the order of their ids, as in `vocab.txt` of the published checkpoints."""

_UNKNOWN = VOCABULARY.index("<unk>")


class ProteinTokenizer:
    """Content tokens of proteins; see `packed.Tokenizer`.

    Parameters
    ----------
    vocabulary : tokens in the order of their ids, which begins as that of ESM-2.
    """

    first_id = VOCABULARY.index("<cls>")
    last_id = VOCABULARY.index("<eos>")

    def __init__(self, vocabulary: Sequence[str] = VOCABULARY) -> None:
        self._ids = np.full(256, _UNKNOWN, dtype=np.int64)
        for number, token in enumerate(vocabulary):
            if len(token) == 1:
                self._ids[ord(token)] = number

    def content_ids(self, sequence: bytes) -> NDArray[np.int64]:
        """(len(sequence),) int64, without `<cls>` and `<eos>`."""
        return self._ids[np.frombuffer(sequence, dtype=np.uint8)]

    def contents(self, sequences: Sequence[bytes]) -> list[NDArray[np.int64]]:
        """`content_ids` of each sequence."""
        return [self.content_ids(sequence) for sequence in sequences]


_TOKEN_DROPOUT_SCALE = 1 - 0.15 * 0.8
"""Trained with 15 % of tokens masked, 80 % of these blanked; inference scales as if that were so on average."""


@dataclass(frozen=True, slots=True)
class EsmShape:
    """Sizes of one checkpoint.

    Attributes
    ----------
    positions : how many are learned; 0: they are rotary.
    norm_before : whether states are normed before the first layer.
    """

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    norm_epsilon: float
    token_dropout: bool
    positions: int = 0
    norm_before: bool = False

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor that the encoder needs, by Hugging Face's names without the `esm.` prefix."""
        hidden, inner = self.hidden, self.intermediate
        shapes: dict[str, tuple[int, ...]] = {"embeddings.word_embeddings.weight": (self.vocabulary, hidden)}
        if self.positions:
            shapes["embeddings.position_embeddings.weight"] = (self.positions, hidden)
        if self.norm_before:
            shapes["embeddings.layer_norm.weight"] = shapes["embeddings.layer_norm.bias"] = (hidden,)
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
                layer + "attention.output.dense.weight": (hidden, hidden),
                layer + "attention.output.dense.bias": (hidden,),
                layer + "LayerNorm.weight": (hidden,),
                layer + "LayerNorm.bias": (hidden,),
                layer + "intermediate.dense.weight": (inner, hidden),
                layer + "intermediate.dense.bias": (inner,),
                layer + "output.dense.weight": (hidden, inner),
                layer + "output.dense.bias": (hidden,),
            }
            if not self.positions:
                shapes[layer + "attention.self.rotary_embeddings.inv_freq"] = (hidden // self.heads // 2,)
        shapes["encoder.emb_layer_norm_after.weight"] = (hidden,)
        shapes["encoder.emb_layer_norm_after.bias"] = (hidden,)
        return shapes

    def operations(self, lengths: Sequence[int]) -> int:
        """Floating-point operations of the matrix products: two for each weight and token, or pair of tokens."""
        weights = self.layers * self.hidden * (4 * self.hidden + 2 * self.intermediate)
        pairs = sum(length**2 for length in lengths)
        return 2 * weights * sum(lengths) + 4 * self.layers * self.hidden * pairs


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
    """Which of the encoder's sets of rotary frequencies this layer has, if any; in practice all have the first."""

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


class EsmEncoder(PackEncoder[EsmShape]):
    """Weights of one checkpoint on one device, and the forward pass. Threads may share it.

    Parameters
    ----------
    embeddings : (vocabulary, d).
    positions : (positions, d), or None where they are rotary.
    norm_before : of the sum of both, or None.
    frequencies : sets of rotary frequencies, (e / 2,) float32 each; none where positions are learned.
    """

    def __init__(
        self,
        shape: EsmShape,
        embeddings: Tensor,
        positions: Tensor | None,
        norm_before: _Affine | None,
        frequencies: Sequence[Tensor],
        layers: Sequence[_Layer],
        final_norm: _Affine,
    ) -> None:
        super().__init__(shape, embeddings)
        self._positions = positions
        self._norm_before = norm_before
        self._frequencies = tuple(frequencies)
        self._layers = tuple(layers)
        self._final_norm = final_norm
        self._rotate = rotary.rotator(self.device, self.dtype)

    @classmethod
    def from_tensors(cls, shape: EsmShape, tensors: Mapping[str, Tensor]) -> EsmEncoder:
        """Take the float32 tensors that `shape.tensors()` names."""

        def affine(name: str) -> _Affine:
            return _Affine(tensors[name + ".weight"], tensors[name + ".bias"])

        frequencies: list[Tensor] = []

        def frequency_set(name: str) -> int:
            if shape.positions:
                return 0
            for number, known in enumerate(frequencies):
                if torch.equal(known, tensors[name]):
                    return number
            frequencies.append(tensors[name])
            return len(frequencies) - 1

        def layer(name: str) -> _Layer:
            query, key, value = (affine(f"{name}attention.self.{part}") for part in ("query", "key", "value"))
            if not shape.positions:
                query, key = _with_pairs_adjacent(query, shape.heads), _with_pairs_adjacent(key, shape.heads)
            return _Layer(
                attention_norm=affine(name + "attention.LayerNorm"),
                qkv=_stacked(query, key, value),
                attention_out=affine(name + "attention.output.dense"),
                norm=affine(name + "LayerNorm"),
                expand=affine(name + "intermediate.dense"),
                contract=affine(name + "output.dense"),
                frequencies=frequency_set(name + "attention.self.rotary_embeddings.inv_freq"),
            )

        embeddings = tensors["embeddings.word_embeddings.weight"]
        layers = [layer(f"encoder.layer.{number}.") for number in range(shape.layers)]
        return cls(
            shape,
            embeddings * _TOKEN_DROPOUT_SCALE if shape.token_dropout else embeddings,
            tensors["embeddings.position_embeddings.weight"] if shape.positions else None,
            affine("embeddings.layer_norm") if shape.norm_before else None,
            frequencies,
            layers,
            affine("encoder.emb_layer_norm_after"),
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> EsmEncoder:
        """Return the encoder on another device or in another precision."""
        return EsmEncoder(
            self.shape,
            self._embeddings.to(device, dtype),
            None if self._positions is None else self._positions.to(device, dtype),
            None if self._norm_before is None else self._norm_before.to(device, dtype),
            [frequencies.to(device) for frequencies in self._frequencies],  # angles are always computed in float32
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
        places, longest = rotary.positions(lengths, self.device), max(lengths)
        states = self._embed(token_ids, places)  # (t, d)
        rotations = [rotary.rotation(frequencies, places, longest) for frequencies in self._frequencies]

        def compute(layer: _Layer, states: Tensor) -> Tensor:
            self._add_attention(layer, states, attend, rotations)
            self._feed_forward(layer, states)
            return states

        return self._norm(self._final_norm, through_layers(self._layers, states, compute, see, depth))

    @property
    def _width(self) -> int:
        """Of a head."""
        return self.shape.hidden // self.shape.heads

    def _embed(self, token_ids: Tensor, places: Tensor) -> Tensor:
        """States before the first layer, (t, d)."""
        states = functional.embedding(token_ids, self._embeddings)
        if self._positions is not None:
            states += self._positions[FIRST_POSITION:].index_select(0, places)
        return states if self._norm_before is None else self._norm(self._norm_before, states)

    def _add_attention(self, layer: _Layer, states: Tensor, attend: Attend, rotations: Sequence[Tensor]) -> None:
        """Add the layer's attention to the states."""
        normed = self._norm(layer.attention_norm, states)  # (t, d)
        qkv = _project(layer.qkv, normed).view(-1, 3, self.shape.heads, self._width)  # (t, 3, h, e)
        if rotations:
            self._rotate(qkv[:, :2], rotations[layer.frequencies])
        self.add_projection(states, layer.attention_out.weight, attend(qkv), layer.attention_out.bias)

    def _feed_forward(self, layer: _Layer, states: Tensor) -> None:
        """Add the layer's feed-forward block to the states."""
        inner = _project(layer.expand, self._norm(layer.norm, states))  # (t, f)
        torch.ops.aten.gelu_(inner)  # by the error function
        self.add_projection(states, layer.contract.weight, inner, layer.contract.bias)

    def _norm(self, norm: _Affine, states: Tensor) -> Tensor:
        return functional.layer_norm(states, (self.shape.hidden,), norm.weight, norm.bias, self.shape.norm_epsilon)


def _with_pairs_adjacent(affine: _Affine, heads: int) -> _Affine:
    order = rotary.pair_order(len(affine.bias) // heads, heads)
    return _Affine(affine.weight[order], affine.bias[order])


def _stacked(*parts: _Affine) -> _Affine:
    return _Affine(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))


def _project(affine: _Affine, states: Tensor) -> Tensor:
    return functional.linear(states, affine.weight, affine.bias)


_LEFT_OUT = re.compile(r"(lm_head|contact_head|pooler)\.|embeddings\.(position_ids|position_embeddings\.weight)$")
"""Heads for other tasks, and what rotary positions make useless; what is expected is not left out."""

_LARGEST_VOCABULARY_BYTES = 1 << 16

_SHARED_FREQUENCIES = (
    "rotary_embeddings.inv_freq",
    "encoder.layer.*.attention.self.rotary_embeddings.inv_freq",  # with an asterisk: as transformers 5 writes it
)
_TRANSFORMERS_5_NAMES = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}

_FAIR_ESM_NAMES = {
    "embed_tokens.": "embeddings.word_embeddings.",
    "embed_positions.": "embeddings.position_embeddings.",
    "emb_layer_norm_before.": "embeddings.layer_norm.",
    "emb_layer_norm_after.": "encoder.emb_layer_norm_after.",
    "layers.": "encoder.layer.",
    ".self_attn_layer_norm.": ".attention.LayerNorm.",
    ".self_attn.q_proj.": ".attention.self.query.",
    ".self_attn.k_proj.": ".attention.self.key.",
    ".self_attn.v_proj.": ".attention.self.value.",
    ".self_attn.rot_emb.": ".attention.self.rotary_embeddings.",
    ".self_attn.out_proj.": ".attention.output.dense.",
    ".final_layer_norm.": ".LayerNorm.",
    ".fc1.": ".intermediate.dense.",
    ".fc2.": ".output.dense.",
}
"""Parts of fair-esm's names -> Hugging Face's."""


@dataclass(frozen=True, slots=True)
class _Family:
    """In what the models of this module differ."""

    title: str
    learned_positions: bool = False
    norm_before: bool = False


_FAMILIES = {
    "esm2": _Family("ESM-2"),
    "fastesm2": _Family("ESM-2"),
    "esm1b": _Family("ESM-1b", learned_positions=True, norm_before=True),
    "esm1v": _Family("ESM-1v", learned_positions=True),
}


def load(recipe: Recipe, checkpoint: Checkpoint, device: str | None) -> PackedEmbedder:
    """Load an ESM-2, FastESM2, ESM-1b or ESM-1v; see `packed.load_packed`."""
    return load_packed(recipe, checkpoint, device, read_encoder, ProteinTokenizer())


def read_encoder(checkpoint: Checkpoint) -> EsmEncoder:
    """Read the weights, as float32 on the CPU."""
    shape = _shape(checkpoint)
    _check_vocabulary(checkpoint)
    expected = shape.tensors()
    names = _fair_esm_names if checkpoint.layout == "fair-esm" else _hugging_face_names
    return EsmEncoder.from_tensors(shape, read_tensors(checkpoint, expected, lambda name: names(name, expected)))


def _shape(checkpoint: Checkpoint) -> EsmShape:
    configuration, family = checkpoint.configuration, _FAMILIES[checkpoint.architecture]
    for entry, default, expected in (
        ("position_embedding_type", "rotary", "absolute" if family.learned_positions else "rotary"),
        ("hidden_act", "gelu", "gelu"),
        ("emb_layer_norm_before", False, family.norm_before),
        ("is_folding_model", False, False),
        ("vocab_size", None, len(VOCABULARY)),
    ):
        found = configuration.get(entry, default)
        if (found or False) != expected:
            raise WeightsError(
                f"Cannot load {checkpoint.path} as {family.title}: expected {entry} {expected} in its configuration, "
                f"found {shown(found)}."
            )
    epsilon = configuration.get("layer_norm_eps")
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise WeightsError(
            f"Cannot load {checkpoint.path} as {family.title}: expected a layer_norm_eps, found {shown(epsilon)}."
        )
    hidden, heads = checkpoint.dim, checkpoint.size("num_attention_heads")
    if hidden % (2 * heads):
        raise WeightsError(
            f"Cannot load {checkpoint.path} as {family.title}: {hidden} values do not make {heads} heads of an even "
            "width."
        )
    return EsmShape(
        hidden=hidden,
        layers=checkpoint.layers,
        heads=heads,
        intermediate=checkpoint.size("intermediate_size"),
        vocabulary=len(VOCABULARY),
        norm_epsilon=epsilon,
        token_dropout=bool(configuration.get("token_dropout", False)),
        positions=checkpoint.size("max_position_embeddings") if family.learned_positions else 0,
        norm_before=family.norm_before,
    )


def _check_vocabulary(checkpoint: Checkpoint) -> None:
    file = checkpoint.weights[0].parent / "vocab.txt"
    if checkpoint.layout == "huggingface" and file.is_file():
        with file.open("rb") as stream:
            found = tuple(stream.read(_LARGEST_VOCABULARY_BYTES).decode("utf-8", "replace").split())
        if found != VOCABULARY:
            title = _FAMILIES[checkpoint.architecture].title
            raise WeightsError(f"Cannot load {checkpoint.path} as {title}: {file.name} has a different vocabulary.")


def _hugging_face_names(name: str, expected: Collection[str]) -> list[str]:
    """Expected names for one of Hugging Face's, with or without the prefix of a model that has heads."""
    name = name.removeprefix("esm.")
    if name not in expected and _LEFT_OUT.match(name):
        return []
    if name in _SHARED_FREQUENCIES:
        return [layer for layer in expected if layer.endswith(".inv_freq")]
    for theirs, ours in _TRANSFORMERS_5_NAMES.items():
        if name.endswith(theirs):
            name = name.removesuffix(theirs) + ours
    return [name]


def _fair_esm_names(name: str, expected: Collection[str]) -> list[str]:
    """Expected names for one of fair-esm's."""
    del expected
    name = name.removeprefix("encoder.").removeprefix("sentence_encoder.")
    if _LEFT_OUT.match(name):
        return []
    for theirs, ours in _FAIR_ESM_NAMES.items():
        if name.startswith(theirs) or (theirs.startswith(".") and theirs in name):
            name = name.replace(theirs, ours, 1)
    return [name]
