"""ESM-2 from each layout to vectors, against the reference implementations' numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedstore.errors import WeightsError
from embedstore.models import ModelOptions, resolve
from embedstore.models.checkpoint import find_checkpoint
from embedstore.models.esm import VOCABULARY, EsmEncoder, ProteinTokenizer, read_encoder
from embedstore.models.machine import Setting
from embedstore.models.packed import PackedEmbedder

pytestmark = pytest.mark.usefixtures("one_thread")

DATA = Path(__file__).resolve().parents[1] / "data" / "esm"
LAYOUTS = ("fastesm2_tiny", "esm2_hf_tiny", "fair_esm_tiny")
HIDDEN_TOLERANCE = 5e-5
MEAN_TOLERANCE = 1e-5
FULL = ModelOptions(precision="full", max_length=4000)


def sequences() -> list[bytes]:
    documents = json.loads((DATA / "sequences.json").read_text())
    return [document["raw"].upper().encode() for document in documents]


@pytest.fixture(scope="module")
def expected() -> dict[str, NDArray[Any]]:
    with np.load(DATA / "fastesm2_tiny" / "expected.npz") as arrays:
        return dict(arrays)


def load(folder: Path, options: ModelOptions = FULL) -> PackedEmbedder:
    embedder = resolve(str(folder), options).load("cpu")
    assert isinstance(embedder, PackedEmbedder)
    return embedder


@pytest.fixture(scope="module")
def embedder() -> PackedEmbedder:
    return load(DATA / "fastesm2_tiny")


@pytest.fixture(scope="module")
def encoder() -> EsmEncoder:
    return read_encoder(find_checkpoint(DATA / "fastesm2_tiny"))


def hidden_states(encoder: EsmEncoder, expected: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    ids = torch.from_numpy(expected["ids_concat"].astype(np.int64))
    return np.asarray(encoder.hidden_states(ids, np.diff(expected["cu_seqlens"]).tolist()))


def test_tokens_are_those_of_the_reference(expected: dict[str, NDArray[Any]]) -> None:
    tokenizer = ProteinTokenizer()
    ids = [[tokenizer.first_id, *tokenizer.content_ids(sequence), tokenizer.last_id] for sequence in sequences()]
    np.testing.assert_array_equal(np.concatenate(ids), expected["ids_concat"])


def test_each_unknown_residue_is_one_token() -> None:
    assert ProteinTokenizer().content_ids(b"JJL").tolist() == [3, 3, 4]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hidden_states_equal_the_reference(layout: str, expected: dict[str, NDArray[Any]]) -> None:
    states = hidden_states(read_encoder(find_checkpoint(DATA / layout)), expected)
    np.testing.assert_allclose(states, expected["last_hidden_state"], rtol=0, atol=HIDDEN_TOLERANCE)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_means_equal_the_reference_packed_and_alone(layout: str, expected: dict[str, NDArray[Any]]) -> None:
    embedder = load(DATA / layout)
    packed = embedder.embed(sequences())
    alone = [embedder.embed([sequence]).vectors[0] for sequence in sequences()]
    assert not packed.failures
    np.testing.assert_allclose(packed.vectors, expected["pooled_mean"], rtol=0, atol=MEAN_TOLERANCE)
    np.testing.assert_allclose(alone, expected["pooled_mean"], rtol=0, atol=MEAN_TOLERANCE)


def test_half_precision_is_near_the_reference(expected: dict[str, NDArray[Any]]) -> None:
    embedder = load(DATA / "fastesm2_tiny", ModelOptions(max_length=4000))
    assert embedder.recipe.dtype == "float16"
    stored = embedder.embed(sequences()).vectors.astype(np.float16)
    largest = np.abs(expected["pooled_mean"]).max()
    assert np.abs(stored - expected["pooled_mean"]).max() < 2e-3 * largest


def test_special_tokens_are_pooled_when_the_recipe_says_so(expected: dict[str, NDArray[Any]]) -> None:
    embedder = load(DATA / "fastesm2_tiny", ModelOptions(precision="full", max_length=4000, pooling="mean_all"))
    vectors = embedder.embed(sequences()).vectors
    np.testing.assert_allclose(vectors, expected["pooled_mean_with_cls_eos"], rtol=0, atol=MEAN_TOLERANCE)
    assert embedder.recipe.pooled_special_tokens == ("<cls>", "<eos>")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shared_fixtures_give_the_reference_means(layout: str, shared: Path) -> None:
    folder = shared / "fixtures" / "esm"
    with np.load(folder / layout.replace("esm2_hf", "fastesm2") / "expected.npz") as reference:
        vectors = load(folder / layout).embed(sequences()).vectors
        np.testing.assert_allclose(vectors, reference["pooled_mean"], rtol=0, atol=MEAN_TOLERANCE)


def test_token_dropout_scale_follows_the_configuration(tmp_path: Path, expected: dict[str, NDArray[Any]]) -> None:
    folder = Path(shutil.copytree(DATA / "fastesm2_tiny", tmp_path / "old"))
    change_configuration(folder, token_dropout=False)
    states = hidden_states(read_encoder(find_checkpoint(folder)), expected)
    np.testing.assert_allclose(states, expected["last_hidden_state_no_token_dropout"], rtol=0, atol=HIDDEN_TOLERANCE)


PROTEINS = st.lists(st.text("ACDEFGHIKLMNPQRSTVWYXJ", min_size=1, max_size=60), min_size=1, max_size=8)


@settings(max_examples=25, deadline=None)
@given(PROTEINS, st.integers(1, 300), st.randoms(use_true_random=False))
def test_a_vector_does_not_depend_on_pack_order_or_budget(
    embedder: PackedEmbedder, encoder: EsmEncoder, proteins: list[str], budget: int, random: Any
) -> None:
    small = PackedEmbedder(embedder.recipe, ProteinTokenizer(), encoder, setting=Setting(pack_tokens=budget))
    order = list(range(len(proteins)))
    random.shuffle(order)
    reordered = [proteins[place].encode() for place in order]
    packed = small.embed(reordered).vectors
    for row, place in enumerate(order):
        alone = embedder.embed([proteins[place].encode()]).vectors[0]
        np.testing.assert_allclose(packed[row], alone, rtol=0, atol=MEAN_TOLERANCE)


def transformers_model(**sizes: int) -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(7)
    configuration = transformers.EsmConfig(
        vocab_size=33,
        pad_token_id=1,
        mask_token_id=32,
        position_embedding_type="rotary",
        token_dropout=True,
        layer_norm_eps=1e-5,
        **sizes,
    )
    return transformers.EsmModel(configuration, add_pooling_layer=False).eval()


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 100},
        {"hidden_size": 320, "num_hidden_layers": 6, "num_attention_heads": 20, "intermediate_size": 1280},
        pytest.param(
            {"hidden_size": 640, "num_hidden_layers": 30, "num_attention_heads": 20, "intermediate_size": 2560},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["small", "8M", "150M"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_means_equal_transformers(sizes: dict[str, int], tmp_path: Path) -> None:
    model = transformers_model(**sizes)
    model.save_pretrained(tmp_path)  # as the installed release names tensors: not as the published files do
    rng = np.random.default_rng(3)
    proteins = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWYXBZ"), size)) for size in (1, 7, 90, 90, 211)]
    ours = load(tmp_path).embed([protein.encode() for protein in proteins]).vectors
    for row, protein in enumerate(proteins):
        ids = torch.tensor([[0, *(VOCABULARY.index(residue) for residue in protein), 2]])
        with torch.inference_mode():
            theirs = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0, 1:-1].mean(0)
        np.testing.assert_allclose(ours[row], theirs, rtol=0, atol=MEAN_TOLERANCE)


def change_configuration(folder: Path, **entries: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("position_embedding_type", "absolute"),
        ("hidden_act", "relu"),
        ("emb_layer_norm_before", True),
        ("vocab_size", 34),
        ("layer_norm_eps", None),
        ("num_attention_heads", 5),
        ("intermediate_size", "many"),
    ],
)
def test_another_architecture_in_the_configuration_is_refused(entry: str, value: object, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DATA / "fastesm2_tiny", tmp_path / "other"))
    change_configuration(folder, **{entry: value})
    with pytest.raises(WeightsError):
        read_encoder(find_checkpoint(folder))


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DATA / "fastesm2_tiny", tmp_path / "other"))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    read_encoder(find_checkpoint(folder))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY[::-1]))
    with pytest.raises(WeightsError, match="vocabulary"):
        read_encoder(find_checkpoint(folder))
