"""Audits find vectors that no model gave, however right their checksums are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from embedstore.auditing import AuditOptions, audit
from embedstore.errors import CanaryError, InputError
from embedstore.identity import canonical, key_array, key_text, sequence_key
from embedstore.library import Store, open_store
from embedstore.models.resolution import resolve
from embedstore.records import Canaries, EmbeddingBatch, Record
from embedstore_cli.main import main

MODEL = "aac_dpc"
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


def proteins(count: int, start: int = 0) -> list[str]:
    return [
        RESIDUES[number % 20] + RESIDUES[number // 20 % 20] * 3 + "MKV" * (number + 1) for number in range(start, count)
    ]


def records(sequences: list[str]) -> list[Record]:
    return [Record(f"r{number}", sequence.encode(), "a.faa", number) for number, sequence in enumerate(sequences)]


def keys_of(sequences: list[str]) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return key_array(sequence_key(canonical(sequence, "protein")) for sequence in sequences)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(tmp_path / "store", create=True)
    store.fill(proteins(40), MODEL)
    return store


def put_wrong(store: Store, sequences: list[str], *, factor: float = 1.01) -> str:
    """Append vectors that the model does not give; return the id of their commit."""
    space = store.space(MODEL)
    before = {segment.commit_id for segment in space.segments()}
    right = resolve(MODEL).load("cpu").embed([sequence.encode() for sequence in sequences]).vectors
    space.append(EmbeddingBatch(keys_of(sequences), right * np.float32(factor)), {"by": "somebody"})
    (added,) = {segment.commit_id for segment in space.segments()} - before
    return added


def test_an_honest_store_passes(store: Store) -> None:
    report = audit(records(proteins(60) * 2), store.target(MODEL), AuditOptions(25))
    assert report.clean
    assert (report.read, report.held, report.sampled, report.matching) == (120, 40, 25, 25)
    assert report.largest_difference == 0
    assert store.space(MODEL).info().rows == 40  # nothing was stored


def test_wrong_vectors_with_right_checksums_are_found(store: Store) -> None:
    commit = put_wrong(store, proteins(50, 40))
    assert store.verify(deep=True).clean
    report = audit(records(proteins(60)), store.target(MODEL), AuditOptions(100))
    assert (report.held, report.sampled, report.matching, len(report.differing)) == (50, 50, 40, 10)
    assert report.largest_difference == pytest.approx(0.01, rel=1e-3)
    assert {each.commit for each in report.differing} == {commit}
    assert {each.id for each in report.differing} == {f"r{number}" for number in range(40, 50)}
    first = min(report.differing, key=lambda each: each.id)
    assert first.key == key_text(keys_of(proteins(60)[40:41])[0].tobytes())
    assert first.difference > first.allowed > 0
    assert first.provenance["by"] == "somebody"
    assert first.signed_by == ()


def test_a_difference_within_the_tolerance_is_none(store: Store) -> None:
    put_wrong(store, proteins(50, 40), factor=1 + 5e-5)
    report = audit(records(proteins(50)), store.target(MODEL), AuditOptions(100))
    assert report.clean
    assert 4e-5 < report.largest_difference < 6e-5


def test_the_sample_depends_on_the_seed_only(store: Store) -> None:
    put_wrong(store, proteins(1040, 40)[::25])

    def found(sequences: list[str], seed: int | None) -> tuple[set[str], int]:
        report = audit(records(sequences), store.target(MODEL), AuditOptions(30, seed))
        return {each.key for each in report.differing}, report.seed

    everything = proteins(1040)
    assert found(everything, 7) == found(everything[::-1] * 2, 7)
    assert found(everything, 7)[0] != found(everything, 8)[0]
    assert found(everything, None)[1] != found(everything, None)[1]


def test_a_stored_nan_differs(store: Store, tmp_path: Path) -> None:
    batch = EmbeddingBatch(keys_of(proteins(41, 40)), np.ones((1, 420), np.float32))
    batch.vectors[0, 3] = np.nan  # past the check of the constructor
    store.space(MODEL).append(batch)
    report = audit(records(proteins(41)), store.target(MODEL), AuditOptions(50))
    assert len(report.differing) == 1
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert document["differing"][0]["difference"] is None


def test_the_model_is_judged_first(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", create=True)
    target = store.target(MODEL)
    wrong = Canaries(("MKV",), np.ones((1, 420), np.float32))
    space = store.create_space(target.recipe, MODEL, wrong)
    space.append(EmbeddingBatch(keys_of(proteins(3)), np.ones((3, 420), np.float32)))
    with pytest.raises(CanaryError):
        audit(records(proteins(3)), store.target(MODEL), AuditOptions(3))


def test_nothing_to_audit_is_an_error(store: Store) -> None:
    with pytest.raises(InputError, match="none of the 5 sequences"):
        audit(records(proteins(45)[40:]), store.target(MODEL), AuditOptions(3))
    with pytest.raises(InputError, match="nothing is stored"):
        audit(records(proteins(3)), store.target("tnf"), AuditOptions(3))


def test_the_command_reports_and_exits_1(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Ed25519PrivateKey.generate()
    (tmp_path / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    fasta = tmp_path / "a.faa"
    fasta.write_text("".join(f">{record.id}\n{record.sequence.decode()}\n" for record in records(proteins(50))))
    monkeypatch.setenv("EMBEDSTORE_PATH", store.location)
    assert main(["audit", str(fasta), "--model", MODEL, "--sample", "10"]) == 0
    assert "10 of 40 stored" in capsys.readouterr().out
    signing = open_store(tmp_path / "store", sign_with=tmp_path / "key")
    commit = put_wrong(signing, proteins(50, 40))
    assert main(["audit", str(fasta), "--model", MODEL, "--sample", "50", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["sampled"], report["matching"], report["clean"]) == (50, 40, False)
    assert {"id", "key", "difference", "allowed", "commit", "created", "signed_by", "provenance"} == set(
        report["differing"][0]
    )
    assert report["differing"][0]["commit"] == commit
    assert len(report["differing"][0]["signed_by"]) == 1
    assert main(["audit", str(fasta), "--model", MODEL, "--sample", "50", "--quiet"]) == 1
    assert capsys.readouterr().out.count("differs by") == 10
    assert main(["audit", str(fasta), "--model", MODEL, "--sample", "0"]) == 2


def test_a_wrong_vector_of_an_upstream_store_is_found(store: Store, tmp_path: Path) -> None:
    put_wrong(store, proteins(50, 40))
    near = open_store(tmp_path / "near", create=True, upstream=[store.location])
    report = audit(records(proteins(50)), near.target(MODEL), AuditOptions(100))
    assert (report.sampled, len(report.differing)) == (50, 10)
    assert report.differing[0].commit == ""
