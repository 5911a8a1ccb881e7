"""Counting what a fill would do, without loading the model."""

from __future__ import annotations

import time
from collections.abc import Iterable

from embedstore.filling.distinct import DistinctKeys
from embedstore.filling.filler import KeyFilter, open_intake
from embedstore.filling.report import DryRun, FillReport, SpaceSummary
from embedstore.filling.target import SpaceTarget
from embedstore.models.machine import kept_rate
from embedstore.types import Record, Rejection

ROUGH_LETTERS_PER_SECOND: dict[str, float] = {
    "tnf": 3e7,
    "aac_dpc": 3e7,
    "esm2_t6_8m": 6e3,
    "esm2_t12_35m": 1.4e3,
    "esm2_t30_150m": 3e2,
    "esm2_t33_650m": 70.0,
    "esm2_t36_3b": 15.0,
    "fastesm2_650": 70.0,
    "dnabert_s": 2e3,
}
"""Letters a second on two processor cores, by the model's name in the recipe: for spaces whose commits do not
tell yet, on machines where `bench` has not measured it.

ESM-2 8M was measured, the other language models follow from their number of parameters (DNABERT-S with five letters a
token). A GPU is some hundred times faster.
"""


def preview(
    records: Iterable[Record | Rejection],
    target: SpaceTarget,
    *,
    any_molecule: bool = False,
    device: str | None = None,
    only: KeyFilter | None = None,
) -> FillReport:
    """Count hits and misses of a fill, and estimate how long the misses would take.

    Parameters
    ----------
    any_molecule : take proteins that look like DNA.
    device : where the model would run; None: the best there is.
    only : leaves out the sequences for whose keys it is false.

    Raises
    ------
    MoleculeError : the input is of the other molecule than the model.
    """
    started = time.perf_counter()
    intake = open_intake(records, target, any_molecule=any_molecule)
    missing_records = missing_letters = 0
    with DistinctKeys() as distinct, DistinctKeys() as missing:
        for window in intake:
            if only is not None:
                window = window.only(only(window.key_array()))
            keys = window.key_array()
            distinct.add(keys)
            if target.space is not None:
                absent = ~target.space.contains(keys)
                missing.add(keys[absent])
                lengths = [len(window.sequences[row]) for row in absent.nonzero()[0].tolist()]
            else:
                missing.add(keys)
                lengths = [len(sequence) for sequence in window.sequences]
            missing_records += len(lengths)
            missing_letters += sum(lengths)
        unique, misses = distinct.count(), missing.count()
    # Equal sequences are computed once; their share is taken to be the same at every length.
    letters = missing_letters * misses / max(missing_records, 1)
    return FillReport(
        space=SpaceSummary.of(target.recipe, target.name),
        read=intake.read,
        unique=unique,
        hits=unique - misses,
        computed=0,
        rejected=tuple(intake.rejected),
        failed=(),
        seconds=time.perf_counter() - started,
        compute_seconds=0.0,
        dry_run=DryRun(misses, _estimated_seconds(target, letters, device)),
    )


def letters_per_second(target: SpaceTarget, device: str | None) -> float | None:
    """Estimate from what the space's commits have cost, else from what `bench` measured, else from the rough constant.

    None: unknown.
    """
    if target.space is not None:
        info = target.space.info()
        if info.letters and info.compute_seconds:
            return info.letters / info.compute_seconds
    return kept_rate(target.recipe, device) or ROUGH_LETTERS_PER_SECOND.get(target.recipe.model)


def _estimated_seconds(target: SpaceTarget, letters: float, device: str | None) -> float | None:
    if letters == 0:
        return 0.0
    rate = letters_per_second(target, device)
    return None if rate is None else letters / rate
