"""The library: a store that fills itself, gives vectors in the order asked for, and exports them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from Bio.Seq import Seq
from Bio.SeqRecord import SeqRecord

import embedstore
from embedstore.errors import InputError, MissingEmbeddingError, StorageError, StoreError, StoreNotFoundError
from embedstore.export import export
from embedstore.library import Store, default_place, details, make_store, overview, verify_store
from embedstore.models.composition import residues_and_pairs
from embedstore.records import Record, Rejection
from embedstore.retrieval import Retrieved, fill_and_retrieve, retrieve
from embedstore.sequences.in_memory import records_of

SEQUENCES = ["MKTAYIAKQR", "GSHMASMTGG", "WWWWW"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return embedstore.open(tmp_path / "store", create=True)


def composition(sequences: list[str]) -> np.ndarray:
    return residues_and_pairs([sequence.encode() for sequence in sequences]).vectors


def test_get_gives_rows_in_the_order_asked_for(store: Store) -> None:
    store.fill(SEQUENCES, model="aac_dpc")
    asked = ["WWWWW", "mktayiakqr*", "WWWWW", "GSHMASMTGG"]
    np.testing.assert_array_equal(
        store.get(asked, model="aac_dpc"), composition(["WWWWW", "MKTAYIAKQR", "WWWWW", "GSHMASMTGG"])
    )


def test_get_takes_records_strings_and_bytes(store: Store) -> None:
    store.fill(SEQUENCES, model="aac_dpc")
    mixed = [Record("a", b"WWW\nWW", "x.faa", 1), "WWWWW", b"WWWWW"]
    np.testing.assert_array_equal(store.get(mixed, model="aac_dpc"), composition(["WWWWW"] * 3))


def test_get_takes_the_name_of_a_space(store: Store) -> None:
    store.fill(SEQUENCES, model="aac_dpc", name="mine")
    assert store.get(SEQUENCES, model="mine").shape == (3, 420)
    assert store.get(SEQUENCES, model=store.space("mine").id[:10]).shape == (3, 420)


def test_get_of_nothing_is_an_empty_array(store: Store) -> None:
    assert store.get([], model="aac_dpc").shape == (0, 420)


def test_missing_sequences_are_named_by_id_or_key(store: Store) -> None:
    store.fill(SEQUENCES, model="aac_dpc")
    with pytest.raises(MissingEmbeddingError) as caught:
        store.get([Record("sp|P1", b"AAAA", "x.faa", 1), "CCCC", "WWWWW"], model="aac_dpc")
    assert caught.value.missing == ["sp|P1", embedstore.key_text(embedstore.sequence_key(b"CCCC"))]
    assert caught.value.requested == 3


def test_embed_fills_what_is_missing_and_gives_all(store: Store) -> None:
    store.fill(SEQUENCES[:1], model="aac_dpc")
    np.testing.assert_array_equal(store.embed(SEQUENCES, model="aac_dpc"), composition(SEQUENCES))
    assert len(store.space("aac_dpc")) == 3


@pytest.mark.parametrize(("sequences", "reason"), [(["MKV", "M-V"], "position 2"), (["MKV", "XXX"], "no vector")])
def test_embed_refuses_what_has_no_vector(store: Store, sequences: list[str], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        store.embed(sequences, model="aac_dpc")


@pytest.mark.parametrize(
    "given",
    ["MKV", b"MKV", [1, 2], 5, [("id", "MKV", "x")], [("id", 3)], {"id": 3}, Seq("MKV"), Record("a", b"MKV", "", 1)],
)
def test_what_is_no_list_of_sequences_is_refused(given: object) -> None:
    with pytest.raises(InputError, match="expected"):
        list(records_of(given))


@pytest.mark.parametrize(
    "given",
    [
        [("a", "MKV"), ("b", b"WW")],
        {"a": "MKV", "b": Seq("WW")},
        [SeqRecord(Seq("MKV"), id="a"), SeqRecord(Seq("WW"), id="b")],
        {"a": SeqRecord(Seq("MKV"), id="other"), "b": "WW"},
    ],
)
def test_ids_come_from_whatever_holds_the_sequences(given: object) -> None:
    assert list(records_of(given)) == [Record("a", b"MKV", "", 1), Record("b", b"WW", "", 2)]


def test_pandas_objects_give_their_sequences_and_ids() -> None:
    pandas = pytest.importorskip("pandas")
    expected = [Record("a", b"MKV", "", 1), Record("b", b"WW", "", 2)]
    assert list(records_of(pandas.Series(["MKV", "WW"], index=["a", "b"]))) == expected
    assert list(records_of(pandas.DataFrame({"seq": ["MKV", "WW"]}, index=["a", "b"]))) == expected
    assert list(records_of(pandas.DataFrame({"id": ["a", "b"], "sequence": ["MKV", "WW"]}))) == expected
    for columns in ({"MKV": ["a"]}, {"seq": ["MKV"], "sequence": ["WW"]}, {"seq": [None]}):
        with pytest.raises(InputError, match="expected"):
            list(records_of(pandas.DataFrame(columns)))


def test_a_path_is_taken_as_text_or_path_and_read_alike(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "a.faa"
    file.write_text(">a\nMKV\n>b\nWW\n")
    expected = list(embedstore.read([file]))
    assert list(embedstore.read(file)) == list(embedstore.read(str(file))) == expected
    assert list(records_of(file)) == list(records_of(str(file))) == expected
    np.testing.assert_array_equal(store.embed(file, model="aac_dpc"), composition(["MKV", "WW"]))
    with file.open() as opened, pytest.raises(InputError, match="Give its path"):
        list(records_of(opened))


def test_ids_and_keys_come_out_with_the_vectors(store: Store) -> None:
    found = store.embed({"a": "MKV", "b": "WW"}, model="aac_dpc")
    expected = composition(["MKV", "WW"])
    assert found.ids == ["a", "b"]
    assert found.keys.tobytes() == b"".join(embedstore.sequence_key(text, "protein") for text in ("mkv*", "WW"))
    assert (found.shape, found.dtype, len(found)) == (expected.shape, expected.dtype, 2)
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found * 2 + np.log1p(found), expected * 2 + np.log1p(expected))
    assert found.mean() == expected.mean()
    assert "2 x 420" in repr(found)


def test_embeddings_become_a_frame_with_the_ids_as_index(store: Store) -> None:
    pytest.importorskip("pandas")
    frame = store.embed({"a": "MKV", "b": "WW"}, model="aac_dpc").to_frame()
    assert frame.index.tolist() == ["a", "b"]
    np.testing.assert_array_equal(frame.to_numpy(), composition(["MKV", "WW"]))


def test_a_key_of_a_text_asks_for_its_molecule() -> None:
    assert embedstore.sequence_key("acgu", "dna") == embedstore.sequence_key(b"ACGT")
    with pytest.raises(InputError, match="molecule"):
        embedstore.sequence_key("ACGT")


def test_a_store_maintains_itself(store: Store) -> None:
    for sequence in SEQUENCES:
        store.fill([sequence], model="aac_dpc")
    store.compact("aac_dpc")
    assert len(store.space("aac_dpc").segments()) == 1
    store.gc(grace_s=0)
    store.repair()
    assert store.verify(deep=True).clean
    np.testing.assert_array_equal(store.get(SEQUENCES, model="aac_dpc"), composition(SEQUENCES))


def test_a_store_pins_and_unpins(store: Store) -> None:
    store.fill(SEQUENCES[:1], model="aac_dpc")
    made = store.pin("paper")
    store.fill(SEQUENCES, model="aac_dpc")
    assert store.pins() == [made]
    assert len(embedstore.open(store.location, pin="paper").space("aac_dpc")) == 1
    store.unpin("paper")
    assert store.pins() == []
    with pytest.raises(embedstore.SpaceNotFoundError, match="its pins: none"):
        store.unpin("paper")


def test_a_store_audits_itself(store: Store) -> None:
    store.fill({"a": "MKV", "b": "WW"}, model="aac_dpc")
    report = store.audit({"a": "MKV", "b": "WW", "c": "AAAA"}, model="aac_dpc")
    assert report.clean
    assert (report.read, report.held, report.sampled) == (3, 2, 2)
    assert store.audit(["MKV", "WW"], "aac_dpc", how=embedstore.AuditOptions(1)).sampled == 1


def test_upstream_stores_are_those_of_the_environment_unless_told_otherwise(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.fill(SEQUENCES, model="aac_dpc")
    monkeypatch.setenv("EMBEDSTORE_UPSTREAM", store.location)
    mine = embedstore.open(tmp_path / "mine", create=True)
    np.testing.assert_array_equal(mine.get(SEQUENCES, model="aac_dpc"), composition(SEQUENCES))
    assert mine.local_spaces() == []
    with pytest.raises(MissingEmbeddingError):
        embedstore.open(tmp_path / "mine", upstream=()).get(SEQUENCES, model="aac_dpc")
    monkeypatch.delenv("EMBEDSTORE_UPSTREAM")
    with pytest.raises(MissingEmbeddingError):
        embedstore.open(tmp_path / "mine").get(SEQUENCES, model="aac_dpc")
    named = embedstore.open(tmp_path / "mine", upstream=store.location)  # one store need not be in a list
    assert named.space("aac_dpc").contains(store.space("aac_dpc").keys()).all()


def test_what_upstream_stores_hold_is_neither_pinned_nor_copied(store: Store, tmp_path: Path) -> None:
    store.fill(SEQUENCES, model="aac_dpc")
    mine = embedstore.open(tmp_path / "mine", create=True, upstream=store.location)
    mine.space("aac_dpc")
    assert mine.pin("paper").spaces == {}
    assert embedstore.pull(mine, store).copied == 3
    assert [len(space) for space in mine.local_spaces()] == [3]  # seen at once
    assert len(embedstore.open(tmp_path / "mine").space("aac_dpc")) == 3


@pytest.mark.parametrize("way", ["embed", "get"])
def test_what_has_no_vector_is_skipped_or_nan_where_asked(store: Store, way: str) -> None:
    given = {"a": "MKV", "bad": "M-V", "none": "XXX", "b": "WW"}
    store.fill(["MKV", "WW"], model="aac_dpc")
    skipped = getattr(store, way)(given, model="aac_dpc", on_error="skip")
    assert skipped.ids == ["a", "b"]
    np.testing.assert_array_equal(skipped, composition(["MKV", "WW"]))
    filled = getattr(store, way)(given, model="aac_dpc", on_error="nan")
    assert filled.ids == list(given)
    assert np.isnan(filled).all(axis=1).tolist() == [False, True, True, False]
    np.testing.assert_array_equal(filled[[0, 3]], composition(["MKV", "WW"]))
    with pytest.raises(InputError, match="expected raise, skip or nan"):
        getattr(store, way)(given, model="aac_dpc", on_error="ignore")


def test_the_loaded_model_is_kept(store: Store) -> None:
    first, second = store.target("aac_dpc"), store.target("aac_dpc")
    assert first.get_model("all").load(None) is second.get_model("all").load(None)


def test_representations_name_the_spaces(store: Store) -> None:
    assert "empty" in repr(store)
    store.fill(SEQUENCES, model="aac_dpc")
    assert repr(store) == f"<Store {store.location}: aac_dpc (3)>"
    assert "<td>aac_dpc</td>" in store._repr_html_()


def test_representations_are_one_short_line(store: Store) -> None:
    report = store.fill([*SEQUENCES, "M-V", "XXX"], model="aac_dpc")
    counts = "5 read, 4 distinct, 0 stored before, 3 computed, 1 rejected, 1 failed"
    assert re.fullmatch(rf"<FillReport aac_dpc: {counts}, \d+\.\d s>", repr(report))
    found = fill_and_retrieve(records_of(["MKV", "M-V"]), store.target("aac_dpc"))
    assert repr(found) == "<Retrieved 1 x 420 float32 of aac_dpc, 1 rejected>"
    assert repr(store.space("aac_dpc")).count("\n") == 0


def test_overview_and_details_have_the_promised_keys(store: Store) -> None:
    store.fill(SEQUENCES, model="aac_dpc")
    space = store.space("aac_dpc")
    assert set(overview(space)) == {"name", "id", "molecule", "dim", "dtype", "rows", "bytes", "segments"}
    promised = {"recipe", "compute_seconds", "letters", "ignored_commits", *overview(space)}
    assert promised == set(details(space))
    json.dumps(details(space))


def test_the_default_place_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EMBEDSTORE_PATH", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_place() == Path.home() / ".local" / "share" / "embedstore"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_place() == tmp_path / "data" / "embedstore"
    monkeypatch.setenv("EMBEDSTORE_PATH", str(tmp_path / "mine"))
    assert default_place() == tmp_path / "mine"
    assert embedstore.open(create=True).location == str(tmp_path / "mine")


def test_open_does_not_make_a_store_unless_asked(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        embedstore.open(tmp_path / "nothing")


def test_a_store_of_the_other_format_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    make_store(tmp_path / "store", segment_format="hdf5")
    assert make_store(tmp_path / "store", segment_format="hdf5").segment_format == "hdf5"
    with pytest.raises(StoreError, match="expected none, or one of format zarr, found one of format hdf5"):
        make_store(tmp_path / "store")


def test_a_store_whose_root_is_damaged_can_be_verified(store: Store) -> None:
    store.fill(SEQUENCES, model="aac_dpc")
    root = Path(store.location) / "embedstore.json"
    root.write_bytes(root.read_bytes()[:-5])
    assert [problem.file for problem in verify_store(store.location).problems] == ["embedstore.json"]
    root.unlink()
    assert not verify_store(store.location).clean
    with pytest.raises(StoreNotFoundError):
        verify_store(Path(store.location) / "nothing")


def test_every_public_name_can_be_had() -> None:
    for name in embedstore.__all__:
        assert getattr(embedstore, name) is not None
    assert set(embedstore.__all__) == set(dir(embedstore))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = embedstore.nonsense


def test_what_needs_no_model_imports_none(tmp_path: Path) -> None:
    script = f"""
