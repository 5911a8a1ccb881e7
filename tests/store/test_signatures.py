"""Signed commits: what a reader that requires signatures takes, and what it leaves out."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from independent_reader import crc32c
from sample_rows import (
    LAYOUTS,
    assert_right,
    new_space,
    right_vectors,
    sample_batch,
    sample_keys,
    sample_recipe,
)

from embedstore.errors import CorruptStoreError, InputError
from embedstore.records import EmbeddingBatch
from embedstore.storage.local import LocalStorage
from embedstore.store import Space, SpaceStore
from embedstore.store.documents import Commit
from embedstore.store.segment_files import SortedRows
from embedstore.store.signing import PublicKey, Signature, Trust, parse_public_key, read_members, read_signer, trust_of
from embedstore.store.verification import verify
from embedstore.strict_json import sealed
from embedstore.upkeep import collect, compact

ALICE, BOB, MALLORY = "alice", "bob", "mallory"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with a key for everybody, and `members` that lists Alice's and Bob's."""
    folder = tmp_path / "keys"
    folder.mkdir()
    for name in (ALICE, BOB, MALLORY):
        key = Ed25519PrivateKey.generate()
        (folder / name).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        public = PublicKey(key.public_key().public_bytes_raw())
        (folder / f"{name}.pub").write_text(f"{public.text} {name}@lab\n")
    listed = "".join((folder / f"{name}.pub").read_text() for name in (ALICE, BOB))
    (folder / "members").write_text(f"# the lab\n\n{listed}")
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    new_space(tmp_path / "store", "zarr")
    return tmp_path / "store"


def trusted(keys: Path, who: str | None = None) -> Trust:
    return trust_of(keys / who if who else None, keys / "members")


def open_as(place: Path, trust: Trust | None = None) -> Space:
    return SpaceStore(LocalStorage(place), trust=trust or Trust()).space("toy")


def signing_only(keys: Path, who: str) -> Trust:
    return Trust(read_signer(keys / who))


def append(place: Path, trust: Trust | None, numbers: range) -> str:
    """Append right rows; return the id of the commit."""
    space = open_as(place, trust)
    before = {segment.commit_id for segment in space.segments()}
    space.append(sample_batch(sample_keys(numbers), space.recipe))
    (added,) = {segment.commit_id for segment in space.segments()} - before
    return added


def commit_file(place: Path, commit: str) -> Path:
    (file,) = place.glob(f"spaces/*/commits/{commit}.json")
    return file


def signature_of(place: Path, commit: str) -> Path:
    (file,) = place.glob(f"spaces/*/signatures/{commit}.*.json")
    return file


def assert_reads(place: Path, keys: Path, numbers: range, *, ignored: int) -> None:
    """A fresh reader with required signatures has exactly these rows."""
    space = open_as(place, trusted(keys))
    assert len(space) == len(numbers)
    assert_right(space, sample_keys(numbers))
    assert space.ignored_commits == ignored


def test_what_members_signed_is_read_and_the_rest_is_ignored(place: Path, keys: Path) -> None:
    append(place, signing_only(keys, ALICE), range(5))
    append(place, trusted(keys, BOB), range(5, 10))
    append(place, None, range(10, 15))
    append(place, signing_only(keys, MALLORY), range(15, 20))
    assert_reads(place, keys, range(10), ignored=2)
    assert len(open_as(place)) == 20  # who requires nothing reads all
    assert not open_as(place, trusted(keys)).contains(sample_keys(range(10, 20))).any()


def test_what_is_ignored_can_be_appended_again(place: Path, keys: Path) -> None:
    wrong = sample_batch(sample_keys(range(10)), sample_recipe())
    open_as(place).append(EmbeddingBatch(wrong.keys, wrong.vectors + 100))
    space = open_as(place, trusted(keys, ALICE))
    assert len(space.missing(sample_keys(range(10)))) == 10
    assert space.append(sample_batch(sample_keys(range(10)), space.recipe)) == 10
    assert_reads(place, keys, range(10), ignored=1)


def test_the_signature_is_there_before_the_commit(place: Path, keys: Path) -> None:
    class StopsAtCommits(LocalStorage):
        def write(self, name: str, parts: Any) -> Any:
            if "/commits/" in name:
                raise KeyboardInterrupt
            return super().write(name, parts)

    space = SpaceStore(StopsAtCommits(place), trust=trusted(keys, ALICE)).space("toy")
    with pytest.raises(KeyboardInterrupt):
        space.append(sample_batch(sample_keys(range(5)), space.recipe))
    assert len(list(place.glob("spaces/*/signatures/*.json"))) == 1
    assert not list(place.glob("spaces/*/commits/*.json"))
    report = verify(LocalStorage(place))
    assert report.clean
    assert any("/signatures/" in orphan for orphan in report.orphans)


