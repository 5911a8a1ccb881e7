"""Clusters that MMseqs2 or CD-HIT made, as they write them, beside our own tables of assignments.

| written by | what it looks like |
| --- | --- |
| us | a header with `sample`, `source` or `group`, and `cluster`, separated by tabs |
| `mmseqs easy-cluster` | two columns without a header: representative, member |
| `cd-hit`, `cd-hit-est` | `>Cluster 0`, then lines such as `0	6102nt, >NC_003466.1... *` |

Which it is, is told from the content. What the ids of the last two name, samples, sources or groups, is told from which
of these has most of them. Ids that name nothing are no error there, as more than the samples may have been clustered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from embedstore.errors import InputError, plain

_CD_HIT_CLUSTER = re.compile(r">Cluster \d+")
_CD_HIT_MEMBER = re.compile(r"\d+\t\d+(?:nt|aa), >(.+?)\.\.\. (?:\*|at .*)")
_NAMES_SHOWN = 10
_CHARACTERS_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Clusters:
    """Clusters of ids, as a program wrote them.

    Attributes
    ----------
    program : "MMseqs2" or "CD-HIT".
    values : id -> name of its cluster, that of its representative.
    file : for messages.
    """

    program: str
    values: Mapping[str, str]
    file: str

    def named(self, columns: Mapping[str, Iterable[str]]) -> tuple[str, dict[str, str], list[str]]:
        """Return what the ids name, the clusters of those that name something, and the ids that do not, sorted.

        Parameters
        ----------
        columns : "sample", "source", "group" -> the names of these.

        Raises
        ------
        InputError : no id names anything.
        """
        found = {what: self.values.keys() & set(names) for what, names in columns.items()}
        what = max(found, key=lambda one: len(found[one]))
        if not found[what]:
            hint = " CD-HIT cuts ids to 20 characters unless it is given -d 0." if self.program == "CD-HIT" else ""
            raise InputError(
                f"Cannot use the clusters {self.file}: expected ids of samples, sources or groups, found none among "
                f"{len(self.values):,}, first {plain(next(iter(self.values)), _CHARACTERS_SHOWN)}.{hint}"
            )
        unknown = sorted(self.values.keys() - found[what])
        return what, {name: self.values[name] for name in self.values if name in found[what]}, unknown

    def unknown_line(self, what: str, unknown: Sequence[str]) -> str:
        """Say which ids name nothing."""
        shown = ", ".join(plain(name, _CHARACTERS_SHOWN) for name in unknown[:_NAMES_SHOWN])
        more = " …" if len(unknown) > _NAMES_SHOWN else ""
        return f"{self.file}: {len(unknown):,} of its {len(self.values):,} ids are of no {what}: {shown}{more}"


def read_clusters(path: str | Path) -> Clusters | None:
    """Read the clusters of MMseqs2 or CD-HIT; None where it is another file, such as one of our tables.

    Raises
    ------
    InputError : it cannot be read, or begins as such a file and is not one; the line is named.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {path}: {error}.") from error
    first = lines[0] if lines else ""
    if _CD_HIT_CLUSTER.fullmatch(first.rstrip()):
        return Clusters("CD-HIT", _of_cd_hit(lines, path), str(path))
    fields = first.split("\t")
    if len(fields) != 2 or "cluster" in fields or not all(fields):
        return None
    return Clusters("MMseqs2", _of_mmseqs(lines, path), str(path))


def _of_mmseqs(lines: Sequence[str], path: str | Path) -> dict[str, str]:
    values: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        fields = line.split("\t")
        if len(fields) != 2 or not all(fields):
            raise InputError(
                f"Cannot read {path}: line {number}: expected a representative and a member, separated by a tab, found "
                f"{plain(repr(line), _CHARACTERS_SHOWN)}."
            )
        _put(values, fields[1], fields[0], path, number)
    return values


def _of_cd_hit(lines: Sequence[str], path: str | Path) -> dict[str, str]:
    values: dict[str, str] = {}
    members: list[tuple[str, int]] = []
    representative = ""
    for number, line in enumerate([*lines, ">Cluster 0"], start=1):
        text = line.rstrip()
        if _CD_HIT_CLUSTER.fullmatch(text):
            for member, at in members:
                _put(values, member, representative or members[0][0], path, at)
            members, representative = [], ""
            continue
        found = _CD_HIT_MEMBER.fullmatch(text)
        if not found:
            raise InputError(
                f"Cannot read {path}: line {number}: expected a member of a cluster as `0\\t500nt, >id... *`, "
                f"found {plain(repr(line), _CHARACTERS_SHOWN)}."
            )
        members.append((found[1], number))
        if text.endswith("*"):
            representative = found[1]
    return values


def _put(values: dict[str, str], member: str, cluster: str, path: str | Path, number: int) -> None:
    if values.setdefault(member, cluster) != cluster:
        raise InputError(
            f"Cannot read {path}: line {number}: expected {plain(member, _CHARACTERS_SHOWN)} in one cluster, found it "
            f"in that of {plain(values[member], _CHARACTERS_SHOWN)} and of {plain(cluster, _CHARACTERS_SHOWN)}."
        )
