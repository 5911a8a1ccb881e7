"""The CUDA branches, driven with fake tensors: devices, dtypes and operators of a GPU, without one and without numbers.

What they find: a tensor on the wrong device, a wait for the device inside the forward pass, a wrong or missing kernel,
a loop over sequences. What they cannot: a wrong number, a kernel that refuses its arguments, speed. Fake tensors do not
compare dtypes, so that every operator's are compared here. Seeded faults show that each kind is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from embedstore.models import attention as attending
from embedstore.models import devices, esm, esmc, pooling, rotary
from embedstore.models.devices import Streams, on_device
from embedstore.models.dnabert import DnabertEncoder, DnabertShape
from embedstore.models.esm import EsmEncoder, EsmShape
from embedstore.models.esmc import EsmcEncoder, EsmcShape
from embedstore.models.t5 import T5Encoder, T5Shape

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")

aten = torch.ops.aten
CUDA = torch.device("cuda:0")
CAPABILITIES = [(7, 0), (7, 5), (8, 0), (8, 9), (9, 0)]
LAYERS = 2
LENGTHS = [61, 60, 60, 59, 57, 57, 56, 55, 54, 53, 53, 52, 50]
TOKENS, HIDDEN = sum(LENGTHS), 64
MOST_OPERATIONS = {"esm": 18, "esm1b": 18, "esmc": 18, "dnabert": 25, "t5": 15, "gated t5": 17}  # a layer, for the pack
OUTSIDE_LAYERS = 20

_ESM = EsmShape(HIDDEN, LAYERS, 4, 4 * HIDDEN, 33, 1e-5, True)
_ESM1B = EsmShape(HIDDEN, LAYERS, 4, 4 * HIDDEN, 33, 1e-5, True, positions=2050, norm_before=True)
_ESMC = EsmcShape(HIDDEN, LAYERS, 4, 4 * HIDDEN)
_DNABERT = DnabertShape(HIDDEN, LAYERS, 4, 4 * HIDDEN, 40, 2, 1e-12)
_T5 = {
    "t5": T5Shape(HIDDEN, LAYERS, 4, 24, 4 * HIDDEN, 128, 32, 128, 1e-6, gated=False),
    "gated t5": T5Shape(HIDDEN, LAYERS, 4, 24, 4 * HIDDEN, 144, 64, 128, 1e-6, gated=True),
}
_WAIT = {"aten::_local_scalar_dense", "aten::nonzero", "aten::repeat_interleave.Tensor"}
"""Operators that ask the device for a number or for a size."""
_WHOLE = {aten.scaled_dot_product_attention.default, aten._fused_rms_norm.default}
"""Composed elsewhere, and one kernel on a GPU."""
_NO_KERNEL = {aten.detach.default, aten.empty.memory_format, aten.empty_strided.default, aten.expand.default}


class Redirected(TorchFunctionMode):
    """What a torch without CUDA refuses before it looks at the tensor, sent to the operators themselves."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.to and any(isinstance(each, torch.device) for each in (*args, *kwargs.values())):
            return _moved(*args, **kwargs)
        if func is Tensor.cpu:
            return aten._to_copy(args[0], device=torch.device("cpu"))
        if func is Tensor.pin_memory:
            return args[0]
        if func is Tensor.copy_:
            return aten.copy_(args[0], args[1])
        if func is Tensor.__getitem__ and args[0].device.type == "cuda":
            return _item(*args)
        return func(*args, **kwargs)


def _moved(
    tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None, non_blocking: bool = False
) -> Tensor:
    if tensor.device == device and dtype in (None, tensor.dtype):
        return tensor
    return aten._to_copy(tensor, device=device, dtype=dtype or tensor.dtype, non_blocking=non_blocking)  # type: ignore[no-any-return]


def _item(tensor: Tensor, index: Any) -> Any:
    axis = 0
    for part in index if isinstance(index, tuple) else (index,):
        if part is Ellipsis:
            axis = tensor.dim() - (len(index) - 1 - index.index(Ellipsis))
        elif part is None:
            tensor, axis = aten.unsqueeze(tensor, axis), axis + 1
        elif isinstance(part, slice):
            stop = tensor.shape[axis] if part.stop is None else part.stop
            tensor, axis = aten.slice(tensor, axis, part.start or 0, stop), axis + 1
        else:
            tensor = aten.select(tensor, axis, part)
    return tensor


