"""Documents from elsewhere: foreign, evil, damaged or newer ones are refused by name, never followed."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from sample_rows import new_space, open_space, sample_batch, sample_canaries, sample_keys, sample_recipe

from embedstore.errors import (
    CorruptStoreError,
    EmbedStoreError,
    FormatVersionError,
    InputError,
    SpaceConflictError,
    SpaceNotFoundError,
    StoreNotFoundError,
)
from embedstore.storage.listing import ROOT_NAME
from embedstore.store import SpaceStore
from embedstore.store.documents import FORMAT_VERSION, Commit, Root, SpaceDocument

KEYS = sample_keys(range(4))
NONCE = "0123456789abcdef" * 2
COMMIT: dict[str, Any] = {
    "format": "embedstore-commit",
    "space": sample_recipe().id,
    "nonce": NONCE,
    "layout": "hdf5",
    "rows": 2,
    "created_ns": 1,
    "arrays": {
        "key": [{"file": f"data/{NONCE}.h5", "offset": 8, "rows": 2}],
        "vectors": [{"file": f"data/{NONCE}.h5", "offset": 56, "rows": 2}],
        "row_crc": [{"file": f"data/{NONCE}.h5", "offset": 88, "rows": 2}],
    },
    "files": {f"data/{NONCE}.h5": {"size": 96, "sha256": "0" * 64}},
    "replaces": [],
    "provenance": {},
}


def canonical(document: object) -> bytes:
    return (json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def sealed(document: dict[str, Any]) -> bytes:
    return canonical({**document, "sha256": hashlib.sha256(canonical(document)).hexdigest()})


def changed(path: str, value: object) -> dict[str, Any]:
    """The commit with one place replaced, given as `arrays/key/0/offset`."""
    document: Any = json.loads(json.dumps(COMMIT))
    *folders, last = path.split("/")
    place = document
    for name in folders:
        place = place[int(name) if isinstance(place, list) else name]
    place[int(last) if isinstance(place, list) else last] = value
    return dict(document)


def commit_from(content: bytes) -> Commit:
    return Commit.from_bytes(f"spaces/{sample_recipe().id}/commits/{hashlib.sha256(content).hexdigest()}.json", content)


def put_commit(place: Path, content: bytes) -> str:
    folder = next((place / "spaces").iterdir()) / "commits"
    folder.mkdir(exist_ok=True)
    path = folder / f"{hashlib.sha256(content).hexdigest()}.json"
    path.write_bytes(content)
    return str(path.relative_to(place))


def use_everything(place: Path) -> None:
    space = open_space(place)
    space.read(space.keys())
    space.info()
    space.optimise()
    space.append(sample_batch(KEYS, space.recipe))
    repr(space)


def test_a_commit_is_read_back_as_it_was() -> None:
    commit = commit_from(canonical(COMMIT))
    assert commit.to_bytes() == canonical(COMMIT)


EVIL_COMMITS = {
    "leads out of its segment": changed("files", {f"data/{NONCE}/../../x": {"size": 1, "sha256": ""}}),
    "absolute": changed("files", {"/etc/passwd": {"size": 1, "sha256": ""}}),
    "another segment": changed("files", {f"data/{'f' * 32}.h5": {"size": 96, "sha256": ""}}),
    "hidden folder": changed("files", {f"data/{NONCE}/.git/x": {"size": 96, "sha256": ""}}),
    "array in an unlisted file": changed("arrays/key/0/file", "../../space.json"),
    "nonce leads out": changed("nonce", "../../../../../../../../../etc"),
    "nonce with a line end": changed("nonce", NONCE + "\n"),
    "nonce is a number": changed("nonce", 5),
    "negative offset": changed("arrays/key/0/offset", -8),
    "offset beyond the file": changed("arrays/key/0/offset", 90),
    "offset is text": changed("arrays/vectors/0/offset", "8"),
    "offset is a fraction": changed("arrays/vectors/0/offset", 8.5),
    "rows beyond the file": {
        **changed("rows", 1000),
        "arrays": {name: [{**parts[0], "rows": 1000}] for name, parts in COMMIT["arrays"].items()},
    },
    "rows do not add up": changed("rows", 3),
    "no rows": {**changed("rows", 0), "arrays": {"key": [], "vectors": [], "row_crc": []}},
    "negative rows": changed("rows", -2),
    "rows is text": changed("rows", "2"),
    "rows is true": changed("rows", True),
    "missing array": changed("arrays", {"key": COMMIT["arrays"]["key"]}),
    "arrays is a list": changed("arrays", []),
    "a part is text": changed("arrays/key/0", "x"),
    "files is a list": changed("files", []),
    "size is text": changed("files", {f"data/{NONCE}.h5": {"size": "96", "sha256": "0" * 64}}),
    "negative size": changed("files", {f"data/{NONCE}.h5": {"size": -1, "sha256": "0" * 64}}),
    "age is text": changed("created_ns", "yesterday"),
    "age is a fraction": changed("created_ns", 1.5),
    "replaces holds lists": changed("replaces", [["x"]]),
    "replaces is text": changed("replaces", "abc"),
    "provenance is a list": changed("provenance", []),
    "provenance costs text": changed("provenance", {"compute_seconds": "long"}),
    "provenance costs nothing": changed("provenance", {"letters": None}),
    "another format": changed("format", "something-else"),
    "another space": changed("space", "f" * 64),
    "space is a number": changed("space", 1),
    "a list": [COMMIT],
    "a number": 7,
}


@pytest.mark.parametrize("name", EVIL_COMMITS)
def test_an_evil_commit_is_refused_by_name(tmp_path: Path, name: str) -> None:
    space = new_space(tmp_path, "zarr")
    space.append(sample_batch(KEYS, space.recipe))
    file = put_commit(tmp_path, canonical(EVIL_COMMITS[name]))
    with pytest.raises(CorruptStoreError) as caught:
        use_everything(tmp_path)
    assert caught.value.file == file
    assert file in {problem.file for problem in SpaceStore.open(tmp_path).verify(deep=True).problems}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000, b"NaN", b'{"a":"\\ud800"}', b"null"],
    ids=["empty", "cut", "not text", "deep", "deep objects", "huge number", "nan", "surrogate", "null"],
)
@pytest.mark.parametrize("document", ["root", "space", "commit"])
def test_what_is_not_a_document_is_refused_by_name(tmp_path: Path, document: str, content: bytes) -> None:
    space = new_space(tmp_path, "zarr")
    if document == "commit":
        file = put_commit(tmp_path, content)
    else:
        file = ROOT_NAME if document == "root" else f"spaces/{space.id}/space.json"
        (tmp_path / file).write_bytes(content)
    with pytest.raises(CorruptStoreError) as caught:
        use_everything(tmp_path)
    assert caught.value.file == file


def test_a_commit_under_another_name_is_refused(tmp_path: Path) -> None:
    space = new_space(tmp_path, "zarr")
    space.append(sample_batch(KEYS, space.recipe))
    commit = next(tmp_path.glob("spaces/*/commits/*.json"))
    commit.rename(commit.with_name(f"{'0' * 64}.json"))
    with pytest.raises(CorruptStoreError, match="SHA-256 in its name"):
        use_everything(tmp_path)


@pytest.mark.parametrize("name", [".tmp-abc", "._x.json", ".nfs0001.json", "README.txt", "x.json~"])
def test_files_of_others_in_the_folder_of_commits_are_left_alone(tmp_path: Path, name: str) -> None:
    space = new_space(tmp_path, "zarr")
    space.append(sample_batch(KEYS, space.recipe))
    (tmp_path / "spaces" / space.id / "commits" / name).write_bytes(b"junk")
    use_everything(tmp_path)
    report = SpaceStore.open(tmp_path).verify(deep=True)
    assert report.clean
    assert report.orphans == [f"spaces/{space.id}/commits/{name}"]


ROOT: dict[str, Any] = {
    "format": "embedstore",
    "version": 1,
    "minimal_reader_version": 1,
    "features": [],
    "store_id": "0" * 32,
    "segment_format": "zarr",
}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"version": 7, "minimal_reader_version": 7}, "version 7"),
        ({"minimal_reader_version": FORMAT_VERSION + 1}, f"version {FORMAT_VERSION + 1}"),
        ({"features": ["compressed", "signed"]}, "compressed, signed"),
        ({"segment_format": "parquet"}, "parquet"),
    ],
)
def test_a_newer_store_is_refused_saying_what_it_needs(tmp_path: Path, change: dict[str, Any], found: str) -> None:
    (tmp_path / ROOT_NAME).write_bytes(sealed({**ROOT, **change, "an unknown field": {}}))
    with pytest.raises(FormatVersionError, match=found) as caught:
        SpaceStore.open(tmp_path)
    assert "Upgrade embedstore" in str(caught.value)


def test_a_newer_store_that_older_readers_may_read_is_read(tmp_path: Path) -> None:
    (tmp_path / ROOT_NAME).write_bytes(sealed({**ROOT, "version": 2, "an unknown field": 1}))
    assert SpaceStore.open(tmp_path).spaces() == []


@pytest.mark.parametrize(
    "change",
    [
        {"format": "zarr"},
        {"version": "1"},
        {"minimal_reader_version": "1"},
        {"minimal_reader_version": None},
        {"features": "compressed"},
        {"features": [1]},
        {"store_id": 5},
        {"segment_format": ["zarr"]},
    ],
    ids=str,
)
def test_a_root_document_of_another_shape_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / ROOT_NAME).write_bytes(sealed({**ROOT, **change}))
    with pytest.raises(EmbedStoreError, match=re.escape(ROOT_NAME)):
        SpaceStore.open(tmp_path)


def test_a_root_document_without_a_field_is_refused(tmp_path: Path) -> None:
    for name in ROOT:
        document = {field: value for field, value in ROOT.items() if field != name}
        (tmp_path / ROOT_NAME).write_bytes(sealed(document))
        with pytest.raises(CorruptStoreError, match=ROOT_NAME):
            SpaceStore.open(tmp_path)


def space_document(**changes: Any) -> tuple[str, bytes]:
    recipe = {**sample_recipe().to_json(), **changes.pop("recipe", {})}
    canonical_recipe = json.dumps(recipe, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    space_id = hashlib.sha256(canonical_recipe).hexdigest()
    document = {
        "name": "toy",
        "id": space_id,
        "recipe": recipe,
        "canaries": {"sequences": [], "vectors_float32_base64": ""},
    }
    return space_id, sealed({**document, **changes})


def test_a_space_document_made_here_is_read(tmp_path: Path) -> None:
    space_id, content = space_document()
    assert SpaceDocument.from_bytes(f"spaces/{space_id}/space.json", content).name == "toy"


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../../up"},
        {"name": 5},
        {"name": "\x1b[2J"},
        {"name": ""},
        {"id": "f" * 64},
        {"canaries": {"sequences": ["MKV"], "vectors_float32_base64": ""}},
        {"canaries": {"sequences": ["MKV"], "vectors_float32_base64": "!!"}},
        {"canaries": {"sequences": [5], "vectors_float32_base64": base64.b64encode(bytes(16)).decode()}},
        {"canaries": None},
        {"recipe": {"dim": 0}},
        {"recipe": {"dim": -4}},
        {"recipe": {"dim": "4"}},
        {"recipe": {"dim": 4.0}},
        {"recipe": {"dtype": "float64"}},
        {"recipe": {"dtype": "object"}},
        {"recipe": {"dtype": "U99999"}},
        {"recipe": {"dtype": 5}},
        {"recipe": {"precision": "some"}},
        {"recipe": {"molecule": "lipid"}},
        {"recipe": {"model": None}},
        {"recipe": {"pooled_special_tokens": 5}},
    ],
    ids=str,
)
def test_a_space_document_of_another_shape_is_refused_by_name(tmp_path: Path, changes: dict[str, Any]) -> None:
    new_space(tmp_path, "zarr", sample_recipe(model="another"), "another")
    space_id, content = space_document(**dict(changes))
    folder = tmp_path / "spaces" / space_id
    folder.mkdir()
    (folder / "space.json").write_bytes(content)
    store = SpaceStore.open(tmp_path)
    assert [space.name for space in store.spaces()] == ["another"]
    with pytest.raises(CorruptStoreError) as caught:
        store.space(space_id)
    assert caught.value.file == f"spaces/{space_id}/space.json"


def test_a_space_in_the_folder_of_another_is_refused(tmp_path: Path) -> None:
    space = new_space(tmp_path, "zarr")
    (tmp_path / "spaces" / space.id).rename(tmp_path / "spaces" / ("f" * 64))
    with pytest.raises(CorruptStoreError, match=space.id):
        SpaceStore.open(tmp_path).space("toy")


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b", ".hidden", "-x", "x" * 101, "é", "a\n", "a\0"])
def test_a_space_cannot_have_any_name(tmp_path: Path, name: str) -> None:
    store = SpaceStore.open(tmp_path, create=True)
    with pytest.raises(InputError, match="Cannot name a space"):
        store.create_space(sample_recipe(), name, sample_canaries(sample_recipe()))


def test_the_same_name_for_another_recipe_is_refused_with_both_values(tmp_path: Path) -> None:
    new_space(tmp_path, "zarr")
    other = sample_recipe(dim=8, pooling="max")
    with pytest.raises(SpaceConflictError) as caught:
        SpaceStore.open(tmp_path).create_space(other, "toy", sample_canaries(other))
    assert caught.value.differences == {"dim": (4, 8), "pooling": ("mean", "max")}
    for text in ("dim: 4 there, 8 asked for", "pooling: 'mean' there, 'max' asked for", "toy", "--name"):
        assert text in str(caught.value)
    with pytest.raises(SpaceConflictError):
        SpaceStore.open(tmp_path).find_space(other, "toy")


def test_the_same_recipe_under_another_name_is_the_same_space(tmp_path: Path) -> None:
    new_space(tmp_path, "zarr")
    store = SpaceStore.open(tmp_path)
    assert store.create_space(sample_recipe(), "other", sample_canaries(sample_recipe())).name == "toy"
    assert [space.name for space in store.spaces()] == ["toy"]


def test_an_unknown_space_is_refused_with_those_there_are(tmp_path: Path) -> None:
    store = SpaceStore.open(tmp_path, create=True)
    with pytest.raises(SpaceNotFoundError, match="none yet"):
        store.space("toy")
    for name, dim in (("one", 4), ("two", 8)):
        new_space(tmp_path, "zarr", sample_recipe(dim=dim), name)
    with pytest.raises(SpaceNotFoundError, match="one, two"):
        store.space("three")


def test_a_space_is_found_by_name_id_and_beginning_of_its_id(tmp_path: Path) -> None:
    space = new_space(tmp_path, "zarr")
    store = SpaceStore.open(tmp_path)
    for name in ("toy", space.id, space.id[:8]):
        assert store.space(name).id == space.id
    for name in (space.id[:7], ""):
        with pytest.raises(SpaceNotFoundError):
            store.space(name)


def test_two_recipes_that_got_one_name_at_once_are_distinguished_by_id(tmp_path: Path) -> None:
    """As two processes make them that look for the name at the same moment."""
    new_space(tmp_path, "zarr")
    other = sample_recipe(dim=8)
    document = SpaceDocument("toy", other, sample_canaries(other))
    folder = tmp_path / "spaces" / other.id
    folder.mkdir()
    (folder / "space.json").write_bytes(document.to_bytes())
    store = SpaceStore.open(tmp_path)
    with pytest.raises(SpaceNotFoundError, match=f"Several spaces.*{other.id}"):
        store.space("toy")
    assert store.space(other.id).dim == 8
    found = store.find_space(other, "toy")
    assert found is not None
    assert found.id == other.id


def test_a_place_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="embedstore init"):
        SpaceStore.open(tmp_path / "nowhere")
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StoreNotFoundError, match=r"thesis\.txt"):
        SpaceStore.open(tmp_path, create=True)
    with pytest.raises(EmbedStoreError, match=r"thesis\.txt"):
        SpaceStore.open(tmp_path / "thesis.txt", create=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_creating_a_store_where_one_is_gives_that_one(tmp_path: Path) -> None:
    first = SpaceStore.open(tmp_path, create=True, segment_format="hdf5")
    second = SpaceStore.open(tmp_path, create=True, segment_format="zarr")
    assert (second.id, second.segment_format) == (first.id, "hdf5")


@pytest.mark.parametrize("provenance", [{"x": float("nan")}, {"x": object()}, {"x": "\ud800"}, {"letters": "many"}])
def test_provenance_that_is_not_json_is_refused_before_anything_is_written(
    tmp_path: Path, provenance: dict[str, Any]
) -> None:
    space = new_space(tmp_path, "zarr")
    with pytest.raises(InputError, match="provenance"):
        space.append(sample_batch(KEYS, space.recipe), provenance)
    assert SpaceStore.open(tmp_path).verify(deep=True).orphans == []
    assert len(open_space(tmp_path)) == 0


def test_what_the_commits_cost_is_added_up(tmp_path: Path) -> None:
    space = new_space(tmp_path, "zarr")
    space.append(sample_batch(KEYS[:2], space.recipe), {"compute_seconds": 1.5, "letters": 10})
    space.append(sample_batch(KEYS[2:], space.recipe), {"compute_seconds": 2, "letters": 20, "host": "é"})
    info = open_space(tmp_path).info()
    assert (info.rows, info.segments, info.compute_seconds, info.residues) == (4, 2, 3.5, 30)
    assert info.size_bytes == sum(path.stat().st_size for path in tmp_path.glob("spaces/*/data/**/*") if path.is_file())


def test_documents_are_written_the_same_everywhere() -> None:
    assert Root("0" * 32, "zarr").to_bytes() == sealed(ROOT)
