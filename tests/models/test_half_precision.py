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
from embedstore.models import dnabert, esm, esmc
from embedstore.models.attention import Attend
from embedstore.models.checkpoint import find_checkpoint
from embedstore.models.packed import weighted_sums

DATA = Path(__file__).resolve().parents[1] / "data"
CPU = torch.device("cpu")
TOLERANCE = 4e-3  # of the largest value, as canaries of `half` are compared


@pytest.fixture(autouse=True)
def _padded_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def attention(lengths: Sequence[int], **about: Any) -> Attend:
        return attending._padded(lengths, about["device"], about["dtype"], about.get("slopes"))

    monkeypatch.setattr(esm, "attention", attention)
    monkeypatch.setattr(esmc, "attention", attention)
    monkeypatch.setattr(dnabert, "attention", attention)


def means(encoder: Any, token_ids: Any, lengths: list[int], special: int) -> Any:
    """(n, d): means over all tokens but so many at either end."""
    states = encoder.hidden_states(torch.from_numpy(token_ids.astype(np.int64)), lengths)
    assert states.dtype == torch.float16
    weights = [np.pad(np.full(length - 2 * special, 1 / (length - 2 * special)), special) for length in lengths]
    return weighted_sums(states, torch.from_numpy(np.concatenate(weights).astype(np.float32)), lengths).numpy()


def assert_near(found: Any, expected: Any) -> None:
    differences = np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)
    assert 0 < differences.max() < TOLERANCE


def test_esm_in_float16_is_within_the_tolerance_of_the_reference() -> None:
    folder = DATA / "esm" / "fastesm2_tiny"
    encoder = esm.read_encoder(find_checkpoint(folder)).to(CPU, torch.float16)
    with np.load(folder / "expected.npz") as expected:
        lengths = np.diff(expected["cu_seqlens"]).tolist()
        assert_near(means(encoder, expected["ids_concat"], lengths, special=1), expected["pooled_mean"])


@pytest.mark.parametrize(("module", "folder"), [(esmc, "esmc/hf_esmc_tiny"), (esm, "esm1b/esm1b_hf_tiny")])
def test_esmc_and_esm1b_in_float16_are_within_the_tolerance_of_the_reference(module: Any, folder: str) -> None:
    encoder = module.read_encoder(find_checkpoint(DATA / folder)).to(CPU, torch.float16)
    with np.load(DATA / folder / ".." / "expected.npz") as expected:
        lengths = np.diff(expected["cu_seqlens"]).tolist()
        assert_near(means(encoder, expected["ids_concat"], lengths, special=1), expected["pooled_mean"])


def test_dnabert_in_float16_is_within_the_tolerance_of_the_reference() -> None:
    shape = dnabert.read_shape(find_checkpoint(DATA / "dnabert_s"))
    tensors = load_file(DATA / "dnabert_s" / "model.safetensors")
    encoder = dnabert.DnabertEncoder(shape, {name: tensors[name].half() for name in shape.tensors()})
    with np.load(DATA / "dnabert_s" / "expected.npz") as expected:
        lengths = np.diff(expected["offsets"]).tolist()
        assert_near(means(encoder, expected["ids_concat"], lengths, special=0), expected["mean_all"])


def test_adding_a_projection_is_the_same_either_way() -> None:
    generator = torch.Generator().manual_seed(4)
    affine = esm._Affine(torch.randn(8, 12, generator=generator), torch.randn(8, generator=generator))
    states, values = torch.randn(5, 8, generator=generator), torch.randn(5, 12, generator=generator)
    once, in_place = states.clone(), states.clone()
    esm.add_rounded_once(once, affine, values)
    esm._add_in_place(in_place, affine, values)
    torch.testing.assert_close(once, in_place, rtol=0, atol=1e-5)
    esmc.add_rounded_once(once, affine.weight, values)
    esmc._add_in_place(in_place, affine.weight, values)
    torch.testing.assert_close(once, in_place, rtol=0, atol=1e-5)
