"""What a fill is doing and did: its progress, with one line of text, and its report, as a value and as JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TextIO

from embedstore.errors import plain
from embedstore.identity import Recipe
from embedstore.interruption import Interrupted
from embedstore.records import Rejection
from embedstore.strict_json import facts

Phase = Literal[
    "finding the model",
    "reading",
    "starting the workers",
    "loading the model",
    "checking the model",
    "computing",
    "committing",
    "done",
]
"""What a fill is doing. "finding the model" includes downloading and hashing its weights, "reading" the look-up,
"checking the model" embeds the fixed sequences of the space; "committing" is what remains after the last vector."""


@dataclass(slots=True)
class FillProgress:
    """Progress of a fill; one object, updated as it runs.

    Input is still read while vectors are computed: totals, and with them the share and the time left, are of what is
    known to be missing so far.

    Attributes
    ----------
    phase : what it is doing.
    space : name of the space that is filled.
    read : records seen, rejected ones included.
    rejected : records that are not sequences of the model's molecule.
    failed : records that the model has no vector for.
    computed : distinct sequences that were computed.
    waiting : distinct sequences known to have no vector, and not computed yet.
    residues_computed : residues (or bases of DNA) of the sequences that were computed.
    residues_waiting : the same of those that wait.
    unit : "residues" or "bases".
    """

    phase: Phase = "reading"
    space: str = ""
    read: int = 0
    rejected: int = 0
    failed: int = 0
    computed: int = 0
    waiting: int = 0
    residues_computed: int = 0
    residues_waiting: int = 0
    unit: str = "residues"
    _since: tuple[float, int] | None = field(default=None, repr=False)
    """When computing began, and how many residues had been computed by then."""

    def begin(self, phase: Phase) -> None:
        """Enter a phase; the speed is measured from the first time that it is "computing"."""
        self.phase = phase
        if phase == "computing" and self._since is None:
            self._since = time.monotonic(), self.residues_computed

    @property
    def share(self) -> float | None:
        """How much of the known work is done, from 0 to 1; None while none is known."""
        known = self.residues_computed + self.residues_waiting
        return self.residues_computed / known if known else None

    @property
    def residues_per_second(self) -> float | None:
        """Speed since computing began, without the loading of the model; None before the first results."""
        if self._since is None:
            return None
        seconds, residues = time.monotonic() - self._since[0], self.residues_computed - self._since[1]
        return residues / seconds if seconds > 0 and residues > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """How long the known work will take; None: unknown."""
        rate = self.residues_per_second
        return None if rate is None else self.residues_waiting / rate

    def text(self) -> str:
        """Return one line: the phase, how much is done of what, the speed, and the time left."""
        counted = self.phase in ("reading", "done") and self.read
        parts = [f"{self.phase}: {self.read:,} records" if counted else str(self.phase)]
        if self.computed:
            parts.append(f"{self.computed:,} of {self.computed + self.waiting:,} sequences computed")
        elif self.waiting:
            parts.append(f"{self.waiting:,} sequences to compute")
        if self.share is not None and (self.computed or self.phase == "computing"):
            parts.append(f"{100 * self.share:.0f} %")
        rate, left = self.residues_per_second, self.seconds_left
        if rate is not None and left is not None and self.waiting:
            parts += [f"{rate:,.0f} {self.unit}/s", f"{_duration(left)} left"]
        if self.rejected or self.failed:
            parts.append(f"{self.rejected + self.failed:,} rejected or failed")
        return ", ".join(parts)


OnProgress = Callable[[FillProgress], object]


def _duration(seconds: float) -> str:
    """3725.2 -> 1 h 2 min"""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


class NotebookProgress:
    """Shows the progress of a fill in a notebook, in one line that is updated; without IPython, lines on a stream.

    Give one to `on_progress`.

    Parameters
    ----------
    every_s : how long to wait before the line is updated, but for a new phase; None: 0.5 s in a notebook, else 10 s.
    stream : where lines go if there is no notebook; None: standard error.
    """

    def __init__(self, every_s: float | None = None, stream: TextIO | None = None) -> None:
        self._every_s = every_s
        self._stream = stream
        self._shown: tuple[Phase, float] | None = None
        self._line: Any = None

    def __call__(self, progress: FillProgress) -> None:
        """Show it, unless that was done just now."""
        now, display = time.monotonic(), _notebook_display()
        every_s = self._every_s if self._every_s is not None else 10.0 if display is None else 0.5
        if self._shown is not None and self._shown[0] == progress.phase and now - self._shown[1] < every_s:
            return
        self._shown = progress.phase, now
        if display is None:
            print(progress.text(), file=self._stream or sys.stderr, flush=True)
        elif self._line is None:
            self._line = display.display({"text/plain": progress.text()}, raw=True, display_id=True)
        else:
            self._line.update({"text/plain": progress.text()}, raw=True)


def _notebook_display() -> Any:
    """Return the module `IPython.display` in a process that serves a notebook, else None; nothing is imported."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return sys.modules.get("IPython.display") if getattr(shell, "kernel", None) is not None else None


