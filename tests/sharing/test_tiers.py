"""Looking up other stores after the local one: what they have is used, what is wrong with them is skipped."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filling.toy_model import RECIPE, ToyEmbedder, expected, keys_of, proteins, records, toy_target
from store.object_servers import running_web_server

import embedstore
from embedstore.errors import InputError, MissingEmbeddingError, SpaceConflictError, StorageError, UpstreamWarning
from embedstore.filling import fill, preview
from embedstore.library import Store, open_store, publish_index
from embedstore.retrieval import fill_and_retrieve, retrieve
from embedstore.sharing import Tiers, Upstream, upstream_places
from embedstore.storage.local import LocalStorage
from embedstore.storage.protocol import Blob, Buffer, Entry
from embedstore.store import SpaceStore
from embedstore_cli.main import main

SEQUENCES = proteins(60)
PROTEINS = Path(__file__).resolve().parents[2] / "examples" / "proteins.faa"


def filled(place: Path, sequences: Sequence[str], embedder: ToyEmbedder | None = None, name: str = "toy") -> Store:
    store = Store.open(place, create=True)
    fill(records(sequences), toy_target(store, embedder or ToyEmbedder(), name))
    return store


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A store with the first 40 sequences."""
    filled(tmp_path / "lab", SEQUENCES[:40])
    return tmp_path / "lab"


def own(tmp_path: Path, *upstream: Path | str, keep: bool = False) -> Store:
    return open_store(tmp_path / "own", create=True, upstream=upstream, pull_through=keep)


def read_own(tmp_path: Path) -> SpaceStore:
    return SpaceStore.open(tmp_path / "own")


def test_a_fill_computes_only_what_no_store_has(tmp_path: Path, lab: Path) -> None:
    filled(tmp_path / "remote", SEQUENCES[30:50])
    store = own(tmp_path, lab, tmp_path / "remote")
    embedder = ToyEmbedder()
    planned = preview(records(SEQUENCES), toy_target(store, embedder))
    assert planned.dry_run is not None
    assert (planned.hits, planned.dry_run.misses) == (50, 10)
    report = fill(records(SEQUENCES), toy_target(store, embedder))
    assert (report.hits, report.computed) == (50, 10)
    assert sorted(embedder.embedded) == sorted(sequence.encode() for sequence in SEQUENCES[50:])
    assert len(read_own(tmp_path).space("toy")) == 10  # without --pull-through the others stay where they are
    found = retrieve(records(SEQUENCES), toy_target(own(tmp_path, lab, tmp_path / "remote")))
    np.testing.assert_array_equal(found.read(), expected(SEQUENCES))


def test_what_only_an_upstream_store_has_is_read_in_any_order_and_repeated(tmp_path: Path, lab: Path) -> None:
    store = own(tmp_path, lab)
    fill(records(SEQUENCES[30:45]), toy_target(store, ToyEmbedder()))
    asked = [*SEQUENCES[44:20:-1], SEQUENCES[0], SEQUENCES[40], SEQUENCES[0]]
    np.testing.assert_array_equal(store.space("toy").read(keys_of(asked)), expected(asked))
    with pytest.raises(MissingEmbeddingError) as missing:
        store.space("toy").read(keys_of([SEQUENCES[3], SEQUENCES[59]]))
    assert missing.value.missing == [embedstore.key_text(keys_of([SEQUENCES[59]])[0].tobytes())]


def test_pull_through_keeps_what_it_finds_with_the_document_of_the_space(tmp_path: Path, lab: Path) -> None:
    store = own(tmp_path, lab, keep=True)
    report = fill(records(SEQUENCES[:40]), toy_target(store))  # without a model
    assert (report.hits, report.computed) == (40, 0)
    shutil.rmtree(lab)
    kept = read_own(tmp_path)
    np.testing.assert_array_equal(kept.space("toy").read(keys_of(SEQUENCES[:40])), expected(SEQUENCES[:40]))
    assert kept.verify(deep=True).clean
    assert len(kept.space("toy").segments()) == 1
    assert "stores" in kept.space("toy").segments()[0].commit.provenance["copied_from"]


