"""DNABERT the way VirNucPro runs it, re-created from the model's description; none of its code is here."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.extraction_workload import Run, Vectors, Workload
from embedstore.models.checkpoint import find_checkpoint
from embedstore.models.dnabert import DnaTokenizer, alibi_slopes, read_shape
from embedstore.models.weights import read_tensors


def dnabert_one_at_a_time(workload: Workload) -> Run:
    """DNABERT as VirNucPro calls it, a sequence a call on all cores, attention as its own code does it without triton.

    That is: the l x l ALiBi bias in memory, scores, softmax and their product with the values as separate steps.
    """
    checkpoint = find_checkpoint(workload.checkpoint)
    shape = read_shape(checkpoint)
    tokenizer = DnaTokenizer.from_file(workload.checkpoint / "tokenizer.json")
    tensors = read_tensors(checkpoint, shape.tensors(), lambda name: [name])
    slopes = torch.tensor(alibi_slopes(shape.heads))[:, None, None]

    def linear(name: str, states: Tensor) -> Tensor:
        return functional.linear(states, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))

    def norm(name: str, states: Tensor) -> Tensor:
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        return functional.layer_norm(states, (shape.hidden,), weight, bias, shape.norm_epsilon)

    def layer(name: str, states: Tensor, bias: Tensor) -> Tensor:
        qkv = linear(f"{name}.attention.self.Wqkv", states).view(len(states), 3, shape.heads, -1)  # (l, 3, h, e)
        query, key, value = qkv.permute(1, 2, 0, 3)  # (h, l, e) each
        scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1]) + bias  # (h, l, l)
        mixed = (scores.softmax(-1) @ value).transpose(0, 1).reshape(len(states), -1)  # (l, d)
        states = norm(f"{name}.attention.output.LayerNorm", linear(f"{name}.attention.output.dense", mixed) + states)
        gate, inner = linear(f"{name}.mlp.gated_layers", states).chunk(2, -1)  # (l, f) each
        return norm(f"{name}.mlp.layernorm", linear(f"{name}.mlp.wo", functional.gelu(gate) * inner) + states)

    @torch.no_grad()
    def run() -> Vectors:
        means = []
        for sequence in workload.sequences:
            content = tokenizer.content_ids(sequence)
            ids = torch.from_numpy(np.concatenate(([tokenizer.first_id], content, [tokenizer.last_id])))
            places = torch.arange(len(ids))
            bias = -slopes * (places[:, None] - places).abs()  # (h, l, l)
            words = tensors["embeddings.word_embeddings.weight"][ids]
            states = norm("embeddings.LayerNorm", words + tensors["embeddings.token_type_embeddings.weight"][0])
            for number in range(shape.layers):
                states = layer(f"encoder.layer.{number}", states, bias)
            means.append(states.mean(0).numpy())
        return np.stack(means)

    return run
