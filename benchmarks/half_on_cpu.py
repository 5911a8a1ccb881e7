"""Whether products of bfloat16 can replace those of float32 on this processor.

    python -m benchmarks.half_on_cpu --json

Where a processor multiplies bfloat16 much faster than float32, an operand can be written as the sum of two bfloat16
numbers, high and low, and a product as three: high · high + high · low + low · high. All contenders take turns, on one
core, on the projections of ESM-2's shapes; the weights are split beforehand, the activations each time.

`speed` : of float32, bfloat16 and float16 products, Gflop/s, the best of all rounds.
`three_products` : time of three bfloat16 products relative to one of float32: what a fused kernel could reach if
    splitting and adding cost nothing; above 1 it is slower.
`composed` : the same with splitting, converting and adding, as calls of torch.
`error` : largest difference from float64, relative to the largest value. Torch rounds the result of a bfloat16 product
    to bfloat16; that of the three is of sums in float32, as a fused kernel would keep them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import environment, parser, print_report, rounded
from embedstore.models.devices import single_threaded

SHAPES: Mapping[str, tuple[int, int]] = {"8m": (320, 1280), "150m": (640, 2560), "650m": (1280, 5120)}
"""Width of the states, and of the layer between."""

_TOKENS = 2048


def split(values: Tensor) -> tuple[Tensor, Tensor]:
    """Write float32 as the sum of two bfloat16, high and low; what is left is 2⁻¹⁷ of the value."""
    high = values.bfloat16()
    return high, (values - high.float()).bfloat16()


def three_products(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Multiply all but low by low."""
    return [left[0] @ right[0], left[0] @ right[1], left[1] @ right[0]]


def contenders(states: Tensor, weights: Tensor) -> dict[str, Callable[[], object]]:
    """Return what is timed, for (t, d) states and (d, e) weights in float32."""
    states_halves, weights_halves = split(states), split(weights)
    single = {dtype: (states.to(dtype), weights.to(dtype)) for dtype in (torch.bfloat16, torch.float16)}

    def composed() -> Tensor:
        first, second, third = three_products(split(states), weights_halves)
        return first.float() + second.float() + third.float()

    return {
        "float32": lambda: states @ weights,
        "bfloat16": lambda: torch.mm(*single[torch.bfloat16]),
        "float16": lambda: torch.mm(*single[torch.float16]),
        "three": lambda: three_products(states_halves, weights_halves),
        "composed": composed,
    }


def errors(states: Tensor, weights: Tensor) -> dict[str, float]:
    """Largest difference from float64, relative to the largest value, of each arithmetic."""
    exact = states.double() @ weights.double()
    in_float32 = [tuple(half.float() for half in split(values)) for values in (states, weights)]
    found = {
        "float32": states @ weights,
        "bfloat16": states.bfloat16() @ weights.bfloat16(),
        "float16": states.half() @ weights.half(),
        "three": torch.stack(three_products(in_float32[0], in_float32[1])).sum(0),  # type: ignore[arg-type]
    }
    largest = exact.abs().max()
    return {name: rounded(float((values.double() - exact).abs().max() / largest)) for name, values in found.items()}


def best_seconds(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Time of the processor that each takes in its best round; all take turns, after one that warms up."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(1 + rounds):
        for name, run in runs.items():
            started = time.thread_time()  # waiting for other programs does not count
            run()
            found[name].append(time.thread_time() - started)
    return {name: min(seconds[1:]) for name, seconds in found.items()}


def measure(width: int, between: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Measure one shape."""
    states, weights = torch.randn(tokens, width), torch.randn(width, between) * width**-0.5
    runs = contenders(states, weights)
    left_out = {"float16"} if not torch.ops.mkldnn._is_mkldnn_fp16_supported() else set()  # a hundred times slower
    with single_threaded(), torch.inference_mode():
        best = best_seconds({name: run for name, run in runs.items() if name not in left_out}, rounds)
    flops = 2 * tokens * width * between
    return {
        "speed": {name: rounded(flops / best[name] / 1e9) for name in best if name not in ("three", "composed")},
        "three_products": rounded(best["three"] / best["float32"]),
        "composed": rounded(best["composed"] / best["float32"]),
        "error": errors(states[:256], weights),
    }


def _options() -> argparse.Namespace:
    options = parser("half_on_cpu", __doc__)
    options.add_argument("--tokens", type=int, default=_TOKENS)
    options.add_argument("--rounds", type=int, default=15)
    return options.parse_args()


def main() -> None:
    """Run the benchmark."""
    options = _options()
    torch.manual_seed(options.seed)
    report = {
        "instructions": {
            "torch_uses": torch.backends.cpu.get_cpu_capability(),
            "bfloat16": torch.ops.mkldnn._is_mkldnn_bf16_supported(),
            "float16": torch.ops.mkldnn._is_mkldnn_fp16_supported(),
            "amx": torch.cpu._is_amx_tile_supported() if hasattr(torch.cpu, "_is_amx_tile_supported") else None,
        },
        **{name: measure(*sizes, options.tokens, options.rounds) for name, sizes in SHAPES.items()},
        "environment": environment("torch"),
    }
    print_report(report, as_json=options.json)


if __name__ == "__main__":
    main()
