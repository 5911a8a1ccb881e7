"""Tiny language models with random weights, one of each architecture, and random sequences for them.

They are written as checkpoints in the layout of the published ones, so that they are loaded as any model is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, processors

from embedstore.identity import Molecule
from embedstore.models.dnabert import CLS, SEP, UNK, DnabertShape
from embedstore.models.esm import EsmShape

_SEED = 20_261_124


def random_sequences(molecule: Molecule, lengths: Sequence[int]) -> list[bytes]:
    """Make canonical sequences of these lengths, the same each time."""
    residues = list(b"ACDEFGHIKLMNPQRSTVWYX" if molecule == "protein" else b"ACGTN")
    draw = np.random.default_rng(_SEED)
    return [draw.choice(residues, length).astype(np.uint8).tobytes() for length in lengths]


def tiny_checkpoints(folder: Path) -> list[Path]:
    """Write a tiny ESM-2 and a tiny DNABERT, with random weights, in the layout of the published ones."""
    common = {"num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256}
    esm = {"model_type": "esm", "vocab_size": 33, "position_embedding_type": "rotary", "token_dropout": True}
    dnabert = {"model_type": "bert", "vocab_size": 9, "type_vocab_size": 2, "hidden_act": "gelu"}
    proteins, dna = folder / "tiny_esm2", folder / "tiny_dnabert"
    esm_shape = EsmShape(64, 3, 4, 256, 33, 1e-5, True)
    _write(proteins, common | esm | {"layer_norm_eps": 1e-5}, esm_shape.tensors())
    _write(dna, common | dnabert | {"layer_norm_eps": 1e-12}, DnabertShape(64, 3, 4, 256, 9, 2, 1e-12).tensors())
    _tokenizer().save(str(dna / "tokenizer.json"))
    return [proteins, dna]


def random_tensors(
    shapes: Mapping[str, tuple[int, ...]], seed: int, spread: float | None = None
) -> dict[str, torch.Tensor]:
    """Make random weights of a model: norms of one, rotary frequencies as published.

    Parameters
    ----------
    shapes : of all tensors, by their names in the published layout.
    seed : of the others' numbers.
    spread : their standard deviation; None: one by the root of a tensor's last size.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, sizes in shapes.items():
        if name.endswith("inv_freq"):
            tensors[name] = 10_000.0 ** -(torch.arange(sizes[0]) / sizes[0])
        elif "norm" in name.lower() and name.endswith("weight"):
            tensors[name] = torch.ones(sizes)
        else:
            tensors[name] = torch.randn(sizes, generator=generator) * (sizes[-1] ** -0.5 if spread is None else spread)
    return tensors


def _write(folder: Path, configuration: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(configuration))
    save_file(random_tensors(shapes, _SEED), folder / "model.safetensors")


def _tokenizer() -> Tokenizer:
    vocabulary = {token: number for number, token in enumerate((UNK, CLS, SEP, "[PAD]", "[MASK]", *"ACGT"))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNK))
    tokenizer.add_special_tokens([UNK, CLS, SEP, "[PAD]", "[MASK]"])
    special = [(token, vocabulary[token]) for token in (CLS, SEP)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{CLS} $A {SEP}", special_tokens=special)
    return tokenizer
