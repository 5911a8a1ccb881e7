"""Features are joined by key, in the order asked, from the store or through a file, and nothing is left out."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_features import (
    DNA,
    permuted,
    right_rows,
    toy_keys,
    toy_recipe,
    toy_samples,
    toy_space,
    toy_store,
    toy_vectors,
)

from embedstore.errors import InputError, MissingEmbeddingError, SpaceNotFoundError, UnknownModelError
from embedstore.features import Categories, Features, Samples, merge, open_features
from embedstore.records import EmbeddingBatch
from embedstore.store import SpaceStore

MODELS = ("toy_dna", "toy_protein")
BACKINGS = (None, "features.zarr", "features.h5", "features.npz")


@pytest.fixture(scope="module")
def samples() -> Samples:
    return toy_samples(100)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, samples: Samples) -> SpaceStore:
    """A store that no test changes."""
    return toy_store(tmp_path_factory.mktemp("store"), samples)


@pytest.fixture(scope="module", params=BACKINGS, ids=lambda name: name or "view")
def features(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, samples: Samples, store: SpaceStore
) -> Features:
    return merge(samples, MODELS, request.param and tmp_path_factory.mktemp("merged") / request.param, store=store)


def test_rows_are_the_right_vectors_side_by_side(features: Features, samples: Samples) -> None:
    rows = features.rows()
    assert rows.dtype == np.float32
    assert rows.tobytes() == right_rows(samples).tobytes()
    assert (len(features), features.dim) == (100, 8)


@pytest.mark.parametrize("indices", [[99, 3, 3, 0, 42], [], [5], list(range(100))[::-1]])
def test_rows_come_in_the_order_asked(features: Features, samples: Samples, indices: list[int]) -> None:
    assert np.array_equal(features.rows(indices), right_rows(samples)[np.array(indices, np.int64)])


def test_rows_can_be_asked_by_mask(features: Features, samples: Samples) -> None:
    mask = np.arange(100) % 5 == 0
    assert np.array_equal(features.rows(mask), right_rows(samples)[mask])


@pytest.mark.parametrize("indices", [[100], [-1], [0.5], [[1, 2]], [True, False]])
def test_what_is_no_row_is_refused(features: Features, indices: list[object]) -> None:
    with pytest.raises(InputError, match="expected"):
        features.rows(np.array(indices))


def test_everything_known_of_samples_goes_along(features: Features, samples: Samples) -> None:
    assert features.ids.tolist() == samples.ids.tolist()
    for name in ("sources", "groups", "labels"):
        assert getattr(features.samples, name).texts().tolist() == getattr(samples, name).texts().tolist()
    for name in ("start", "end", "strand", "frame"):
        found = getattr(features.samples, name)
        assert found.dtype == getattr(samples, name).dtype
        assert np.array_equal(found, getattr(samples, name))
    for found, molecule in zip(features.keys, ("dna", "protein"), strict=True):
        assert np.array_equal(found, samples.keys[molecule])
    assert features.samples.preparation == samples.preparation


def test_classes_are_sorted_names_and_no_label_is_minus_one(features: Features, samples: Samples) -> None:
    assert features.labels == ("host", "phage", "virus")
    texts = samples.labels.texts().tolist()
    assert features.y.dtype == np.int64
    assert features.y.tolist() == [features.labels.index(text) if text else -1 for text in texts]


def test_batches_cover_all_rows_in_order(features: Features, samples: Samples) -> None:
    batches = list(features.batches(rows=7))
    assert [batch.start for batch in batches] == list(range(0, 100, 7))
    assert np.array_equal(np.concatenate([batch.rows for batch in batches]), right_rows(samples))


def test_numpy_for_scikit_learn(features: Features, samples: Samples) -> None:
    X, y, groups = features.as_numpy([9, 1])  # noqa: N806
    assert np.array_equal(X, right_rows(samples)[[9, 1]])
    assert y.tolist() == features.y[[9, 1]].tolist()
    assert [features.groups.names[code] for code in groups] == ["genome0", "genome0"]


def test_torch_dataset_gives_rows_singly_and_in_batches(features: Features, samples: Samples) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

    dataset = features.as_torch_dataset()
    x, y = dataset[3]
    assert (x.dtype, y.dtype, x.shape, y.shape) == (torch.float32, torch.int64, (8,), ())
    in_batches = DataLoader(dataset, sampler=BatchSampler(SequentialSampler(dataset), 32, False), batch_size=None)
    for loader in (in_batches, DataLoader(dataset, batch_size=32)):
        rows, classes = zip(*loader, strict=True)
        assert np.array_equal(torch.cat(rows).numpy(), right_rows(samples))
        assert torch.cat(classes).tolist() == features.y.tolist()


def test_permuted_table_gives_the_same_rows_and_classes(tmp_path: Path, samples: Samples, store: SpaceStore) -> None:
    straight = merge(samples, MODELS, store=store)
    other, order = permuted(samples)
    other = replace(other, labels=Categories.of(other.labels.texts()))
    for output in (None, tmp_path / "permuted.h5"):
        found = merge(other, MODELS, output, store=store)
        assert found.rows().tobytes() == straight.rows()[order].tobytes()
        assert found.y.tolist() == straight.y[order].tolist()
        assert found.schema == straight.schema


def test_order_of_models_is_the_order_of_columns(samples: Samples, store: SpaceStore) -> None:
    rows = right_rows(samples)
    swapped = merge(samples, ("toy_protein", "toy_dna"), store=store)
    assert np.array_equal(swapped.rows(), np.concatenate([rows[:, 5:], rows[:, :5]], axis=1))
    alone = merge(samples, ("toy_protein",), store=store)
    assert np.array_equal(alone.rows(), rows[:, 5:])
    assert alone.schema.molecules == ("protein",)


def test_ids_are_never_what_joins(samples: Samples, store: SpaceStore) -> None:
    swapped = replace(samples, ids=samples.ids[::-1].copy())
    assert np.array_equal(merge(swapped, MODELS, store=store).rows(), right_rows(samples))


@pytest.mark.parametrize("suffix", ["zarr", "h5", "npz"])
def test_missing_vectors_are_counted_and_named_and_nothing_is_written(
    tmp_path: Path, samples: Samples, suffix: str
) -> None:
    store = SpaceStore.open(tmp_path / "store", create=True)
    toy_space(store, "toy_dna", DNA, samples.keys["dna"], segments=1)
    toy_space(store, "partial", toy_recipe("dna", 6), samples.keys["dna"][20:], segments=1)
    with pytest.raises(MissingEmbeddingError) as caught:
        merge(samples, ("toy_dna", "partial"), tmp_path / f"features.{suffix}", store=store)
    assert caught.value.missing == samples.ids[:20].tolist()
    assert "partial does not have 20 of 100" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_unknown_model_and_repeated_model_are_refused(samples: Samples, store: SpaceStore) -> None:
    with pytest.raises((UnknownModelError, SpaceNotFoundError)):
        merge(samples, ("nothing_of_that_name",), store=store)
    with pytest.raises(InputError, match="twice"):
        merge(samples, ("toy_dna", "toy_dna"), store=store)
    with pytest.raises(InputError, match="without a block"):
        merge(samples, (), store=store)


def test_model_of_a_molecule_that_samples_do_not_have_is_refused(samples: Samples, store: SpaceStore) -> None:
    with pytest.raises(InputError, match="expected dna keys, found protein"):
        merge(replace(samples, keys={"protein": samples.keys["protein"]}), MODELS, store=store)


def test_no_samples_give_no_rows(tmp_path: Path, samples: Samples, store: SpaceStore) -> None:
    none = samples.take(np.arange(0))
    for output in (None, *(tmp_path / name for name in BACKINGS if name)):
        found = merge(none, MODELS, output, store=store)
        assert found.rows().shape == (0, 8)
        assert len(found) == 0


def test_half_precision_and_ids_beyond_ascii_survive(tmp_path: Path, samples: Samples, store: SpaceStore) -> None:
    ids = samples.ids.copy()
    ids[7] = "Ψ-phage α|β " + "x" * 300
    renamed = replace(samples, ids=ids)
    for name in BACKINGS[1:]:
        assert merge(renamed, MODELS, tmp_path / str(name), store=store).ids.tolist() == ids.tolist()


def test_view_sees_what_is_filled_later_and_files_do_not_change(tmp_path: Path, samples: Samples) -> None:
    store = toy_store(tmp_path / "store", samples)
    features = merge(samples, MODELS, tmp_path / "features.h5", store=store)
    view = merge(samples, MODELS, store=store)
    more = toy_keys(range(1000, 1010), "dna")
    store.space("toy_dna").append(EmbeddingBatch(more, toy_vectors(more, DNA)))
    assert np.array_equal(view.rows(), features.rows())


def test_existing_output_is_replaced_completely_and_other_folders_are_not(
    tmp_path: Path, samples: Samples, store: SpaceStore
) -> None:
    for name in BACKINGS[1:]:
        output = tmp_path / str(name)
        merge(samples, MODELS, output, store=store)
        merge(samples.take(np.arange(9)), ("toy_dna",), output, store=store)
        assert open_features(output).rows().shape == (9, 5)
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr" / "notes.txt").write_text("keep")
    with pytest.raises(InputError, match="another folder"):
        merge(samples, MODELS, tmp_path / "mine.zarr", store=store)
    with pytest.raises(InputError, match="ends in"):
        merge(samples, MODELS, tmp_path / "features.csv", store=store)
    with pytest.raises(InputError, match="no folder"):
        merge(samples, MODELS, tmp_path / "missing" / "features.h5", store=store)


def test_description_is_json(features: Features) -> None:
    document = json.loads(json.dumps(features.to_json()))
    assert document["rows"] == 100
    assert document["dim"] == 8
    assert document["groups"] == 9
    assert sum(document["samples_by_label"].values()) + document["unlabelled"] == 100
    assert [block["space"] for block in document["schema"]["blocks"]] == ["toy_dna", "toy_protein"]


def test_importing_features_does_not_import_torch() -> None:
    """Only their dataset needs it; importing it takes seconds."""
    asked = "import sys, embedstore.features, embedstore.export; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", asked], check=True, timeout=60)
