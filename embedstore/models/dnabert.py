"""DNABERT-2 and DNABERT-S, from their published checkpoints: tokenizer, encoder without padding, loading.

*Tokens.* Byte-pair encoding over A C G T, with the merges of the checkpoint's `tokenizer.json`. Three settings of that
file are disabled here: truncation to 2 000 tokens, padding *to* 2 000 tokens, and special tokens spelt out in the input
("[SEP]" in a sequence would become the real separator). Every character that is not A, C, G or T is one unknown token.
Canonical sequences are upper-case, so only N and the other IUPAC codes are unknown; the original tokenizer, given
lower-case DNA, makes each base unknown.

*Encoder.* A pack is a list of sequences written one after another. Every projection is one matrix product over the
whole pack; attention stays within a sequence (`attention`), and no vector depends on its neighbours.
The architecture is BERT (post-LN) as in DNABERT-2 (Zhou et al. 2023, arXiv:2306.15006; DNABERT-S: Zhou et al. 2024,
arXiv:2402.08777). Instead of position embeddings it uses ALiBi (Press et al. 2021, arXiv:2108.12409), here symmetric:
the score of tokens i and j is lowered by slope * |i - j|. A gated feed-forward block (Shazeer 2020, arXiv:2002.05202).
Shapes in the comments: t tokens of the pack; h heads of width e; d = h * e; f the width between the two feed-forward
products.

*Checkpoint.* `config.json`, `pytorch_model.bin` or `model.safetensors`, `tokenizer.json`. Names may start with `bert.`
(DNABERT-2-117M); the pooler and the language-model head are left out by name: embeddings do not need them. The default
`max_length_tokens` of 1 998 makes, with [CLS] and [SEP], 2 000 tokens, the most that both models were trained on. ALiBi
extends further, and the authors evaluated up to 5 000 tokens; but the training length is the safer default, and at
5 000 tokens attention costs nearly as much as all matrix products.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from torch import Tensor
from torch.nn import functional

from embedstore.errors import WeightsError, WeightsNotFoundError, plain
from embedstore.identity import Recipe
from embedstore.models.attention import Attend, attention, reach
from embedstore.models.checkpoint import Checkpoint, shown
from embedstore.models.encoder import PackEncoder, through_layers
from embedstore.models.packed import PackedEmbedder, load_packed
from embedstore.models.pooling import See
from embedstore.models.weights import read_tensors

CLS, SEP, UNK = "[CLS]", "[SEP]", "[UNK]"
LARGEST_TOKENIZER_BYTES = 64 << 20
_SHOWN_CHARACTERS = 500
_PANIC = "PanicException"
"""What the package's Rust code raises where it meets a state that it takes for impossible; no Exception."""


