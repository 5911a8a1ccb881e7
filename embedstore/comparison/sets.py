"""The sets of features that are compared: which spaces they are of, what these cost, which samples all of them have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.classify.spaces import fill_spaces
from embedstore.errors import InputError
from embedstore.features import FillFrom, Samples, lacking
from embedstore.filling import SpaceTarget, find_target
from embedstore.models.resolution import ModelOptions
from embedstore.store.store import SpaceStore

_BASES_OF_A_RESIDUE = 3


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """Spaces that stand side by side.

    Attributes
    ----------
    name : "tnf + aac_dpc"; distinct among the sets of a comparison.
    """

    name: str
    spaces: tuple[SpaceTarget, ...]

    @property
    def dim(self) -> int:
        """Number of columns."""
        return sum(target.recipe.dim for target in self.spaces)

    @property
    def seconds_per_residue(self) -> float | None:
        """What a residue of a sample cost, with the three bases that it is translated from; None if not recorded."""
        costs = [(seconds_per_letter(target), target.recipe.molecule) for target in self.spaces]
        known = [seconds * (_BASES_OF_A_RESIDUE if of == "dna" else 1) for seconds, of in costs if seconds is not None]
        return sum(known) if len(known) == len(costs) else None


def seconds_per_letter(target: SpaceTarget) -> float | None:
    """Return what a base or residue cost, as the commits of the space say; None if they do not."""
    if target.space is None:
        return None
    info = target.space.info()
    return info.compute_seconds / info.letters if info.letters and info.compute_seconds else None


def find_sets(
    store: SpaceStore, sets: Sequence[str | Sequence[str]], options: Mapping[str, ModelOptions]
) -> list[FeatureSet]:
    """Find the spaces of sets, given as models or spaces: a sequence of them or "tnf,aac_dpc".

    Raises
    ------
    InputError : there are less than two sets. ModelError : a model is not known, and the store has no such space.
    """
    listed = [sets] if isinstance(sets, str) else sets
    models = [tuple(some.split(",")) if isinstance(some, str) else tuple(some) for some in listed]
    if len(models) < 2:
        raise InputError(
            f"Cannot compare: expected at least two sets of features, found {len(models)}. "
            "Give --models once for each, as `--models old --models new --models old,new`."
        )
    texts = [" + ".join(Path(model).name for model in some) for some in models]
    return [
        FeatureSet(
            text if texts.count(text) == 1 else f"{text} ({texts[: place + 1].count(text)})",
            tuple(find_target(store, model, options.get(model, ModelOptions())) for model in some),
        )
        for place, (text, some) in enumerate(zip(texts, models, strict=True))
    ]


def fill_sets(sets: Sequence[FeatureSet], source: FillFrom) -> list[FeatureSet]:
    """Compute what the spaces of sets lack, one space after the other."""
    targets = distinct_spaces(sets)
    filled, _ = fill_spaces(targets, source)
    by_id = {target.recipe.id: target for target in filled}
    return [replace(some, spaces=tuple(by_id[target.recipe.id] for target in some.spaces)) for some in sets]


def distinct_spaces(sets: Sequence[FeatureSet]) -> list[SpaceTarget]:
    """Return each space once, in the order in which sets name them."""
    return list({target.recipe.id: target for some in sets for target in some.spaces}.values())


def shared_samples(samples: Samples, targets: Sequence[SpaceTarget]) -> tuple[Samples, dict[str, Any]]:
    """Return the samples that have a vector in every space, and JSON values that say how many have not.

    Raises
    ------
    InputError : there is none.
    """
    absent = {target.name: lacking(samples, target) for target in targets}
    kept = ~np.any(list(absent.values()), axis=0)
    counts = {name: int(rows.sum()) for name, rows in absent.items()}
    if not kept.any():
        found = ", ".join(f"{name} lacks {count:,} of {len(samples):,}" for name, count in counts.items())
        raise InputError(
            f"Cannot compare on {samples.origin}: expected samples with a vector in every space, found none: {found}. "
            "Compute them with --fill."
        )
    return samples.take(np.flatnonzero(kept)), {"samples": int((~kept).sum()), "lacked_by_space": counts}
