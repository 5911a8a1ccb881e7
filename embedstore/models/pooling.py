"""From the states of tokens to the vector of a sequence: which layer, and how its tokens are pooled.

A *level* is a layer and a pooling; one pass through the model gives the vectors of many levels. The states of a layer
are pooled as soon as they are there, so that no more than one layer's are ever in memory.

A long sequence is computed in windows. Of each window, and each level, a *part* is kept: weighted sums of the states,
the largest of them, or their mean and spread; `combined` makes the vector of the parts. A residue in several windows
counts once in all of them together; so do the special tokens of all windows.

pooling   of                                         parts of windows are
mean      the residues (content tokens)              added
mean_all  the residues and special tokens            added
sum       the residues                               added
cls       the special token before the residues      added: the mean over the windows
max       the residues, each column by itself        compared
std       the residues: the population's standard    combined by the formula of Chan, Golub and LeVeque (1983)
          deviation
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedstore.identity import Recipe
from embedstore.models.devices import on_device
from embedstore.models.registry import LAST_LAYER

Part = NDArray[np.float32]
"""(d,), or of `std` (2 d,): mean and mean square distance from it."""

See = Callable[[int, Tensor], None]
"""Called with the number of a layer, 0 for the embedding, and the states after it, (t, d), which change later."""


class LayeredEncoder(Protocol):
    """What pooling needs of an encoder; see `packed.Encoder`."""

    @property
    def device(self) -> torch.device: ...

    def hidden_states(
        self, token_ids: Tensor, lengths: Sequence[int], see: See | None = None, depth: int | None = None
    ) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Level:
    """A layer and a pooling.

    Attributes
    ----------
    layer : its number, 0 for the embedding; None: the last one, after its norm.
    """

    layer: int | None
    pooling: str

    @classmethod
    def of(cls, recipe: Recipe) -> Level:
        """Return the level of a recipe of a language model."""
        return cls(None if recipe.layer == LAST_LAYER else int(recipe.layer), recipe.pooling)


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """One window of one sequence, ready for the encoder.

    Attributes
    ----------
    sequence : which one it is of.
    token_ids : (t,) int64, the special tokens before and after among them.
    shares : (t,) float64: of content tokens, one by the number of windows that have it; 0 for special tokens.
    specials : (t,) float64: of special tokens, one by the number of windows; 0 for content tokens.
    length : content tokens of the whole sequence.
    """

    sequence: int
    token_ids: NDArray[np.int64]
    shares: NDArray[np.float64]
    specials: NDArray[np.float64]
    length: int

    @classmethod
    def of(
        cls,
        sequence: int,
        content: NDArray[np.int64],
        window: slice,
        shares: NDArray[np.float64],
        count: int,
        before: Sequence[int],
        after: Sequence[int],
    ) -> Piece:
        """Take one of `count` windows of a sequence, and put special tokens before and after."""
        token_ids = np.concatenate((np.array(before, np.int64), content[window], np.array(after, np.int64)))
        special = np.ones(len(token_ids)) / count
        special[len(before) : len(before) + len(shares)] = 0
        padded = np.concatenate((np.zeros(len(before)), shares, np.zeros(len(after))))
        return cls(sequence, token_ids, padded, special, len(content))

    def weights(self, pooling: str) -> NDArray[np.float32]:
        """(t,): what each token counts; for `mean`, `mean_all` and `cls` those of all windows add up to one."""
        if pooling == "mean_all":
            weights = (self.shares + self.specials) / (self.length + np.count_nonzero(self.specials))
        elif pooling == "cls":
            weights = np.zeros(len(self.shares))
            weights[0] = self.specials[0]
        else:
            weights = self.shares if pooling in ("sum", "max") else self.shares / self.length
        return weights.astype(np.float32)

    @property
    def share(self) -> float:
        """Of the sequence's content tokens that this window stands for."""
        return float(self.shares.sum() / self.length)


def weighted_sums(states: Tensor, weights: Tensor, lengths: Sequence[int]) -> Tensor:
    """Sum the token states of each sequence of a pack, each state times its weight.

    With weights that add up to one this is their mean. A value that is not finite stays with its own sequence.

    Parameters
    ----------
    states : (t, d) of any floating type. Sequences one after another.
    weights : (t,) float32, same device.
    lengths : tokens of each sequence; they add up to t.

    Returns
    -------
    (len(lengths), d) float32, same device.
    """
    if states.device.type == "cuda":  # in one kernel
        return _reduced(states * weights[:, None], "sum", lengths)  # (n, d)
    parts = zip(torch.split(weights, list(lengths)), torch.split(states.float(), list(lengths)), strict=True)
    return torch.stack([weight @ state for weight, state in parts])  # (n, d)


