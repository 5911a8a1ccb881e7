"""Which device is taken, and what is said where one cannot be used. The GPUs are pretended: none is here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from embedstore.errors import DeviceWarning, InputError, ModelError
from embedstore.models import devices, packed
from embedstore.models.checkpoint import Checkpoint, find_checkpoint
from embedstore.models.devices import pick_device
from embedstore.models.esm import EsmEncoder, ProteinTokenizer, read_encoder
from embedstore.models.packed import load_packed
from embedstore.models.resolution import ModelOptions, resolve
from embedstore_cli.main import main

ESM = Path(__file__).resolve().parents[1] / "data" / "esm" / "fastesm2_tiny"
PROTEINS = Path(__file__).resolve().parents[2] / "examples" / "proteins.faa"
NO_KERNEL = "CUDA error: no kernel image is available for execution on the device\nCompile with `TORCH_USE_CUDA_DSA`"


@pytest.fixture
def volta(monkeypatch: pytest.MonkeyPatch) -> None:
    """A V100 under a torch that was built without kernels for it."""

    def ones(*sizes: int, device: Any, **options: Any) -> torch.Tensor:
        if torch.device(device).type == "cuda":
            raise RuntimeError(NO_KERNEL)
        return torch.full(sizes, 1.0, **options)

    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80"])


@pytest.mark.usefixtures("volta")
def test_without_a_wish_a_gpu_that_does_not_compute_is_left_with_a_warning() -> None:
    with pytest.warns(DeviceWarning, match=r"Tesla V100 \(compute capability 7\.0\).*no kernel image.*sm_75 sm_80"):
        assert pick_device(None) == torch.device("cpu")


@pytest.mark.usefixtures("volta")
def test_the_command_line_says_in_one_line_that_the_gpu_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["fill", str(PROTEINS), "--model", str(ESM), "--store", str(tmp_path / "store"), "--quiet"]
    assert main(given) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Warning: Not using the GPU: Tesla V100 (compute capability 7.0) failed at a first")
    assert line.endswith("Computing on the processor.")


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
@pytest.mark.usefixtures("volta")
def test_a_gpu_that_was_asked_for_and_does_not_compute_is_an_error(name: str) -> None:
    with pytest.raises(InputError, match=rf"Cannot use the device '{name}': Tesla V100.*--device cpu"):
        pick_device(name)


@pytest.mark.usefixtures("volta")
def test_the_processor_is_never_tried() -> None:
    assert pick_device("cpu") == torch.device("cpu")


def test_a_gpu_that_computes_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(devices, "_problem", lambda place: None)
    assert pick_device(None) == torch.device("cuda")
    assert pick_device("cuda:0") == torch.device("cuda:0")


def test_a_gpu_without_memory_left_says_so(volta: None, monkeypatch: pytest.MonkeyPatch) -> None:
    del volta

    def ones(*sizes: int, **options: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    monkeypatch.setattr(torch, "ones", ones)
    with pytest.raises(InputError, match="all of its memory is in use: CUDA out of memory"):
        pick_device("cuda")


def test_the_first_matrix_product_is_checked() -> None:
    assert devices._problem(torch.device("cpu")) is None


@pytest.mark.parametrize("name", ["cuda:3", "mps", "xpu", "cpu:1", "gpu", "meta"])
def test_a_device_that_is_not_here_is_an_error(name: str) -> None:
    with pytest.raises(InputError, match=f"Cannot use the device '{name}': expected cpu"):
        pick_device(name)


def test_apples_device_is_used_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(devices, "_problem", lambda place: None)
    assert pick_device("mps") == torch.device("mps")
    assert pick_device(None) == torch.device("cpu")
    assert devices.arithmetic("half", torch.device("mps")) == torch.float16


class TooLarge(EsmEncoder):
    """The small encoder, of which the device holds nothing."""

    def to(self, device: torch.device, dtype: torch.dtype) -> EsmEncoder:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def too_large(checkpoint: Checkpoint) -> EsmEncoder:
    encoder = read_encoder(checkpoint)
    encoder.__class__ = TooLarge
    return encoder


def test_weights_that_do_not_fit_are_an_error_that_says_what_they_need_and_what_there_is() -> None:
    recipe = resolve(str(ESM), ModelOptions(precision="full")).recipe
    expected = r"onto cpu: its weights need 0\.0 GB in float32, [\d.]+ of [\d.]+ GB are free\. Close"
    with pytest.raises(ModelError, match=expected):
        load_packed(recipe, find_checkpoint(ESM), "cpu", too_large, ProteinTokenizer())


def test_weights_that_do_not_fit_a_gpu_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (400_000_000, 15_800_000_000))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(packed, "pick_device", lambda device: torch.device("cuda:0"))
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", lambda enabled: None)
    expected = r"onto cuda:0: .* in float16, 0\.4 of 15\.8 GB are free on Tesla T4\. .*--device cpu"
    with pytest.raises(ModelError, match=expected):
        load_packed(resolve(str(ESM)).recipe, find_checkpoint(ESM), None, too_large, ProteinTokenizer())


def test_parameters_are_those_of_the_tensors() -> None:
    encoder = read_encoder(find_checkpoint(ESM))
    assert encoder.parameters == sum(
        torch.empty(sizes, device="meta").numel() for sizes in encoder.shape.tensors().values()
    )
