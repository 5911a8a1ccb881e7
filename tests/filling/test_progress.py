"""Progress: the phase is told before it begins, with what is done, of what, how fast, and how long it will take."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import pytest
from toy_model import ToyEmbedder, proteins, records, toy_target

from embedstore.filling import FillProgress, NotebookProgress, fill, find_target
from embedstore.library import Store
from embedstore.models.resolution import ModelOptions

SEQUENCES = proteins(60)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


def test_phases_come_in_order_and_the_first_before_anything_is_looked_up(store: Store) -> None:
    phases: list[str] = []
    fill(records(SEQUENCES), toy_target(store, ToyEmbedder()), on_progress=lambda each: phases.append(each.phase))
    changes = phases[:1] + [after for before, after in pairwise(phases) if after != before]
    assert changes == ["reading", "loading the model", "checking the model", "computing", "committing", "done"]


def test_loading_is_told_before_the_model_is_loaded(store: Store) -> None:
    target, seen = toy_target(store), list[FillProgress]()
    with pytest.raises(AssertionError, match="the model was loaded"):
        fill(records(SEQUENCES), target, on_progress=seen.append)
    assert seen[-1].phase == "loading the model"
    assert seen[-1].text() == "loading the model, 60 sequences to compute"


def test_the_model_is_looked_for_after_that_was_told(store: Store) -> None:
    seen: list[str] = []
    find_target(store, "aac_dpc", ModelOptions(), on_progress=lambda progress: seen.append(progress.text()))
    assert seen == ["finding the model"]


def test_a_fill_that_finds_everything_loads_nothing_and_says_so(store: Store) -> None:
    fill(records(SEQUENCES), toy_target(store, ToyEmbedder()))
    lines: list[str] = []
    fill(records(SEQUENCES), toy_target(store), on_progress=lambda progress: lines.append(progress.text()))
    assert lines[0] == "reading"
    assert lines[-1] == "done: 60 records"
    assert not any("loading" in line for line in lines)


def test_the_line_tells_share_speed_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("embedstore.filling.summary.time.monotonic", lambda: now_s)
    progress = FillProgress(space="toy", read=40, waiting=40, residues_waiting=4000)
    assert progress.text() == "reading: 40 records, 40 sequences to compute"
    assert (progress.residues_per_second, progress.seconds_left) == (None, None)
    now_s = 150.0  # the model was loaded meanwhile
    progress.begin("computing")
    assert progress.text() == "computing, 40 sequences to compute, 0 %"
    now_s = 152.0
    progress.computed, progress.waiting, progress.residues_computed, progress.residues_waiting = 10, 30, 1000, 3000
    progress.begin("computing")
    assert progress.text() == ("computing, 10 of 40 sequences computed, 25 %, 500 residues/s, 6 s left")
    progress.failed, progress.residues_waiting = 2, 3_000_000
    assert progress.text().endswith("0 %, 500 residues/s, 1 h 40 min left, 2 rejected or failed")


def test_progress_of_dna_is_told_in_bases(store: Store) -> None:
    units: set[str] = set()
    fill(
        records(["ACGT" * 30]), find_target(store, "tnf", ModelOptions()), on_progress=lambda each: units.add(each.unit)
    )
    assert units == {"bases"}


def test_outside_a_notebook_lines_are_printed_when_the_phase_changes(store: Store) -> None:
    stream = io.StringIO()
    show = NotebookProgress(stream=stream)
    fill(records(SEQUENCES), toy_target(store, ToyEmbedder()), on_progress=show)
    lines = stream.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "reading",
        "loading the model",
        "checking the model",
        "computing",
        "committing",
        "done: 60 records",
    ]
    assert "60 of 60 sequences computed, 100 %" in lines[-1]


def test_the_repr_of_a_report_is_one_line_of_counts(store: Store) -> None:
    report = fill(records(["MKV", "MRT", "MKV", "M-V"]), toy_target(store, ToyEmbedder(failing=frozenset({b"MRT"}))))
    assert repr(report).startswith(
        "<FillReport toy: 4 read, 2 distinct, 0 stored before, 1 computed, 1 rejected, 1 failed, "
    )
    assert "\n" not in repr(report)


@pytest.mark.slow
def test_in_a_notebook_one_line_is_updated(tmp_path: Path) -> None:
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    nbformat = pytest.importorskip("nbformat")
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from toy_model import ToyEmbedder, proteins, records, toy_target
from embedstore.filling import NotebookProgress, fill
from embedstore.library import Store
store = Store.open({str(tmp_path / "store")!r}, create=True)
fill(records(proteins(60)), toy_target(store, ToyEmbedder()), on_progress=NotebookProgress())
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    client.NotebookClient(notebook, kernel_name="python3").execute()
    shown, report = notebook.cells[0].outputs
    assert shown["data"] == {"text/plain": "done: 60 records, 60 of 60 sequences computed, 100 %"}
    assert report["data"]["text/plain"].startswith("<FillReport toy: 60 read")