def _largest(states: Tensor, weights: Tensor, lengths: Sequence[int]) -> Tensor:
    """(n, d) float32: the largest value of each column among the tokens whose weight is not 0.

    Where one of them is not finite, what is returned is not finite either, though it may be the smallest.
    """
    counted = (weights > 0)[:, None]  # (t, 1)
    full = states.float()
    largest = _reduced(full.masked_fill(~counted, -torch.inf), "max", lengths)
    smallest = _reduced(full.masked_fill(~counted, torch.inf), "min", lengths)
    return largest + 0 * smallest


def _moments(states: Tensor, weights: Tensor, lengths: Sequence[int]) -> Tensor:
    """(n, 2 d) float32: mean of the weighted tokens of each sequence, and their mean square distance from it."""
    full = states.float()
    totals = _reduced(weights[:, None], "sum", lengths)  # (n, 1)
    means = weighted_sums(full, weights, lengths) / totals  # (n, d)
    sizes = on_device(np.asarray(lengths, dtype=np.int64), states.device)
    distances = full - torch.repeat_interleave(means, sizes, dim=0, output_size=len(states))  # (t, d)
    squares = weighted_sums(distances.square_(), weights, lengths) / totals  # (n, d)
    return torch.cat((means, squares), dim=1)


def _reduced(values: Tensor, how: str, lengths: Sequence[int]) -> Tensor:
    """Reduce (t, d) to one row for each sequence, (n, d), in one call; unsafe: lengths are not checked."""
    sizes = on_device(np.asarray(lengths, dtype=np.int64), values.device)
    return torch.segment_reduce(values, how, lengths=sizes, axis=0, unsafe=True)


_POOLED: Mapping[str, Callable[[Tensor, Tensor, Sequence[int]], Tensor]] = {"max": _largest, "std": _moments}
"""How a window's part is made of its tokens, where it is not their weighted sum."""


@torch.inference_mode()
def pooled(pieces: Sequence[Piece], encoder: LayeredEncoder, levels: Sequence[Level]) -> list[Part]:
    """Compute one pack; return for each level the parts of its pieces, (n, d), or of `std` (n, 2 d)."""
    lengths = [len(piece.token_ids) for piece in pieces]
    token_ids = on_device(np.concatenate([piece.token_ids for piece in pieces]), encoder.device)  # (t,)
    weights = {
        pooling: on_device(np.concatenate([piece.weights(pooling) for piece in pieces]), encoder.device)  # (t,)
        for pooling in dict.fromkeys(level.pooling for level in levels)
    }
    found: dict[Level, Tensor] = {}

    def see(number: int | None, states: Tensor) -> None:
        for level in levels:
            if level.layer == number:
                pool = _POOLED.get(level.pooling, weighted_sums)
                found[level] = pool(states, weights[level.pooling], lengths)

    inner = [level.layer for level in levels if level.layer is not None]
    if len(inner) == len(levels):
        encoder.hidden_states(token_ids, lengths, see, max(inner))
    elif inner:
        see(None, encoder.hidden_states(token_ids, lengths, see))
    else:
        see(None, encoder.hidden_states(token_ids, lengths))
    return [found[level].cpu().numpy() for level in levels]


def combined(pooling: str, parts: Sequence[Part], shares: Sequence[float]) -> NDArray[np.float32]:
    """Return the vector of a sequence, (d,), from the parts of its windows.

    Parameters
    ----------
    shares : of each window, see `Piece.share`.
    """
    if pooling == "std":
        return _deviation(parts, shares)
    result = parts[0]
    for part in parts[1:]:
        result = np.maximum(result, part) if pooling == "max" else result + part
    return result


def _deviation(parts: Sequence[Part], shares: Sequence[float]) -> NDArray[np.float32]:
    moments = np.array(parts, np.float64).reshape(len(parts), 2, -1)  # (windows, 2, d)
    weights = np.array(shares)[:, None]  # (windows, 1)
    mean = (weights * moments[:, 0]).sum(axis=0)
    squares = (weights * (moments[:, 1] + (moments[:, 0] - mean) ** 2)).sum(axis=0)
    result: NDArray[np.float32] = np.sqrt(squares).astype(np.float32)
    return result
