"""Filling: each sequence is computed once, and nothing that was computed is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_model import RECIPE, ToyEmbedder, expected, full_precision, keys_of, proteins, records, toy_target

from embedstore.errors import (
    CanaryError,
    InputError,
    ModelError,
    MoleculeError,
    SpaceConflictError,
    WeightsNotFoundError,
)
from embedstore.filling import (
    FillOptions,
    FillProgress,
    SegmentLimits,
    SpaceTarget,
    canaries,
    computing,
    fill,
    find_target,
    pool,
)
from embedstore.library import Store
from embedstore.models.embedder import Embedded, Model
from embedstore.models.resolution import ModelOptions
from embedstore.records import Record, Rejection
from embedstore.storage.local import LocalStorage
from embedstore.storage.protocol import Entry

SEQUENCES = proteins(60)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


def stored(store: Store, sequences: Sequence[str] = SEQUENCES) -> np.ndarray:
    return Store.open(store.location).space("toy").read(keys_of(sequences))


def at_call(number: int, error: BaseException) -> Callable[[int, Sequence[bytes]], None]:
    def before(call: int, _: Sequence[bytes]) -> None:
        if call == number:
            raise error

    return before


def test_first_fill_computes_all_and_the_second_does_not_load_the_model(store: Store) -> None:
    first = fill(records(SEQUENCES), toy_target(store, ToyEmbedder()))
    assert (first.read, first.unique, first.hits, first.computed) == (60, 60, 0, 60)
    assert first.complete
    np.testing.assert_array_equal(stored(store), expected(SEQUENCES))
    second = fill(records(SEQUENCES), toy_target(store))
    assert (second.read, second.unique, second.hits, second.computed) == (60, 60, 60, 0)


def test_renamed_wrapped_lower_case_shuffled_records_are_all_hits(store: Store) -> None:
    fill(records(SEQUENCES), toy_target(store, ToyEmbedder()))
    changed = [f"{sequence[:4]}\r\n {sequence[4:].lower()}*\n" for sequence in reversed(SEQUENCES)]
    assert fill(records(changed, prefix="other"), toy_target(store)).computed == 0


def test_equal_sequences_are_computed_once(store: Store) -> None:
    embedder = ToyEmbedder()
    report = fill(records([*SEQUENCES, *SEQUENCES, *SEQUENCES[:5]]), toy_target(store, embedder))
    assert (report.read, report.unique, report.computed) == (125, 60, 60)
    assert sorted(embedder.embedded) == sorted(sequence.encode() for sequence in SEQUENCES)


def test_equal_sequences_in_later_pools_are_computed_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "POOL_RECORDS", 20)
    monkeypatch.setattr("embedstore.filling.intake.FIRST_WINDOW_RECORDS", 7)
    monkeypatch.setattr("embedstore.filling.intake.WINDOW_RECORDS", 7)
    embedder = ToyEmbedder()
    report = fill(records([*SEQUENCES, *SEQUENCES]), toy_target(store, embedder))
    assert (report.unique, report.computed, len(embedder.embedded)) == (60, 60, 60)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_threads_give_the_same_vectors(store: Store, workers: int) -> None:
    fill(records(SEQUENCES), toy_target(store, ToyEmbedder(workers=workers)))
    np.testing.assert_array_equal(stored(store), expected(SEQUENCES))


def test_segments_are_committed_at_their_limit_of_rows(store: Store) -> None:
    options = FillOptions(limits=SegmentLimits(rows=10))
    report = fill(records([*SEQUENCES, *SEQUENCES]), toy_target(store, ToyEmbedder()), options)
    assert report.computed == 60
    assert store.space("toy").info().segments >= 6
    np.testing.assert_array_equal(stored(store), expected(SEQUENCES))


def test_a_pack_larger_than_a_segment_is_committed_at_once(store: Store) -> None:
    options = FillOptions(limits=SegmentLimits(rows=3))
    fill(records(SEQUENCES), toy_target(store, ToyEmbedder(pack_residues=10_000)), options)
    np.testing.assert_array_equal(stored(store), expected(SEQUENCES))


def test_segments_are_committed_when_their_time_is_up(store: Store) -> None:
    rows: list[int] = []
    embedder = ToyEmbedder(before=lambda *_: rows.append(len(Store.open(store.location).space("toy"))))
    fill(records(SEQUENCES[:9]), toy_target(store, embedder), FillOptions(limits=SegmentLimits(seconds=0.0)))
    assert rows[-1] > 0


def test_rejected_records_are_listed_and_the_others_filled(store: Store) -> None:
    earlier = Rejection("a.faa", 99, "bad", "empty sequence")
    report = fill([*records(["MKV", "M-V", "", "MRT"]), earlier], toy_target(store, ToyEmbedder()))
    assert (report.read, report.unique, report.computed) == (5, 2, 2)
    assert [(item.file, item.line, item.id) for item in report.rejected] == [
        ("a.faa", 3, "r2"),
        ("a.faa", 5, "r3"),
        ("a.faa", 99, "bad"),
    ]
    assert not report.complete


def test_every_record_of_a_failing_sequence_is_listed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "POOL_RECORDS", 4)
    monkeypatch.setattr("embedstore.filling.intake.FIRST_WINDOW_RECORDS", 4)
    embedder = ToyEmbedder(failing=frozenset({b"MKV"}))
    report = fill(records(["MKV", "MRT", "mkv", "MAA", "MKV", "MCC"]), toy_target(store, embedder))
    assert [item.id for item in report.failed] == ["r1", "r3", "r5"]
    assert report.failed[0] == Rejection("a.faa", 1, "r1", "the toy fails it")
    assert (report.unique, report.hits, report.computed) == (4, 0, 3)
    assert fill(records(["MKV", "MRT"]), toy_target(store, embedder)).hits == 1


def test_a_vector_that_the_dtype_cannot_hold_is_a_failure(store: Store) -> None:
    embedder = ToyEmbedder(recipe=RECIPE)
    report = fill(records(["MKV", "M" + "W" * 66_000]), toy_target(store, embedder))
    assert [item.id for item in report.failed] == ["r2"]
    assert "not finite in float16" in report.failed[0].reason
    assert report.computed == 1


def test_ctrl_c_commits_what_is_computed_and_the_next_fill_computes_the_rest(store: Store) -> None:
    interrupted = ToyEmbedder(before=at_call(5, KeyboardInterrupt()))
    report = fill(records([*SEQUENCES, *SEQUENCES]), toy_target(store, interrupted))
    done = len(interrupted.embedded)
    assert report.interrupted
    assert not report.complete
    assert 0 < done < 60
    assert (report.unique, report.hits, report.computed) == (60, 0, done)
    rest = ToyEmbedder()
    report = fill(records(SEQUENCES), toy_target(store, rest))
    assert (report.hits, report.computed) == (done, 60 - done)
    assert not set(rest.embedded) & set(interrupted.embedded)
    np.testing.assert_array_equal(stored(store), expected(SEQUENCES))


def test_an_error_midway_is_raised_after_what_is_computed_is_committed(store: Store) -> None:
    broken = ToyEmbedder(before=at_call(5, ModelError("the toy broke")))
    with pytest.raises(ModelError, match="the toy broke"):
        fill(records(SEQUENCES), toy_target(store, broken))
    assert len(Store.open(store.location).space("toy")) == len(broken.embedded) > 0


def test_ctrl_c_in_a_real_process_exits_130_with_all_acknowledged_rows(tmp_path: Path) -> None:
    script = """
