"""`docs/format.md` is enough to read a store, and its examples are true."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from independent_reader import Reader, Unreadable, crc32c, read_index
from sample_rows import LAYOUTS, files_of, new_space, open_space, sample_batch, sample_keys, sample_recipe

from embedstore.identity import canonical, key_array, key_from_text, sequence_key
from embedstore.records import EmbeddingBatch
from embedstore.store import SpaceStore

DATA = Path(__file__).parents[1] / "data"
DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"


@pytest.fixture(params=LAYOUTS)
def golden(request: pytest.FixtureRequest) -> Path:
    return DATA / f"store_v1_{request.param}"


def expected(golden: Path) -> Any:
    return json.loads(golden.with_suffix(".expected.json").read_bytes())


def key_bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text.removeprefix("SQ."))


def test_the_independent_reader_reads_the_golden_stores(golden: Path) -> None:
    reader = Reader(golden, expected(golden)["space"])
    for row in expected(golden)["rows"]:
        key = hashlib.sha512(row["sequence"].encode()).digest()[:24]
        assert key == key_bytes(row["key"])
        assert reader.read(key).hex() == row["vector_hex"]
    assert reader.numbers(hashlib.sha512(b"MKV").digest()[:24]) == (1.0, 0.0, 0.125, 1.0)
    with pytest.raises(KeyError):
        reader.read(bytes(24))


def test_the_golden_stores_are_read(golden: Path) -> None:
    store, right = SpaceStore.open(golden), expected(golden)
    space = store.space(right["space"])
    assert (space.id, space.dim, space.dtype) == (right["id"], right["dim"], np.dtype(right["dtype"]))
    for row in right["rows"]:
        assert sequence_key(canonical(row["sequence"], "protein")) == key_from_text(row["key"])
    keys = key_array(key_from_text(row["key"]) for row in right["rows"])
    assert [vector.tobytes().hex() for vector in space.read(keys)] == [row["vector_hex"] for row in right["rows"]]
    assert len(space) == len(keys)
    assert space.canaries.sequences == ("MKV", "W")
    assert space.canaries.vectors.ravel().tolist() == list(range(8))
    assert (space.info().segments, space.info().compute_seconds, space.info().residues) == (4, 1.5, 43)


def test_the_golden_stores_are_undamaged(golden: Path) -> None:
    report = SpaceStore.open(golden).verify(deep=True)
    assert report.problems == []
    assert report.orphans == []


def test_the_golden_stores_can_be_filled(golden: Path, tmp_path: Path) -> None:
    space = open_space(Path(shutil.copytree(golden, tmp_path / "store")), "golden")
    keys = sample_keys(range(3))
    space.append(EmbeddingBatch(keys, np.ones((3, 4), space.dtype)))
    space.optimise()
    again = open_space(tmp_path / "store", "golden")
    assert np.array_equal(again.read(keys), np.ones((3, 4), space.dtype))
    assert len(again) == len(expected(golden)["rows"]) + 3


def test_the_golden_stores_hold_what_they_are_for(golden: Path) -> None:
    reader = Reader(golden, "golden")
    (space,) = golden.glob("spaces/*")
    commits = [json.loads(path.read_bytes()) for path in space.glob("commits/*.json")]
    assert len(commits) == 5
    assert len(reader.live) == 4
    assert sum(commit["rows"] for _, commit in reader.live) == len(expected(golden)["rows"]) + 1  # a key in two
    (index,) = space.glob("index/*.idx")
    assert read_index(index.read_bytes())[0] == [reader.live[0][0]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_independent_reader_reads_what_is_written_now(tmp_path: Path, layout: Any) -> None:
    recipe = sample_recipe(dim=7, dtype="float16", precision="half")
    space = new_space(tmp_path, layout, recipe)
    keys = sample_keys(range(20))
    space.append(sample_batch(keys[:12], recipe))
    space.append(sample_batch(keys[12:], recipe))
    space.optimise()
    reader = Reader(tmp_path, "toy")
    assert [reader.read(key.tobytes()) for key in keys] == [vector.tobytes() for vector in space.read(keys)]
    (index,) = tmp_path.glob("spaces/*/index/*.idx")
    commits, places = read_index(index.read_bytes())
    assert commits == [name for name, _ in reader.live]
    assert sorted(places) == sorted(int.from_bytes(key.tobytes()[:8], "big") for key in keys)


def test_the_independent_reader_refuses_damage(golden: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(golden, tmp_path / "store"))
    keys = [key_bytes(row["key"]) for row in expected(golden)["rows"]]
    oldest = Reader(place, "golden").live[0][1]["arrays"]["vectors"][0]
    documents = [(path, 0) for path in files_of(place) if path.suffix == ".json" and "data" not in path.parts]
    (rows,) = place.glob(f"spaces/*/{oldest['file']}")
    for path, position in [*documents, (rows, oldest["offset"])]:
        content = bytearray(path.read_bytes())
        content[position] ^= 1
        right = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises((Unreadable, ValueError)):
            [Reader(place, "golden").read(key) for key in keys]
        path.write_bytes(right)
    assert [Reader(place, "golden").read(key) for key in keys]


def blocks(kind: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?\n)```$", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [content for found, content in fenced if found == kind]


def test_the_commit_in_the_document_has_the_digest_it_says() -> None:
    commit = blocks("json")[0]
    (name,) = re.findall(r"`([0-9a-f]{64})\.json`", DOCUMENT.read_text(encoding="utf-8"))
    assert hashlib.sha256(commit.encode()).hexdigest() == name
    assert list(DATA.glob(f"store_v1_hdf5/spaces/*/commits/{name}.json"))


def test_the_signature_in_the_document_is_one_of_that_commit() -> None:
    commit, content = blocks("json")
    document = json.loads(content)
    digest = document.pop("sha256")
    assert hashlib.sha256(json.dumps(document, sort_keys=True, indent=1).encode() + b"\n").hexdigest() == digest
    assert document["commit"] == hashlib.sha256(commit.encode()).hexdigest()
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key()
    kind, encoded = document["public_key"].split()
    assert (kind, base64.b64decode(encoded)[-32:]) == ("ssh-ed25519", key.public_bytes_raw())
    key.verify(base64.b64decode(document["signature"]), f"embedstore commit 1\n{document['commit']}".encode())
    name = f"{document['commit']}.{hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]}.json"
    assert f"`{name}`" in DOCUMENT.read_text(encoding="utf-8")


def test_the_index_in_the_document_is_one() -> None:
    lines = re.findall(r"^[0-9a-f]{8}: ((?:[0-9a-f]{2,4} )+) ", "".join(blocks("")), re.MULTILINE)
    content = bytes.fromhex("".join(lines))
    (index,) = DATA.glob("store_v1_hdf5/spaces/*/index/*.idx")
    assert content == index.read_bytes()
    assert struct.unpack("<Q", content[8:16]) == (109,)
    assert read_index(content)[1][0x29FA1EDD225089B2] == [(0, 0)]


def test_the_checksum_is_the_one_the_document_names() -> None:
    assert crc32c(b"123456789") == 0xE3069283
