"""Trustworthy splits: no genome and no sequence is on two sides.

Groups (genomes, or clusters that a table gives) that share a sequence, or are relatives, are first joined into blocks.
Blocks are then dealt out to the folds, and to a test part if one is wanted, so that each has its share of every class.
Nothing depends on the order of the rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

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

TEST = "test"
TRAIN_PARTS = ("train", "validation", "calibration")
"""What a table may call a part that folds are made of; the last two as older versions did."""
_FOLD = re.compile(r"fold ([1-9][0-9]{0,2})")
_LEAST_FOLDS = 2


def fold_name(number: int) -> str:
    """Return the name of a fold, by its number from 0."""
    return f"fold {number + 1}"


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Which sample is in which part.

    Attributes
    ----------
    rows : "fold 1", "fold 2", …, "test" if there is one -> its row numbers, sorted by the ids of the samples.
    groups : part -> names of its groups, sorted.
    joined : groups that share a sequence or are relatives and therefore were kept together, a tuple for each such set.
    unlabelled : samples that were left out, as they have no label.
    """

    rows: Mapping[str, Indices]
    groups: Mapping[str, tuple[str, ...]]
    joined: tuple[tuple[str, ...], ...]
    unlabelled: int

    @property
    def folds(self) -> tuple[str, ...]:
        """Names of the folds."""
        return tuple(part for part in self.rows if part != TEST)

    def training(self) -> tuple[Indices, NDArray[np.int64]]:
        """(n,) the rows of all folds, by fold, and the number of each one's fold, from 0."""
        each = [self.rows[part] for part in self.folds]
        return np.concatenate(each), np.repeat(np.arange(len(each)), [len(rows) for rows in each])

    def to_json(self) -> dict[str, Any]:
        """The split as JSON values."""
        return {
            "groups": {part: list(names) for part, names in self.groups.items()},
            "samples": {part: len(rows) for part, rows in self.rows.items()},
            "joined_groups": [list(names) for names in self.joined],
            "unlabelled": self.unlabelled,
        }


Relatives = Sequence[tuple[str, str]]
"""Pairs of groups, by name, that are too alike to be on two sides."""


def split_samples(samples: Samples, options: TrainOptions, relatives: Relatives = ()) -> Split:
    """Deal out groups to folds, stratified by label; the same samples and seed give the same split.

    Where a class has fewer independent groups than there are to be parts, fewer folds are made, two at least.

    Raises
    ------
    InputError : samples have no label or no group, there is one class or one group only, or a class has too few
        independent groups to be in every part.
    """
    labelled = _labelled(samples, ignore_unlabelled=options.ignore_unlabelled)
    chosen = samples.take(labelled)
    names, groups, y = _groups_by_name(chosen)
    blocks = _blocks(chosen, names, groups, relatives)
    counts = _counts(blocks[groups], y, len(chosen.labels.names))
    shares = _shares(options, counts, chosen)
    dealt = _dealt(counts, np.array(list(shares.values())), options.seed)
    parts = list(shares)
    _refuse_missing_classes(counts, dealt, parts, chosen)
    return _split(samples, labelled, [parts[place] for place in dealt[blocks]], names, groups, blocks)


def given_split(samples: Samples, table: Assignments, options: TrainOptions, relatives: Relatives = ()) -> Split:
    """Take a split from a table of sample, source or group, and part.

    Parts are "test", and "fold 1", "fold 2", … or "train", whose groups are dealt out to folds as by `split_samples`.

    Raises
    ------
    InputError : samples have no part or an unknown one, a part is missing, or two parts share a group or sequence; the
        group and the sequence are named.
    """
    labelled = _labelled(samples, ignore_unlabelled=options.ignore_unlabelled)
    chosen = samples.take(labelled)
    names, groups, _ = _groups_by_name(chosen)
    parts, places = _given_parts(chosen, table)
    _refuse_shared(chosen, parts, places, names, groups, table.file)
    y = chosen.labels.codes
    for place, part in enumerate(parts):
        missing = set(range(len(chosen.labels.names))) - set(y[places == place].tolist())
        if missing:
            classes = ", ".join(str(chosen.labels.names[each]) for each in sorted(missing))
            raise InputError(
                f"Cannot use the split {table.file}: expected samples of every class in the part {part}, found none of "
                f"{classes}. Put a group of it there."
            )
    part_of_group = np.zeros(len(names), np.int64)
    part_of_group[groups] = places
    if "train" in parts:
        return _with_folds(samples, chosen, labelled, parts, places, options, relatives)
    return _split(samples, labelled, [parts[place] for place in part_of_group], names, groups, np.arange(len(names)))


def _with_folds(
    samples: Samples,
    chosen: Samples,
    labelled: Indices,
    parts: Sequence[str],
    places: NDArray[np.int64],
    options: TrainOptions,
    relatives: Relatives,
) -> Split:
    """Deal the part that is trained on out to folds, and keep the test part as it is."""
    of_train = np.flatnonzero(places == parts.index("train"))
    dealt = split_samples(chosen.take(of_train), replace(options, test_share=0.0), relatives)
    rows = {part: labelled[of_train[found]] for part, found in dealt.rows.items()}
    of_groups = dict(dealt.groups)
    if TEST in parts:
        test = np.flatnonzero(places == parts.index(TEST))
        rows[TEST] = labelled[test]
        of_groups[TEST] = tuple(sorted(set(chosen.groups.texts()[test].tolist())))
    return Split(rows, of_groups, dealt.joined, len(samples) - len(labelled))


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


