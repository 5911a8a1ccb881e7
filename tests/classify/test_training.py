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
from small_genomes import MODELS, QUICK, prepared, read_with, trained

from embedstore.classify import heads
from embedstore.classify.classifier import load_classifier, save_classifier
from embedstore.classify.heads import TrainOptions
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
    return {name: tensor.tobytes() for name, tensor in trained.classifier.network.tensors.items()}


def test_folder_holds_tensors_json_report_and_scores_and_no_pickle(report: TrainReport) -> None:
    names = {path.name for path in report.output.iterdir()}
    assert names == {"classifier.safetensors", "classifier.json", "report.html", "scores.tsv"}
    document = json.loads((report.output / "classifier.json").read_text(encoding="utf-8"))
    assert document["schema"]["labels"] == ["host", "virus"]
    assert document["schema"]["preparation"]["chunk_length"] == 300
    assert [block["space"] for block in document["schema"]["blocks"]] == list(MODELS)
    about = document["about"]
    assert set(about["split"]["groups"]) == {"train", "validation", "calibration", "test"}
    assert about["versions"]["torch"] == torch.__version__
    assert about["options"]["seed"] == 1
    assert len(about["epochs"]) >= about["best_epoch"] >= 1
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


def test_it_learns_what_can_be_learned(report: TrainReport) -> None:
    assert report.evaluation["auroc"] > 0.9
    low, high = report.evaluation["intervals"]["numbers"]["auroc"]
    assert low <= report.evaluation["auroc"] <= high


@pytest.mark.parametrize("network", ["mlp", "linear"])
def test_same_seed_same_weights_and_another_seed_others(features: Features, network: Any) -> None:
    options = replace(QUICK, network=network, max_epochs=3)
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
    straight = fitted(merge(table, store, MODELS), QUICK)
    permuted = fitted(merge(folder / "samples.tsv", store, MODELS), QUICK)
    assert tensors(straight) == tensors(permuted)
    assert straight.test.samples.ids.tolist() == permuted.test.samples.ids.tolist()
    assert np.array_equal(straight.test.probabilities, permuted.test.probabilities)


def test_training_leaves_torchs_generator_as_it_was(features: Features) -> None:
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    fitted(features, replace(QUICK, max_epochs=1))
    assert torch.equal(before, torch.random.get_rng_state())


def test_best_weights_are_those_of_the_best_epoch(features: Features) -> None:
    options = replace(QUICK, max_epochs=12, patience_epochs=12, learning_rate=0.02)
    long = fitted(features, options)
    best, epochs = long.fitted.best_epoch, long.fitted.epochs
    assert epochs[best - 1].validation_loss == min(one.validation_loss for one in epochs)
    assert best < len(epochs)
    assert tensors(long) == tensors(fitted(features, replace(options, max_epochs=best)))


def test_rows_beyond_the_cache_are_gathered_with_the_same_result(
    features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = fitted(features, replace(QUICK, max_epochs=2))
    monkeypatch.setattr(heads, "CACHE_BYTES", 0)
    assert tensors(cached) == tensors(fitted(features, replace(QUICK, max_epochs=2)))


def test_merged_file_and_view_give_the_same_classifier(tmp_path: Path, table: Path, store: Store) -> None:
    from_file = merge(table, store, MODELS, tmp_path / "features.zarr")
    assert tensors(fitted(from_file, QUICK)) == tensors(fitted(merge(table, store, MODELS), QUICK))


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
    share = 0.0 if calibration == "none" else 0.15
    options = replace(QUICK, calibration=calibration, calibration_share=share)
    trained = fitted(features, options)
    found = trained.classifier.calibration
    assert found.kind == calibration
    assert ("calibration" in trained.classifier.about["split"]["groups"]) == (calibration != "none")
    save_classifier(trained.classifier, tmp_path / "classifier")
    assert load_classifier(tmp_path / "classifier").calibration == found


def test_clusters_are_not_divided(tmp_path: Path, features: Features, table: Path, store: Store) -> None:
    names = features.groups.names.tolist()
    lines = [f"{name}\t{name[:-1]}cluster{int(name[-1]) // 2}\n" for name in names]
    (tmp_path / "groups.tsv").write_text("group\tcluster\n" + "".join(lines), encoding="utf-8")
    reading = replace(read_with(store), groups=tmp_path / "groups.tsv")
    report = train(table, tmp_path / "classifier", QUICK, reading)
    assert {name for names in report.split.groups.values() for name in names} == {
        f"{label}cluster{number}" for label in ("host", "virus") for number in range(5)
    }


def test_label_file_with_an_unknown_sample_is_refused(tmp_path: Path, table: Path, store: Store) -> None:
    (tmp_path / "labels.tsv").write_text("sample\tlabel\nnobody\tvirus\n", encoding="utf-8")
    with pytest.raises(InputError, match="nobody"):
        train(table, tmp_path / "classifier", QUICK, replace(read_with(store), labels=tmp_path / "labels.tsv"))
    assert not (tmp_path / "classifier").exists()


def one_class(samples: Samples) -> Samples:
    return replace(samples, labels=Categories.of(["virus"] * len(samples)))


def test_what_cannot_be_trained_on_is_refused_and_nothing_is_written(
    tmp_path: Path, features: Features, store: Store
) -> None:
    with pytest.raises(InputError, match="two classes"):
        train(one_class(features.samples), tmp_path / "classifier", QUICK, read_with_stored(store))
    with pytest.raises(InputError, match="--models"):
        train(features.samples, tmp_path / "classifier", QUICK)
    with pytest.raises(InputError, match="not finite"):
        train(with_nan(features), tmp_path / "classifier", QUICK)
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
        train(features, tmp_path / "mine", QUICK)
    quick = replace(QUICK, max_epochs=1)
    for seed in (1, 2):
        train(features, tmp_path / "classifier", replace(quick, seed=seed))
    assert load_classifier(tmp_path / "classifier").about["options"]["seed"] == 2


def test_models_with_a_merged_file_are_refused(tmp_path: Path, features: Features, store: Store) -> None:
    with pytest.raises(InputError, match="Leave out --models"):
        train(features, tmp_path / "classifier", QUICK, read_with_stored(store))


def test_loss_that_is_never_finite_is_refused(features: Features) -> None:
    with pytest.raises(InputError, match="Choose a lower learning rate"):
        fitted(features, replace(QUICK, learning_rate=1e38))
