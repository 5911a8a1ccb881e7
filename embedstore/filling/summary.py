"""What a fill did, as a value and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from embedstore.identity import Recipe
from embedstore.interruption import Interrupted
from embedstore.records import Rejection


@dataclass(slots=True)
class FillProgress:
    """Progress of a fill; one object, updated as it runs.

    Attributes
    ----------
    read : records seen, rejected ones included.
    rejected, failed : records.
    computed : distinct sequences that were computed.
    waiting : distinct sequences known to have no vector, and not computed yet.
    residues_computed, residues_waiting : the same in residues (or bases of DNA).
    """

    read: int = 0
    rejected: int = 0
    failed: int = 0
    computed: int = 0
    waiting: int = 0
    residues_computed: int = 0
    residues_waiting: int = 0


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
        return {"name": self.name, "id": self.id, "dim": self.dim, "dtype": self.dtype}


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
        missing = f"{self.computed:,} computed" if self.dry_run is None else f"{self.dry_run.misses:,} to compute"
        refused = f", {len(self.rejected):,} rejected" if self.rejected else ""
        refused += f", {len(self.failed):,} failed" if self.failed else ""
        stopped = f", stopped by {self.signal}" if self.interrupted else ""
        return f"<FillReport {self.space.name}: {self.read:,} read, {self.hits:,} found, {missing}{refused}{stopped}>"

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
            raise Interrupted(self.signal, f"{stored}; the same command goes on.")

    @property
    def complete(self) -> bool:
        """Whether every record that was read has its vector."""
        return not (self.rejected or self.failed or self.interrupted)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values; the keys are a contract."""
        document: dict[str, Any] = {
            "space": self.space.to_json(),
            "read": self.read,
            "unique": self.unique,
            "hits": self.hits,
            "computed": self.computed,
            "rejected": [rejection._asdict() for rejection in self.rejected],
            "failed": [rejection._asdict() for rejection in self.failed],
            "seconds": round(self.seconds, 3),
            "compute_seconds": round(self.compute_seconds, 3),
            "interrupted": self.interrupted,
        }
        if self.signal is not None:
            document["signal"] = self.signal
        if self.dry_run is not None:
            estimate = self.dry_run.estimated_seconds
            document["dry_run"] = True
            document["misses"] = self.dry_run.misses
            document["estimated_seconds"] = None if estimate is None else round(estimate, 3)
        return document
