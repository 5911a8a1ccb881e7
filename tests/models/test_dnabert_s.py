"""DNABERT-S from a checkpoint in its original layout to vectors, against the reference's means."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from embedstore.errors import WeightsError, WeightsNotFoundError
from embedstore.models.batching import windows
from embedstore.models.checkpoint import find_checkpoint
from embedstore.models.dnabert import DnaTokenizer, read_encoder
from embedstore.models.packed import PackedEmbedder
from embedstore.models.registry import MODELS
from embedstore.models.resolution import ModelOptions, resolve

DATA = Path(__file__).resolve().parents[1] / "data" / "dnabert_s"
MEAN_TOLERANCE = 1e-5
FULL = ModelOptions(precision="full")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "small"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copy(DATA / name, folder / name)
    return folder


@pytest.fixture
def own_checkpoint(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))


def load(folder: Path, options: ModelOptions = FULL) -> PackedEmbedder:
    embedder = resolve(str(folder), options).load("cpu")
    assert isinstance(embedder, PackedEmbedder)
    return embedder


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")


def change_configuration(folder: Path, **entries: object) -> None:
    configuration = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(configuration | entries))


def upper_case_references(pooled: str) -> tuple[list[bytes], NDArray[np.float32]]:
    """Sequences that are canonical as they are, and the reference's means for the synthetic tokenizer."""
    with np.load(DATA / "expected_synthetic_tokenizer.npz") as expected:
        sequences, means = [str(sequence) for sequence in expected["sequences"]], expected[pooled]
    kept = [row for row, sequence in enumerate(sequences) if sequence == sequence.upper()]
    assert len(kept) == 12
    return [sequences[row].encode() for row in kept], means[kept]


SEQUENCES, MEANS = upper_case_references("mean_all")


def test_means_equal_the_reference_one_by_one(checkpoint: Path) -> None:
    embedder = load(checkpoint)
    vectors = np.concatenate([embedder.embed([sequence]).vectors for sequence in SEQUENCES])
    np.testing.assert_allclose(vectors, MEANS, rtol=0, atol=MEAN_TOLERANCE)


def test_means_equal_the_reference_all_at_once(checkpoint: Path) -> None:
    embedded = load(checkpoint).embed(SEQUENCES)
    assert not embedded.failures
    np.testing.assert_allclose(embedded.vectors, MEANS, rtol=0, atol=MEAN_TOLERANCE)


def test_content_mean_equals_the_reference(checkpoint: Path) -> None:
    _, means = upper_case_references("mean_nospecial")
    embedded = load(checkpoint, replace(FULL, pooling="mean")).embed(SEQUENCES)
    np.testing.assert_allclose(embedded.vectors, means, rtol=0, atol=MEAN_TOLERANCE)


def test_means_with_the_real_tokenizer_equal_the_reference(shared: Path) -> None:
    folder = shared / "fixtures" / "dnabert_s" / "checkpoint"
    with np.load(shared / "fixtures" / "dnabert_s" / "expected.npz") as expected:
        sequences, means = [str(sequence) for sequence in expected["sequences"]], expected["mean_all"]
    # The reference saw lower case as it is; ours never does.
    kept = [row for row, sequence in enumerate(sequences) if sequence == sequence.upper()]
    vectors = load(folder).embed([sequences[row].encode() for row in kept]).vectors
    np.testing.assert_allclose(vectors, means[kept], rtol=0, atol=MEAN_TOLERANCE)


@settings(max_examples=20, deadline=None)
@given(
    chosen=st.lists(st.integers(0, len(SEQUENCES) - 1), min_size=1, max_size=10),
    pack_tokens=st.sampled_from([1, 50, 300, 1000, 5000]),
)
def test_vectors_do_not_depend_on_neighbours_order_or_budget(
    checkpoint: Path, chosen: list[int], pack_tokens: int
) -> None:
    embedder = load(checkpoint)
    embedder.budget.tokens = pack_tokens
    vectors = embedder.embed([SEQUENCES[row] for row in chosen]).vectors
    np.testing.assert_allclose(vectors, MEANS[chosen], rtol=0, atol=MEAN_TOLERANCE)


def test_recipe_of_a_directory(checkpoint: Path) -> None:
    recipe = resolve(str(checkpoint)).recipe
    assert (recipe.molecule, recipe.dim, recipe.dtype) == ("dna", 48, "float16")
    assert (recipe.pooling, recipe.pooled_special_tokens) == ("mean_all", ("[CLS]", "[SEP]"))
    assert (recipe.max_length_tokens, recipe.long, recipe.implementation) == (1998, "window", "dnabert_s/1")
    assert recipe.tokenizer_sha256 is not None


