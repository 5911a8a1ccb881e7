"""What the encoders of all architectures share: where they are, how large they are, and the way through the layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from embedstore.models.pooling import See

Layer = TypeVar("Layer")


class EncoderShape(Protocol):
    """Sizes of one checkpoint."""

    def tensors(self) -> Mapping[str, tuple[int, ...]]:
        """Name and shape of every tensor that the encoder needs."""
        ...

    def operations(self, lengths: Sequence[int]) -> int:
        """Floating-point operations of the matrix products for sequences of so many tokens."""
        ...


Shape = TypeVar("Shape", bound=EncoderShape)


class PackEncoder(Generic[Shape]):
    """Weights of one checkpoint on one device; see `packed.Encoder`.

    Parameters
    ----------
    shape : sizes of the checkpoint.
    embeddings : of the tokens: all weights are on their device, and of their type.
    """

    def __init__(self, shape: Shape, embeddings: Tensor) -> None:
        self.shape = shape
        self._embeddings = embeddings
        self.add_projection = add_rounded_once if self.dtype == torch.float16 else add_in_place

    @property
    def device(self) -> torch.device:
        """Device of the weights, on which token ids must be."""
        return self._embeddings.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights and of the arithmetic."""
        return self._embeddings.dtype

    @property
    def parameters(self) -> int:
        """Numbers in all weights."""
        return sum(math.prod(sizes) for sizes in self.shape.tensors().values())

    def operations(self, lengths: Sequence[int]) -> int:
        """Floating-point operations of the matrix products, see the shape's."""
        return self.shape.operations(lengths)


def through_layers(
    layers: Sequence[Layer],
    states: Tensor,
    compute: Callable[[Layer, Tensor], Tensor],
    see: See | None = None,
    depth: int | None = None,
) -> Tensor:
    """Return the states after the last layer, (t, d).

    Parameters
    ----------
    states : (t, d), those before the first layer; they may be changed in place.
    compute : one layer and the states before it -> those after it.
    see : told the states before the first layer and after each.
    depth : compute only so many layers.
    """
    if see is not None:
        see(0, states)
    for number, layer in enumerate(layers[:depth], start=1):
        states = compute(layer, states)
        if see is not None:
            see(number, states)
    return states


def add_in_place(states: Tensor, weight: Tensor, values: Tensor, bias: Tensor | None = None) -> None:
    """Add a projection to the states; the fastest on a CPU."""
    if bias is not None:
        states.add_(bias)
    states.addmm_(values, weight.t())


def add_rounded_once(states: Tensor, weight: Tensor, values: Tensor, bias: Tensor | None = None) -> None:
    """Do the same, and round the states once: in float16 that is where most of the error comes from."""
    states.add_(functional.linear(values, weight, bias))
