"""Scores along sequences, and their parts of one call: a phage in a bacterium is found, a plain genome is one part."""

from __future__ import annotations

import csv
import gzip
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from small_genomes import read_with, write_genomes

from embedstore.classify import prediction
from embedstore.classify.blocks import Reading
from embedstore.classify.heads import TrainOptions
from embedstore.classify.prediction import PredictOptions, predict
from embedstore.classify.track import segments
from embedstore.classify.training import TrainReport, train
from embedstore.library import Store, open_store
from embedstore.samples import PrepareOptions, prepare
from embedstore.sequences.translation import even_chunks

TRACKED = PredictOptions(track=True)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def bedgraph(path: Path) -> dict[str, list[tuple[int, int, float]]]:
    found: dict[str, list[tuple[int, int, float]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, start, end, score = line.split("\t")
        found.setdefault(name, []).append((int(start), int(end), float(score)))
    return found


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("penalty", [0.0, 0.5, 2.0])
def test_segments_are_the_best_of_all_that_are_possible(classes: int, penalty: float) -> None:
    generator = np.random.default_rng([classes, int(penalty * 10)])
    for chunks in (1, 2, 5, 7):
        log_scores = np.log(generator.dirichlet(np.ones(classes), chunks))

        def value(calls: tuple[int, ...], log_scores: np.ndarray = log_scores) -> float:
            gains = sum(float(row[call]) for row, call in zip(log_scores, calls, strict=True))
            return gains - penalty * sum(one != other for one, other in pairwise(calls))

        best = max(map(value, product(range(classes), repeat=chunks)))
        found = segments(log_scores, penalty)
        calls = tuple(call for first, behind, call in found for _ in range(first, behind))
        assert value(calls) == pytest.approx(best)
        assert [first for first, _, _ in found] == [0, *(behind for _, behind, _ in found[:-1])]
        assert all(one[2] != other[2] for one, other in pairwise(found))
    assert segments(np.empty((0, classes))) == []


@pytest.fixture(scope="module")
def long_contigs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A host with a virus in it, from base 60 001 to 78 000, the host alone, and a stump that gives no sample."""
    folder = tmp_path_factory.mktemp("long")
    write_genomes(folder / "host", "host", genomes=1, bases=120_000, seed=7)
    write_genomes(folder / "virus", "virus", genomes=1, bases=18_000, seed=7)
    host, virus = ((folder / name / f"{name}0.fna").read_text("ascii").splitlines()[1] for name in ("host", "virus"))
    text = f">mixed\n{host[:60_000]}{virus}{host[60_000:]}\n>short\nACG\n>plain\n{host}\n"
    (folder / "contigs.fna").write_text(text, "ascii")
    return folder / "contigs.fna"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(tmp_path_factory.mktemp("filled") / "store", create=True)


def test_a_virus_in_a_host_is_a_part_of_its_own(
    tmp_path: Path, long_contigs: Path, report: TrainReport, filled: Store
) -> None:
    predict([long_contigs], report.output, tmp_path / "out", store=filled, options=TRACKED)
    found = rows(tmp_path / "out" / "segments.tsv")
    assert list(found[0]) == ["source", "start", "end", "call", "mean_score_virus", "chunks"]
    assert [(row["source"], row["call"]) for row in found] == [
        ("mixed", "host"),
        ("mixed", "virus"),
        ("mixed", "host"),
        ("plain", "host"),
    ]
    part, chunk = found[1], 300
    assert abs(int(part["start"]) - 60_001) <= 2 * chunk
    assert abs(int(part["end"]) - 78_000) <= 2 * chunk
    assert float(part["mean_score_virus"]) > 0.6 > 0.4 > float(found[0]["mean_score_virus"])


def test_the_track_holds_each_chunk_scored_as_a_sequence(
    tmp_path: Path, long_contigs: Path, report: TrainReport, filled: Store
) -> None:
    predict([long_contigs], report.output, tmp_path / "out", store=filled, options=TRACKED)
    track = bedgraph(tmp_path / "out" / "scores.bedgraph")
    assert list(track) == ["mixed", "plain"]
    bounds = even_chunks(120_000, 300)
    record = long_contigs.read_text("ascii").splitlines()[-1]
    for start, end, score in track["plain"][3:40:12]:
        place = int(np.flatnonzero(bounds[:, 0] == start)[0])
        alone = tmp_path / f"{start}.fna"
        alone.write_text(f">alone\n{record[start : bounds[place, 1]]}\n", "ascii")
        predict([alone], report.output, tmp_path / str(start), store=filled)
        contig = rows(tmp_path / str(start) / "contigs.tsv")[0]
        assert float(contig["score_virus"]) == pytest.approx(score, abs=1e-4)  # other packs differ by rounding
        assert end <= bounds[place, 1]
    for intervals in track.values():
        assert all(one[1] <= other[0] for one, other in pairwise(intervals))  # bedGraph allows no overlap
        assert all(start < end for start, end, _ in intervals)
    for row in rows(tmp_path / "out" / "segments.tsv"):
        inside = [one for one in track[row["source"]] if int(row["start"]) <= one[0] + 1 and one[1] <= int(row["end"])]
        assert len(inside) == int(row["chunks"])
        assert float(row["mean_score_virus"]) == pytest.approx(np.mean([score for _, _, score in inside]), abs=2e-6)


def test_batches_do_not_matter_to_the_track_and_calls(
    tmp_path: Path, long_contigs: Path, report: TrainReport, filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(TRACKED, write_called=True, fdr=0.3)
    predict([long_contigs], report.output, tmp_path / "whole", store=filled, options=options)
    monkeypatch.setattr(prediction, "PIECE_ROWS", 97)
    predict([long_contigs], report.output, tmp_path / "pieces", store=filled, options=options)
    names = {path.name for path in (tmp_path / "whole").iterdir()} - {"predict.json"}
    assert names == {"predictions.tsv", "contigs.tsv", "called.fna", "scores.bedgraph", "segments.tsv"}
    for name in names - {"predictions.tsv"}:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "pieces" / name).read_bytes()


def test_without_a_calibration_of_sequences_the_track_averages_scores(
    tmp_path: Path, long_contigs: Path, report: TrainReport, filled: Store
) -> None:
    classifier = replace(report.classifier, sequences=None)
    predict([long_contigs], classifier, tmp_path / "out", store=filled, options=TRACKED)
    samples = [row for row in rows(tmp_path / "out" / "predictions.tsv") if row["source"] == "plain"]
    start, _, score = bedgraph(tmp_path / "out" / "scores.bedgraph")["plain"][0]
    of_chunk = [float(row["score_virus"]) for row in samples if start < int(row["start"]) <= start + 3]
    assert score == pytest.approx(np.mean(of_chunk), abs=2e-6)


@pytest.mark.slow
def test_a_phage_genome_in_a_bacterial_one_is_found(tmp_path: Path, shared: Path) -> None:
    genomes = shared / "data" / "real" / "genomes"
    hosts = ("ecoli_K12_slices", "shewanella_OS185_500kb", "akkermansia_500kb", "pgingivalis_W83", "yeast_chrI_rm")
    inputs = [f"virus={path}" for path in sorted((genomes / "virus").glob("*.fna.gz"))]
    inputs += [f"host={genomes / 'nonvirus' / host}.fna.gz" for host in hosts]
    prepare(inputs, tmp_path / "samples", PrepareOptions(length_bases=500, group_by="file"))
    reading: Reading = read_with(open_store(tmp_path / "store", create=True))
    train(tmp_path / "samples" / "samples.tsv", tmp_path / "classifier", reading=reading, options=TrainOptions(folds=2))

    def bases(name: str) -> str:
        return "".join(
            gzip.decompress((genomes / f"{name}.fna.gz").read_bytes()).decode().split(">")[1].split("\n")[1:]
        )

    host, phage = bases("nonvirus/akkermansia_500kb")[:200_000], bases("virus/crassphage_ctcc615")
    text = f">lysogen\n{host[:100_000]}{phage}{host[100_000:]}\n>host\n{host}\n>phage\n{phage}\n"
    (tmp_path / "contigs.fna").write_text(text, "ascii")
    store = open_store(tmp_path / "store")
    predict([tmp_path / "contigs.fna"], tmp_path / "classifier", tmp_path / "out", store=store, options=TRACKED)
    found = rows(tmp_path / "out" / "segments.tsv")
    assert [(row["source"], row["call"]) for row in found] == [
        ("lysogen", "host"),
        ("lysogen", "virus"),
        ("lysogen", "host"),
        ("host", "host"),
        ("phage", "virus"),
    ]
    assert abs(int(found[1]["start"]) - 100_001) <= 4 * 500
    assert abs(int(found[1]["end"]) - 100_000 - len(phage)) <= 4 * 500