def _blocks(
    samples: Samples, names: Sequence[str], groups: NDArray[np.int64], relatives: Relatives
) -> NDArray[np.int64]:
    """(groups,) int64: the block of each group: groups with a sequence in common, and relatives, are in one."""
    places = {name: place for place, name in enumerate(names)}
    related = [(places[one], places[other]) for one, other in relatives if one in places and other in places]
    pairs = [_neighbours(keys, groups) for keys in samples.keys.values()]
    left, right = np.concatenate([*pairs, np.array(related, np.int64).reshape(-1, 2).T], axis=1)
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(len(names), len(names)))
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


def _shares(options: TrainOptions, counts: NDArray[np.float64], samples: Samples) -> dict[str, float]:
    """Parts that are wanted, with their share: as many folds as the class with the fewest independent groups allows.

    Parameters
    ----------
    counts : (b, c), samples of each class in each block.
    """
    blocks = (counts > 0).sum(axis=0)
    fewest = int(blocks[blocks > 0].min())
    folds = min(options.folds, fewest - (options.test_share > 0))
    if folds < _LEAST_FOLDS:
        name = samples.labels.names[int(np.flatnonzero(blocks == fewest)[0])]
        parts = _LEAST_FOLDS + (options.test_share > 0)
        raise InputError(
            f"Cannot split {samples.origin}: expected at least {parts} groups of class {name} that share no sequence, "
            f"one for each part, found {fewest}. Add genomes of it."
        )
    shares = {fold_name(number): (1 - options.test_share) / folds for number in range(folds)}
    return shares | ({TEST: options.test_share} if options.test_share > 0 else {})


def _refuse_missing_classes(
    counts: NDArray[np.float64], dealt: NDArray[np.int64], parts: Sequence[str], samples: Samples
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
    part_of_group: Sequence[str],
    names: Sequence[str],
    groups: NDArray[np.int64],
    blocks: NDArray[np.int64],
) -> Split:
    used = sorted(set(part_of_group), key=_by_number)
    places = np.array([used.index(part) for part in part_of_group])
    members = [[names[group] for group in np.flatnonzero(blocks == block).tolist()] for block in np.unique(blocks)]
    return Split(
        rows={part: labelled[places[groups] == number] for number, part in enumerate(used)},
        groups={
            part: tuple(names[group] for group in np.flatnonzero(places == number).tolist())
            for number, part in enumerate(used)
        },
        joined=tuple(sorted(tuple(some) for some in members if len(some) > 1)),
        unlabelled=len(samples) - len(labelled),
    )


def _by_number(part: str) -> tuple[int, int]:
    """Order parts: folds by number, then test."""
    fold = _FOLD.fullmatch(part)
    return (0, int(fold[1])) if fold else (1, 0)


def _given_parts(samples: Samples, table: Assignments) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the parts, and (n,) int64, the place of each sample's part among them."""
    columns = {"sample": samples.ids, "source": samples.sources.texts(), "group": samples.groups.texts()}
    found = set(table.values.values())
    unknown = sorted(part for part in found - {TEST, *TRAIN_PARTS} if not _FOLD.fullmatch(part))
    if unknown:
        raise InputError(
            f"Cannot use the split {table.file}: expected the parts train, or fold 1, fold 2 and so on, and {TEST}, "
            f"found {', '.join(unknown)}."
        )
    folds = sorted((part for part in found if _FOLD.fullmatch(part)), key=_by_number)
    if bool(folds) == bool(found & set(TRAIN_PARTS)) or len(folds) == 1:
        raise InputError(
            f"Cannot use the split {table.file}: expected samples in the part train, or in two folds or more, found "
            f"{', '.join(sorted(found))}."
        )
    parts = [*(folds or ["train"]), *([TEST] if TEST in found else [])]
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
    places = {part: place for place, part in enumerate(parts)} | (dict.fromkeys(TRAIN_PARTS, 0) if not folds else {})
    return parts, np.array([places[table.values[name]] for name in column], np.int64)


def _refuse_shared(
    samples: Samples,
    parts: Sequence[str],
    places: NDArray[np.int64],
    names: Sequence[str],
    groups: NDArray[np.int64],
    file: str,
) -> None:
    for group in range(len(names)):
        here = np.unique(places[groups == group])
        if len(here) > 1:
            raise InputError(
                f"Cannot use the split {file}: expected each group in one part, found {names[group]} in "
                f"{' and '.join(parts[part] for part in here)}. Put it into one of them."
            )
    for molecule, keys in samples.keys.items():
        texts = as_strings(np.ascontiguousarray(keys))
        for first, second in combinations(np.unique(places).tolist(), 2):
            shared, left, right = np.intersect1d(texts[places == first], texts[places == second], return_indices=True)
            if len(shared):
                one, other = np.flatnonzero(places == first)[left[0]], np.flatnonzero(places == second)[right[0]]
                raise InputError(
                    f"Cannot use the split {file}: expected each sequence in one part, found {len(shared)} {molecule} "
                    f"sequences both in {parts[first]} and in {parts[second]}, first "
                    f"{key_text(keys[one].tobytes())} of groups {names[groups[one]]} and {names[groups[other]]}. "
                    "Put these groups into one part."
                )
