"""ESM-1b and ESM-1v to vectors, against the reference implementation's numbers."""

from __future__ import annotations

import argparse
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
from safetensors.torch import load_file, save_file

from embedstore.errors import InputError, WeightsError
from embedstore.identity import canonical, sequence_key
from embedstore.library import Store
from embedstore.models import ModelOptions, resolve
from embedstore.models.batching import windows
from embedstore.models.checkpoint import find_checkpoint
from embedstore.models.esm import VOCABULARY, EsmEncoder, ProteinTokenizer, read_encoder
from embedstore.models.machine import Setting
from embedstore.models.packed import PackedEmbedder
from embedstore_cli.main import main

pytestmark = pytest.mark.usefixtures("one_thread")

DATA = Path(__file__).resolve().parents[1] / "data" / "esm1b"
TINY = DATA / "esm1b_hf_tiny"
HIDDEN_TOLERANCE = 5e-5
MEAN_TOLERANCE = 2e-5
FULL = ModelOptions(precision="full")
MOST = 1022
Expected = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def expected() -> Expected:
    with np.load(DATA / "expected.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "checkpoint"))


@pytest.fixture
def fair_esm(tmp_path: Path) -> Path:
    """The same weights as fair-esm keeps those of ESM-1b: under the names of fairseq's RoBERTa."""
    names = {
        "esm.embeddings.word_embeddings.": "embed_tokens.",
        "esm.embeddings.position_embeddings.": "embed_positions.",
        "esm.embeddings.layer_norm.": "emb_layer_norm_before.",
        "esm.encoder.emb_layer_norm_after.": "emb_layer_norm_after.",
        "esm.encoder.layer.": "layers.",
        ".attention.LayerNorm.": ".self_attn_layer_norm.",
        ".attention.self.query.": ".self_attn.q_proj.",
        ".attention.self.key.": ".self_attn.k_proj.",
        ".attention.self.value.": ".self_attn.v_proj.",
        ".attention.output.dense.": ".self_attn.out_proj.",
        ".LayerNorm.": ".final_layer_norm.",
        ".intermediate.dense.": ".fc1.",
        ".output.dense.": ".fc2.",
    }
    tensors = {}
    for name, tensor in load_file(TINY / "model.safetensors").items():
        if name.startswith("esm.contact_head"):
            continue
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        tensors[f"encoder.{'' if name.startswith('lm_head') else 'sentence_encoder.'}{name}"] = tensor
    sizes = argparse.Namespace(
        arch="roberta_large",
        encoder_embed_dim=24,
        encoder_layers=3,
        encoder_attention_heads=4,
        max_positions=1024,
        token_dropout=True,
    )
    torch.save({"args": sizes, "model": tensors}, tmp_path / "esm1b_tiny.pt")
    return tmp_path / "esm1b_tiny.pt"


def configure(folder: Path, **entries: object) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))
    return folder


def without_norm_before(folder: Path) -> Path:
    """The same as an ESM-1v."""
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.startswith("esm.embeddings.layer_norm.")]:
        del tensors[name]
    save_file(tensors, folder / "model.safetensors")
    return configure(folder, emb_layer_norm_before=False)


def sequences(expected: Expected) -> list[bytes]:
    return [sequence.upper() for sequence in expected["sequences"].tolist()]


def load(path: Path, options: ModelOptions = FULL) -> PackedEmbedder:
    embedder = resolve(str(path), options).load("cpu")
    assert isinstance(embedder, PackedEmbedder)
    return embedder


def hidden_states(encoder: EsmEncoder, expected: Expected) -> NDArray[np.float32]:
    ids = torch.from_numpy(expected["ids_concat"].astype(np.int64))
    return np.asarray(encoder.hidden_states(ids, np.diff(expected["cu_seqlens"]).tolist()))


def test_tokens_are_those_of_the_reference(expected: Expected) -> None:
    tokenizer = ProteinTokenizer()
    ids = [[tokenizer.first_id, *tokenizer.content_ids(each), tokenizer.last_id] for each in sequences(expected)]
    np.testing.assert_array_equal(np.concatenate(ids), expected["ids_concat"])


def test_hidden_states_equal_the_reference(expected: Expected) -> None:
    states = hidden_states(read_encoder(find_checkpoint(TINY)), expected)
    np.testing.assert_allclose(states, expected["last_hidden_state"], rtol=0, atol=HIDDEN_TOLERANCE)


def test_means_equal_the_reference_packed_and_alone(expected: Expected) -> None:
    embedder = load(TINY)
    packed = embedder.embed(sequences(expected))
    alone = [embedder.embed([sequence]).vectors[0] for sequence in sequences(expected)]
    assert not packed.failures
    assert max(map(len, sequences(expected))) == MOST
    np.testing.assert_allclose(packed.vectors, expected["pooled_mean"], rtol=0, atol=MEAN_TOLERANCE)
    np.testing.assert_allclose(alone, expected["pooled_mean"], rtol=0, atol=MEAN_TOLERANCE)


