"""Trustworthy splits: no genome and no sequence is on two sides.

Groups (genomes, or clusters that a table gives) that share a sequence are first joined into blocks; blocks are then
dealt out to the parts so that each part has its share of every class. Nothing depends on the order of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from embedstore.classify.heads import TrainOptions
from embedstore.errors import InputError
from embedstore.features import Samples
from embedstore.features.features import Indices
from embedstore.features.merging import Assignments
from embedstore.identity import key_text
from embedstore.records import Keys
from embedstore.store.segment_files import as_strings

Part = Literal["train", "validation", "calibration", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "calibration", "test")


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Which sample is in which part.

    Attributes
    ----------
    rows : part -> its row numbers, sorted by the ids of the samples.
    groups : part -> names of its groups, sorted.
    joined : groups that share a sequence and therefore were kept together, a tuple for each such set.
    unlabelled : samples that were left out, as they have no label.
    """

    rows: Mapping[Part, Indices]
    groups: Mapping[Part, tuple[str, ...]]
    joined: tuple[tuple[str, ...], ...]
    unlabelled: int

    def to_json(self) -> dict[str, Any]:
        """The split as JSON values."""
        return {
            "groups": {part: list(names) for part, names in self.groups.items()},
            "samples": {part: len(rows) for part, rows in self.rows.items()},
            "joined_groups": [list(names) for names in self.joined],
            "unlabelled": self.unlabelled,
        }


def split_samples(samples: Samples, options: TrainOptions) -> Split:
    """Deal out groups to parts, stratified by label; the same samples and seed give the same split.

    Raises
    ------
    InputError : samples have no label or no group, there is one class or one group only, or a class has too few
        independent groups to be in every part.
    """
    labelled = _labelled(samples, ignore_unlabelled=options.ignore_unlabelled)
    chosen = samples.take(labelled)
    names, groups, y = _groups_by_name(chosen)
    blocks = _blocks(chosen, groups, len(names))
    counts = _counts(blocks[groups], y, len(chosen.labels.names))
    shares = _shares(options)
    _refuse_too_few(counts, len(shares), chosen)
    dealt = _dealt(counts, np.array(list(shares.values())), options.seed)
    parts = list(shares)
    _refuse_missing_classes(counts, dealt, parts, chosen)
    return _split(samples, labelled, [parts[place] for place in dealt[blocks]], names, groups, blocks)


def given_split(samples: Samples, table: Assignments, options: TrainOptions) -> Split:
    """Take a split from a table of sample, source or group, and part.

    Raises
    ------
    InputError : samples have no part or an unknown one, a part is missing, or two parts share a group or sequence; the
        group and the sequence are named.
    """
    labelled = _labelled(samples, ignore_unlabelled=options.ignore_unlabelled)
    chosen = samples.take(labelled)
    places = _given_parts(chosen, table)
    names, groups, y = _groups_by_name(chosen)
    _refuse_shared(chosen, places, names, groups, table.file)
    needed = _shares(options)
    for part in needed:
        missing = set(range(len(chosen.labels.names))) - set(y[places == PARTS.index(part)].tolist())
        if missing:
            classes = ", ".join(str(chosen.labels.names[place]) for place in sorted(missing))
            raise InputError(
                f"Cannot use the split {table.file}: expected samples of every class in the part {part}, found none of "
                f"{classes}. Put a group of it there."
            )
    part_of_group = np.zeros(len(names), np.int64)
    part_of_group[groups] = places
    return _split(samples, labelled, [PARTS[place] for place in part_of_group], names, groups, np.arange(len(names)))


