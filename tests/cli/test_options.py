"""What options and arguments mean: weights of several models, repeated options, folders, home directories."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest
import typer

from embedstore.filling import FillProgress
from embedstore.library import Store
from embedstore_cli.arguments import names, weights_of
from embedstore_cli.context import Context, Precision
from embedstore_cli.main import main
from embedstore_cli.progress import fill_shown

PROTEINS = Path(__file__).resolve().parents[2] / "examples" / "proteins.faa"
ESM, BERT = "esm2_t33_650m", "dnabert_s"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home directory and the working directory; the store lies elsewhere."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("EMBEDSTORE_PATH", str(tmp_path / "store"))
    monkeypatch.chdir(home)
    return home


def test_models_are_given_several_times_or_with_commas() -> None:
    assert names(["a,b", "c"]) == ("a", "b", "c")
    assert names(None) == ()


def test_weights_without_a_name_are_of_the_only_model_that_has_weights() -> None:
    assert weights_of([ESM], ["w"]) == {ESM: Path("w")}
    assert weights_of(["tnf", ESM, "aac_dpc"], ["w"]) == {ESM: Path("w")}
    assert weights_of([BERT, ESM], [f"{BERT}=b", "e"]) == {BERT: Path("b"), ESM: Path("e")}
    assert weights_of([ESM], ["odd=name"]) == {ESM: Path("odd=name")}
    assert weights_of([ESM], None) == weights_of([], None) == {}


def test_weights_may_lie_in_the_home_directory(home: Path) -> None:
    assert weights_of([BERT, ESM], [f"{ESM}=~/e", "~/b"]) == {ESM: home / "e", BERT: home / "b"}


@pytest.mark.parametrize(
    ("models", "given", "message"),
    [
        ([ESM, BERT], ["w"], "expected MODEL=DIR"),
        ([ESM], ["w", "v"], "expected MODEL=DIR"),
        ([ESM], [f"{BERT}=w"], f"expected one of {ESM}, found {BERT}"),
        ([ESM], [f"{ESM}=w", f"{ESM}=v"], "has weights twice"),
        (["tnf", "aac_dpc"], ["w"], "tnf, aac_dpc needs none"),
    ],
)
def test_weights_that_could_be_of_another_model_are_refused(models: list[str], given: list[str], message: str) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        weights_of(models, given)


def test_precision_is_that_of_every_model() -> None:
    options = Context(weights=[f"{ESM}=w"], precision=Precision.full).options_of_models([ESM, BERT])
    assert {name: (each.weights, each.precision) for name, each in options.items()} == {
        ESM: (Path("w"), "full"),
        BERT: (None, "full"),
    }
    assert Context().options_of_models([ESM, BERT]) == {}


def test_the_licence_of_models_that_are_not_for_commerce_is_shown() -> None:
    assert Context().options_of_models([ESM, "ankh_base"])["ankh_base"].on_download is not None
    assert Context(quiet=True).model_options("ankh_base").on_download is None


def test_an_option_is_never_replaced_silently(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fill", str(PROTEINS), "-m", "aac_dpc", "--model", "tnf"]) == 2
    assert "-m/--model: expected once, found 2 times" in capsys.readouterr().err
    assert main(["evaluate", "x.tsv", "-c", "one", "-c", "two"]) == 2
    assert "-c/--classifier: expected once, found 2 times" in capsys.readouterr().err


def test_mistyped_commands_and_options_suggest_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fil"]) == 2
    assert "'fill'" in capsys.readouterr().err
    assert main(["fill", str(PROTEINS), "--modle", "aac_dpc"]) == 2
    assert "--model" in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_is_its_sequence_files(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "proteins" / "more").mkdir(parents=True)
    (home / "proteins" / "a.faa").write_text(">a\nMKVLA\n")
    (home / "proteins" / "notes.txt").write_text("no sequences")
    (home / "proteins" / ".hidden.faa").write_text(">h\nMKVLC\n")
    (home / "proteins" / "more" / "b.fasta.gz").write_bytes(gzip.compress(b">b\nMKVLAC\n"))
    assert main(["fill", "~/proteins", "-m", "aac_dpc", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unique"] == 2


def test_a_tilde_is_the_home_directory_in_every_path(home: Path) -> None:
    (home / "a.faa").write_text(">a\nMKVLA\n")
    assert main(["init", "~/store"]) == 0
    assert main(["fill", "~/a.faa", "-m", "aac_dpc", "--store=~/store", "-q"]) == 0
    assert main(["get", "~/a.faa", "-m", "aac_dpc", "-o", "~/x.npz", "--store=~/store", "-q"]) == 0
    assert sorted(path.name for path in home.iterdir()) == ["a.faa", "store", "x.npz"]


def test_rm_removes_several_spaces_or_none(home: Path) -> None:
    store = home.parent / "store"
    for name in ("one", "two"):
        (home / "a.faa").write_text(">a\nMKVLA\n")
        precision = "half" if name == "two" else "full"
        assert main(["fill", "a.faa", "-m", "aac_dpc", "--name", name, "--precision", precision, "-q"]) == 0
    assert main(["rm", "one", "three", "--yes"]) == 1
    assert len(Store.open(store).spaces()) == 2
    assert main(["rm", "one", "two", "one", "--yes"]) == 0
    assert Store.open(store).spaces() == []


def test_progress_tells_speed_and_time_left_without_the_loading_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((100.0, *[102.0] * 9))
    monkeypatch.setattr("embedstore.filling.summary.time.monotonic", lambda: next(clock))
    progress = FillProgress(read=40, waiting=40, residues_waiting=4000)
    assert progress.text() == "reading: 40 records, 40 sequences to compute"
    progress.begin("loading the model")
    assert progress.text() == "loading the model, 40 sequences to compute"
    progress.begin("computing")
    progress.computed, progress.waiting, progress.residues_computed, progress.residues_waiting = 20, 20, 2000, 2000
    assert progress.text() == "computing, 20 of 40 sequences computed, 50 %, 1,000 residues/s, 2 s left"


def test_progress_is_said_from_the_first_second_while_nothing_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("embedstore_cli.progress._FIRST_LINE_S", 0.02)
    monkeypatch.setattr("embedstore_cli.progress._LINE_EVERY_S", 0.02)
    with fill_shown(quiet=False) as show:
        time.sleep(0.3)
        assert set(capsys.readouterr().err.splitlines()) == {"finding the model"}
        assert show is not None
        show(FillProgress(read=3, phase="done"))
        capsys.readouterr()
        time.sleep(0.2)
        assert capsys.readouterr().err == ""  # what was done is not said again: other work may follow
    with fill_shown(quiet=True) as show:
        assert show is None
