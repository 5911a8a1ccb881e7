"""How a result came about, as its page states it: when, by which command, from what."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from embedstore.classify.blocks import FeatureInput, Reading
from embedstore.errors import InputError
from embedstore.features import Features, Samples, is_merged_file
from embedstore.storage.retrying import redacted

_EPOCH = "SOURCE_DATE_EPOCH"


@dataclass(frozen=True, slots=True)
class Provenance:
    """When and how a result was made.

    Attributes
    ----------
    date : "2026-03-01 14:05 UTC".
    command : the command line; empty where it was made from Python.
    inputs : what went in, (what it is, its name).
    """

    date: str
    command: str = ""
    inputs: tuple[tuple[str, str], ...] = ()

    @classmethod
    def now(cls, command: str = "", environment: Mapping[str, str] = os.environ) -> Self:
        """State the present time, or that of SOURCE_DATE_EPOCH, with which a page can be made again byte by byte.

        Raises
        ------
        InputError : SOURCE_DATE_EPOCH is not a number of seconds.
        """
        given = environment.get(_EPOCH)
        try:
            moment = datetime.now(UTC) if not given else datetime.fromtimestamp(int(given), UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise InputError(f"Cannot use {_EPOCH}: expected seconds since 1970, found {given!r}.") from error
        return cls(f"{moment:%Y-%m-%d %H:%M} UTC", redacted(command))

    def of(self, given: FeatureInput, how: Reading, **others: Any) -> Self:
        """Add what went in: features or samples, the store, and tables that go with them.

        Parameters
        ----------
        others : further inputs by what they are; those that are None or empty are left out.
        """
        store = None if how.store is None else redacted(str(how.store.location))
        stated = {**_name(given), "store": store, "labels": how.labels, "groups": how.groups, **others}
        inputs = tuple((what, str(name)) for what, name in stated.items() if name is not None and name != "")
        return replace(self, inputs=self.inputs + inputs)

    @property
    def stamp(self) -> str:
        """Date and version, in a line."""
        return f"{self.date}, embedstore {_version()}"

    @property
    def facts(self) -> list[tuple[str, str]]:
        """All of it, (what, text), for a table."""
        return [
            ("date", self.date),
            ("command", self.command or "none: called from Python"),
            *self.inputs,
            ("embedstore", _version()),
        ]


def _name(given: FeatureInput) -> dict[str, str]:
    if isinstance(given, Features):
        return {"features": given.name}
    if isinstance(given, Samples):
        return {"samples": given.origin}
    return {"features" if is_merged_file(Path(given)) else "samples": str(given)}


def _version() -> str:
    try:
        return version("embedstore-bio")
    except PackageNotFoundError:
        return "from a folder of source code"
