"""Attention within each sequence of a pack, without padding where that is fast.

One choice a pack, the same for all its layers, by device, arithmetic and bias:

- *Groups*, on a CPU: one call for neighbours of equal length. Nothing is padded; calls cost little there.
- *Flash*, float16 on a GPU of the Ampere generation or later, no bias: one call for the whole pack. It is torch's own
  kernel, called directly: where `varlen_attn` leads differs from release to release (before 2.10 there is none, 2.14
  leads to cuDNN on Hopper, which plans again for nearly every pack). Torch's build of it refuses an ALiBi bias.
- *Padded*, on any other GPU: neighbours of similar length are padded to the longest, and a mask keeps each sequence to
  itself. A handful of calls a pack instead of hundreds; masks are made once a pack.

A bias is added to the scores of a head, by how far query and key are apart: i - j, of which the sign may matter (T5's
positions, see `t5`), or not (ALiBi: Press et al. 2021, arXiv:2108.12409; see `dnabert`). It is given once a pack, as a
line of numbers by distance; the masks of all lengths are made of it.

Shapes in the comments: t tokens of the pack; n sequences of one length l; h heads of width e; d = h * e.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from embedstore.models.devices import on_device

Attend = Callable[[Tensor], Tensor]
"""(t, 3, h, e) queries, keys and values of a pack -> (t, d)."""

_AMPERE = (8, 0)
_WIDTHS = 8  # flash attention wants heads of a multiple of it
_WIDEST = 256
_ALIGNED = 8  # numbers: rows of a mask start at multiples of it, or the kernel copies the mask
_MOST_PADDING = 1 / 4  # of a batch's tokens
_MASK_NUMBERS = 2**26
"""Numbers of one mask that may lie in a GPU's memory at once: 128 MiB of float16."""


