"""From the states of tokens to one vector a sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def weighted_sums(states: Tensor, weights: Tensor, lengths: Sequence[int]) -> Tensor:
    """Sum the token states of each sequence of a pack, each state times its weight.

    With weights that add up to one this is their mean. Sums are taken sequence by sequence: a value that is not finite
    stays with its own sequence.

    Parameters
    ----------
    states : (t, d) of any floating type. Sequences one after another.
    weights : (t,) float32, same device.
    lengths : tokens of each sequence; they add up to t.

    Returns
    -------
    (len(lengths), d) float32, same device.
    """
    parts = zip(torch.split(weights, list(lengths)), torch.split(states.float(), list(lengths)), strict=True)
    return torch.stack([weight @ state for weight, state in parts])  # (n, d)
