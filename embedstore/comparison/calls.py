"""Contigs whose call changes where one set of features replaces another.

Fragments of known genomes stand for contigs (`classify.fragments`), scored by heads that have not seen the genome. With
several seeds the numbers are means over the seeds. How often the calls of the reference change from one seed to the
next is said beside: that much changes where nothing but chance is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.classify.metrics import called
from embedstore.classify.training import Unseen


def changed_calls(reference: Sequence[Unseen], others: Sequence[Unseen]) -> dict[str, Any]:
    """Count fragments that the one calls otherwise than the reference, as JSON values.

    Parameters
    ----------
    reference, others : for each seed, of the same samples and splits.
    """
    labels = reference[0].test.labels
    seeds = len(reference)
    pairs = [
        (one.fragments, called(one.contigs), called(other.contigs))
        for one, other in zip(reference, others, strict=True)
    ]
    lengths = sorted({length for one, _, _ in pairs for length in np.unique(one.length_bases).tolist()})
    by_length = []
    for length in lengths:
        here = [(one.length_bases == length, before, after) for one, before, after in pairs]
        count = sum(int(rows.sum()) for rows, _, _ in here)
        changed = sum(int((before[rows] != after[rows]).sum()) for rows, before, after in here)
        by_length.append({"length_bases": length, **_counted(count, changed, seeds)})
    by_direction = []
    for before_label, after_label in _directions(len(labels)):
        rows = [(fragments.y, (before == before_label) & (after == after_label)) for fragments, before, after in pairs]
        by_direction.append(
            {
                "from": labels[before_label],
                "to": labels[after_label],
                "fragments": sum(int(moved.sum()) for _, moved in rows) / seeds,
                "right_before": sum(int((y[moved] == before_label).sum()) for y, moved in rows) / seeds,
                "right_after": sum(int((y[moved] == after_label).sum()) for y, moved in rows) / seeds,
            }
        )
    total = sum(len(one) for one, _, _ in pairs)
    changed = sum(int((before != after).sum()) for _, before, after in pairs)
    return {
        **_counted(total, changed, seeds),
        "by_length": by_length,
        "by_direction": by_direction,
        "between_seeds_of_reference": _between_seeds(reference),
    }


def _counted(count: int, changed: int, seeds: int) -> dict[str, Any]:
    return {
        "fragments": count / seeds,
        "changed": changed / seeds,
        "share": changed / count if count else None,
    }


def _directions(classes: int) -> Iterator[tuple[int, int]]:
    return ((before, after) for before in range(classes) for after in range(classes) if before != after)


def _between_seeds(reference: Sequence[Unseen]) -> float | None:
    """Share of the fragments whose call changes from one seed to the next; None with one seed, or a test part."""
    shares = []
    for one, following in pairwise(reference):
        if not _same(one.fragments.groups, following.fragments.groups) or not len(one.fragments):
            return None
        shares.append(float((called(one.contigs) != called(following.contigs)).mean()))
    return float(np.mean(shares)) if shares else None


def _same(some: NDArray[np.int64], others: NDArray[np.int64]) -> bool:
    return len(some) == len(others) and bool((some == others).all())
