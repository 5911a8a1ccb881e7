"""What samples do not show is said: the share of chunks that is seen, and the recall of all contigs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_genomes import MODELS, QUICK, prepared, read_with

from embedstore.classify.evaluation import evaluate
from embedstore.classify.heads import TrainOptions
from embedstore.classify.training import TrainReport, train
from embedstore.errors import InputError
from embedstore.features import load_samples, merge
from embedstore.library import open_store
from embedstore.samples import PrepareOptions, prepare
from embedstore_cli.main import main

CLOSED = "TAATTAATTAACTAACTAG"


@pytest.fixture(scope="module")
def half_seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten genomes of each class; of virus the second half has no open frame, and a contig of each host has none."""
    folder = tmp_path_factory.mktemp("half_seen")
    prepared(folder)
    for number in range(10):
        virus, host = folder / "virus" / f"virus{number}.fna", folder / "host" / f"host{number}.fna"
        header, dna = virus.read_text(encoding="ascii").split()
        virus.write_text(f"{header}\n{dna}{CLOSED * 237}\n", encoding="ascii")
        with host.open("a", encoding="ascii") as file:
            file.write(f">host{number}_closed\n{CLOSED * 50}\n")
    inputs = [f"{label}={folder / label}" for label in ("host", "virus")]
    prepare(inputs, folder / "samples", PrepareOptions(length_bases=300))
    return folder


@pytest.fixture(scope="module")
def half_report(half_seen: Path) -> TrainReport:
    store = open_store(half_seen / "store", create=True)
    return train(
        half_seen / "samples" / "samples.tsv",
        half_seen / "classifier",
        options=TrainOptions(folds=2, strength=1.0),
        reading=read_with(store),
    )


