"""The selftest of a device: on the processor of this machine, as it is and with an encoder that computes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from embedstore.doctor import selftest as examining
from embedstore.doctor.selftest import Selftest, selftest
from embedstore.errors import InputError
from embedstore.models.embedder import Model
from embedstore.models.packed import PackedEmbedder

ESM = Path(__file__).resolve().parents[1] / "data" / "esm" / "fastesm2_tiny"
CHECKS = ["numbers", "packs", "memory", "overflow", "kernels", "speed"]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs at which the speed that is found means nothing."""
    monkeypatch.setattr(examining, "_CPU_PACKS", (256,))
    monkeypatch.setattr(examining, "_LENGTHS", (1, 7, 20, 33, 60, 61, 61, 90))


@pytest.fixture(scope="module")
def found() -> Selftest:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(examining, "_CPU_PACKS", (256,))
        return selftest("cpu", str(ESM))


def test_everything_is_looked_at_and_fine_on_a_processor(found: Selftest) -> None:
    groups = list(dict.fromkeys(finding.group for finding in found.findings))
    assert groups == ["device", "tiny_esm2", "tiny_dnabert", "fastesm2_tiny"]
    for group in groups[1:]:
        assert [finding.check for finding in found.findings if finding.group == group] == CHECKS
    assert [finding.found for finding in found.findings if finding.state != "ok"] == []
    assert found.healthy
    assert found.device.startswith("cpu (")


def test_memory_ran_out_and_packs_became_smaller(found: Selftest) -> None:
    for finding in found.findings:
        if finding.check == "memory":
            assert finding.data["pack_tokens"] < 512
            assert finding.data["difference"] < 1e-5


def test_the_kernels_that_ran_and_the_speed_are_named(found: Selftest) -> None:
    by_check = {finding.check: finding for finding in found.findings}
    assert any("linear" in name for name in by_check["kernels"].data["kernels"])
    assert by_check["speed"].data["residues_per_s"][256] > 0
    assert by_check["speed"].data["share_of_matmul"] > 0


def test_the_page_is_json(found: Selftest) -> None:
    document = json.loads(json.dumps(found.to_json()))
    assert document["healthy"] is True
    assert len(document["findings"]) == len(found.findings)


class _Wrong(examining._Wrapped):
    """An encoder whose states are changed."""

    change: Callable[[Tensor, Sequence[int]], Tensor]

    def hidden_states(self, token_ids: Tensor, lengths: Sequence[int]) -> Tensor:
        return type(self).change(self._encoder.hidden_states(token_ids, lengths), lengths)


class _NearNeighbours(_Wrong):
    change = staticmethod(lambda states, lengths: states + 0.02 * len(lengths))


class _Coarse(_Wrong):
    change = staticmethod(lambda states, lengths: states + 0.03)


class _NotFinite(_Wrong):
    change = staticmethod(lambda states, lengths: states * torch.nan)


@pytest.mark.parametrize(
    ("wrong", "failing"),
    [(_NearNeighbours, {"numbers", "packs"}), (_Coarse, {"numbers"}), (_NotFinite, {"numbers", "packs"})],
)
def test_a_device_that_computes_wrong_fails(
    wrong: type[_Wrong], failing: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = examining._loaded

    def half_is_wrong(model: Model, device: str) -> PackedEmbedder:
        embedder = loaded(model, device)
        return embedder if model.recipe.precision == "full" else embedder.with_encoder(wrong(embedder.encoder))

    monkeypatch.setattr(examining, "_loaded", half_is_wrong)
    found = selftest("cpu")
    assert not found.healthy
    for group in ("tiny_esm2", "tiny_dnabert"):
        failed = {finding.check for finding in found.findings if (finding.group, finding.state) == (group, "fail")}
        assert failing <= failed
        assert all(finding.advice for finding in found.findings if finding.state == "fail")


def test_a_built_in_model_has_nothing_to_test() -> None:
    with pytest.raises(InputError, match="Cannot test tnf: it is built in"):
        selftest("cpu", "tnf")


def test_a_device_that_is_not_here_is_an_error() -> None:
    with pytest.raises(InputError, match="Cannot use the device 'cuda:7'"):
        selftest("cuda:7")
