"""Sketches: the same hashes and pairs as sourmash's. The expected numbers are those of sourmash 4.9.4."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from embedstore.errors import InputError
from embedstore.sequences.sketch import (
    Pair,
    SketchIndex,
    SketchKind,
    SketchOptions,
    scaled_for,
    shared_pairs,
    sketch,
    sketch_short,
    sketch_sources,
)
from embedstore.sequences.translation import genetic_code, reverse_complement, strands

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


def test_k_mers_of_proteins_are_those_of_the_frames_that_they_come_from() -> None:
    sequence, options = dna(3000, "frames"), SketchOptions("protein", 10, 5)
    frames = [strand[first::3] for strand in strands(sequence, genetic_code(11)) for first in range(3)]
    reverse = [frame[::-1] for frame in frames[3:]]
    found = sketch([*frames[:3], *reverse], SketchOptions("residues", 10, 5))
    assert np.array_equal(found, sketch([sequence], options))


def test_many_short_sequences_have_the_k_mers_of_each_and_no_others() -> None:
    sequences, options = [dna(length, str(length)) for length in range(15, 60)], SketchOptions("dna", 21, 1)
    each = np.unique(np.concatenate([sketch([one], options) for one in sequences]))
    assert np.array_equal(sketch(sequences, options), each)


def test_short_sources_keep_all_k_mers_and_where_there_are_many_all_keep_less() -> None:
    lengths = np.array([300, 2500, 2501, 25_000, 50_000, 5_000_000])
    assert scaled_for(lengths, 1 << 23).tolist() == [1, 1, 10, 10, 100, 100]
    assert scaled_for(np.full(100, 2000), 50_000).tolist() == [10] * 100


def test_sources_of_different_length_are_compared_by_the_share_that_both_keep() -> None:
    whole, options = dna(60_000, "whole"), SketchOptions("dna", 21, 1)
    sources = [("part", [whole[1000:3000]]), ("whole", [whole]), ("other", [dna(2000, "other")])]
    sketches = sketch_sources(sources, options, scaled={"part": 1, "whole": 100, "other": 1})
    assert sketches.sizes[0] == 1980
    assert [(pair.first, pair.second, pair.containment) for pair in shared_pairs(sketches, 0.01)] == [(0, 1, 1.0)]
    index = SketchIndex(sketches)
    queries = sketch_sources(sources[1:2], options, scaled={"whole": 100})
    (near,) = index.near(queries, 0.01, of="first")
    found = dict(zip(near.second.tolist(), near.containment.tolist(), strict=True))
    assert found[1] == 1.0
    assert found[0] == pytest.approx(1980 / 60_000, rel=0.6)


@pytest.mark.parametrize(("kind", "k"), [("dna", 21), ("residues", 10)])
def test_many_short_sources_at_once_have_the_same_sketches(kind: SketchKind, k: int) -> None:
    options = SketchOptions(kind, k, 1)
    lengths = [0, 5, 300, 22, 1500, 40_000, 700]
    sources = [(str(length), [dna(length, f"{length}"), dna(length // 2, "again")]) for length in lengths]
    sources.append(("none", []))
    scaled = np.array([1, 10, 1, 1, 1, 100, 10, 1])
    by_name = {name: one for (name, _), one in zip(sources, scaled.tolist(), strict=True)}
    one_by_one, found = sketch_sources(sources, options, scaled=by_name), sketch_short(sources, options, scaled)
    assert found.names == one_by_one.names
    for ours, theirs in ((found.hashes, one_by_one.hashes), (found.starts, one_by_one.starts), (found.scaled, scaled)):
        assert np.array_equal(ours, theirs)
    assert len(sketch_short([], options, np.empty(0, np.int64))) == 0


def test_parts_of_one_name_are_joined() -> None:
    whole, options = dna(9000, "joined"), SketchOptions("dna", 21, 10)
    parts = [("b", [whole[:5000]]), ("a", [dna(500, "a")]), ("b", [whole[4980:]])]
    joined = sketch_sources(parts, options).joined()
    assert joined.names == ("a", "b")
    assert np.array_equal(list(joined.each())[1][1], sketch([whole], options))
