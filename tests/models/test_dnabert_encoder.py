"""The DNABERT encoder against numbers that the reference implementation computed (tests/data/dnabert_s/README.md)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file

from embedstore.models.attention import biased
from embedstore.models.dnabert import DnabertEncoder, DnabertShape, alibi_slopes

DATA = Path(__file__).resolve().parents[1] / "data" / "dnabert_s"
HIDDEN_TOLERANCE = 5e-5
MEAN_TOLERANCE = 1e-5

FULL_SIZE = DnabertShape(
    hidden=768, layers=12, heads=12, intermediate=3072, vocabulary=4096, token_types=2, norm_epsilon=1e-12
)


@dataclass(frozen=True)
class Reference:
    """Token ids of one sequence, its hidden states and their mean."""

    token_ids: NDArray[np.int64]
    hidden: NDArray[np.float32]
    mean: NDArray[np.float32]


def small_encoder() -> DnabertEncoder:
    config = json.loads((DATA / "config.json").read_text())
    shape = DnabertShape(
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        intermediate=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        token_types=config["type_vocab_size"],
        norm_epsilon=config["layer_norm_eps"],
    )
    tensors = load_file(DATA / "model.safetensors")
    return DnabertEncoder(shape, {name: tensors[name] for name in shape.tensors()})


def references() -> list[Reference]:
    with np.load(DATA / "expected.npz") as expected:
        ids, hidden, means = expected["ids_concat"], expected["hidden_concat"], expected["mean_all"]
        ends = expected["offsets"].tolist()
    return [
        Reference(ids[start:stop].astype(np.int64), hidden[start:stop], mean)
        for start, stop, mean in zip(ends, ends[1:], means, strict=False)
    ]


ENCODER = small_encoder()
REFERENCES = references()


def states_of_pack(encoder: DnabertEncoder, pack: list[Reference]) -> list[NDArray[np.float32]]:
    lengths = [len(reference.token_ids) for reference in pack]
    token_ids = torch.from_numpy(np.concatenate([reference.token_ids for reference in pack]))
    states = encoder.hidden_states(token_ids, lengths)
    return [part.numpy() for part in states.split(lengths)]


def test_hidden_states_one_sequence_at_a_time_equal_the_reference() -> None:
    for reference in REFERENCES:
        (states,) = states_of_pack(ENCODER, [reference])
        np.testing.assert_allclose(states, reference.hidden, rtol=0, atol=HIDDEN_TOLERANCE)
        np.testing.assert_allclose(states.mean(axis=0), reference.mean, rtol=0, atol=MEAN_TOLERANCE)


def test_hidden_states_in_one_pack_equal_the_reference() -> None:
    for reference, states in zip(REFERENCES, states_of_pack(ENCODER, REFERENCES), strict=True):
        np.testing.assert_allclose(states, reference.hidden, rtol=0, atol=HIDDEN_TOLERANCE)
        np.testing.assert_allclose(states.mean(axis=0), reference.mean, rtol=0, atol=MEAN_TOLERANCE)


def test_reference_reaches_beyond_the_512_tokens_that_the_original_bias_starts_with() -> None:
    assert max(len(reference.token_ids) for reference in REFERENCES) > 512


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, len(REFERENCES) - 1), min_size=1, max_size=8))
def test_states_do_not_depend_on_the_rest_of_the_pack(chosen: list[int]) -> None:
    pack = [REFERENCES[place] for place in chosen]
    for reference, states in zip(pack, states_of_pack(ENCODER, pack), strict=True):
        np.testing.assert_allclose(states, reference.hidden, rtol=0, atol=MEAN_TOLERANCE)


def test_float64_weights_give_float64_states() -> None:
    encoder = ENCODER.to(torch.device("cpu"), torch.float64)
    (states,) = states_of_pack(encoder, [REFERENCES[1]])
    assert states.dtype == np.float64
    np.testing.assert_allclose(states, REFERENCES[1].hidden, rtol=0, atol=HIDDEN_TOLERANCE)


def test_attention_equals_the_formula_written_out() -> None:
    generator = torch.Generator().manual_seed(4)
    length, width = 9, 8
    qkv = torch.randn(1, length, 3, 3, width, generator=generator, dtype=torch.float64)
    slopes = torch.tensor(alibi_slopes(3), dtype=torch.float64)
    places = torch.arange(length)
    query, key, value = (part[0].transpose(0, 1) for part in qkv.unbind(2))
    scores = query @ key.transpose(1, 2) / width**0.5 - slopes[:, None, None] * (places[:, None] - places).abs()
    expected = (scores.softmax(-1) @ value).transpose(0, 1)
    bias = -slopes[:, None] * torch.arange(1 - length, length).abs()
    torch.testing.assert_close(biased(qkv, bias)[0].transpose(0, 1), expected, rtol=0, atol=1e-12)


def test_alibi_slopes_of_twelve_heads() -> None:
    powers = [-1, -2, -3, -4, -5, -6, -7, -8, -0.5, -1.5, -2.5, -3.5]
    assert alibi_slopes(12) == pytest.approx([2.0**power for power in powers], rel=1e-15)
    with np.load(DATA / "expected.npz") as expected:
        np.testing.assert_allclose(alibi_slopes(12), expected["alibi_slopes"], rtol=1e-6)


@pytest.mark.parametrize("heads", [1, 2, 4, 8, 16])
def test_alibi_slopes_of_powers_of_two_are_a_geometric_series(heads: int) -> None:
    slopes = alibi_slopes(heads)
    assert slopes == pytest.approx([2.0 ** (-8.0 * place / heads) for place in range(1, heads + 1)])


@pytest.mark.parametrize("heads", [3, 5, 6, 7, 9, 20])
def test_alibi_slopes_of_other_numbers_are_all_different(heads: int) -> None:
    slopes = alibi_slopes(heads)
    assert len(slopes) == len(set(slopes)) == heads
    assert all(0 < slope < 1 for slope in slopes)


def test_tensors_of_the_full_size_are_those_of_the_published_checkpoint() -> None:
    lines = (DATA / "dnabert_s_full_size_keys.tsv").read_text().splitlines()[1:]
    published = dict(line.split("\t") for line in lines)
    ours = {name: "x".join(map(str, sizes)) for name, sizes in FULL_SIZE.tensors().items()}
    pooler = {"pooler.dense.weight": "768x768", "pooler.dense.bias": "768"}
    assert ours | pooler == published
    assert sum(torch.empty(size, device="meta").numel() for size in FULL_SIZE.tensors().values()) == 116_477_952