@dataclass
class Operation:
    """One operator that ran, with the tensors that went in and came out."""

    name: str
    taken: list[Tensor]
    given: list[Tensor]
    view: bool


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    return [each for value in values for each in _tensors(value)] if isinstance(values, (tuple, list)) else []


@dataclass
class Recorder(TorchDispatchMode):
    """Keep every operator; composed ones as the parts of which they are made, those of `_WHOLE` as one."""

    operations: list[Operation] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace != "aten":  # asks a tensor for its device
            return func(*args, **kwargs)
        if func not in _WHOLE and func not in _NO_KERNEL:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        taken = _tensors((args, tuple(kwargs.values())))
        self.operations.append(Operation(func.name(), taken, _tensors(result), func.is_view or func in _NO_KERNEL))
        return result


@contextmanager
def gpu(capability: tuple[int, int], patch: pytest.MonkeyPatch) -> Iterator[None]:
    """A fake GPU of that capability, as cuda:0."""
    patch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    with FakeTensorMode(allow_non_fake_inputs=True), Redirected():
        yield


def esm_encoder(shape: EsmShape) -> EsmEncoder:
    return EsmEncoder.from_tensors(shape, {name: torch.ones(sizes) for name, sizes in shape.tensors().items()})


def esmc_encoder() -> EsmcEncoder:
    return EsmcEncoder.from_tensors(_ESMC, {name: torch.ones(sizes) for name, sizes in _ESMC.tensors().items()})


def dnabert_encoder() -> DnabertEncoder:
    return DnabertEncoder(_DNABERT, {name: torch.ones(sizes) for name, sizes in _DNABERT.tensors().items()})


def t5_encoder(shape: T5Shape) -> T5Encoder:
    return T5Encoder.from_tensors(shape, {name: torch.ones(sizes) for name, sizes in shape.tensors().items()})


ENCODERS: dict[str, Any] = {
    "esm": esm_encoder(_ESM),
    "esm1b": esm_encoder(_ESM1B),
    "esmc": esmc_encoder(),
    "dnabert": dnabert_encoder(),
    **{name: t5_encoder(shape) for name, shape in _T5.items()},
}


def forward(name: str, dtype: torch.dtype, lengths: Sequence[int] = LENGTHS) -> tuple[Tensor, list[Operation]]:
    """States of a pack on the fake GPU, and what ran to make them."""
    encoder = ENCODERS[name].to(CUDA, dtype)
    token_ids = torch.empty(sum(lengths), dtype=torch.int64, device=CUDA)
    with Recorder() as recorder:
        states: Tensor = encoder.hidden_states(token_ids, lengths)
    return states, recorder.operations


def check_forward(name: str, capability: tuple[int, int], dtype: torch.dtype) -> None:
    """Check all that is promised of the forward pass of a pack."""
    states, operations = forward(name, dtype)
    assert (states.shape, states.dtype, states.device) == ((TOKENS, HIDDEN), dtype, CUDA)
    check_devices(operations)
    check_dtypes(operations, dtype)
    kernels = [operation for operation in operations if not operation.view]
    assert len(kernels) <= MOST_OPERATIONS[name] * LAYERS + OUTSIDE_LAYERS
    flash = [operation for operation in kernels if operation.name == "aten::_flash_attention_forward"]
    others = [operation for operation in kernels if operation.name == "aten::scaled_dot_product_attention"]
    has_bias = name in ("dnabert", *_T5)
    usable = not has_bias and capability >= (8, 0) and dtype == torch.float16
    assert (len(flash), len(others)) == ((LAYERS, 0) if usable else (0, LAYERS))
    for operation in flash:
        assert [tensor.dtype for tensor in operation.taken] == [torch.float16] * 3 + [torch.int32] * 2
        assert [tuple(tensor.shape) for tensor in operation.taken[3:]] == [(len(LENGTHS) + 1,)] * 2


