"""The networks: which tensors they have, and what they compute once they are trained. No torch is needed for that.

    mlp      standardised x ─▶ hidden (512) ─▶ batch norm ─▶ ReLU ─▶ dropout 0.5 (in training) ─▶ output
    linear   standardised x ─▶ output

`mlp` is the head of VirNucPro (Li-Jing-1997/VirNucPro at 0f93f27, train.py), before which inputs are standardised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.classify.options import NetworkKind
from embedstore.errors import WeightsError

HIDDEN_UNITS = 512
DROPOUT = 0.5
NORM_EPSILON = 1e-5

_BLOCK_ROWS = 512

Tensors = Mapping[str, NDArray[np.float32]]
Rows = NDArray[np.float32]


def tensor_shapes(kind: NetworkKind, dim: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of all tensors of a network."""
    standard: dict[str, tuple[int, ...]] = {"input.mean": (dim,), "input.deviation": (dim,)}
    if kind == "linear":
        return standard | {"output.weight": (classes, dim), "output.bias": (classes,)}
    norm = {f"norm.{name}": (HIDDEN_UNITS,) for name in ("weight", "bias", "running_mean", "running_var")}
    hidden: dict[str, tuple[int, ...]] = {"hidden.weight": (HIDDEN_UNITS, dim), "hidden.bias": (HIDDEN_UNITS,)}
    return standard | hidden | norm | {"output.weight": (classes, HIDDEN_UNITS), "output.bias": (classes,)}


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A trained network.

    Attributes
    ----------
    tensors : float32, exactly those of `tensor_shapes`.

    Raises
    ------
    WeightsError : a tensor lacks, is not expected, has another shape or dtype, or is not finite.
    """

    kind: NetworkKind
    dim: int
    classes: int
    tensors: Tensors

    def __post_init__(self) -> None:
        problems = tensor_problems(self.tensors, tensor_shapes(self.kind, self.dim, self.classes))
        if problems:
            raise WeightsError(f"Cannot use this {self.kind} network: {'; '.join(problems)}.")

    def logits(self, rows: Rows) -> NDArray[np.float32]:
        """Compute the logits of rows: (n, d) float32 to (n, classes) float32.

        The arithmetic is float64, rounded at the end, and matrix products are always of the same shape, for which the
        last rows are padded with zeros: linear-algebra libraries add in another order at the edges of a matrix, so that
        in float32 a row's numbers would depend on where it stands.
        """
        found = np.empty((len(rows), self.classes), np.float32)
        wide = {name: tensor.astype(np.float64) for name, tensor in self.tensors.items()}
        block = np.zeros((_BLOCK_ROWS, self.dim), np.float64)
        for start in range(0, len(rows), _BLOCK_ROWS):
            piece = rows[start : start + _BLOCK_ROWS]
            block[: len(piece)] = piece
            found[start : start + len(piece)] = self._block_logits(block, wide)[: len(piece)]
        return found

    def _block_logits(self, rows: NDArray[np.float64], tensors: Mapping[str, NDArray[np.float64]]) -> Any:
        hidden = (rows - tensors["input.mean"]) / tensors["input.deviation"]  # (b, d)
        if self.kind == "mlp":
            hidden = hidden @ tensors["hidden.weight"].T + tensors["hidden.bias"]  # (b, 512)
            scale = tensors["norm.weight"] / np.sqrt(tensors["norm.running_var"] + NORM_EPSILON)
            hidden = np.maximum((hidden - tensors["norm.running_mean"]) * scale + tensors["norm.bias"], 0)
        return hidden @ tensors["output.weight"].T + tensors["output.bias"]  # (b, classes)


def tensor_problems(found: Mapping[str, NDArray[Any]], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Say what is wrong with tensors; nothing, if they are exactly those expected, float32, finite."""
    problems = [f"expected {name}, found none" for name in expected if name not in found]
    for name, tensor in found.items():
        if name not in expected:
            problems.append(f"expected no {name}, found one")
        elif tensor.shape != expected[name] or tensor.dtype != np.float32:
            problems.append(f"expected {name} of {expected[name]} float32, found {tensor.shape} {tensor.dtype}")
        elif not np.isfinite(tensor).all():
            problems.append(f"expected finite numbers in {name}, found others")
        elif name in ("input.deviation",) and not (tensor > 0).all():
            problems.append(f"expected numbers above 0 in {name}, found others")
        elif name == "norm.running_var" and not (tensor >= 0).all():
            problems.append(f"expected no negative number in {name}, found one")
    return problems