def by_length(metrics: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    assert metrics["contigs"]
    for part in metrics["contigs"]:
        yield part["length_bases"], part


def check_counts(metrics: dict[str, Any]) -> None:
    """Every host has 4500 bases and 950 that are closed, every virus 4500 and 4503 that are closed."""
    for length, part in by_length(metrics):
        hosts = 10 * ((4500 + 150) // length + (950 + 150) // length)
        in_all = {"host": hosts, "virus": 10 * ((9003 + 150) // length)}
        of_all = part["of_all"]
        assert {label: one["fragments"] for label, one in of_all["by_label"].items()} == in_all
        assert of_all["fragments"] == sum(in_all.values())
        assert part["fragments"] / of_all["fragments"] <= of_all["share_with_sample"] < 1
        assert of_all["positive"]["recall"] == of_all["by_label"]["virus"]["recall"]
        assert of_all["recall"] == pytest.approx(np.mean([one["recall"] for one in of_all["by_label"].values()]))


def test_training_gives_recall_of_all_fragments(half_report: TrainReport) -> None:
    check_counts(half_report.evaluation)
    parts = dict(by_length(half_report.evaluation))
    assert set(parts) == {500, 1000, 3000}
    assert parts[500]["of_all"]["by_label"]["virus"]["recall"] < 0.7 * parts[500]["positive"]["recall"]


def test_training_states_what_is_seen(half_report: TrainReport, half_seen: Path) -> None:
    seen = half_report.evaluation["seen"]
    sources = json.loads((half_seen / "samples" / "prepare.json").read_text())["sources"].values()
    assert seen["chunks"] == sum(source["chunks"] for source in sources)
    assert seen["chunks_seen"] == sum(source["chunks"] - sum(source["dropped"].values()) for source in sources)
    assert (seen["sources"], seen["sources_without_sample"]) == (30, 10)
    assert [part["label"] for part in seen["by_label"]] == ["host", "virus"]
    assert len(seen["by_group"]) == 20


def test_with_a_test_part_only_its_genomes_are_counted(half_seen: Path, tmp_path: Path) -> None:
    store = open_store(half_seen / "store", create=True)
    table = half_seen / "samples" / "samples.tsv"
    report = train(table, tmp_path / "classifier", options=replace(QUICK, strength=1.0), reading=read_with(store))
    groups = report.split.groups["test"]
    seen = report.evaluation["seen"]
    assert sorted(part["group"] for part in seen["by_group"]) == sorted(groups)
    hosts = sum(name.startswith("host") for name in groups)
    assert seen["sources"] == len(groups) + hosts
    assert seen["sources_without_sample"] == hosts


def test_evaluation_gives_recall_of_all_and_the_page_says_what_is_not_seen(
    half_report: TrainReport, half_seen: Path, tmp_path: Path
) -> None:
    store = open_store(half_seen / "store", create=True)
    table = half_seen / "samples" / "samples.tsv"
    found = evaluate(table, half_report.output, tmp_path / "evaluation", reading=read_with(store))
    check_counts(found.metrics)
    assert found.metrics["seen"] == half_report.evaluation["seen"]
    page = (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
    for text in ("What is not seen", "recall of all", "with an open frame", "virus3"):
        assert text in page


def test_recall_of_all_is_that_of_each_fragment_counted_by_itself(half_report: TrainReport, half_seen: Path) -> None:
    store = open_store(half_seen / "store")
    features = merge(half_seen / "samples" / "samples.tsv", MODELS, store=store)
    classifier, samples = half_report.classifier, features.samples
    assert classifier.sequences is not None
    logits = classifier.head.logits(features.rows()).astype(np.float64)
    middles, sources = (samples.start + samples.end) // 2 - 1, samples.sources.texts()
    metrics = evaluate(half_seen / "samples" / "samples.tsv", classifier, reading=read_with(store)).metrics
    cut = json.loads((half_seen / "samples" / "prepare.json").read_text())["sources"]
    for length, part in by_length(metrics):
        right, with_sample = {"host": 0, "virus": 0}, 0
        for name, facts in cut.items():
            for start in range(0, facts["length"] + 150 - length + 1, length):
                own = logits[(sources == name) & (middles >= start) & (middles < start + length)]
                with_sample += bool(len(own))
                if len(own):
                    scores = classifier.sequences.probabilities(own.mean(axis=0)[None], np.array([len(own)]))
                    right[facts["label"]] += classifier.labels[int(scores.argmax())] == facts["label"]
        of_all = part["of_all"]
        assert of_all["share_with_sample"] == with_sample / of_all["fragments"]
        for label, one in of_all["by_label"].items():
            assert one["recall"] == right[label] / one["fragments"]


def test_what_nobody_stated_is_not_known_and_no_error(
    half_report: TrainReport, half_seen: Path, tmp_path: Path
) -> None:
    store = open_store(half_seen / "store", create=True)
    samples = load_samples(half_seen / "samples" / "samples.tsv")
    features = merge(samples, MODELS, store=store)
    metrics = evaluate(features, half_report.output, tmp_path / "out").metrics
    assert metrics["seen"] is None
    assert "prepare.json" in metrics["seen_unknown"]
    assert all(part["of_all"] is None for _, part in by_length(metrics))
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Not known here: only a table of samples has prepare.json beside it." in page


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [('"group": ', '"grouping": ', "names the groups"), ('"length": 9003', '"length": 500', "of other samples")],
)
def test_prepare_json_of_something_else_is_not_used(
    half_report: TrainReport, half_seen: Path, tmp_path: Path, old: str, new: str, why: str
) -> None:
    shutil.copytree(half_seen / "samples", tmp_path / "samples")
    path = tmp_path / "samples" / "prepare.json"
    head, lines = path.read_text().split(' "sources": {')
    path.write_text(f'{head} "sources": {{{lines.replace(old, new)}')
    store = open_store(half_seen / "store", create=True)
    metrics = evaluate(tmp_path / "samples" / "samples.tsv", half_report.output, reading=read_with(store)).metrics
    assert metrics["seen"] is None
    assert why in metrics["seen_unknown"]


def test_a_damaged_prepare_json_is_refused(half_report: TrainReport, half_seen: Path, tmp_path: Path) -> None:
    shutil.copytree(half_seen / "samples", tmp_path / "samples")
    path = tmp_path / "samples" / "prepare.json"
    path.write_text(path.read_text().replace('"length": 9003', '"length": null'))
    store = open_store(half_seen / "store", create=True)
    with pytest.raises(InputError, match=r"Cannot read .*prepare\.json: length: expected int"):
        evaluate(tmp_path / "samples" / "samples.tsv", half_report.output, reading=read_with(store))


def test_commands_state_what_is_seen(
    half_report: TrainReport, half_seen: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, store = half_seen / "samples" / "samples.tsv", half_seen / "store"
    code = main(["evaluate", str(table), "-c", str(half_report.output), "--store", str(store)])
    told = " ".join(capsys.readouterr().out.split())
    assert code == 0
    assert "of the chunks have an open frame; 10 of 30 sequences have none" in told, told
    assert "of all, " in told
