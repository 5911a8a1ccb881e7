"""Anything but a complete classifier is refused with a reason, and nothing in it is executed."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save
from small_genomes import HEADS

from embedstore.classify.blocks import Reading, find_spaces
from embedstore.classify.calibration import Calibration, Chunks, SequenceCalibration, calibrate, calibrate_sequences
from embedstore.classify.classifier import Classifier, load_classifier, save_classifier
from embedstore.classify.evaluation import evaluate
from embedstore.classify.heads import Forest, Network, tensor_shapes
from embedstore.classify.splitting import split_samples
from embedstore.classify.training import TrainReport, fit_classifier
from embedstore.errors import EmbedStoreError, FormatVersionError, InputError, UnknownModelError, WeightsError
from embedstore.features import Features
from embedstore.library import Store

CHECKPOINT = Path(__file__).resolve().parents[1] / "data" / "esm" / "fastesm2_tiny"
VERSION_1 = Path(__file__).resolve().parents[1] / "data" / "classifiers-v1"
TENSORS, DOCUMENT = "classifier.safetensors", "classifier.json"


@pytest.fixture
def folder(tmp_path: Path, report: TrainReport) -> Path:
    """A copy of a classifier to be damaged."""
    shutil.copytree(report.output, tmp_path / "classifier")
    return tmp_path / "classifier"


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))
    change(document)
    (folder / DOCUMENT).write_text(json.dumps(document), encoding="utf-8")


def edit_tensors(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change tensors, with the checksum made right again."""
    tensors = load((folder / TENSORS).read_bytes())
    change(tensors)
    content = save(tensors)
    (folder / TENSORS).write_bytes(content)
    edit(folder, lambda document: document.update(sha256=hashlib.sha256(content).hexdigest()))


def test_saved_classifier_is_read_back_as_it_was(folder: Path, report: TrainReport) -> None:
    found = load_classifier(folder)
    assert found.schema == report.classifier.schema
    assert found.calibration == report.classifier.calibration
    assert found.sequences == report.classifier.sequences
    assert found.sequences is not None
    assert found.head.kind == "linear"
    assert repr(found).startswith(f"<Classifier {found.name}: {found.schema.dim} columns, 2 classes (")
    rows = np.random.default_rng(1).random((5, found.schema.dim), np.float32)
    assert np.array_equal(found.head.logits(rows), report.classifier.head.logits(rows))


@pytest.mark.parametrize("kept_bytes", [0, 4, 100, 5000])
def test_truncated_tensors_are_refused(folder: Path, kept_bytes: int) -> None:
    content = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(content[:kept_bytes])
    with pytest.raises(WeightsError, match=r"classifier\.safetensors"):
        load_classifier(folder)


def test_flipped_bit_is_refused(folder: Path) -> None:
    content = bytearray((folder / TENSORS).read_bytes())
    content[-1000] ^= 1
    (folder / TENSORS).write_bytes(content)
    with pytest.raises(WeightsError, match="SHA-256"):
        load_classifier(folder)