def test_reading_with_pull_through_keeps_what_was_read(tmp_path: Path, lab: Path) -> None:
    space = own(tmp_path, lab, keep=True).space("toy")
    np.testing.assert_array_equal(space.read(keys_of(SEQUENCES[:7])), expected(SEQUENCES[:7]))
    assert len(read_own(tmp_path).space("toy")) == 7
    shutil.rmtree(lab)
    np.testing.assert_array_equal(space.read(keys_of(SEQUENCES[:7])), expected(SEQUENCES[:7]))


def test_a_dry_run_keeps_nothing(tmp_path: Path, lab: Path) -> None:
    preview(records(SEQUENCES), toy_target(own(tmp_path, lab)))
    assert read_own(tmp_path).spaces() == []


def test_a_store_that_has_all_does_not_open_the_others(tmp_path: Path) -> None:
    filled(tmp_path / "own", SEQUENCES)
    store = own(tmp_path, "s3://there-is-no-such-bucket/at-all", tmp_path / "nowhere")
    report = fill(records(SEQUENCES), toy_target(store))  # a warning would be an error
    assert report.hits == 60


def test_an_upstream_store_that_cannot_be_had_is_warned_of_once(tmp_path: Path, lab: Path) -> None:
    store = own(tmp_path, tmp_path / "nowhere", lab)
    with pytest.warns(UpstreamWarning, match="Skipping the store .*nowhere: No store at") as warned:
        report = fill(records(SEQUENCES), toy_target(store, ToyEmbedder()))
    assert len(warned) == 1
    retrieve(records(SEQUENCES), toy_target(store)).read()  # another warning would be an error
    assert (report.hits, report.computed) == (40, 20)


def test_a_place_of_an_unknown_kind_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder, or a URL"):
        own(tmp_path, "gopher://lab/store").spaces()


def test_the_same_name_with_another_recipe_is_no_match(tmp_path: Path) -> None:
    other = ToyEmbedder(recipe=replace(RECIPE, implementation="toy/2"))
    filled(tmp_path / "lab", SEQUENCES[:40], other)
    store = own(tmp_path, tmp_path / "lab")
    report = fill(records(SEQUENCES), toy_target(store, ToyEmbedder()))
    assert (report.hits, report.computed) == (0, 60)
    with pytest.raises(SpaceConflictError):  # now the name is taken here
        toy_target(own(tmp_path, tmp_path / "lab"), other)


def test_the_same_recipe_under_another_name_is_the_same_space(tmp_path: Path) -> None:
    filled(tmp_path / "lab", SEQUENCES[:40], name="tiny")
    store = own(tmp_path, tmp_path / "lab")
    found = store.find_space(RECIPE, "toy")
    assert found is not None
    assert found.upstream is not None
    assert (found.name, found.is_made, len(found)) == ("tiny", False, 0)
    assert found.contains(keys_of(SEQUENCES[:40])).all()


def damage_rows(place: Path, sequences: Sequence[str]) -> None:
    space = SpaceStore.open(place).space("toy")
    for segment in space.segments():
        part = segment.commit.arrays["vectors"][0]
        rows = [row for row, key in enumerate(segment.keys) if (keys_of(sequences) == key).all(axis=1).any()]
        path = place / space.folder / part.file
        content = bytearray(path.read_bytes())
        for row in rows:
            content[part.offset + row * segment.row_bytes] ^= 0x11
        path.write_bytes(content)


def test_rows_that_are_damaged_upstream_come_from_the_next_store_or_are_computed(tmp_path: Path, lab: Path) -> None:
    filled(tmp_path / "remote", SEQUENCES[:2])
    damage_rows(lab, SEQUENCES[:4])
    store = own(tmp_path, lab, tmp_path / "remote", keep=True)
    embedder = ToyEmbedder()
    with pytest.warns(UpstreamWarning, match="Rows of space toy of .* are damaged there"):
        report = fill(records(SEQUENCES[:40]), toy_target(store, embedder))
    assert (report.hits, report.computed) == (38, 2)
    assert sorted(embedder.embedded) == sorted(sequence.encode() for sequence in SEQUENCES[2:4])
    np.testing.assert_array_equal(
        read_own(tmp_path).space("toy").read(keys_of(SEQUENCES[:40])), expected(SEQUENCES[:40])
    )


