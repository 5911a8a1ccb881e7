"""Several spaces of one model, filled in one pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import embedstore
from embedstore.errors import InputError
from embedstore.filling import FillOptions, find_target
from embedstore.filling.filler import fill_together
from embedstore.models.packed import PackedEmbedder
from embedstore.models.resolution import ModelOptions
from embedstore.records import Record
from embedstore.sequences.in_memory import records_of

TINY = str(Path(__file__).resolve().parents[1] / "data" / "esm" / "fastesm2_tiny")
PROTEINS = {"a": "MKTAYIAKQR", "b": "GSHMASMTGG", "c": "WWWWACDEF", "twice": "MKTAYIAKQR"}
LEVELS = [
    ModelOptions(layer=layer, pooling=pooling, precision="full") for layer in (1, -1) for pooling in ("mean", "max")
]


@pytest.fixture
def store(tmp_path: Path) -> embedstore.Store:
    return embedstore.open(tmp_path / "store", create=True)


def test_four_spaces_are_filled_from_one_pass(store: embedstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    embed_all = PackedEmbedder.embed_all

    def counted(self: PackedEmbedder, sequences: list[bytes]) -> object:
        passes.append(len(sequences))
        return embed_all(self, sequences)

    targets = [find_target(store, TINY, options) for options in LEVELS]
    names = ["fastesm2_tiny-layer1", "fastesm2_tiny-layer1-max", "fastesm2_tiny", "fastesm2_tiny-max"]
    assert [target.name for target in targets] == names
    store.embed({"b": PROTEINS["b"]}, TINY, options=LEVELS[0])  # one space has one of them already
    monkeypatch.setattr(PackedEmbedder, "embed_all", counted)
    targets = [find_target(store, TINY, options) for options in LEVELS]
    reports = fill_together(records_of(PROTEINS), targets, FillOptions(device="cpu"))
    assert [(report.unique, report.hits, report.computed) for report in reports] == [(3, 1, 2)] + 3 * [(3, 0, 3)]
    assert all(report.complete for report in reports)
    assert passes == 4 * [3] + [3]  # three canaries of each space, then three sequences for all of them
    for options in LEVELS:
        alone = embedstore.open(store.location + "-alone", create=True).embed(PROTEINS, TINY, options=options)
        together = store.get(PROTEINS, TINY, options=options)
        np.testing.assert_allclose(together.X, alone.X, rtol=0, atol=1e-5)
    again = fill_together(records_of(PROTEINS), [find_target(store, TINY, options) for options in LEVELS])
    assert [report.computed for report in again] == [0, 0, 0, 0]


def test_a_level_is_found_without_a_name_and_without_weights(
    store: embedstore.Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store.embed(PROTEINS, TINY, options=ModelOptions(layer=1, pooling="std"))
    assert store.get(PROTEINS, TINY, options=ModelOptions(layer=1, pooling="std")).X.shape == (4, 64)
    assert store.get(PROTEINS, "fastesm2_tiny-layer1-std").X.shape == (4, 64)  # by the name of the space


def test_what_the_model_refuses_fails_in_all_spaces(store: embedstore.Store) -> None:
    levels = [ModelOptions(pooling=pooling, long="reject", max_length=10) for pooling in ("mean", "max")]
    records = [Record("long", b"M" * 11, "file", 1), Record("short", b"MKV", "file", 2)]
    reports = fill_together(records, [find_target(store, TINY, options) for options in levels])
    for report in reports:
        assert (report.unique, report.computed, [each.id for each in report.failed]) == (2, 1, ["long"])


def test_recipes_that_differ_in_more_are_refused(store: embedstore.Store) -> None:
    targets = [find_target(store, TINY, ModelOptions(precision=precision)) for precision in ("half", "full")]
    targets[1] = find_target(store, TINY, ModelOptions(precision="full"), "another")
    with pytest.raises(InputError, match=r"precision|dtype"):
        fill_together(records_of(PROTEINS), targets)
    assert store.spaces() == []


def test_a_model_without_layers_is_refused(store: embedstore.Store) -> None:
    targets = [find_target(store, "aac_dpc", ModelOptions(precision=precision)) for precision in ("half", "full")]
    with pytest.raises(InputError, match="no layers"):
        fill_together(records_of(PROTEINS), [targets[0], targets[0]])
