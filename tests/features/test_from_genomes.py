"""From genomes to features: prepared tables are loaded, labelled, filled and merged, by library and command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import embedstore
from embedstore.errors import EmbedStoreError, InputError, MissingEmbeddingError, SchemaError
from embedstore.features import (
    FillFrom,
    Preparation,
    load_samples,
    merge,
    open_features,
    view,
    with_clusters,
    with_labels,
)
from embedstore.features.merging import is_missing
from embedstore.filling import FillOptions, FillReport, find_target
from embedstore.models.resolution import ModelOptions
from embedstore.samples import PrepareOptions, prepare
from embedstore_cli.main import main

MODELS = ("tnf", "aac_dpc")


def random_genome(seed: int, length: int = 2000) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four made-up genomes, prepared."""
    inputs = tmp_path_factory.mktemp("genomes")
    for number, label in enumerate(("virus", "host", "virus", "host")):
        (inputs / label).mkdir(exist_ok=True)
        (inputs / label / f"genome{number}.fna").write_text(f">contig{number}\n{random_genome(number)}\n")
    output = inputs / "prepared"
    prepare([f"virus={inputs / 'virus'}", f"host={inputs / 'host'}"], output, PrepareOptions(length_bases=99))
    return output


@pytest.fixture(scope="module")
def filled(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> embedstore.Store:
    """A store with the vectors of all samples."""
    store = embedstore.open(tmp_path_factory.mktemp("filled") / "store", create=True)
    merge(folder / "samples.tsv", MODELS, store=store, fill=True)
    return store


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(row.replace(" ", "\t") for row in rows) + "\n")
    return path


def test_loaded_samples_are_those_of_the_table(folder: Path) -> None:
    samples = load_samples(folder / "samples.tsv")
    lines = [line.split("\t") for line in (folder / "samples.tsv").read_text().splitlines()[1:]]
    assert samples.ids.tolist() == [line[0] for line in lines]
    for column, texts in ((1, samples.sources), (2, samples.groups), (3, samples.labels)):
        assert texts.texts().tolist() == [line[column] for line in lines]
    assert samples.start.tolist() == [int(line[4]) for line in lines]
    assert samples.end.tolist() == [int(line[5]) for line in lines]
    assert samples.strand.tolist() == [1 if line[6] == "+" else -1 for line in lines]
    assert samples.frame.tolist() == [int(line[7]) for line in lines]
    assert [embedstore.key_text(key.tobytes()) for key in samples.keys["dna"]] == [line[8] for line in lines]
    assert [embedstore.key_text(key.tobytes()) for key in samples.keys["protein"]] == [line[9] for line in lines]
    assert samples.preparation == Preparation(99, 1, "stop-free", None)


def test_merge_gives_what_get_gives(folder: Path, filled: embedstore.Store) -> None:
    features = merge(folder / "samples.tsv", MODELS, store=filled)
    dna = list(embedstore.read([folder / "dna.fna"]))
    proteins = list(embedstore.read([folder / "protein.faa"]))
    expected = np.concatenate([filled.get(dna, "tnf"), filled.get(proteins, "aac_dpc")], axis=1)
    assert np.array_equal(features.rows(), expected)
    assert features.dim == 136 + 420
    assert set(features.labels) == {"host", "virus"}


def test_missing_vectors_are_named_by_sample_unless_filled(folder: Path, tmp_path: Path) -> None:
    store = embedstore.open(tmp_path / "store", create=True)
    samples = load_samples(folder / "samples.tsv")
    with pytest.raises(MissingEmbeddingError) as caught:
        merge(samples, MODELS, store=store)
    assert caught.value.missing == samples.ids.tolist()
    reports: list[FillReport] = []
    features = merge(samples, MODELS, store=store, fill=FillFrom(folder, FillOptions(), on_report=reports.append))
    assert len(features.rows()) == len(samples)
    assert [report.space.name for report in reports] == list(MODELS)
    assert all(report.computed == report.unique for report in reports)
    with pytest.raises(InputError, match="expected the folder of its sequences"):
        merge(samples, MODELS, store=store, fill=True)