def test_a_damaged_row_is_never_returned(tmp_path: Path, lab: Path) -> None:
    damage_rows(lab, SEQUENCES[:1])
    space = own(tmp_path, lab).space("toy")
    with pytest.warns(UpstreamWarning), pytest.raises(MissingEmbeddingError) as missing:
        space.read(keys_of(SEQUENCES[:40]))
    assert len(missing.value.missing) == 1
    assert not space.contains(keys_of(SEQUENCES[:1])).any()
    np.testing.assert_array_equal(space.read(keys_of(SEQUENCES[1:40])), expected(SEQUENCES[1:40]))


def test_a_space_whose_files_are_gone_upstream_counts_as_missing(tmp_path: Path, lab: Path) -> None:
    space = SpaceStore.open(lab).space("toy")
    shutil.rmtree(lab / space.folder / "data")
    store = own(tmp_path, lab)
    with pytest.warns(UpstreamWarning):
        report = fill(records(SEQUENCES), toy_target(store, ToyEmbedder()))
    assert report.computed == 60


class ReadOnlyStorage(LocalStorage):
    """A folder that this process may only read."""

    def write(self, name: str, parts: Iterable[Buffer]) -> Entry:
        raise StorageError(f"Cannot write {name}: Permission denied.")


def test_a_store_that_cannot_be_written_to_is_read_with_its_upstream_stores(tmp_path: Path, lab: Path) -> None:
    filled(tmp_path / "own", SEQUENCES[:5])
    store = Store(ReadOnlyStorage(tmp_path / "own"))
    store.tiers = Tiers((Upstream(lab),), pull_through=True)
    with pytest.warns(UpstreamWarning, match="Not keeping what upstream stores have") as warned:
        found = fill_and_retrieve(records(SEQUENCES[:40]), toy_target(store))
    np.testing.assert_array_equal(found.read(), expected(SEQUENCES[:40]))
    assert len(warned) == 1
    with pytest.raises(StorageError, match="Cannot add to the store"):
        fill(records(SEQUENCES), toy_target(store, ToyEmbedder(before=never)))


def never(call: int, sequences: Sequence[bytes]) -> None:
    raise AssertionError("it was computed though it could not be stored")


def test_places_are_separated_by_blanks_and_quoted_as_in_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDSTORE_UPSTREAM", "/mnt/lab  's3://lab/my store' https://x.org/a,b")
    assert upstream_places() == (Path("/mnt/lab"), "s3://lab/my store", "https://x.org/a,b")
    assert upstream_places([""]) == ()
    monkeypatch.setenv("EMBEDSTORE_UPSTREAM", "'/mnt/lab")
    with pytest.raises(InputError, match="Cannot read EMBEDSTORE_UPSTREAM"):
        upstream_places()


