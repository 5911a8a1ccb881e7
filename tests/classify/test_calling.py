"""What is called the class that is looked for: a least score, a bound on false calls, a prevalence; its sequences."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_genomes import write_genomes

from embedstore.classify.calibration import SequenceCalibration
from embedstore.classify.calling import Calling
from embedstore.classify.prediction import PredictOptions, PredictReport, predict
from embedstore.classify.training import TrainReport
from embedstore.errors import InputError
from embedstore.library import Store, open_store


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


@pytest.fixture(scope="module")
def genomes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three viruses and three hosts, in a file as people have them: wrapped, lower case, with a twin and a stump."""
    folder = tmp_path_factory.mktemp("to_call")
    for label in ("virus", "host"):
        write_genomes(folder / label, label, genomes=3, seed=7)
    texts = [path.read_text(encoding="ascii") for path in sorted(folder.rglob("*.fna"))]
    first = texts[-1].splitlines()[1]
    wrapped = "\n".join(first[start : start + 70].lower() for start in range(0, len(first), 70))
    (folder / "all.fna").write_text("".join(texts) + f">short\nACGT\n>virus2_contig again\n{wrapped}\n", "ascii")
    return folder / "all.fna"


@pytest.fixture(scope="module")
def filled(genomes: Path, report: TrainReport, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with the vectors of all of them."""
    place = tmp_path_factory.mktemp("filled")
    store = open_store(place / "store", create=True)
    predict([genomes], report.output, place / "out", store=store)
    return store


def test_a_least_score_leaves_the_likely_ones_below_it_uncalled(
    tmp_path: Path, genomes: Path, report: TrainReport, filled: Store
) -> None:
    # With a small scale the scores are less certain, and differ.
    classifier = replace(report.classifier, sequences=SequenceCalibration(-3.0, 0.0, (0.0, 0.0), 100))
    plain = predict([genomes], classifier, tmp_path / "plain", store=filled)
    scores = {row["source"]: row for row in rows(tmp_path / "plain" / "contigs.tsv")}
    of_viruses = sorted(float(row["score_virus"]) for row in scores.values() if row["call"] == "virus")
    least = (of_viruses[0] + of_viruses[1]) / 2
    assert of_viruses[0] < least < of_viruses[1]
    assert plain.called.threshold is None
    strict = predict([genomes], classifier, tmp_path / "strict", store=filled, options=PredictOptions(min_score=least))
    for row in rows(tmp_path / "strict" / "contigs.tsv"):
        before = scores[row["source"]]
        if before["call"] == "virus" and float(row["score_virus"]) < least:
            assert (row["call"], row["confidence"]) == ("uncalled", "")
        else:
            assert row == before
    assert strict.tally.contigs["uncalled"] == 1
    assert strict.to_json()["calling"] == {
        "positive": "virus",
        "min_score": least,
        "fdr": None,
        "prevalence": None,
        "threshold": least,
        "sequences": len(of_viruses) - 1,
        "expected_false_share": pytest.approx(1 - np.mean(of_viruses[1:]), abs=1e-5),
    }
    # A score that a host reaches makes it a virus.
    lenient = predict([genomes], classifier, tmp_path / "low", store=filled, options=PredictOptions(min_score=0.0))
    assert lenient.tally.contigs == {"virus": 7, "shorter than the minimal length": 1}
    with pytest.raises(InputError, match="expected min_score between 0 and 1, found 90"):
        predict([genomes], classifier, tmp_path / "no", store=filled, options=PredictOptions(min_score=90))


@given(
    st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.75, 0.9, 0.97, 1.0]) | st.floats(0, 1), min_size=1, max_size=30),
    st.floats(0, 1),
)
def test_as_many_are_called_as_the_bound_on_false_ones_allows(scores: list[float], fdr: float) -> None:
    threshold = Calling(1, fdr=fdr).threshold(np.array(scores))
    assert threshold is not None
    called = [score for score in scores if score >= threshold]
    assert sum(1 - score for score in called) <= fdr * len(called) + 1e-9
    more = [one for one in sorted(set(scores)) if one < threshold]
    for least in more:
        wider = [score for score in scores if score >= least]
        assert sum(1 - score for score in wider) > fdr * len(wider) - 1e-9


def test_a_false_discovery_rate_calls_from_the_highest_score_down() -> None:
    scores = np.array([0.5, 0.99, 0.9, 0.7, 0.95])
    found = [Calling(1, fdr=fdr).threshold(scores) for fdr in (0.004, 0.011, 0.0301, 0.055, 0.12, 0.2)]
    assert found == [np.inf, 0.99, 0.95, 0.9, 0.7, 0.5]  # means of 1 - p: 0.01, 0.03, 0.053, 0.115, 0.192
    assert Calling(1, fdr=0.2, min_score=0.92).threshold(scores) == 0.92
    assert Calling(1, fdr=0.2).threshold(np.empty(0)) == np.inf


def test_scores_move_to_a_prevalence_by_the_rule_of_bayes(
    tmp_path: Path, genomes: Path, report: TrainReport, filled: Store
) -> None:
    options = PredictOptions(prevalence=0.02)
    predict([genomes], report.output, tmp_path / "even", store=filled)
    predict([genomes], report.output, tmp_path / "rare", store=filled, options=options)
    pairs = zip(rows(tmp_path / "even" / "contigs.tsv"), rows(tmp_path / "rare" / "contigs.tsv"), strict=True)
    for even, rare in pairs:
        if even["score_virus"]:
            p = float(even["score_virus"])
            assert float(rare["score_virus"]) == pytest.approx(0.02 * p / (0.02 * p + 0.98 * (1 - p)), abs=1e-5)
            assert float(rare["score_virus"]) + float(rare["score_host"]) == pytest.approx(1, abs=2e-6)
    samples = [(tmp_path / name / "predictions.tsv").read_bytes() for name in ("even", "rare")]
    assert samples[0] == samples[1]
    of_three = Calling(2, prevalence=0.1).moved(np.array([0.3, 0.3, 0.4]))
    assert of_three == pytest.approx([0.135 / 0.31, 0.135 / 0.31, 0.04 / 0.31])  # 0.3 · 0.45 and 0.4 · 0.1
    assert Calling(2, prevalence=1 / 3).moved(np.array([0.3, 0.3, 0.4])) == pytest.approx([0.3, 0.3, 0.4])
    with pytest.raises(InputError, match="expected a prevalence above 0 and below 1, found 1"):
        Calling(1, prevalence=1.0)


def test_called_sequences_are_written_as_they_were_read(
    tmp_path: Path, genomes: Path, report: TrainReport, filled: Store
) -> None:
    options = PredictOptions(write_called=True)
    predict([genomes], report.output, tmp_path / "out", store=filled, options=options)
    called = [row["source"] for row in rows(tmp_path / "out" / "contigs.tsv") if row["call"] == "virus"]
    assert called == ["virus0_contig", "virus1_contig", "virus2_contig", "virus2_contig~2"]
    records = genomes.read_text("ascii").split(">")
    expected = [one for one in records if one.startswith("virus")]
    expected[-1] = expected[-1].replace("virus2_contig again", "virus2_contig")
    assert (tmp_path / "out" / "called.fna").read_text("ascii") == "".join(f">{one}" for one in expected)
    # Without the option a file of an earlier run does not stay beside the new tables.
    predict([genomes], report.output, tmp_path / "out", store=filled)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"predictions.tsv", "contigs.tsv", "predict.json"}


def predicted_with(tmp_path: Path, genomes: Path, store: Store, classifier: Any, **options: Any) -> PredictReport:
    return predict([genomes], classifier, tmp_path / "out", store=store, options=PredictOptions(**options))


def test_what_a_classifier_cannot_answer_is_refused_before_any_work(
    tmp_path: Path, genomes: Path, report: TrainReport, filled: Store
) -> None:
    classifier = report.classifier
    with pytest.raises(InputError, match="not calibrated"):
        predicted_with(tmp_path, genomes, filled, replace(classifier, sequences=None), fdr=0.1)
    with pytest.raises(InputError, match="expected one of host, virus"):
        predicted_with(tmp_path, genomes, filled, classifier, positive="phage")
    unbalanced = replace(classifier, about={"options": {"balance_classes": False}})
    with pytest.raises(InputError, match="expected one whose classes count alike"):
        predicted_with(tmp_path, genomes, filled, unbalanced, prevalence=0.1)
    others = replace(classifier, schema=replace(classifier.schema, labels=("archaea", "bacteria")))
    for wanted in ({"fdr": 0.1}, {"min_score": 0.9}, {"write_called": True}, {"track": True}):
        with pytest.raises(InputError, match="expected one of archaea, bacteria as the positive class"):
            predicted_with(tmp_path, genomes, filled, others, **wanted)
    assert not (tmp_path / "out").exists()
    named = predicted_with(tmp_path, genomes, filled, others, fdr=0.2, positive="bacteria")
    assert json.loads((tmp_path / "out" / "predict.json").read_text())["calling"]["positive"] == "bacteria"
    assert named.called.sequences == named.tally.contigs["bacteria"] > 0
