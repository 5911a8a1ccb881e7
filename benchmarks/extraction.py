"""Speed of computing embeddings, against other ways to do it and against what the machine can do at all.

    python -m benchmarks.extraction --model-shape 8m --json

Random weights of the real shapes: speed does not depend on what the numbers are. Real sequences: their lengths decide
what padding and batching cost. All contenders take turns, and beside them, in every round, a large float32 matrix
product says what the processor gives at that moment.

Among the keys: `share_of_matmul`, the arithmetic that our model needs, by the time it took, as a share of that of the
matrix product; `times_faster`, ours against each contender; `left_out`, who could not take part, and why.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.extraction_contenders import (
    DNA_CONTENDERS,
    OWN_WEIGHTS,
    PROTEIN_CONTENDERS,
    T5_CONTENDERS,
    Contenders,
)
from benchmarks.extraction_workload import (
    CHUNK_BASES,
    SHAPES,
    Run,
    Shape,
    UnavailableError,
    Vectors,
    Workload,
    real_sequences,
    write_checkpoint,
)
from benchmarks.timing import Task, Timings, environment, interleaved, parser, print_report, rounded, scratch_folder
from embedstore.models.devices import cores, single_threaded
from embedstore.models.dnabert import DnaTokenizer

_PRODUCT = 1536  # rows and columns of the matrices that say what the processor gives
_SPECIAL_TOKENS = 2


def operations(shape: Shape, tokens: Sequence[int]) -> int:
    """Floating-point operations that a model needs for sequences of so many tokens, without padding.

    Two for each weight of the projections and each token, and for each pair of tokens the two products of attention.
    """
    if shape.t5 is not None:
        return shape.t5.operations(tokens)
    weights = (4 + (8 if shape.molecule == "protein" else 12)) * shape.hidden**2
    if shape.gated is not None:
        weights = (4 * shape.hidden + 3 * shape.gated) * shape.hidden
    return sum(shape.layers * (2 * weights * length + 4 * length**2 * shape.hidden) for length in tokens)


def matrix_products(count: int, workers: int) -> Callable[[int], None]:
    """Multiply matrices on all cores: one product on all of them, or (workers > 1) one on each."""
    left, right = (torch.randn(_PRODUCT, _PRODUCT) for _ in range(2))

    def multiply(times: int) -> None:
        for _ in range(times):
            torch.mm(left, right)

    def multiply_on_one_core(times: int) -> None:
        with single_threaded():
            multiply(times)

    def run(number: int) -> None:
        del number
        if workers == 1:
            multiply(count)
        else:
            with ThreadPoolExecutor(workers) as executor:
                list(executor.map(multiply_on_one_core, [count // workers] * workers))

    return run


@dataclass(frozen=True, slots=True)
class Prepared:
    """Contenders that can take part, what each of them gives, and why others cannot."""

    runs: dict[str, Run]
    vectors: dict[str, Vectors]
    left_out: dict[str, str]


def contenders_of(shape: Shape) -> Contenders:
    """Return who computes models of a shape."""
    if shape.t5 is not None:
        return T5_CONTENDERS
    return PROTEIN_CONTENDERS if shape.molecule == "protein" else DNA_CONTENDERS


def prepare(workload: Workload, contenders: Contenders, wanted: Sequence[str]) -> Prepared:
    """Build all contenders and let each compute once, which also warms it up."""
    prepared = Prepared({}, {}, {})
    for name, build in contenders.items():
        if name != "ours" and wanted and name not in wanted:
            continue
        started = time.perf_counter()
        try:
            run = build(workload)
            prepared.vectors[name] = run()
        except UnavailableError as reason:
            prepared.left_out[name] = str(reason)
        else:
            prepared.runs[name] = run
        print(f"{name}: prepared in {time.perf_counter() - started:.1f} s", file=sys.stderr)
    return prepared


def measure(prepared: Prepared, rounds: int, products: int, workers: int) -> Timings:
    """Time contenders and matrix products in turns."""
    tasks = {name: Task(lambda _, run=run: run()) for name, run in prepared.runs.items()}  # type: ignore[misc]
    for name, count in (("matmul_all_cores", 1), ("matmul_a_core_each", workers)):
        tasks[name] = Task(matrix_products(products, count))
    return interleaved(tasks, rounds)


def summary(
    shape: Shape, workload: Workload, tokens: Sequence[int], prepared: Prepared, timings: Timings, products: int
) -> dict[str, Any]:
    """Rates and ratios: of each round, then their medians."""
    residues = sum(map(len, workload.sequences))
    products_s = map(min, zip(timings.seconds["matmul_all_cores"], timings.seconds["matmul_a_core_each"], strict=True))
    rates = [products * 2 * _PRODUCT**3 / seconds for seconds in products_s]
    needed = operations(shape, tokens)
    shares, times_faster = {}, {}
    for name in prepared.runs:
        seconds = timings.seconds[name]
        shares[name] = rounded(statistics.median(needed / s / rate for s, rate in zip(seconds, rates, strict=True)))
        pairs = zip(seconds, timings.seconds["ours"], strict=True)
        times_faster[name] = rounded(statistics.median(theirs / mine for theirs, mine in pairs))
    ours = prepared.vectors["ours"]
    compared = [name for name in prepared.vectors if shape.molecule == "dna" or name not in OWN_WEIGHTS]
    return {
        "share_of_matmul": shares["ours"],
        "times_faster": {name: ratio for name, ratio in times_faster.items() if name != "ours"},
        "residues_per_s": {name: rounded(residues / timings.median_s(name)) for name in prepared.runs},
        "shares_of_matmul": shares,
        "matmul_gflops": rounded(statistics.median(rates) / 1e9),
        "largest_difference": {
            name: rounded(float(np.abs(prepared.vectors[name] - ours).max())) for name in compared if name != "ours"
        },
        "left_out": prepared.left_out,
    }


def _options() -> argparse.Namespace:
    options = parser("extraction", __doc__)
    options.add_argument("--model-shape", choices=SHAPES, default="8m")
    options.add_argument("--lengths", choices=("real", "virnucpro"), default="real", help="of proteins")
    options.add_argument("--residues", type=int, help="in all sequences together (default: by the model's shape)")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--contenders", nargs="+", default=[], help="besides ours (default: all)")
    return options.parse_args()


def main() -> None:
    """Run the benchmark."""
    options = _options()
    shape = SHAPES[options.model_shape]
    workers = cores()
    sequences = real_sequences(shape, options.lengths, options.residues or shape.residues, options.seed)
    with scratch_folder(options.directory, 2**32) as folder:
        write_checkpoint(folder, shape, options.seed)
        workload = Workload(sequences, folder, workers)
        special = _SPECIAL_TOKENS if shape.t5 is None else 1
        tokens = [len(sequence) + special for sequence in sequences]
        if shape.molecule == "dna":
            tokenizer = DnaTokenizer.from_file(folder / "tokenizer.json")
            tokens = [len(tokenizer.content_ids(sequence)) + _SPECIAL_TOKENS for sequence in sequences]
        products = max(workers, round(operations(shape, tokens) / (20 * _PRODUCT**3)) // workers * workers)
        prepared = prepare(workload, contenders_of(shape), options.contenders)
        timings = measure(prepared, options.rounds, products, workers)
    report = {
        "model_shape": options.model_shape,
        "workload": {
            "lengths": options.lengths if shape.molecule == "protein" else f"chunks of {CHUNK_BASES} bases",
            "sequences": len(sequences),
            "residues": sum(map(len, sequences)),
            "tokens": sum(tokens),
            "longest": max(map(len, sequences)),
            "rounds": options.rounds,
        },
        **summary(shape, workload, tokens, prepared, timings, products),
        "environment": environment("torch", "transformers", "fair-esm", "openvino", "onnxruntime"),
    }
    print_report(report, as_json=options.json)


if __name__ == "__main__":
    main()
