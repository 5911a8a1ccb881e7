"""What a classifier was made from is known by sequence, whatever it is called; and what cannot be said is said so."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_genomes import write_genomes
from test_relatives import mutated

from embedstore.classify.blocks import Reading
from embedstore.classify.classifier import load_classifier, save_classifier
from embedstore.classify.evaluation import evaluate
from embedstore.classify.known import SKETCHES_NAME
from embedstore.classify.prediction import predict
from embedstore.classify.relatives import sketch_samples
from embedstore.classify.training import TrainReport
from embedstore.errors import WeightsError
from embedstore.features import Features, load_samples
from embedstore.library import Store
from embedstore.samples import PrepareOptions, prepare
from embedstore_cli.main import main


@pytest.fixture(scope="module")
def trained_on(report: TrainReport) -> list[str]:
    """Groups that made the classifier, without those of the test part."""
    return [name for part in report.split.folds for name in report.split.groups[part]]


@pytest.fixture(scope="module")
def others(place: Path, trained_on: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Genomes under new names: strains of two that made the classifier, and new ones."""
    folder = tmp_path_factory.mktemp("others")
    for label in ("host", "virus"):
        write_genomes(folder / label, label, genomes=2, seed=7)
        for file in sorted((folder / label).iterdir()):
            file.rename(file.with_name(f"new_{file.name}"))
        name = next(name for name in trained_on if name.startswith(label))
        mutated(place / label / f"{name}.fna", folder / label / f"strain_of_{name}.fna", 0.02)
        file = folder / label / f"strain_of_{name}.fna"
        file.write_text(file.read_text(encoding="ascii").replace(f">{name}_contig_twin", f">strain_{label}"))
    inputs = [f"{label}={folder / label}" for label in ("host", "virus")]
    prepare(inputs, folder / "samples", PrepareOptions(length_bases=300))
    return folder


def test_the_folder_has_the_sketches_of_the_groups_that_were_trained_on(
    report: TrainReport, trained_on: list[str]
) -> None:
    document = json.loads((report.output / "classifier.json").read_text(encoding="utf-8"))
    assert document["sketches"]["groups"] == sorted(trained_on)
    assert document["sketches"]["kinds"] == {"dna": {"k": 21}, "residues": {"k": 10}}
    loaded = load_classifier(report.output)
    assert loaded.recall is not None
    known = loaded.recall()
    assert report.classifier.recall is not None
    for one, other in zip(known.sketches, report.classifier.recall().sketches, strict=True):
        assert np.array_equal(one.hashes, other.hashes)
        assert one.names == other.names == tuple(sorted(trained_on))


def test_evaluate_says_which_sources_are_known_by_sequence(
    report: TrainReport, others: Path, store: Store, tmp_path: Path
) -> None:
    notes = list[str]()
    reading = Reading(store, fill=True, on_note=notes.append)
    evaluation = evaluate(others / "samples" / "samples.tsv", report.output, tmp_path / "out", reading=reading)
    known = evaluation.metrics["known_by_sequence"]
    assert evaluation.metrics["groups_seen_in_training"] == []
    assert notes == ["the classifier knows 2 of 6 sources by sequence"]
    assert (known["looked_at"], known["known"]) == (6, 2)
    assert [one["source"] for one in known["named"]] == ["strain_host", "strain_virus"]
    assert all(f"strain_of_{one['group']}" for one in known["named"])
    assert [one["label"] for one in known["named"]] == ["host", "virus"]
    assert all(0.4 < one["of_dna"] < 0.9 for one in known["named"])
    assert known["of_the_others"]["groups"] == 4
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert document["known_by_sequence"] == known
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Of 6 sources the classifier knows 2 by sequence." in page


def test_samples_that_were_trained_on_are_known_and_those_of_the_test_part_are_not(
    report: TrainReport, table: Path, store: Store, trained_on: list[str]
) -> None:
    known = evaluate(table, report.output, reading=Reading(store)).metrics["known_by_sequence"]
    assert {one["group"] for one in known["named"]} == set(trained_on)
    assert known["known"] == len(trained_on) < known["looked_at"]


