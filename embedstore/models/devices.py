"""Where a model runs, and in which arithmetic."""

from __future__ import annotations

import torch

from embedstore.errors import InputError
from embedstore.identity import Precision
from embedstore.models.machine import Place, processor


def pick_device(device: str | None) -> torch.device:
    """Return the device of that name ("cpu", "cuda", "cuda:1"), or the best there is for None.

    Raises
    ------
    InputError : no such device is here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"Cannot use the device {device!r}: expected cpu, cuda or cuda:N.") from error
    count = torch.cuda.device_count() if place.type == "cuda" else int(place.type == "cpu")
    if (place.index or 0) >= count:
        raise InputError(f"Cannot use the device {device!r}: expected cpu or one of {torch.cuda.device_count()} GPUs.")
    return place


def arithmetic(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type to compute in: float16 for `half` on a GPU, else float32 without TF32.

    A CPU may contribute to a `half` space with float32: it is only more exact, and faster than its float16.
    """
    if device.type == "cuda" and precision == "half":
        return torch.float16
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest")
    return torch.float32


def machine_place(device: torch.device, dtype: torch.dtype) -> Place:
    """Return the place by which this machine's settings and rates are kept."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return Place(name, str(dtype).removeprefix("torch."))