def test_commands_look_up_the_stores_of_the_option_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMBEDSTORE_PATH", str(tmp_path / "own"))
    fill_all = ["fill", str(PROTEINS), "--model", "aac_dpc", "--json"]
    assert main([*fill_all, "--store", "my lab"]) == 0
    capsys.readouterr()
    assert main([*fill_all, "--dry-run", "--upstream", "my lab"]) == 0
    assert json.loads(capsys.readouterr().out)["misses"] == 0
    assert not (tmp_path / "own").exists()
    assert main(["get", str(PROTEINS), "--model", "aac_dpc", "--upstream", "my lab", "--output", "x.npz"]) == 0
    assert not (tmp_path / "own").exists()
    capsys.readouterr()
    assert main([*fill_all, "--upstream", "nowhere", "--upstream", "my lab", "--pull-through"]) == 0
    captured = capsys.readouterr()
    warned = [line for line in captured.err.splitlines() if line != f"Made a store at {tmp_path / 'own'}."]
    assert [line.partition(": No store")[0] for line in warned] == ["Warning: Skipping the store nowhere"]
    assert json.loads(captured.out)["hits"] == 14
    assert len(open_store().space("aac_dpc")) == 14
    monkeypatch.setenv("EMBEDSTORE_UPSTREAM", shlex.quote(str(tmp_path / "my lab")))
    assert main([*fill_all, "--store", "third"]) == 0
    assert json.loads(capsys.readouterr().out)["hits"] == 14
    assert main([*fill_all, "--store", "fourth", "--upstream", ""]) == 0
    assert json.loads(capsys.readouterr().out)["computed"] == 14
    assert main(["ls", "--store", "third", "--json"]) == 0
    assert [(space["store"], space["rows"]) for space in json.loads(capsys.readouterr().out)] == [
        (str(tmp_path / "my lab"), 14)
    ]


def test_classifiers_are_fed_from_upstream_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(3)
    genomes = ["".join(random.choice(list("ACGT"), 700)) for _ in range(3)]
    Path("genomes.fna").write_text("".join(f">g{number}\n{genome}\n" for number, genome in enumerate(genomes)))
    assert main(["prepare", "genomes.fna", "--length", "150", "--output", "samples", "--quiet"]) == 0
    merge = ["merge", "samples/samples.tsv", "--models", "tnf,aac_dpc", "--json"]
    assert main([*merge, "--store", "lab", "--fill", "--output", "lab.npz"]) == 0
    assert main([*merge, "--store", "none", "--upstream", "lab", "--output", "none.npz"]) == 0
    assert not Path("none").exists()
    assert main([*merge, "--store", "own", "--upstream", "lab", "--fill", "--output", "used.npz"]) == 0
    assert main([*merge, "--store", "own", "--upstream", "lab", "--pull-through", "--output", "kept.npz"]) == 0
    capsys.readouterr()
    assert main([*merge, "--store", "own", "--fill", "--output", "own.npz"]) == 0
    assert [report["computed"] for report in json.loads(capsys.readouterr().out)["filled"]] == [0, 0]
    expected_rows = np.load("lab.npz")["X"]
    for name in ("none.npz", "used.npz", "kept.npz", "own.npz"):
        np.testing.assert_array_equal(np.load(name)["X"], expected_rows)


def test_a_web_server_is_an_upstream_store(tmp_path: Path, lab: Path) -> None:
    publish_index(lab)
    with running_web_server(lab) as url:
        store = own(tmp_path, url, keep=True)
        report = fill(records(SEQUENCES), toy_target(store, ToyEmbedder()))
    assert (report.hits, report.computed) == (40, 20)
    np.testing.assert_array_equal(read_own(tmp_path).space("toy").read(keys_of(SEQUENCES)), expected(SEQUENCES))


class BreakingStorage(LocalStorage):
    """A folder that can be taken away."""

    is_there = True

    def open(self, name: str, size_bytes: int, *, mapped: bool = True) -> Blob:
        if not self.is_there:
            raise StorageError(f"Cannot open {name}: the connection is gone.")
        return super().open(name, size_bytes)


def test_an_upstream_store_that_goes_away_meanwhile_is_skipped(tmp_path: Path, lab: Path) -> None:
    storage = BreakingStorage(lab)
    upstream = Upstream(lab)
    upstream._store = SpaceStore(storage)
    store = Store.open(tmp_path / "own", create=True)
    store.tiers = Tiers((upstream,))
    target = toy_target(store, ToyEmbedder())
    assert target.space is not None
    assert target.space.contains(keys_of(SEQUENCES[:40])).all()
    storage.is_there = False
    with pytest.warns(UpstreamWarning, match="Skipping the store"), pytest.raises(MissingEmbeddingError):
        target.space.read(keys_of(SEQUENCES[:40]))
    assert fill(records(SEQUENCES), target).computed == 60
