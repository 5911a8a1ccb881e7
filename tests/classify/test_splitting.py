"""Parts of a split share neither a genome nor a sequence, whatever the order of rows; a refusal gives its reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedstore.classify.heads import TrainOptions
from embedstore.classify.splitting import Split, given_split, split_samples
from embedstore.errors import InputError
from embedstore.features import Categories, Features, Samples
from embedstore.features.merging import read_assignments

WITH_TEST = TrainOptions(test_share=0.2)
PARTS = ("fold 1", "fold 2", "fold 3", "fold 4", "fold 5", "test")


@pytest.fixture
def samples(features: Features) -> Samples:
    return features.samples


def shared_between_parts(samples: Samples, split: Split) -> set[str]:
    shared = set()
    for first in split.rows:
        for second in split.rows:
            if first < second:
                one, other = split.rows[first], split.rows[second]
                shared |= set(samples.groups.codes[one]) & set(samples.groups.codes[other])
                for keys in samples.keys.values():
                    shared |= {key.tobytes() for key in keys[one]} & {key.tobytes() for key in keys[other]}
    return {str(item) for item in shared}


def with_shared_sequence(samples: Samples) -> Samples:
    """Genomes host0 and host1 share a protein."""
    names = samples.groups.texts()
    keys = samples.keys["protein"].copy()
    keys[np.flatnonzero(names == "host0")[0]] = keys[np.flatnonzero(names == "host1")[0]]
    return replace(samples, keys={**samples.keys, "protein": keys})


def write(path: Path, samples: Samples, split: Split, **changes: str) -> Path:
    parts = {name: part for part, names in split.groups.items() for name in names} | changes
    path.write_text("group\tpart\n" + "".join(f"{name}\t{part}\n" for name, part in parts.items()), encoding="utf-8")
    return path


@pytest.mark.parametrize("seed", range(5))
def test_parts_share_no_group_and_no_sequence_and_cover_all(samples: Samples, seed: int) -> None:
    samples = with_shared_sequence(samples)
    split = split_samples(samples, replace(WITH_TEST, seed=seed))
    assert list(split.rows) == list(PARTS)
    assert shared_between_parts(samples, split) == set()
    assert sorted(np.concatenate(list(split.rows.values())).tolist()) == list(range(len(samples)))
    for rows in split.rows.values():
        assert set(samples.labels.codes[rows].tolist()) == {0, 1}


def test_groups_with_a_sequence_in_common_stay_together_and_are_named(samples: Samples) -> None:
    split = split_samples(with_shared_sequence(samples), TrainOptions())
    assert split.joined == (("host0", "host1"),)
    assert any({"host0", "host1"} <= set(names) for names in split.groups.values())


def test_parts_have_about_their_shares(samples: Samples) -> None:
    split = split_samples(samples, WITH_TEST)
    shares = {part: len(rows) / len(samples) for part, rows in split.rows.items()}
    for part in PARTS:
        assert abs(shares[part] - (0.2 if part == "test" else 0.16)) < 0.06


def test_without_a_test_share_all_samples_are_in_folds(samples: Samples) -> None:
    split = split_samples(samples, TrainOptions())
    assert list(split.rows) == list(split.folds) == list(PARTS[:-1])
    rows, folds = split.training()
    assert sorted(rows.tolist()) == list(range(len(samples)))
    assert all(set(rows[folds == number]) == set(split.rows[part]) for number, part in enumerate(split.folds))


def test_fewer_groups_make_fewer_folds(samples: Samples) -> None:
    names = samples.groups.texts()
    few = samples.take(np.flatnonzero(~np.isin(names, [f"virus{number}" for number in range(7)])))
    assert split_samples(few, TrainOptions()).folds == PARTS[:3]
    assert split_samples(few, WITH_TEST).folds == PARTS[:2]


def test_relatives_stay_together(samples: Samples) -> None:
    pairs = [("host0", "host1"), ("host1", "host2"), ("virus3", "nobody")]
    split = split_samples(samples, TrainOptions(), pairs)
    assert split.joined == (("host0", "host1", "host2"),)


def test_order_of_rows_does_not_matter_and_the_seed_does(samples: Samples) -> None:
    order = np.random.default_rng(3).permutation(len(samples))
    one, other = split_samples(samples, TrainOptions()), split_samples(samples.take(order), TrainOptions())
    assert one.groups == other.groups
    for part, rows in one.rows.items():
        assert samples.ids[rows].tolist() == samples.take(order).ids[other.rows[part]].tolist()
    assert split_samples(samples, TrainOptions(seed=2)).groups != one.groups


def test_one_class_is_refused(samples: Samples) -> None:
    rows = np.flatnonzero(samples.labels.codes == 0)
    with pytest.raises(InputError, match="at least two classes, found host"):
        split_samples(samples.take(rows), TrainOptions())


def test_one_group_is_refused(samples: Samples) -> None:
    single = replace(samples, groups=Categories.of(["genome"] * len(samples)))
    with pytest.raises(InputError, match=r"expected several groups .* found one, genome"):
        split_samples(single, TrainOptions())


def test_class_with_too_few_groups_is_refused(samples: Samples) -> None:
    names = samples.groups.texts()
    few = samples.take(np.flatnonzero(~np.isin(names, [f"virus{number}" for number in range(8)])))
    with pytest.raises(InputError, match=r"at least 3 groups of class virus .* found 2"):
        split_samples(few, WITH_TEST)
    names = few.groups.texts()
    with pytest.raises(InputError, match=r"at least 2 groups of class virus .* found 1"):
        split_samples(few.take(np.flatnonzero(names != "virus9")), TrainOptions())


def test_unlabelled_samples_are_refused_unless_left_out_on_purpose(samples: Samples) -> None:
    codes = samples.labels.codes.copy()
    codes[:7] = -1
    partly = replace(samples, labels=replace(samples.labels, codes=codes))
    with pytest.raises(InputError, match="found 7 of"):
        split_samples(partly, TrainOptions())
    split = split_samples(partly, TrainOptions(ignore_unlabelled=True))
    assert split.unlabelled == 7
    assert not set(range(7)) & set(np.concatenate(list(split.rows.values())).tolist())


@pytest.mark.parametrize(
    "wrong",
    [
        {"test_share": 1.0},
        {"test_share": -0.1},
        {"folds": 1},
        {"folds": 101},
        {"batch_rows": 1},
        {"strength": 0.0},
        {"members": 0},
        {"members": 101},
        {"group_exponent": 2.0},
    ],
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="Cannot train"):
        TrainOptions(**wrong)  # type: ignore[arg-type]


def test_given_split_is_taken(tmp_path: Path, samples: Samples) -> None:
    split = split_samples(samples, replace(WITH_TEST, seed=9))
    table = read_assignments(write(tmp_path / "split.tsv", samples, split), "part")
    again = given_split(samples, table, TrainOptions())
    assert again.groups == split.groups
    assert all(np.array_equal(again.rows[part], rows) for part, rows in split.rows.items())


def test_given_split_that_divides_a_sequence_is_refused_with_group_and_key(tmp_path: Path, samples: Samples) -> None:
    samples = with_shared_sequence(samples)
    split = split_samples(samples, WITH_TEST)
    home = next(part for part, names in split.groups.items() if "host0" in names)
    elsewhere = "fold 1" if home != "fold 1" else "test"
    table = read_assignments(write(tmp_path / "split.tsv", samples, split, host0=elsewhere), "part")
    with pytest.raises(InputError, match=r"SQ\.\S+ of groups host[01] and host[01]"):
        given_split(samples, table, TrainOptions())


def test_given_split_that_divides_a_group_is_refused(tmp_path: Path, samples: Samples) -> None:
    lines = [f"{name}\t{PARTS[number % 4]}\n" for number, name in enumerate(samples.ids.tolist())]
    (tmp_path / "split.tsv").write_text("sample\tpart\n" + "".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=r"each group in one part, found host0 in fold 1 and fold 2"):
        given_split(samples, read_assignments(tmp_path / "split.tsv", "part"), TrainOptions())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"host0": "exam"}, "found exam"),
        ({"host0": "train"}, "in the part train, or in two folds"),
        ({"host0": "fold 0"}, "found fold 0"),
        ({"stranger": "test"}, "stranger"),
        ({f"virus{number}": "fold 1" for number in range(10)}, "none of virus"),
    ],
)
def test_given_split_with_odd_names_is_refused(
    tmp_path: Path, samples: Samples, changes: dict[str, str], message: str
) -> None:
    path = write(tmp_path / "split.tsv", samples, split_samples(samples, WITH_TEST), **changes)
    with pytest.raises(InputError, match=message):
        given_split(samples, read_assignments(path, "part"), TrainOptions())


def test_parts_of_older_tables_are_dealt_out_to_folds(tmp_path: Path, samples: Samples) -> None:
    parts = ("train", "validation", "calibration", "test")
    lines = [f"{name}\t{parts[int(name[-1]) % 4]}\n" for name in samples.groups.names.tolist()]
    (tmp_path / "split.tsv").write_text("group\tpart\n" + "".join(lines), encoding="utf-8")
    split = given_split(samples, read_assignments(tmp_path / "split.tsv", "part"), TrainOptions(folds=3))
    assert list(split.rows) == ["fold 1", "fold 2", "fold 3", "test"]
    assert split.groups["test"] == ("host3", "host7", "virus3", "virus7")
    assert shared_between_parts(samples, split) == set()
    assert sorted(np.concatenate(list(split.rows.values())).tolist()) == list(range(len(samples)))


def test_given_split_without_a_group_is_refused(tmp_path: Path, samples: Samples) -> None:
    path = write(tmp_path / "split.tsv", samples, split_samples(samples, TrainOptions()))
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("host3\t")]
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="found 1 without, first host3"):
        given_split(samples, read_assignments(path, "part"), TrainOptions())