def _labelled(samples: Samples, *, ignore_unlabelled: bool) -> Indices:
    """Return the rows that have a label, sorted by id, after checking that they can be split at all."""
    has_label = samples.labels.codes >= 0
    missing = np.flatnonzero(~has_label)
    if len(missing) and not ignore_unlabelled:
        raise InputError(
            f"Cannot train on {samples.origin}: expected a label for every sample, found {len(missing)} of "
            f"{len(samples)} without, first {samples.ids[missing[0]]}. Label them (--labels FILE), or leave them out "
            "(--ignore-unlabelled)."
        )
    present = np.unique(samples.labels.codes[has_label])
    if len(present) < 2:
        found = ", ".join(str(samples.labels.names[code]) for code in present) or "none"
        raise InputError(
            f"Cannot train on {samples.origin}: expected at least two classes, found {found}. "
            "Label inputs (`embedstore prepare virus=DIR host=DIR`), or give --labels FILE."
        )
    if len(present) < len(samples.labels.names):
        missing_classes = sorted(set(samples.labels.names.tolist()) - set(samples.labels.names[present].tolist()))
        raise InputError(
            f"Cannot train on {samples.origin}: expected samples of every class, found none of "
            f"{', '.join(missing_classes)}. Add some, or merge again without that class."
        )
    groups = samples.groups.codes[has_label]
    if (groups < 0).any():
        raise InputError(
            f"Cannot train on {samples.origin}: expected a group for every sample, found {(groups < 0).sum()} without. "
            "Name the genome that each comes from."
        )
    if len(np.unique(groups)) < 2:
        raise InputError(
            f"Cannot train on {samples.origin}: expected several groups (genomes), found one, "
            f"{samples.groups.names[groups[0]]}: a group cannot be split. Add genomes, or prepare "
            "with --group-by record."
        )
    rows = np.flatnonzero(has_label)
    return rows[np.argsort(samples.ids[rows], kind="stable")]


