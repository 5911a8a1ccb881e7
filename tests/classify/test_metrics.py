"""Metrics are scikit-learn's, from one confusion matrix, for any weights."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from embedstore.classify.metrics import Measures, called

LABELS = {2: ("host", "virus"), 3: ("host", "phage", "virus")}


def scored(classes: int, count: int = 400, seed: int = 1) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels and scores that are better than chance, with ties."""
    generator = np.random.default_rng(seed)
    y = generator.choice(classes, count, p=[0.7, 0.3] if classes == 2 else [0.5, 0.3, 0.2])
    logits = generator.normal(0, 1, (count, classes)) + 1.2 * np.eye(classes)[y]
    scores = np.exp(logits.round(1))
    return y, scores / scores.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_equal_scikit_learns(classes: int, weighted: bool) -> None:
    y, scores = scored(classes)
    weights = np.random.default_rng(2).integers(0, 3, len(y)).astype(float) if weighted else np.ones(len(y))
    calls, truth = called(scores), np.eye(classes)[y]
    found = Measures(y, scores, LABELS[classes]).at(weights)
    kept = {"sample_weight": weights}
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(y, calls, **kept))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(y, calls, **kept))
    assert found["mcc"] == pytest.approx(metrics.matthews_corrcoef(y, calls, **kept))
    for name, function in {
        "precision": metrics.precision_score,
        "recall": metrics.recall_score,
        "f1": metrics.f1_score,
    }.items():
        assert found[name] == pytest.approx(function(y, calls, average="macro", **kept))
        each = function(y, calls, average=None, **kept)
        assert [one[name] for one in found["classes"].values()] == pytest.approx(each)
    for place, label in enumerate(LABELS[classes]):
        one = found["classes"][label]
        assert one["auroc"] == pytest.approx(metrics.roc_auc_score(truth[:, place], scores[:, place], **kept))
        precision = metrics.average_precision_score(truth[:, place], scores[:, place], **kept)
        assert one["auprc"] == pytest.approx(precision)
    assert found["auroc"] == pytest.approx(np.mean([one["auroc"] for one in found["classes"].values()]))
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(y, scores if classes > 2 else scores[:, 1], **kept))


def test_weights_are_repetitions() -> None:
    y, scores = scored(3)
    times = np.random.default_rng(5).integers(0, 4, len(y))
    repeated = Measures(np.repeat(y, times), np.repeat(scores, times, axis=0), LABELS[3]).at()
    weighted = Measures(y, scores, LABELS[3]).at(times.astype(float))
    assert repeated["ece"] == pytest.approx(weighted["ece"])
    for name, value in repeated["classes"]["virus"].items():
        assert value == pytest.approx(weighted["classes"]["virus"][name])


def test_recall_at_precision_is_the_best_threshold() -> None:
    y, scores = scored(2)
    found = Measures(y, scores, LABELS[2]).at()["classes"]["virus"]["recall_at_precision"]
    precision, recall, _ = metrics.precision_recall_curve(y, scores[:, 1])
    for wanted, value in found.items():
        assert value == pytest.approx(recall[:-1][precision[:-1] >= float(wanted)].max(initial=0.0))


def test_precision_at_prevalence_follows_bayes() -> None:
    y, scores = scored(2)
    found = Measures(y, scores, LABELS[2]).at()["classes"]["virus"]
    calls = called(scores)
    recall, false_alarms = (calls[y == 1] == 1).mean(), (calls[y == 0] == 1).mean()
    for prevalence in (0.01, 0.1, 0.5):
        expected = prevalence * recall / (prevalence * recall + (1 - prevalence) * false_alarms)
        assert found["precision_at_prevalence"][str(prevalence)] == pytest.approx(expected)


def test_ece_of_right_and_of_wrong_certainty() -> None:
    y = np.array([0, 1] * 50)
    sure = np.eye(2)[y]
    assert Measures(y, sure, LABELS[2]).at()["ece"] == 0
    assert Measures(1 - y, sure, LABELS[2]).at()["ece"] == 1


def test_class_without_samples_has_no_recall() -> None:
    y = np.zeros(10, np.int64)
    found = Measures(y, np.tile([0.6, 0.4], (10, 1)), LABELS[2]).at()
    assert np.isnan(found["classes"]["virus"]["recall"])
    assert np.isnan(found["auroc"])
    assert found["accuracy"] == 1


def test_the_positive_class_has_its_own_numbers() -> None:
    y, scores = scored(2)
    measures = Measures(y, scores, LABELS[2])
    found, of_class = measures.of_positive(1), measures.at()["classes"]["virus"]
    calls = called(scores)
    assert found["base_rate"] == pytest.approx((y == 1).mean())
    assert found["false_positive_rate"] == pytest.approx((calls[y == 0] == 1).mean())
    assert {name: found[name] for name in ("auroc", "auprc", "recall")} == {
        name: of_class[name] for name in ("auroc", "auprc", "recall")
    }
