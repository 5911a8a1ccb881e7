"""The ways to attend within the sequences of a pack, all on the CPU, against the formula written out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from embedstore.models import attention as attending
from embedstore.models.attention import Attend, attention
from embedstore.models.dnabert import alibi_by_distance, alibi_slopes

CPU = torch.device("cpu")
HEADS, WIDTH = 4, 8
LONGEST = 48
ALIBI = alibi_by_distance(torch.tensor(alibi_slopes(HEADS)), LONGEST, torch.float32)
LOPSIDED = torch.randn(HEADS, 2 * LONGEST - 1, generator=torch.Generator().manual_seed(5))
"""Another number for before than for after, as in T5."""
BIASES = {"plain": None, "alibi": ALIBI, "lopsided": LOPSIDED}
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def pack(lengths: Sequence[int]) -> Tensor:
    generator = torch.Generator().manual_seed(sum(lengths))
    return torch.randn(sum(lengths), 3, HEADS, WIDTH, generator=generator)


def written_out(qkv: Tensor, lengths: Sequence[int], bias: Tensor | None, scale: float | None = None) -> Tensor:
    parts = []
    for sequence in qkv.double().split(list(lengths)):
        query, key, value = sequence.permute(1, 2, 0, 3)  # (h, l, e) each
        scores = query @ key.transpose(1, 2) * (WIDTH**-0.5 if scale is None else scale)
        if bias is not None:
            places = torch.arange(len(sequence))
            scores += bias[:, LONGEST - 1 + places[:, None] - places]
        parts.append((scores.softmax(-1) @ value).transpose(0, 1).flatten(1))
    return torch.cat(parts)


def padded(lengths: Sequence[int], bias: Tensor | None, scale: float | None = None) -> Attend:
    return attending._padded(lengths, CPU, torch.float32, bias, scale)


def in_groups(lengths: Sequence[int], bias: Tensor | None, scale: float | None = None) -> Attend:
    return attention(lengths, width=WIDTH, device=CPU, dtype=torch.float32, bias=bias, scale=scale)


@settings(max_examples=40, deadline=None)
@given(
    LENGTHS,
    st.sampled_from(list(BIASES)),
    st.sampled_from([None, 0.7]),
    st.booleans(),
    st.sampled_from([padded, in_groups]),
)
def test_every_way_equals_the_formula(
    lengths: list[int], name: str, scale: float | None, by_length: bool, way: Callable[..., Attend]
) -> None:
    lengths = sorted(lengths, reverse=True) if by_length else lengths
    qkv, bias = pack(lengths), BIASES[name]
    found = way(lengths, bias, scale)(qkv)
    torch.testing.assert_close(found.double(), written_out(qkv, lengths, bias, scale), rtol=0, atol=2e-6)


@pytest.mark.parametrize("bias", [ALIBI, LOPSIDED], ids=["alibi", "lopsided"])
@pytest.mark.parametrize("most", [1, 300, 4000, 10_000])
def test_a_bias_too_large_for_memory_is_made_in_blocks(
    most: int, bias: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attending, "_MASK_NUMBERS", most)
    lengths = [45, 45, 44, 31, 30, 7]
    qkv = pack(lengths)
    expected = written_out(qkv, lengths, bias)
    torch.testing.assert_close(padded(lengths, bias)(qkv).double(), expected, rtol=0, atol=2e-6)


@settings(max_examples=40, deadline=None)
@given(LENGTHS)
def test_little_of_a_pack_is_padding_and_all_of_it_is_there(lengths: list[int]) -> None:
    made = padded(sorted(lengths, reverse=True), None)
    assert isinstance(made, attending._Padded)
    assert sum(batch.count for batch in made.batches) == len(lengths)
    assert sum(batch.count * batch.length for batch in made.batches) <= 1.25 * sum(lengths)


@pytest.mark.parametrize("bias", BIASES.values(), ids=BIASES)
def test_what_is_not_finite_stays_with_its_own_sequence(bias: Tensor | None) -> None:
    lengths = [9, 8, 8, 7]
    qkv = pack(lengths)
    expected = written_out(qkv, lengths, bias)
    qkv[10] = torch.nan
    for way in (padded, in_groups):
        found = way(lengths, bias)(qkv).double()
        assert found[9:17].isnan().any()
        torch.testing.assert_close(found[:9], expected[:9], rtol=0, atol=2e-6)
        torch.testing.assert_close(found[17:], expected[17:], rtol=0, atol=2e-6)


@pytest.fixture(scope="module")
def flash_calls() -> Iterator[list[tuple[object, ...]]]:
    """Torch has the operator for GPUs only; here, for the CPU, what it is to do: attend between starts."""
    calls: list[tuple[object, ...]] = []

    def forward(query: Tensor, key: Tensor, value: Tensor, *others: object) -> tuple[Tensor, ...]:
        starts, _, *rest = others
        calls.append(tuple(rest))
        assert isinstance(starts, Tensor)
        mixed = written_out(torch.stack((query, key, value), 1), starts.diff().tolist(), None)
        nothing = torch.empty(0)
        return mixed.view_as(query).to(query.dtype), nothing, nothing, nothing, nothing

    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", forward, "CPU")
    yield calls
    library._destroy()


@settings(max_examples=10, deadline=None)
@given(LENGTHS)
def test_flash_gets_the_starts_of_the_sequences(flash_calls: list[tuple[object, ...]], lengths: list[int]) -> None:
    qkv = pack(lengths)
    starts = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    flash_calls.clear()
    found = attending._Flash(starts, max(lengths))(qkv)
    torch.testing.assert_close(found.double(), written_out(qkv, lengths, None), rtol=0, atol=2e-6)
    assert flash_calls == [(max(lengths), max(lengths), 0.0, False, False)]