def check_devices(operations: Sequence[Operation]) -> None:
    """No wait for the device, nothing copied from it, and nothing computed elsewhere but what is copied to it."""
    for operation in operations:
        assert operation.name not in _WAIT
        devices_of = {tensor.device for tensor in operation.given}
        if any(tensor.device == CUDA for tensor in operation.taken):
            assert devices_of <= {CUDA}, operation.name
            assert all(tensor.device == CUDA or tensor.dim() == 0 for tensor in operation.taken), operation.name
        else:
            moved = operation.name in ("aten::_to_copy", "aten::lift_fresh", "aten::detach")
            assert devices_of <= {CUDA} or moved, operation.name


def check_dtypes(operations: Sequence[Operation], dtype: torch.dtype) -> None:
    """Every operator has numbers of one type; what is as large as the states is of the encoder's, all the way."""
    for operation in operations:
        kinds = {tensor.dtype for tensor in operation.taken if tensor.is_floating_point() and tensor.dim()}
        assert len(kinds) <= 1, (operation.name, kinds)
        for tensor in operation.given:
            if tensor.is_floating_point() and tensor.dim() > 1 and tensor.numel() >= TOKENS * HIDDEN:
                assert tensor.dtype == dtype, operation.name


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=["half", "full"])
@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
@pytest.mark.parametrize("name", ENCODERS)
def test_the_forward_pass_of_a_pack(
    name: str, capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gpu(capability, monkeypatch):
        check_forward(name, capability, dtype)


@pytest.mark.parametrize("lengths", [[2000] * 3, [2000, 1990, 1500, 31, 30, 3], [3], list(range(400, 2, -1))], ids=len)
@pytest.mark.parametrize("name", ENCODERS)
def test_packs_of_other_lengths(name: str, lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """With lengths from one end to the other, batches are as few as powers of 5/4 between them, at most."""
    with gpu((7, 5), monkeypatch):
        states, operations = forward(name, torch.float16, lengths)
    assert states.shape == (sum(lengths), HIDDEN)
    check_devices(operations)
    calls = [operation for operation in operations if operation.name == "aten::scaled_dot_product_attention"]
    assert len(calls) <= LAYERS * 2 * np.log(1.25 * max(lengths) / min(lengths)) / np.log(1.25)


def test_no_bias_is_made_in_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    with gpu((9, 0), monkeypatch):
        _, operations = forward("dnabert", torch.float16)
    names = [operation.name for operation in operations]
    assert "aten::flip" in names[: names.index("aten::embedding")]
    assert "aten::flip" not in names[names.index("aten::embedding") :]


def check_pooling() -> None:
    """Check that a pack is pooled in one kernel, in float32, whatever the number of sequences."""
    states = torch.empty(TOKENS, HIDDEN, dtype=torch.float16, device=CUDA)
    weights = torch.empty(TOKENS, device=CUDA)
    with Recorder() as recorder:
        sums = pooling.weighted_sums(states, weights, LENGTHS)
    assert (sums.shape, sums.dtype, sums.device) == ((len(LENGTHS), HIDDEN), torch.float32, CUDA)
    check_devices(recorder.operations)
    assert len([operation for operation in recorder.operations if not operation.view]) <= 3


def test_a_pack_is_pooled_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    with gpu((9, 0), monkeypatch):
        check_pooling()


def test_segments_are_summed_as_sequence_by_sequence() -> None:
    """The numbers of the operator that pools on a GPU, on the CPU."""
    generator = torch.Generator().manual_seed(2)
    states, weights = torch.randn(TOKENS, 8, generator=generator), torch.rand(TOKENS, generator=generator)
    states[LENGTHS[0] + 3] = torch.nan
    found = torch.segment_reduce(states * weights[:, None], "sum", lengths=torch.tensor(LENGTHS), axis=0, unsafe=True)
    expected = pooling.weighted_sums(states, weights, LENGTHS)
    assert expected[1].isnan().all()
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=0, atol=1e-5)


def test_float16_pairs_are_rotated_to_the_bit_as_in_float32() -> None:
    generator = torch.Generator().manual_seed(3)
    pairs = torch.randn(50, 3, 4, 16, generator=generator).half() * 3
    angles = torch.randn(50, 1, 1, 8, generator=generator)
    at_once, there_and_back = pairs.clone(), pairs.clone()
    rotary.rotate(at_once[:, :2], torch.polar(torch.ones_like(angles), angles))
    rotary.rotate_in_float32(there_and_back[:, :2], torch.polar(torch.ones_like(angles), angles))
    assert torch.equal(at_once, there_and_back)
    assert not torch.equal(at_once, pairs)


# Faults, each put in by a patch, and found by the checks above.

Patch = Callable[[pytest.MonkeyPatch], None]


def _in_hidden_states(change: Callable[[Tensor], object]) -> Patch:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        norm = EsmEncoder._norm

        def changed(self: EsmEncoder, affine: Any, states: Tensor) -> Tensor:
            found = norm(self, affine, states)
            result = change(found)
            return result if isinstance(result, Tensor) else found

        monkeypatch.setattr(EsmEncoder, "_norm", changed)

    return patch


def _attribute(owner: Any, name: str, value: Any) -> Patch:
    return lambda monkeypatch: monkeypatch.setattr(owner, name, value)


def _flash(change: Callable[[Tensor], Tensor]) -> Patch:
    made = attending._Flash
    return _attribute(attending, "_Flash", lambda starts, longest: made(change(starts), longest))


def _on_the_host(values: Any, device: torch.device) -> Tensor:
    del device
    return torch.from_numpy(values).clone()


def _asked_of_the_device(lengths: Sequence[int], device: torch.device) -> Tensor:
    sizes = on_device(np.asarray(lengths, dtype=np.int64), device)
    return torch.repeat_interleave(sizes)


def _in_groups(
    lengths: Sequence[int], device: torch.device, dtype: torch.dtype, bias: Tensor | None, scale: float | None
) -> Any:
    batches, start = [], 0
    for length in lengths:
        batches.append(
            attending._Batch(start, 1, length, attending._mask(np.array([length]), length, device, dtype, bias))
        )
        start += length
    return attending._Padded(batches, None, None, bias, scale)


def _bias_in_float32(bias: Tensor, length: int, first: int, stop: int, made: Any = attending._spread) -> Tensor:
    return made(bias.float(), length, first, stop)  # type: ignore[no-any-return]


def _norm_in_parts(self: T5Encoder, weight: Tensor, states: Tensor) -> Tensor:
    root = states.float().square().mean(1, keepdim=True).add(self.shape.norm_epsilon).rsqrt()
    return (states * root).to(states.dtype) * weight


def _bias_on_the_host(self: T5Encoder, longest: int) -> Tensor:
    return torch.ones(self.shape.heads, 2 * longest - 1, dtype=self.dtype)


def _layer_kept(self: Any, device: torch.device, dtype: torch.dtype) -> Any:
    del dtype
    return type(self)(self.weight.to(device), self.bias.to(device))


def _embedded_in_float32(self: Any, token_ids: Tensor, places: Tensor) -> Tensor:
    words = torch.nn.functional.embedding(token_ids, self._embeddings)
    return words.float() + self._positions.float().index_select(0, places)


def _normed_in_float32(self: Any, states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    full = None if bias is None else bias.float()
    return torch.nn.functional.layer_norm(states.float(), (HIDDEN,), weight.float(), full).to(states.dtype)


def _layer_of_esmc_kept(self: Any, device: torch.device, dtype: torch.dtype) -> Any:
    del dtype
    return type(self)(*(getattr(self, name).to(device) for name in self.__slots__))


FAULTS: dict[str, tuple[str, Patch]] = {
    "a number is read": ("esm", _in_hidden_states(lambda states: states.sum().item())),
    "states are copied to the host": ("esm", _in_hidden_states(lambda states: [states.cpu()])),
    "states go through the host": ("esm", _in_hidden_states(lambda states: _moved(states.cpu(), CUDA))),
    "what is finite is asked": ("esm", _in_hidden_states(lambda states: bool(states.isfinite().all()))),
    "states go on in float32": ("esm", _in_hidden_states(lambda states: states.float().half())),
    "states are in bfloat16": ("esm", _in_hidden_states(lambda states: states.bfloat16())),
    "weights stay in float32": ("esm", _attribute(esm._Affine, "to", _layer_kept)),
    "rotary through float32": ("esm", _attribute(rotary, "rotates_float16", lambda device: False)),
    "rotary of queries and keys of ESM-C through float32": (
        "esmc",
        _attribute(rotary, "rotates_float16", lambda device: False),
    ),
    "positions made on the device": ("esm", _attribute(rotary, "positions", _asked_of_the_device)),
    "positions on the host": ("esm", _attribute(rotary, "on_device", _on_the_host)),
    "learned positions on the host": ("esm1b", _attribute(rotary, "on_device", _on_the_host)),
    "learned positions in float32": ("esm1b", _attribute(EsmEncoder, "_embed", _embedded_in_float32)),
    "queries normed in float32": ("esmc", _attribute(EsmcEncoder, "_norm", _normed_in_float32)),
    "a layer of ESM-C keeps float32": ("esmc", _attribute(esmc._Layer, "to", _layer_of_esmc_kept)),
    "starts on the host": ("esm", _attribute(attending, "on_device", _on_the_host)),
    "starts in int64": ("esm", _flash(lambda starts: starts.long())),
    "starts without the first": ("esm", _flash(lambda starts: starts.narrow(0, 1, len(LENGTHS)))),
    "flash where it is missing": ("esm on 7.5", _attribute(attending, "_AMPERE", (7, 0))),
    "flash nowhere": ("esm", _attribute(attending, "has_flash", lambda *about: False)),
    "flash in float32": ("esm in full", _attribute(attending, "has_flash", lambda *about: True)),
    "a call a sequence": ("esm on 7.5", _attribute(attending, "_padded", _in_groups)),
    "a call a sequence of DNA": ("dnabert", _attribute(attending, "_padded", _in_groups)),
    "a call a sequence of T5": ("t5", _attribute(attending, "_padded", _in_groups)),
    "a norm in parts": ("t5", _attribute(T5Encoder, "_norm", _norm_in_parts)),
    "positions of T5 on the host": ("t5", _attribute(T5Encoder, "_bias", _bias_on_the_host)),
    "places on the host": ("dnabert", _attribute(attending, "on_device", _on_the_host)),
    "a bias in float32": ("dnabert", _attribute(attending, "_spread", _bias_in_float32)),
    "a bias a layer": ("dnabert", _attribute(attending, "_MASK_NUMBERS", 4 * 60**2)),
    "pooled one by one": (
        "pooling",
        _attribute(
            torch, "segment_reduce", lambda data, *_, **__: torch.stack([p.sum(0) for p in data.split(LENGTHS)])
        ),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_seeded_fault_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, patch = FAULTS[fault]
    name, _, circumstance = where.partition(" ")
    capability = (7, 5) if circumstance == "on 7.5" else (9, 0)
    dtype = torch.float32 if circumstance == "in full" else torch.float16
    with gpu(capability, monkeypatch):
        run = check_pooling if name == "pooling" else lambda: check_forward(name, capability, dtype)
        run()  # without the fault it holds
        patch(monkeypatch)
        with pytest.raises((AssertionError, RuntimeError, TypeError)):
            run()


class FakeStream:
    """A stream that notes what it waits for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.waited: list[object] = []

    def wait_stream(self, other: object) -> None:
        self.waited.append(other)


def test_each_worker_has_a_stream_of_its_own_and_streams_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[FakeStream] = []

    @contextmanager
    def stream(which: FakeStream) -> Iterator[None]:
        entered.append(which)
        yield

    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: "default")
    streams = Streams(CUDA)
    with streams.one(), streams.one():
        pass
    with streams.one(), streams.one():
        pass
    first, second, *again = entered
    assert first is not second
    assert {id(each) for each in again} == {id(first), id(second)}
    assert first.waited == second.waited == ["default"] * 2  # where the weights were copied


def test_cudnn_attention_and_tf32_are_off_where_a_cuda_encoder_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_float32_matmul_precision()
    said: list[bool] = []
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", said.append)
    assert devices.arithmetic("half", torch.device("cpu")) == torch.float32
    assert said == []
    try:
        torch.set_float32_matmul_precision("high")
        assert devices.arithmetic("half", CUDA) == torch.float16
        assert devices.arithmetic("full", CUDA) == torch.float32
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = True
    assert said == [False, False]
