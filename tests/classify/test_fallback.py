"""A head on DNA alone: trained along, kept in the folder, and used on contigs whose frames are all closed."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_genomes import read_with, write_genomes

from embedstore.classify import fallback, prediction
from embedstore.classify.blocks import Reading
from embedstore.classify.classifier import load_classifier, save_classifier
from embedstore.classify.heads import TrainOptions
from embedstore.classify.prediction import PredictOptions, predict
from embedstore.classify.training import TrainReport, train
from embedstore.errors import InputError, WeightsError
from embedstore.library import Store, open_store
from embedstore.models.composition import tetranucleotides
from embedstore.samples import PrepareOptions, prepare
from embedstore.sequences.translation import even_chunks
from embedstore_cli.main import main

STOPS = "TAATTAATTAACTAACTAG"
OPTIONS = TrainOptions(folds=2, strength=1.0, dna_only_fallback=True)
ASKED = PredictOptions(dna_only_fallback=True)
VERSION_1 = Path(__file__).parents[1] / "data" / "classifiers-v1"


def closed(unit: str, bases: int) -> str:
    """DNA with a stop every few bases in every frame of both strands, and a composition of its own between them."""
    return ((STOPS + unit) * bases)[:bases]


CLOSED = {"short": closed("GC", 200), "gc": closed("GCGGCCGC", 700), "at": closed("AATAT", 1501)}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


@pytest.fixture(scope="module")
def with_fallback(table: Path, store: Store, tmp_path_factory: pytest.TempPathFactory) -> TrainReport:
    output = tmp_path_factory.mktemp("fallback") / "classifier"
    return train(table, output, options=OPTIONS, reading=read_with(store))


@pytest.fixture(scope="module")
def contigs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sequences with open frames, and between, before and behind them some whose frames are all closed."""
    folder = tmp_path_factory.mktemp("contigs")
    write_genomes(folder, "virus", genomes=2, bases=1500, seed=7)
    opened = [(folder / f"virus{number}.fna").read_text(encoding="ascii") for number in range(2)]
    records = [f">{name}\n{dna}\n" for name, dna in CLOSED.items()]
    parts = [records[0], opened[0], records[1], ">unknown\n" + "N" * 400 + "\n", opened[1], records[2]]
    (folder / "all.fna").write_text("".join(parts), encoding="ascii")
    return folder / "all.fna"


@pytest.fixture(scope="module")
def predicted(contigs: Path, with_fallback: TrainReport, store: Store) -> Path:
    output = contigs.parent / "predicted"
    predict([contigs], with_fallback.output, output, store=store, options=ASKED)
    return output


def test_closed_contigs_are_called_by_the_mean_of_their_chunks(predicted: Path, with_fallback: TrainReport) -> None:
    found = {row["source"]: row for row in rows(predicted / "contigs.tsv")}
    head = with_fallback.classifier.fallback
    assert head is not None
    assert head.sequences is not None
    assert [block.space for block in head.schema.blocks] == ["tnf"]
    for name, dna in CLOSED.items():
        chunks = [dna[start:end].encode() for start, end in even_chunks(len(dna), 300).tolist()]
        logits = head.head.logits(np.asarray(tetranucleotides(chunks).vectors)).astype(np.float64)
        expected = head.sequences.probabilities(logits.mean(axis=0)[None], np.array([len(chunks)]))[0]
        row = found[name]
        assert (row["samples"], row["chunks"], row["from"]) == ("0", str(len(chunks)), "dna")
        assert float(row["score_virus"]) == pytest.approx(expected[1], abs=2e-6)
        call = int(expected.argmax())
        assert row["call"] == head.labels[call]
        calls = head.calibration.probabilities(logits.astype(np.float32)).argmax(axis=1)
        assert float(row["confidence"]) == pytest.approx(min(expected[call], np.mean(calls == call)), abs=2e-6)


def test_other_contigs_stay_as_they_are_and_calls_from_dna_are_counted_apart(
    predicted: Path, contigs: Path, with_fallback: TrainReport, store: Store, tmp_path: Path
) -> None:
    predict([contigs], with_fallback.output, tmp_path / "plain", store=store)
    plain, found = rows(tmp_path / "plain" / "contigs.tsv"), rows(predicted / "contigs.tsv")
    assert [row["source"] for row in found] == [row["source"] for row in plain]
    for before, after in zip(plain, found, strict=True):
        assert "from" not in before
        if before["source"] in CLOSED:
            assert before["call"] == "no open frame"
        else:
            assert after == {**before, "from": "" if before["source"] == "unknown" else "samples"}
    name = "predictions.tsv"
    assert (tmp_path / "plain" / name).read_bytes() == (predicted / name).read_bytes()
    document = json.loads((predicted / "predict.json").read_text())
    assert document["sequences_called"] == {"virus": 2, "all N": 1}
    assert sum(document["sequences_called_from_dna"].values()) == 3
    assert document["seen"]["sources_without_sample"] == 4
    assert json.loads((tmp_path / "plain" / "predict.json").read_text())["sequences_called_from_dna"] == {}


