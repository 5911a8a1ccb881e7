"""Several classifiers as one: `predict -c A -c B` against the same numbers from numpy, and what is refused."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small_genomes import QUICK, write_genomes

from embedstore.classify.averaging import average_log_odds
from embedstore.classify.blocks import Reading
from embedstore.classify.calibration import Chunks
from embedstore.classify.classifier import Classifier, save_classifier
from embedstore.classify.prediction import PredictOptions, predict
from embedstore.classify.training import train
from embedstore.errors import InputError, SchemaError
from embedstore.features import Features
from embedstore.library import Store, open_store
from embedstore_cli.main import main


@pytest.fixture(scope="module")
def members(table: Path, store: Store, tmp_path_factory: pytest.TempPathFactory) -> list[Classifier]:
    """Of one model each; the second has its classes in another order."""
    place = tmp_path_factory.mktemp("members")
    one, other = (
        train(table, place / model, options=QUICK, reading=Reading(store, (model,))).classifier
        for model in ("tnf", "aac_dpc")
    )
    head, turned = other.head, {**other.head.tensors}
    for name in ("output.weight", "output.bias"):
        turned[name] = turned[name][::-1].copy()
    schema = replace(other.schema, labels=other.labels[::-1])
    assert other.sequences is not None
    sequences = replace(other.sequences, shift=other.sequences.shift[::-1])
    calibration = replace(other.calibration, scale=other.calibration.scale[::-1], shift=other.calibration.shift[::-1])
    return [
        one,
        replace(other, head=replace(head, tensors=turned), schema=schema, sequences=sequences, calibration=calibration),
    ]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def mean_of_logs(each: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    product = np.prod(each, axis=0) ** (1 / len(each))
    return np.asarray(product / product.sum(axis=1, keepdims=True))


def test_the_average_is_that_of_the_log_odds() -> None:
    found = average_log_odds([np.array([[0.9, 0.1]]), np.array([[0.2, 0.8]])])
    odds = np.exp((np.log(9) + np.log(0.25)) / 2)
    assert found[0, 0] == pytest.approx(odds / (1 + odds))
    assert np.isfinite(average_log_odds([np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])])).all()


def test_samples_and_contigs_are_the_average_of_calibrated_log_odds(
    tmp_path: Path, place: Path, features: Features, members: list[Classifier], store: Store
) -> None:
    predict([place / "virus"], members, tmp_path / "out", store=store)
    blocks = [slice(block.start, block.stop) for block in features.schema.blocks]
    logits = [one.head.logits(features.rows()[:, own]) for one, own in zip(members, blocks, strict=True)]
    turned = [slice(None), slice(None, None, -1)]
    of_samples = [
        one.calibration.probabilities(found)[:, order]
        for one, found, order in zip(members, logits, turned, strict=True)
    ]
    expected = dict(zip(features.ids.tolist(), mean_of_logs(of_samples)[:, 1].tolist(), strict=True))
    found = rows(tmp_path / "out" / "predictions.tsv")
    assert len(found) > 100
    assert all(abs(float(row["score_virus"]) - expected[row["sample"]]) < 2e-6 for row in found)
    sources = features.samples.sources.texts()
    contigs = rows(tmp_path / "out" / "contigs.tsv")
    assert len(contigs) == 10
    for contig in contigs:
        own = sources == contig["source"]
        opened = len(set((features.samples.start[own] // 150).tolist()))  # chunks of 300 bases, 15 of them, evenly
        chunks = Chunks(np.array([int(contig["chunks"])]), np.array([opened]))
        each = []
        for one, some, order in zip(members, logits, turned, strict=True):
            assert one.sequences is not None
            means = some[own].astype(np.float64).mean(axis=0)[None]
            each.append(one.sequences.probabilities(means, np.array([own.sum()]), chunks)[:, order])
        assert float(contig["score_virus"]) == pytest.approx(mean_of_logs(each)[0, 1], abs=2e-6)
        agreed = np.mean([row["call"] == contig["call"] for row in found if row["source"] == contig["source"]])
        assert float(contig["confidence"]) == pytest.approx(
            min(agreed, float(contig[f"score_{contig['call']}"])), abs=2e-6
        )


def test_a_member_without_calibration_of_sequences_gives_the_mean_of_its_scores(
    tmp_path: Path, place: Path, features: Features, members: list[Classifier], store: Store
) -> None:
    plain = [replace(one, sequences=None) for one in members]
    predict([place / "virus" / "virus0.fna"], plain, tmp_path / "out", store=store)
    [contig] = rows(tmp_path / "out" / "contigs.tsv")
    own = features.samples.sources.texts() == contig["source"]
    blocks = [slice(block.start, block.stop) for block in features.schema.blocks]
    turned = [slice(None), slice(None, None, -1)]
    each = [
        one.calibration.probabilities(one.head.logits(features.rows()[own][:, block])).mean(axis=0)[None, order]
        for one, block, order in zip(plain, blocks, turned, strict=True)
    ]
    assert float(contig["score_virus"]) == pytest.approx(mean_of_logs(each)[0, 1], abs=2e-6)


def test_a_classifier_averaged_with_itself_is_itself(
    tmp_path: Path, place: Path, members: list[Classifier], store: Store
) -> None:
    for name, given in (("one", members[0]), ("list", members[:1]), ("twice", [members[0]] * 2)):
        predict([place / "host" / "host0.fna"], given, tmp_path / name, store=store)
    for table in ("predictions.tsv", "contigs.tsv"):
        assert len({(tmp_path / name / table).read_bytes() for name in ("one", "list", "twice")}) == 1


def test_other_classes_another_preparation_and_named_models_are_refused(
    tmp_path: Path, place: Path, members: list[Classifier], store: Store
) -> None:
    one, other = members
    renamed = replace(other, schema=replace(other.schema, labels=("phage", "host")), name="B")
    with pytest.raises(InputError, match=r"classifier B: expected the same classes, found host, virus and phage, host"):
        predict([place / "virus"], [one, renamed], tmp_path / "out", store=store)
    preparation = replace(other.schema.preparation, chunk_length=500, genetic_code=11)
    longer = replace(other, schema=replace(other.schema, preparation=preparation), name="B")
    with pytest.raises(SchemaError, match=r"B: .*chunk_length 300, genetic_code 1 and chunk_length 500, gen"):
        predict([place / "virus"], [one, longer], tmp_path / "out", store=store)
    with pytest.raises(InputError, match="Leave out --models"):
        predict([place / "virus"], members, tmp_path / "out", store=store, options=PredictOptions(models=("tnf",)))
    with pytest.raises(InputError, match="expected a classifier, found none"):
        predict([place / "virus"], [], tmp_path / "out", store=store)
    assert not (tmp_path / "out").exists()


def test_the_command_averages_all_classifiers_that_it_is_given(
    tmp_path: Path, members: list[Classifier], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, one in zip("ab", members, strict=True):
        save_classifier(one, tmp_path / name)
    write_genomes(tmp_path / "new", "virus", genomes=1, seed=5)
    given = ["-c", str(tmp_path / "a"), "-c", str(tmp_path / "b"), "--store", str(tmp_path / "store"), "--quiet"]
    assert main(["predict", str(tmp_path / "new"), *given, "-o", str(tmp_path / "out")]) == 0
    assert "a & " in (tmp_path / "out" / "predict.json").read_text()
    predict([tmp_path / "new"], members, tmp_path / "again", store=open_store(tmp_path / "store"))
    tables = [(tmp_path / name / "contigs.tsv").read_bytes() for name in ("out", "again")]
    assert tables[0] == tables[1]
    assert "virus0_contig" in tables[0].decode()
    assert capsys.readouterr().out == ""