def test_an_unsigned_commit_that_replaces_signed_ones_hides_nothing(place: Path, keys: Path) -> None:
    old = append(place, trusted(keys, ALICE), range(5))
    attacker = open_as(place, signing_only(keys, MALLORY))
    batch = EmbeddingBatch(sample_keys(range(5)), right_vectors(sample_keys(range(5)), attacker.recipe) + 1)

    def write() -> Commit:
        return attacker.write_files(SortedRows.of(batch)).commit(attacker.id, 1, {}, [old])

    attacker.publish(write)
    assert not np.array_equal(open_as(place).read(batch.keys), right_vectors(batch.keys, attacker.recipe))
    assert_reads(place, keys, range(5), ignored=1)
    report = verify(LocalStorage(place), members=trusted(keys).members)
    assert [problem.reason for problem in report.problems] == ["no member has signed it"]


def rows_of(numbers: range) -> SortedRows:
    return SortedRows.of(sample_batch(sample_keys(numbers), sample_recipe()))


def test_collecting_keeps_what_members_signed_whoever_claims_to_replace_it(place: Path, keys: Path) -> None:
    old = append(place, trusted(keys, ALICE), range(5))
    attacker = open_as(place, signing_only(keys, MALLORY))

    def write() -> Commit:
        rows = SortedRows.of(sample_batch(sample_keys(range(5)), attacker.recipe))
        return attacker.write_files(rows).commit(attacker.id, 1, {}, [old])

    attacker.publish(write)
    for _ in range(2):
        collect(LocalStorage(place), grace_s=0, members=trusted(keys).members)
    assert_reads(place, keys, range(5), ignored=1)
    for _ in range(2):
        collect(LocalStorage(place), grace_s=0)  # without members, nobody outweighs another's signature
    assert_reads(place, keys, range(5), ignored=1)
    merged = open_as(place, signing_only(keys, ALICE)).publish(
        lambda: open_as(place).write_files(rows_of(range(5))).commit(attacker.id, 1, {}, [old])
    )
    for _ in range(2):
        collect(LocalStorage(place), grace_s=0)  # but its signer may replace it
    assert merged is not None
    assert not list(place.glob(f"spaces/*/commits/{old}.json"))
    assert_reads(place, keys, range(5), ignored=1)


def test_a_signature_that_nobody_made_outweighs_nothing(place: Path, keys: Path) -> None:
    old = append(place, trusted(keys, ALICE), range(5))
    stranger = open_as(place)
    fake = stranger.publish(lambda: stranger.write_files(rows_of(range(5))).commit(stranger.id, 1, {}, [old]))
    assert fake is not None
    (signature,) = place.glob(f"spaces/*/signatures/{old}.*.json")
    signature.with_name(signature.name.replace(old, fake.id)).write_bytes(signature.read_bytes())
    for _ in range(2):
        collect(LocalStorage(place), grace_s=0)
    assert_reads(place, keys, range(5), ignored=1)


def test_merging_with_a_key_keeps_all_readable(place: Path, keys: Path) -> None:
    for start in range(0, 30, 5):
        append(place, trusted(keys, ALICE if start % 2 else BOB), range(start, start + 5))
    append(place, None, range(30, 35))
    assert compact(open_as(place)).merged == 0  # one unsigned segment alone, and signed ones that it may not touch
    assert compact(open_as(place, trusted(keys, BOB))).merged == 6
    for _ in range(2):
        collect(LocalStorage(place), grace_s=0, members=trusted(keys).members)
    assert_reads(place, keys, range(30), ignored=1)
    assert len(open_as(place).segments()) == 2
    assert verify(LocalStorage(place), deep=True).clean


def test_a_signature_copied_from_another_commit_is_none(place: Path, keys: Path) -> None:
    signed = append(place, trusted(keys, ALICE), range(5))
    unsigned = append(place, None, range(5, 10))
    file = signature_of(place, signed)
    copied = file.with_name(file.name.replace(signed, unsigned))
    shutil.copy(file, copied)
    assert_reads(place, keys, range(5), ignored=1)
    document = json.loads(file.read_bytes())
    del document["sha256"]
    copied.write_bytes(sealed({**document, "commit": unsigned}))  # as it should be, but for the signature itself
    assert_reads(place, keys, range(5), ignored=1)
    report = verify(LocalStorage(place))
    assert [problem.reason for problem in report.problems] == ["its key has not signed that commit"]


