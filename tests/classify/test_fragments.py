"""Fragments of genomes are scored as `predict` scores the same stretch of a genome as a contig of its own."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_genomes import GENOME_BASES

from embedstore.classify.fragments import fragments_of, scored
from embedstore.classify.prediction import predict
from embedstore.classify.training import TrainReport
from embedstore.features import Features, Preparation
from embedstore.library import Store


def test_fragments_are_scored_as_contigs(
    tmp_path: Path, place: Path, features: Features, report: TrainReport, store: Store
) -> None:
    classifier, samples = report.classifier, features.samples
    assert classifier.sequences is not None
    logits = classifier.head.logits(features.rows())
    y, folds = samples.labels.codes.astype(np.int64), np.zeros(len(samples), np.int64)
    probabilities = classifier.calibration.probabilities(logits)
    whole = fragments_of(samples, logits, probabilities, y, folds, [GENOME_BASES])
    assert len(whole) == 20
    found = scored(whole, classifier.sequences)
    predict([place / "host", place / "virus"], classifier, tmp_path / "out", store=store)
    with (tmp_path / "out" / "contigs.tsv").open(encoding="utf-8", newline="") as stream:
        contigs = {row["source"].removesuffix("_contig"): row for row in csv.DictReader(stream, delimiter="\t")}
    for row, group in enumerate(samples.groups.names[whole.groups].tolist()):
        contig = contigs[group]
        assert (whole.counts[row], whole.total_chunks[row]) == (int(contig["samples"]), int(contig["chunks"]))
        assert found[row, 1] == pytest.approx(float(contig["score_virus"]), abs=2e-6)
    # Without the samples of the first chunk, whose frames begin at the bases 1 to 3, one chunk less is open.
    rows = np.flatnonzero(samples.start > 3)
    fewer = fragments_of(samples.take(rows), logits[rows], probabilities[rows], y[rows], folds[rows], [GENOME_BASES])
    assert (fewer.total_chunks == 15).all()
    assert np.array_equal(fewer.open_chunks, whole.open_chunks - 1)


def test_samples_that_are_not_all_stop_free_frames_do_not_count_chunks(features: Features, report: TrainReport) -> None:
    coding = replace(features.samples, preparation=Preparation(chunk_length=300, frames="coding"))
    logits = report.classifier.head.logits(features.rows())
    y, folds = coding.labels.codes.astype(np.int64), np.zeros(len(coding), np.int64)
    found = fragments_of(coding, logits, report.classifier.calibration.probabilities(logits), y, folds)
    assert set(found.total_chunks.tolist()) == set(found.open_chunks.tolist()) == {1}
