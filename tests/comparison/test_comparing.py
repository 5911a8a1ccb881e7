"""Sets of features on the same samples: differences that are known, what is left out, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled_spaces import COUNT, GROUPS, OF_EACH, QUICK, filled_store, labelled_samples

import embedstore
from embedstore.classify.blocks import Reading
from embedstore.classify.training import Unseen, assess
from embedstore.comparison.comparing import Comparison, compare
from embedstore.errors import InputError, ModelError
from embedstore.features import Categories, Samples
from embedstore.store import SpaceStore

SETS = ("noise", "good", "noise,good", "good,noise", "same")


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    return filled_store(tmp_path_factory.mktemp("comparison") / "store")


@pytest.fixture(scope="module")
def found(reading: Reading, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = tmp_path_factory.mktemp("report") / "comparison"
    comparison = compare(labelled_samples(), SETS, output, reading=reading, options=QUICK, seeds=2)
    assert comparison.to_json() == json.loads((output / "comparison.json").read_text(encoding="utf-8"))
    page = (output / "comparison.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 3
    assert not any(text in page for text in ("<script", "src=", 'href="http', "nan"))
    return comparison.document


def difference(found: dict[str, Any], of: str, minus: str) -> dict[str, Any]:
    [pair] = [pair for pair in found["differences"] if (pair["of"], pair["minus"]) == (of, minus)]
    metrics: dict[str, Any] = pair["metrics"]
    return metrics


def without_seconds(comparison: Comparison) -> dict[str, Any]:
    return {name: value for name, value in comparison.document.items() if name != "seconds"}


def test_every_pair_and_metric_is_there(found: dict[str, Any]) -> None:
    assert [some["name"] for some in found["sets"]] == ["noise", "good", "noise + good", "good + noise", "same"]
    assert len(found["differences"]) == 10
    metrics = difference(found, "good", "noise")
    assert {"auroc", "mcc", "ece", "classes/virus/recall", "classes/virus/precision_at_prevalence/0.01"} <= set(metrics)
    assert [len(metrics["auroc"]["by_seed"]), len(found["splits"])] == [2, 2]


def test_signal_against_noise_differs_and_the_interval_excludes_0(found: dict[str, Any]) -> None:
    auroc = difference(found, "good", "noise")["auroc"]
    low, high = auroc["interval"]
    assert 0.2 < low <= auroc["value"] <= high
    assert auroc["value"] == pytest.approx(np.mean(auroc["by_seed"]))
    of_sets = {some["name"]: some["metrics"]["auroc"]["value"] for some in found["sets"]}
    assert auroc["value"] == pytest.approx(of_sets["good"] - of_sets["noise"])


def test_the_same_vectors_under_another_name_make_no_difference(found: dict[str, Any]) -> None:
    for metric in difference(found, "same", "good").values():
        assert (metric["value"], *metric["interval"]) == (0, 0, 0)
    [pair] = [pair for pair in found["similarity"]["pairs"] if pair["spaces"] == ["good", "same"]]
    assert pair["linear_cka"] == pytest.approx(1)
    assert pair["neighbour_overlap"] == 1
    assert pair["canary_cosines"] == pytest.approx([1])


def test_a_set_against_itself_makes_no_difference(reading: Reading) -> None:
    found = compare(labelled_samples(), ["good", "good"], reading=reading, options=QUICK, seeds=1).document
    assert [some["name"] for some in found["sets"]] == ["good (1)", "good (2)"]
    assert {metric["value"] for metric in difference(found, "good (2)", "good (1)").values()} == {0}
    assert found["similarity"]["pairs"] == []


def test_spaces_of_other_dimensions_are_compared_but_for_their_canaries(found: dict[str, Any]) -> None:
    [pair] = [pair for pair in found["similarity"]["pairs"] if pair["spaces"] == ["noise", "good"]]
    assert abs(pair["linear_cka"]) < 0.1
    assert pair["neighbour_overlap"] == pytest.approx(found["similarity"]["overlap_by_chance"], abs=0.05)
    assert pair["canary_cosines"] is None


def test_cost_is_what_the_commits_say(found: dict[str, Any]) -> None:
    costs = {some["name"]: some["seconds_per_residue"] for some in found["sets"]}
    assert costs["good"] == pytest.approx(2.0 / (100 * COUNT))
    assert costs["noise + good"] == pytest.approx(3.0 / (100 * COUNT))
    assert costs["same"] is None


def test_same_seed_gives_the_same_numbers_whatever_the_order_of_the_table(reading: Reading) -> None:
    samples = labelled_samples()
    shuffled = samples.take(np.random.default_rng(1).permutation(len(samples)))
    first, second, other = (
        without_seconds(compare(some, ["noise", "good"], reading=reading, options=replace(QUICK, seed=seed), seeds=1))
        for some, seed in ((samples, 4), (shuffled, 4), (samples, 5))
    )
    assert first == second
    assert first["sets"] != other["sets"]


def test_sets_are_tested_on_the_same_samples_of_groups_never_trained_on(reading: Reading) -> None:
    tested: dict[int, list[list[str]]] = {}
    auroc: dict[str, list[float]] = {}

    def keep(name: str, seed: int, trained: Unseen) -> None:
        tested.setdefault(seed, []).append(trained.test.samples.ids.tolist())
        auroc.setdefault(name, []).append(assess(trained.test, seed)["auroc"])

    found = compare(
        labelled_samples(), ["noise", "good"], reading=reading, options=QUICK, seeds=2, on_trained=keep
    ).document
    assert sorted(tested) == [1, 2]
    assert all(one == other for one, other in tested.values())
    for each in tested.values():
        assert each[0] == sorted(labelled_samples().ids.tolist())
    assert auroc == {some["name"]: some["metrics"]["auroc"]["by_seed"] for some in found["sets"]}
    folds = [split["groups"] for split in found["splits"]]
    assert folds[0] != folds[1]
    for groups in folds:
        names = [name for some in groups.values() for name in some]
        assert len(groups) == QUICK.folds
        assert sorted(names) == sorted(f"genome{number}" for number in range(GROUPS))


def test_a_test_part_is_what_sets_are_tested_on_if_one_is_wanted(reading: Reading, tmp_path: Path) -> None:
    options = replace(QUICK, test_share=0.25)
    found = compare(
        labelled_samples(), ["noise", "good"], tmp_path / "report", reading=reading, options=options, seeds=2
    ).document
    assert all({"fold 1", "fold 2", "fold 3", "test"} == set(split["groups"]) for split in found["splits"])
    auroc = difference(found, "good", "noise")["auroc"]
    assert auroc["interval"][0] < auroc["value"] < auroc["interval"][1]
    page = (tmp_path / "report" / "comparison.html").read_text(encoding="utf-8")
    assert "12 groups to be tested on" in page


def test_what_is_missing_in_one_space_is_left_out_of_all_and_said(reading: Reading, tmp_path: Path) -> None:
    found = compare(
        labelled_samples(), ["good", "part"], tmp_path / "report", reading=reading, options=QUICK, seeds=1
    ).document
    assert found["samples"] == COUNT - 2 * OF_EACH
    assert found["left_out"] == {"samples": 2 * OF_EACH, "missing_by_space": {"good": 0, "part": 2 * OF_EACH}}
    groups = [name for names in found["splits"][0]["groups"].values() for name in names]
    assert sorted(groups) == sorted(f"genome{number}" for number in range(2, GROUPS))
    page = (tmp_path / "report" / "comparison.html").read_text(encoding="utf-8")
    assert "12 others were left out of all sets, as they are missing from spaces: part 12." in page


@pytest.mark.parametrize("sets", [[], ["good"], "good,noise"])
def test_fewer_than_two_sets_are_refused(reading: Reading, sets: list[str] | str) -> None:
    with pytest.raises(InputError, match="at least two sets"):
        compare(labelled_samples(), sets, reading=reading)


def test_unknown_spaces_are_refused(reading: Reading) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        compare(labelled_samples(), ["good", "nowhere"], reading=reading)


def test_a_space_twice_in_one_set_is_refused(reading: Reading) -> None:
    with pytest.raises(InputError, match="twice"):
        compare(labelled_samples(), ["good", "noise,noise"], reading=reading)


def test_samples_without_labels_are_refused_and_nothing_is_written(reading: Reading, tmp_path: Path) -> None:
    samples = replace(labelled_samples(), labels=Categories.of([""] * COUNT))
    with pytest.raises(InputError, match="expected a label for every sample"):
        compare(samples, ["good", "noise"], tmp_path / "report", reading=reading)
    assert list(tmp_path.iterdir()) == []


def test_samples_of_which_no_space_has_any_are_refused(reading: Reading, tmp_path: Path) -> None:
    store = SpaceStore.open(tmp_path / "store", create=True)
    with pytest.raises(InputError, match=f"found none: aac_dpc does not have {COUNT} of {COUNT}.*--fill"):
        compare(labelled_samples(), ["aac_dpc", "aac_dpc"], reading=Reading(store))


def test_merged_features_a_missing_store_and_no_seeds_are_refused(reading: Reading, tmp_path: Path) -> None:
    samples: Samples = labelled_samples()
    embedstore.merge(samples, ["good"], tmp_path / "features.npz", store=reading.store)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="found merged features"):
        compare(tmp_path / "features.npz", ["good", "noise"], reading=reading)
    with pytest.raises(InputError, match="without a store"):
        compare(samples, ["good", "noise"], reading=Reading())
    with pytest.raises(InputError, match="at least one seed"):
        compare(samples, ["good", "noise"], reading=reading, seeds=0)
    with pytest.raises(InputError, match="something else is there"):
        compare(samples, ["good", "noise"], tmp_path, reading=reading)
