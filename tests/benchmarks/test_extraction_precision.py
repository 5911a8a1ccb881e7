"""Emulated float16: it rounds what it says, and nothing else."""

from __future__ import annotations

import pytest
import torch

from benchmarks.extraction_precision import STAGES, Rounding, differences, encoder_of, token_ids
from benchmarks.extraction_workload import Shape
from embedstore.filling.canaries import SEQUENCES
from embedstore.identity import Molecule


@pytest.mark.parametrize("molecule", ["protein", "dna"])
def test_each_stage_costs_something_and_all_of_them_less_than_the_tolerance(molecule: Molecule) -> None:
    shape = Shape(layers=2, hidden=32, heads=4, residues=0, molecule=molecule)
    ids = token_ids(shape, [sequence.encode() for sequence in SEQUENCES[molecule]])
    told: list[str] = []
    found = differences(encoder_of(shape, 1.0, 0), ids, told.append)
    assert set(found) == {*STAGES, "all but residuals", "all stages"} == set(told)
    assert all(0 < stage["median"] <= stage["largest"] for stage in found.values())
    assert found["all stages"]["largest"] < 4e-3


def test_only_the_operators_of_a_stage_are_rounded() -> None:
    third = torch.full((2, 2), 1 / 3)
    with torch.inference_mode(), Rounding(["activation"]):
        rounded, exact = torch.nn.functional.gelu(third), third + third
    assert torch.equal(rounded, rounded.half().float())
    assert not torch.equal(exact, exact.half().float())
