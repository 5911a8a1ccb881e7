"""Fills with language models at their limits: what cannot be done is reported, and everything else is stored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from embedstore.filling import SpaceTarget, canaries, fill
from embedstore.identity import canonical, sequence_key
from embedstore.library import Store
from embedstore.models import MODELS, ModelOptions, resolve
from embedstore.models.checkpoint import find_checkpoint
from embedstore.models.embedder import Model
from embedstore.models.esm import EsmEncoder, ProteinTokenizer, read_encoder
from embedstore.models.files import file_sha256
from embedstore.models.machine import Setting
from embedstore.models.packed import PackedEmbedder
from embedstore.records import Record
from embedstore_cli.main import main

DATA = Path(__file__).resolve().parents[1] / "data"
ESM = DATA / "esm" / "fastesm2_tiny"
RESIDUES = list("ACDEFGHIKLMNPQRSTVWY")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMBEDSTORE_PATH", str(tmp_path / "store"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "store"


def proteins(*lengths: int, seed: int = 0) -> list[str]:
    draw = np.random.default_rng(seed)
    return ["".join(draw.choice(RESIDUES, length)) for length in lengths]


def fasta(sequences: Sequence[str], name: str = "input.fasta") -> str:
    Path(name).write_text("".join(f">s{number}\n{sequence}\n" for number, sequence in enumerate(sequences)))
    return name


def fill_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    capsys.readouterr()
    code = main(["fill", *map(str, arguments), "--json", "--quiet"])
    return code, json.loads(capsys.readouterr().out)


def stored(store: Path, name: str, sequences: Sequence[str], molecule: Any = "protein") -> NDArray[Any]:
    keys = b"".join(sequence_key(canonical(sequence, molecule)) for sequence in sequences)
    found: NDArray[Any] = Store.open(store).space(name).read(np.frombuffer(keys, np.uint8).reshape(-1, 24))
    return found


def changed(folder: Path, name: str, change: Callable[[Tensor], Tensor]) -> Path:
    """A copy of the small checkpoint with one tensor changed."""
    shutil.copytree(ESM, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = change(tensors[name])
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_a_vector_that_half_precision_cannot_hold_fails_its_record_only(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, store: Path
) -> None:
    sequences = [*proteins(20, 35, 60, 61), "W" * 30]
    fixed = [sequence.encode() for sequence in canaries.SEQUENCES["protein"]]
    vectors = resolve(str(ESM)).load("cpu").embed([*(s.encode() for s in sequences), *fixed]).vectors
    largest = np.abs(vectors).max(axis=1)
    assert largest[4] > 1.01 * np.delete(largest, 4).max()
    # The last norm's gain and bias make the vectors so large that one of them, and only that, is beyond float16.
    factor = float(np.finfo(np.float16).max) / np.sqrt(largest[4] * np.delete(largest, 4).max())
    folder = changed(tmp_path / "large", "esm.encoder.emb_layer_norm_after.weight", lambda gain: gain * factor)
    tensors = load_file(folder / "model.safetensors")
    tensors["esm.encoder.emb_layer_norm_after.bias"] *= factor
    save_file(tensors, folder / "model.safetensors")

    code, report = fill_json(capsys, fasta(sequences), "--model", folder)
    assert (code, report["computed"]) == (3, 4)
    (failed,) = report["failed"]
    assert (failed["id"], failed["line"]) == ("s4", 9)
    assert "not finite in float16" in failed["reason"]
    kept = stored(store, "large", sequences[:4])
    assert kept.dtype == np.float16
    np.testing.assert_allclose(kept, vectors[:4] * factor, rtol=2e-3, atol=50)
    code, report = fill_json(capsys, fasta(sequences), "--model", folder, "--precision", "full", "--name", "full")
    assert (code, report["computed"]) == (0, 5)


class SmallMemory:
    """The small encoder on a device that holds so many tokens."""

    def __init__(self, encoder: EsmEncoder, most_tokens: int) -> None:
        self._encoder = encoder
        self._most_tokens = most_tokens
        self.device, self.dtype = encoder.device, encoder.dtype
        self.refused = 0

    def hidden_states(self, token_ids: Tensor, lengths: Sequence[int]) -> Tensor:
        if len(token_ids) > self._most_tokens:
            self.refused += 1
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {len(token_ids)} GiB")
        return self._encoder.hidden_states(token_ids, lengths)

    def operations(self, lengths: Sequence[int]) -> int:
        return self._encoder.operations(lengths)


def test_a_fill_goes_on_in_smaller_packs_when_memory_runs_out(store: Path) -> None:
    sequences = proteins(*([40] * 30), 300, *([25] * 30))
    model = resolve(str(ESM), ModelOptions(precision="full"))
    encoder = SmallMemory(read_encoder(find_checkpoint(ESM)), most_tokens=200)
    embedder = PackedEmbedder(model.recipe, ProteinTokenizer(), encoder, setting=Setting(1000, 2))
    target = SpaceTarget(
        Store.open(store, create=True), model.recipe, "small", None, lambda: Model("small", model.recipe, load)
    )

    def load(device: str | None) -> PackedEmbedder:
        return embedder

    report = fill(
        [Record(f"s{number}", sequence.encode(), "a.faa", number) for number, sequence in enumerate(sequences)], target
    )
    assert report.computed == 60
    (failed,) = report.failed
    assert (failed.id, failed.reason) == ("s30", "memory does not suffice for its 302 tokens at once")
    assert encoder.refused > 1
    assert embedder.budget.tokens <= 200
    del sequences[30]
    expected = resolve(str(ESM), ModelOptions(precision="full")).load("cpu").embed([s.encode() for s in sequences])
    np.testing.assert_allclose(stored(store, "small", sequences), expected.vectors, rtol=0, atol=1e-5)


def test_a_protein_of_35_000_residues(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    (titin,) = proteins(35_000)
    code, report = fill_json(capsys, fasta([titin, "MKV"]), "--model", ESM, "--precision", "full", "--max-length", 300)
    assert (code, report["computed"], report["failed"]) == (0, 2, [])
    small = resolve(str(ESM), ModelOptions(precision="full", max_length=300)).load("cpu")
    assert isinstance(small, PackedEmbedder)
    alone = small.with_setting(Setting(pack_tokens=1)).embed([titin.encode()])  # a window a pack
    np.testing.assert_allclose(stored(store, "fastesm2_tiny", [titin]), alone.vectors, rtol=0, atol=1e-5)


def test_a_contig_of_a_million_bases(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    contig = "".join(np.random.default_rng(1).choice(list("ACGT"), 1_000_000))
    code, report = fill_json(capsys, fasta([contig, "ACGTTGCA"]), "--model", DATA / "dnabert_s", "--max-length", 60)
    assert (code, report["computed"], report["failed"]) == (0, 2, [])
    assert np.isfinite(stored(store, "dnabert_s", [contig], "dna")).all()
    assert fill_json(capsys, fasta([contig]), "--model", DATA / "dnabert_s", "--max-length", 60)[1]["hits"] == 1


def test_long_sequences_can_be_rejected_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--long", "reject", "--max-length", 50)
    code, report = fill_json(capsys, fasta(proteins(50, 51)), "--model", ESM, *options)
    assert (code, report["computed"]) == (3, 1)
    assert [(item["id"], item["reason"]) for item in report["failed"]] == [
        ("s1", "it has 51 tokens, more than the 50 that the space allows")
    ]


def test_a_pinned_model_takes_no_other_weights_and_says_both_digests(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, store: Path
) -> None:
    folder = Path(shutil.copytree(DATA / "dnabert_s", tmp_path / "other"))
    configuration = json.loads((folder / "config.json").read_text()) | {"hidden_size": 768, "num_hidden_layers": 12}
    (folder / "config.json").write_text(json.dumps(configuration))
    assert main(["fill", fasta(["ACGTACGT"]), "--model", "dnabert_s", "--weights", str(folder)]) == 1
    error = capsys.readouterr().err
    assert str(MODELS["dnabert_s"].weights_sha256) in error
    assert file_sha256(folder / "model.safetensors") in error
    assert not store.exists()


def test_the_first_fill_pins_weights_whose_digest_nobody_knows(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "fastesm2_650", replace(MODELS["fastesm2_650"], dim=64, layers=3))
    other = changed(tmp_path / "other", "esm.embeddings.word_embeddings.weight", lambda weight: weight * 1.5)
    first, second = fasta(proteins(30), "first.faa"), fasta(proteins(30, 31), "second.faa")
    assert main(["fill", first, "--model", "fastesm2_650", "--weights", str(ESM)]) == 0
    capsys.readouterr()
    assert main(["fill", second, "--model", "fastesm2_650", "--weights", str(other)]) == 1
    error = capsys.readouterr().err
    assert file_sha256(ESM / "model.safetensors") in error
    assert file_sha256(other / "model.safetensors") in error
    assert "weights_sha256" in error
    assert main(["fill", second, "--model", "fastesm2_650", "--weights", str(ESM)]) == 0
    _, report = fill_json(capsys, second, "--model", other, "--name", "mine")
    assert (report["space"]["name"], report["computed"]) == ("mine", 2)