import sys, time
sys.path.insert(0, sys.argv[1])
from toy_model import ToyEmbedder, proteins, records, toy_target
from embedstore.filling import fill
from embedstore.library import Store

def slow(call, _):
    print(call, flush=True)
    time.sleep(0.05)

store = Store.open(sys.argv[2], create=True)
report = fill(records(proteins(600)), toy_target(store, ToyEmbedder(before=slow)))
print("computed", report.computed, flush=True)
sys.exit(130 if report.interrupted else 0)
"""
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path / "store")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGINT)
        last = process.stdout.read().split()
        assert process.wait() == 130
    computed = int(last[-1])
    store = Store.open(tmp_path / "store")
    assert len(store.space("toy")) == computed > 0
    assert store.verify(deep=True).clean


def test_a_model_with_other_numbers_is_refused_with_both_numbers(store: Store) -> None:
    fill(records(SEQUENCES[:10]), toy_target(store, ToyEmbedder()))
    with pytest.raises(CanaryError, match=r"expected value 77 at position 3, found 84.7") as caught:
        fill(records(SEQUENCES), toy_target(store, ToyEmbedder(scale=1.1)))
    assert "0.004 is allowed" in str(caught.value)
    assert len(Store.open(store.location).space("toy")) == 10


def test_a_difference_within_the_tolerance_is_accepted(store: Store) -> None:
    fill(records(SEQUENCES[:10]), toy_target(store, ToyEmbedder()))
    assert fill(records(SEQUENCES), toy_target(store, ToyEmbedder(scale=1.001))).computed == 50


def test_no_space_is_made_when_there_is_nothing_to_compute(store: Store) -> None:
    assert fill(records(["M-V"]), toy_target(store)).unique == 0
    assert store.spaces() == []


def test_what_others_commit_meanwhile_is_not_computed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computing, "REFRESH_S", 0.0)
    other = Store.open(store.location)

    def someone_else_fills(call: int, _: Sequence[bytes]) -> None:
        if call == 1:
            fill(records(SEQUENCES), toy_target(other, ToyEmbedder()))

    embedder = ToyEmbedder(before=someone_else_fills)
    report = fill(records(SEQUENCES), toy_target(store, embedder))
    assert embedder.calls == 1
    assert report.computed == len(embedder.embedded)
    assert report.hits == 60 - report.computed
    np.testing.assert_array_equal(stored(store), expected(SEQUENCES))


def test_a_fill_that_comes_too_late_computes_nothing(store: Store) -> None:
    fill(records(SEQUENCES[:1]), toy_target(store, ToyEmbedder()))
    target = toy_target(store, ToyEmbedder(before=lambda *_: pytest.fail("something was computed")))
    assert len(target.space or ()) == 1
    fill(records(SEQUENCES), toy_target(Store.open(store.location), ToyEmbedder()))
    report = fill(records(SEQUENCES), target)
    assert (report.hits, report.computed) == (60, 0)


def test_fills_side_by_side_all_succeed_with_one_vector_a_key(store: Store) -> None:
    reports = []

    def one() -> None:
        embedder = ToyEmbedder(before=lambda *_: time.sleep(0.002))
        options = FillOptions(limits=SegmentLimits(rows=15))
        reports.append(fill(records(SEQUENCES), toy_target(Store.open(store.location), embedder), options))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report.unique for report in reports] == [60] * 4
    assert all(report.hits + report.computed == 60 for report in reports)
    assert len(Store.open(store.location).space("toy")) == 60
    np.testing.assert_array_equal(stored(store), expected(SEQUENCES))


def test_a_space_can_be_used_without_the_weights_until_vectors_are_missing(store: Store) -> None:
    fill(records(SEQUENCES[:50]), toy_target(store, ToyEmbedder()))
    target = find_target(store, "toy", ModelOptions())
    assert fill(records(SEQUENCES[:50]), target).hits == 50
    with pytest.raises(ModelError, match="Cannot compute 10 sequences that are missing from space toy"):
        fill(records(SEQUENCES), target)


def test_a_space_of_other_options_is_not_used_in_place_of_a_model(store: Store) -> None:
    fill(records(SEQUENCES[:5]), toy_target(store, ToyEmbedder()))
    with pytest.raises(SpaceConflictError, match="precision: 'half' there, 'full' asked for"):
        find_target(store, "toy", ModelOptions(precision="full"))


def test_a_recipe_under_another_name_is_found_unless_a_name_is_given(store: Store) -> None:
    Store.open(store.location).fill(["MKV"], "aac_dpc", name="composition")
    target = find_target(store, "aac_dpc", ModelOptions())
    assert target.name == "composition"
    assert target.notice is not None
    with pytest.raises(SpaceConflictError, match="Leave out --name"):
        find_target(store, "aac_dpc", ModelOptions(), "aac_dpc")


def test_a_name_taken_by_another_recipe_is_refused(store: Store) -> None:
    fill(records(SEQUENCES[:5]), toy_target(store, ToyEmbedder()))
    with pytest.raises(SpaceConflictError, match="precision"):
        toy_target(store, full_precision(ToyEmbedder()))


def test_missing_weights_are_reported_with_the_number_of_sequences_that_need_them(store: Store) -> None:
    space = fill(records(SEQUENCES[:5]), toy_target(store, ToyEmbedder())).space

    def nowhere() -> Model:
        raise WeightsNotFoundError("No weights.")

    target = replace(toy_target(store), obtain=nowhere)
    with pytest.raises(WeightsNotFoundError, match=f"55 sequences that are missing from space {space.name}"):
        fill(records(SEQUENCES), target)


def test_dna_given_to_a_protein_model_is_refused_before_any_work(store: Store) -> None:
    with pytest.raises(MoleculeError, match=r"found DNA in 2 of the first 3 records.*tnf.*any_molecule"):
        fill(records(["ACGT" * 20, "GATTACA" * 10, "MKV"]), toy_target(store))


def test_proteins_given_to_a_dna_model_are_refused_before_any_work(store: Store) -> None:
    target = find_target(store, "tnf", ModelOptions())
    with pytest.raises(MoleculeError, match=r"found protein in 2 of the first 3 records.*aac_dpc"):
        fill(records(["MKVLE", "MRFQ", "ACGTACGT"]), target)


def test_a_few_dna_records_among_proteins_are_rejected_one_by_one(store: Store) -> None:
    report = fill(records([*SEQUENCES, "ACGT" * 20]), toy_target(store, ToyEmbedder()))
    assert report.computed == 60
    assert "looks like DNA" in report.rejected[0].reason


def test_proteins_that_look_like_dna_are_taken_on_demand(store: Store) -> None:
    options = FillOptions(any_molecule=True)
    assert fill(records(["ACGT" * 20]), toy_target(store, ToyEmbedder()), options).computed == 1


def test_progress_ends_with_nothing_waiting(store: Store) -> None:
    seen: list[tuple[int, int]] = []

    def watch(progress: FillProgress) -> None:
        seen.append((progress.computed, progress.waiting))

    fill(records(SEQUENCES), toy_target(store, ToyEmbedder()), on_progress=watch)
    assert seen[-1] == (60, 0)
    assert (0, 60) in seen


def test_the_commits_tell_what_the_fill_has_cost(store: Store) -> None:
    report = fill(records(SEQUENCES), toy_target(store, ToyEmbedder(before=lambda *_: time.sleep(0.001))))
    info = store.space("toy").info()
    assert info.residues == sum(map(len, SEQUENCES))
    assert info.compute_seconds == pytest.approx(report.compute_seconds)
    assert report.compute_seconds > 0


def test_the_json_of_a_report_has_the_promised_keys(store: Store) -> None:
    report = fill(records(["MKV", "M-V"]), toy_target(store, ToyEmbedder()))
    document = json.loads(json.dumps(report.to_json()))
    promised = {"space", "read", "unique", "hits", "computed", "rejected", "failed", "seconds", "compute_seconds"}
    assert promised <= set(document)
    assert document["space"] == {"name": "toy", "id": RECIPE.id, "dim": 4, "dtype": "float16"}
    assert set(document["rejected"][0]) == {"file", "line", "id", "reason"}


def test_a_fill_without_a_store_says_so() -> None:
    target = SpaceTarget(None, RECIPE, "toy", None, lambda: Model("toy", RECIPE, lambda _: ToyEmbedder()))
    with pytest.raises(InputError, match="no store"):
        fill([Record("a", b"MKV", "a.faa", 1)], target)


def test_weights_that_are_not_here_are_not_fetched_while_no_vector_is_missing(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("embedstore.models.resolution._obstacle", lambda endpoint: pytest.fail(f"{endpoint} was asked"))
    store.create_space(replace(RECIPE, model="fastesm2_650"), "fastesm2_650", canaries.compute(ToyEmbedder()))
    report = fill([], find_target(store, "fastesm2_650", ModelOptions()))
    assert (report.space.name, report.computed) == ("fastesm2_650", 0)


def test_a_new_space_embeds_its_canaries_once_and_an_old_one_once_a_fill(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[int] = []
    embed = ToyEmbedder.embed

    def counted(self: ToyEmbedder, sequences: Sequence[bytes]) -> Embedded:
        embedded.append(sum(sequence.decode() in canaries.SEQUENCES["protein"] for sequence in sequences))
        return embed(self, sequences)

    monkeypatch.setattr(ToyEmbedder, "embed", counted)
    monkeypatch.setattr(pool, "POOL_RECORDS", 20)
    for given in (SEQUENCES[:30], SEQUENCES):
        embedded.clear()
        fill(records(given), toy_target(store, ToyEmbedder()))
        assert sum(embedded) == 3


def test_a_space_that_somebody_made_faster_is_compared_with_its_own_canaries(store: Store) -> None:
    target = toy_target(store, ToyEmbedder(scale=1.1))
    fill(records(SEQUENCES[:5]), toy_target(Store.open(store.location), ToyEmbedder()))
    with pytest.raises(CanaryError, match="does not reproduce"):
        fill(records(SEQUENCES), target)


class _Listed(LocalStorage):
    """Notes what is listed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folders: list[str] = []

    def list(self, folder: str) -> list[Entry]:
        self.folders.append(folder.rstrip("/").rpartition("/")[2])
        return super().list(folder)


def test_a_fill_lists_commits_to_look_up_and_before_and_after_it_writes(tmp_path: Path) -> None:
    Store.open(tmp_path / "store", create=True).fill(["MKV"], model="aac_dpc")
    storage = _Listed(tmp_path / "store")  # on an object store each of these is a request
    Store(storage).fill(["MKVW"], model="aac_dpc")
    counts = Counter(storage.folders)
    assert (counts["spaces"], counts["commits"], counts["gc"], counts["index"]) == (1, 3, 2, 2)
    storage.folders.clear()
    Store(storage).fill(["MKVW"], model="aac_dpc")
    assert Counter(storage.folders) == {"spaces": 1, "commits": 1, "index": 1, "data": 1}