def attention(
    lengths: Sequence[int],
    *,
    width: int,
    device: torch.device,
    dtype: torch.dtype,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Attend:
    """Prepare attention for all layers of one pack.

    Parameters
    ----------
    lengths : tokens of each sequence. Any order is right; similar lengths side by side are fastest.
    width : of a head.
    device : of the queries, keys and values.
    dtype : of the same.
    bias : (h, 2 m - 1) for some m of at least `reach(lengths)`, same device and dtype: what is added to the score of
        query i and key j is at m - 1 + i - j. None: no bias.
    scale : what scores are multiplied by before the bias is added; None: 1 / sqrt(width).
    """
    if device.type == "cpu":
        return _Groups(list(_groups(lengths)), bias, scale)
    if bias is None and scale is None and has_flash(device, dtype, width):
        starts = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
        return _Flash(on_device(starts, device), max(lengths))
    return _padded(lengths, device, dtype, bias, scale)


def reach(lengths: Sequence[int]) -> int:
    """Return for how many tokens a bias has to be given: those of the longest sequence, and what aligns its masks."""
    return _aligned(max(lengths))


def _groups(lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(first token, count, length) of neighbours of one length."""
    start = 0
    for length, run in groupby(lengths):
        count = sum(1 for _ in run)
        yield start, count, length
        start += count * length


@dataclass(frozen=True, slots=True, eq=False)
class _Groups:
    """One call for each group of neighbours of equal length."""

    groups: Sequence[tuple[int, int, int]]
    bias: Tensor | None
    """(h, 2 m - 1) by distance, for some m of at least the longest length."""
    scale: float | None

    def __call__(self, qkv: Tensor) -> Tensor:
        parts = []
        for start, count, length in self.groups:
            group = qkv[start : start + count * length].view(count, length, *qkv.shape[1:])  # (n, l, 3, h, e)
            bias, scale = self.bias, self.scale
            mixed = _unbiased(group, None, scale) if bias is None else biased(group, bias, scale)  # (n, h, l, e)
            parts.append(mixed.transpose(1, 2).flatten(0, 1))  # (n l, h, e)
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).flatten(1)


def _unbiased(qkv: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """(n, l, 3, h, e) -> (n, h, l, e)."""
    query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (n, h, l, e) each
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


def biased(qkv: Tensor, bias: Tensor, scale: float | None = None) -> Tensor:
    """Attend within each of n sequences of one length, with a bias by distance, on a CPU.

    The l x l bias is never in memory. It depends on i - j only; with keys and values in reverse order it depends on the
    *sum* of the indices, and such a matrix is a view of its 2 l - 1 values, which the CPU's kernel reads.

    Parameters
    ----------
    qkv : (n, l, 3, h, e).
    bias : (h, 2 m - 1) for some m >= l, by distance i - j, that of 0 in the middle.
    scale : see `attention`.

    Returns
    -------
    (n, h, l, e).
    """
    length, heads = qkv.shape[1], qkv.shape[3]
    query = qkv[:, :, 0].transpose(1, 2)  # (n, h, l, e)
    key, value = qkv[:, :, 1:].flip(1).permute(2, 0, 3, 1, 4)  # (n, h, l, e) each, last token first
    offset = bias.shape[1] // 2 + 1 - length  # of the bias of the first query and the first, that is last, key
    mask = bias.as_strided((1, heads, length, length), (0, bias.stride(0), 1, 1), offset)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


def has_flash(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Tell whether one call attends within all sequences of a pack, where there is no bias."""
    usable = device.type == "cuda" and dtype == torch.float16 and width % _WIDTHS == 0 and width <= _WIDEST
    return usable and torch.cuda.get_device_capability(device) >= _AMPERE


@dataclass(frozen=True, slots=True, eq=False)
class _Flash:
    """One call for the whole pack."""

    starts: Tensor
    """(number of sequences + 1,) int32."""
    longest: int

    def __call__(self, qkv: Tensor) -> Tensor:
        query, key, value = qkv.unbind(1)  # (t, h, e) each
        starts, longest = self.starts, self.longest
        mixed: Tensor = torch.ops.aten._flash_attention_forward(
            query, key, value, starts, starts, longest, longest, 0.0, False, False
        )[0]  # (t, h, e)
        return mixed.flatten(1)


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Neighbours of similar length, `start` … `start + count * length` of the padded tokens."""

    start: int
    count: int
    length: int
    mask: Tensor | None
    """(n or 1, h or 1, l or 1, l): added to the scores. None: nothing is, or blocks of it are made when needed."""


@dataclass(frozen=True, slots=True, eq=False)
class _Padded:
    """One call for each batch of neighbours of similar length."""

    batches: Sequence[_Batch]
    padded: Tensor | None
    """Which token of the pack stands at each place of the batches; None: they are the pack."""
    places: Tensor | None
    """(t,): where each token of the pack stands."""
    bias: Tensor | None
    scale: float | None

    def __call__(self, qkv: Tensor) -> Tensor:
        tokens = qkv if self.padded is None else qkv.index_select(0, self.padded)  # (p, 3, h, e)
        parts = []
        for batch in self.batches:
            part = tokens.narrow(0, batch.start, batch.count * batch.length)
            part = part.view(batch.count, batch.length, *qkv.shape[1:])  # (n, l, 3, h, e)
            if batch.mask is None and self.bias is not None:
                mixed = _in_blocks(part, self.bias, self.scale)  # (n, h, l, e)
            else:
                mixed = _unbiased(part, batch.mask, self.scale)  # (n, h, l, e)
            parts.append(mixed.transpose(1, 2).flatten(0, 1))  # (n l, h, e)
        mixed = parts[0] if len(parts) == 1 else torch.cat(parts)  # (p, h, e)
        return (mixed if self.places is None else mixed.index_select(0, self.places)).flatten(1)


def _in_blocks(qkv: Tensor, bias: Tensor, scale: float | None) -> Tensor:
    """Attend with a bias too large to be in memory: so many queries at once that theirs is not."""
    query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (n, h, l, e) each
    length = qkv.shape[1]
    rows = max(1, _MASK_NUMBERS // (len(bias) * length))
    blocks = []
    for first in range(0, length, rows):
        stop = min(first + rows, length)
        mask = _spread(bias, length, first, stop)[None, ..., :length]  # (1, h, rows, l)
        queries = query[:, :, first:stop]  # (n, h, rows, e)
        blocks.append(functional.scaled_dot_product_attention(queries, key, value, attn_mask=mask, scale=scale))
    return torch.cat(blocks, 2)


def _padded(
    lengths: Sequence[int], device: torch.device, dtype: torch.dtype, bias: Tensor | None, scale: float | None
) -> _Padded:
    sizes = np.asarray(lengths, dtype=np.int64)
    firsts = np.cumsum(sizes) - sizes  # (number of sequences,): first token of each
    batches: list[_Batch] = []
    tokens: list[NDArray[np.int64]] = []
    real: list[NDArray[np.bool_]] = []
    used = 0
    for part in _similar(sizes, 0 if bias is None else len(bias)):
        length = int(sizes[part].max())
        within = np.arange(length) < sizes[part, None]  # (n, l)
        # Behind a sequence its first token is repeated: no number from another sequence ever meets it.
        tokens.append((firsts[part, None] + np.where(within, np.arange(length), 0)).ravel())
        real.append(within.ravel())
        batches.append(_Batch(used, len(within), length, _mask(sizes[part], length, device, dtype, bias)))
        used += within.size
    if used == sizes.sum():
        return _Padded(batches, None, None, bias, scale)
    places = np.flatnonzero(np.concatenate(real))
    return _Padded(batches, on_device(np.concatenate(tokens), device), on_device(places, device), bias, scale)


def _similar(sizes: NDArray[np.int64], heads: int) -> Iterator[slice]:
    """Divide neighbours so that little of a batch is padding, and its mask (of so many heads) not too large."""
    start, total, longest = 0, 0, 0
    for number, size in enumerate(sizes.tolist()):
        larger, count = max(longest, size), number + 1 - start
        padding = larger * count - total - size
        if (
            number > start
            and padding
            and (padding > _MOST_PADDING * (total + size) or heads * count * larger**2 > _MASK_NUMBERS)
        ):
            yield slice(start, number)
            start, total, longest = number, 0, 0
        total, longest = total + size, max(longest, size)
    yield slice(start, len(sizes))


def _mask(
    sizes: NDArray[np.int64], length: int, device: torch.device, dtype: torch.dtype, bias: Tensor | None
) -> Tensor | None:
    """What is added to the scores of sequences of such sizes, padded to `length`; see `_Batch.mask`."""
    even = bool((sizes == length).all())
    if bias is None:
        if even:
            return None
        mask = torch.zeros((1, 1, 1, _aligned(length)), dtype=dtype, device=device)
    elif len(bias) * length**2 > _MASK_NUMBERS:
        return None  # and no padding: either it is alone, or all are as long
    else:
        mask = _spread(bias, length, 0, length)[None]  # (1, h, l, columns)
    if not even:
        behind = torch.arange(_aligned(length), device=device) >= on_device(sizes, device)[:, None, None, None]
        mask = mask.masked_fill(behind, -torch.inf)
    return mask[..., :length]


def _spread(bias: Tensor, length: int, first: int, stop: int) -> Tensor:
    """Bias of the queries `first` … `stop` and all keys, (h, stop - first, l rounded up to alignment)."""
    rows, columns = stop - first, _aligned(length)
    # With the keys in reverse order the place is a sum of indices, as in `biased`; here it is written down.
    offset = bias.shape[1] // 2 + 1 - columns + first
    return bias.as_strided((len(bias), rows, columns), (bias.stride(0), 1, 1), offset).flip(2)


def _aligned(length: int) -> int:
    return -(-length // _ALIGNED) * _ALIGNED
