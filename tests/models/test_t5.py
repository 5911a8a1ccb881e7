"""ProtT5, ProstT5 and Ankh from their layouts to vectors, against the reference implementation's numbers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from embedstore.errors import InputError, WeightsError
from embedstore.identity import RareResidues, canonical, sequence_key
from embedstore.library import open_store
from embedstore.models import ModelOptions, resolve
from embedstore.models.checkpoint import find_checkpoint
from embedstore.models.machine import Setting
from embedstore.models.packed import PackedEmbedder
from embedstore.models.t5 import ResidueTokenizer, T5Encoder, T5Shape, read_encoder
from embedstore_cli.main import main

pytestmark = pytest.mark.usefixtures("one_thread")

DATA = Path(__file__).resolve().parents[1] / "data" / "t5"
HIDDEN_TOLERANCE = 5e-5
MEAN_TOLERANCE = 1e-5
FULL = ModelOptions(precision="full")
FIRST_IDS = {"prot_t5": None, "prost_t5": 149}
VARIANTS: dict[str, RareResidues] = {"readme": "uzob_as_x", "script": "uzo_as_x", "raw": "kept"}


@pytest.fixture(scope="module", params=FIRST_IDS)
def folder(request: pytest.FixtureRequest) -> Path:
    return DATA / str(request.param)


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, NDArray[Any]]:
    with np.load(folder / "expected.npz") as arrays:
        return dict(arrays)


def load(folder: Path, options: ModelOptions = FULL) -> PackedEmbedder:
    embedder = resolve(str(folder), options).load("cpu")
    assert isinstance(embedder, PackedEmbedder)
    return embedder


def upper(expected: dict[str, NDArray[Any]]) -> list[bytes]:
    return [sequence.upper().encode() for sequence in expected["sequences"].tolist()]


@pytest.mark.parametrize("variant", VARIANTS)
def test_tokens_are_those_of_the_reference(variant: str, folder: Path, expected: dict[str, NDArray[Any]]) -> None:
    first = FIRST_IDS[folder.name]
    tokenizer = ResidueTokenizer(first, VARIANTS[variant])
    before = [] if first is None else [first]
    ids = [[*before, *content, tokenizer.last_id] for content in tokenizer.contents(upper(expected))]
    np.testing.assert_array_equal(np.concatenate(ids), expected[f"{variant}_ids_concat"])


def test_each_unknown_residue_is_one_token() -> None:
    assert ResidueTokenizer(None, "kept").content_ids(b"JJL").tolist() == [2, 2, 4]


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "single"])
def test_hidden_states_equal_the_reference(packed: bool, folder: Path, expected: dict[str, NDArray[Any]]) -> None:
    encoder = read_encoder(find_checkpoint(folder))
    ids = torch.from_numpy(expected["readme_ids_concat"].astype(np.int64))
    lengths = np.diff(expected["cu_seqlens"]).tolist()
    if packed:
        states = encoder.hidden_states(ids, lengths)
    else:
        states = torch.cat([encoder.hidden_states(part, [len(part)]) for part in ids.split(lengths)])
    np.testing.assert_allclose(states, expected["last_hidden_state"], rtol=0, atol=HIDDEN_TOLERANCE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_means_equal_the_reference_packed_and_alone(
    variant: str, folder: Path, expected: dict[str, NDArray[Any]]
) -> None:
    options = ModelOptions(precision="full", rare_residues=VARIANTS[variant])
    embedder = load(folder, options)
    packed = embedder.embed(upper(expected))
    alone = [embedder.embed([sequence]).vectors[0] for sequence in upper(expected)]
    assert not packed.failures
    np.testing.assert_allclose(packed.vectors, expected[f"{variant}_pooled_mean"], rtol=0, atol=MEAN_TOLERANCE)
    np.testing.assert_allclose(alone, expected[f"{variant}_pooled_mean"], rtol=0, atol=MEAN_TOLERANCE)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_shared_fixtures_give_the_reference_states_and_means(
    file: str, folder: Path, shared: Path, tmp_path: Path
) -> None:
    """The pickle holds the embeddings under both of their names, and that of ProtT5 is in float16."""
    for name in ("config.json", file):
        shutil.copy(shared / "fixtures" / folder.name / "checkpoint" / name, tmp_path)
    with np.load(shared / "fixtures" / folder.name / "expected.npz") as reference:
        ids = torch.from_numpy(reference["readme_ids_concat"].astype(np.int64))
        states = read_encoder(find_checkpoint(tmp_path)).hidden_states(ids, np.diff(reference["cu_seqlens"]).tolist())
        np.testing.assert_allclose(states, reference["last_hidden_state"], rtol=0, atol=HIDDEN_TOLERANCE)
        vectors = load(tmp_path).embed(upper(dict(reference))).vectors
        np.testing.assert_allclose(vectors, reference["readme_pooled_mean"], rtol=0, atol=MEAN_TOLERANCE)


def test_half_precision_is_near_the_reference(folder: Path, expected: dict[str, NDArray[Any]]) -> None:
    embedder = load(folder, ModelOptions())
    assert embedder.recipe.dtype == "float16"
    stored = embedder.embed(upper(expected)).vectors.astype(np.float16)
    largest = np.abs(expected["readme_pooled_mean"]).max()
    assert np.abs(stored - expected["readme_pooled_mean"]).max() < 2e-3 * largest


def test_special_tokens_are_pooled_when_the_recipe_says_so(folder: Path, expected: dict[str, NDArray[Any]]) -> None:
    embedder = load(folder, ModelOptions(precision="full", pooling="mean_all"))
    vectors = embedder.embed(upper(expected)).vectors
    np.testing.assert_allclose(vectors, expected["pooled_mean_with_eos_and_prefix"], rtol=0, atol=MEAN_TOLERANCE)
    before = ("<AA2fold>",) if folder.name == "prost_t5" else ()
    assert embedder.recipe.pooled_special_tokens == (*before, "</s>")


def test_how_rare_residues_are_read_makes_another_space(folder: Path) -> None:
    recipes = [resolve(str(folder), ModelOptions(rare_residues=each)).recipe for each in VARIANTS.values()]
    assert len({recipe.id for recipe in recipes}) == 3
    assert resolve(str(folder)).recipe == recipes[0]
    assert recipes[0].to_json()["rare_residues"] == "uzob_as_x"
    assert "rare_residues" not in recipes[2].to_json()


def test_models_without_a_choice_keep_rare_residues() -> None:
    esm = Path(__file__).resolve().parents[1] / "data" / "esm" / "fastesm2_tiny"
    assert resolve(str(esm), ModelOptions(rare_residues="kept")).recipe == resolve(str(esm)).recipe
    with pytest.raises(InputError, match="uzo_as_x"):
        resolve(str(esm), ModelOptions(rare_residues="uzo_as_x"))


# What needs no shared folder: tiny random checkpoints, made here.

SHAPES = {
    "prot_t5": T5Shape(32, 3, 4, 12, 96, 128, 32, 128, 1e-6, False),
    "prost_t5": T5Shape(24, 3, 5, 8, 64, 150, 32, 128, 1e-6, False),
    "ankh": T5Shape(32, 3, 4, 8, 48, 144, 64, 128, 1e-6, True),
}


def random_tensors(shape: T5Shape) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(11)
    tensors = {name: torch.randn(sizes, generator=generator) for name, sizes in shape.tensors().items()}
    for name, tensor in tensors.items():
        if name.endswith("norm.weight"):
            tensor.mul_(0.2).add_(1)
        elif not name.endswith("relative_attention_bias.weight"):
            tensor.mul_(tensor.shape[-1] ** -0.5)
    return tensors


def configuration(shape: T5Shape) -> dict[str, Any]:
    return {
        "model_type": "t5",
        "d_model": shape.hidden,
        "num_layers": shape.layers,
        "num_heads": shape.heads,
        "d_kv": shape.width,
        "d_ff": shape.intermediate,
        "vocab_size": shape.vocabulary,
        "relative_attention_num_buckets": shape.buckets,
        "relative_attention_max_distance": shape.max_distance,
        "layer_norm_epsilon": shape.norm_epsilon,
        "feed_forward_proj": "gated-gelu" if shape.gated else "relu",
    }


def write_checkpoint(folder: Path, shape: T5Shape, tensors: dict[str, Tensor] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(configuration(shape)))
    save_file(random_tensors(shape) if tensors is None else tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module", params=SHAPES)
def tiny(request: pytest.FixtureRequest) -> PackedEmbedder:
    return load(DATA / str(request.param))


PROTEINS = st.lists(st.text("ACDEFGHIKLMNPQRSTVWYXJB", min_size=1, max_size=60), min_size=1, max_size=8)


@settings(max_examples=25, deadline=None)
@given(PROTEINS, st.integers(1, 300), st.randoms(use_true_random=False))
def test_a_vector_does_not_depend_on_pack_order_or_budget(
    tiny: PackedEmbedder, proteins: list[str], budget: int, random: Any
) -> None:
    small = tiny.with_setting(Setting(pack_tokens=budget))
    order = list(range(len(proteins)))
    random.shuffle(order)
    packed = small.embed([proteins[place].encode() for place in order]).vectors
    for row, place in enumerate(order):
        alone = tiny.embed([proteins[place].encode()]).vectors[0]
        np.testing.assert_allclose(packed[row], alone, rtol=0, atol=MEAN_TOLERANCE)


def test_ankh_has_the_ids_of_its_tokenizer() -> None:
    """Ids as FastPLMs' tests state them for the published tokenizer."""
    tokenizer = ResidueTokenizer(None, "kept")
    assert tokenizer.content_ids(b"MKTAYIAKQRQISFVKSHF").tolist() == [
        *(19, 14, 11, 3, 18, 12, 3, 14, 16, 8, 16, 12, 7, 15, 6, 14, 7, 20, 15)
    ]
    assert tokenizer.content_ids(b"GSUZBOX").tolist() == [5, 7, 26, 27, 24, 25, 23]


