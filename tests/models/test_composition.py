"""The built-in models against plain loops that follow their definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import InputError
from embedstore.models import Embedder, ModelOptions, resolve

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


def reverse_complement(kmer: str) -> str:
    return kmer[::-1].translate(str.maketrans("ACGT", "TGCA"))


CANONICAL_KMERS = sorted(
    {min(kmer, reverse_complement(kmer)) for kmer in map("".join, itertools.product("ACGT", repeat=4))}
)


def naive_tnf(sequence: str) -> list[float] | None:
    counts = dict.fromkeys(CANONICAL_KMERS, 0)
    for start in range(len(sequence) - 3):
        kmer = sequence[start : start + 4]
        if set(kmer) <= set("ACGT"):
            counts[min(kmer, reverse_complement(kmer))] += 1
    total = sum(counts.values())
    return [count / total for count in counts.values()] if total else None


def naive_aac_dpc(sequence: str) -> list[float] | None:
    residues = dict.fromkeys(AMINO_ACIDS, 0)
    pairs = dict.fromkeys(map("".join, itertools.product(AMINO_ACIDS, repeat=2)), 0)
    for symbol in sequence:
        if symbol in residues:
            residues[symbol] += 1
    for pair in map("".join, itertools.pairwise(sequence)):
        if pair in pairs:
            pairs[pair] += 1
    total, pair_total = sum(residues.values()), sum(pairs.values())
    if not total:
        return None
    return [c / total for c in residues.values()] + [c / max(pair_total, 1) for c in pairs.values()]


MODELS = {"tnf": ("ACGTACGTNRYK", naive_tnf), "aac_dpc": (AMINO_ACIDS + "BJOUXZ", naive_aac_dpc)}


def embedder(model: str) -> Embedder:
    return resolve(model).load(None)


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_composition_equals_plain_loops(model: str, data: st.DataObject) -> None:
    alphabet, naive = MODELS[model]
    sequences = data.draw(st.lists(st.text(alphabet, min_size=1, max_size=40), max_size=8))
    embedded = embedder(model).embed([sequence.encode() for sequence in sequences])
    assert embedded.vectors.shape == (len(sequences), embedder(model).recipe.dim)
    assert embedded.vectors.dtype == np.float32
    for row, sequence in enumerate(sequences):
        expected = naive(sequence)
        assert (row in embedded.failures) == (expected is None)
        if expected is not None:
            np.testing.assert_allclose(embedded.vectors[row], expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("model", MODELS)
def test_many_sequences_beyond_one_chunk_equal_each_alone(model: str) -> None:
    rng = np.random.default_rng(1)
    alphabet = np.frombuffer(MODELS[model][0].encode(), dtype=np.uint8)
    sequences = [rng.choice(alphabet, size).tobytes() for size in rng.integers(4, 3000, 600)]
    together = embedder(model).embed(sequences)
    for row in range(0, len(sequences), 37):
        alone = embedder(model).embed([sequences[row]])
        np.testing.assert_array_equal(together.vectors[row], alone.vectors[0])


def test_tetranucleotides_of_both_strands_are_equal() -> None:
    sequence = "ACGTTGCATGCCATTAGGCTTTACG"
    embedded = embedder("tnf").embed([sequence.encode(), reverse_complement(sequence).encode()])
    np.testing.assert_array_equal(embedded.vectors[0], embedded.vectors[1])
    assert embedded.vectors[0].sum() == pytest.approx(1)


def test_last_bases_ambiguous_are_no_tttt() -> None:
    embedded = embedder("tnf").embed([b"AAANAAAA", b"AAAN"])
    assert embedded.vectors[0, 0] == 1
    assert list(embedded.failures) == [1]


def test_nothing_to_count_is_a_failure_with_its_reason() -> None:
    dna = embedder("tnf").embed([b"ACGT", b"ACG", b"ACGNACGNA"])
    assert dna.failures == dict.fromkeys((1, 2), "no four adjacent bases are all A, C, G or T")
    proteins = embedder("aac_dpc").embed([b"XXB", b"M"])
    assert proteins.failures == {0: "no residue is one of the 20 amino acids"}
    assert proteins.vectors[1, 20:].sum() == 0


def test_no_sequences_give_no_vectors() -> None:
    assert embedder("aac_dpc").embed([]).vectors.shape == (0, 420)


def test_options_that_need_weights_are_refused() -> None:
    with pytest.raises(InputError, match="--max-length"):
        resolve("tnf", ModelOptions(max_length=10))


def test_half_precision_is_stored_as_float16() -> None:
    assert resolve("tnf").recipe.dtype == "float32"
    assert resolve("tnf", ModelOptions(precision="half")).recipe.dtype == "float16"
