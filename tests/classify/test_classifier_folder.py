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

from embedstore.classify.blocks import find_spaces
from embedstore.classify.classifier import Classifier, load_classifier, save_classifier
from embedstore.classify.evaluation import evaluate
from embedstore.classify.heads import Network, tensor_shapes
from embedstore.classify.metrics import Calibration, calibrate
from embedstore.classify.training import TrainReport
from embedstore.errors import EmbedStoreError, FormatVersionError, InputError, UnknownModelError, WeightsError
from embedstore.features import Features
from embedstore.library import Store

CHECKPOINT = Path(__file__).resolve().parents[1] / "data" / "esm" / "fastesm2_tiny"
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
    assert found.network.kind == "mlp"
    assert repr(found).startswith(f"<Classifier {found.name}: {found.schema.dim} columns, 2 classes (")
    rows = np.random.default_rng(1).random((5, found.schema.dim), np.float32)
    assert np.array_equal(found.network.logits(rows), report.classifier.network.logits(rows))


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
        (lambda document: document.update(network="forest"), InputError, "found 'forest'"),
        (lambda document: document.update(network=["mlp"]), InputError, "mlp or linear"),
        (lambda document: document.update(network="linear"), WeightsError, "expected no"),
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
    return replace(report.classifier, network=Network(kind, report.classifier.schema.dim, 2, tensors))


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_logits_do_not_depend_on_the_batch(report: TrainReport, kind: Any) -> None:
    network = random_classifier(report, kind).network
    rows = np.random.default_rng(3).random((2500, network.dim), np.float32)
    together = network.logits(rows)
    assert np.array_equal(together, network.logits(rows))
    alone = np.concatenate([network.logits(rows[place : place + 1]) for place in range(0, 2500, 97)])
    assert np.array_equal(alone, together[::97])
    assert np.array_equal(network.logits(rows[::-1]), together[::-1])


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_logits_are_those_of_torch(report: TrainReport, kind: Any) -> None:
    torch = pytest.importorskip("torch")
    network = random_classifier(report, kind).network
    tensors = {name: torch.from_numpy(np.array(tensor)) for name, tensor in network.tensors.items()}
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
