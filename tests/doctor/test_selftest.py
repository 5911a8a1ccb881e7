"""The selftest of a device: on the processor of this machine, as it is and with an encoder that computes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from embedstore.doctor import selftest as examining
from embedstore.doctor.selftest import Selftest, selftest
from embedstore.doctor.tiny_models import tiny_checkpoints
from embedstore.errors import InputError
from embedstore.filling import canaries
from embedstore.models.embedder import Model
from embedstore.models.packed import PackedEmbedder
from embedstore.models.pooling import See
from embedstore.models.resolution import resolve
from embedstore.store.store import SpaceStore
from embedstore_cli.main import main

ESM = Path(__file__).resolve().parents[1] / "data" / "esm" / "fastesm2_tiny"
CHECKS = ["numbers", "packs", "canaries", "kernels", "speed", "memory", "overflow"]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Packs at which the speed that is found means nothing, and is kept nowhere."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(examining, "_CPU_PACKS", (256,))
    monkeypatch.setattr(examining, "_PACKS_A_WORKER", 1)
    monkeypatch.setattr(examining, "_LENGTHS", (1, 7, 20, 33, 60, 61, 61, 90))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Selftest:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
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
    assert found.verdict == f"Verdict: stores may be filled on {found.device}."


def test_versions_and_attention_are_told_first(found: Selftest) -> None:
    assert [finding.check for finding in found.findings[:3]] == ["versions", "device", "attention"]
    assert found.findings[0].data["torch"] == torch.__version__


def test_memory_ran_out_and_packs_became_smaller(found: Selftest) -> None:
    for finding in found.findings:
        if finding.check == "memory":
            assert finding.data["pack_tokens"] < 512
            assert finding.data["difference"] < 1e-5


def test_the_kernels_that_ran_and_the_speed_are_named(found: Selftest) -> None:
    by_check = {finding.check: finding for finding in found.findings}
    shares = by_check["kernels"].data["shares"]
    assert "linear" in shares
    assert sum(shares.values()) == pytest.approx(1)
    assert by_check["speed"].data["residues_per_s"][256] > 0
    assert by_check["speed"].data["share_of_matmul"] > 0


def test_the_page_is_json(found: Selftest) -> None:
    document = json.loads(json.dumps(found.to_json()))
    assert document["healthy"] is True
    assert len(document["findings"]) == len(found.findings)


class _Wrong(examining._Wrapped):
    """An encoder whose states are changed."""

    change: Callable[[Tensor, Sequence[int]], Tensor]

    def hidden_states(
        self, token_ids: Tensor, lengths: Sequence[int], see: See | None = None, depth: int | None = None
    ) -> Tensor:
        return type(self).change(self._encoder.hidden_states(token_ids, lengths, see, depth), lengths)


class _NearNeighbours(_Wrong):
    change = staticmethod(lambda states, lengths: states + 0.02 * len(lengths))


class _Coarse(_Wrong):
    change = staticmethod(lambda states, lengths: states + 0.03)


class _NotFinite(_Wrong):
    change = staticmethod(lambda states, lengths: states * torch.nan)


class _NoKernel(_Wrong):
    def hidden_states(
        self, token_ids: Tensor, lengths: Sequence[int], see: See | None = None, depth: int | None = None
    ) -> Tensor:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")


@pytest.mark.parametrize(
    ("wrong", "failing"),
    [
        (_NearNeighbours, {"numbers", "packs", "canaries"}),
        (_Coarse, {"numbers", "canaries"}),
        (_NotFinite, {"numbers", "packs", "canaries"}),
        (_NoKernel, {"numbers", "packs", "canaries", "kernels", "speed", "memory"}),
    ],
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
        assert f"numbers of {group}" in found.verdict
    assert found.verdict.startswith("Verdict: do not fill stores on cpu")


def test_the_canaries_of_a_space_of_the_model_are_those_of_the_store(tmp_path: Path) -> None:
    """A space whose canaries are of other weights, in a store that has it."""
    store = SpaceStore.open(tmp_path / "store", create=True)
    model = resolve(str(ESM))
    right = canaries.compute(model.load("cpu"))
    store.create_space(model.recipe, "esm", replace(right, vectors=right.vectors * np.float32(1.1)))
    found = selftest("cpu", str(ESM), store=store)
    last = [finding for finding in found.findings if finding.check == "canaries"]
    assert [finding.state for finding in last] == ["ok", "ok", "fail"]
    assert last[-1].found.startswith("against those of space esm of the store: differs by")
    assert last[-1].data["difference"] == pytest.approx(0.1 / 1.1, rel=1e-3)


def test_the_speed_of_a_named_model_is_kept_for_the_estimates_of_dry_runs(found: Selftest) -> None:
    kept = {finding.group: finding.data.get("kept_in") for finding in found.findings if finding.check == "speed"}
    assert kept["tiny_esm2"] is kept["tiny_dnabert"] is None
    document = json.loads(Path(kept["fastesm2_tiny"]).read_text())
    (rate,) = document["rates"].values()
    last = found.findings[-3]
    assert rate["residues_per_second"] == last.data["residues_per_s"][2048]


@pytest.mark.parametrize(
    ("name", "capability", "proteins"),
    [
        ("Tesla T4", (7, 5), "calls for neighbours of similar length; all else"),
        ("NVIDIA H100", (9, 0), "one flash call for a whole pack; all else"),
    ],
)
def test_a_gpu_is_told_by_capability_memory_and_attention(
    name: str, capability: tuple[int, int], proteins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (14_500_000_000, 15_800_000_000))
    versions, device, attention = examining._device_findings(torch.device("cuda"), name)
    assert {"cuda", "cudnn"} <= set(versions.data)
    major, minor = capability
    assert device.found == f"{name}, compute capability {major}.{minor}, 14.5 of 15.8 GB free"
    assert attention.found.startswith(f"proteins in half: {proteins}")
    assert attention.data["flash"] == (capability >= (8, 0))


@pytest.mark.parametrize(
    ("kernels", "flash", "said"),
    [
        (["ampere_fp16_s16816gemm", "pytorch_flash::flash_fwd_kernel<…>"], True, ""),
        (["ampere_fp16_s16816gemm", "fmha_cutlassF_f16_aligned_64x64_rf_sm80"], True, "Flash attention was to run"),
        (["fmha_cutlassF_f16_aligned_64x64_rf_sm80"], False, ""),
        (["cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16"], True, "cuDNN's attention ran"),
        (["void (anonymous namespace)::cunn_SoftMaxForward<8, c10::Half>"], False, "computed step by step"),
    ],
)
def test_attention_that_is_slower_than_it_could_be_is_noticed(kernels: list[str], flash: bool, said: str) -> None:
    found = examining.slow_attention(kernels, flash=flash)
    assert said in found
    assert bool(said) == bool(found)


def test_the_command_writes_one_page_with_one_verdict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examining, "tiny_checkpoints", lambda folder: tiny_checkpoints(folder)[:1])
    assert main(["selftest", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cpu (")
    assert [line for line in lines if line and not line.startswith(" ")][1:-1] == ["device", "tiny_esm2"]
    assert lines[-1].startswith("Verdict: stores may be filled on cpu")


def test_the_command_compares_with_the_store_and_ends_with_1_if_something_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examining, "tiny_checkpoints", lambda folder: [])
    place = tmp_path / "store"
    store = SpaceStore.open(place, create=True)
    model = resolve(str(ESM))
    right = canaries.compute(model.load("cpu"))
    store.create_space(model.recipe, "esm", replace(right, vectors=-right.vectors))
    assert main(["selftest", "--device", "cpu", "-m", str(ESM), "--store", str(place), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert not document["healthy"]
    assert [each["check"] for each in document["findings"] if each["state"] == "fail"] == ["canaries"]


def test_weights_are_of_a_model_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "--weights", "somewhere"]) == 2
    assert "give --model with --weights" in capsys.readouterr().err


def test_a_built_in_model_has_nothing_to_test() -> None:
    with pytest.raises(InputError, match="Cannot test tnf: it is built in"):
        selftest("cpu", "tnf")


def test_a_device_that_is_not_here_is_an_error() -> None:
    with pytest.raises(InputError, match="Cannot use the device 'cuda:7'"):
        selftest("cuda:7")