@dataclass(frozen=True, slots=True, eq=False)
class DnaTokenizer:
    """Content tokens of DNA; the ids that every window starts and ends with are kept beside it.

    Attributes
    ----------
    vocabulary : number of ids; all ids are below it.
    """

    first_id: int
    last_id: int
    vocabulary: int
    _tokenizer: Tokenizer

    @classmethod
    def from_file(cls, path: Path) -> DnaTokenizer:
        """Read a `tokenizer.json`.

        Raises
        ------
        WeightsNotFoundError : there is no such file.
        WeightsError : it is not a tokenizer, or not one of DNABERT's kind.
        """
        if not path.is_file():
            raise WeightsNotFoundError(
                f"Cannot load the DNABERT tokenizer: there is no {path}. "
                "Put the checkpoint's tokenizer.json beside its weights."
            )
        with path.open("rb") as stream:
            content = stream.read(LARGEST_TOKENIZER_BYTES + 1)
        if len(content) > LARGEST_TOKENIZER_BYTES:
            raise WeightsError(
                f"Cannot load the DNABERT tokenizer {path}: expected at most {LARGEST_TOKENIZER_BYTES} bytes."
            )
        try:
            return cls._checked(Tokenizer.from_str(content.decode("utf-8")), path)
        except WeightsError:
            raise
        except BaseException as error:  # the package raises nothing more specific for a malformed file
            if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
                raise
            raise WeightsError(
                f"Cannot load the DNABERT tokenizer {path}: {plain(error, _SHOWN_CHARACTERS)}."
            ) from error

    @classmethod
    def _checked(cls, tokenizer: Tokenizer, path: Path) -> DnaTokenizer:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        first, last = tokenizer.token_to_id(CLS), tokenizer.token_to_id(SEP)
        missing = [token for token in (CLS, SEP, UNK, *"ACGT") if _has_no(tokenizer, token)]
        if missing or first is None or last is None:
            raise WeightsError(
                f"Cannot use the tokenizer {path} for DNABERT: expected the tokens [CLS] [SEP] [UNK] A C G T in its "
                f"vocabulary, found no {' '.join(missing)}."
            )
        framed = tokenizer.encode("A").ids
        if framed != [first, tokenizer.token_to_id("A"), last]:
            raise WeightsError(
                f"Cannot use the tokenizer {path} for DNABERT: expected it to write A as [CLS] A [SEP], "
                f"found ids {framed}."
            )
        ids = tokenizer.get_vocab(with_added_tokens=True).values()
        return cls(first_id=first, last_id=last, vocabulary=max(ids) + 1, _tokenizer=tokenizer)

    def content_ids(self, sequence: bytes) -> NDArray[np.int64]:
        """Tokenise one canonical sequence of any length.

        Returns
        -------
        (t,) int64, without [CLS] and [SEP].
        """
        return self.contents([sequence])[0]

    def contents(self, sequences: Sequence[bytes]) -> list[NDArray[np.int64]]:
        """Tokenise canonical sequences of any length; other threads run meanwhile.

        Returns
        -------
        (t,) int64 for each sequence, without [CLS] and [SEP].
        """
        texts = [sequence.decode("ascii") for sequence in sequences]
        encodings = self._encode(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    @property
    def _encode(self) -> Callable[..., list[Encoding]]:
        """Encode many on all cores, outside the interpreter's lock; faster without the places of the tokens, if it can.

        One by one they are encoded under the lock: nobody else runs.
        """
        return getattr(self._tokenizer, "encode_batch_fast", self._tokenizer.encode_batch)


def _has_no(tokenizer: Tokenizer, token: str) -> bool:
    return tokenizer.token_to_id(token) is None


@dataclass(frozen=True, slots=True)
class DnabertShape:
    """Sizes of one checkpoint."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    token_types: int
    norm_epsilon: float

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor that the encoder needs, by the names of the published checkpoints."""
        hidden = self.hidden
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (self.vocabulary, hidden),
            "embeddings.token_type_embeddings.weight": (self.token_types, hidden),
            "embeddings.LayerNorm.weight": (hidden,),
            "embeddings.LayerNorm.bias": (hidden,),
        }
        for layer in range(self.layers):
            shapes |= {
                f"encoder.layer.{layer}.attention.self.Wqkv.weight": (3 * hidden, hidden),
                f"encoder.layer.{layer}.attention.self.Wqkv.bias": (3 * hidden,),
                f"encoder.layer.{layer}.attention.output.dense.weight": (hidden, hidden),
                f"encoder.layer.{layer}.attention.output.dense.bias": (hidden,),
                f"encoder.layer.{layer}.attention.output.LayerNorm.weight": (hidden,),
                f"encoder.layer.{layer}.attention.output.LayerNorm.bias": (hidden,),
                f"encoder.layer.{layer}.mlp.gated_layers.weight": (2 * self.intermediate, hidden),
                f"encoder.layer.{layer}.mlp.wo.weight": (hidden, self.intermediate),
                f"encoder.layer.{layer}.mlp.wo.bias": (hidden,),
                f"encoder.layer.{layer}.mlp.layernorm.weight": (hidden,),
                f"encoder.layer.{layer}.mlp.layernorm.bias": (hidden,),
            }
        return shapes

    def operations(self, lengths: Sequence[int]) -> int:
        """Floating-point operations of the matrix products: two for each weight and token, or pair of tokens."""
        weights = self.layers * self.hidden * (4 * self.hidden + 3 * self.intermediate)
        pairs = sum(length**2 for length in lengths)
        return 2 * weights * sum(lengths) + 4 * self.layers * self.hidden * pairs


