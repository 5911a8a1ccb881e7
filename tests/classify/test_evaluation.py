"""Evaluation: the schema is compared first, unlabelled samples are counted, and the numbers can be checked."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics
from small_genomes import MODELS, prepared, read_with

from embedstore.classify.blocks import Reading
from embedstore.classify.classifier import Classifier
from embedstore.classify.evaluation import evaluate
from embedstore.classify.training import TrainReport
from embedstore.errors import InputError, MissingEmbeddingError, SchemaError
from embedstore.features import Features, merge
from embedstore.library import Store, open_store
from embedstore_cli.main import main


def test_numbers_are_scikit_learns_on_the_written_scores(
    tmp_path: Path, table: Path, report: TrainReport, store: Store
) -> None:
    found = evaluate(table, report.output, tmp_path / "out", reading=Reading(store)).metrics
    with (tmp_path / "out" / "scores.tsv").open(encoding="utf-8", newline="") as stream:
        written = list(csv.DictReader(stream, delimiter="\t"))
    truth = np.array([row["label"] == "virus" for row in written])
    scores = np.array([float(row["score_virus"]) for row in written])
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(truth, scores))
    assert found["confusion"] == metrics.confusion_matrix(truth, scores > 0.5).tolist()
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert document["auroc"] == found["auroc"]
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8").count("<svg") == 6


def test_test_groups_alone_give_the_numbers_of_training(
    tmp_path: Path, features: Features, report: TrainReport
) -> None:
    names = features.groups.names.tolist()
    test = [name in report.split.groups["test"] for name in names]
    labels = [
        f"{name}\t{name.rstrip('0123456789') if is_test else ''}\n" for name, is_test in zip(names, test, strict=True)
    ]
    (tmp_path / "labels.tsv").write_text("group\tlabel\n" + "".join(labels), encoding="utf-8")
    found = evaluate(features, report.classifier, reading=Reading(labels=tmp_path / "labels.tsv")).metrics
    assert found["groups_seen_in_training"] == []
    assert found["unlabelled"] == len(features) - found["samples"]
    assert found["auroc"] == pytest.approx(report.evaluation["auroc"])
    assert found["confusion"] == report.evaluation["confusion"]


def test_groups_that_training_used_are_named(features: Features, report: TrainReport) -> None:
    seen = evaluate(features, report.classifier).metrics["groups_seen_in_training"]
    used = {name for part, names in report.split.groups.items() if part != "test" for name in names}
    assert set(seen) == used


def test_missing_vectors_are_an_error_or_filled(tmp_path: Path, table: Path, report: TrainReport) -> None:
    store = open_store(tmp_path / "store", create=True)
    with pytest.raises(MissingEmbeddingError):
        evaluate(table, report.output, reading=Reading(store))
    assert evaluate(table, report.output, reading=Reading(store, fill=True)).metrics["samples"] > 0


def test_features_of_another_length_are_refused_with_both(tmp_path: Path, report: TrainReport) -> None:
    table = prepared(tmp_path, length_bases=500)
    store = open_store(tmp_path / "store", create=True)
    with pytest.raises(SchemaError, match="chunk length: expected 300, found 500"):
        evaluate(table, report.output, tmp_path / "out", reading=Reading(store, fill=True))
    assert store.spaces() == []
    assert not (tmp_path / "out").exists()


def test_swapped_blocks_are_refused_with_both(tmp_path: Path, table: Path, report: TrainReport, store: Store) -> None:
    merge(table, MODELS[::-1], tmp_path / "swapped.h5", store=store)
    with pytest.raises(SchemaError, match=r"order of blocks: expected tnf .*, found aac_dpc"):
        evaluate(tmp_path / "swapped.h5", report.output)
    with pytest.raises(SchemaError, match=r"order of blocks: expected tnf .*, found aac_dpc"):
        evaluate(table, report.output, reading=replace(read_with(store), models=MODELS[::-1]))


def with_schema(classifier: Classifier, **changes: Any) -> Classifier:
    return replace(classifier, schema=replace(classifier.schema, **changes))


def test_labels_that_the_classifier_does_not_know_are_refused(features: Features, report: TrainReport) -> None:
    classifier = with_schema(report.classifier, labels=("host", "phage"))
    with pytest.raises(SchemaError, match="expected host, phage, found virus"):
        evaluate(features, classifier)


def test_order_of_labels_is_the_classifiers(features: Features, report: TrainReport) -> None:
    swapped = evaluate(features, with_schema(report.classifier, labels=("virus", "host"))).metrics
    straight = evaluate(features, report.classifier).metrics
    assert swapped["auroc"] == pytest.approx(1 - straight["auroc"])


def test_label_file_with_an_unknown_sample_is_refused(tmp_path: Path, features: Features, report: TrainReport) -> None:
    (tmp_path / "labels.tsv").write_text("sample\tlabel\nnobody\tvirus\n", encoding="utf-8")
    with pytest.raises(InputError, match="nobody"):
        evaluate(features, report.classifier, reading=Reading(labels=tmp_path / "labels.tsv"))


def test_no_labelled_sample_is_refused(tmp_path: Path, features: Features, report: TrainReport) -> None:
    lines = "".join(f"{name}\t\n" for name in features.groups.names.tolist())
    (tmp_path / "labels.tsv").write_text(f"group\tlabel\n{lines}", encoding="utf-8")
    with pytest.raises(InputError, match="expected labelled samples, found none"):
        evaluate(features, report.classifier, tmp_path / "out", reading=Reading(labels=tmp_path / "labels.tsv"))
    assert not (tmp_path / "out").exists()


def test_other_folder_is_not_overwritten(tmp_path: Path, features: Features, report: TrainReport) -> None:
    (tmp_path / "notes.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(InputError, match="something else is there"):
        evaluate(features, report.classifier, output=tmp_path)


def test_one_class_is_enough_and_what_is_not_defined_is_none(
    tmp_path: Path, place: Path, table: Path, features: Features, report: TrainReport
) -> None:
    lines = "".join(
        f"{name}\t{'virus' if name.startswith('virus') else ''}\n" for name in features.groups.names.tolist()
    )
    (tmp_path / "labels.tsv").write_text(f"group\tlabel\n{lines}", encoding="utf-8")
    found = evaluate(
        features, report.classifier, tmp_path / "out", reading=Reading(labels=tmp_path / "labels.tsv")
    ).metrics
    assert found["auroc"] is None
    assert found["classes"]["host"]["recall"] is None
    assert found["classes"]["virus"]["recall"] == found["accuracy"]
    json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    store = ["--store", str(place / "store"), "--labels", str(tmp_path / "labels.tsv")]
    assert main(["evaluate", str(table), "-c", str(report.output), *store]) == 0
