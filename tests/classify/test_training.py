"""A classifier's folder: what it holds, that its seed decides it, that its numbers can be checked, what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from small_genomes import HEADS, MODELS, QUICK, QUICK_MLP, prepared, read_with, trained

from embedstore.classify import fitting
from embedstore.classify.classifier import load_classifier, save_classifier
from embedstore.classify.fitting import PartRows, cross_fit
from embedstore.classify.heads import TrainOptions
from embedstore.classify.networks import WeightedRows, fit_networks
from embedstore.classify.splitting import split_samples
from embedstore.classify.training import Trained, TrainReport, fit_classifier, train
from embedstore.errors import InputError
from embedstore.features import Categories, Features, Samples, merge
from embedstore.library import Store


def written_scores(folder: Path) -> tuple[list[str], np.ndarray[Any, Any], list[str], list[str]]:
    """Labels, scores, calls and groups of `scores.tsv`."""
    with (folder / "scores.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    names = [name for name in rows[0] if name.startswith("score_")]
    scores = np.array([[float(row[name]) for name in names] for row in rows])
    return [row["label"] for row in rows], scores, [row["call"] for row in rows], [row["group"] for row in rows]


def fitted(features: Features, options: TrainOptions) -> Trained:
    """Fit without writing anything, which takes a tenth of the time."""
    return fit_classifier(features, features.samples, split_samples(features.samples, options), options)


def tensors(trained: Trained | TrainReport) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in trained.classifier.head.tensors.items()}


def test_folder_holds_tensors_json_report_and_scores_and_no_pickle(report: TrainReport) -> None:
    names = {path.name for path in report.output.iterdir()}
    assert names == {"classifier.safetensors", "sketches.safetensors", "classifier.json", "report.html", "scores.tsv"}
    document = json.loads((report.output / "classifier.json").read_text(encoding="utf-8"))
    assert document["schema"]["labels"] == ["host", "virus"]
    assert document["schema"]["preparation"]["chunk_length"] == 300
    assert [block["space"] for block in document["schema"]["blocks"]] == list(MODELS)
    about = document["about"]
    assert set(about["split"]["groups"]) == {"fold 1", "fold 2", "fold 3", "test"}
    assert about["versions"]["torch"] == torch.__version__
    assert about["options"]["seed"] == 1
    assert about["fit"]["strength"] in [point["strength"] for point in about["fit"]["path"]]
    assert about["simple_head"] is None
    assert about["test"]["tested_on"] == "test"
    assert list(report.output.parent.glob(".*")) == []


def test_report_is_one_page_with_all_plots_and_nothing_from_outside(report: TrainReport) -> None:
    page = (report.output / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 7
    assert 'src="' not in page
    assert "<script" not in page
    assert "<link" not in page
    assert f"{report.evaluation['auroc']:.3f}" in page


def test_numbers_are_scikit_learns_on_the_written_scores(report: TrainReport) -> None:
    labels, scores, calls, groups = written_scores(report.output)
    found = report.evaluation
    truth = np.array(labels) == "virus"
    assert found["accuracy"] == metrics.accuracy_score(labels, calls)
    assert found["mcc"] == pytest.approx(metrics.matthews_corrcoef(labels, calls))
    assert found["f1"] == pytest.approx(metrics.f1_score(labels, calls, average="macro"))
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(truth, scores[:, 1]))
    assert found["classes"]["virus"]["auprc"] == pytest.approx(metrics.average_precision_score(truth, scores[:, 1]))
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(truth, scores[:, 1]))
    assert found["confusion"] == metrics.confusion_matrix(labels, calls).tolist()
    assert set(groups) == set(report.split.groups["test"])
    assert sum(part["samples"] for part in found["by_length"]) == len(labels)
    assert sum(part["samples"] for part in found["by_group"]) == len(labels)


@pytest.mark.parametrize("head", HEADS)
def test_it_learns_what_can_be_learned(features: Features, head: str) -> None:
    evaluation = fitted(features, replace(HEADS[head], test_share=0.0)).assessed()
    assert evaluation["tested_on"] == "folds"
    assert evaluation["auroc"] > 0.9
    low, high = evaluation["intervals"]["numbers"]["auroc"]
    assert low <= evaluation["auroc"] <= high


@pytest.mark.parametrize("head", HEADS)
def test_same_seed_same_weights_and_another_seed_others(features: Features, head: str) -> None:
    options = replace(HEADS[head], max_epochs=3)
    first, second = fitted(features, options), fitted(features, options)
    assert tensors(first) == tensors(second)
    assert tensors(first) != tensors(fitted(features, replace(options, seed=2)))


def test_permuted_table_gives_the_same_classifier(tmp_path: Path, table: Path, store: Store) -> None:
    head, *lines = table.read_text(encoding="utf-8").splitlines()
    folder = tmp_path / "permuted"
    folder.mkdir()
    np.random.default_rng(4).shuffle(lines)
    (folder / "samples.tsv").write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    shutil.copy(table.parent / "prepare.json", folder)
    straight = fitted(merge(table, MODELS, store=store), QUICK)
    permuted = fitted(merge(folder / "samples.tsv", MODELS, store=store), QUICK)
    assert tensors(straight) == tensors(permuted)
    assert straight.test.samples.ids.tolist() == permuted.test.samples.ids.tolist()
    assert np.array_equal(straight.test.probabilities, permuted.test.probabilities)


def test_training_leaves_torchs_generator_as_it_was(features: Features) -> None:
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    fitted(features, replace(QUICK_MLP, max_epochs=1))
    assert torch.equal(before, torch.random.get_rng_state())


def test_networks_stop_by_a_fold_that_they_are_not_fitted_to_and_are_fitted_again_for_the_median(
    features: Features,
) -> None:
    options = replace(QUICK_MLP, max_epochs=12, patience_epochs=12, learning_rate=0.02)
    fit = fitted(features, options).classifier.about["fit"]
    assert len(fit["curves"]) == len(fit["best_epochs"]) == 3 * options.members
    for curve, best in zip(fit["curves"], fit["best_epochs"], strict=True):
        losses = [epoch["validation_loss"] for epoch in curve]
        assert best == int(np.argmin(losses)) + 1
    assert fit["epochs"] == int(np.median(fit["best_epochs"]))


def test_best_weights_are_those_of_the_best_epoch(features: Features) -> None:
    y = features.samples.labels.codes.astype(np.int64)
    everything = WeightedRows(PartRows(features, np.arange(len(y)), y), np.ones(len(y)))
    train, validation = everything.take(np.flatnonzero(np.arange(len(y)) % 3)), everything.take(np.arange(0, len(y), 3))
    options = replace(QUICK_MLP, max_epochs=12, patience_epochs=12, learning_rate=0.02)
    for seed, long in zip((1, 2), fit_networks(train, validation, 2, options, (1, 2)), strict=True):
        best = long.best_epoch
        assert long.epochs[best - 1].validation_loss == min(epoch.validation_loss for epoch in long.epochs)
        assert best < len(long.epochs)
        [short] = fit_networks(train, validation, 2, options, [seed], epochs=best)
        for name, tensor in long.network.tensors.items():
            assert tensor.tobytes() == short.network.tensors[name].tobytes(), name


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_rows_beyond_the_cache_are_gathered_with_the_same_result(
    features: Features, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    options = replace(HEADS[head], max_epochs=2)
    cached = fitted(features, options)
    monkeypatch.setattr(fitting, "CACHE_BYTES", 0)
    assert tensors(cached) == tensors(fitted(features, options))


def test_scores_out_of_fold_are_of_heads_that_have_not_seen_the_group(features: Features) -> None:
    options = replace(QUICK, test_share=0.0, calibration="none", strength=3.0)
    trained = fitted(features, options)
    split = split_samples(features.samples, options)
    assert trained.test.samples.ids.tolist() == sorted(features.samples.ids.tolist())
    rows = np.concatenate([split.rows[part] for part in split.folds[1:]])
    alone = cross_fit(
        PartRows(features, rows, features.samples.labels.codes[rows].astype(np.int64)),
        np.arange(len(rows)) % 2,
        fitting.row_weights(
            features.samples.labels.codes[rows].astype(np.int64),
            features.samples.groups.codes[rows].astype(np.int64),
            2,
            options,
        ),
        2,
        options,
    ).head
    held_out = split.rows[split.folds[0]]
    ours = dict(zip(trained.test.samples.ids.tolist(), trained.test.probabilities, strict=True))
    expected = trained.classifier.calibration.probabilities(alone.logits(features.rows(held_out)))
    found = np.stack([ours[id_] for id_ in features.samples.ids[held_out].tolist()])
    assert np.allclose(found, expected, atol=1e-3)
    assert not np.allclose(
        found, trained.classifier.calibration.probabilities(trained.classifier.head.logits(features.rows(held_out)))
    )


def test_logistic_regression_is_scikit_learns(features: Features) -> None:
    rows = np.arange(len(features))
    y = features.samples.labels.codes.astype(np.int64)
    weights = np.random.default_rng(3).random(len(y))
    options = TrainOptions(strength=0.01)
    head = cross_fit(PartRows(features, rows, y), rows % 2, weights, 2, options).head
    x = features.rows()
    standard = (x.astype(np.float64) - head.tensors["input.mean"]) / head.tensors["input.deviation"]
    # Ours penalises both classes' weights, each half of scikit-learn's one difference: w²/2 · s/2.
    model = LogisticRegression(C=2 / (0.01 * weights.sum()), tol=1e-10, max_iter=10_000)
    model.fit(standard, y, sample_weight=weights)
    found = head.logits(x).astype(np.float64)
    assert np.allclose(found[:, 1] - found[:, 0], model.decision_function(standard), atol=1e-3)


def test_trees_are_scikit_learns(features: Features) -> None:
    rows, y = np.arange(len(features)), features.samples.labels.codes.astype(np.int64)
    options = replace(HEADS["trees"], seed=4)
    head = cross_fit(PartRows(features, rows, y), rows % 2, np.ones(len(y)), 2, options).head
    model = ExtraTreesClassifier(options.trees, min_samples_leaf=5, max_features="sqrt", random_state=4)
    expected = model.fit(features.rows(), y, sample_weight=np.ones(len(y))).predict_proba(features.rows())
    assert np.allclose(np.exp(head.logits(features.rows())), np.maximum(expected, 1e-6), atol=1e-5)


def test_another_head_is_held_against_the_simple_one(features: Features) -> None:
    simple = fitted(features, HEADS["trees"]).classifier.about["simple_head"]
    assert simple["head"] == "linear"
    ours = simple["of_this_head"]
    assert simple["is_beaten"] == (ours["auroc"] > simple["auroc"] and ours["log_loss"] < simple["log_loss"])
    assert fitted(features, QUICK).classifier.about["simple_head"] is None


def test_contigs_are_reported_by_length_and_calibrated_for_their_number_of_samples(features: Features) -> None:
    report = fitted(features, replace(QUICK, test_share=0.0))
    contigs = report.assessed()["contigs"]
    assert [part["length_bases"] for part in contigs] == [500, 1000, 3000]
    assert report.classifier.sequences is not None
    for part in contigs:
        assert {"auroc", "auprc", "recall", "false_positive_rate", "precision_at_prevalence"} <= set(part["positive"])
        low, high = part["intervals"]["classes/virus/auroc"]
        assert low <= part["positive"]["auroc"] <= high
        assert set(part["before_calibration"]) == {"brier_balanced", "ece_balanced"}
        assert set(part["calibrated_by_others"]) == {"brier_balanced", "ece_balanced"}


def test_the_positive_class_is_guessed_or_asked_for(features: Features) -> None:
    assert fitted(features, QUICK).assessed()["positive"]["label"] == "virus"
    assert fitted(features, replace(QUICK, positive="host")).assessed()["positive"]["label"] == "host"
    with pytest.raises(InputError, match="Cannot look for the class phage: expected one of host, virus"):
        fitted(features, replace(QUICK, positive="phage"))


def test_merged_file_and_view_give_the_same_classifier(tmp_path: Path, table: Path, store: Store) -> None:
    from_file = merge(table, MODELS, tmp_path / "features.zarr", store=store)
    assert tensors(fitted(from_file, QUICK)) == tensors(fitted(merge(table, MODELS, store=store), QUICK))


def test_three_classes(tmp_path: Path) -> None:
    table = prepared(tmp_path, ("host", "phage", "virus"))
    report = trained(table, tmp_path / "classifier")
    assert report.classifier.labels == ("host", "phage", "virus")
    labels, scores, _, _ = written_scores(report.output)
    assert np.allclose(scores.sum(axis=1), 1)
    macro = metrics.roc_auc_score(labels, scores, multi_class="ovr", average="macro")
    assert report.evaluation["auroc"] == pytest.approx(macro)


@pytest.mark.parametrize("calibration", ["temperature", "vector", "none"])
def test_calibrations(tmp_path: Path, features: Features, calibration: Any) -> None:
    trained = fitted(features, replace(QUICK, calibration=calibration))
    found = trained.classifier.calibration
    assert found.kind == calibration
    assert (trained.classifier.sequences is None) == (calibration == "none")
    save_classifier(trained.classifier, tmp_path / "classifier")
    assert load_classifier(tmp_path / "classifier").calibration == found


def test_clusters_are_not_divided(tmp_path: Path, features: Features, table: Path, store: Store) -> None:
    names = features.groups.names.tolist()
    lines = [f"{name}\t{name[:-1]}cluster{int(name[-1]) // 2}\n" for name in names]
    (tmp_path / "groups.tsv").write_text("group\tcluster\n" + "".join(lines), encoding="utf-8")
    reading = replace(read_with(store), groups=tmp_path / "groups.tsv")
    report = train(table, tmp_path / "classifier", options=QUICK, reading=reading)
    assert {name for names in report.split.groups.values() for name in names} == {
        f"{label}cluster{number}" for label in ("host", "virus") for number in range(5)
    }


def test_label_file_with_an_unknown_sample_is_refused(tmp_path: Path, table: Path, store: Store) -> None:
    (tmp_path / "labels.tsv").write_text("sample\tlabel\nnobody\tvirus\n", encoding="utf-8")
    with pytest.raises(InputError, match="nobody"):
        train(
            table,
            tmp_path / "classifier",
            options=QUICK,
            reading=replace(read_with(store), labels=tmp_path / "labels.tsv"),
        )
    assert not (tmp_path / "classifier").exists()


def one_class(samples: Samples) -> Samples:
    return replace(samples, labels=Categories.of(["virus"] * len(samples)))


def test_what_cannot_be_trained_on_is_refused_and_nothing_is_written(
    tmp_path: Path, features: Features, store: Store
) -> None:
    with pytest.raises(InputError, match="two classes"):
        train(one_class(features.samples), tmp_path / "classifier", options=QUICK, reading=read_with_stored(store))
    with pytest.raises(InputError, match="--models"):
        train(features.samples, tmp_path / "classifier", options=QUICK)
    with pytest.raises(InputError, match="not finite"):
        train(with_nan(features), tmp_path / "classifier", options=QUICK)
    assert list(tmp_path.iterdir()) == []


def read_with_stored(store: Store) -> Any:
    return replace(read_with(store), fill=False)


class NotFinite:
    """Rows of which some are not numbers."""

    def gather(self, indices: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> None:
        rows[:] = 1
        rows[indices == 3] = np.nan


def with_nan(features: Features) -> Features:
    return Features(features.samples, features.schema, NotFinite(), "broken.h5")


def test_other_folder_is_not_overwritten_and_a_classifier_is(tmp_path: Path, features: Features) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(InputError, match="something else is there"):
        train(features, tmp_path / "mine", options=QUICK)
    for seed in (1, 2):
        train(features, tmp_path / "classifier", options=replace(QUICK, seed=seed))
    assert load_classifier(tmp_path / "classifier").about["options"]["seed"] == 2


def test_models_with_a_merged_file_are_refused(tmp_path: Path, features: Features, store: Store) -> None:
    with pytest.raises(InputError, match="Leave out --models"):
        train(features, tmp_path / "classifier", options=QUICK, reading=read_with_stored(store))


def test_loss_that_is_never_finite_is_refused(features: Features) -> None:
    with pytest.raises(InputError, match="Choose a lower learning rate"):
        fitted(features, replace(QUICK_MLP, learning_rate=1e38))
