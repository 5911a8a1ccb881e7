"""A pickled head of VirNucPro is read without executing anything of it; whatever is not exactly it is refused."""

from __future__ import annotations

import os
import pickle
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from embedstore.classify.classifier import load_classifier
from embedstore.classify.virnucpro_head import HeadSource, import_classifier, read_head
from embedstore.errors import SchemaError, WeightsError
from embedstore.library import Store, open_store

DIM = 556
SOURCE = HeadSource("tnf", "aac_dpc", 300)


def make_head(dim: int = DIM, hidden: int = 512, classes: int = 2, dropout: float = 0.5) -> nn.Module:
    """What VirNucPro's training pickles, with random numbers."""

    class MLPClassifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden_layer = nn.Linear(dim, hidden)
            self.bn1 = nn.BatchNorm1d(hidden)
            self.output_layer = nn.Linear(hidden, classes)
            self.dropout = nn.Dropout(dropout)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.bn1(self.hidden_layer(x)))
            result: torch.Tensor = self.output_layer(self.dropout(x))
            return result

    MLPClassifier.__module__, MLPClassifier.__qualname__ = "virnucpro_train", "MLPClassifier"
    sys.modules["virnucpro_train"].MLPClassifier = MLPClassifier  # type: ignore[attr-defined]
    torch.manual_seed(3)
    head = MLPClassifier()
    head.bn1.running_mean.uniform_()  # type: ignore[operator,union-attr]
    head.bn1.running_var.uniform_(0.5, 2)  # type: ignore[operator,union-attr]
    return head.eval()


@pytest.fixture(autouse=True)
def module() -> Iterator[None]:
    """The script that the head's class comes from; it need not be there when the head is read."""
    sys.modules["virnucpro_train"] = types.ModuleType("virnucpro_train")
    yield
    sys.modules.pop("virnucpro_train", None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store", create=True)


def saved(path: Path, thing: object) -> Path:
    torch.save(thing, path)
    return path


def test_head_is_read_and_gives_its_numbers(tmp_path: Path, store: Store) -> None:
    head = make_head()
    file = saved(tmp_path / "500_model.pth", head)
    sys.modules.pop("virnucpro_train")  # nothing of it is imported
    import_classifier(file, SOURCE, tmp_path / "classifier", store)
    classifier = load_classifier(tmp_path / "classifier")
    rows = torch.rand(9, DIM)
    expected = torch.softmax(head(rows), dim=1).detach().numpy()
    found = classifier.calibration.probabilities(classifier.head.logits(rows.numpy()))
    assert np.allclose(found, expected, atol=1e-6)
    assert classifier.labels == ("others", "virus")
    assert classifier.schema.preparation.compat == "virnucpro"
    assert classifier.schema.preparation.chunk_length == 300
    assert [block.space for block in classifier.schema.blocks] == ["tnf", "aac_dpc"]


def test_head_of_another_width_is_refused_with_both(tmp_path: Path, store: Store) -> None:
    file = saved(tmp_path / "model.pth", make_head(dim=3328))
    with pytest.raises(
        SchemaError, match=r"expected a network of 556 inputs \(tnf 136 \+ aac_dpc 420\), found one of 3328"
    ):
        import_classifier(file, SOURCE, tmp_path / "classifier", store)
    assert not (tmp_path / "classifier").exists()


def with_extra_layer() -> nn.Module:
    head = make_head()
    head.second = nn.Linear(2, 2)
    return head


def with_hook() -> nn.Module:
    head = make_head()
    head.bn1._forward_hooks[0] = "hook"  # type: ignore[index,union-attr,operator,assignment]
    return head


def with_swapped_layers() -> nn.Module:
    head = make_head()
    head.bn1 = nn.Linear(512, 512)
    return head


def with_nan() -> nn.Module:
    head = make_head()
    with torch.no_grad():
        head.hidden_layer.weight[0, 0] = float("nan")  # type: ignore[index,union-attr,operator]
    return head


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_head(hidden=256), "expected hidden_layer.weight of"),
        (lambda: make_head(classes=3), "expected output_layer.weight of"),
        (lambda: make_head(dropout=0.1), "p 0.5 of dropout, found 0.1"),
        (with_extra_layer, "second"),
        (with_hook, "hooks|restricted"),
        (with_swapped_layers, "expected the layers"),
        (with_nan, "finite"),
        (lambda: make_head().double(), "DoubleStorage"),
        (lambda: make_head().state_dict(), "expected a pickled MLPClassifier, found none"),
        (lambda: nn.Sequential(nn.Linear(DIM, 2)), "Sequential"),
        (lambda: {"model": make_head(), "path": Path("x")}, "pathlib"),
        (lambda: [make_head()], "expected a MLPClassifier, found list"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        read_head(saved(tmp_path / "model.pth", make()))
    assert "nothing in the file was executed" in str(caught.value)


class Boom:
    """Makes a folder if it is ever unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_malicious_pickles_are_refused_and_not_executed(tmp_path: Path) -> None:
    head, marker = make_head(), tmp_path / "executed"
    head.bn1.note = Boom(marker)  # type: ignore[union-attr,assignment]
    with pytest.raises(WeightsError, match="mkdir"):
        read_head(saved(tmp_path / "model.pth", head))
    with pytest.raises(WeightsError, match="mkdir"):
        read_head(saved(tmp_path / "alone.pth", Boom(marker)))
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Boom(marker)))
    with pytest.raises(WeightsError, match="zip"):
        read_head(tmp_path / "plain.pth")
    assert not marker.exists()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "model.pth", make_head())
    content = file.read_bytes()
    for kept_bytes in (0, 100, len(content) // 2, len(content) - 30):
        file.write_bytes(content[:kept_bytes])
        with pytest.raises(WeightsError, match="Refused"):
            read_head(file)
    with pytest.raises(WeightsError, match="Refused"):
        read_head(tmp_path / "nowhere.pth")


def expanded(head: nn.Module, columns: int) -> nn.Module:
    """A head whose weights claim so many columns, of strides 0: a few bytes in the file."""
    head.hidden_layer.weight = nn.Parameter(torch.zeros(1).expand(512, columns))  # type: ignore[assignment]
    return head


def odd_modules(head: nn.Module) -> nn.Module:
    head.__dict__["_modules"] = {"hidden_layer": head.hidden_layer, "bn1": 3}
    return head


def odd_hooks(head: nn.Module) -> nn.Module:
    head.hidden_layer.__dict__["_forward_hooks"] = 7  # type: ignore[union-attr]
    return head


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda head: expanded(head, 1 << 33), "claims 17592186044416 bytes, its storage has 4"),
        (lambda head: expanded(head, DIM), "its storage has 4"),
        (lambda head: head.half(), "HalfStorage"),
        (odd_modules, "expected the layers"),
        (odd_hooks, "another structure"),
    ],
)
def test_head_that_claims_more_than_it_holds_is_refused(tmp_path: Path, change: Any, reason: str) -> None:
    file = saved(tmp_path / "head.pth", change(make_head()))
    with pytest.raises(WeightsError, match=reason):
        read_head(file)


def test_head_in_a_deflated_archive_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "head.pth", make_head())
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(WeightsError, match="compressed"):
        read_head(file)
