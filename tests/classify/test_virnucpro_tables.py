"""VirNucPro's two tables, byte for byte on its own scores; and the complete pipeline on real genomes."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from embedstore.classify import tables
from embedstore.classify.tables import SortedLines, VirnucproTables
from embedstore.classify.training import TrainReport
from embedstore.features import Categories, Features
from embedstore.features.features import TEXT
from embedstore.samples import PrepareOptions
from embedstore.samples.outputs import OutputFolder

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "virus.sh"
NAMES = ("prediction_results.txt", "prediction_results_highestscore.csv")


def test_tables_are_byte_for_byte_those_of_the_reference(
    tmp_path: Path, shared: Path, report: TrainReport, features: Features
) -> None:
    reference = shared / "data" / "virnucpro_reference" / "data" / "test_fixed_500bp_merged"
    rows = [line.split("\t") for line in (reference / NAMES[0]).read_text(encoding="utf-8").splitlines()[1:]]
    classifier = replace(report.classifier, schema=replace(report.classifier.schema, labels=("others", "virus")))
    samples = features.samples.take(np.arange(len(rows)))
    samples = replace(
        samples, ids=np.array([row[0] for row in rows], dtype=TEXT), groups=Categories.of([""] * len(rows))
    )
    scores = np.array([[np.float32(row[2]), np.float32(row[3])] for row in rows], np.float64)
    with OutputFolder(tmp_path / "out") as folder:
        written = VirnucproTables(folder, classifier, PrepareOptions(compat="virnucpro"), iter(()))
        written.write(samples, scores)
        written.finish()
        folder.publish(NAMES[0])
    for name in NAMES:
        assert (tmp_path / "out" / name).read_bytes() == (reference / name).read_bytes()


def test_lines_are_sorted_beyond_what_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_RUN_ROWS", 10)
    lines = [f"chunk_{number}\tTrue\n" for number in np.random.default_rng(1).permutation(57)]
    gatherer, stream = SortedLines(tmp_path), BytesIO()
    for line in lines:
        gatherer.add(line)
    gatherer.write_to(stream)
    assert stream.getvalue().decode() == "".join(sorted(lines))


@pytest.mark.slow
def test_real_viruses_are_distinguished_from_others_on_unseen_genera(tmp_path: Path, shared: Path) -> None:
    real = shared / "data" / "real"
    settings = {"OUT": str(tmp_path / "out"), "MANIFEST": str(real / "MANIFEST.tsv"), "OMP_NUM_THREADS": "1"}
    folders = [str(real / "genomes" / name) for name in ("virus", "nonvirus")]
    done = subprocess.run(
        [str(EXAMPLE), *folders], env={**os.environ, **settings}, capture_output=True, text=True, check=True
    )
    means = [float(mean) for mean in re.findall(r"AUROC (\S+)  recall", done.stdout)]
    assert len(means) == 5  # of samples, and of contigs of four lengths
    assert min(means) >= 0.68