def test_special_tokens_are_pooled_when_the_recipe_says_so(expected: Expected) -> None:
    embedder = load(TINY, ModelOptions(precision="full", pooling="mean_all"))
    vectors = embedder.embed(sequences(expected)).vectors
    np.testing.assert_allclose(vectors, expected["pooled_mean_with_cls_eos"], rtol=0, atol=MEAN_TOLERANCE)


def test_float16_arithmetic_is_near_the_reference(expected: Expected) -> None:
    encoder = read_encoder(find_checkpoint(TINY)).to(torch.device("cpu"), torch.float16)
    embedder = load(TINY, ModelOptions()).with_encoder(encoder)
    difference = np.abs(embedder.embed(sequences(expected)).vectors - expected["pooled_mean"])
    assert 1e-4 < difference.max() < 2e-3 * np.abs(expected["pooled_mean"]).max()


PROTEINS = st.lists(st.text("ACDEFGHIKLMNPQRSTVWYXJ", min_size=1, max_size=60), min_size=1, max_size=8)
EMBEDDER, ENCODER = load(TINY), read_encoder(find_checkpoint(TINY))


@settings(max_examples=25, deadline=None)
@given(PROTEINS, st.integers(1, 300), st.randoms(use_true_random=False))
def test_a_vector_does_not_depend_on_pack_order_or_budget(proteins: list[str], budget: int, random: Any) -> None:
    small = PackedEmbedder(EMBEDDER.recipe, ProteinTokenizer(), ENCODER, setting=Setting(pack_tokens=budget))
    order = list(range(len(proteins)))
    random.shuffle(order)
    packed = small.embed([proteins[place].encode() for place in order]).vectors
    for row, place in enumerate(order):
        alone = EMBEDDER.embed([proteins[place].encode()]).vectors[0]
        np.testing.assert_allclose(packed[row], alone, rtol=0, atol=MEAN_TOLERANCE)


def test_sequences_beyond_the_positions_are_windows_of_1022() -> None:
    protein = "".join(np.random.default_rng(6).choice(list("ACDEFGHIKLMNPQRSTVWY"), MOST + 1)).encode()
    content = ProteinTokenizer().content_ids(protein)
    sums, times = np.zeros((len(content), 24)), np.zeros((len(content), 1))
    for window in windows(len(content), MOST, 256):
        ids = torch.tensor([0, *content[window.start : window.stop], 2])
        sums[window.start : window.stop] += np.asarray(ENCODER.hidden_states(ids, [len(ids)]))[1:-1]
        times[window.start : window.stop] += 1
    embedded = EMBEDDER.embed([protein])
    assert (EMBEDDER.recipe.max_length_tokens, EMBEDDER.recipe.long) == (MOST, "window")
    np.testing.assert_allclose(embedded.vectors[0], (sums / times).mean(axis=0), rtol=0, atol=MEAN_TOLERANCE)


@pytest.mark.parametrize(
    ("options", "asked"),
    [(ModelOptions(max_length=1023), "a maximal length of 1023"), (ModelOptions(long="none"), "no limit")],
)
def test_more_residues_at_once_than_there_are_positions_are_refused(options: ModelOptions, asked: str) -> None:
    with pytest.raises(InputError, match=rf"{asked}: it has learned positions for at most 1022 residues"):
        resolve(str(TINY), options)
    assert resolve(str(TINY), ModelOptions(max_length=MOST)).recipe.max_length_tokens == MOST


def test_fewer_positions_are_a_smaller_maximal_length(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "esm.embeddings.position_embeddings.weight"
    save_file(tensors | {name: tensors[name][:104].clone()}, folder / "model.safetensors")
    embedder = load(configure(folder, max_position_embeddings=104))
    assert embedder.recipe.max_length_tokens == 100
    assert not embedder.embed([b"MKV" * 100]).failures


def test_without_the_norm_before_the_first_layer_it_is_an_esm1v(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = resolve(str(without_norm_before(folder)), FULL)
    assert (model.recipe.model, model.recipe.implementation) == ("esm1v", "esm1v/1")
    theirs = transformers.EsmModel.from_pretrained(folder, add_pooling_layer=False).eval()
    ids = torch.tensor([[0, *ProteinTokenizer().content_ids(b"MKVLAW"), 2]])
    with torch.inference_mode():
        mean = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0, 1:-1].mean(0)
    embedded = model.load("cpu").embed([b"MKVLAW"])
    np.testing.assert_allclose(embedded.vectors[0], mean, rtol=0, atol=MEAN_TOLERANCE)


def test_the_layout_of_fair_esm_gives_the_same_vectors(fair_esm: Path, expected: Expected) -> None:
    embedder = load(fair_esm)
    assert (embedder.recipe.model, embedder.recipe.max_length_tokens) == ("esm1b", MOST)
    states = hidden_states(read_encoder(find_checkpoint(fair_esm)), expected)
    np.testing.assert_allclose(states, expected["last_hidden_state"], rtol=0, atol=HIDDEN_TOLERANCE)


# Which checkpoints are taken, and which are refused.


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("esm.embeddings.position_embeddings.weight", r"position_embeddings\.weight is missing"),
        ("esm.embeddings.layer_norm.bias", r"embeddings\.layer_norm\.bias is missing"),
        ("esm.encoder.layer.2.output.dense.weight", r"layer\.2\.output\.dense\.weight is missing"),
    ],
)
def test_missing_tensors_are_refused(name: str, message: str, folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=message):
        read_encoder(find_checkpoint(folder))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"position_embedding_type": "rotary"}, "expected emb_layer_norm_before False"),
        ({"position_embedding_type": "rotary", "emb_layer_norm_before": False}, r"embeddings\.layer_norm\.\S+ is unex"),
        ({"position_embedding_type": "relative_key"}, "expected position_embedding_type rotary"),
        ({"emb_layer_norm_before": False}, r"as esm1v: .*embeddings\.layer_norm\.bias is unexpected"),
        ({"max_position_embeddings": 514}, r"expected shape \(514, 24\), found \(1026, 24\)"),
        ({"max_position_embeddings": None}, "expected a positive max_position_embeddings"),
        ({"vocab_size": 64}, "expected vocab_size 33"),
        ({"num_attention_heads": 5}, "as ESM-1b: 24 values do not make 5 heads"),
    ],
)
def test_configurations_that_the_tensors_do_not_fit_are_refused(
    entries: dict[str, object], message: str, folder: Path
) -> None:
    with pytest.raises(WeightsError, match=message):
        resolve(str(configure(folder, **entries))).load("cpu")


