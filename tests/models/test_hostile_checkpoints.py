"""Checkpoints from strangers: refused with the file named, before any memory is asked for that they only claim."""

from __future__ import annotations

import json
import pickle
import resource
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from embedstore.errors import ModelError, WeightsError
from embedstore.models.checkpoint import find_checkpoint
from embedstore.models.dnabert import LARGEST_TOKENIZER_BYTES, DnaTokenizer, read_shape
from embedstore.models.esm import read_encoder
from embedstore.models.esmc import read_encoder as read_esmc
from embedstore.models.resolution import resolve

DATA = Path(__file__).resolve().parents[1] / "data"
ALLOWED_GROWTH_KIB = 200 << 10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / "esm" / "fastesm2_tiny", tmp_path / "checkpoint"))


@pytest.fixture(autouse=True)
def _memory_stays_bounded() -> Any:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < ALLOWED_GROWTH_KIB


def configure(folder: Path, **entries: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


HUGE: list[object] = [10**9, 10**18, 10**400, -1, 0, True, 3.0, "3", None, [3], {"a": 1}]


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("entry", ["num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads"])
def test_sizes_that_no_encoder_has_are_refused(folder: Path, entry: str, value: object) -> None:
    configure(folder, **{entry: value})
    with pytest.raises(WeightsError, match=entry) as refused:
        resolve(str(folder)).load("cpu")
    assert str(folder) in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("entry", ["vocab_size", "type_vocab_size"])
def test_vocabularies_that_no_encoder_has_are_refused(tmp_path: Path, entry: str, value: object) -> None:
    folder = Path(shutil.copytree(DATA / "dnabert_s", tmp_path / "checkpoint"))
    configure(folder, **{entry: value})
    with pytest.raises(WeightsError, match=entry):
        read_shape(find_checkpoint(folder))


@pytest.mark.parametrize("value", [float("inf"), -1.0, 0.0, 1e9])
def test_epsilon_that_is_none_is_refused(folder: Path, value: float) -> None:
    configure(folder, layer_norm_eps=value)
    with pytest.raises(WeightsError, match=r"layer_norm_eps|numbers"):
        read_encoder(find_checkpoint(folder))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "recursion"),
        (b'{"a":' * 100_000, "recursion"),
        (b'{"model_type": "esm", "model_type": "bert"}', "found one twice"),
        (b'{"model_type": NaN}', "found NaN"),
        (b'{"a": "' + b"x" * (1 << 20) + b'"}', "at most 1048576 bytes"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b"\xff\xfe\x00", "config.json"),
        (b"[]", "JSON object"),
    ],
)
def test_configuration_that_is_none_is_refused(folder: Path, content: bytes, reason: str) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=reason) as refused:
        find_checkpoint(folder)
    assert "config.json" in str(refused.value)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", ".", "", "a/b.bin", "x\0y"])
def test_index_that_leads_out_of_the_folder_is_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelError, match=r"index\.json"):
        find_checkpoint(folder)


def test_index_that_is_too_large_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_bytes(b" " * ((16 << 20) + 1))
    with pytest.raises(WeightsError, match="at most 16777216 bytes"):
        find_checkpoint(folder)


def safetensors_bytes(header: object, data: bytes = b"", *, claimed: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + data


TENSOR = "esm.embeddings.word_embeddings.weight"


@pytest.mark.parametrize(
    "content",
    [
        safetensors_bytes({}, claimed=1 << 62),
        safetensors_bytes({}, claimed=200 << 20),
        safetensors_bytes({TENSOR: {"dtype": "F32", "shape": [1 << 20, 1 << 19], "data_offsets": [0, 1 << 41]}}),
        safetensors_bytes({TENSOR: {"dtype": "F32", "shape": [33, 64], "data_offsets": [0, 16]}}, bytes(16)),
        safetensors_bytes({TENSOR: {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 0]}}),
        safetensors_bytes({TENSOR: {"dtype": "object", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)),
        safetensors_bytes(
            {name: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for name in (TENSOR, "b")}, bytes(16)
        ),
        struct.pack("<Q", 100_000) + b"[" * 100_000,
    ],
)
def test_safetensors_that_claim_more_than_they_hold_are_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        read_encoder(find_checkpoint(folder))


def pickled(folder: Path, change: Callable[[dict[str, Any]], None], *, zipped: bool = True) -> Path:
    tensors = dict(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    change(tensors)
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    return folder


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("shape", [(1 << 21, 1 << 21), (33, 64)])
def test_tensor_of_strides_0_is_refused(folder: Path, shape: tuple[int, ...], zipped: bool) -> None:
    expanded = torch.zeros(1).expand(shape)
    pickled(folder, lambda tensors: tensors.update({TENSOR: expanded}), zipped=zipped)
    with pytest.raises(WeightsError, match=r"claims 8448 bytes, its storage has 4|expected shape"):
        read_encoder(find_checkpoint(folder))


def test_tensors_that_share_one_storage_cannot_be_more_than_the_file(folder: Path) -> None:
    """A configuration of 1 000 wide layers, each of them the same few bytes of the file: 4 GiB from 5 MB."""
    configure(folder, num_hidden_layers=1000, hidden_size=512, intermediate_size=1024)
    shared = {(512, 512): torch.zeros(512, 512), (1024, 512): torch.zeros(1024, 512), (512,): torch.zeros(512)}

    def all_shared(tensors: dict[str, Any]) -> None:
        tensors.clear()
        for layer in range(1000):
            for name in ("query", "key", "value"):
                tensors[f"esm.encoder.layer.{layer}.attention.self.{name}.weight"] = shared[512, 512]

    pickled(folder, all_shared)
    with pytest.raises(WeightsError, match="the tensors are larger than the files"):
        read_encoder(find_checkpoint(folder))


@pytest.mark.parametrize(
    "tensor", [torch.zeros(33, 64).to_sparse(), torch.empty(33, 64, device="meta"), torch.zeros(33, 64).int()]
)
def test_tensors_of_another_kind_are_refused(folder: Path, tensor: torch.Tensor) -> None:
    pickled(folder, lambda tensors: tensors.update({TENSOR: tensor}))
    with pytest.raises(WeightsError, match=r"expected a dense tensor|floating point|pytorch_model\.bin"):
        read_encoder(find_checkpoint(folder))


def rezipped(file: Path, compression: int, change: Callable[[str, bytes], bytes] = lambda _, content: content) -> None:
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content))


