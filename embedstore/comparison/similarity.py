"""How much alike two spaces are in what they say of the same samples, whatever their dimensions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embedstore.types import Canaries

Matrix = NDArray[np.float32]
"""(n, d) float32: a row a sample."""

Similarities = NDArray[np.float64]
"""(n, n) float64."""


def linear_cka(some: Matrix, others: Matrix) -> float:
    """Return how alike the similarities between samples are in two spaces: 1 if one is the other turned and scaled.

    Centred kernel alignment (Kornblith et al. 2019) with the unbiased estimator of HSIC (Song et al. 2012): the plain
    one is near 1/2 for two spaces that have nothing in common, as soon as there are as many columns as samples. So it
    may be slightly below 0. NaN for fewer than 4 samples, or where all vectors of a space are equal.

    Parameters
    ----------
    some, others : (n, d) and (n, e) float32, rows of the same samples.
    """
    if len(some) < 4:
        return float("nan")
    ours, theirs = _similarities(some), _similarities(others)
    scale = _hsic(ours, ours) * _hsic(theirs, theirs)
    return float(_hsic(ours, theirs) / np.sqrt(scale)) if scale > 0 else float("nan")


def neighbour_overlap(some: Matrix, others: Matrix, neighbours: int) -> float:
    """Return which share of the nearest samples by cosine, of each sample, are the same in both spaces.

    Parameters
    ----------
    some, others : (n, d) and (n, e) float32, rows of the same samples.
    neighbours : how many; at most n - 1 are there. By chance it is neighbours / (n - 1).
    """
    count = min(neighbours, len(some) - 1)
    if count < 1:
        return float("nan")
    is_near = _nearest(some, count) & _nearest(others, count)
    return float(is_near.sum() / (count * len(some)))


def canary_cosines(some: Canaries, others: Canaries) -> tuple[float, ...] | None:
    """Return the cosine of the vectors of each fixed sequence; None if dimensions or sequences are not the same."""
    if some.sequences != others.sequences or some.vectors.shape != others.vectors.shape:
        return None
    products = (_unit(some.vectors) * _unit(others.vectors)).sum(axis=1)
    return tuple(products.tolist())


def _similarities(vectors: Matrix) -> Similarities:
    """(n, n) products of the centred vectors, scaled so that none overflows; the diagonal is 0."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    largest = np.abs(centred).max()
    if largest <= np.finfo(np.float32).eps * np.abs(vectors).max():  # nothing but rounding is left
        return np.zeros((len(vectors), len(vectors)))
    centred /= largest
    products: Similarities = centred @ centred.T
    np.fill_diagonal(products, 0)
    return products


def _hsic(ours: Similarities, theirs: Similarities) -> float:
    """Unbiased HSIC, but for a factor that only depends on the number of samples."""
    count = len(ours)
    rows = ours.sum(axis=0) @ theirs.sum(axis=0)
    return float(
        (ours * theirs).sum() + ours.sum() * theirs.sum() / ((count - 1) * (count - 2)) - 2 * rows / (count - 2)
    )


def _nearest(vectors: Matrix, count: int) -> NDArray[np.bool_]:
    """(n, n) bool: which samples are the nearest of each."""
    unit = _unit(vectors)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
    found = np.zeros(cosines.shape, np.bool_)
    np.put_along_axis(found, nearest, True, axis=1)
    return found


def _unit(vectors: Matrix) -> NDArray[np.float64]:
    """Vectors of length 1; those of length 0 stay."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit: NDArray[np.float64] = vectors / np.where(lengths > 0, lengths, 1)
    return unit
