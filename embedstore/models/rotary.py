"""Rotary positions on packs (Su et al. 2021, arXiv:2104.09864): what all encoders that have them share.

Of the e values of a head, the i-th and the one e / 2 behind it are a pair, which is turned by the token's position
times the i-th frequency. Two optimisations, neither of which changes what is computed. When weights are read, the
values of each query and key head are reordered so that the two of a pair are adjacent and make one complex number
(`pair_order`): queries and keys in the same order have the same products. Float16 pairs are turned as they are, by the
kernel that rounds the product once, as a copy in float32 and back would.

Shapes in the comments: t tokens of the pack; l the longest sequence; h heads of width e; d = h * e.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from embedstore.models.devices import on_device

Rotate = Callable[[Tensor, Tensor], None]
"""(t, 2, h, e) queries and keys, pairs adjacent, and `rotation`: turns them in place."""


def pair_order(width: int, heads: int) -> Tensor:
    """Return (d,) int64: which value stands at each place when those of a pair are adjacent.

    In each head that is 0, e / 2, 1, e / 2 + 1 …
    """
    return torch.arange(heads * width).view(heads, 2, -1).transpose(1, 2).flatten()


def positions(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Return (t,) int64: each token's place in its sequence, from 0.

    Made on the host: a device would have to say how many they are.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    return on_device(np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes), device)


def rotation(frequencies: Tensor, places: Tensor, longest: int) -> Tensor:
    """Return each token's angles as complex numbers of length one.

    Parameters
    ----------
    frequencies : (e / 2,) float32.
    places : (t,) int64, same device: see `positions`.
    longest : tokens of the longest sequence.

    Returns
    -------
    (t, 1, 1, e / 2) complex64.
    """
    angles = torch.arange(longest, device=frequencies.device).float()[:, None] * frequencies  # (l, e / 2)
    return torch.polar(torch.ones_like(angles), angles).index_select(0, places)[:, None, None]


def rotator(device: torch.device, dtype: torch.dtype) -> Rotate:
    """Return what turns values of that type on that device."""
    return rotate if dtype == torch.float16 and rotates_float16(device) else rotate_in_float32


def rotate(vectors: Tensor, angles: Tensor) -> None:
    """Turn neighbouring values of (t, 2, h, e) by their angles, in place; of float16, the product is rounded once."""
    torch.view_as_complex(vectors.view(*vectors.shape[:-1], -1, 2)).mul_(angles)  # (t, 2, h, e / 2)


def rotate_in_float32(vectors: Tensor, angles: Tensor) -> None:
    """Do the same to values of any type."""
    full = vectors.float()  # the same memory if that is what they are
    rotate(full, angles)
    if full is not vectors:
        vectors.copy_(full)


def rotates_float16(device: torch.device) -> bool:
    """Tell whether the device multiplies complex numbers of float16, as CUDA does."""
    try:
        rotate(
            torch.ones(1, 2, 1, 8, dtype=torch.float16, device=device),
            torch.ones(1, dtype=torch.complex64, device=device),
        )
    except (RuntimeError, TypeError):
        return False
    return True
