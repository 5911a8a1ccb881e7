"""How far metrics could be off: a bootstrap over groups, since the samples of one genome are not independent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.classify.metrics import Classes, Floats, Measures

LEVEL = 0.95
REPLICATES = 300


def bootstrap(
    measures: Measures, y: Classes, groups: NDArray[np.int64], seed: int, replicates: int = REPLICATES
) -> dict[str, tuple[float, float]]:
    """Return the interval of each metric, by its path ("classes/virus/auroc"), from drawing groups with replacement.

    Groups are drawn within their most frequent class, so that every class stays.

    Parameters
    ----------
    groups : (n,) numbers of the samples' groups.
    """
    drawn: dict[str, list[float]] = {}
    for times in draws(y, groups, seed, replicates):
        for path, number in numbers(measures.at(times)):
            drawn.setdefault(path, []).append(number)
    return {path: interval(np.array(found)) for path, found in drawn.items()}


def draws(y: Classes, groups: NDArray[np.int64], seed: int, replicates: int = REPLICATES) -> Iterator[Floats]:
    """Yield how often each sample, (n,), is in one draw of groups with replacement, many times.

    Parameters
    ----------
    groups : (n,) numbers of the samples' groups, drawn within their most frequent class.
    """
    used, members = np.unique(groups, return_inverse=True)
    classes = int(y.max()) + 1
    counts = np.bincount(members * classes + y, minlength=len(used) * classes).reshape(len(used), classes)
    strata = counts.argmax(axis=1)
    generator = np.random.default_rng(seed)
    for _ in range(replicates):
        times = np.zeros(len(used))
        for stratum in np.unique(strata):
            candidates = np.flatnonzero(strata == stratum)
            np.add.at(times, generator.choice(candidates, len(candidates)), 1)
        yield times[members]


def interval(found: Floats) -> tuple[float, float]:
    """Return the middle of some numbers, as much of them as LEVEL says; NaN are left out."""
    defined = found[~np.isnan(found)]
    if not len(defined):
        return float("nan"), float("nan")
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(defined, [tail, 100 - tail])
    return float(low), float(high)


def numbers(document: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Yield all numbers of nested metrics with their paths."""
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{above}{name}/")
        elif name != "samples":
            yield f"{above}{name}", float(value)
