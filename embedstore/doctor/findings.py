"""What a check found, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

State = Literal["ok", "warn", "fail"]
"""`warn`: something is slower or not available; `fail`: embedstore cannot be relied on here until it is fixed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the page.

    Attributes
    ----------
    group : of what: "store", "file system", "access", "software", "models".
    check : what was looked at; with the group, a name that stays.
    found : what was found, in words.
    advice : what to do, a sentence; empty where there is nothing to do.
    data : what was found, as JSON values.
    """

    group: str
    check: str
    state: State
    found: str
    advice: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that was found.

    Attributes
    ----------
    location : of the store, as people write it.
    seconds : how long it took to look.
    """

    location: str
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def healthy(self) -> bool:
        """Whether nothing fails."""
        return all(finding.state != "fail" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        return {
            "store": self.location,
            "healthy": self.healthy,
            "findings": [asdict(finding) for finding in self.findings],
            "seconds": round(self.seconds, 3),
        }
