"""Products of bfloat16 in place of float32: what is measured is what is meant."""

from __future__ import annotations

import torch

from benchmarks.half_on_cpu import errors, measure, split


def test_two_halves_are_nearly_the_whole() -> None:
    values = torch.randn(1000)
    high, low = split(values)
    assert torch.equal(high, values.bfloat16())
    assert ((high.float() + low.float() - values).abs() <= values.abs() * 2**-16).all()


def test_three_products_are_far_more_exact_than_one_of_float16() -> None:
    found = errors(torch.randn(32, 128), torch.randn(128, 64))
    assert found["float32"] < found["three"] < found["float16"] / 20 < found["bfloat16"] / 20


def test_a_report_compares_with_float32() -> None:
    found = measure(16, 64, tokens=300, rounds=1)
    assert {"float32", "bfloat16"} <= set(found["speed"])
    assert found["three_products"] > 0
    assert found["composed"] > 0
    assert set(found["error"]) == {"float32", "bfloat16", "float16", "three"}
