"""Sequences that are longer than a model sees at once: overlapping windows, each token counted equally.

A sequence of l content tokens is cut into the fewest windows of `max_length` tokens that overlap by at least `overlap`,
evenly placed from its start to its end. A token that lies in k windows counts 1/k in each of them, so that the pooled
vector is the mean over all tokens of the mean of their states.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