def test_a_stranger_cannot_sign_under_a_members_name(place: Path, keys: Path) -> None:
    commit = append(place, signing_only(keys, MALLORY), range(5))
    theirs = signature_of(place, commit)
    alice = parse_public_key((keys / "alice.pub").read_text())
    named = theirs.with_name(f"{commit}.{alice.fingerprint}.json")
    theirs.rename(named)
    assert_reads(place, keys, range(0), ignored=1)
    found = Signature.from_bytes(theirs.name, named.read_bytes())
    named.write_bytes(replace(found, key=alice).to_bytes())
    assert_reads(place, keys, range(0), ignored=1)
    assert not verify(LocalStorage(place)).clean


@pytest.mark.parametrize("damage", ["removed", "flipped", "truncated", "not base64", "another length"])
def test_without_its_signature_a_commit_is_ignored(place: Path, keys: Path, damage: str) -> None:
    commit = append(place, trusted(keys, ALICE), range(5))
    append(place, trusted(keys, ALICE), range(5, 10))
    file = signature_of(place, commit)
    content = file.read_bytes()
    document = json.loads(content)
    del document["sha256"]
    changes: dict[str, Callable[[], object]] = {
        "removed": file.unlink,
        "flipped": lambda: file.write_bytes(content.replace(b'"signature": "', b'"signature": "A', 1)),
        "truncated": lambda: file.write_bytes(content[:-20]),
        "not base64": lambda: file.write_bytes(sealed({**document, "signature": "?" * 88})),
        "another length": lambda: file.write_bytes(sealed({**document, "signature": base64.b64encode(b"x").decode()})),
    }
    changes[damage]()
    space = open_as(place, trusted(keys))
    assert (len(space), space.ignored_commits) == (5, 1)
    assert_right(space, sample_keys(range(5, 10)))
    assert verify(LocalStorage(place)).clean == (damage == "removed")
    assert not verify(LocalStorage(place), members=trusted(keys).members).clean