@dataclass(frozen=True, slots=True)
class SpaceSummary:
    """Which space a report is about."""

    name: str
    id: str
    dim: int
    dtype: str

    @classmethod
    def of(cls, recipe: Recipe, name: str) -> SpaceSummary:
        """Summarise the space of a recipe, which need not exist yet."""
        return cls(name, recipe.id, recipe.dim, recipe.dtype)

    def to_json(self) -> dict[str, Any]:
        return facts(self)


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a fill would do.

    Attributes
    ----------
    misses : distinct sequences that would be computed.
    estimated_seconds : how long that would take; None: unknown.
    """

    misses: int
    estimated_seconds: float | None


@dataclass(frozen=True, slots=True, repr=False)
class FillReport:
    """What a fill did. Unless it was interrupted, `unique` is `hits` + `computed` + the distinct sequences that failed.

    Attributes
    ----------
    read : records seen, rejected ones included.
    unique : distinct sequences among the accepted records.
    hits : of these, how many had a vector already, or got it from another process meanwhile.
    computed : of these, how many were computed and stored by this fill.
    rejected : records that are not sequences of the model's molecule.
    failed : records that the model has no vector for; all that share such a sequence.
    seconds : the whole fill.
    compute_seconds : of these, inside the model, without loading it.
    signal : the one that stopped it, "SIGINT" after Ctrl-C; what was computed until then is stored.
    dry_run : set if nothing was computed or stored on purpose; `hits` + `dry_run.misses` is then `unique`.
    """

    space: SpaceSummary
    read: int
    unique: int
    hits: int
    computed: int
    rejected: tuple[Rejection, ...]
    failed: tuple[Rejection, ...]
    seconds: float
    compute_seconds: float
    signal: str | None = None
    dry_run: DryRun | None = None

    def __repr__(self) -> str:
        counts = [f"{self.read:,} read", f"{self.unique:,} distinct", f"{self.hits:,} stored before"]
        if self.dry_run is None:
            counts.append(f"{self.computed:,} computed")
        else:
            counts.append(f"{self.dry_run.misses:,} to compute")
        for number, what in ((len(self.rejected), "rejected"), (len(self.failed), "failed")):
            counts += [f"{number:,} {what}"] if number else []
        stopped = f", stopped by {self.signal}" if self.signal is not None else ""
        return plain(f"<FillReport {self.space.name}: {', '.join(counts)}, {self.seconds:.1f} s{stopped}>")

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped before its end."""
        return self.signal is not None

    def raise_if_interrupted(self) -> None:
        """Raise again if it was interrupted, for callers that need all of the vectors.

        Raises
        ------
        Interrupted : it was stopped; says what is stored.
        """
        if self.signal is not None:
            stored = f"{self.computed:,} vectors computed for space {self.space.name} are stored"
            raise Interrupted(self.signal, f"{stored}; the same command continues.")

    @property
    def complete(self) -> bool:
        """Whether every record that was read has its vector."""
        return not (self.rejected or self.failed or self.interrupted)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values; the keys are a contract."""
        document = {
            **{name: value for name, value in facts(self).items() if value is not None},
            "seconds": round(self.seconds, 3),
            "compute_seconds": round(self.compute_seconds, 3),
            "interrupted": self.interrupted,
        }
        if self.dry_run is not None:
            estimate = self.dry_run.estimated_seconds
            rounded = None if estimate is None else round(estimate, 3)
            document |= {"dry_run": True, "misses": self.dry_run.misses, "estimated_seconds": rounded}
        return document