def test_what_a_model_has_no_vector_for_is_named_with_the_reason(tmp_path: Path) -> None:
    # Every other codon is known, but no four adjacent bases are.
    genome = write(tmp_path / "genome.fna", ">odd", "GCANNN" * 20, ">even", random_genome(8, 120))
    prepare([genome], tmp_path / "prepared", PrepareOptions(length_bases=120))
    store = embedstore.open(tmp_path / "store", create=True)
    table = tmp_path / "prepared" / "samples.tsv"
    with pytest.raises(MissingEmbeddingError) as caught:
        merge(table, ("tnf",), store=store, fill=True)
    assert all(label.startswith("odd:") and "no four adjacent bases" in label for label in caught.value.missing)
    samples = load_samples(table)
    target = find_target(store, "tnf", ModelOptions(), None)
    absent = is_missing(samples, target)
    assert absent.tolist() == [text == "odd" for text in samples.sources.texts().tolist()]
    assert len(view(samples.take(np.flatnonzero(~absent)), [target]).rows()) == (~absent).sum()


def test_proteins_that_look_like_dna_are_filled(tmp_path: Path) -> None:
    write(tmp_path / "genome.fna", ">repeat", "GGC" * 200)
    prepare([tmp_path / "genome.fna"], tmp_path / "prepared", PrepareOptions(length_bases=300))
    store = embedstore.open(tmp_path / "store", create=True)
    features = merge(tmp_path / "prepared" / "samples.tsv", ("aac_dpc",), store=store, fill=True)
    assert len(features.rows()) == len(features) > 0


@pytest.mark.parametrize("named", ["sample", "source", "group"])
def test_labels_of_a_table_take_the_place_of_labels(folder: Path, tmp_path: Path, named: str) -> None:
    samples = load_samples(folder / "samples.tsv")
    names = {"sample": samples.ids, "source": samples.sources.texts(), "group": samples.groups.texts()}[named].tolist()
    chosen = sorted(set(names))[::2]
    table = write(tmp_path / "labels.tsv", f"{named} label", *(f"{name} phage" for name in chosen))
    before, after = samples.labels.texts().tolist(), with_labels(samples, table).labels.texts().tolist()
    assert after == ["phage" if name in chosen else label for name, label in zip(names, before, strict=True)]


def test_label_that_no_longer_occurs_is_no_class_and_empty_takes_it_away(folder: Path, tmp_path: Path) -> None:
    samples = load_samples(folder / "samples.tsv")
    groups = samples.groups.names.tolist()
    one = with_labels(samples, write(tmp_path / "one.tsv", "group label", *(f"{group} phage" for group in groups)))
    assert one.labels.names.tolist() == ["phage"]
    none = with_labels(samples, write(tmp_path / "none.tsv", "group label", *(f"{group} " for group in groups)))
    assert none.labels.names.tolist() == []
    assert set(none.labels.codes.tolist()) == {-1}


def test_clusters_take_the_place_of_groups(folder: Path, tmp_path: Path) -> None:
    samples = load_samples(folder / "samples.tsv")
    rows = (f"{group} cluster{number // 2}" for number, group in enumerate(samples.groups.names.tolist()))
    clustered = with_clusters(samples, write(tmp_path / "clusters.tsv", "group cluster", *rows))
    assert clustered.groups.names.tolist() == ["cluster0", "cluster1"]
    assert len(np.unique(np.stack([clustered.groups.codes, samples.groups.codes]), axis=1).T) == 4


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (["sample label", "nobody virus"], "found 1 that are none: nobody"),
        (["group label", "genome0 virus", "genome9 virus"], "none: genome9"),
        (["group label", "genome0 virus", "genome0 host"], "line 3"),
        (["group label", "genome0"], "line 2: expected 2 fields"),
        (["genome0 virus"], "header"),
        (["name label"], "header"),
        (["group cluster"], "label"),
    ],
)
def test_label_table_that_does_not_fit_is_refused(
    folder: Path, filled: embedstore.Store, tmp_path: Path, rows: list[str], reason: str
) -> None:
    table = write(tmp_path / "labels.tsv", *rows)
    with pytest.raises(InputError, match=reason):
        merge(folder / "samples.tsv", MODELS, tmp_path / "features.h5", store=filled, labels=table)
    assert not (tmp_path / "features.h5").exists()


def test_empty_or_missing_label_table_is_refused(folder: Path, tmp_path: Path) -> None:
    samples = load_samples(folder / "samples.tsv")
    (tmp_path / "empty.tsv").touch()
    for name in ("empty.tsv", "missing.tsv"):
        with pytest.raises(InputError, match=name):
            with_labels(samples, tmp_path / name)


