"""Labels and groups with any character: no table, page or drawing breaks, and no training is lost to its report."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from small_genomes import MODELS, QUICK

from embedstore.atomic import cell, from_cell
from embedstore.classify import plots, report
from embedstore.classify.blocks import Reading
from embedstore.classify.classifier import load_classifier
from embedstore.classify.evaluation import evaluate
from embedstore.classify.prediction import predict
from embedstore.classify.training import train
from embedstore.comparison.comparing import compare
from embedstore.features import Features
from embedstore.library import Store
from embedstore_cli.main import main

PAIRS = [
    ("vir/us\n<script>", "$\\frac{a$ _ho=st"),
    ("\"quo\x1b[2Jted'\t", "_" + "🧬" * 300),
]


def label_table(path: Path, features: Features, labels: tuple[str, str]) -> Path:
    """Give the two classes of the samples other names."""
    groups = features.samples.groups.names.tolist()
    lines = [f"{cell(group)}\t{cell(labels[group.startswith('virus')])}\n" for group in groups]
    path.write_text("group\tlabel\n" + "".join(lines), encoding="utf-8")
    return path


def drawings(page: str) -> list[str]:
    return [part.partition("</svg>")[0] + "</svg>" for part in page.split("<svg")[1:]]


@pytest.mark.parametrize("labels", PAIRS)
def test_any_label_trains_evaluates_and_predicts(
    tmp_path: Path, features: Features, store: Store, place: Path, labels: tuple[str, str]
) -> None:
    table = label_table(tmp_path / "labels.tsv", features, labels)
    report = train(features, tmp_path / "classifier", options=QUICK, reading=Reading(labels=table))
    assert report.report_failed == ""
    assert load_classifier(tmp_path / "classifier").labels == tuple(sorted(labels))
    evaluation = evaluate(features, tmp_path / "classifier", tmp_path / "evaluation", reading=Reading(labels=table))
    assert evaluation.report_failed == ""
    for folder in ("classifier", "evaluation"):
        page = (tmp_path / folder / "report.html").read_text(encoding="utf-8")
        assert not {"\x1b", "\t"} & set(page)
        assert "<script" not in page
        assert "nan" not in page
        for drawing in drawings(page):
            ElementTree.fromstring("<svg" + drawing)  # noqa: S314 - our own drawing
        header, *rows = (tmp_path / folder / "scores.tsv").read_text(encoding="utf-8").rstrip("\n").split("\n")
        assert {len(row.split("\t")) for row in (header, *rows)} == {8}
        assert {from_cell(row.split("\t")[3]) for row in rows} == set(labels)
    predict([place / "virus" / "virus0.fna"], tmp_path / "classifier", tmp_path / "out", store=store)
    for name in ("predictions.tsv", "contigs.tsv"):
        lines = (tmp_path / "out" / name).read_text(encoding="utf-8").rstrip("\n").split("\n")
        assert len({line.count("\t") for line in lines}) == 1


def test_any_label_is_compared(tmp_path: Path, features: Features, store: Store) -> None:
    table = label_table(tmp_path / "labels.tsv", features, PAIRS[0])
    comparison = compare(
        features.samples, MODELS, tmp_path / "out", reading=Reading(store, labels=table), options=QUICK, seeds=1
    )
    assert comparison.report_failed == ""
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert len(drawings(page)) == 3


def test_curves_of_underscored_labels_are_in_the_legend(features: Features) -> None:
    drawn = plots.intervals_plot("difference", {"_a $x$ <b>\x1b": (0.1, 0.0, 0.2)}).svg
    assert "_a $x$ &lt;b&gt;\\x1b" in drawn


def test_training_whose_report_cannot_be_drawn_is_kept_and_says_why(
    tmp_path: Path,
    features: Features,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from embedstore.features import write_features

    def fail(*_: object) -> str:
        raise ValueError("no font\x1b[2J here")

    monkeypatch.setattr(report, "roc_plot", fail)
    write_features(features, tmp_path / "features.npz")
    arguments = [str(tmp_path / "features.npz"), "--network", "linear", "--folds", "2"]
    assert main(["train", *arguments, "-o", str(tmp_path / "classifier"), "--json"]) == 0
    captured = capsys.readouterr()
    assert "Warning: its report could not be drawn: no font\\x1b[2J here. The classifier is in" in captured.err
    assert json.loads(captured.out)["report_failed"] == "no font\\x1b[2J here"
    assert load_classifier(tmp_path / "classifier").labels == ("host", "virus")
    assert sorted(path.name for path in (tmp_path / "classifier").iterdir()) == [
        "classifier.json",
        "classifier.safetensors",
        "scores.tsv",
    ]
    evaluation = evaluate(features, tmp_path / "classifier", tmp_path / "evaluation", reading=None)
    assert evaluation.report_failed.startswith("no font")
    assert json.loads((tmp_path / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))["samples"] == np.sum(
        features.samples.labels.codes >= 0
    )
