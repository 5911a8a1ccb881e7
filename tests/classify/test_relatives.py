"""Relatives: genomes that are alike under two names are found, kept on one side, and named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from small_genomes import MODELS, QUICK, read_with, write_genomes

from embedstore.classify.relatives import find_relatives
from embedstore.classify.training import train
from embedstore.errors import InputError
from embedstore.features import load_samples, merge
from embedstore.library import open_store
from embedstore.samples import PrepareOptions, prepare
from embedstore_cli.main import main


def mutated(file: Path, to: Path, share: float) -> None:
    """Write a genome with another base at so many places."""
    header, dna = file.read_text(encoding="ascii").split("\n")[:2]
    generator = np.random.default_rng(3)
    bases = np.array(list(dna))
    chosen = generator.random(len(bases)) < share
    bases[chosen] = generator.choice(list("ACG"), int(chosen.sum()))
    to.write_text(f"{header}_twin\n{''.join(bases)}\n", encoding="ascii")


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples of genomes, of which virus0 has a mutated twin, and host1 one that is labelled as a virus."""
    place = tmp_path_factory.mktemp("twins")
    for label in ("host", "virus"):
        write_genomes(place / label, label, genomes=6)
    mutated(place / "virus" / "virus0.fna", place / "virus" / "another.fna", 0.02)
    mutated(place / "host" / "host1.fna", place / "virus" / "strange.fna", 0.01)
    prepare(
        [f"{label}={place / label}" for label in ("host", "virus")], place / "samples", PrepareOptions(length_bases=300)
    )
    return place / "samples" / "samples.tsv"


def test_twins_are_found_and_no_others_and_labels_that_differ_are_named(twins: Path) -> None:
    found = find_relatives(load_samples(twins), twins.parent)
    assert [(one.first, one.second) for one in found] == [("another", "virus0"), ("host1", "strange")]
    assert all(0.4 < one.containment < 0.9 for one in found)
    assert str(found[1]).endswith("of their k-mers, but one is labelled host, the other virus")


def test_relatives_stay_on_one_side_and_are_in_the_report(twins: Path, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", create=True)
    report = train(twins, tmp_path / "classifier", options=QUICK, reading=read_with(store), relatives=True)
    for pair in ({"another", "virus0"}, {"host1", "strange"}):
        assert sum(bool(pair & set(names)) for names in report.split.groups.values()) == 1
    assert report.split.joined == (("another", "virus0"), ("host1", "strange"))
    assert [one["first"] for one in report.classifier.about["relatives"]] == ["another", "host1"]
    page = (tmp_path / "classifier" / "report.html").read_text(encoding="utf-8")
    assert "Groups whose DNA is alike" in page
    arguments = [str(twins), "-m", "tnf", "--groups", "auto", "--folds", "2", "-q", "-s", str(tmp_path / "store")]
    assert main(["train", *arguments, "-o", str(tmp_path / "other")]) == 0


def test_samples_without_their_sequences_are_refused(twins: Path, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", create=True)
    merge(twins, MODELS, tmp_path / "features.npz", store=store, fill=True)
    with pytest.raises(InputError, match="expected the table of samples, beside which"):
        train(tmp_path / "features.npz", tmp_path / "classifier", options=QUICK, relatives=True)
    shutil.copy(twins, tmp_path / "samples.tsv")
    head = "\n".join((twins.parent / "dna.fna").read_text(encoding="ascii").split("\n")[:10])
    (tmp_path / "dna.fna").write_text(head + "\n", encoding="ascii")
    with pytest.raises(InputError, match="expected the sequences of all samples, found"):
        find_relatives(load_samples(tmp_path / "samples.tsv"), tmp_path)