def test_repeated_sample_ids_are_refused(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "samples.tsv").read_text().splitlines()
    (tmp_path / "samples.tsv").write_text("\n".join([*lines, lines[5], lines[7]]) + "\n")
    with pytest.raises(InputError, match="found 2 more than once") as caught:
        load_samples(tmp_path / "samples.tsv")
    assert lines[5].split("\t")[0] in str(caught.value)


def test_table_without_settings_states_nothing_and_matches_nothing_stated(
    folder: Path, filled: embedstore.Store, tmp_path: Path
) -> None:
    shutil.copy(folder / "samples.tsv", tmp_path)
    stated = merge(folder / "samples.tsv", MODELS, store=filled).schema
    bare = merge(tmp_path / "samples.tsv", MODELS, store=filled).schema
    assert bare.preparation == Preparation()
    with pytest.raises(SchemaError, match="chunk length: expected 99, found none stated"):
        stated.require(bare, what="samples.tsv", owner="the classifier")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"preparation": {"chunk_length": 500}}', "no JSON"])
def test_settings_that_cannot_be_read_are_refused(folder: Path, tmp_path: Path, content: str) -> None:
    shutil.copy(folder / "samples.tsv", tmp_path)
    (tmp_path / "prepare.json").write_text(content)
    with pytest.raises(InputError, match=r"prepare\.json"):
        load_samples(tmp_path / "samples.tsv")


def test_other_chunk_length_is_refused(folder: Path, filled: embedstore.Store, tmp_path: Path) -> None:
    write(tmp_path / "genome.fna", ">contig", random_genome(1))
    prepare([tmp_path / "genome.fna"], tmp_path / "prepared", PrepareOptions(length_bases=90))
    other = merge(tmp_path / "prepared" / "samples.tsv", MODELS, store=filled, fill=True)
    expected = merge(folder / "samples.tsv", MODELS, store=filled).schema
    with pytest.raises(SchemaError, match="chunk length: expected 99, found 90"):
        expected.require(other.schema, what="samples.tsv", owner="the classifier")


@pytest.mark.parametrize("suffix", ["zarr", "h5", "npz"])
def test_command_writes_features(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], filled: embedstore.Store, suffix: str
) -> None:
    output = tmp_path / f"features.{suffix}"
    arguments = ["merge", str(folder / "samples.tsv"), "--models", "tnf,aac_dpc", "--store", filled.location]
    assert main([*arguments, "-o", str(output), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["output"] == str(output)
    assert document["dim"] == 556
    assert [block["space"] for block in document["schema"]["blocks"]] == ["tnf", "aac_dpc"]
    features = open_features(output)
    assert document["rows"] == len(features)
    assert np.array_equal(features.rows(), merge(folder / "samples.tsv", MODELS, store=filled).rows())


def test_command_fills_a_new_store_if_asked(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["merge", str(folder / "samples.tsv"), "--models", "tnf", "--store", str(tmp_path / "store")]
    output = tmp_path / "features.npz"
    assert main([*arguments, "-o", str(output)]) == 1
    assert "No store" in capsys.readouterr().err
    assert main([*arguments, "-o", str(output), "--fill", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["filled"][0]
    assert report["computed"] == report["unique"] > 0
    assert main([*arguments, "-o", str(tmp_path / "features.csv")]) == 2


def test_real_genomes(shared: Path, tmp_path: Path) -> None:
    genomes = shared / "data" / "real" / "genomes"
    files = ("virus/phiX174.fna.gz", "virus/hbv_ayw.fna.gz", "nonvirus/cpr3_bacterium.fna.gz")
    inputs = [f"{'virus' if file.startswith('virus') else 'other'}={genomes / file}" for file in files]
    prepare(inputs, tmp_path / "prepared")
    store = embedstore.open(tmp_path / "store", create=True)
    table = tmp_path / "prepared" / "samples.tsv"
    seen = merge(table, MODELS, store=store, fill=True)
    for suffix in ("zarr", "h5", "npz"):
        features = merge(table, MODELS, tmp_path / f"features.{suffix}", store=store)
        assert features.rows().tobytes() == seen.rows().tobytes()
        assert features.schema == seen.schema
    assert np.allclose(seen.rows()[:, :136].sum(axis=1), 1, atol=1e-5)
    assert seen.labels == ("other", "virus")
    assert len(seen.groups.names) == 3


def test_errors_are_those_of_embedstore(folder: Path, filled: embedstore.Store) -> None:
    for models in ((), ("tnf", "tnf"), ("no_such_model",), ("",)):
        with pytest.raises(EmbedStoreError):
            merge(folder / "samples.tsv", models, store=filled)
