"""Tables that say something of samples: their labels, or the clusters that a split must not divide.

Tab-separated, with a header: `sample`, `source` or `group` says what the first column names; the other is `label`,
`cluster` or `part`. An empty value takes the label away. What the table does not name stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import InputError, plain
from embedstore.features.samples import Categories, Samples
from embedstore.output import from_cell

_NAMED = ("sample", "source", "group")
_NAMES_SHOWN = 10
_CHARACTERS_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Assignments:
    """What a table says.

    Attributes
    ----------
    named : what its names are of: "sample", "source" or "group".
    values : name -> label or cluster.
    file : for messages.
    """

    named: str
    values: Mapping[str, str]
    file: str


def with_labels(samples: Samples, path: str | Path) -> Samples:
    """Label samples as a table says.

    Raises
    ------
    InputError : it is not such a table, or names something that is not among the samples.
    """
    return replace(samples, labels=_assigned(samples, samples.labels, read_assignments(path, "label")))


def with_clusters(samples: Samples, path: str | Path) -> Samples:
    """Group samples by the clusters that a table gives.

    Raises
    ------
    InputError : it is not such a table, or names something that is not among the samples.
    """
    return replace(samples, groups=_assigned(samples, samples.groups, read_assignments(path, "cluster")))


def read_assignments(path: str | Path, value: Literal["label", "cluster", "part"]) -> Assignments:
    """Read a table.

    Raises
    ------
    InputError : it is not such a table, or gives one name two values; the line is named.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {path}: {error}.") from error
    header = lines[0].split("\t")
    named = [name for name in header if name in _NAMED]
    if not named or value not in header:
        raise InputError(
            f"Cannot read {path}: expected a header with one of {', '.join(_NAMED)} and {value}, separated by a tab, "
            f"found {lines[0][:80]!r}."
        )
    name_place, value_place = header.index(named[0]), header.index(value)
    values: dict[str, str] = {}
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split("\t")
        if len(fields) <= max(name_place, value_place):
            raise InputError(f"Cannot read {path}: line {number}: expected {len(header)} fields, found {len(fields)}.")
        name, text = from_cell(fields[name_place]), from_cell(fields[value_place])
        if values.setdefault(name, text) != text:
            raise InputError(
                f"Cannot read {path}: line {number}: expected {values[name]!r} as the {value} of {name} as above, "
                f"found {plain(repr(text), _CHARACTERS_SHOWN)}."
            )
    return Assignments(named[0], values, str(path))


def _assigned(samples: Samples, column: Categories, table: Assignments) -> Categories:
    """Return a column with the values of a table in place of its own."""
    names = {"sample": samples.ids, "source": samples.sources.names, "group": samples.groups.names}[table.named]
    numbers = {text: number for number, text in enumerate(column.names.tolist())}
    numbers.setdefault("", len(numbers))
    new = {name: numbers.setdefault(text, len(numbers)) for name, text in table.values.items()}
    keep = -1
    found = np.fromiter((new.get(name, keep) for name in names), np.int32, len(names))
    if len(new) != np.count_nonzero(found != keep):
        _refuse_unknown(samples, names.tolist(), table)
    if table.named != "sample":
        places = (samples.sources if table.named == "source" else samples.groups).codes
        found = np.append(found, np.int32(keep))[places]
    met = np.where(found == keep, np.where(column.codes < 0, numbers[""], column.codes), found).astype(np.int32)
    return _renumbered(numbers, met)


def _renumbered(numbers: Mapping[str, int], met: NDArray[np.int32]) -> Categories:
    """Make a column without the texts that no longer occur."""
    texts = list(numbers)
    used, again = np.unique(met, return_inverse=True)
    return Categories.numbered({texts[number]: place for place, number in enumerate(used)}, again.astype(np.int32))


def _refuse_unknown(samples: Samples, names: list[str], table: Assignments) -> None:
    unknown = sorted(set(table.values).difference(names))
    if unknown:
        shown = ", ".join(plain(name, _CHARACTERS_SHOWN) for name in unknown[:_NAMES_SHOWN]) + (
            " …" if len(unknown) > _NAMES_SHOWN else ""
        )
        raise InputError(
            f"Cannot use {table.file} for {samples.origin}: expected names of its {table.named}s, found {len(unknown)} "
            f"that are none: {shown}."
        )