class Boom:
    """Writes a file if it is ever unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def test_malicious_pickle_is_refused_and_not_executed(folder: Path, tmp_path: Path) -> None:
    for place in (folder / TENSORS, folder / DOCUMENT, tmp_path / "model.pth"):
        before = place.read_bytes() if place.exists() else None
        place.write_bytes(pickle.dumps(Boom(tmp_path / "executed")))
        with pytest.raises(EmbedStoreError, match="Cannot"):
            load_classifier(place if before is None else folder)
        if before is not None:
            place.write_bytes(before)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("output.bias"), "expected output.bias, found none"),
        (lambda tensors: tensors.update(extra=np.zeros(1, np.float32)), "expected no extra"),
        (lambda tensors: tensors.update({"output.bias": np.zeros(3, np.float32)}), r"found \(3,\)"),
        (lambda tensors: tensors.update({"output.bias": np.zeros(2)}), "float64"),
        (lambda tensors: tensors["output.weight"].__setitem__((0, 0), np.nan), "finite numbers in output.weight"),
        (lambda tensors: tensors["input.deviation"].__setitem__(0, 0), "above 0 in input.deviation"),
    ],
)
def test_tensors_that_are_not_the_networks_are_refused(folder: Path, change: Any, message: str) -> None:
    def writable(tensors: dict[str, Any]) -> None:
        tensors |= {name: tensor.copy() for name, tensor in tensors.items()}
        change(tensors)

    edit_tensors(folder, writable)
    with pytest.raises(WeightsError, match=message):
        load_classifier(folder)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda document: document.pop("format"), InputError, "expected the format"),
        (lambda document: document.update(version=99), FormatVersionError, "format version 99"),
        (lambda document: document["head"].update(kind="forest"), InputError, "found .*'forest'"),
        (lambda document: document["head"].update(kind=["mlp"]), InputError, "mlp .*, linear or trees"),
        (lambda document: document["head"].update(kind="mlp"), WeightsError, "expected "),
        (lambda document: document["head"].update(kind="trees"), WeightsError, "expected the tensors trees"),
        (lambda document: document["head"].update(members=2), InputError, "mlp .*, linear or trees"),
        (lambda document: document["head"].update(members=10**9), InputError, "of 1 to 100 members"),
        (lambda document: document["head"].update(members=True), InputError, "of 1 to 100 members"),
        (lambda document: document.update(head="mlp"), InputError, "mlp .*, linear or trees"),
        (lambda document: document.update(sequences={}), InputError, "calibration of sequences"),
        (lambda document: document["sequences"].update(shift=[0.0]), InputError, "a list of 2 numbers"),
        (lambda document: document["sequences"].update(log_scale=10**400), InputError, "finite numbers"),
        (lambda document: document["sequences"].update(log_scale_slope=True), InputError, "finite numbers"),
        (lambda document: document["sequences"].update(most_samples=0), InputError, "calibration of sequences"),
        (lambda document: document["sequences"].update(most_samples=1.5), InputError, "finite numbers"),
        (lambda document: document.pop("schema"), InputError, "schema"),
        (lambda document: document["schema"]["labels"].append("third"), InputError, "lists of 3 numbers"),
        (lambda document: document.update(calibration={"kind": "none"}), InputError, "calibration"),
        (lambda document: document["calibration"].update(scale=[float("nan"), 1]), InputError, "finite"),
        (lambda document: document.update(sha256="0" * 64), WeightsError, "of another classifier"),
        (lambda document: document["calibration"].update(scale=[10**400, 1]), InputError, "numbers up to"),
        (lambda document: document["calibration"].update(scale=[True, 1]), InputError, "numbers up to"),
        (lambda document: document["calibration"].update(kind=["none"]), InputError, "of kind"),
        (lambda document: document["schema"]["blocks"][-1].update(stop=10**12), InputError, "from 1 to 1048576"),
        (lambda document: document["schema"]["blocks"][0].update(start=-5), InputError, "from 0 to"),
        (lambda document: document["schema"]["blocks"][0].update(space_id="../../x"), InputError, "space_id like"),
        (lambda document: document["schema"]["blocks"][0].update(molecule="rna"), InputError, "molecule like"),
        (lambda document: document["schema"]["preparation"].update(chunk_length=-1), InputError, "chunk_length from"),
        (lambda document: document["schema"]["preparation"].update(genetic_code=10**9), InputError, "genetic_code"),
        (
            lambda document: document["schema"]["labels"].__setitem__(0, "x" * 10**5),
            InputError,
            "labels that are texts",
        ),
        (lambda document: document["schema"].update(labels=[str(n) for n in range(10**5)]), InputError, "10000 labels"),
    ],
)
def test_json_that_is_not_a_classifiers_is_refused(
    folder: Path, change: Any, error: type[Exception], message: str
) -> None:
    edit(folder, change)
    with pytest.raises(error, match=message):
        load_classifier(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\xfe", b'{"format": "other"}', b"[" * 100_000])
def test_foreign_json_is_refused(folder: Path, content: bytes) -> None:
    (folder / DOCUMENT).write_bytes(content)
    with pytest.raises(InputError, match="Cannot read the classifier"):
        load_classifier(folder)


def test_missing_parts_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / TENSORS).unlink()
    with pytest.raises(WeightsError, match=r"classifier\.safetensors"):
        load_classifier(folder)
    with pytest.raises(InputError, match="found nothing"):
        load_classifier(tmp_path / "nowhere")
    (tmp_path / "model.pth").write_bytes(b"x")
    with pytest.raises(InputError, match="import-classifier"):
        load_classifier(tmp_path / "model.pth")


def test_parts_of_other_sizes_do_not_become_a_classifier(report: TrainReport) -> None:
    with pytest.raises(InputError, match="calibrated classes"):
        replace(report.classifier, calibration=Calibration("none", (1.0,) * 3, (0.0,) * 3))


def test_failed_save_leaves_what_was_there(folder: Path, report: TrainReport, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / DOCUMENT).read_bytes()
    with pytest.raises(TypeError):
        save_classifier(report.classifier, folder, {"report.html": "text in place of bytes"})  # type: ignore[dict-item]
    assert (folder / DOCUMENT).read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["classifier"]


def random_classifier(report: TrainReport, kind: Any) -> Classifier:
    generator = np.random.default_rng(2)
    shapes = tensor_shapes(kind, report.classifier.schema.dim, 2)
    tensors = {name: generator.random(shape).astype(np.float32) + 0.5 for name, shape in shapes.items()}
    return replace(report.classifier, head=Network(kind, report.classifier.schema.dim, 2, tensors))


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_logits_do_not_depend_on_the_batch(report: TrainReport, kind: Any) -> None:
    network = random_classifier(report, kind).head
    rows = np.random.default_rng(3).random((2500, network.dim), np.float32)
    together = network.logits(rows)
    assert np.array_equal(together, network.logits(rows))
    alone = np.concatenate([network.logits(rows[place : place + 1]) for place in range(0, 2500, 97)])
    assert np.array_equal(alone, together[::97])
    assert np.array_equal(network.logits(rows[::-1]), together[::-1])


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_logits_are_those_of_torch(report: TrainReport, kind: Any) -> None:
    torch = pytest.importorskip("torch")
    network = random_classifier(report, kind).head
    tensors: Any = {name: torch.from_numpy(np.array(tensor)) for name, tensor in network.tensors.items()}
    rows = torch.rand(20, network.dim)
    x = (rows - tensors["input.mean"]) / tensors["input.deviation"]
    if kind == "mlp":
        x = torch.nn.functional.linear(x, tensors["hidden.weight"], tensors["hidden.bias"])
        norm = [tensors[f"norm.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        x = torch.relu(torch.nn.functional.batch_norm(x, *norm))
    expected = torch.nn.functional.linear(x, tensors["output.weight"], tensors["output.bias"])
    assert np.allclose(network.logits(rows.numpy()), expected.numpy(), rtol=1e-4)


@pytest.mark.parametrize("kind", ["temperature", "vector"])
@pytest.mark.parametrize("classes", [2, 3])
def test_calibration_makes_too_sure_scores_right(kind: Any, classes: int) -> None:
    generator = np.random.default_rng(4)
    logits = generator.normal(0, 1, (6000, classes))
    odds = np.exp(logits)
    y = (odds.cumsum(axis=1) / odds.sum(axis=1, keepdims=True) < generator.random((6000, 1))).sum(axis=1)
    found = calibrate((4 * logits).astype(np.float32), y, np.ones(6000), kind)
    assert np.allclose(found.scale, 0.25, atol=0.03)
    assert np.allclose(np.array(found.shift) - found.shift[0], 0, atol=0.15)
    assert np.allclose(found.probabilities((4 * logits).astype(np.float32)).sum(axis=1), 1)


def test_logits_of_several_networks_are_their_mean(report: TrainReport) -> None:
    generator, dim = np.random.default_rng(2), 7
    each = [
        {name: generator.random(shape).astype(np.float32) for name, shape in tensor_shapes("mlp", dim, 2).items()}
        for _ in range(3)
    ]
    for tensors in each:
        tensors |= {"input.mean": np.zeros(dim, np.float32), "input.deviation": np.ones(dim, np.float32)}
    joined = dict(each[0])
    for number in (1, 2):
        joined |= {f"{number}.{name}": one for name, one in each[number].items() if not name.startswith("input.")}
    rows = generator.random((9, dim), np.float32)
    mean = np.mean([Network("mlp", dim, 2, tensors).logits(rows) for tensors in each], axis=0)
    assert np.allclose(Network("mlp", dim, 2, joined, members=3).logits(rows), mean, rtol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "trees"])
def test_heads_of_other_kinds_are_read_back_as_they_were(tmp_path: Path, features: Features, name: str) -> None:
    options = HEADS[name]
    trained = fit_classifier(features, features.samples, split_samples(features.samples, options), options).classifier
    save_classifier(trained, tmp_path / "classifier")
    found = load_classifier(tmp_path / "classifier")
    assert (found.head.kind, found.head.members) == (name, 2 if name == "mlp" else 1)
    rows = features.rows(np.arange(20))
    assert np.array_equal(found.head.logits(rows), trained.head.logits(rows))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda trees: trees["trees.left"].__setitem__(0, 0), "node left behind its own"),
        (lambda trees: trees["trees.right"].__setitem__(0, 10**6), "node right behind its own"),
        (lambda trees: trees["trees.column"].__setitem__(0, 3), "columns below 3"),
        (lambda trees: trees["trees.threshold"].__setitem__(0, np.nan), "finite thresholds"),
        (lambda trees: trees["trees.share"].__setitem__((1, 0), 2), "shares from 0 to 1"),
        (lambda trees: trees["trees.starts"].__setitem__(1, 9), "trees that follow each other"),
        (lambda trees: trees.update({"trees.left": np.ones(2, np.int32)}), r"found \(2,\)"),
        (lambda trees: trees.update({"trees.left": np.ones(3)}), "found float64"),
        (lambda trees: trees.pop("trees.left"), "expected the tensors"),
    ],
)
def test_trees_that_would_not_end_are_refused(change: Any, message: str) -> None:
    trees: dict[str, Any] = {
        "trees.starts": np.array([0, 3]),
        "trees.column": np.array([2, -1, -1], np.int32),
        "trees.threshold": np.array([0.5, 0, 0]),
        "trees.left": np.array([1, 0, 0], np.int32),
        "trees.right": np.array([2, 0, 0], np.int32),
        "trees.share": np.array([[0, 0], [1, 0], [0.25, 0.75]], np.float32),
    }
    found = Forest(3, 2, dict(trees)).logits(np.array([[0, 0, 0], [0, 0, 1]], np.float32))
    assert np.allclose(np.exp(found), [[1, 1e-6], [0.25, 0.75]])
    change(trees)
    with pytest.raises(WeightsError, match=message):
        Forest(3, 2, trees)


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_classifiers_of_version_1_give_the_probabilities_that_they_gave(name: str) -> None:
    classifier = load_classifier(VERSION_1 / name)
    assert (classifier.head.kind, classifier.head.members, classifier.sequences) == (name, 1, None)
    count = 4 * classifier.schema.dim
    rows = np.linspace(-1, 2, count, dtype=np.float32).reshape(4, -1)
    expected = json.loads((VERSION_1 / name / "expected.json").read_text(encoding="utf-8"))["probabilities"]
    assert np.allclose(classifier.calibration.probabilities(classifier.head.logits(rows)), expected, atol=1e-6)


def test_classifier_of_version_1_still_evaluates(table: Path, store: Store) -> None:
    found = evaluate(table, VERSION_1 / "linear", reading=Reading(store)).metrics
    assert found["auroc"] > 0.9
    assert found["groups_seen_in_training"] != []
    assert [part["length_bases"] for part in found["contigs"]] == [500, 1000, 3000]


def test_sequence_calibration_makes_means_of_many_samples_right() -> None:
    generator = np.random.default_rng(4)
    counts = generator.integers(1, 40, 6000)
    y = generator.integers(0, 2, 6000)
    # Of n samples, which are alike, the mean logit of 0.5 · n^-0.4 says what one of n^0.4 times that would.
    means = generator.normal((2 * y - 1) * 0.5, np.sqrt(1 / counts**0.4))
    logits = np.stack([np.zeros(6000), means], axis=1)
    found = calibrate_sequences(logits, counts, y, np.ones(6000), "temperature")
    assert found.log_scale_slope == pytest.approx(0.4, abs=0.1)
    assert found.log_scale == pytest.approx(0.0, abs=0.2)
    assert found.shift == (0.0, 0.0)
    more = [found.probabilities(np.array([[0.0, 0.1]]), np.array([n])).tolist() for n in (30, 39, 4000)]
    assert more[0] != more[1] == more[2]
    shifted = calibrate_sequences(logits + np.array([0, 1]), counts, y, np.ones(6000), "vector")
    assert shifted.shift[1] - shifted.shift[0] < -0.5
    assert SequenceCalibration.from_json(json.loads(json.dumps(found.to_json())), 2) == found


def test_the_share_of_open_chunks_counts_as_much_as_it_says() -> None:
    generator = np.random.default_rng(5)
    y = generator.integers(0, 2, 8000)
    total = generator.choice([1, 2, 6, 20], 8000)
    opened = np.maximum(generator.binomial(total, np.where(y == 1, 0.8, 0.6)), 1)
    logits = np.stack([np.zeros(8000), generator.normal((2 * y - 1) * 0.5, 1)], axis=1)
    counts, chunks = opened * 2, Chunks(total, opened)
    plain = calibrate_sequences(logits, counts, y, np.ones(8000), "temperature")
    found = calibrate_sequences(logits, counts, y, np.ones(8000), "temperature", chunks)
    assert plain.open_chunks is None
    assert found.open_chunks is not None
    assert found.open_chunks.weight[1] == pytest.approx(-found.open_chunks.weight[0])
    assert found.open_chunks.centre == pytest.approx((opened / total)[total > 1].mean())
    assert found.open_chunks.most_chunks == 20

    def losses(calibration: SequenceCalibration) -> list[float]:
        right = calibration.probabilities(logits, counts, chunks)[np.arange(8000), y]
        return [float(-np.log(right[total == number]).mean()) for number in (1, 2, 6, 20)]

    before, after = losses(plain), losses(found)
    assert after[0] == pytest.approx(before[0], abs=0.01)  # the only chunk is always open
    assert all(one < other for one, other in zip(after[1:], before[1:], strict=True))
    few, many = (found.probabilities(logits[:1], counts[:1], Chunks(np.array([20]), np.array([n]))) for n in (5, 20))
    assert few[0, 1] < many[0, 1]
    assert SequenceCalibration.from_json(json.loads(json.dumps(found.to_json())), 2) == found
    # Classifiers of earlier versions say nothing of it, and score as they did.
    document = json.loads(json.dumps(found.to_json()))
    old = {name: value for name, value in document.items() if name != "open_chunks"}
    read = SequenceCalibration.from_json(old, 2)
    assert read.open_chunks is None
    assert np.array_equal(read.probabilities(logits, counts, chunks), read.probabilities(logits, counts))
    for change in ({"weight": [0.1]}, {"centre": "x"}, {"most_chunks": 1.5}, {"most_chunks": 0}, {"more": 1}):
        odd = {**old, "open_chunks": {**document["open_chunks"], **change}}
        with pytest.raises(InputError, match="calibration by open chunks"):
            SequenceCalibration.from_json(odd, 2)


def test_tensors_that_could_not_be_the_networks_are_not_read(folder: Path) -> None:
    with (folder / TENSORS).open("r+b") as stream:
        stream.truncate(1 << 40)  # sparse
    with pytest.raises(WeightsError, match="expected at most"):
        load_classifier(folder)


@pytest.mark.parametrize("about", [{"split": {"groups": ["x"]}}, {"split": 3}, {"split": {"groups": {"train": 4}}}])
def test_odd_history_does_not_stop_an_evaluation(folder: Path, features: Features, about: Any) -> None:
    edit(folder, lambda document: document.update(about=about))
    assert evaluate(features, folder).metrics["groups_seen_in_training"] == []


@pytest.mark.parametrize("name", ["{here}/model", "model", "~/model", "../model"])
def test_name_of_a_block_is_never_taken_for_a_path(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Store, name: str
) -> None:
    (tmp_path / "x" / "y").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path if name == "model" else tmp_path / "x")
    shutil.copytree(CHECKPOINT, tmp_path / "model")
    name = name.format(here=tmp_path)

    def rename(document: dict[str, Any]) -> None:
        document["schema"]["blocks"][0].update(space=name, space_id="0" * 64)

    edit(folder, rename)
    with pytest.raises(UnknownModelError, match="no model is named"):
        find_spaces(load_classifier(folder), store)
