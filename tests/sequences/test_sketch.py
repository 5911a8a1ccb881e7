"""Sketches: the same hashes and pairs as sourmash's. The expected numbers are those of sourmash 4.9.4."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from embedstore.errors import InputError
from embedstore.sequences.sketch import Pair, SketchKind, SketchOptions, shared_pairs, sketch, sketch_sources
from embedstore.sequences.translation import reverse_complement

SOURMASH: dict[tuple[SketchKind, int], tuple[int, int, int]] = {
    ("dna", 4): (15, 24933659310187264, 6578307082146533420),
    ("dna", 16): (86, 21793268414261306, 950415074937073509),
    ("dna", 21): (88, 15896452221582324, 1887497990530892587),
    ("dna", 31): (93, 6081915956841626, 5201748261963429791),
    ("dna", 32): (92, 1239701102438682, 5411875625911393980),
    ("protein", 7): (186, 7839499542159796, 14034913634375326117),
    ("protein", 10): (194, 5779597776430177, 11959285430868523939),
    ("protein", 16): (200, 6487735016077376, 997521067496015672),
}
"""Kind and k: how many hashes of `dna(2000, "a")` are kept at scaled 20, the least of them, their sum modulo 2^64."""


def dna(length: int, seed: str) -> bytes:
    digests = b"".join(hashlib.sha256(f"{seed}:{place}".encode()).digest() for place in range(length // 128 + 1))
    bits = np.frombuffer(digests, np.uint8)[:, None] >> np.array([0, 2, 4, 6], np.uint8) & 3
    return np.frombuffer(b"ACGT", np.uint8)[bits.ravel()].tobytes()[:length]


def with_unknown(sequence: bytes) -> bytes:
    return sequence[:700] + b"N" + sequence[700:]


@pytest.mark.parametrize(("kind", "k"), SOURMASH)
def test_hashes_are_those_of_sourmash(kind: SketchKind, k: int) -> None:
    sequence = dna(2000, "a")
    hashes = sketch([with_unknown(sequence) if kind == "dna" else sequence], SketchOptions(kind, k, 20))
    assert (len(hashes), int(hashes[0]), sum(hashes.tolist()) % 2**64) == SOURMASH[kind, k]


@pytest.mark.parametrize("kind", ["dna", "protein"])
def test_both_strands_and_any_pieces_give_the_same_sketch(kind: SketchKind) -> None:
    sequence, options = dna(40_000, "strand"), SketchOptions(kind, 10, 20)
    whole = sketch([sequence], options)
    assert np.array_equal(sketch([reverse_complement(sequence)], options), whole)
    halves = [sequence[:20_000], sequence[20_000 - 30 :]]
    assert set(whole.tolist()) <= set(sketch(halves, options).tolist())


def test_pairs_and_containments_are_those_of_sourmash() -> None:
    first = dna(20_000, "a")
    second = dna(20_000, "b")[:8000] + first[8000:]
    sketches = sketch_sources(
        [("x", [first]), ("y", [second]), ("z", [dna(20_000, "c")])], SketchOptions("dna", 21, 50)
    )
    assert sketches.sizes.tolist()[:2] == [392, 401]
    assert shared_pairs(sketches, 0.5) == [Pair(0, 1, 228, 228 / 392)]
    assert shared_pairs(sketches, 0.6) == []
    others = sketch_sources([("again", [second])], sketches.options)
    assert [(pair.first, pair.second) for pair in shared_pairs(sketches, 0.5, others)] == [(0, 0), (1, 0)]


def test_sequences_shorter_than_a_k_mer_have_an_empty_sketch_and_no_relatives() -> None:
    for kind in ("dna", "protein"):
        options = SketchOptions(kind, 7, 1)
        sketches = sketch_sources([("a", [b"ACG"]), ("b", [b""]), ("c", []), ("n", [b"N" * 50])], options)
        assert sketches.sizes.tolist() == [0, 0, 0, 0]
        assert shared_pairs(sketches, 0.1) == []


@pytest.mark.parametrize("wrong", [{"k": 33}, {"k": 0}, {"scaled": 0}, {"kind": "protein", "k": 17}])
def test_options_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match="Cannot sketch"):
        SketchOptions(**wrong)  # type: ignore[arg-type]


def test_sketches_of_other_options_are_not_compared() -> None:
    one = sketch_sources([("a", [dna(500, "a")])], SketchOptions("dna", 21, 1))
    other = sketch_sources([("a", [dna(500, "a")])], SketchOptions("dna", 31, 1))
    with pytest.raises(InputError, match="Cannot compare sketches"):
        shared_pairs(one, 0.1, other)