def test_another_pooling_is_another_space(checkpoint: Path) -> None:
    by_default = resolve(str(checkpoint)).recipe
    content_only = resolve(str(checkpoint), ModelOptions(pooling="mean")).recipe
    assert content_only.pooled_special_tokens == ()
    assert set(by_default.differences(content_only)) == {"pooling", "pooled_special_tokens"}


def mean_over_windows(checkpoint: Path, sequence: bytes, max_length: int, overlap: int) -> NDArray[np.float64]:
    """What the guide says, spelt out: average each token over the windows that see it, then average the tokens."""
    encoder = read_encoder(find_checkpoint(checkpoint))
    content = DnaTokenizer.from_file(checkpoint / "tokenizer.json").content_ids(sequence)
    parts = windows(len(content), max_length, overlap)
    sums, times = np.zeros((len(content), 48)), np.zeros(len(content))
    specials = np.zeros((2, 48))
    for part in parts:
        ids = np.concatenate(([1], content[part.start : part.stop], [2]))
        states = encoder.hidden_states(torch.from_numpy(ids), [len(ids)]).numpy()
        sums[part.start : part.stop] += states[1:-1]
        times[part.start : part.stop] += 1
        specials += states[[0, -1]] / len(parts)
    tokens: NDArray[np.float64] = np.concatenate((specials, sums / times[:, None])).mean(axis=0)
    return tokens


@pytest.mark.parametrize(("max_length", "overlap"), [(200, 100), (300, 150), (600, 256)])
def test_sequence_beyond_the_maximum_is_the_mean_over_its_windows(
    checkpoint: Path, max_length: int, overlap: int
) -> None:
    longest = max(SEQUENCES, key=len)
    vector = load(checkpoint, replace(FULL, max_length=max_length)).embed([longest]).vectors[0]
    expected = mean_over_windows(checkpoint, longest, max_length, overlap)
    np.testing.assert_allclose(vector, expected, rtol=0, atol=MEAN_TOLERANCE)
    whole = load(checkpoint).embed([longest]).vectors[0]
    assert np.abs(vector - whole).max() > MEAN_TOLERANCE  # windows see less context
    assert np.corrcoef(vector, whole)[0, 1] > 0.95


def test_contig_of_many_windows(checkpoint: Path) -> None:
    contig = b"".join(SEQUENCES) * 3
    embedded = load(checkpoint).embed([contig])
    assert not embedded.failures
    expected = mean_over_windows(checkpoint, contig, 1998, 256)
    np.testing.assert_allclose(embedded.vectors[0], expected, rtol=0, atol=MEAN_TOLERANCE)


def test_truncation_takes_the_first_tokens(checkpoint: Path) -> None:
    embedder = load(checkpoint, replace(FULL, max_length=10, long="truncate"))
    vectors = embedder.embed([b"N" * 10, b"N" * 10 + SEQUENCES[3]]).vectors
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=0, atol=MEAN_TOLERANCE)


def test_lower_case_differs_from_upper_case_below_canonicalisation(checkpoint: Path) -> None:
    """Why input has to be canonical: the tokenizer itself makes each lower-case base unknown."""
    vectors = load(checkpoint).embed([b"acgtacgt", b"NNNNNNNN"]).vectors
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=0, atol=MEAN_TOLERANCE)


def test_pickled_weights_give_the_same_vectors(own_checkpoint: Path) -> None:
    tensors = load_file(own_checkpoint / "model.safetensors")
    expected = load(own_checkpoint).embed(SEQUENCES).vectors
    torch.save(tensors, own_checkpoint / "pytorch_model.bin")
    (own_checkpoint / "model.safetensors").unlink()
    np.testing.assert_array_equal(load(own_checkpoint).embed(SEQUENCES).vectors, expected)


