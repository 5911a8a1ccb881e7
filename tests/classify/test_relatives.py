"""Relatives: genomes that are alike under two names are found, kept on one side, and named."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_genomes import MODELS, QUICK, read_with, write_genomes

from embedstore.classify.blocks import FeatureInput, Reading, relabelled
from embedstore.classify.heads import TrainOptions
from embedstore.classify.metrics import Measures
from embedstore.classify.relatives import equal_under_two_labels, find_relatives, group_by_sequence
from embedstore.classify.splitting import given_split, split_samples
from embedstore.classify.training import Trained, fit_classifier, grouped, train
from embedstore.comparison.comparing import compare
from embedstore.errors import InputError
from embedstore.features import Features, load_samples, merge
from embedstore.features.merging import read_assignments
from embedstore.library import open_store
from embedstore.samples import PrepareOptions, prepare
from embedstore.sequences.translation import genetic_code
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
    assert "Groups that are alike by sequence" in page
    assert page.index("Attention: of 1 pairs the labels differ") < page.index("Metrics")
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


def recoded(file: Path, to: Path, seed: int = 5) -> None:
    """Write a genome with another codon for most residues of its first frame: its proteins stay, its DNA does not."""
    header, dna = file.read_text(encoding="ascii").split("\n")[:2]
    residues = genetic_code(1).forward
    residue, same = dict[str, int](), dict[int, list[str]]()
    for place in np.ndindex(4, 4, 4):
        codon = "".join("ACGT"[base] for base in place)
        residue[codon] = residues[25 * place[0] + 5 * place[1] + place[2]]
        same.setdefault(residue[codon], []).append(codon)
    generator = np.random.default_rng(seed)
    new = "".join(str(generator.choice(same[residue[dna[place : place + 3]]])) for place in range(0, len(dna) - 2, 3))
    to.write_text(f"{header}_recoded\n{new}\n", encoding="ascii")


def test_groups_whose_proteins_are_alike_are_relatives_though_their_dna_is_not(tmp_path: Path) -> None:
    write_genomes(tmp_path / "virus", "virus", genomes=3, bases=6000)
    recoded(tmp_path / "virus" / "virus1.fna", tmp_path / "virus" / "other.fna")
    prepare([f"virus={tmp_path / 'virus'}"], tmp_path / "samples", PrepareOptions(length_bases=300))
    samples = load_samples(tmp_path / "samples" / "samples.tsv")
    (found,) = find_relatives(samples, tmp_path / "samples")
    assert (found.first, found.second) == ("other", "virus1")
    assert found.containment < 0.03
    assert found.of_residues > 0.15
    assert "of their proteins' k-mers" in str(found)
    (tmp_path / "samples" / "protein.faa").unlink()
    assert find_relatives(samples, tmp_path / "samples") == ()


def test_a_genome_of_a_single_chunk_is_found(tmp_path: Path) -> None:
    write_genomes(tmp_path / "virus", "virus", genomes=4, bases=310)
    mutated(tmp_path / "virus" / "virus2.fna", tmp_path / "virus" / "twin.fna", 0.03)
    prepare([f"virus={tmp_path / 'virus'}"], tmp_path / "samples", PrepareOptions(length_bases=300))
    found = find_relatives(load_samples(tmp_path / "samples" / "samples.tsv"), tmp_path / "samples")
    assert [(one.first, one.second) for one in found] == [("twin", "virus2")]


def looked_at(
    given: FeatureInput, groups: Path | None = None, relatives: bool | None = None
) -> tuple[list[str], dict[str, Any], tuple[tuple[str, ...], ...]]:
    """Return what `train` says of groups, what it keeps of that, and the groups that it joins."""
    notes = list[str]()
    reading = Reading(groups=groups, on_note=notes.append)
    samples = given.samples if isinstance(given, Features) else load_samples(Path(str(given)))
    labelled = relabelled(samples, reading)
    grouping = grouped(given, labelled, reading, relatives)
    split = split_samples(labelled, QUICK, grouping.links)
    return notes, grouping.to_json(split.groups)["grouping"], split.joined


EQUAL = (
    "Warning: 10 equal protein sequences in host1, labelled host, and strange, labelled virus. One label may be wrong."
)


def test_relatives_are_kept_together_by_default_and_two_labels_are_warned_of(twins: Path) -> None:
    (first, warning), grouping, joined = looked_at(twins)
    assert joined == (("another", "virus0"), ("host1", "strange"))
    assert first == "groups: 2 pairs of groups are alike by sequence, and kept together"
    assert warning.startswith("Warning: host1 and strange share")
    assert warning.endswith("one is labelled host, the other virus. One label may be wrong.")
    assert (grouping["by"], grouping["pairs"], grouping["pairs_in_two_parts"]) == ("sequence", 2, 0)
    assert grouping["pairs_under_two_labels"] == 1


def test_groups_of_the_table_are_used_if_that_is_asked_for_and_relatives_are_still_named(
    twins: Path, tmp_path: Path
) -> None:
    notes, grouping, joined = looked_at(twins, relatives=False)
    assert joined == (("host1", "strange"),)  # they have equal sequences
    assert notes[0] == "groups: those of the table, as that is asked for; 2 pairs of groups are alike by sequence"
    assert (grouping["by"], grouping["pairs"]) == ("table", 2)
    clusters = tmp_path / "clusters.tsv"
    clusters.write_text("group\tcluster\nvirus1\tgenus\nvirus2\tgenus\n", encoding="utf-8")
    notes, _, joined = looked_at(twins, clusters)
    assert joined == (("host1", "strange"),)
    assert notes[0].startswith("groups: those of the table, as a table of clusters is given")
    assert looked_at(twins, clusters, relatives=True)[2] == (("another", "virus0"), ("host1", "strange"))


def test_without_the_sequences_the_groups_of_the_table_are_used_and_that_is_said(twins: Path, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", create=True)
    features = merge(twins, MODELS, tmp_path / "features.npz", store=store, fill=True)
    alone = tmp_path / "alone" / "samples.tsv"
    alone.parent.mkdir()
    shutil.copy(twins, alone)
    for given in (alone, features):
        notes, grouping, joined = looked_at(given)
        assert notes == [
            "groups: those of the table, as dna.fna is not beside it: relatives are not looked for",
            EQUAL,
        ]
        assert joined == (("host1", "strange"),)
        assert not grouping["looked_at"]
    with pytest.raises(InputError, match="expected the table of samples, beside which"):
        looked_at(alone, relatives=True)


def test_equal_sequences_under_two_labels_are_named(tmp_path: Path) -> None:
    for label in ("host", "virus"):
        write_genomes(tmp_path / label, label, genomes=2)
    dna = (tmp_path / "host" / "host0.fna").read_text(encoding="ascii").split("\n")[1]
    (tmp_path / "virus" / "copy.fna").write_text(f">copy\n{dna[:300]}\n", encoding="ascii")
    inputs = [f"{label}={tmp_path / label}" for label in ("host", "virus")]
    prepare(inputs, tmp_path / "samples", PrepareOptions(length_bases=300))
    samples = load_samples(tmp_path / "samples" / "samples.tsv")
    found = equal_under_two_labels(samples)
    assert {(one["first"], one["second"], *one["labels"]) for one in found} == {("copy", "host0", "virus", "host")}
    grouping = group_by_sequence(samples, None, asked=None, has_clusters=False)
    assert any("in copy, labelled virus, and host0, labelled host" in line for line in grouping.lines())


def test_the_command_says_what_is_alike_and_what_is_in_two_parts(
    twins: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = tmp_path / "split.tsv"
    parts = {"another": "fold 1", "virus0": "fold 2", "host1": "fold 1", "strange": "fold 1"}
    samples = load_samples(twins)
    each = {name: parts.get(name, f"fold {1 + place % 2}") for place, name in enumerate(samples.groups.names.tolist())}
    split.write_text("group\tpart\n" + "".join(f"{name}\t{part}\n" for name, part in each.items()), encoding="utf-8")
    arguments = ["train", str(twins), "-m", "tnf", "--fill", "-s", str(tmp_path / "store"), "--groups", "source"]
    assert main([*arguments, "-o", str(tmp_path / "source"), "--split", str(split)]) == 0
    said = capsys.readouterr()
    assert "Warning: host1 and strange share" in said.err
    assert "Warning: 1 pairs of groups that are alike are in two parts: scores may be too good." in said.err
    assert "2 pairs, 1 in two parts; 1 under two labels" in said.out


def test_compare_keeps_relatives_together(twins: Path, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", create=True)
    options = TrainOptions(folds=2)
    notes = list[str]()
    reading = Reading(store, fill=True, on_note=notes.append)
    found = compare(twins, MODELS, reading=reading, options=options, seeds=1).document
    assert (found["grouping"]["by"], found["grouping"]["pairs"]) == ("sequence", 2)
    assert found["splits"][0]["joined_groups"] == [["another", "virus0"], ["host1", "strange"]]
    assert notes[0] == "groups: 2 pairs of groups are alike by sequence, and kept together"


def scored_originals(trained: Trained) -> float:
    """AUROC of the genomes that are not twins."""
    scores = trained.test
    rows = np.flatnonzero([not name.startswith("twin_") for name in scores.samples.groups.texts().tolist()])
    return float(Measures(scores.y[rows], scores.probabilities[rows], scores.labels).at()["auroc"])


@pytest.mark.slow
def test_twins_of_two_per_cent_in_training_do_not_leak(shared: Path, tmp_path: Path) -> None:
    """Real genomes; a twin is on the side of its original, which is on the side where it is without twins."""
    for folder in sorted((shared / "data" / "real" / "genomes").iterdir()):
        place = tmp_path / "genomes" / folder.name
        place.mkdir(parents=True)
        for file in sorted(folder.glob("*.fna.gz")):
            records = gzip.decompress(file.read_bytes()).decode("ascii")
            (place / file.name[:-3]).write_text(records, encoding="ascii")
            (place / f"twin_{file.name[:-3]}").write_text(twin(records, 0.02, len(file.name)), encoding="ascii")
    inputs = [f"{label}={tmp_path / 'genomes' / label}" for label in ("virus", "nonvirus")]
    prepare(inputs, tmp_path / "samples", PrepareOptions())
    store = open_store(tmp_path / "store", create=True)
    features = merge(tmp_path / "samples" / "samples.tsv", MODELS, store=store, fill=True)
    samples, options = features.samples, TrainOptions()
    grouping = group_by_sequence(samples, tmp_path / "samples", asked=None, has_clusters=False)
    names = set(samples.groups.names.tolist())
    pairs = {frozenset((one.first, one.second)) for one in grouping.alike.named}
    twins_of = {f"twin_{name}": name for name in names if f"twin_{name}" in names}
    assert all(frozenset(pair) in pairs for pair in twins_of.items())
    originals = np.flatnonzero([not name.startswith("twin_") for name in samples.groups.texts().tolist()])
    alone = merge(samples.take(originals), MODELS, store=store)
    split = split_samples(alone.samples, options, grouping.links)
    part = {name: part for part, some in split.groups.items() for name in some}
    part |= {name: part.get(original, "fold 1") for name, original in twins_of.items()}
    part |= dict.fromkeys(names - set(part), "fold 1")
    table = tmp_path / "parts.tsv"
    table.write_text("group\tpart\n" + "".join(f"{name}\t{of}\n" for name, of in part.items()), encoding="utf-8")
    with_twins = given_split(samples, read_assignments(table, "part"), options, grouping.links)
    honest = scored_originals(fit_classifier(alone, alone.samples, split, options))
    kept = scored_originals(fit_classifier(features, samples, with_twins, options))
    leaking = scored_originals(fit_classifier(features, samples, split_samples(samples, options), options))
    assert abs(kept - honest) < 0.03
    assert leaking > honest + 0.03


def twin(records: str, share: float, seed: int) -> str:
    """Return FASTA of records with another base at so many places, under other names."""
    generator = np.random.default_rng(seed)
    lines = []
    for line in records.split("\n"):
        if line.startswith(">"):
            name, _, rest = line.partition(" ")
            lines.append(f"{name}_twin {rest}")
            continue
        bases = np.array(list(line.upper()))
        chosen = np.flatnonzero((generator.random(len(bases)) < share) & np.isin(bases, list("ACGT")))
        steps = generator.integers(1, 4, size=len(chosen)).tolist()
        for place, step in zip(chosen.tolist(), steps, strict=True):
            bases[place] = "ACGT"["ACGT".index(bases[place]) - step]
        lines.append("".join(bases.tolist()))
    return "\n".join(lines)
