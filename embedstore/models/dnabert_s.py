"""DNABERT-S and DNABERT-2, from their published checkpoints.

Layout of a checkpoint: `config.json`, `pytorch_model.bin` or `model.safetensors`, `tokenizer.json`. Names may start
with `bert.` (DNABERT-2-117M); the pooler and the language-model head are left out by name: no embedding needs them.

The default `max_length_tokens` of 1 998 makes, with [CLS] and [SEP], the 2 000 tokens that both models were trained on
at most. ALiBi extends beyond, and the authors evaluated on up to 5 000 tokens; but what a model saw in training is the
safer default, and at 5 000 tokens attention costs nearly as much as all matrix products.
"""

from __future__ import annotations

import re
from functools import cache

import torch

from embedstore.errors import WeightsError
from embedstore.identity import Recipe
from embedstore.models.checkpoint import Checkpoint, shown
from embedstore.models.devices import arithmetic, machine_place, pick_device
from embedstore.models.dnabert_encoder import DnabertEncoder, DnabertShape
from embedstore.models.dnabert_tokenizer import DnaTokenizer
from embedstore.models.machine import kept_setting
from embedstore.models.packed import PackedEmbedder
from embedstore.models.weights import read_tensors

_PREFIX = "bert."
_NOT_NEEDED = re.compile(r"pooler\.|cls\.|embeddings\.position_ids$")
_STOCK_BERT = re.compile(r"\.attention\.self\.(query|key|value)\.")
_LETTERS_PER_TOKEN = 4.8  # measured on real genomes


def load(recipe: Recipe, checkpoint: Checkpoint, device: str | None) -> PackedEmbedder:
    """Load a checkpoint, strictly. `half` computes in float16 on a GPU; everything else is computed in float32.

    Raises
    ------
    WeightsNotFoundError : there is no `tokenizer.json`.
    WeightsError : the configuration, a tensor or the tokenizer is not DNABERT's, see `weights.read_tensors`; the
        checkpoint is a stock BERT.
    InputError : there is no such device.
    """
    place = pick_device(device)
    dtype = arithmetic(recipe.precision, place)
    encoder = read_encoder(checkpoint).to(place, dtype)
    in_full = cache(lambda: read_encoder(checkpoint).to(place, torch.float32))
    return PackedEmbedder(
        recipe,
        _read_tokenizer(checkpoint, encoder.shape),
        encoder,
        full_encoder=None if dtype == torch.float32 else in_full,
        letters_per_token=_LETTERS_PER_TOKEN,
        setting=kept_setting(checkpoint.shape, machine_place(place, dtype)),
    )


def read_encoder(checkpoint: Checkpoint) -> DnabertEncoder:
    """Read the weights, as float32 on the CPU."""
    shape = read_shape(checkpoint)
    return DnabertEncoder(shape, read_tensors(checkpoint, shape.tensors(), _expected_names))


def read_shape(checkpoint: Checkpoint) -> DnabertShape:
    """Take the sizes from the configuration.

    Raises
    ------
    WeightsError : an entry lacks or does not fit this architecture.
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
