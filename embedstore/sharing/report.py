"""What copying between stores did, as a value and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from embedstore.store.verification import Problem

Direction = Literal["push", "pull"]


@dataclass(slots=True)
class SpaceCopy:
    """One space copied from one store to another; brought up to date as it goes.

    Attributes
    ----------
    direction : "push" to the far store, "pull" from it.
    copied : rows that the destination lacked and has now, or would get.
    skipped : rows of the source that the destination had.
    size_bytes : of what was copied.
    problems : what could not be copied, and why; all else was.
    """

    name: str
    id: str
    direction: Direction
    copied: int = 0
    skipped: int = 0
    size_bytes: int = 0
    problems: list[Problem] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "id": self.id,
            "direction": self.direction,
            "copied": self.copied,
            "skipped": self.skipped,
            "bytes": self.size_bytes,
            "problems": [problem._asdict() for problem in self.problems],
        }


OnCopied = Callable[[SpaceCopy], object]
"""Called after each segment with how far its space is."""


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What was copied between two stores.

    Attributes
    ----------
    near, far : where they lie.
    spaces : one for each space and direction.
    dry_run : nothing was copied; the numbers say what would be.
    """

    near: str
    far: str
    spaces: tuple[SpaceCopy, ...]
    seconds: float
    dry_run: bool = False

    @property
    def copied(self) -> int:
        """Rows copied, in all spaces."""
        return sum(space.copied for space in self.spaces)

    @property
    def skipped(self) -> int:
        """Rows that were there already, in all spaces."""
        return sum(space.skipped for space in self.spaces)

    @property
    def size_bytes(self) -> int:
        """Bytes copied, in all spaces."""
        return sum(space.size_bytes for space in self.spaces)

    @property
    def complete(self) -> bool:
        """Whether all that was to be copied could be."""
        return not any(space.problems for space in self.spaces)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values; the keys are a contract."""
        return {
            "near": self.near,
            "far": self.far,
            "copied": self.copied,
            "skipped": self.skipped,
            "bytes": self.size_bytes,
            "complete": self.complete,
            "dry_run": self.dry_run,
            "seconds": round(self.seconds, 3),
            "spaces": [space.to_json() for space in self.spaces],
        }
