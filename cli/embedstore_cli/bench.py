"""embedstore bench: how fast is a model on this machine?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from embedstore_cli import options

if TYPE_CHECKING:
    from embedstore.measuring import Benchmark


def bench(
    model: options.Model,
    inputs: options.OptionalInputs = None,
    weights: options.Weights = None,
    precision: options.PrecisionChoice = None,
    device: options.Device = None,
    seconds: options.Seconds = 3.0,
    json: options.Json = False,
) -> None:
    """Measure how fast a model is on this machine, and what a fill adds.

    With INPUT, also how long filling it would take. `fill --dry-run` uses what was measured.
    """
    from embedstore.measuring import bench as measure
    from embedstore.models import resolve
    from embedstore.sequences import read
    from embedstore_cli.output import write_facts, write_json

    choices = options.model_options(model, weights, precision, None, None, None)
    records = read(inputs) if inputs else None
    benchmark = measure(resolve(model, choices), records, device=device, seconds=seconds)
    if json:
        write_json(benchmark.to_json())
    else:
        write_facts(_facts(benchmark))
    raise typer.Exit(0)


def _facts(found: Benchmark) -> list[tuple[str, str]]:
    from embedstore_cli.output import count, duration

    facts = [
        ("model", f"{found.model}, {found.place.dtype} on {found.place.device}"),
        (
            "measured with",
            f"{count(found.sequences)} sequences, {count(found.residues)} residues or bases: {found.workload}",
        ),
        ("speed", f"{count(round(found.residues_per_second))} residues or bases/s"),
    ]
    if found.share_of_matmul is not None and found.matmul_gflops is not None:
        share = f"{found.share_of_matmul:.2f} of {count(round(found.matmul_gflops))} Gflop/s"
        facts.append(("matrix products", f"{share} that large ones reach in the same threads"))
    facts.append(("a fill takes", f"{100 * (found.fill_to_model - 1):+.1f} % of the model alone: reading and storing"))
    if found.input is not None and found.projected_seconds is not None:
        about = f"{count(found.input.unique)} distinct sequences, {count(found.input.residues)} residues or bases"
        facts.append(("the input", f"{about}: about {duration(found.projected_seconds)}, if none is stored yet"))
    return facts