def test_deflated_archive_is_refused(folder: Path) -> None:
    """1 GB of zeros fits into 1 MB of a deflated member."""
    pickled(folder, lambda _: None)
    rezipped(folder / "pytorch_model.bin", zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="compressed"):
        read_encoder(find_checkpoint(folder))


def test_archive_whose_storage_is_cut_short_is_refused(folder: Path) -> None:
    pickled(folder, lambda _: None)
    rezipped(
        folder / "pytorch_model.bin",
        zipfile.ZIP_STORED,
        lambda name, content: content[:8] if "/data/" in name else content,
    )
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin"):
        read_encoder(find_checkpoint(folder))


def test_older_layout_that_claims_2_tb_is_refused(folder: Path) -> None:
    pickled(folder, lambda _: None, zipped=False)
    file = folder / "pytorch_model.bin"
    content = file.read_bytes()
    claim = pickle.dumps(33 * 64, 2)[2:-1]  # how the number of elements stands in the pickle
    assert claim in content
    file.write_bytes(content.replace(claim, pickle.dumps(1 << 39, 2)[2:-1]))
    with pytest.raises(WeightsError, match=f"claims {1 << 39} elements"):
        read_encoder(find_checkpoint(folder))


@pytest.mark.parametrize("change", [b"[" * 200_000, b"\xff", b"{}", b'{"model": {"vocab": ' + b"[" * 1000])
def test_tokenizer_that_is_none_is_refused(tmp_path: Path, change: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(change)
    with pytest.raises(WeightsError, match=r"tokenizer\.json"):
        DnaTokenizer.from_file(tmp_path / "tokenizer.json")


def test_tokenizer_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as stream:
        stream.truncate(LARGEST_TOKENIZER_BYTES + 1)
    with pytest.raises(WeightsError, match="at most 67108864 bytes"):
        DnaTokenizer.from_file(tmp_path / "tokenizer.json")


VALUES: list[Any] = [*HUGE, "", "x" * 10_000, "../../etc/passwd", [], {}, [[[[]]]], 1e308, -0.5]


def mutated_bytes(content: bytes, random: Random) -> bytes:
    """Change a few bytes, mostly at the beginning and the end, where a file says what it holds."""
    found = bytearray(content)
    for _ in range(random.choice([1, 3, 10])):
        near = random.randrange(min(len(found), 4000))
        place = random.choice([near, len(found) - 1 - near, random.randrange(len(found))])
        found[place : place + random.choice([0, 1, 8])] = random.randbytes(random.choice([0, 1, 8]))
    return bytes(found)


def test_random_mutations_of_a_pth_give_a_model_or_a_typed_error(tmp_path: Path) -> None:
    """Its sizes are taken from the pickle's instructions, unless a configuration lies beside it."""
    random, folder = Random(5), Path(shutil.copytree(DATA / "esmc" / "original_pth", tmp_path / "checkpoint"))
    file = next(folder.rglob("*.pth"))
    content, messages = file.read_bytes(), []
    for number in range(300):
        if number == 150:
            shutil.copy(DATA / "esmc" / "hf_esmc_tiny" / "config.json", folder)
        file.write_bytes(mutated_bytes(content, random))
        try:
            read_esmc(find_checkpoint(folder))
        except ModelError as error:
            messages.append(str(error))
    assert len(messages) > 150
    assert max(map(len, messages)) < 5000


def test_shapes_in_a_damaged_pickle_are_a_weights_error(tmp_path: Path) -> None:
    """The archive is whole, what it holds is not."""
    file = Path(shutil.copy(next((DATA / "esmc" / "original_pth").rglob("*.pth")), tmp_path / "x.pth"))
    rezipped(file, zipfile.ZIP_STORED, lambda name, content: content[:-30] if "data.pkl" in name else content)
    with pytest.raises(WeightsError, match=r"x\.pth: its pickle is damaged"):
        find_checkpoint(file)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "pytorch_model.bin", "older.bin"])
def test_random_mutations_give_a_model_or_a_typed_error(folder: Path, name: str) -> None:
    random, tensors = Random(name), load_file(folder / "model.safetensors")
    if name.endswith(".bin"):
        (folder / "model.safetensors").unlink()
        torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=name != "older.bin")
    file = folder / name.replace("older", "pytorch_model")
    content = file.read_bytes()
    messages = []
    for _ in range(500):
        if name == "config.json":
            document = json.loads(content)
            for entry in random.sample(sorted(document), random.choice([1, 1, 3])):
                document[entry] = random.choice(VALUES)
            file.write_text(json.dumps(document))
        else:
            file.write_bytes(mutated_bytes(content, random))
        try:
            read_encoder(find_checkpoint(folder))
        except ModelError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert max(map(len, messages)) < 5000
