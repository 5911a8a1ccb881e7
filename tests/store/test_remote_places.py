"""Addresses of stores, and the credentials that go with them and nowhere else."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from store.object_servers import FaultProxy, S3Server, running_web_server, s3_variables

from embedstore.errors import InputError, MissingDependencyError, StorageError
from embedstore.storage.clouds import settings_of_files
from embedstore.storage.locations import open_storage
from embedstore.storage.objects import ObjectStorage
from embedstore.storage.retrying import redacted, redacted_url
from embedstore_cli.main import main

PROTEINS = Path(__file__).resolve().parents[2] / "examples" / "proteins.faa"
SECRET = "wJalrXUtnFEMI/example"  # noqa: S105 - of an example


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, object]:
    capsys.readouterr()
    code = main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_an_unknown_scheme_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"ftp://….*s3://, gs://, az://, https://, http://"):
        open_storage("ftp://ada:secret@host/x")


@pytest.mark.parametrize(("url", "library"), [("s3://bucket/x", "obstore"), ("https://host/x", "urllib3")])
def test_a_missing_extra_is_named(url: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    for module in ("objects", "web"):
        monkeypatch.delitem(sys.modules, f"embedstore.storage.{module}", raising=False)
    with pytest.raises(MissingDependencyError, match=r"pip install 'embedstore-bio\[remote\]'"):
        open_storage(url)


@pytest.mark.parametrize(
    "url", ["s3://key:secret@bucket/x", "s3://bucket/x?secret=1", "s3://bucket/x#secret", "s3:///x"]
)
def test_an_address_is_a_bucket_and_a_prefix(url: str) -> None:
    with pytest.raises(InputError) as caught:
        ObjectStorage(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["gs://bucket/a/b/", "az://container/a%20b"])
def test_other_object_stores_are_opened_by_their_own_settings(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    assert ObjectStorage(url).location == url.rstrip("/").replace("%20", " ")


def test_settings_that_cannot_be_used_say_where_they_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(StorageError, match="AZURE_STORAGE_"):
        ObjectStorage("az://container/x")


def test_keys_come_from_the_files_of_the_aws_command_line(tmp_path: Path, s3_server: S3Server) -> None:
    (tmp_path / "credentials").write_text(
        f"[default]\naws_access_key_id = AKID1\naws_secret_access_key = {SECRET}\n"
        "[lab]\naws_access_key_id = AKID2\naws_secret_access_key = other\naws_session_token = token\n"
    )
    (tmp_path / "config").write_text(
        "[default]\nregion = eu-west-1\n"
        "[profile lab]\nregion = eu-north-1\nendpoint_url = https://s3.lab.example.org\n"
        "[profile role]\nrole_arn = arn:aws:iam::1:role/x\n"
    )
    files = {"AWS_SHARED_CREDENTIALS_FILE": f"{tmp_path}/credentials", "AWS_CONFIG_FILE": f"{tmp_path}/config"}
    default = {"access_key_id": "AKID1", "secret_access_key": SECRET, "region": "eu-west-1"}
    assert settings_of_files(files) == default
    assert settings_of_files({**files, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "mine"}) == {}
    lab = settings_of_files({**files, "AWS_PROFILE": "lab"})
    assert (lab["session_token"], lab["region"], lab["endpoint"]) == (
        "token",
        "eu-north-1",
        "https://s3.lab.example.org",
    )
    with pytest.raises(StorageError, match="export-credentials"):
        settings_of_files({**files, "AWS_PROFILE": "role"})
    (tmp_path / "credentials").write_text(f"aws_secret_access_key = {SECRET}\n")
    with pytest.raises(StorageError, match="credentials") as caught:
        settings_of_files(files)
    assert SECRET not in str(caught.value)


def test_a_profile_opens_a_store(tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in s3_variables(s3_server.url):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "credentials").write_text(f"[default]\naws_access_key_id = AKID1\naws_secret_access_key = {SECRET}\n")
    (tmp_path / "config").write_text(f"[default]\nregion = us-east-1\nendpoint_url = {s3_server.url}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", f"{tmp_path}/credentials")
    monkeypatch.setenv("AWS_CONFIG_FILE", f"{tmp_path}/config")
    storage = ObjectStorage(f"s3://{s3_server.make_bucket('by-profile')}/store")
    storage.write("name", [b"content"])
    assert storage.read("name") == b"content"


def test_no_message_repeats_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=2024&sig=abcdef")
    assert redacted(f"<StringToSign>{SECRET}</StringToSign>") == "<StringToSign>…</StringToSign>"
    assert redacted("GET https://ada:pw@host/x?sv=2024&sig=abcdef failed") == "GET https://host/x?… failed"
    assert redacted("with sv=2024&sig=abcdef") == "with …"
    assert redacted("key FROMFILE", ["FROMFILE"]) == "key …"
    assert redacted_url("https://ada:pw@host:1/x?token=y#z") == "https://host:1/x"


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_repeats_nothing_that_was_sent(bucket: str, s3_server: S3Server, status: int) -> None:
    with FaultProxy(s3_server.url, {}) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        storage = ObjectStorage(f"{bucket}/x")
        proxy.refuses = status
        for ask in (lambda: storage.read("name"), lambda: storage.write("name", [b"x"]), lambda: storage.list("")):
            with pytest.raises(StorageError, match=r"Check the credentials.*AWS_ACCESS_KEY_ID") as caught:
                ask()
            for sent in ("AKIDEXAMPLE0TEST", "Signature", s3_variables("")["AWS_SECRET_ACCESS_KEY"]):
                assert sent not in str(caught.value)
            assert caught.value.__cause__ is None


def test_missing_credentials_are_distinguished_from_missing_buckets(
    bucket: str, monkeypatch: pytest.MonkeyPatch, s3_server: S3Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ls", "--store", "s3://no-such-bucket/x"]) == 1
    assert "there is no such bucket" in capsys.readouterr().err
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    assert main(["ls", "--store", f"{bucket}/x"]) == 1
    assert "found no credentials. They come from AWS_ACCESS_KEY_ID" in capsys.readouterr().err


def test_a_bucket_holds_a_store_for_every_command(
    bucket: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{bucket}/lab"
    assert main(["init", place]) == 0
    fill = ("fill", str(PROTEINS), "--model", "aac_dpc", "--store", place)
    assert run_json(capsys, *fill)[1]["computed"] == 14
    assert run_json(capsys, *fill)[1]["hits"] == 14
    monkeypatch.setenv("EMBEDSTORE_PATH", place)
    assert [space["rows"] for space in run_json(capsys, "ls")[1]] == [14]
    assert run_json(capsys, "info", "aac_dpc")[1]["rows"] == 14
    assert main(["get", str(PROTEINS), "--model", "aac_dpc", "-o", str(tmp_path / "x.npz")]) == 0
    code, report = run_json(capsys, "verify", "--deep")
    assert (code, report["clean"], report["orphans"]) == (0, True, [])
    stored = b"".join(ObjectStorage(place).read(entry.name) for entry in ObjectStorage(place).walk(""))
    for secret in s3_variables("").values():
        assert secret in ("", "true", "us-east-1") or secret.encode() not in stored


def test_a_served_folder_is_read_by_every_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = str(tmp_path / "store")
    assert main(["fill", str(PROTEINS), "--model", "aac_dpc", "--store", folder, "-q"]) == 0
    with running_web_server(tmp_path / "store") as url:
        assert main(["ls", "--store", url]) == 1
        assert "publish-index" in capsys.readouterr().err
        code, published = run_json(capsys, "publish-index", "--store", folder)
        assert (code, sorted(published)) == (0, ["bytes", "created_ns", "documents", "files", "location"])
        assert [space["rows"] for space in run_json(capsys, "ls", "--store", url)[1]] == [14]
        assert run_json(capsys, "info", "--store", url)[1]["location"] == url
        fill = ("fill", str(PROTEINS), "--model", "aac_dpc", "--store", url)
        assert run_json(capsys, *fill)[1]["hits"] == 14
        code, report = run_json(capsys, "verify", "--deep", "--store", url)
        assert (code, report["clean"], report["orphans"]) == (0, True, [])
        (tmp_path / "more.faa").write_text(">x\nMKVLAA\n")
        assert main(["fill", str(tmp_path / "more.faa"), "--model", "aac_dpc", "--store", url]) == 1
        assert "read-only" in capsys.readouterr().err