def one_by_one(shape: T5Shape, tensors: dict[str, Tensor], ids: list[int]) -> Tensor:
    """(t, d): the encoder of one sequence in float64, written from the paper, with nothing of ours in it."""
    full = {name: tensor.double() for name, tensor in tensors.items()}
    places = torch.arange(len(ids))
    after = (places[None, :] - places[:, None]).tolist()  # key - query
    side, exact = shape.buckets // 2, shape.buckets // 4

    def bucket(distance: int) -> int:
        start, far = (side if distance > 0 else 0), abs(distance)
        if far < exact:
            return start + far
        share = np.log(far / exact) / np.log(shape.max_distance / exact)
        return start + min(side - 1, exact + int(share * (side - exact)))

    table = full["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    bias = table[torch.tensor([[bucket(each) for each in row] for row in after])].permute(2, 0, 1)  # (h, t, t)

    def normed(states: Tensor, name: str) -> Tensor:
        return states / (states.pow(2).mean(-1, keepdim=True) + shape.norm_epsilon).sqrt() * full[name]

    states = full["shared.weight"][ids]
    for number in range(shape.layers):
        layer = f"encoder.block.{number}.layer."
        inputs = normed(states, layer + "0.layer_norm.weight")
        query, key, value = (
            (inputs @ full[f"{layer}0.SelfAttention.{part}.weight"].T).view(len(ids), shape.heads, -1).transpose(0, 1)
            for part in "qkv"
        )
        mixed = (query @ key.transpose(1, 2) + bias).softmax(-1) @ value  # (h, t, e)
        states = states + mixed.transpose(0, 1).flatten(1) @ full[layer + "0.SelfAttention.o.weight"].T
        inputs = normed(states, layer + "1.layer_norm.weight")
        dense = layer + "1.DenseReluDense."
        if shape.gated:
            gate = inputs @ full[dense + "wi_0.weight"].T
            gate = 0.5 * gate * (1 + torch.tanh((2 / np.pi) ** 0.5 * (gate + 0.044715 * gate**3)))
            inner = gate * (inputs @ full[dense + "wi_1.weight"].T)
        else:
            inner = (inputs @ full[dense + "wi.weight"].T).clamp(min=0)
        states = states + inner @ full[dense + "wo.weight"].T
    return normed(states, "encoder.final_layer_norm.weight")


@pytest.mark.parametrize("name", SHAPES)
def test_states_equal_the_formulas(name: str) -> None:
    """The reference for Ankh, of which there are no published numbers that fit here."""
    shape = SHAPES[name]
    tensors = random_tensors(shape)
    encoder = T5Encoder.from_tensors(shape, tensors)
    lengths = [1, 2, 30, 31, 200, 300]
    ids = torch.randint(3, 28, (sum(lengths),), generator=torch.Generator().manual_seed(3))
    found = encoder.hidden_states(ids, lengths).split(lengths)
    for part, states in zip(ids.split(lengths), found, strict=True):
        expected = one_by_one(shape, tensors, part.tolist())
        torch.testing.assert_close(states.double(), expected, rtol=0, atol=HIDDEN_TOLERANCE)


@pytest.mark.parametrize("name", SHAPES)
def test_states_equal_transformers(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    shape = SHAPES[name]
    sizes = {entry: value for entry, value in configuration(shape).items() if entry != "model_type"}
    torch.manual_seed(7)
    model = transformers.T5EncoderModel(transformers.T5Config(**sizes)).eval()
    model.load_state_dict(random_tensors(shape), strict=False)
    model.save_pretrained(tmp_path)  # as the installed release names tensors and entries
    encoder = read_encoder(find_checkpoint(tmp_path))
    lengths = [1, 7, 90, 90, 211]
    ids = torch.randint(3, 28, (sum(lengths),), generator=torch.Generator().manual_seed(3))
    found = encoder.hidden_states(ids, lengths).split(lengths)
    for part, states in zip(ids.split(lengths), found, strict=True):
        with torch.inference_mode():
            theirs = model(input_ids=part[None], attention_mask=torch.ones_like(part)[None]).last_hidden_state[0]
        torch.testing.assert_close(states, theirs, rtol=0, atol=HIDDEN_TOLERANCE)


def test_a_directory_fills_a_space(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny", SHAPES["prost_t5"])
    fasta = tmp_path / "proteins.faa"
    fasta.write_text(">a\nMKTAYIAKQRB\n>b\nGSUZBOX\n")
    store = str(tmp_path / "store")
    assert main(["fill", str(fasta), "--model", str(folder), "--store", store, "--quiet"]) == 0
    script = ["--rare-residues", "uzo_as_x", "--name", "script"]
    assert main(["fill", str(fasta), "--model", str(folder), "--store", store, "--quiet", *script]) == 0
    opened = open_store(store)
    keys = [sequence_key(each, "protein") for each in ("MKTAYIAKQRB", "GSUZBOX")]
    spaces = [opened.space(name) for name in ("tiny", "script")]
    assert [space.recipe.rare_residues for space in spaces] == ["uzob_as_x", "uzo_as_x"]
    found = [space.read(keys) for space in spaces]
    assert (found[0] != found[1]).any(axis=1).all()  # both have a B
    expected = load(folder, ModelOptions()).embed([b"MKTAYIAKQRX", b"GSXXXXX"]).vectors
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=2e-3)


# What is refused.


@pytest.mark.parametrize("name", SHAPES)
def test_each_tensor_must_be_there_and_none_more(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    tensors = random_tensors(shape)
    extra = {"decoder.final_layer_norm.weight": torch.ones(3), "lm_head.weight": torch.ones(3)}
    read_encoder(find_checkpoint(write_checkpoint(tmp_path, shape, tensors | extra)))
    for missing in tensors:
        rest = {each: tensor for each, tensor in tensors.items() if each != missing}
        with pytest.raises(WeightsError, match=f"{missing} is missing"):
            read_encoder(find_checkpoint(write_checkpoint(tmp_path, shape, rest)))
    for more in ("encoder.block.3.layer.0.layer_norm.weight", "classifier.weight", "encoder.adapter"):
        with pytest.raises(WeightsError, match=f"{more} is unexpected"):
            read_encoder(find_checkpoint(write_checkpoint(tmp_path, shape, tensors | {more: torch.ones(3)})))


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("feed_forward_proj", "gated-silu"),
        ("feed_forward_proj", ["relu"]),
        ("vocab_size", 32_128),
        ("layer_norm_epsilon", "small"),
        ("relative_attention_num_buckets", 30),
        ("relative_attention_max_distance", 8),
        ("num_heads", 0),
        ("d_kv", None),
        ("d_ff", 97),
    ],
)
def test_another_architecture_in_the_configuration_is_refused(entry: str, value: object, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, SHAPES["prot_t5"])
    (folder / "config.json").write_text(json.dumps(configuration(SHAPES["prot_t5"]) | {entry: value}))
    with pytest.raises(WeightsError):
        read_encoder(find_checkpoint(folder))


def test_a_relative_under_the_name_of_another_is_refused(tmp_path: Path) -> None:
    """ProstT5 is as large as ProtT5, so that sizes alone do not tell them apart."""
    shape = T5Shape(1024, 24, 1, 8, 8, 150, 32, 128, 1e-6, False)
    folder = write_checkpoint(tmp_path / "prost", shape, {"shared.weight": torch.ones(1)})
    with pytest.raises(WeightsError, match="expected the architecture prot_t5, found prost_t5"):
        resolve("prot_t5_xl_half", ModelOptions(weights=folder))


def test_a_family_in_the_clothes_of_another_is_refused(tmp_path: Path) -> None:
    gated = replace(SHAPES["prot_t5"], gated=True)
    folder = write_checkpoint(tmp_path, SHAPES["prot_t5"], random_tensors(gated))
    with pytest.raises(WeightsError, match=r"wi_0\.weight is unexpected"):
        read_encoder(find_checkpoint(folder))


# Float16.


@pytest.mark.parametrize("name", SHAPES)
def test_what_overflows_in_float16_is_computed_again(name: str, tmp_path: Path) -> None:
    """A feed-forward product beyond float16, as ProtT5 has: infinite at first, and right in the end."""
    shape = SHAPES[name]
    tensors = random_tensors(shape)
    tensors["encoder.block.1.layer.1.DenseReluDense.wo.weight"] *= 1e5
    embedder = load(write_checkpoint(tmp_path, shape, tensors), ModelOptions())
    full = read_encoder(find_checkpoint(tmp_path))
    asked: list[int] = []

    def in_full() -> T5Encoder:
        asked.append(1)
        return full

    half = embedder.with_encoder(full.to(torch.device("cpu"), torch.float16), in_full)
    proteins = [canonical(each, "protein") for each in ("MKTAYIAKQR", "GG", "LLKRWDE" * 9)]
    found, expected = half.embed(proteins), embedder.embed(proteins)
    assert asked == [1]
    assert not found.failures
    np.testing.assert_allclose(found.vectors, expected.vectors, rtol=0, atol=MEAN_TOLERANCE)
    assert half.with_encoder(half.encoder).embed(proteins).failures.keys() == {0, 1, 2}