def test_of_features_it_is_said_that_nothing_is_known(report: TrainReport, features: Features, tmp_path: Path) -> None:
    notes = list[str]()
    evaluation = evaluate(features, report.output, tmp_path / "out", reading=Reading(on_note=notes.append))
    known = evaluation.metrics["known_by_sequence"]
    assert known["looked_at"] == 0
    assert "are not beside them" in known["why"]
    assert notes == [f"whether the classifier knows the sequences is not known: {known['why']}"]
    assert "Not looked at: the sequences" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_predict_says_what_each_known_sequence_is_known_as(
    report: TrainReport, others: Path, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = [others / "host", others / "virus"]
    found = predict(inputs, report.output, tmp_path / "out", store=store)
    with (tmp_path / "out" / "contigs.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    known = {row["source"]: row["known_as"] for row in rows if row["known_as"]}
    assert set(known) == {"strain_host", "strain_virus"}
    assert {f"strain_of_{name}.fna" for name in known.values()} == {
        file.name for folder in inputs for file in folder.glob("strain_of_*")
    }
    assert found.tally.known == 2
    document = json.loads((tmp_path / "out" / "predict.json").read_text(encoding="utf-8"))
    assert document["sequences_known"] == 2
    arguments = ["predict", *map(str, inputs), "-c", str(report.output), "-s", str(store.location)]
    assert main([*arguments, "-o", str(tmp_path / "again")]) == 0
    assert "known to the classifier by sequence" in capsys.readouterr().out


def test_a_folder_without_sketches_is_read_and_its_tables_are_as_before(
    report: TrainReport, others: Path, store: Store, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(report.output, old)
    (old / SKETCHES_NAME).unlink()
    assert load_classifier(old).recall is None
    found = predict([others / "host"], old, tmp_path / "out", store=store)
    header = (tmp_path / "out" / "contigs.tsv").read_text(encoding="utf-8").split("\n")[0]
    assert header.endswith("\tconfidence")
    assert found.to_json()["sequences_known"] is None
    known = evaluate(others / "samples" / "samples.tsv", old, reading=Reading(store, fill=True)).metrics
    assert known["known_by_sequence"]["why"] == "the classifier has no sketches of what it was made from"


def test_damaged_sketches_are_refused_when_they_are_asked_for(
    report: TrainReport, others: Path, store: Store, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(report.output, damaged)
    content = bytearray((damaged / SKETCHES_NAME).read_bytes())
    content[-3] ^= 1
    (damaged / SKETCHES_NAME).write_bytes(content)
    loaded = load_classifier(damaged)
    for use in (
        lambda: evaluate(others / "samples" / "samples.tsv", loaded, reading=Reading(store, fill=True)),
        lambda: predict([others / "host"], loaded, tmp_path / "out", store=store),
    ):
        with pytest.raises(WeightsError, match="is damaged, or of another classifier: expected SHA-256"):
            use()
    document = json.loads((report.output / "classifier.json").read_text(encoding="utf-8"))
    for change in ({"groups": ["a"]}, {"labels": None}, {"kinds": {"dna": {"k": 31}}}, {"kinds": {}}):
        shutil.copy(report.output / SKETCHES_NAME, damaged)
        stated = {**document, "sketches": {**document["sketches"], **change}}
        (damaged / "classifier.json").write_text(json.dumps(stated), encoding="utf-8")
        recall = load_classifier(damaged).recall
        assert recall is not None
        with pytest.raises(WeightsError, match="Cannot use"):
            recall()


def test_a_classifier_that_is_written_again_keeps_its_sketches(report: TrainReport, tmp_path: Path) -> None:
    save_classifier(load_classifier(report.output), tmp_path / "again")
    assert (tmp_path / "again" / SKETCHES_NAME).read_bytes() == (report.output / SKETCHES_NAME).read_bytes()


def test_the_sketches_do_not_depend_on_the_order_of_the_sequences(table: Path, tmp_path: Path) -> None:
    records = (table.parent / "dna.fna").read_text(encoding="ascii").split(">")[1:]
    (tmp_path / "dna.fna").write_text("".join(f">{record}" for record in reversed(records)), encoding="ascii")
    samples = load_samples(table)
    (found,) = sketch_samples(samples, samples.groups, tmp_path)
    expected = sketch_samples(samples, samples.groups, table.parent)[0]
    for one, other in ((found.hashes, expected.hashes), (found.starts, expected.starts)):
        assert np.array_equal(one, other)
