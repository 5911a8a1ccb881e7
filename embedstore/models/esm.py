"""ESM-2 and FastESM2: from a checkpoint in any of its layouts to an embedder."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache

import torch

from embedstore.errors import WeightsError
from embedstore.identity import Recipe
from embedstore.models.checkpoint import Checkpoint, shown
from embedstore.models.devices import arithmetic, machine_place, pick_device
from embedstore.models.esm_encoder import EsmEncoder, EsmShape
from embedstore.models.esm_tokenizer import VOCABULARY, ProteinTokenizer
from embedstore.models.machine import kept_setting
from embedstore.models.packed import PackedEmbedder
from embedstore.models.weights import read_tensors

_LEFT_OUT = re.compile(r"(lm_head|contact_head|pooler)\.|embeddings\.(position_ids|position_embeddings\.weight)$")
"""Heads for other tasks, and what rotary positions make useless."""

_LARGEST_VOCABULARY_BYTES = 1 << 16

_SHARED_FREQUENCIES = (
    "rotary_embeddings.inv_freq",
    "encoder.layer.*.attention.self.rotary_embeddings.inv_freq",  # with an asterisk: as transformers 5 writes it
)
_TRANSFORMERS_5_NAMES = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}

_FAIR_ESM_NAMES = {
    "embed_tokens.": "embeddings.word_embeddings.",
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


def load(recipe: Recipe, checkpoint: Checkpoint, device: str | None) -> PackedEmbedder:
    """Load an ESM-2 encoder.

    `half` computes in float16 on a GPU; everything else is computed in float32.

    Raises
    ------
    WeightsError : the configuration or a tensor is not that of an ESM-2, see `weights.read_tensors`.
    InputError : there is no such device.
    """
    place = pick_device(device)
    dtype = arithmetic(recipe.precision, place)
    encoder = read_encoder(checkpoint).to(place, dtype)
    in_full = cache(lambda: read_encoder(checkpoint).to(place, torch.float32))
    return PackedEmbedder(
        recipe,
        ProteinTokenizer(),
        encoder,
        full_encoder=None if dtype == torch.float32 else in_full,
        setting=kept_setting(checkpoint.shape, machine_place(place, dtype)),
    )


def read_encoder(checkpoint: Checkpoint) -> EsmEncoder:
    """Read the weights, as float32 on the CPU."""
    shape = _shape(checkpoint)
    _check_vocabulary(checkpoint)
    expected = shape.tensors()
    names = _fair_esm_names if checkpoint.layout == "fair-esm" else _hugging_face_names
    return EsmEncoder.from_tensors(shape, read_tensors(checkpoint, expected, lambda name: names(name, expected)))


def _shape(checkpoint: Checkpoint) -> EsmShape:
    configuration = checkpoint.configuration
    for entry, default, expected in (
        ("position_embedding_type", "rotary", "rotary"),
        ("hidden_act", "gelu", "gelu"),
        ("emb_layer_norm_before", False, False),
        ("is_folding_model", False, False),
        ("vocab_size", None, len(VOCABULARY)),
    ):
        found = configuration.get(entry, default)
        if (found or False) != expected:
            raise WeightsError(
                f"Cannot load {checkpoint.path} as ESM-2: expected {entry} {expected} in its configuration, "
                f"found {shown(found)}."
            )
    epsilon = configuration.get("layer_norm_eps")
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise WeightsError(
            f"Cannot load {checkpoint.path} as ESM-2: expected a layer_norm_eps, found {shown(epsilon)}."
        )
    hidden, heads = checkpoint.dim, checkpoint.size("num_attention_heads")
    if hidden % (2 * heads):
        raise WeightsError(
            f"Cannot load {checkpoint.path} as ESM-2: {hidden} values do not make {heads} heads of an even width."
        )
    return EsmShape(
        hidden=hidden,
        layers=checkpoint.layers,
        heads=heads,
        intermediate=checkpoint.size("intermediate_size"),
        vocabulary=len(VOCABULARY),
        norm_epsilon=epsilon,
        token_dropout=bool(configuration.get("token_dropout", False)),
    )


def _check_vocabulary(checkpoint: Checkpoint) -> None:
    file = checkpoint.weights[0].parent / "vocab.txt"
    if checkpoint.layout == "huggingface" and file.is_file():
        with file.open("rb") as stream:
            found = tuple(stream.read(_LARGEST_VOCABULARY_BYTES).decode("utf-8", "replace").split())
        if found != VOCABULARY:
            raise WeightsError(f"Cannot load {checkpoint.path} as ESM-2: {file.name} has another vocabulary.")


def _hugging_face_names(name: str, expected: Collection[str]) -> list[str]:
    """Expected names for one of Hugging Face's, with or without the prefix of a model that has heads."""
    name = name.removeprefix("esm.")
    if _LEFT_OUT.match(name):
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