import sys
import embedstore
assert "numpy" not in sys.modules
store = embedstore.open({str(tmp_path / "store")!r}, create=True)
store.embed(["MKTAYIAKQR"], model="aac_dpc")
found = {{"torch", "transformers", "tokenizers", "safetensors", "huggingface_hub"}} & set(sys.modules)
assert not found, found
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


def retrieved(store: Store, count: int = 4) -> Retrieved:
    ids = ["sp|P1|first", "", "ünïcode €", "x" * 300][:count]
    sequences = ["WWWWW", "MKTAYIAKQR", "GSHMASMTGG", "WWWWW"]
    records = [Record(name, text.encode(), "a.faa", 1) for name, text in zip(ids, sequences, strict=False)]
    store.fill(sequences, model="aac_dpc")
    return retrieve(records, store.target("aac_dpc"))


def read_export(path: Path) -> tuple[list[str], np.ndarray, np.ndarray, dict[str, str]]:
    if path.suffix == ".npz":
        with np.load(path) as archive:
            facts = {name: str(archive[name]) for name in ("space", "space_id", "recipe")}
            return archive["ids"].tolist(), archive["keys"], archive["X"], facts
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return file["ids"].asstr()[:].tolist(), file["keys"][:], file["X"][:], dict(file.attrs)
    group = zarr.open_group(path, mode="r")
    return group["ids"][:].tolist(), group["keys"][:], group["X"][:], dict(group.attrs)


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".zarr"])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_export_writes_rows_in_order_and_says_where_they_are_from(
    store: Store, tmp_path: Path, suffix: str, count: int
) -> None:
    rows, path = retrieved(store, count), tmp_path / f"x{suffix}"
    export(rows, path)
    ids, keys, vectors, facts = read_export(path)
    assert ids == rows.ids
    np.testing.assert_array_equal(keys, rows.keys)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, rows.read())
    assert facts["space"] == "aac_dpc"
    assert facts["space_id"] == store.space("aac_dpc").id
    assert json.loads(facts["recipe"]) == store.space("aac_dpc").recipe.to_json()


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".zarr"])
def test_export_in_many_blocks_is_the_same(
    store: Store, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedstore.export._BLOCK_BYTES", 2 * 420 * 4)
    monkeypatch.setattr("embedstore.export._IDS_A_BLOCK", 3)
    rows, path = retrieved(store), tmp_path / f"x{suffix}"
    export(rows, path)
    ids, _, vectors, _ = read_export(path)
    assert ids == rows.ids
    np.testing.assert_array_equal(vectors, rows.read())


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".zarr"])
def test_export_replaces_what_was_there_and_leaves_nothing_else(store: Store, tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    export(retrieved(store, 4), folder / f"x{suffix}")
    export(retrieved(store, 1), folder / f"x{suffix}")
    assert len(read_export(folder / f"x{suffix}")[0]) == 1
    assert [path.name for path in folder.iterdir()] == [f"x{suffix}"]


def test_export_that_fails_leaves_what_was_there(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    export(retrieved(store, 4), folder / "x.npz")
    before = (folder / "x.npz").read_bytes()
    rows = retrieved(store, 1)
    for vectors in Path(store.location).glob("spaces/*/data/*/vectors/c/*/*"):
        vectors.write_bytes(bytes(vectors.stat().st_size))
    with pytest.raises(StoreError, match="damaged"):
        export(rows, folder / "x.npz")
    assert (folder / "x.npz").read_bytes() == before
    assert len(list(folder.iterdir())) == 1


def test_export_refuses_other_suffixes_foreign_folders_and_unwritable_places(store: Store, tmp_path: Path) -> None:
    rows = retrieved(store, 1)
    with pytest.raises(InputError, match=r"\.npz, \.h5, \.zarr"):
        export(rows, tmp_path / "x.csv")
    (tmp_path / "mine.zarr").mkdir()
    with pytest.raises(InputError, match="did not write"):
        export(rows, tmp_path / "mine.zarr")
    with pytest.raises(StorageError, match="Cannot write"):
        export(rows, tmp_path / "no" / "such" / "folder" / "x.npz")


def test_fill_and_retrieve_leaves_out_what_is_rejected_or_failed(store: Store) -> None:
    records = [
        Record(name, text, "a.faa", 1) for name, text in (("a", b"MKV"), ("b", b"M-V"), ("c", b"XX"), ("d", b"MA"))
    ]
    found = fill_and_retrieve(records, store.target("aac_dpc"))
    assert found.ids == ["a", "d"]
    np.testing.assert_array_equal(found.read(), composition(["MKV", "MA"]))
    assert [item.id for item in found.rejected] == ["b"]
    assert [item.id for item in found.failed] == ["c"]
    assert isinstance(found.failed[0], Rejection)


def test_the_examples_of_the_guide_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    root = Path(__file__).resolve().parents[1]
    blocks = re.findall(r"```python\n(.*?)```", (root / "docs/guide/library.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    (tmp_path / "proteins.faa").write_bytes((root / "examples" / "proteins.faa").read_bytes())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/guide/library.md", "exec"), names)  # noqa: S102
    key, space = names["key"], names["space"]
    assert key in space
    assert embedstore.key_text(key) in space
    assert space.read([key]).shape == (1, 420)
    assert space.missing([key, bytes(24)]).tolist() == [[0] * 24]
    assert len(names["near"].local_spaces()[0]) == len(space)
    assert names["store"].pins() == []
