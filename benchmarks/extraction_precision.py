"""What float16 arithmetic costs in accuracy, stage by stage, emulated on a CPU with random weights of the real shapes.

    python -m benchmarks.extraction_precision --model-shape 650m --json

A GPU multiplies float16 and adds in float32; what is rounded is what one kernel writes and the next one reads. So the
same encoder computes in float32 here, and the results of its operators are rounded to float16: of one stage at a time,
then of all. `weights` are those rounded when the model is loaded; `probabilities` are rounded inside flash attention.
Differences are those by which canaries are compared: of pooled vectors, the largest value of each, relative to the
largest absolute value of that vector in float32; `largest` and `median` over the sequences.

Trained weights are not random: their outliers are larger, and the share of each stage differs. `--spread` says how wide
the weights are, in multiples of what the models start training with.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.extraction_workload import DNA_TOKENIZER, SHAPES, START_SPREAD, Shape, real_sequences
from benchmarks.timing import parser, print_report, rounded
from embedstore.doctor.tiny_models import random_tensors
from embedstore.filling.canaries import SEQUENCES
from embedstore.models.devices import torch_threads
from embedstore.models.dnabert import DnabertEncoder, DnabertShape, DnaTokenizer
from embedstore.models.encoder import add_rounded_once
from embedstore.models.esm import EsmEncoder, EsmShape, ProteinTokenizer
from embedstore.models.packed import Encoder
from embedstore.models.pooling import weighted_sums

aten = torch.ops.aten
_CPU = torch.device("cpu")

STAGES: Mapping[str, frozenset[Any]] = {
    "weights": frozenset(),
    "embedding": frozenset({aten.embedding.default}),
    "norms": frozenset({aten.native_layer_norm.default, aten.layer_norm.default}),
    "projections": frozenset({aten.linear.default, aten.addmm.default, aten.mm.default}),
    "rotary": frozenset({aten.mul_.Tensor}),
    "probabilities": frozenset(),
    "attention": frozenset({aten.scaled_dot_product_attention.default}),
    "activation": frozenset({aten.gelu.default, aten.gelu_.default}),
    "residuals": frozenset({aten.add_.Tensor, aten.addmm_.default}),
}
"""Operators whose results each stage rounds. DNABERT has no rotation: there `rotary` is the gate's product."""


class Rounding(TorchDispatchMode):
    """Round what operators give to float16, in place."""

    def __init__(self, stages: Sequence[str]) -> None:
        super().__init__()
        self._operators = frozenset[Any]().union(*(STAGES[stage] for stage in stages))
        self._probabilities = "probabilities" in stages

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self._probabilities and func is aten.scaled_dot_product_attention.default:
            result = _rounding_probabilities(*args, **(kwargs or {}))
        else:
            result = func(*args, **(kwargs or {}))
        if func in self._operators:
            _round(result[0] if isinstance(result, tuple) else result)
        return result


def _round(values: Tensor) -> None:
    numbers = torch.view_as_real(values) if values.is_complex() else values
    numbers.copy_(numbers.half())


def _rounding_probabilities(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """Attention as flash attention rounds: exponentials relative to the row's largest, to float16 before the values."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if attn_mask is not None:
        scores += attn_mask
    exponentials = (scores - scores.amax(-1, keepdim=True)).exp()
    mixed: Tensor = exponentials.half().float() @ value / exponentials.sum(-1, keepdim=True)
    return mixed


def encoder_of(shape: Shape, spread: float, seed: int) -> EsmEncoder | DnabertEncoder:
    """Make an encoder with random weights."""
    inner = 4 * shape.hidden
    sizes: EsmShape | DnabertShape
    if shape.molecule == "dna":
        sizes = DnabertShape(shape.hidden, shape.layers, shape.heads, inner, 4096, 2, 1e-12)
    else:
        sizes = EsmShape(shape.hidden, shape.layers, shape.heads, inner, 33, 1e-5, True)
    tensors = random_tensors(sizes.tensors(), seed, START_SPREAD)
    for tensor in tensors.values():
        if tensor.dim() == 2:
            tensor.mul_(spread)
    if isinstance(sizes, DnabertShape):
        return DnabertEncoder(sizes, tensors)
    return _as_in_float16(EsmEncoder.from_tensors(sizes, tensors))


def _as_in_float16(encoder: Any) -> Any:
    """Let an encoder in float32 add to the states as one in float16 does."""
    if isinstance(encoder, EsmEncoder):
        encoder.add_projection = add_rounded_once
    return encoder


def token_ids(shape: Shape, sequences: Sequence[bytes]) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    """Ids of each sequence with its special tokens."""
    tokenizer = DnaTokenizer.from_file(DNA_TOKENIZER) if shape.molecule == "dna" else ProteinTokenizer()
    contents = tokenizer.contents(sequences)
    return [np.concatenate(([tokenizer.first_id], content, [tokenizer.last_id])) for content in contents]


def differences(
    encoder: EsmEncoder | DnabertEncoder, ids: Sequence[Any], told: Callable[[str], None]
) -> dict[str, Any]:
    """Relative differences of the sequences' means, by stage."""
    lengths = [len(each) for each in ids]
    flat = torch.from_numpy(np.concatenate(ids))
    weights = torch.from_numpy(np.repeat([1 / length for length in lengths], lengths).astype(np.float32))

    def means(computing: Encoder, stages: Sequence[str]) -> Tensor:
        with torch.inference_mode(), Rounding(stages):
            states = computing.hidden_states(flat, lengths)
        return weighted_sums(states, weights, lengths)  # (n, d)

    def compared(computing: Encoder, stages: Sequence[str]) -> Any:
        return ((means(computing, stages) - exact).abs().amax(1) / exact.abs().amax(1)).numpy()

    exact = means(encoder, [])
    found = {}
    for stage in STAGES:
        if stage != "weights":
            told(stage)
            found[stage] = compared(encoder, [stage])
    told("weights")
    coarse = _as_in_float16(encoder.to(_CPU, torch.float16).to(_CPU, torch.float32))
    found["weights"] = compared(coarse, [])
    told("all but residuals")
    found["all but residuals"] = compared(coarse, [stage for stage in STAGES if stage != "residuals"])
    told("all stages")
    found["all stages"] = compared(coarse, list(STAGES))
    return {
        name: {"largest": rounded(values.max()), "median": rounded(np.median(values))} for name, values in found.items()
    }


def _options() -> argparse.Namespace:
    options = parser("extraction_precision", __doc__)
    options.add_argument("--model-shape", choices=SHAPES, default="8m")
    options.add_argument("--residues", type=int, default=1000, help="of real sequences, beside the canaries")
    options.add_argument("--spread", type=float, default=1.0, help="of the weights")
    options.add_argument("--threads", type=int, default=2)
    return options.parse_args()


def main() -> None:
    """Run the measurement."""
    options = _options()
    shape = SHAPES[options.model_shape]
    canaries = [sequence.encode() for sequence in SEQUENCES[shape.molecule]]
    sequences = canaries + real_sequences(shape, "real", options.residues, options.seed)
    with torch_threads(options.threads):
        ids = token_ids(shape, sequences)
        encoder = encoder_of(shape, options.spread, options.seed)
        found = differences(encoder, ids, lambda stage: print(stage, file=sys.stderr))
    report = {
        "model_shape": options.model_shape,
        "spread": options.spread,
        "sequences": len(sequences),
        "tokens": sum(map(len, ids)),
        "differences": found,
    }
    print_report(report, as_json=options.json)


if __name__ == "__main__":
    main()