def _groups_by_name(samples: Samples) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Return the names of the groups that occur, sorted; the group of each sample; the class of each sample."""
    used, groups = np.unique(samples.groups.codes, return_inverse=True)
    return samples.groups.names[used].tolist(), groups.astype(np.int64), samples.labels.codes.astype(np.int64)


def _blocks(samples: Samples, groups: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """(count,) int64: which block each group belongs to: groups with a sequence in common are in one."""
    pairs = [_neighbours(keys, groups) for keys in samples.keys.values()]
    left, right = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(count, count))
    blocks = connected_components(graph, directed=False)[1]
    return np.asarray(blocks, np.int64)


def _neighbours(keys: Keys, groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """(2, m) int64: pairs of groups that share a key, enough of them to connect all that do."""
    texts = as_strings(np.ascontiguousarray(keys))
    order = np.argsort(texts, kind="stable")
    same = texts[order][1:] == texts[order][:-1]
    pairs = np.stack([groups[order][:-1][same], groups[order][1:][same]])
    return np.unique(pairs[:, pairs[0] != pairs[1]], axis=1)


def _counts(blocks: NDArray[np.int64], y: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """(b, c) float64: samples of each class in each block."""
    count = int(blocks.max()) + 1
    return np.bincount(blocks * classes + y, minlength=count * classes).reshape(count, classes).astype(np.float64)


def _shares(options: TrainOptions) -> dict[Part, float]:
    """Parts that are wanted, with their share."""
    held_out = {
        "validation": options.validation_share,
        "calibration": options.calibration_share,
        "test": options.test_share,
    }
    shares = {"train": 1 - sum(held_out.values()), **held_out}
    return {part: shares[part] for part in PARTS if shares[part] > 0}


def _refuse_too_few(counts: NDArray[np.float64], parts: int, samples: Samples) -> None:
    for place, name in enumerate(samples.labels.names.tolist()):
        blocks = int((counts[:, place] > 0).sum())
        if 0 < blocks < parts:
            raise InputError(
                f"Cannot split {samples.origin}: expected at least {parts} groups of class {name} that share no "
                f"sequence, one for each part, found {blocks}. Add genomes of it, or train without calibration."
            )


def _refuse_missing_classes(
    counts: NDArray[np.float64], dealt: NDArray[np.int64], parts: Sequence[Part], samples: Samples
) -> None:
    """Refuse a split in which blocks of several classes leave a part without one."""
    for place, part in enumerate(parts):
        missing = np.flatnonzero(counts[dealt == place].sum(axis=0) == 0).tolist()
        if missing:
            classes = ", ".join(str(samples.labels.names[column]) for column in missing)
            raise InputError(
                f"Cannot split {samples.origin}: expected every class in every part, found none of {classes} in "
                f"{part}, as groups of several classes belong together. Add genomes, or try another seed."
            )


def _dealt(counts: NDArray[np.float64], shares: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """(b,) int64: the part of each block.

    Large blocks first, each goes where it brings samples and number of blocks of its classes closest to the shares
    (least chi-square); blocks of about one size are shuffled.
    """
    totals = np.concatenate([counts, (counts > 0).astype(np.float64)], axis=1)  # (b, 2c)
    portions = totals / np.maximum(totals.sum(axis=0), 1)
    shuffled = np.random.default_rng(seed).permutation(len(counts))
    magnitude = np.floor(2 * np.log2(portions.max(axis=1)[shuffled]))
    order = shuffled[np.argsort(-magnitude, kind="stable")]
    filled = np.zeros((len(shares), portions.shape[1]))
    dealt = np.zeros(len(counts), np.int64)
    for block in order.tolist():
        error = ((filled + portions[block] - shares[:, None]) ** 2 - (filled - shares[:, None]) ** 2) / shares[:, None]
        dealt[block] = part = int(np.argmin(error.sum(axis=1)))
        filled[part] += portions[block]
    _give_every_part_every_class(dealt, counts, len(shares))
    return dealt


def _give_every_part_every_class(dealt: NDArray[np.int64], counts: NDArray[np.float64], parts: int) -> None:
    """Move the smallest blocks from where there are most to parts that have none of a class."""
    for column in range(counts.shape[1]):
        holders = counts[:, column] > 0
        if not holders.any():
            continue
        for part in range(parts):
            if not (holders & (dealt == part)).any():
                blocks_of_parts = np.bincount(dealt[holders], minlength=parts)
                richest = int(np.argmax(blocks_of_parts))
                candidates = np.flatnonzero(holders & (dealt == richest))
                dealt[candidates[np.argmin(counts[candidates].sum(axis=1))]] = part


def _split(
    samples: Samples,
    labelled: Indices,
    part_of_group: Sequence[Part],
    names: Sequence[str],
    groups: NDArray[np.int64],
    blocks: NDArray[np.int64],
) -> Split:
    places = np.array([PARTS.index(part) for part in part_of_group])
    used = [part for part in PARTS if part in part_of_group]
    members = [[names[group] for group in np.flatnonzero(blocks == block).tolist()] for block in np.unique(blocks)]
    return Split(
        rows={part: labelled[places[groups] == PARTS.index(part)] for part in used},
        groups={
            part: tuple(names[group] for group in np.flatnonzero(places == PARTS.index(part)).tolist()) for part in used
        },
        joined=tuple(sorted(tuple(some) for some in members if len(some) > 1)),
        unlabelled=len(samples) - len(labelled),
    )


def _given_parts(samples: Samples, table: Assignments) -> NDArray[np.int64]:
    """(n,) int64: place in PARTS of each sample's part."""
    columns = {"sample": samples.ids, "source": samples.sources.texts(), "group": samples.groups.texts()}
    unknown = sorted(set(table.values.values()) - set(PARTS))
    if unknown:
        raise InputError(
            f"Cannot use the split {table.file}: expected the parts {', '.join(PARTS)}, found {', '.join(unknown)}."
        )
    column = columns[table.named].tolist()
    missing = [name for name in dict.fromkeys(column) if name not in table.values]
    if missing:
        raise InputError(
            f"Cannot use the split {table.file}: expected a part for every {table.named}, found {len(missing)} "
            f"without, first {missing[0]}."
        )
    strangers = sorted(set(table.values) - set(column))
    if strangers:
        raise InputError(
            f"Cannot use the split {table.file}: expected names of {table.named}s of {samples.origin}, found "
            f"{len(strangers)} that are not, first {strangers[0]}."
        )
    places = {part: place for place, part in enumerate(PARTS)}
    return np.array([places[table.values[name]] for name in column], np.int64)  # type: ignore[index]


def _refuse_shared(
    samples: Samples, places: NDArray[np.int64], names: Sequence[str], groups: NDArray[np.int64], file: str
) -> None:
    for group in range(len(names)):
        here = np.unique(places[groups == group])
        if len(here) > 1:
            raise InputError(
                f"Cannot use the split {file}: expected each group in one part, found {names[group]} in "
                f"{' and '.join(PARTS[part] for part in here)}. Put it into one of them."
            )
    for molecule, keys in samples.keys.items():
        texts = as_strings(np.ascontiguousarray(keys))
        for first, second in combinations(np.unique(places).tolist(), 2):
            shared, left, right = np.intersect1d(texts[places == first], texts[places == second], return_indices=True)
            if len(shared):
                one, other = np.flatnonzero(places == first)[left[0]], np.flatnonzero(places == second)[right[0]]
                raise InputError(
                    f"Cannot use the split {file}: expected each sequence in one part, found {len(shared)} {molecule} "
                    f"sequences both in {PARTS[first]} and in {PARTS[second]}, first "
                    f"{key_text(keys[one].tobytes())} of groups {names[groups[one]]} and {names[groups[other]]}. "
                    "Put these groups into one part."
                )
