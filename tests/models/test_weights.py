"""Strict reading: exactly the expected tensors, and nothing executed."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from embedstore.errors import WeightsError, WeightsNotFoundError
from embedstore.models.checkpoint import find_checkpoint
from embedstore.models.esm import read_encoder

DATA = Path(__file__).resolve().parents[1] / "data" / "esm"
BIAS = "esm.encoder.layer.1.output.dense.bias"
Tensors = dict[str, Tensor]


class WritesAFile:
    """What a pickle with code in it looks like: opening `path` for writing when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, (str(self.path), "w"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / "fastesm2_tiny", tmp_path / "checkpoint"))


def change(folder: Path, edit: Callable[[Tensors], None]) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)


def remove(tensors: Tensors, part: str) -> None:
    for name in [name for name in tensors if part in name]:
        del tensors[name]


def read(folder: Path) -> object:
    return read_encoder(find_checkpoint(folder))


def test_missing_tensor_is_refused(folder: Path) -> None:
    change(folder, lambda tensors: remove(tensors, BIAS))
    with pytest.raises(WeightsError, match=r"encoder\.layer\.1\.output\.dense\.bias is missing"):
        read(folder)


def test_missing_rotary_frequencies_are_not_made_up(folder: Path) -> None:
    change(folder, lambda tensors: remove(tensors, "layer.2.attention.self.rotary_embeddings.inv_freq"))
    with pytest.raises(WeightsError, match=r"inv_freq is missing"):
        read(folder)


def test_unexpected_tensor_is_refused(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({"esm.encoder.layer.3.output.dense.bias": torch.zeros(64)}))
    with pytest.raises(WeightsError, match=r"layer\.3\.output\.dense\.bias is unexpected"):
        read(folder)


def test_wrong_shape_is_refused_with_both_shapes(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({BIAS: torch.zeros(63)}))
    with pytest.raises(WeightsError, match=r"expected shape \(64,\), found \(63,\)"):
        read(folder)


def test_integers_are_refused(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({BIAS: torch.zeros(64, dtype=torch.int64)}))
    with pytest.raises(WeightsError, match="expected floating point"):
        read(folder)


def test_tensor_under_two_names_is_refused(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({BIAS.removeprefix("esm."): torch.zeros(64)}))
    with pytest.raises(WeightsError, match="is there twice"):
        read(folder)


def test_long_lists_of_problems_are_shortened(folder: Path) -> None:
    change(folder, lambda tensors: remove(tensors, "layer.0."))
    with pytest.raises(WeightsError, match="and 12 more"):
        read(folder)


def test_pickled_and_sharded_weights_equal_safetensors(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    ids, lengths = torch.arange(4, 24), [20]
    expected = read_encoder(find_checkpoint(folder)).hidden_states(ids, lengths)
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert torch.equal(read_encoder(find_checkpoint(folder)).hidden_states(ids, lengths), expected)
    (folder / "pytorch_model.bin").unlink()
    places = {name: f"pytorch_model-0000{1 + number % 2}-of-00002.bin" for number, name in enumerate(tensors)}
    for shard in set(places.values()):
        torch.save({name: tensors[name] for name in tensors if places[name] == shard}, folder / shard)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert torch.equal(read_encoder(find_checkpoint(folder)).hidden_states(ids, lengths), expected)
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(WeightsNotFoundError, match="00002-of-00002"):
        find_checkpoint(folder)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_with_code_is_refused_and_not_executed(folder: Path, tmp_path: Path, zipped: bool) -> None:
    (folder / "model.safetensors").unlink()
    trace = tmp_path / "executed"
    torch.save({BIAS: WritesAFile(trace)}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="Nothing in it was executed"):
        read(folder)
    assert not trace.exists()


def test_fair_esm_file_with_code_is_refused_and_not_executed(tmp_path: Path) -> None:
    file = tmp_path / "evil.pt"
    trace = tmp_path / "executed"
    sizes = argparse.Namespace(encoder_embed_dim=64, encoder_layers=3, encoder_attention_heads=4, token_dropout=True)
    torch.save({"cfg": {"model": sizes}, "model": {"x": WritesAFile(trace)}}, file)
    with pytest.raises(WeightsError, match="Nothing in it was executed"):
        read_encoder(find_checkpoint(file))
    assert not trace.exists()


def test_older_fair_esm_files_have_args(tmp_path: Path) -> None:
    file = tmp_path / "older.pt"
    original = DATA / "fair_esm_tiny" / "esm2_t3_tiny_UR50D.pt"
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(original, weights_only=True)
    torch.save({"args": content["cfg"]["model"], "model": content["model"]}, file)
    ids = torch.arange(4, 24)
    ours, expected = (read_encoder(find_checkpoint(path)).hidden_states(ids, [20]) for path in (file, original))
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_damaged_files_are_weights_errors(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"not weights at all")
    with pytest.raises(WeightsError, match=name):
        read(folder)


def test_truncated_safetensors_is_a_weights_error(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-10])
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        read(folder)


def test_fair_esm_file_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="encoder_embed_dim"):
        find_checkpoint(tmp_path / "x.pt")
    (tmp_path / "y.pt").write_bytes(b"no zip")
    with pytest.raises(WeightsError, match="zip"):
        find_checkpoint(tmp_path / "y.pt")