@pytest.mark.parametrize("piece_rows", [1, 3])
def test_batches_do_not_matter(
    predicted: Path,
    contigs: Path,
    with_fallback: TrainReport,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    piece_rows: int,
) -> None:
    monkeypatch.setattr(prediction, "PIECE_ROWS", piece_rows)
    monkeypatch.setattr(fallback, "PIECE_ROWS", piece_rows)
    predict([contigs], with_fallback.output, tmp_path / "out", store=store, options=ASKED)
    assert (tmp_path / "out" / "contigs.tsv").read_bytes() == (predicted / "contigs.tsv").read_bytes()


def test_only_closed_contigs_and_a_new_store(tmp_path: Path, with_fallback: TrainReport, predicted: Path) -> None:
    (tmp_path / "closed.fna").write_text("".join(f">{name}\n{dna}\n" for name, dna in CLOSED.items()))
    store = open_store(tmp_path / "store", create=True)
    report = predict([tmp_path / "closed.fna"], with_fallback.output, tmp_path / "out", store=store, options=ASKED)
    assert report.complete
    known = {row["source"]: row for row in rows(predicted / "contigs.tsv")}
    assert rows(tmp_path / "out" / "contigs.tsv") == [known[name] for name in CLOSED]


def test_the_folder_keeps_it_and_the_same_seed_gives_the_same_bytes(
    tmp_path: Path, with_fallback: TrainReport, table: Path, store: Store, report: TrainReport
) -> None:
    folder = with_fallback.output
    loaded = load_classifier(folder)
    assert loaded.fallback is not None
    assert with_fallback.classifier.fallback is not None
    assert loaded.to_json() == with_fallback.classifier.to_json()
    save_classifier(loaded, tmp_path / "copy")
    again = train(table, tmp_path / "again", options=OPTIONS, reading=read_with(store)).output
    for name in ("classifier.safetensors", "fallback.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes() == (again / name).read_bytes()
    assert not (report.output / "fallback.safetensors").exists()
    assert load_classifier(VERSION_1 / "linear").fallback is None


def test_a_reader_that_does_not_know_it_reads_the_rest(tmp_path: Path, with_fallback: TrainReport) -> None:
    folder = shutil.copytree(with_fallback.output, tmp_path / "classifier")
    document = json.loads((folder / "classifier.json").read_text())
    assert document["version"] == 2
    del document["fallback"]
    (folder / "classifier.json").write_text(json.dumps(document))
    found = load_classifier(folder)
    assert found.fallback is None
    for name, tensor in with_fallback.classifier.head.tensors.items():
        assert np.array_equal(found.head.tensors[name], tensor)


def test_a_damaged_fallback_is_refused(tmp_path: Path, with_fallback: TrainReport) -> None:
    folder = shutil.copytree(with_fallback.output, tmp_path / "classifier")
    content = (folder / "fallback.safetensors").read_bytes()
    (folder / "fallback.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(WeightsError, match=r"fallback\.safetensors"):
        load_classifier(folder)
    (folder / "fallback.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"fallback\.safetensors"):
        load_classifier(folder)
    shutil.copy(folder / "classifier.safetensors", folder / "fallback.safetensors")
    with pytest.raises(WeightsError, match=r"expected input\.mean of"):
        load_classifier(folder)
    document = json.loads((folder / "classifier.json").read_text())
    for part in ("none", {}, {**document["fallback"], "calibration": None}):
        (folder / "classifier.json").write_text(json.dumps({**document, "fallback": part}))
        with pytest.raises(InputError, match="Cannot read the classifier"):
            load_classifier(folder)


def test_how_it_does_is_said(with_fallback: TrainReport) -> None:
    found = with_fallback.evaluation["dna_only_fallback"]
    assert 0.8 < found["auroc"] <= 1
    assert [part["length_bases"] for part in found["contigs"]] == [500, 1000, 3000]
    page = (with_fallback.output / "report.html").read_text(encoding="utf-8")
    assert "A second head on the DNA alone" in page


def test_without_a_block_of_dna_it_is_refused(table: Path, store: Store, tmp_path: Path, contigs: Path) -> None:
    reading = Reading(store, ("aac_dpc",), fill=True)
    with pytest.raises(InputError, match=r"expected a block of DNA, found aac_dpc .* Add a DNA model"):
        train(table, tmp_path / "classifier", options=OPTIONS, reading=reading)
    assert not (tmp_path / "classifier").exists()
    made = train(table, tmp_path / "proteins", options=TrainOptions(folds=2, strength=1.0), reading=reading)
    with pytest.raises(InputError, match=r"expected a block of DNA, found aac_dpc"):
        predict([contigs], made.output, tmp_path / "out", store=store, options=ASKED)


def test_a_classifier_without_it_is_refused(report: TrainReport, store: Store, tmp_path: Path, contigs: Path) -> None:
    with pytest.raises(InputError, match=r"expected a head on DNA alone, found none\. Train again"):
        predict([contigs], report.output, tmp_path / "out", store=store, options=ASKED)
    assert not (tmp_path / "out").exists()


def test_commands(table: Path, place: Path, tmp_path: Path, contigs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--models", "tnf,aac_dpc", "--fill", "--folds", "2", "--strength", "1", "--dna-only-fallback"]
    stored = ["--store", str(place / "store")]
    assert main(["train", str(table), "-o", str(tmp_path / "classifier"), *arguments, *stored]) == 0
    assert "A second head on the DNA alone" in " ".join(capsys.readouterr().out.split())
    arguments = ["-c", str(tmp_path / "classifier"), "-o", str(tmp_path / "out"), "--dna-only-fallback"]
    assert main(["predict", str(contigs), *arguments, *stored]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "sequences without an open frame" in told
    assert "seen" in told


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples of genomes of two classes with a closed end each, and a closed contig; closed chunks are kept."""
    folder = tmp_path_factory.mktemp("kept")
    for label, unit in (("host", "GCGGCCGC"), ("virus", "AATAT")):
        write_genomes(folder / label, label, bases=2500)
        for path in (folder / label).iterdir():
            header, dna = path.read_text(encoding="ascii").split()
            path.write_text(f"{header}\n{dna}{closed(unit, 900)}\n>{path.stem}_closed\n{closed(unit, 450)}\n")
    inputs = [f"{label}={folder / label}" for label in ("host", "virus")]
    prepare(inputs, folder / "samples", PrepareOptions(length_bases=300, keep_closed=True))
    return folder


def test_closed_chunks_are_kept_on_request(kept: Path) -> None:
    lines = (kept / "samples" / "closed.fna").read_text().splitlines()
    sources = json.loads((kept / "samples" / "prepare.json").read_text())["sources"]
    assert len(lines) // 2 == sum(source["dropped"].get("no open frame", 0) for source in sources.values())
    genomes = {path.stem: path.read_text().split() for path in kept.glob("*/*.fna") if path.parent.name != "samples"}
    dna = {
        header.removeprefix(">"): one
        for parts in genomes.values()
        for header, one in zip(parts[::2], parts[1::2], strict=True)
    }
    for name, chunk in zip(lines[::2], lines[1::2], strict=True):
        source, _, span = name.removeprefix(">").rpartition(":")
        start, end = map(int, span.split("-"))
        assert chunk == dna[source][start - 1 : end]
        assert end - start == 299


def test_the_fallback_learns_from_closed_chunks_that_were_kept(kept: Path, tmp_path: Path, contigs: Path) -> None:
    store = open_store(tmp_path / "store", create=True)
    table = kept / "samples" / "samples.tsv"
    made = train(table, tmp_path / "with", options=OPTIONS, reading=read_with(store))
    found = made.evaluation["dna_only_fallback"]
    count = (kept / "samples" / "closed.fna").read_text().count(">")
    assert found["closed_chunks"]["chunks"] == count
    assert found["samples"] == made.evaluation["samples"] + count
    assert found["closed_chunks"]["auroc"] > 0.95
    again = train(table, tmp_path / "again", options=OPTIONS, reading=read_with(store)).output
    name = "fallback.safetensors"
    assert (again / name).read_bytes() == (made.output / name).read_bytes()
    predict([contigs], made.output, tmp_path / "out", store=store, options=ASKED)
    calls = {row["source"]: row["call"] for row in rows(tmp_path / "out" / "contigs.tsv") if row["from"] == "dna"}
    assert (calls["gc"], calls["at"]) == ("host", "virus")
    tested = train(table, tmp_path / "test", options=replace(OPTIONS, test_share=0.3), reading=read_with(store))
    assert 0 < tested.evaluation["dna_only_fallback"]["closed_chunks"]["chunks"] < count


def test_closed_chunks_of_an_earlier_run_are_not_used(kept: Path, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", create=True)
    shutil.copytree(kept / "samples", tmp_path / "samples")
    prepare([f"{label}={kept / label}" for label in ("host", "virus")], tmp_path / "samples", PrepareOptions(300))
    assert (tmp_path / "samples" / "closed.fna").exists()
    made = train(tmp_path / "samples" / "samples.tsv", tmp_path / "out", options=OPTIONS, reading=read_with(store))
    assert "closed_chunks" not in made.evaluation["dna_only_fallback"]


def test_closed_chunks_of_something_else_are_refused(kept: Path, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", create=True)
    shutil.copytree(kept / "samples", tmp_path / "samples")
    with (tmp_path / "samples" / "closed.fna").open("a") as file:
        file.write(">other:1-300\n" + "TAA" * 100 + "\n")
    with pytest.raises(InputError, match=r"other:1-300 is no chunk of .* Prepare again"):
        train(tmp_path / "samples" / "samples.tsv", tmp_path / "out", options=OPTIONS, reading=read_with(store))
    assert not (tmp_path / "out").exists()
