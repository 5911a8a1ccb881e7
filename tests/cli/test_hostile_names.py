"""Names that would steer a terminal or break a table: escaped wherever people meet them, exact in JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from embedstore.atomic import cell, from_cell
from embedstore.errors import InputError, MissingEmbeddingError, plain
from embedstore.library import open_store
from embedstore.records import Rejection
from embedstore_cli import arguments
from embedstore_cli.main import main
from embedstore_cli.output import list_rejections, notice, write_facts, write_table

HOSTILE = "a\x1b[2J\x1b]0;owned\x07\r\nb\x9b31m\u202ec\u2066d\u2028e\0\udcff"
STEERING = [character for character in HOSTILE if not character.isprintable()]


def assert_harmless(text: str) -> None:
    assert not [character for character in text if character in STEERING and character != "\n"]


@pytest.mark.parametrize("text", ["sp|P12345|X_HUMAN", "NC_001416.1", "C:\\test\\new", "Ä 漢 🧬", "a%b$c/d=e"])
def test_ordinary_names_stay_as_they_are(text: str) -> None:
    assert plain(text) == text
    assert cell(text) == text
    assert from_cell(text) == text


def test_what_steers_a_terminal_is_escaped() -> None:
    assert plain(HOSTILE) == (
        r"a\x1b[2J\x1b]0;owned\x07\x0d\x0ab\x9b31m\u202ec\u2066d\u2028e\x00\udcff"
    )  # fmt: skip
    assert plain("x" * 100, 80) == "x" * 80 + "…"


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\\\\xu0123456789abcdef\t\n\r")))
def test_cells_read_back_equal_and_never_break_a_row(text: str) -> None:
    written = cell(text)
    assert from_cell(written) == text
    assert not {"\t", "\n", "\r", "\x1b", "\0", "\x85", "\u2028"} & set(written)
    assert len(f"{written}\tnext".splitlines()) == 1
    written.encode()


def test_tables_facts_and_notices_show_no_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(("name", ">rows"), [[HOSTILE, "1"]])
    write_facts([(HOSTILE, HOSTILE)])
    notice(HOSTILE)
    captured = capsys.readouterr()
    assert_harmless(captured.out + captured.err)
    assert captured.out.count("\n") == 3
    assert captured.err.count("\n") == 1
    assert captured.out.count(r"\x1b[2J") == 3


def test_listed_rejections_are_short_and_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    list_rejections([Rejection("file\x1b[31m.faa", 3, "i" * 1_000_000, f"because of {HOSTILE}")], "rejected")
    shown = capsys.readouterr().err
    assert_harmless(shown)
    assert len(shown) < 400
    assert f"rejected file\\x1b[31m.faa:3 {'i' * 80}…: because of" in shown


def test_errors_of_the_command_line_are_one_harmless_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDSTORE_PATH", str(tmp_path / "store"))
    assert main(["fill", str(tmp_path / "no\x1b[31m\nsuch.faa"), "--model", "aac_dpc"]) == 1
    shown = capsys.readouterr().err
    assert_harmless(shown)
    assert shown.startswith("Error: ")
    assert shown.count("\n") == 1


def test_ids_of_a_file_reach_terminal_escaped_and_json_exactly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDSTORE_PATH", str(tmp_path / "store"))
    path = tmp_path / "input.faa"
    path.write_bytes(b">good\nMKVMKV\n>bad\x1b[2J\xe2\x80\xae\nM-V\n")
    assert main(["fill", str(path), "--model", "aac_dpc"]) == 3
    captured = capsys.readouterr()
    assert_harmless(captured.out + captured.err)
    assert r"bad\x1b[2J\u202e" in captured.err
    assert main(["fill", str(path), "--model", "aac_dpc", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["rejected"][0]["id"] == "bad\x1b[2J\u202e"


def test_notebook_tables_escape_names(tmp_path: Path) -> None:
    folder = tmp_path / "st\x1b[31m<b>ore"
    shown = open_store(folder, create=True)._repr_html_() + repr(open_store(folder))
    assert "\x1b" not in shown
    assert "st\\x1b[31m&lt;b&gt;ore" in shown


@pytest.mark.parametrize("text", ["500", "1.5", " 12 "])
def test_size_without_a_unit_is_refused_and_units_are_named(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="500 GB, 500 GiB"):
        arguments.size_bytes(text)


@pytest.mark.parametrize(("text", "expected"), [("0", 0), ("500 GB", 500 * 10**9), ("2GiB", 2 << 30), ("7b", 7)])
def test_sizes(text: str, expected: int) -> None:
    assert arguments.size_bytes(text) == expected


def test_errors_hold_what_was_found_exactly() -> None:
    assert str(InputError(HOSTILE)) == HOSTILE  # only what shows it escapes


def test_missing_ids_are_named_shortly_and_exactly_as_an_attribute() -> None:
    error = MissingEmbeddingError("space", ["x\x1b" * 2000], requested=1)
    assert len(str(error)) < 400
    assert "\x1b" not in str(error)
    assert error.missing == ["x\x1b" * 2000]


@pytest.mark.parametrize("suffix", ["npz", "h5", "zarr"])
def test_vectors_of_odd_ids_are_exported_with_the_ids_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setenv("EMBEDSTORE_PATH", str(tmp_path / "store"))
    (tmp_path / "input.faa").write_bytes(b">a\x1b[2J\nMKVMKV\n>" + b"i" * 4096 + b"\nMKVL\n")
    arguments = ["get", str(tmp_path / "input.faa"), "--model", "aac_dpc", "--fill", "-o"]
    assert main([*arguments, str(tmp_path / f"x.{suffix}")]) == 0
    assert_harmless(capsys.readouterr().err)
    (tmp_path / "input.faa").write_bytes(b">long\n" + b"MKV" * 300 + b"\n>a\0b\nMKVMKV\n")
    assert main([*arguments, str(tmp_path / f"y.{suffix}")]) == 1
    assert "holds a NUL character" in capsys.readouterr().err
    assert not (tmp_path / f"y.{suffix}").exists()
