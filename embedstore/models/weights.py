"""Strict reading of a checkpoint's tensors: every one that is expected, none that is not, nothing executed.

`safetensors` holds only tensors. Pickled files (`pytorch_model.bin`, fair-esm's `.pt`) are read with torch's
`weights_only`, which refuses whatever is not a tensor or a plain value; fair-esm's configuration, an
`argparse.Namespace`, is the one class allowed. A missing tensor is never filled with random numbers. Nothing is copied
that the file does not hold: a tensor may be described as larger than its bytes (of strides 0), and is refused then.
"""

from __future__ import annotations

import argparse
import pickle
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from embedstore.errors import WeightsError
from embedstore.interruption import uninterrupted
from embedstore.models.batching import is_out_of_memory
from embedstore.models.checkpoint import Checkpoint
from embedstore.models.files import TorchFileError, check_sizes, is_archive

_SHOWN = 5
_SHARED_BYTES = 1 << 20
"""What small tensors may take beyond the files' sizes, since layers may share one."""

_UNREADABLE = (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
               AssertionError, MemoryError, struct.error)  # fmt: skip
"""What torch's restricted reader was seen to raise over damaged files, beside UnpicklingError."""

EXTRA_STATE = "_extra_state"
"""How the names of what Transformer Engine keeps beside the weights end; it need not be a tensor."""

Names = Callable[[str], Sequence[str]]
"""Name in the file -> the expected names that it stands for: none for a tensor left out on purpose, several for one
that layers share, or that has the rows of all of them, one below the other."""


def read_tensors(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], names: Names) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint.

    Parameters
    ----------
    expected : name -> shape of each tensor that must be there.
    names : applied to the names in the file; what it does not leave out must be among the expected.

    Returns
    -------
    name -> float32 tensor on the CPU, independent of the file.

    Raises
    ------
    WeightsError : a file cannot be read or holds more than tensors; tensors are missing, unexpected, there twice, of
        another shape, or not of floating point.
    """
    found: dict[str, Tensor] = {}
    problems: list[str] = []
    left_bytes = sum(file.stat().st_size for file in checkpoint.weights) + _SHARED_BYTES
    for file in checkpoint.weights:
        with _opened(file, checkpoint) as tensors:
            for original in sorted(tensors):
                wanted = names(original)
                for place, name in enumerate(wanted):
                    if name not in expected:
                        problems.append(f"{original} is unexpected")
                    elif name in found:
                        problems.append(f"{original} is there twice")
                    else:
                        tensor = _part(tensors[original](), [expected.get(each, ()) for each in wanted], place)
                        left_bytes -= tensor.numel() * tensor.element_size()
                        problem = _problem(tensor, expected[name])
                        if problem is None and left_bytes < 0:
                            problem = "the tensors are larger than the files"
                        if problem is not None:
                            problems.append(f"{original}: {problem}")
                        # A copy: the tensors of an open file are views of it, and would change with it.
                        found[name] = tensor.to(torch.float32, copy=True) if problem is None else torch.empty(0)
    problems += [f"{name} is missing" for name in expected if name not in found]
    if problems:
        raise WeightsError(_message(checkpoint, problems))
    return found


def _part(tensor: Tensor, shapes: Sequence[tuple[int, ...]], place: int) -> Tensor:
    """Take the rows of one of the expected tensors that the file holds as one; otherwise they share all of it."""
    rows = [shape[0] if shape else 0 for shape in shapes]
    if len(shapes) > 1 and tensor.dim() and len(tensor) == sum(rows):
        return tensor[sum(rows[:place]) : sum(rows[: place + 1])]
    return tensor


def _problem(tensor: Tensor, shape: tuple[int, ...]) -> str | None:
    """Say why a tensor is not copied, if so."""
    if tuple(tensor.shape) != shape:
        return f"expected shape {shape}, found {tuple(tensor.shape)}"
    if not tensor.is_floating_point():
        return f"expected floating point, found {tensor.dtype}"
    return storage_problem(tensor)


def storage_problem(tensor: Tensor) -> str | None:
    """Say why the bytes of a tensor are not there, if so: it is sparse, elsewhere, or larger than its storage."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return f"expected a dense tensor, found {tensor.layout} on {tensor.device}"
    claimed, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    return f"it claims {claimed} bytes, its storage has {held}" if claimed > held else None


def _message(checkpoint: Checkpoint, problems: Sequence[str]) -> str:
    shown = "; ".join(problems[:_SHOWN])
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return (
        f"Cannot load {checkpoint.path} as {checkpoint.architecture}: {shown}{more}. "
        "The tensors must be exactly those of the architecture and of the sizes in its configuration."
    )


@contextmanager
def _opened(file: Path, checkpoint: Checkpoint) -> Iterator[Mapping[str, Callable[[], Tensor]]]:
    """The tensors of one file by name, each read when called."""
    if file.suffix == ".safetensors":
        try:
            with uninterrupted():
                opened = safe_open(file, framework="pt", device="cpu")
            with opened as tensors:
                yield {name: _reader(tensors.get_tensor, name) for name in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, RuntimeError, ValueError, LookupError, TypeError) as error:
            if is_out_of_memory(error):
                raise
            raise WeightsError(f"Cannot read {file}: {error}.") from error
    else:
        content = _unpickled(file)
        state = content.get("model") if checkpoint.layout == "fair-esm" and isinstance(content, dict) else content
        if not isinstance(state, dict) or not all(
            isinstance(tensor, Tensor) or str(name).endswith(EXTRA_STATE) for name, tensor in state.items()
        ):
            raise WeightsError(f"Cannot load {file}: expected tensors by name, found something else.")
        yield {str(name): _reader(state.__getitem__, name) for name in state}


def _reader(read: Callable[[str], Tensor], name: str) -> Callable[[], Tensor]:
    def tensor() -> Tensor:
        with uninterrupted():  # an interrupt would come out of the library as an error about the tensor
            return read(name)

    return tensor


def _unpickled(file: Path) -> object:
    try:
        check_sizes(file)
    except (TorchFileError, OSError) as error:
        raise WeightsError(f"Cannot read {file}: {error}.") from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=is_archive(file))
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"Refused to load {file}: it holds something other than tensors, or is damaged. "
            "Nothing in it was executed. Get the weights from their original source, as safetensors if possible."
        ) from error
    except _UNREADABLE as error:
        raise WeightsError(f"Cannot read {file}: {error}.") from error