def test_a_changed_commit_is_damage_whoever_signed_it(place: Path, keys: Path) -> None:
    file = commit_file(place, append(place, trusted(keys, ALICE), range(5)))
    file.write_bytes(file.read_bytes().replace(b'"rows": 5', b'"rows": 4'))
    with pytest.raises(CorruptStoreError, match="SHA-256 in its name"):
        len(open_as(place, trusted(keys)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_altered_rows_are_found_though_their_checksums_are_right(tmp_path: Path, keys: Path, layout: Any) -> None:
    place = tmp_path / "other"
    new_space(place, layout)
    commit = append(place, trusted(keys, ALICE), range(5))
    document = json.loads(commit_file(place, commit).read_bytes())
    (space,) = place.glob("spaces/*")
    key, vector = sample_keys([3])[0].tobytes(), np.full(4, 7, "<f4").tobytes()
    row = sorted(each.tobytes() for each in sample_keys(range(5))).index(key)
    for array, content in (("vectors", vector), ("row_crc", np.uint32(crc32c(key + vector)).tobytes())):
        part = document["arrays"][array][0]
        with (space / part["file"]).open("r+b") as stream:
            stream.seek(part["offset"] + row * len(content))
            stream.write(content)
    assert open_as(place).read(sample_keys([3])).tolist() == [[7] * 4]  # for who requires nothing all is well
    with pytest.raises(CorruptStoreError, match="which is signed"):
        open_as(place, trusted(keys)).read(sample_keys([3]))
    assert not verify(LocalStorage(place), deep=True).clean


def test_a_damaged_commit_of_a_stranger_does_not_stop_reading(place: Path, keys: Path) -> None:
    append(place, trusted(keys, ALICE), range(5))
    file = commit_file(place, append(place, None, range(5, 10)))
    file.write_bytes(b"{}")
    assert_reads(place, keys, range(5), ignored=1)


def test_a_commit_that_is_signed_later_is_read_from_then_on(place: Path, keys: Path) -> None:
    commit = append(place, None, range(5))
    reader = open_as(place, trusted(keys))
    assert (len(reader), reader.ignored_commits) == (0, 1)
    storage, folder = LocalStorage(place), f"spaces/{reader.id}/"
    file = f"{folder}commits/{commit}.json"
    from embedstore.store.signing import CommitSignatures

    CommitSignatures(storage, folder, trusted(keys, BOB)).sign(Commit.from_bytes(file, storage.read(file)))
    reader.refresh()
    assert (len(reader), reader.ignored_commits) == (5, 0)
    shutil.rmtree(place / folder / "signatures")  # what was checked once stays
    reader.refresh()
    assert len(reader) == 5


def test_writing_without_a_key_is_refused_where_signatures_are_required(place: Path, keys: Path) -> None:
    space = open_as(place, trusted(keys))
    with pytest.raises(InputError, match="EMBEDSTORE_SIGNING_KEY"):
        space.append(sample_batch(sample_keys(range(5)), space.recipe))
    with pytest.raises(InputError, match="Add this line to the file of members: ssh-ed25519 "):
        trusted(keys, MALLORY)


def test_only_what_oneself_may_vouch_for_is_merged(place: Path, keys: Path) -> None:
    unsigned = append(place, None, range(5))
    alices = append(place, signing_only(keys, ALICE), range(5, 10))
    mallorys = append(place, signing_only(keys, MALLORY), range(10, 15))

    def mergeable(trust: Trust | None) -> set[str]:
        space = open_as(place, trust)
        segments = space.segments()
        return {segment.commit_id for segment, may in zip(segments, space.mergeable(segments), strict=True) if may}

    assert mergeable(None) == {unsigned}
    assert mergeable(signing_only(keys, ALICE)) == {alices}
    assert mergeable(trusted(keys, BOB)) == {alices}
    assert mergeable(trusted(keys)) == set()
    assert mallorys not in mergeable(trusted(keys, BOB))


def test_verify_counts_signatures(place: Path, keys: Path) -> None:
    append(place, trusted(keys, ALICE), range(5))
    append(place, None, range(5, 10))
    report = verify(LocalStorage(place), deep=True)
    assert (report.clean, report.signatures, report.orphans) == (True, 1, [])
    report = verify(LocalStorage(place), deep=True, members=trusted(keys).members)
    assert [problem.reason for problem in report.problems] == ["no member has signed it"]
    assert report.to_json()["signatures"] == 1


def test_keys_come_from_the_environment(place: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(place, None, range(5))
    monkeypatch.setenv("EMBEDSTORE_MEMBERS", str(keys / "members"))
    monkeypatch.setenv("EMBEDSTORE_SIGNING_KEY", str(keys / ALICE))
    space = SpaceStore.open(place).space("toy")
    assert (len(space), space.ignored_commits) == (0, 1)
    space.append(sample_batch(sample_keys(range(5)), space.recipe))
    assert len(SpaceStore.open(place).space("toy")) == 5


def test_openssh_makes_such_keys(tmp_path: Path, place: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("needs ssh-keygen")
    for kind in ("ed25519", "ecdsa"):
        make = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "carol@lab", "-f", str(tmp_path / kind)]
        subprocess.run(make, check=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(tmp_path / "locked")], check=True)
    trust = trust_of(tmp_path / "ed25519", tmp_path / "ed25519.pub")
    append(place, trust, range(5))
    assert len(open_as(place, trust)) == 5
    (member,) = read_members(tmp_path / "ed25519.pub").values()
    assert member.name == "carol@lab"
    with pytest.raises(InputError, match="expected an Ed25519 key"):
        read_signer(tmp_path / "ecdsa")
    with pytest.raises(InputError, match="passphrase"):
        read_signer(tmp_path / "locked")
    with pytest.raises(InputError, match=r"without \.pub"):
        read_signer(tmp_path / "ed25519.pub")


def test_other_keys_are_refused(tmp_path: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for encoding in (PrivateFormat.OpenSSH, PrivateFormat.TraditionalOpenSSL):
        (tmp_path / "rsa").write_bytes(key.private_bytes(Encoding.PEM, encoding, NoEncryption()))
        with pytest.raises(InputError, match=r"Cannot sign with .*rsa: expected"):
            read_signer(tmp_path / "rsa")
    with pytest.raises(InputError, match="No such file"):
        read_signer(tmp_path / "none")
    (tmp_path / "empty").touch()
    with pytest.raises(InputError, match="expected a private key"):
        read_signer(tmp_path / "empty")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ssh-rsa AAAAB3NzaC1yc2EAAAADAQAB dave", "line 2: expected a key of kind ssh-ed25519, found 'ssh-rsa'"),
        ('from="*" ssh-ed25519 AAAA dave', "line 2: expected a key of kind"),
        ("ssh-ed25519 AAAA dave", "line 2: expected 32 bytes"),
        ("ssh-ed25519 ÄÖ dave", "line 2: expected base64"),
        ("ssh-ed25519", "line 2: expected 32 bytes"),
        ("# nobody yet", "at least one line"),
    ],
)
def test_a_members_file_is_read_strictly(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "members").write_text(f"# members\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_members(tmp_path / "members")


def test_a_private_key_is_not_shown(keys: Path) -> None:
    signer = read_signer(keys / ALICE)
    secret = (keys / ALICE).read_text().splitlines()[1]
    assert secret not in repr(signer)
    assert secret not in repr(Trust(signer))
    assert os.environ.get("EMBEDSTORE_SIGNING_KEY") is None
