"""How sequences are divided for computing: into windows, into packs, and again when memory runs out.

A pack is a set of sequences that one call works on: of similar lengths, and bounded by their residues or tokens. Packs
are made longest first: if memory is insufficient, the run finds out at its start. The last packs are smaller, so that
no worker waits long for the one that has the last pack.

Windows: a sequence of l content tokens is cut into the fewest windows of `max_length` tokens that overlap by at least
`overlap`, evenly placed from its start to its end. A token in k windows counts 1/k in each of them, so that the pooled
vector is the mean over all tokens of the mean of their states.

Memory: a pack that does not fit is split, and later packs are made smaller. One sequence that does not fit is tried
again while no other worker computes: it may have been the other one that held the memory.

Nothing here imports torch: filling uses it before a model is loaded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_PACKS_LEFT_PER_WORKER = 2
_SMALLEST_SHARE = 4  # of the budget: below it, calls cost more than waiting
SMALL_PACKS_PER_WORKER = 5  # at the end, about: what the two above make of it


def packs(lengths: Sequence[int] | NDArray[np.int64], budget: int, workers: int = 1) -> list[NDArray[np.int64]]:
    """Partition sequences into packs of at most `budget` residues, longest sequences first.

    Parameters
    ----------
    lengths : (n,) residues or tokens of each sequence.
    budget : what a pack may hold; a longer sequence is a pack of its own.
    workers : how many packs are computed at once.

    Returns
    -------
    Positions of the sequences of each pack: together each of 0 … n - 1 once. Equal lengths keep their order.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    ends = np.cumsum(sizes[order])
    result: list[NDArray[np.int64]] = []
    start, used = 0, 0
    while start < len(order):
        stop = max(int(np.searchsorted(ends, used + _size(int(ends[-1]) - used, budget, workers), "right")), start + 1)
        result.append(order[start:stop])
        start, used = stop, int(ends[stop - 1])
    return result


def _size(left: int, budget: int, workers: int) -> int:
    """Choose what the next pack may hold when so much is left (guided self-scheduling: Polychronopoulos, Kuck 1987)."""
    if workers <= 1:
        return budget
    return min(budget, max(left // (_PACKS_LEFT_PER_WORKER * workers), budget // _SMALLEST_SHARE))


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Content tokens `start` … `stop` of a sequence, and what each of them counts."""

    start: int
    stop: int
    weights: NDArray[np.float64]
    """(stop - start,): one by the number of windows that contain the token."""


def windows(length: int, max_length: int | None, overlap: int) -> list[Window]:
    """Cut a sequence of `length` tokens.

    Parameters
    ----------
    max_length : tokens of a window; None: one window whatever the length.
    overlap : tokens that neighbours share at least, below `max_length`.

    Returns
    -------
    Windows that cover the sequence; their weights add up to `length`.
    """
    if max_length is None or length <= max_length:
        return [Window(0, length, np.ones(length))]
    count = -(-(length - overlap) // (max_length - overlap))
    starts = [(length - max_length) * number // (count - 1) for number in range(count)]
    times = np.zeros(length)
    for start in starts:
        times[start : start + max_length] += 1
    return [Window(start, start + max_length, 1 / times[start : start + max_length]) for start in starts]


class MemoryBudget:
    """Tokens that a pack may hold, and who computes at the moment. Threads share it; the tokens only decrease.

    Parameters
    ----------
    tokens : to begin with: what is fastest on the machine.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._changed = threading.Condition()
        self._computing = 0
        self._waiting = 0

    def packs(self, lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Partition sequences into packs of about equal size near the budget, see `packs`."""
        total = int(lengths.sum())
        parts = max(1, round(total / self.tokens))
        return packs(lengths, -(-total // parts))

    def lower(self, failed_tokens: int) -> None:
        """Remember that a pack of so many tokens did not fit."""
        self.tokens = max(1, min(self.tokens, failed_tokens // 2))

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Compute beside other threads; wait while one computes alone or is waiting to."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting)
            self._computing += 1
        try:
            yield
        finally:
            with self._changed:
                self._computing -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Compute, or load, while no other thread computes."""
        with self._changed:
            self._waiting += 1
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._computing)
                self._computing += 1
            try:
                yield
            finally:
                with self._changed:
                    self._computing -= 1
        finally:
            with self._changed:
                self._waiting -= 1
                self._changed.notify_all()


Result = TypeVar("Result")


def compute_in_packs(
    lengths: Sequence[int],
    budget: MemoryBudget,
    compute: Callable[[NDArray[np.int64]], Iterable[Result]],
    give_back: Callable[[], None] = lambda: None,
) -> tuple[dict[int, Result], dict[int, str]]:
    """Compute all sequences, in packs that fit.

    Parameters
    ----------
    lengths : tokens of each sequence.
    compute : gives the results of a pack's sequences, in the order of the positions given. When it
        runs out of memory, the pack is split and the budget lowered.
    give_back : called after each failure: gives the device the memory that is held for later.

    Returns
    -------
    position -> result, and position -> reason for each sequence that does not fit even alone.

    Raises
    ------
    Whatever else `compute` raises.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    results: dict[int, Result] = {}
    failures: dict[int, str] = {}
    pending = budget.packs(sizes)[::-1]
    while pending:
        pack = pending.pop()
        rows = _unless_out_of_memory(compute, pack, budget.shared(), give_back)
        if rows is None and len(pack) == 1:
            rows = _unless_out_of_memory(compute, pack, budget.alone(), give_back)
        if rows is not None:
            results.update(zip(pack.tolist(), rows, strict=True))
        elif len(pack) == 1:
            failures[int(pack[0])] = f"memory does not suffice for its {sizes[pack[0]]} tokens at once"
        else:
            budget.lower(int(sizes[pack].sum()))
            rest = np.concatenate([pack, *pending])
            pending = [rest[part] for part in budget.packs(sizes[rest])][::-1]
    return results, failures


def _unless_out_of_memory(
    compute: Callable[[NDArray[np.int64]], Iterable[Result]],
    pack: NDArray[np.int64],
    turn: AbstractContextManager[None],
    give_back: Callable[[], None],
) -> Iterable[Result] | None:
    """Result of `compute`, or None when memory did not suffice; what it had allocated is free again then."""
    with turn:
        try:
            return compute(pack)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Only here, with the exception and its frames gone, can their tensors be given back to the device.
        give_back()
    return None


_OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "out of memory",  # of the GPU: CUDA's own, torch's, Apple's
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # what cuBLAS says where its workspace did not fit
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether Python, the CPU's allocator or the GPU's ran out of memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)
    )