def test_layout_of_dnabert_2_is_read(own_checkpoint: Path) -> None:
    """Names start with `bert.`, there is a language-model head, and no pooler."""

    def as_dnabert_2(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        head = {
            "cls.predictions.decoder.bias": torch.zeros(4096),
            "cls.predictions.transform.dense.weight": torch.eye(48),
        }
        kept = {f"bert.{name}": tensor for name, tensor in tensors.items() if not name.startswith("pooler.")}
        return kept | head | {"bert.embeddings.position_ids": torch.arange(512)}

    change_tensors(own_checkpoint, as_dnabert_2)
    np.testing.assert_allclose(load(own_checkpoint).embed(SEQUENCES).vectors, MEANS, rtol=0, atol=MEAN_TOLERANCE)


def test_stock_bert_is_refused(own_checkpoint: Path) -> None:
    def as_stock_bert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        stock: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            if ".Wqkv." in name:
                for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                    stock[name.replace("Wqkv", part)] = piece.contiguous()
            else:
                stock[name] = tensor
        return stock

    change_tensors(own_checkpoint, as_stock_bert)
    with pytest.raises(WeightsError, match=r"stock BERT.*expected Wqkv"):
        load(own_checkpoint)


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {other: tensor for other, tensor in tensors.items() if other != name}


@pytest.mark.parametrize(
    "name",
    [
        "embeddings.token_type_embeddings.weight",
        "encoder.layer.2.attention.self.Wqkv.weight",
        "encoder.layer.0.mlp.gated_layers.weight",
        "encoder.layer.1.mlp.layernorm.bias",
    ],
)
def test_missing_tensor_is_refused_by_name(own_checkpoint: Path, name: str) -> None:
    change_tensors(own_checkpoint, without(name))
    with pytest.raises(WeightsError, match=f"{name} is missing"):
        load(own_checkpoint)


@pytest.mark.parametrize(
    "name", ["encoder.layer.3.mlp.wo.bias", "adapter.weight", "bert.pooled.weight", "classifier.bias"]
)
def test_unexpected_tensor_is_refused_by_name(own_checkpoint: Path, name: str) -> None:
    change_tensors(own_checkpoint, lambda tensors: tensors | {name: torch.zeros(48)})
    with pytest.raises(WeightsError, match=f"{name} is unexpected"):
        load(own_checkpoint)


def test_tensor_with_and_without_prefix_is_refused(own_checkpoint: Path) -> None:
    name = "encoder.layer.0.mlp.wo.bias"
    change_tensors(own_checkpoint, lambda tensors: tensors | {f"bert.{name}": tensors[name].clone()})
    with pytest.raises(WeightsError, match="there twice"):
        load(own_checkpoint)


def test_tensor_of_another_shape_is_refused(own_checkpoint: Path) -> None:
    change_configuration(own_checkpoint, intermediate_size=64)
    with pytest.raises(WeightsError, match=r"gated_layers\.weight: expected shape \(128, 48\), found \(256, 48\)"):
        load(own_checkpoint)


@pytest.mark.parametrize(
    ("entry", "value"),
    [("layer_norm_eps", None), ("hidden_act", "gelu_new"), ("num_attention_heads", 7), ("type_vocab_size", 0)],
)
def test_configuration_that_does_not_fit_is_refused(own_checkpoint: Path, entry: str, value: object) -> None:
    change_configuration(own_checkpoint, **{entry: value})
    with pytest.raises(WeightsError, match=entry):
        load(own_checkpoint)


def test_tokenizer_with_more_tokens_than_the_weights_is_refused(own_checkpoint: Path) -> None:
    name = "embeddings.word_embeddings.weight"
    change_tensors(own_checkpoint, lambda tensors: tensors | {name: tensors[name][:4000].clone()})
    change_configuration(own_checkpoint, vocab_size=4000)
    with pytest.raises(WeightsError, match=r"at most 4000 tokens \(vocab_size\), found 4096"):
        load(own_checkpoint)


def test_checkpoint_without_tokenizer_is_refused(own_checkpoint: Path) -> None:
    (own_checkpoint / "tokenizer.json").unlink()
    with pytest.raises(WeightsNotFoundError, match=r"tokenizer\.json"):
        load(own_checkpoint)


def test_published_model_is_pinned() -> None:
    spec = MODELS["dnabert_s"]
    assert (spec.dim, spec.layers, spec.repository) == (768, 12, "zhihan1996/DNABERT-S")
    assert spec.revision == "00e47f96cdea35e4b6f5df89e5419cbe47d490c6"
    assert spec.weights_sha256 == "f3cfc3d0541859df64759e758cc4bc40fe1d5760799a7d098a9f9f09501c1e5f"
    assert spec.tokenizer_sha256 == "667f5a0e6e9630f7052b004784dda7c7aeba395cc4ca3c01b11b02e6aa29d7b1"


def test_other_weights_under_the_published_name_are_refused_with_both_digests(own_checkpoint: Path) -> None:
    change_configuration(own_checkpoint, hidden_size=768, num_hidden_layers=12)
    torch.save(load_file(own_checkpoint / "model.safetensors"), own_checkpoint / "pytorch_model.bin")
    (own_checkpoint / "model.safetensors").unlink()
    found = resolve(str(own_checkpoint)).recipe.weights_sha256
    with pytest.raises(WeightsError, match=f"{MODELS['dnabert_s'].weights_sha256}.*{found}"):
        resolve("dnabert_s", ModelOptions(weights=own_checkpoint))


def test_checkpoint_of_another_width_under_the_published_name_is_refused_with_both_numbers(checkpoint: Path) -> None:
    with pytest.raises(WeightsError, match=r"expected vectors of length 768, found 48"):
        resolve("dnabert_s", ModelOptions(weights=checkpoint))
