"""Prediction: tables of a known form, whatever the batch or the company; resumed after a kill, refused early."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from small_genomes import MODELS, write_genomes

from embedstore.classify import prediction
from embedstore.classify.calibration import Chunks
from embedstore.classify.classifier import Classifier, load_classifier, save_classifier
from embedstore.classify.prediction import PredictOptions, predict
from embedstore.classify.training import TrainReport
from embedstore.errors import InputError, SchemaError
from embedstore.features import Features, Preparation, load_samples, merge
from embedstore.library import Store, open_store
from embedstore.samples import CodeTable

CONTIG_COLUMNS = [
    "source",
    "length",
    "chunks",
    "samples",
    "score_host",
    "score_virus",
    "call",
    "confidence",
    "known_as",
]
SAMPLE_COLUMNS = [
    "sample",
    "source",
    "start",
    "end",
    "strand",
    "frame",
    "score_host",
    "score_virus",
    "call",
]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


@pytest.fixture(scope="module")
def genomes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """New genomes, and sequences that give no sample."""
    folder = tmp_path_factory.mktemp("genomes")
    write_genomes(folder, "virus", genomes=3, seed=7)
    write_genomes(folder, "host", genomes=2, seed=7)
    (folder / "odd.fna").write_text(f">stops\n{'TAATTAATTAACTAACTAG' * 40}\n>short\nACGT\n>unknown\n{'N' * 900}\n")
    return folder


@pytest.fixture(scope="module")
def predicted(genomes: Path, report: TrainReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("predicted")
    store = open_store(place / "store", create=True)
    predict([genomes], report.output, place / "out", store=store)
    return place / "out"


def test_tables_have_the_promised_columns(predicted: Path) -> None:
    assert {path.name for path in predicted.iterdir()} == {"predictions.tsv", "contigs.tsv", "predict.json"}
    samples, contigs = rows(predicted / "predictions.tsv"), rows(predicted / "contigs.tsv")
    assert list(samples[0]) == SAMPLE_COLUMNS
    assert list(contigs[0]) == CONTIG_COLUMNS
    for row in samples:
        scores = {name: float(row[f"score_{name}"]) for name in ("host", "virus")}
        assert sum(scores.values()) == pytest.approx(1, abs=2e-6)
        assert scores[row["call"]] == max(scores.values())


def test_new_genomes_are_called_right(predicted: Path) -> None:
    calls = {row["source"]: row["call"] for row in rows(predicted / "contigs.tsv")}
    assert [calls[f"virus{number}_contig"] for number in range(3)] == ["virus"] * 3
    assert [calls[f"host{number}_contig"] for number in range(2)] == ["host"] * 2


def test_sequences_without_open_frame_are_listed_as_such(predicted: Path) -> None:
    found = {row["source"]: row for row in rows(predicted / "contigs.tsv")}
    assert found["stops"]["call"] == "no open frame"
    assert found["short"]["call"] == "shorter than the minimal length"
    assert found["unknown"]["call"] == "all N"
    for name in ("stops", "short", "unknown"):
        assert (found[name]["samples"], found[name]["score_virus"], found[name]["confidence"]) == ("0", "", "")


def test_contigs_are_calibrated_from_the_mean_logit_of_their_samples(
    tmp_path: Path, place: Path, features: Features, report: TrainReport, store: Store
) -> None:
    predict([place / "virus"], report.output, tmp_path / "out", store=store)
    logits = report.classifier.head.logits(features.rows()).astype(np.float64)
    sources = features.samples.sources.texts()
    assert report.classifier.sequences is not None
    contigs = rows(tmp_path / "out" / "contigs.tsv")
    for contig in contigs:
        own = logits[sources == contig["source"]]
        chunks = features.samples.start[sources == contig["source"]] // 150
        opened = len(set(chunks.tolist()))  # 15 even chunks of 300 bases, frames begin at most two bases apart
        number = np.array([len(own)])
        shares = Chunks(np.array([int(contig["chunks"])]), np.array([opened]))
        expected = report.classifier.sequences.probabilities(own.mean(axis=0)[None], number, shares)[0, 1]
        assert int(contig["samples"]) == len(own)
        assert float(contig["score_virus"]) == pytest.approx(expected, abs=2e-6)
    assert len(contigs) == 10


def test_without_a_calibration_of_sequences_contigs_are_the_means_of_their_samples(
    tmp_path: Path, genomes: Path, predicted: Path, report: TrainReport
) -> None:
    store = open_store(predicted.parent / "store")
    predict([genomes], replace(report.classifier, sequences=None), tmp_path / "out", store=store)
    samples = rows(tmp_path / "out" / "predictions.tsv")
    for contig in rows(tmp_path / "out" / "contigs.tsv"):
        own = [row for row in samples if row["source"] == contig["source"]]
        assert int(contig["samples"]) == len(own)
        if own:
            mean = np.mean([float(row["score_virus"]) for row in own])
            assert float(contig["score_virus"]) == pytest.approx(mean, abs=2e-6)
            agreed = np.mean([row["call"] == contig["call"] for row in own])
            certain = min(agreed, float(contig[f"score_{contig['call']}"]))
            assert float(contig["confidence"]) == pytest.approx(certain, abs=2e-6)


def test_scores_are_those_of_merged_features(tmp_path: Path, table: Path, place: Path, report: TrainReport) -> None:
    store = open_store(place / "store")
    predict([place / "virus"], report.output, tmp_path / "out", store=store)
    found = {row["sample"]: float(row["score_virus"]) for row in rows(tmp_path / "out" / "predictions.tsv")}
    features = merge(load_samples(table), MODELS, store=store)
    classifier = report.classifier
    expected = classifier.calibration.probabilities(classifier.head.logits(features.rows()))[:, 1]
    together = {
        name: score for name, score in zip(features.ids.tolist(), expected.tolist(), strict=True) if name in found
    }
    assert len(together) == len(found) > 100
    assert all(abs(found[name] - score) < 1e-6 for name, score in together.items())


def test_batch_and_company_do_not_matter(
    tmp_path: Path, genomes: Path, predicted: Path, report: TrainReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(predicted.parent / "store")
    everything = (predicted / "predictions.tsv").read_text(encoding="utf-8").splitlines()
    for batch_rows in (1, 7, 100_000):
        monkeypatch.setattr(prediction, "PIECE_ROWS", batch_rows)
        predict([genomes / "virus1.fna"], report.output, tmp_path / str(batch_rows), store=store)
        alone = (tmp_path / str(batch_rows) / "predictions.tsv").read_text(encoding="utf-8").splitlines()
        assert alone[1:] == [line for line in everything if line.startswith("virus1_contig")]


def test_soft_masked_genome_gives_the_same_predictions(
    tmp_path: Path, genomes: Path, predicted: Path, report: TrainReport
) -> None:
    store = open_store(predicted.parent / "store")
    head, dna = (genomes / "virus1.fna").read_text(encoding="ascii").splitlines()
    (tmp_path / "masked.fna").write_text(f"{head}\n{dna[:1000].lower()}{dna[1000:]}\n", encoding="ascii")
    predict([tmp_path / "masked.fna"], report.output, tmp_path / "out", store=store)
    masked = (tmp_path / "out" / "predictions.tsv").read_text(encoding="utf-8").splitlines()[1:]
    assert set(masked) <= set((predicted / "predictions.tsv").read_text(encoding="utf-8").splitlines())


def changed(classifier: Classifier, **preparation: Any) -> Classifier:
    stated = replace(classifier.schema.preparation, **preparation)
    return replace(classifier, schema=replace(classifier.schema, preparation=stated))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (PredictOptions(length_bases=500), "chunk length: expected 300, found 500"),
        (PredictOptions(genetic_code=4), "genetic code: expected 1, found 4"),
        (PredictOptions(genetic_code="auto"), "genetic code: expected 1, found auto"),
        (PredictOptions(models=("aac_dpc", "tnf")), r"order of blocks: expected tnf .*, found aac_dpc"),
        (PredictOptions(models=("tnf",)), r"blocks: expected tnf .*, aac_dpc .*, found tnf"),
    ],
)
def test_mismatches_are_refused_with_both_sides_before_any_work(
    tmp_path: Path, genomes: Path, report: TrainReport, options: PredictOptions, message: str
) -> None:
    store = open_store(tmp_path / "store", create=True)
    with pytest.raises(SchemaError, match=message):
        predict([genomes], report.output, tmp_path / "out", store=store, options=options)
    assert not (tmp_path / "out").exists()
    assert store.spaces() == []


def test_frames_that_are_not_ours_are_refused(tmp_path: Path, genomes: Path, report: TrainReport, store: Store) -> None:
    with pytest.raises(SchemaError, match="frames: expected all six, found stop-free"):
        predict([genomes], changed(report.classifier, frames="all six"), tmp_path / "out", store=store)


def test_a_code_that_translates_as_the_trained_one_is_taken(
    tmp_path: Path, genomes: Path, predicted: Path, report: TrainReport
) -> None:
    store = open_store(predicted.parent / "store")
    predict([genomes], report.output, tmp_path / "out", store=store, options=PredictOptions(genetic_code=11))
    for name in ("predictions.tsv", "contigs.tsv"):
        assert (tmp_path / "out" / name).read_bytes() == (predicted / name).read_bytes()


def test_a_contradiction_of_codes_names_that_of_the_classifier_and_that_of_the_input(
    tmp_path: Path, genomes: Path, report: TrainReport, store: Store
) -> None:
    trained = changed(report.classifier, genetic_code=4)
    with pytest.raises(SchemaError, match=r"was trained with genetic code 4, the samples of .* are prepared with 1"):
        predict([genomes], trained, tmp_path / "out", store=store, options=PredictOptions(genetic_code=1))


def test_a_classifier_of_estimated_codes_estimates_those_of_the_input(
    tmp_path: Path, genomes: Path, predicted: Path, report: TrainReport
) -> None:
    trained, store = changed(report.classifier, genetic_code="auto"), open_store(predicted.parent / "store")
    save_classifier(trained, tmp_path / "classifier")
    found = predict([genomes], tmp_path / "classifier", tmp_path / "out", store=store)
    assert found.counts.genetic_codes == {"1": found.counts.sequences}
    assert (tmp_path / "out" / "contigs.tsv").read_bytes() == (predicted / "contigs.tsv").read_bytes()
    stated = predict([genomes], trained, tmp_path / "four", store=store, options=PredictOptions(genetic_code=4))
    assert stated.counts.genetic_codes == {"4": stated.counts.sequences}


def test_a_classifier_of_several_codes_asks_for_that_of_the_input(
    tmp_path: Path, genomes: Path, predicted: Path, report: TrainReport
) -> None:
    trained, store = changed(report.classifier, genetic_code="1,4"), open_store(predicted.parent / "store")
    with pytest.raises(InputError, match=r"expected one genetic code, found that it was trained with 1,4\. State"):
        predict([genomes], trained, tmp_path / "out", store=store)
    for choice in (1, 4, CodeTable("source", {"virus0_contig": 4})):
        predict([genomes], trained, tmp_path / "out", store=store, options=PredictOptions(genetic_code=choice))


def test_a_classifier_of_coding_sequences_predicts_contigs(
    tmp_path: Path, genomes: Path, predicted: Path, report: TrainReport
) -> None:
    trained, store = changed(report.classifier, frames="coding"), open_store(predicted.parent / "store")
    predict([genomes], trained, tmp_path / "out", store=store)
    assert (tmp_path / "out" / "contigs.tsv").read_bytes() == (predicted / "contigs.tsv").read_bytes()


def test_another_recipe_under_the_same_name_is_refused(
    tmp_path: Path, genomes: Path, report: TrainReport, store: Store
) -> None:
    first, second = report.classifier.schema.blocks
    blocks = (replace(first, space_id="0" * 64), second)
    classifier = replace(report.classifier, schema=replace(report.classifier.schema, blocks=blocks))
    with pytest.raises(SchemaError, match=f"expected tnf of recipe {'0' * 64}, found tnf of recipe {first.space_id}"):
        predict([genomes], classifier, tmp_path / "out", store=store)


def test_classifier_without_preparation_is_refused(
    tmp_path: Path, genomes: Path, report: TrainReport, store: Store
) -> None:
    schema = replace(report.classifier.schema, preparation=Preparation())
    with pytest.raises(InputError, match="expected a chunk length in its schema, found none"):
        predict([genomes], replace(report.classifier, schema=schema), tmp_path / "out", store=store)


def test_damaged_input_leaves_nothing_behind(tmp_path: Path, report: TrainReport, store: Store) -> None:
    (tmp_path / "page.html").write_text("<html></html>", encoding="utf-8")
    with pytest.raises(InputError):
        predict([tmp_path / "page.html"], report.output, tmp_path / "out", store=store)
    assert not (tmp_path / "out").exists()


def test_rejected_records_are_reported(tmp_path: Path, genomes: Path, report: TrainReport, store: Store) -> None:
    whole = (genomes / "virus0.fna").read_text(encoding="ascii")
    (tmp_path / "some.fna").write_text(f"{whole}>odd\nAC-GT\n", encoding="ascii")
    found = predict([tmp_path / "some.fna"], report.output, tmp_path / "out", store=store)
    assert [rejection.id for rejection in found.rejected] == ["odd"]
    assert not found.complete
    assert json.loads((tmp_path / "out" / "predict.json").read_text())["rejected"][0]["id"] == "odd"


def test_second_run_computes_nothing(tmp_path: Path, genomes: Path, report: TrainReport) -> None:
    store = open_store(tmp_path / "store", create=True)
    first = predict([genomes], report.output, tmp_path / "out", store=store)
    second = predict([genomes], report.output, tmp_path / "out", store=store)
    assert all(filled.computed > 0 for filled in first.filled)
    assert all(filled.computed == 0 for filled in second.filled)


def test_killed_run_continues_and_leaves_no_incomplete_table(
    tmp_path: Path, genomes: Path, predicted: Path, report: TrainReport
) -> None:
    output, store = tmp_path / "out", tmp_path / "store"
    code = "from embedstore_cli.main import run; run()"
    command = [sys.executable, "-c", code, "predict", str(genomes), "-c", str(report.output), "-o", str(output)]
    command += ["--store", str(store), "--quiet"]
    for wait_s in (0.5, 1.0, 1.5):
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        time.sleep(wait_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if output.exists():
            shown = {path.name for path in output.iterdir() if not path.name.startswith(".")}
            assert shown in (set(), {"predictions.tsv", "contigs.tsv", "predict.json"})
    assert subprocess.run(command, check=False).returncode == 0
    # Vectors that are computed in other packs differ by rounding.
    for name in ("predictions.tsv", "contigs.tsv"):
        for found, expected in zip(rows(output / name), rows(predicted / name), strict=True):
            scores = [float(row["score_virus"] or 0) for row in (found, expected)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-4)
            assert (found["source"], found["call"]) == (expected["source"], expected["call"])
    assert [path.name for path in output.iterdir() if path.name.startswith(".predict")] == []


def test_virnucpros_tables(tmp_path: Path, genomes: Path, report: TrainReport, store: Store) -> None:
    predict([genomes], report.output, tmp_path / "out", store=store, options=PredictOptions(compat="virnucpro"))
    chunks = rows(tmp_path / "out" / "prediction_results.txt")
    assert list(chunks[0]) == ["Sequence_ID", "Prediction", "score1", "score2"]
    assert len(chunks) == len(rows(tmp_path / "out" / "predictions.tsv"))
    best: dict[str, list[float]] = {}
    for row in chunks:
        assert row["Prediction"] == ("virus" if float(row["score2"]) > float(row["score1"]) else "others")
        assert row["Sequence_ID"][-2] in "FR"
        scores = best.setdefault(row["Sequence_ID"][:-2], [0.0, 0.0])
        scores[:] = max(scores[0], float(row["score1"])), max(scores[1], float(row["score2"]))
    text = (tmp_path / "out" / "prediction_results_highestscore.csv").read_text(encoding="utf-8")
    lines = [f"{name}\t{virus >= other}" for name, (other, virus) in sorted(best.items())]
    assert text.splitlines() == ["Modified_ID\tIs_Virus", *lines]


def test_virnucpros_names_are_those_of_its_own_preparation(tmp_path: Path, genomes: Path, report: TrainReport) -> None:
    store = open_store(tmp_path / "store", create=True)
    for compat in (None, "virnucpro"):
        classifier = changed(report.classifier, compat=compat)
        predict(
            [genomes / "virus0.fna"],
            classifier,
            tmp_path / str(compat),
            store=store,
            options=PredictOptions(compat="virnucpro"),
        )
    ours, theirs = (
        {row["Sequence_ID"] for row in rows(tmp_path / name / "prediction_results.txt")}
        for name in ("None", "virnucpro")
    )
    assert len(ours & theirs) > 0.5 * len(ours)
    assert all(name.startswith("virus0_contig_chunk_") for name in ours)


def test_virnucpros_tables_need_a_virus_class(tmp_path: Path, genomes: Path, report: TrainReport, store: Store) -> None:
    schema = replace(report.classifier.schema, labels=("archaea", "bacteria"))
    classifier = replace(report.classifier, schema=schema)
    with pytest.raises(InputError, match="one of them virus, found archaea, bacteria"):
        predict([genomes], classifier, tmp_path / "out", store=store, options=PredictOptions(compat="virnucpro"))
    assert not (tmp_path / "out").exists()


def test_space_of_another_name_is_found_by_what_it_is(tmp_path: Path, genomes: Path, report: TrainReport) -> None:
    store = open_store(tmp_path / "store", create=True)
    store.fill(["ACGTACGTACGT"], "tnf", name="tetra")
    found = predict([genomes / "virus0.fna"], report.output, tmp_path / "out", store=store)
    assert [filled.space.name for filled in found.filled] == ["tetra", "aac_dpc"]


def test_saved_copy_predicts_alike(tmp_path: Path, genomes: Path, report: TrainReport, store: Store) -> None:
    save_classifier(load_classifier(report.output), tmp_path / "copy")
    for name, classifier in (("a", report.output), ("b", tmp_path / "copy")):
        predict([genomes / "host0.fna"], classifier, tmp_path / name, store=store)
    assert (tmp_path / "a" / "contigs.tsv").read_bytes() == (tmp_path / "b" / "contigs.tsv").read_bytes()


@contextmanager
def counted_calls() -> Iterator[Counter[str]]:
    """Count the calls of functions by their modules and names, in this thread."""
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            calls[f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_qualname}"] += 1

    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def test_each_sequence_is_hashed_once_and_looked_up_to_fill_and_to_read(
    tmp_path: Path, genomes: Path, report: TrainReport
) -> None:
    store = open_store(tmp_path / "store", create=True)
    predict([genomes / "virus1.fna"], report.output, tmp_path / "out", store=store)
    for given in (genomes / "virus0.fna", genomes / "virus0.fna"):  # with and without something to compute
        store = open_store(tmp_path / "store")
        with counted_calls() as calls:
            found = predict([given], report.output, tmp_path / "out", store=store)
        assert found.counts.samples > 20
        assert calls["identity.sequence_key"] == 2 * found.counts.samples  # of its DNA and of its protein
        assert calls["identity.canonical"] == 1  # of the genome
        assert calls["live.SpaceView.find"] == 4  # two spaces, one batch
