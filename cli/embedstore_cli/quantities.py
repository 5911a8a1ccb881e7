"""Durations and sizes as people write them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import typer

_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_BYTES: dict[str, int | None] = {"b": 1} | {
    f"{prefix}{unit}": base**power
    for power, prefix in enumerate("kmgt", start=1)
    for unit, base in (("", 1024), ("ib", 1024), ("b", 1000))
}


def seconds(text: str) -> float:
    """7d -> 604800.0"""
    return _parsed(text, {**_SECONDS, "": 1 if text.strip() == "0" else None}, "a duration such as 90s, 30min, 12h, 7d")


def size_bytes(text: str) -> int:
    """500GB -> 500000000000; a bare number is refused, since it could be of anything, but for 0."""
    units = _BYTES | {"": 1 if text.strip() == "0" else None}
    return round(_parsed(text, units, "a size with its unit, such as 500 MB, 500 GB, 500 GiB, 2 TB"))


def _parsed(text: str, units: Mapping[str, int | None], expected: str) -> float:
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    unit = units.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise typer.BadParameter(f"expected {expected}, found {text!r}")
    return float(match[1]) * unit
