"""Options that several commands share: each is wherever it is needed, means the same, and leaves nothing behind."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import embedstore
from embedstore_cli.context import FILLING
from embedstore_cli.main import app, main

PROTEINS = Path(__file__).resolve().parents[2] / "examples" / "proteins.faa"
COMMANDS = typer.main.get_group(app).commands
MAY_FILL = {"fill", "get", "merge", "train", "evaluate", "predict", "compare"}
"""`import-classifier` looks models up and computes nothing; `audit`, `selftest`, `tune` and `bench` store nothing."""


def options_of(command: str) -> dict[str, Any]:
    """The options of a command by their longest name; typer's own types of parameters are not public."""
    found = [param for param in COMMANDS[command].params if param.param_type_name == "option"]
    names = [(name, param) for param in found for name in (*param.opts, *param.secondary_opts)]
    return {name: param for name, param in names if name.startswith("--")}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the store is to be, by default."""
    monkeypatch.setenv("EMBEDSTORE_PATH", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "store"


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    capsys.readouterr()
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_every_command_that_says_that_it_can_fill_is_among_those_that_may() -> None:
    assert {name for name in COMMANDS if "--fill" in options_of(name)} <= MAY_FILL


@pytest.mark.parametrize("command", sorted(MAY_FILL))
def test_whoever_may_fill_has_all_options_of_a_fill(command: str) -> None:
    flags = {f"--{name.replace('_', '-')}" for name in FILLING}
    assert {"--weights", "--precision", "--device", "--upstream", "--pull-through", "--sign-with", "--workers"} < flags
    assert flags <= set(options_of(command))


def test_import_classifier_has_what_looks_models_up() -> None:
    expected = {"--store", "--upstream", "--weights", "--precision", "--sign-with", "--require-signed"}
    assert expected <= set(options_of("import-classifier"))


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"init", "models", "tune", "bench", "cache", "completion"}))
def test_every_command_about_a_store_takes_its_place(command: str) -> None:
    assert "--store" in options_of(command) or command == "prepare"


def test_an_option_of_several_commands_says_the_same_in_each() -> None:
    flags = {f"--{name.replace('_', '-')}" for name in (*FILLING, "pin", "name", "json", "quiet", "any_molecule")}
    for flag in flags:
        assert len({options_of(name)[flag].help for name in COMMANDS if flag in options_of(name)}) == 1, flag


def test_options_never_become_environment_variables(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = dict(os.environ)
    lab = store.parent / "my lab"
    assert main(["fill", str(PROTEINS), "-m", "aac_dpc", "--store", str(lab), "-q"]) == 0
    upstream = ["--upstream", str(lab), "--pull-through"]
    assert run_json(capsys, "fill", PROTEINS, "-m", "aac_dpc", *upstream)[1]["hits"] == 14
    assert dict(os.environ) == before
    assert [space["rows"] for space in run_json(capsys, "ls")[1]] == [14]  # kept, and no upstream store any more


def test_variables_of_the_user_are_the_defaults(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = store.parent / "my lab"
    main(["fill", str(PROTEINS), "-m", "aac_dpc", "--store", str(lab), "-q"])
    monkeypatch.setenv("EMBEDSTORE_UPSTREAM", f"'{lab}'")
    monkeypatch.setenv("EMBEDSTORE_PULL_THROUGH", "1")
    assert run_json(capsys, "fill", PROTEINS, "-m", "aac_dpc")[1]["hits"] == 14
    monkeypatch.delenv("EMBEDSTORE_UPSTREAM")
    assert [space["rows"] for space in run_json(capsys, "ls")[1]] == [14]


def test_merge_fills_with_workers(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("host.fna").write_text(f">g\n{'ACGTTGCAGGCT' * 60}\n")
    assert main(["prepare", "host.fna", "-o", "samples", "--length", "300", "-q"]) == 0
    code, merged = run_json(
        capsys, "merge", "samples/samples.tsv", "-m", "tnf", "-o", "x.npz", "--fill", "--workers", "2"
    )
    assert (code, merged["filled"][0]["computed"]) == (0, merged["filled"][0]["unique"])
    arguments = ["get", str(PROTEINS), "-m", "aac_dpc", "-o", "y.npz", "--fill", "--workers", "2", "--scheduler", "x"]
    assert main(arguments) == 2
    assert "one of --workers, --scheduler and --cluster" in capsys.readouterr().err


def test_defaults_are_shown() -> None:
    for command in COMMANDS.values():
        for param in command.params:
            if param.param_type_name == "option" and not param.is_flag and param.default is not None:
                assert param.show_default is True, (command.name, param.name)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_an_unknown_option_suggests(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = next(name for name in (*options_of(command), "--help") if name not in ("--long", "--pin"))
    assert main([command, f"{wanted}x"]) == 2
    assert wanted in capsys.readouterr().err.splitlines()[-1]


ADVICE = {
    ("classify/splitting.py", "--labels"): {"train", "compare"},
    ("classify/splitting.py", "--ignore-unlabelled"): {"train", "compare"},
    ("classify/splitting.py", "--group-by"): {"prepare"},
    ("classify/blocks.py", "--models"): {"train", "evaluate", "predict"},
    ("classify/fallback.py", "--models"): {"train"},
    ("classify/fallback.py", "--dna-only-fallback"): {"train", "predict"},
    ("classify/calling.py", "--min-score"): {"predict"},
    ("classify/calling.py", "--no-balance"): {"train"},
    ("classify/calling.py", "--positive"): {"predict"},
    ("classify/prediction.py", "--genetic-code"): {"predict"},
    ("classify/tables.py", "--compat"): {"predict"},
    ("comparison/comparing.py", "--models"): {"compare"},
    ("comparison/comparing.py", "--fill"): {"compare"},
    ("comparison/classifiers.py", "--models"): {"compare"},
    ("doctor/installation.py", "--weights"): {*MAY_FILL, "audit", "tune", "bench", "selftest", "import-classifier"},
    ("doctor/storage.py", "--upstream"): MAY_FILL,
    ("doctor/storage.py", "--pull-through"): MAY_FILL,
    ("features/schema.py", "--models"): {"merge", "train", "evaluate", "predict"},
    ("features/schema.py", "--labels"): {"evaluate", "train", "merge"},
    ("filling/intake.py", "--any-molecule"): {"fill", "get", "audit"},
    ("filling/target.py", "--name"): {"fill", "get", "audit"},
    ("library.py", "--store"): set(COMMANDS) - {"init", "models", "tune", "bench", "cache", "completion", "prepare"},
    ("models/devices.py", "--device"): {*MAY_FILL, "audit", "tune", "bench", "selftest"},
    ("models/resolution.py", "--weights"): {*MAY_FILL, "audit", "tune", "bench", "selftest", "import-classifier"},
    ("samples/sources.py", "--coding-only"): {"prepare"},
    ("store/commits.py", "--grace"): {"gc"},
    ("store/signing.py", "--sign-with"): {*MAY_FILL, "push", "pull", "sync", "compact", "verify", "rm"},
    ("store/store.py", "--upstream"): MAY_FILL,
    ("upkeep/removal.py", "--sign-with"): {"rm"},
}
"""Where an error names an option, and the commands that may end with it."""

_OPTION = re.compile(r"(?<!var\()--[a-z-]+(?![a-z-]*:)")  # a style sheet's variables look alike
OTHER_PROGRAMS = {"storage/clouds.py", "sequences/compression.py"}


def _named_options() -> Iterator[tuple[str, str]]:
    """The options that texts of the library name without their command (as `embedstore gc --x`), and in which file."""
    root = Path(embedstore.__file__).parent
    for path in sorted(root.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documents = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
                text = re.sub(r"`[^`]*`|embedstore \w+ [^.]*", "", node.value)
                yield from ((path.relative_to(root).as_posix(), option) for option in _OPTION.findall(text))


def test_advice_in_an_error_is_possible_in_the_command_that_gives_it() -> None:
    named = {(file, option) for file, option in _named_options() if file not in OTHER_PROGRAMS}
    assert named <= set(ADVICE), named - set(ADVICE)
    for (file, option), commands in ADVICE.items():
        for command in commands:
            assert option in options_of(command), (file, option, command)
