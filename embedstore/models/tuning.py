"""Which setting is fastest: packs of how many tokens, how many of them side by side.

First token budgets with the default workers, then other workers with the best budget; all settings of a step take
turns, so that other load on the machine affects all of them alike. Nothing here imports torch: the measured model does.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedstore.models.batching import packs
from embedstore.models.embedder import Embedder
from embedstore.models.machine import Setting

if TYPE_CHECKING:
    from embedstore.models.packed import PackedEmbedder

CPU_PACK_TOKENS = (512, 1024, 2048, 4096)
GPU_PACK_TOKENS = (8192, 16_384, 32_768, 65_536, 131_072)
_GPU_WORKERS = (1, 2, 3)
_PACKS_A_WORKER = 2
_WORTH_WHILE = 1.02
"""The default stays unless another setting is faster by more than that: less is noise."""

_FEW_RESIDUES, _MANY_RESIDUES = 300, 1 << 20
_LONG_ENOUGH_S = 0.1
_MOST_TIMES_LONGER = 4
"""A setting is left out if two packs for each worker would take so many times longer than what was asked for."""

Take = Callable[[float], Sequence[bytes]]
"""Number of residues (or bases) -> canonical sequences of about that many together."""


@dataclass(frozen=True, slots=True)
class Measured:
    """How fast a setting is.

    Attributes
    ----------
    residues_per_second : median over the rounds.
    fits : whether memory sufficed for its packs.
    default : whether it is what holds without tuning.
    """

    setting: Setting
    residues_per_second: float
    fits: bool = True
    default: bool = False


@dataclass(frozen=True, slots=True)
class Duration:
    """How long embedding took.

    Attributes
    ----------
    seconds : from the first pack's beginning to the last one's end.
    steady_seconds : the same without the end, where some workers had nothing left; a long fill does not notice it.
    """

    seconds: float
    steady_seconds: float


def embed_timed(embedder: Embedder, sequences: Sequence[bytes]) -> Duration:
    """Embed canonical sequences as a fill does, in packs and threads, and tell how long it took."""
    parts = packs([len(sequence) for sequence in sequences], embedder.pack_residues, embedder.workers)
    chosen = [[sequences[row] for row in part] for part in parts]

    def embed(pack: Sequence[bytes]) -> float:
        started = time.perf_counter()
        embedder.embed(pack)
        return time.perf_counter() - started

    started = time.perf_counter()
    if embedder.workers <= 1:
        busy = [embed(pack) for pack in chosen]
    else:
        with ThreadPoolExecutor(embedder.workers) as executor:
            busy = list(executor.map(embed, chosen))
    return Duration(time.perf_counter() - started, sum(busy) / min(embedder.workers, len(busy)))


def rough_rate(embedder: Embedder, take: Take) -> float:
    """Residues a second of a warm model with all its workers, on as few sequences as can be measured well."""
    residues = _FEW_RESIDUES
    embed_timed(embedder, take(residues))
    while True:
        sequences = take(residues)
        seconds = embed_timed(embedder, sequences).steady_seconds
        if seconds > _LONG_ENOUGH_S or residues >= _MANY_RESIDUES:
            break
        residues *= 8
    found = sum(map(len, sequences))
    busy = min(embedder.workers, -(-found // embedder.pack_residues), len(sequences))
    return found / seconds * embedder.workers / busy


def measure(
    embedder: PackedEmbedder,
    take: Take,
    *,
    seconds: float = 2.0,
    rounds: int = 3,
    on_setting: Callable[[Setting], None] = lambda setting: None,
) -> list[Measured]:
    """Measure settings of a language model.

    Parameters
    ----------
    take : gives sequences with the lengths that count.
    seconds : about how long one round of one setting takes.
    on_setting : told what is measured next.

    Returns
    -------
    The curve: one value a setting, the default among them unless it would take too long.
    """
    default = embedder.with_setting(Setting())
    rate = rough_rate(default, take)
    residues_a_token = default.pack_residues / default.budget.tokens
    enough = {budget: _PACKS_A_WORKER * default.workers * budget * residues_a_token for budget in _budgets(default)}
    affordable = rate * seconds * _MOST_TIMES_LONGER
    budgets = [budget for budget in enough if enough[budget] <= affordable] or [min(enough)]
    work = take(max(rate * seconds, enough[max(budgets)]))
    settings = [Setting(budget, default.workers, default.threads) for budget in budgets]
    curve = _curve(default, settings, work, rounds, on_setting)
    best = choose(curve).setting
    others = [Setting(best.pack_tokens, workers, threads) for workers, threads in _divisions(default)]
    others = [setting for setting in others if setting != best]
    if not others:
        return curve
    # The best of the first step runs again: the machine may have been busier then.
    again, *found = _curve(default, [best, *others], work, rounds, on_setting)
    return [again if measured.setting == best else measured for measured in curve] + found


def choose(curve: Sequence[Measured]) -> Measured:
    """Return the fastest setting that fits; the default unless that is clearly faster."""
    fitting = [measured for measured in curve if measured.fits] or list(curve)
    best = max(fitting, key=lambda measured: measured.residues_per_second)
    default = next((measured for measured in fitting if measured.default), best)
    return best if best.residues_per_second > default.residues_per_second * _WORTH_WHILE else default


def _budgets(default: PackedEmbedder) -> tuple[int, ...]:
    budgets = CPU_PACK_TOKENS if default.encoder.device.type == "cpu" else GPU_PACK_TOKENS
    return tuple(sorted({*budgets, default.budget.tokens}))


def _divisions(default: PackedEmbedder) -> Iterator[tuple[int, int]]:
    """Workers, and threads of each."""
    if default.encoder.device.type != "cpu":
        yield from ((workers, 1) for workers in _GPU_WORKERS)
        return
    threads = 1
    while threads < default.workers:
        yield default.workers // threads, threads
        threads *= 2
    yield 1, default.workers


def _curve(
    default: PackedEmbedder,
    settings: Sequence[Setting],
    work: Sequence[bytes],
    rounds: int,
    on_setting: Callable[[Setting], None],
) -> list[Measured]:
    embedders = [default.with_setting(setting) for setting in settings]
    seconds: list[list[float]] = [[] for _ in settings]
    for _ in range(rounds):
        for number, embedder in enumerate(embedders):
            on_setting(settings[number])
            seconds[number].append(embed_timed(embedder, work).steady_seconds)
    residues = sum(map(len, work))
    return [
        Measured(
            setting,
            residues / statistics.median(seconds[number]),
            fits=embedder.budget.tokens == setting.pack_tokens,
            default=setting == default.setting,
        )
        for number, (setting, embedder) in enumerate(zip(settings, embedders, strict=True))
    ]