def alibi_slopes(heads: int) -> list[float]:
    """Return the slope of each head, in the order of the reference implementations.

    For a power of two they are the geometric series 2^(-8/heads), 2^(-16/heads) … 2^-8. Otherwise the slopes of the
    next lower power of two come first, then every second one of the next higher, from its first on (Press et al. 2021).
    """
    lower = 1 << (heads.bit_length() - 1)
    return (_geometric_slopes(lower) + _geometric_slopes(2 * lower)[::2])[:heads]


def _geometric_slopes(heads: int) -> list[float]:
    return [2.0 ** (-8.0 * (head + 1) / heads) for head in range(heads)]


def alibi_by_distance(slopes: Tensor, longest: int, dtype: torch.dtype) -> Tensor:
    """ALiBi from distance -(longest - 1) to longest - 1, multiplied in float32 and rounded once: (h, 2 longest - 1)."""
    distance = torch.arange(1 - longest, longest, device=slopes.device).abs()  # (2 l - 1,)
    return (-slopes[:, None] * distance).to(dtype)


class DnabertEncoder(PackEncoder[DnabertShape]):
    """Weights of one checkpoint on one device, and the forward pass. Threads may share it: nothing in it changes.

    Parameters
    ----------
    shape : sizes of the checkpoint.
    tensors : those that `shape.tensors()` names.
    """

    def __init__(self, shape: DnabertShape, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(shape, tensors["embeddings.word_embeddings.weight"])
        self._tensors = dict(tensors)
        self._slopes = torch.tensor(alibi_slopes(shape.heads), dtype=torch.float32, device=self.device)  # (h,)

    def to(self, device: torch.device, dtype: torch.dtype) -> DnabertEncoder:
        """Return the encoder on another device or in another precision."""
        return DnabertEncoder(self.shape, {name: t.to(device, dtype) for name, t in self._tensors.items()})

    @torch.inference_mode()
    def hidden_states(
        self, token_ids: Tensor, lengths: Sequence[int], see: See | None = None, depth: int | None = None
    ) -> Tensor:
        """Return the states after the last layer.

        Parameters
        ----------
        token_ids : (t,) int64. Sequences, each with its first and last special token, one after another.
        lengths : tokens of each sequence; they add up to t. In any order; similar lengths side by side are fastest.
        see : told the states after the embedding and after each layer.
        depth : compute only so many layers; what is returned is then of no use.

        Returns
        -------
        (t, d) of the weights' dtype.
        """
        width = self.shape.hidden // self.shape.heads
        bias = alibi_by_distance(self._slopes, reach(lengths), self.dtype)  # (h, 2 m - 1)
        attend = attention(lengths, width=width, device=self.device, dtype=self.dtype, bias=bias)

        def compute(layer: int, states: Tensor) -> Tensor:
            states = self._attend(f"encoder.layer.{layer}.attention.", states, attend)  # (t, d)
            return self._feed_forward(f"encoder.layer.{layer}.mlp.", states)  # (t, d)

        return through_layers(range(self.shape.layers), self._embed(token_ids), compute, see, depth)

    def _embed(self, token_ids: Tensor) -> Tensor:
        words = functional.embedding(token_ids, self._tensors["embeddings.word_embeddings.weight"])  # (t, d)
        words += self._tensors["embeddings.token_type_embeddings.weight"][0]  # every token is of type 0
        return self._norm("embeddings.LayerNorm", words)

    def _attend(self, name: str, states: Tensor, attend: Attend) -> Tensor:
        qkv = self._linear(name + "self.Wqkv", states).view(len(states), 3, self.shape.heads, -1)  # (t, 3, h, e)
        dense = self._linear(name + "output.dense", attend(qkv))  # (t, d)
        return self._norm(name + "output.LayerNorm", dense.add_(states))

    def _feed_forward(self, name: str, states: Tensor) -> Tensor:
        gate, value = functional.linear(states, self._tensors[name + "gated_layers.weight"]).chunk(2, 1)  # (t, f) each
        product = functional.gelu(gate).mul_(value)  # (t, f); gelu by the error function, not its tanh approximation
        out = self._linear(name + "wo", product)  # (t, d)
        return self._norm(name + "layernorm", out.add_(states))

    def _linear(self, name: str, states: Tensor) -> Tensor:
        return functional.linear(states, self._tensors[name + ".weight"], self._tensors[name + ".bias"])

    def _norm(self, name: str, states: Tensor) -> Tensor:
        weight, bias = self._tensors[name + ".weight"], self._tensors[name + ".bias"]
        return functional.layer_norm(states, (self.shape.hidden,), weight, bias, self.shape.norm_epsilon)


_PREFIX = "bert."
_NOT_NEEDED = re.compile(r"pooler\.|cls\.|embeddings\.position_ids$")
_STOCK_BERT = re.compile(r"\.attention\.self\.(query|key|value)\.")
_RESIDUES_PER_TOKEN = 4.8  # measured on real genomes


def load(recipe: Recipe, checkpoint: Checkpoint, device: str | None) -> PackedEmbedder:
    """Load a DNABERT; see `packed.load_packed`.

    Raises
    ------
    WeightsNotFoundError : there is no `tokenizer.json`.
    WeightsError : the configuration, a tensor or the tokenizer is not DNABERT's; the checkpoint is a stock BERT.
    """
    tokenizer = _read_tokenizer(checkpoint, read_shape(checkpoint))
    return load_packed(recipe, checkpoint, device, read_encoder, tokenizer, residues_per_token=_RESIDUES_PER_TOKEN)


def read_encoder(checkpoint: Checkpoint) -> DnabertEncoder:
    """Read the weights, as float32 on the CPU."""
    shape = read_shape(checkpoint)
    return DnabertEncoder(shape, read_tensors(checkpoint, shape.tensors(), _expected_names))


def read_shape(checkpoint: Checkpoint) -> DnabertShape:
    """Take the sizes from the configuration.

    Raises
    ------
    WeightsError : an entry is missing or does not fit this architecture.
    """
    configuration = checkpoint.configuration
    epsilon = configuration.get("layer_norm_eps")
    activation = configuration.get("hidden_act")
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise WeightsError(
            f"Cannot use {checkpoint.path}: expected a layer_norm_eps in its configuration, found {shown(epsilon)}."
        )
    if activation != "gelu":
        raise WeightsError(f"Cannot use {checkpoint.path}: expected hidden_act gelu, found {shown(activation)}.")
    shape = DnabertShape(
        hidden=checkpoint.dim,
        layers=checkpoint.layers,
        heads=checkpoint.size("num_attention_heads"),
        intermediate=checkpoint.size("intermediate_size"),
        vocabulary=checkpoint.size("vocab_size"),
        token_types=checkpoint.size("type_vocab_size"),
        norm_epsilon=epsilon,
    )
    if shape.hidden % shape.heads:
        raise WeightsError(
            f"Cannot use {checkpoint.path}: expected a hidden_size that num_attention_heads divides, "
            f"found {shape.hidden} and {shape.heads}."
        )
    return shape


def _read_tokenizer(checkpoint: Checkpoint, shape: DnabertShape) -> DnaTokenizer:
    tokenizer = DnaTokenizer.from_file(checkpoint.tokenizer or checkpoint.path / "tokenizer.json")
    if tokenizer.vocabulary > shape.vocabulary:
        raise WeightsError(
            f"Cannot use {checkpoint.path}: expected a tokenizer of at most {shape.vocabulary} tokens (vocab_size), "
            f"found {tokenizer.vocabulary}."
        )
    return tokenizer


def _expected_names(name: str) -> list[str]:
    """Expected name of a tensor, none for what embeddings do not need.

    Raises
    ------
    WeightsError : the name is one of a stock BERT.
    """
    name = name.removeprefix(_PREFIX)
    if _STOCK_BERT.search(name):
        raise WeightsError(
            f"Cannot load a stock BERT as DNABERT: expected Wqkv in every attention layer, found {name}. Either it is "
            "another model, or transformers saved it without DNABERT's own code, and then its attention weights are "
            "random. Get the weights from their original source."
        )
    return [] if _NOT_NEEDED.match(name) else [name]
