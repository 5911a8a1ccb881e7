"""Float16 as a GPU computes it, with numbers: the same code and operators, run on the CPU, against the references."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from embedstore.models import attention as attending
from embedstore.models import dnabert, esm, esmc, t5
from embedstore.models.attention import Attend
from embedstore.models.checkpoint import find_checkpoint
from embedstore.models.encoder import add_in_place, add_rounded_once
from embedstore.models.pooling import weighted_sums

DATA = Path(__file__).resolve().parents[1] / "data"
CPU = torch.device("cpu")
TOLERANCE = 4e-3  # of the largest value, as canaries of `half` are compared


@pytest.fixture(autouse=True)
def _padded_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def attention(lengths: Sequence[int], **about: Any) -> Attend:
        return attending._padded(lengths, about["device"], about["dtype"], about.get("bias"), about.get("scale"))

    monkeypatch.setattr(esm, "attention", attention)
    monkeypatch.setattr(esmc, "attention", attention)
    monkeypatch.setattr(dnabert, "attention", attention)
    monkeypatch.setattr(t5, "attention", attention)


def means(encoder: Any, token_ids: Any, lengths: list[int], before: int, after: int) -> Any:
    """(n, d): means over all tokens but so many at the beginning and at the end."""
    states = encoder.hidden_states(torch.from_numpy(token_ids.astype(np.int64)), lengths)
    assert states.dtype == torch.float16
    counts = [length - before - after for length in lengths]
    weights = [np.pad(np.full(count, 1 / count), (before, after)) for count in counts]
    return weighted_sums(states, torch.from_numpy(np.concatenate(weights).astype(np.float32)), lengths).numpy()


def assert_near(found: Any, expected: Any) -> None:
    differences = np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)
    assert 0 < differences.max() < TOLERANCE


def test_esm_in_float16_is_within_the_tolerance_of_the_reference() -> None:
    folder = DATA / "esm" / "fastesm2_tiny"
    encoder = esm.read_encoder(find_checkpoint(folder)).to(CPU, torch.float16)
    with np.load(folder / "expected.npz") as expected:
        lengths = np.diff(expected["cu_seqlens"]).tolist()
        assert_near(means(encoder, expected["ids_concat"], lengths, before=1, after=1), expected["pooled_mean"])


@pytest.mark.parametrize(("module", "folder"), [(esmc, "esmc/hf_esmc_tiny"), (esm, "esm1b/esm1b_hf_tiny")])
def test_esmc_and_esm1b_in_float16_are_within_the_tolerance_of_the_reference(module: Any, folder: str) -> None:
    encoder = module.read_encoder(find_checkpoint(DATA / folder)).to(CPU, torch.float16)
    with np.load(DATA / folder / ".." / "expected.npz") as expected:
        lengths = np.diff(expected["cu_seqlens"]).tolist()
        assert_near(means(encoder, expected["ids_concat"], lengths, before=1, after=1), expected["pooled_mean"])


def test_dnabert_in_float16_is_within_the_tolerance_of_the_reference() -> None:
    shape = dnabert.read_shape(find_checkpoint(DATA / "dnabert_s"))
    tensors = load_file(DATA / "dnabert_s" / "model.safetensors")
    encoder = dnabert.DnabertEncoder(shape, {name: tensors[name].half() for name in shape.tensors()})
    with np.load(DATA / "dnabert_s" / "expected.npz") as expected:
        lengths = np.diff(expected["offsets"]).tolist()
        assert_near(means(encoder, expected["ids_concat"], lengths, before=0, after=0), expected["mean_all"])


@pytest.mark.parametrize(("name", "before"), [("prot_t5", 0), ("prost_t5", 1)])
def test_t5_in_float16_is_within_the_tolerance_of_the_reference(name: str, before: int) -> None:
    folder = DATA / "t5" / name
    encoder = t5.read_encoder(find_checkpoint(folder)).to(CPU, torch.float16)
    with np.load(folder / "expected.npz") as expected:
        lengths = np.diff(expected["cu_seqlens"]).tolist()
        found = means(encoder, expected["readme_ids_concat"], lengths, before=before, after=1)
        assert_near(found, expected["readme_pooled_mean"])


def test_adding_a_projection_is_the_same_either_way() -> None:
    generator = torch.Generator().manual_seed(4)
    affine = esm._Affine(torch.randn(8, 12, generator=generator), torch.randn(8, generator=generator))
    states, values = torch.randn(5, 8, generator=generator), torch.randn(5, 12, generator=generator)
    once, in_place = states.clone(), states.clone()
    add_rounded_once(once, affine.weight, values, affine.bias)
    add_in_place(in_place, affine.weight, values, affine.bias)
    torch.testing.assert_close(once, in_place, rtol=0, atol=1e-5)
    add_rounded_once(once, affine.weight, values)
    add_in_place(in_place, affine.weight, values)
    torch.testing.assert_close(once, in_place, rtol=0, atol=1e-5)
