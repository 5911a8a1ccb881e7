"""Going on when memory does not suffice: a pack that does not fit is split, and later ones are made smaller."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from embedstore.models.batching import packs

Compute = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Positions of the sequences of a pack -> their vectors, (n, d), in that order."""

_OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


class MemoryBudget:
    """Tokens that a pack may hold. Threads share it; it only ever goes down.

    Parameters
    ----------
    tokens : to begin with: what is fastest on the machine.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def packs(self, lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Partition sequences into packs of about equal size near the budget, see `batching.packs`."""
        total = int(lengths.sum())
        parts = max(1, round(total / self.tokens))
        return packs(lengths, -(-total // parts))

    def lower(self, failed_tokens: int) -> None:
        """Remember that a pack of so many tokens did not fit."""
        self.tokens = max(1, min(self.tokens, failed_tokens // 2))


def compute_in_packs(
    lengths: Sequence[int], budget: MemoryBudget, compute: Compute
) -> tuple[dict[int, NDArray[np.float32]], dict[int, str]]:
    """Compute all sequences, in packs that fit.

    Parameters
    ----------
    lengths : tokens of each sequence.
    compute : called pack by pack. When it runs out of memory, the pack is split and the budget lowered.

    Returns
    -------
    position -> vector (d,), and position -> reason for each sequence that does not fit even alone.

    Raises
    ------
    Whatever else `compute` raises.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    vectors: dict[int, NDArray[np.float32]] = {}
    failures: dict[int, str] = {}
    pending = budget.packs(sizes)[::-1]
    while pending:
        pack = pending.pop()
        rows = _unless_out_of_memory(compute, pack)
        if rows is not None:
            vectors.update(zip(pack.tolist(), rows, strict=True))
        elif len(pack) == 1:
            failures[int(pack[0])] = f"memory does not suffice for its {sizes[pack[0]]} tokens at once"
        else:
            budget.lower(int(sizes[pack].sum()))
            rest = np.concatenate([pack, *pending])
            pending = [rest[part] for part in budget.packs(sizes[rest])][::-1]
    return vectors, failures


def _unless_out_of_memory(compute: Compute, pack: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """Result of `compute`, or None when memory did not suffice; what it had allocated is free again then."""
    try:
        return compute(pack)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # Only here, with the exception and its frames gone, can their tensors be given back to the device.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether Python, the CPU's allocator or the GPU's ran out of memory."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        sign in str(error) for sign in _OUT_OF_MEMORY
    )