def test_weights_of_esm2_with_learned_positions_in_the_configuration_are_refused(folder: Path) -> None:
    shutil.copy(DATA.parent / "esm" / "esm2_hf_tiny" / "model.safetensors", folder)
    configure(folder, hidden_size=64, intermediate_size=256, emb_layer_norm_before=False)
    with pytest.raises(WeightsError, match=r"as esm1v: \S+inv_freq is unexpected"):
        read_encoder(find_checkpoint(folder))


@pytest.mark.parametrize(
    ("name", "other"),
    [("esm2_t33_650m", "esm1b"), ("fastesm2_650", "esm1b"), ("esm1v_t33_650m_3", "esm1b"), ("esmc_600m", "esm1b")],
)
def test_a_named_model_refuses_a_relative_of_its_size(name: str, other: str, folder: Path) -> None:
    sizes = {"hidden_size": 1152, "num_hidden_layers": 36} if name == "esmc_600m" else {"hidden_size": 1280}
    configure(folder, **{"num_hidden_layers": 33, **sizes})
    with pytest.raises(WeightsError, match=f"found {other}"):
        resolve(name, ModelOptions(weights=folder))


def test_an_esm1b_refuses_the_weights_of_esm1v_and_of_esm2(folder: Path, tmp_path: Path) -> None:
    without_norm_before(configure(folder, hidden_size=1280, num_hidden_layers=33))
    with pytest.raises(WeightsError, match="expected the architecture esm1b, found esm1v"):
        resolve("esm1b_t33_650m", ModelOptions(weights=folder))
    newer = Path(shutil.copytree(DATA.parent / "esm" / "esm2_hf_tiny", tmp_path / "newer"))
    configure(newer, hidden_size=1280, num_hidden_layers=33)
    with pytest.raises(WeightsError, match="expected the architecture esm1b, found esm2"):
        resolve("esm1b_t33_650m", ModelOptions(weights=newer))


def test_a_named_model_takes_weights_of_its_family_and_size(folder: Path) -> None:
    configure(folder, hidden_size=1280, num_hidden_layers=33)
    recipe = resolve("esm1b_t33_650m", ModelOptions(weights=folder)).recipe
    assert (recipe.source, recipe.revision, recipe.implementation) == ("facebook/esm1b_t33_650M_UR50S", None, "esm1b/1")


def test_another_vocabulary_is_refused(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY[::-1]))
    with pytest.raises(WeightsError, match=r"as ESM-1b: vocab\.txt has a different vocabulary"):
        read_encoder(find_checkpoint(folder))


def test_a_fill_stores_the_reference_means(expected: Expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDSTORE_PATH", str(tmp_path / "store"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    chosen = [row for row, sequence in enumerate(sequences(expected)) if sequence.isalpha()]
    proteins = [expected["sequences"][row].decode() for row in chosen]
    fasta = tmp_path / "proteins.faa"
    fasta.write_text("".join(f">p{row}\n{protein}\n" for row, protein in enumerate([*proteins, "MKV" * 500])))
    assert main(["fill", str(fasta), "--model", str(TINY), "--name", "tiny", "--quiet"]) == 0
    keys = b"".join(sequence_key(canonical(protein, "protein")) for protein in proteins)
    stored = Store.open(tmp_path / "store").space("tiny").read(np.frombuffer(keys, np.uint8).reshape(-1, 24))
    means = expected["pooled_mean"][chosen]
    np.testing.assert_allclose(stored, means, rtol=0, atol=2e-3 * np.abs(means).max())
