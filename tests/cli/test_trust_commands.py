"""Signing and requiring signatures on the command line, by options and by the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import embedstore
from embedstore.errors import MissingEmbeddingError
from embedstore.store.signing import PublicKey
from embedstore_cli.main import main

PROTEINS = Path(__file__).resolve().parents[2] / "examples" / "proteins.faa"
FILL = ["fill", str(PROTEINS), "--model", "aac_dpc"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the store is to be; beside it lie the keys of Alice and Mallory, and `members`, which is Alice."""
    monkeypatch.setenv("EMBEDSTORE_PATH", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    for name in ("alice", "mallory"):
        key = Ed25519PrivateKey.generate()
        Path(name).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        Path(f"{name}.pub").write_text(f"{PublicKey(key.public_key().public_bytes_raw()).text} {name}\n")
    Path("members").write_bytes(Path("alice.pub").read_bytes())
    return tmp_path / "store"


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_what_strangers_filled_is_computed_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FILL, "--sign-with", "mallory", "-q"]) == 0
    required = ["--require-signed", "members"]
    assert run_json(capsys, "info", "aac_dpc", *required)[1]["ignored_commits"] == 1
    assert run_json(capsys, "ls", *required)[1][0]["rows"] == 0
    assert run_json(capsys, "ls")[1][0]["rows"] == 14  # the option held for one command only
    assert main(["get", str(PROTEINS), "--model", "aac_dpc", "-o", "x.npz", *required]) == 1
    assert main([*FILL, *required]) == 1
    assert "--sign-with FILE" in capsys.readouterr().err
    code, report = run_json(capsys, *FILL, "--sign-with", "alice", *required)
    assert (code, report["computed"], report["hits"]) == (0, 14, 0)
    code, report = run_json(capsys, *FILL, "--sign-with", "alice", *required)
    assert (code, report["computed"], report["hits"]) == (0, 0, 14)
    assert main(["get", str(PROTEINS), "--model", "aac_dpc", "-o", "x.npz", "-q", *required]) == 0
    with np.load("x.npz") as found:
        assert len(found["X"]) == 14
    assert main(["info", *required]) == 0
    assert "1 commits that no member has signed" in capsys.readouterr().out


def test_verify_tells_what_no_member_has_signed(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    main([*FILL, "--sign-with", "alice", "-q"])
    code, report = run_json(capsys, "verify", "--deep", "--require-signed", "members")
    assert (code, report["signatures"], report["problems"]) == (0, 1, [])
    code, report = run_json(capsys, "verify", "--require-signed", "mallory.pub")
    assert (code, [problem["reason"] for problem in report["problems"]]) == (1, ["no member has signed it"])
    (signature,) = place.glob("spaces/*/signatures/*.json")
    signature.write_bytes(signature.read_bytes()[:-9])
    code, report = run_json(capsys, "verify")
    assert (code, len(report["problems"])) == (1, 1)


def test_the_environment_will_do(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDSTORE_SIGNING_KEY", "alice")
    monkeypatch.setenv("EMBEDSTORE_MEMBERS", "members")
    assert main([*FILL, "-q"]) == 0
    assert run_json(capsys, "ls")[1][0]["rows"] == 14
    assert run_json(capsys, "verify")[1]["signatures"] == 1
    assert main([*FILL, "--sign-with", "mallory"]) == 1
    assert "none of theirs" in capsys.readouterr().err
    assert os.environ["EMBEDSTORE_SIGNING_KEY"] == "alice"


def test_the_library_takes_the_same_files(place: Path) -> None:
    store = embedstore.open(place, create=True, sign_with="mallory")
    store.fill(["MKV"], "aac_dpc")
    strict = embedstore.open(place, sign_with="alice", require_signed=Path("members"))
    with pytest.raises(MissingEmbeddingError):
        strict.get(["MKV"], "aac_dpc")
    np.testing.assert_array_equal(strict.embed(["MKV"], "aac_dpc"), store.get(["MKV"], "aac_dpc"))
    assert strict.space("aac_dpc").ignored_commits == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ls", "--require-signed", "none"], "Cannot read members from"),
        (["ls", "--require-signed", "alice"], "expected a key of kind ssh-ed25519"),
        ([*FILL, "--sign-with", "alice.pub"], "without .pub"),
        ([*FILL, "--sign-with", "members"], "public half"),
    ],
)
def test_wrong_files_are_told_in_a_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], place: Path
) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not place.exists()


def test_without_cryptography_only_signatures_are_missing(place: Path) -> None:
    script = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from embedstore_cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )

    def run(*arguments: str) -> tuple[int, str]:
        ran = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
        return ran.returncode, ran.stderr

    assert run(*FILL, "-q") == (0, "")
    code, error = run(*FILL, "--sign-with", "alice")
    assert (code, "Install embedstore-bio[trust]" in error) == (1, True)
    main([*FILL, "--name", "aac_dpc", "-q"])
    embedstore.open(place, sign_with="alice").fill(["MKVAAA"], "aac_dpc")
    assert run("verify", "--deep")[0] == 0
    code, error = run("ls", "--require-signed", "members")
    assert (code, "Install embedstore-bio[trust]" in error) == (1, True)


def test_signatures_travel_with_what_is_copied(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main([*FILL, "--sign-with", "alice", "-q"])
    main(["fill", str(PROTEINS), "--model", "aac_dpc", "--precision", "half", "--name", "theirs", "-q"])
    far = tmp_path / "far"
    main(["init", str(far)])
    code, report = run_json(capsys, "push", str(far), "--require-signed", "members")
    assert (code, report["copied"]) == (0, 14)
    code, report = run_json(capsys, "verify", "--deep", "--store", str(far), "--require-signed", "members")
    assert (code, report["signatures"], report["problems"]) == (0, 1, [])
    assert [space["rows"] for space in run_json(capsys, "ls", "--store", str(far))[1] if space["rows"]] == [14]


def test_workers_sign_with_the_key_of_the_option_and_no_variable_is_set(capsys: pytest.CaptureFixture[str]) -> None:
    trust = ["--sign-with", "alice", "--require-signed", "members"]
    before = dict(os.environ)
    code, report = run_json(capsys, *FILL, "--workers", "2", *trust)
    assert (code, report["computed"], report["failed"]) == (0, 14, [])
    assert dict(os.environ) == before
    assert run_json(capsys, "ls", "--require-signed", "members")[1][0]["rows"] == 14
    assert run_json(capsys, "verify", "--deep", "--require-signed", "members")[1]["problems"] == []


def test_repair_goes_by_the_members_of_the_option(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    main([*FILL, "--sign-with", "alice", "-q"])
    code, report = run_json(capsys, "verify", "--repair", "--require-signed", "members", "--sign-with", "alice")
    assert (code, report["removed"]) == (0, [])
    assert main(["verify", "--repair", "--require-signed", "members", "--sign-with", "mallory"]) == 1
    assert "none of theirs" in capsys.readouterr().err
