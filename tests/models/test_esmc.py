"""ESM-C from each layout to vectors, against the reference implementation's numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from embedstore.errors import WeightsError
from embedstore.identity import canonical, sequence_key
from embedstore.library import Store
from embedstore.models import ModelOptions, resolve
from embedstore.models.checkpoint import find_checkpoint
from embedstore.models.esm import ProteinTokenizer
from embedstore.models.esmc import VOCABULARY, EsmcEncoder, EsmcShape, read_encoder
from embedstore.models.machine import Setting
from embedstore.models.packed import PackedEmbedder
from embedstore_cli.main import main

pytestmark = pytest.mark.usefixtures("one_thread")

DATA = Path(__file__).resolve().parents[1] / "data" / "esmc"
HUGGING_FACE = DATA / "hf_esmc_tiny"
PTH = Path("data", "weights", "esmc_tiny_2024_12_v0.pth")
LAYOUTS = ("hugging face", "hugging face, encoder alone", "pth", "transformer engine")
HIDDEN_TOLERANCE = 5e-5
MEAN_TOLERANCE = 1e-5
FULL = ModelOptions(precision="full")
Expected = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def expected() -> Expected:
    with np.load(DATA / "expected.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same weights in each layout, with the configuration beside them."""
    folder = tmp_path_factory.mktemp("layouts")
    found = {name: folder / name.replace(" ", "_") for name in LAYOUTS}
    shutil.copytree(HUGGING_FACE, found["hugging face"])
    shutil.copytree(HUGGING_FACE, found["hugging face, encoder alone"])
    change(found["hugging face, encoder alone"], encoder_alone)
    shutil.copytree(DATA / "original_pth", found["pth"])
    shutil.copy(HUGGING_FACE / "config.json", found["pth"] / PTH.parent)
    shutil.copytree(DATA / "transformer_engine_keys", found["transformer engine"])
    shutil.copy(HUGGING_FACE / "config.json", found["transformer engine"])
    change(found["transformer engine"], with_extra_state)
    return found


def change(folder: Path, edit: Callable[[dict[str, Tensor]], None]) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)


def encoder_alone(tensors: dict[str, Tensor]) -> None:
    """As `EsmcModel` saves it: no heads, no prefix."""
    for name in list(tensors):
        tensor = tensors.pop(name)
        if name.startswith("esmc."):
            tensors[name.removeprefix("esmc.")] = tensor


def with_extra_state(tensors: dict[str, Tensor]) -> None:
    """What Transformer Engine writes beside the weights of its modules."""
    for module in ("attn.layernorm_qkv", "attn.out_proj", "ffn"):
        tensors[f"esmc.transformer.blocks.0.{module}._extra_state"] = torch.zeros(9, dtype=torch.uint8)


def configure(folder: Path, **entries: object) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(HUGGING_FACE, tmp_path / "checkpoint"))


@pytest.fixture
def pth(tmp_path: Path) -> Path:
    """The `.pth`, with nothing beside it."""
    return Path(shutil.copytree(DATA / "original_pth", tmp_path / "original")) / PTH


def sequences(expected: Expected) -> list[bytes]:
    return [sequence.upper() for sequence in expected["sequences"].tolist()]


def load(path: Path, options: ModelOptions = FULL) -> PackedEmbedder:
    embedder = resolve(str(path), options).load("cpu")
    assert isinstance(embedder, PackedEmbedder)
    return embedder


def hidden_states(encoder: EsmcEncoder, expected: Expected) -> Tensor:
    ids = torch.from_numpy(expected["ids_concat"].astype(np.int64))
    return encoder.hidden_states(ids, np.diff(expected["cu_seqlens"]).tolist())


def test_tokens_are_those_of_the_reference(expected: Expected) -> None:
    tokenizer = ProteinTokenizer(VOCABULARY)
    ids = [[tokenizer.first_id, *tokenizer.content_ids(each), tokenizer.last_id] for each in sequences(expected)]
    np.testing.assert_array_equal(np.concatenate(ids), expected["ids_concat"])
    assert tokenizer.content_ids(b"|JJ").tolist() == [31, 3, 3]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hidden_states_equal_the_reference(layout: str, layouts: dict[str, Path], expected: Expected) -> None:
    states = hidden_states(read_encoder(find_checkpoint(layouts[layout])), expected)
    np.testing.assert_allclose(states, expected["last_hidden_state"], rtol=0, atol=HIDDEN_TOLERANCE)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_means_equal_the_reference_packed_and_alone(layout: str, layouts: dict[str, Path], expected: Expected) -> None:
    embedder = load(layouts[layout])
    packed = embedder.embed(sequences(expected))
    alone = [embedder.embed([sequence]).vectors[0] for sequence in sequences(expected)]
    assert not packed.failures
    np.testing.assert_allclose(packed.vectors, expected["pooled_mean"], rtol=0, atol=MEAN_TOLERANCE)
    np.testing.assert_allclose(alone, expected["pooled_mean"], rtol=0, atol=MEAN_TOLERANCE)


def test_all_layouts_give_the_same_vectors_under_recipes_of_their_own(
    layouts: dict[str, Path], expected: Expected
) -> None:
    embedders = [load(folder) for folder in layouts.values()]
    vectors = [embedder.embed(sequences(expected)).vectors for embedder in embedders]
    assert all(np.array_equal(each, vectors[0]) for each in vectors)
    assert {embedder.recipe.implementation for embedder in embedders} == {"esmc/1"}
    assert len({embedder.recipe.weights_sha256 for embedder in embedders}) == len(LAYOUTS)


def test_special_tokens_are_pooled_when_the_recipe_says_so(expected: Expected) -> None:
    embedder = load(HUGGING_FACE, ModelOptions(precision="full", pooling="mean_all"))
    vectors = embedder.embed(sequences(expected)).vectors
    np.testing.assert_allclose(vectors, expected["pooled_mean_with_cls_eos"], rtol=0, atol=MEAN_TOLERANCE)


def test_half_precision_is_near_the_reference(expected: Expected) -> None:
    embedder = load(HUGGING_FACE, ModelOptions())
    assert (embedder.recipe.dtype, embedder.recipe.max_length_tokens) == ("float16", 2048)
    stored = embedder.embed(sequences(expected)).vectors.astype(np.float16)
    assert np.abs(stored - expected["pooled_mean"]).max() < 2e-3 * np.abs(expected["pooled_mean"]).max()


def test_float16_arithmetic_is_near_the_reference(expected: Expected) -> None:
    encoder = read_encoder(find_checkpoint(HUGGING_FACE)).to(torch.device("cpu"), torch.float16)
    embedder = load(HUGGING_FACE, ModelOptions()).with_encoder(encoder)
    difference = np.abs(embedder.embed(sequences(expected)).vectors - expected["pooled_mean"])
    assert 1e-4 < difference.max() < 2e-3 * np.abs(expected["pooled_mean"]).max()


PROTEINS = st.lists(st.text("ACDEFGHIKLMNPQRSTVWYXJ", min_size=1, max_size=60), min_size=1, max_size=8)
EMBEDDER, ENCODER = load(HUGGING_FACE), read_encoder(find_checkpoint(HUGGING_FACE))


@settings(max_examples=25, deadline=None)
@given(PROTEINS, st.integers(1, 300), st.randoms(use_true_random=False))
def test_a_vector_does_not_depend_on_pack_order_or_budget(proteins: list[str], budget: int, random: Any) -> None:
    small = PackedEmbedder(EMBEDDER.recipe, ProteinTokenizer(VOCABULARY), ENCODER, setting=Setting(pack_tokens=budget))
    order = list(range(len(proteins)))
    random.shuffle(order)
    packed = small.embed([proteins[place].encode() for place in order]).vectors
    for row, place in enumerate(order):
        alone = EMBEDDER.embed([proteins[place].encode()]).vectors[0]
        np.testing.assert_allclose(packed[row], alone, rtol=0, atol=MEAN_TOLERANCE)


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 64, "num_hidden_layers": 5, "num_attention_heads": 2, "intermediate_size": 256},
        pytest.param(
            {"hidden_size": 960, "num_hidden_layers": 30, "num_attention_heads": 15, "intermediate_size": 2560},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["small", "300M"],
)
def test_means_equal_transformers(sizes: dict[str, int], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", minversion="5.23")
    torch.manual_seed(11)
    model = transformers.EsmcModel(transformers.EsmcConfig(**sizes)).eval()
    model.save_pretrained(tmp_path)
    rng = np.random.default_rng(4)
    proteins = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWYXBZUO"), size)) for size in (1, 7, 90, 90, 211)]
    ours = load(tmp_path).embed([protein.encode() for protein in proteins]).vectors
    for row, protein in enumerate(proteins):
        ids = torch.tensor([[0, *(VOCABULARY.index(residue) for residue in protein), 2]])
        with torch.inference_mode():
            theirs = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0, 1:-1].mean(0)
        np.testing.assert_allclose(ours[row], theirs, rtol=0, atol=MEAN_TOLERANCE)


# Which checkpoints are taken, and which are refused.


def too_narrow(tensors: dict[str, Tensor]) -> None:
    """Gate and value of a layer as one matrix that has rows for less than both."""
    for part in ("gate", "up"):
        del tensors[f"esmc.layers.0.mlp.{part}_proj.weight"]
    tensors["esmc.transformer.blocks.0.ffn.fc1_weight"] = torch.zeros(500, 48)


BAD_TENSORS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "one is missing": (lambda t: t.pop("esmc.layers.1.self_attn.k_norm.weight"), r"layers\.1\.\S*k_norm\S* is missing"),
    "a layer too many": (
        lambda t: t.update({"esmc.layers.3.mlp.up_proj.weight": torch.zeros(256, 48)}),
        r"layers\.3\.mlp\.up_proj\.weight is unexpected",
    ),
    "a bias": (
        lambda t: t.update({"esmc.layers.0.self_attn.q_proj.bias": torch.zeros(48)}),
        r"q_proj\.bias is unexpected",
    ),
    "frequencies": (
        lambda t: t.update({"esmc.rotary_emb.inv_freq": torch.ones(6)}),
        r"rotary_emb\.inv_freq is unexpected",
    ),
    "two layouts": (
        lambda t: t.update({"esmc.transformer.norm.weight": torch.ones(48)}),
        r"is there twice",
    ),
    "another shape": (
        lambda t: t.update({"esmc.embed_tokens.weight": torch.zeros(33, 48)}),
        r"expected shape \(64, 48\), found \(33, 48\)",
    ),
    "fused, but too narrow": (
        too_narrow,
        r"fc1_weight: expected shape \(256, 48\), found \(500, 48\)",
    ),
}


@pytest.mark.parametrize("fault", BAD_TENSORS)
def test_other_tensors_than_the_expected_are_refused(fault: str, folder: Path) -> None:
    edit, message = BAD_TENSORS[fault]
    change(folder, lambda tensors: (edit(tensors), None)[1])
    with pytest.raises(WeightsError, match=message):
        read_encoder(find_checkpoint(folder))


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("num_key_value_heads", 2),
        ("head_dim", 24),
        ("vocab_size", 33),
        ("rope_parameters", {"rope_theta": 500_000.0, "rope_type": "default"}),
        ("rope_parameters", {"rope_theta": 10_000.0, "rope_type": "linear", "factor": 2.0}),
        ("rope_parameters", "none"),
        ("num_attention_heads", 5),
        ("intermediate_size", "many"),
    ],
)
def test_another_architecture_in_the_configuration_is_refused(entry: str, value: object, folder: Path) -> None:
    configure(folder, **{entry: value})
    with pytest.raises(WeightsError, match=entry if entry != "num_attention_heads" else "5 heads"):
        read_encoder(find_checkpoint(folder))


def test_weights_of_esm2_under_the_configuration_of_esmc_are_refused(folder: Path) -> None:
    shutil.copy(DATA.parent / "esm" / "esm2_hf_tiny" / "model.safetensors", folder)
    with pytest.raises(WeightsError, match=r"as esmc: .*word_embeddings\.weight is unexpected"):
        read_encoder(find_checkpoint(folder))


def test_weights_of_esmc_under_the_configuration_of_esm2_are_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DATA.parent / "esm" / "esm2_hf_tiny", tmp_path / "esm2"))
    shutil.copy(HUGGING_FACE / "model.safetensors", folder)
    with pytest.raises(WeightsError, match=r"as esm2: .*is unexpected"):
        resolve(str(folder)).load("cpu")


def test_a_named_model_refuses_another_family_of_its_size(folder: Path) -> None:
    configure(folder, hidden_size=1280, num_hidden_layers=33)
    with pytest.raises(WeightsError, match="expected the architecture esm2, found esmc"):
        resolve("esm2_t33_650m", ModelOptions(weights=folder))
    with pytest.raises(WeightsError, match="expected the architecture esm1b, found esmc"):
        resolve("esm1b_t33_650m", ModelOptions(weights=folder))


# The .pth of 2024.


@pytest.mark.parametrize("place", [PTH.parent, Path()], ids=["beside the file", "in the folder of data/weights"])
def test_a_pth_takes_the_sizes_of_the_configuration_beside_it(place: Path, pth: Path) -> None:
    root = pth.parents[2]
    shutil.copy(HUGGING_FACE / "config.json", root / place)
    for path in (root, pth.parent, pth):
        checkpoint = find_checkpoint(path)
        assert (checkpoint.architecture, checkpoint.dim, checkpoint.layers) == ("esmc", 48, 3)
        assert checkpoint.size("num_attention_heads") == 4
    assert resolve(str(pth)).name == "esmc_tiny_2024_12_v0"
    assert resolve(str(root)).recipe == resolve(str(pth)).recipe


def test_a_pth_of_published_size_needs_no_configuration(tmp_path: Path) -> None:
    """Sizes are read without torch from the pickle; the empty configuration is what the published folder has."""
    shape = EsmcShape(960, 30, 15, 2560)
    file = tmp_path / PTH
    file.parent.mkdir(parents=True)
    torch.save(published_names(shape), file)
    (tmp_path / "config.json").write_text("{\n}")
    checkpoint = find_checkpoint(tmp_path)
    assert (checkpoint.layers, checkpoint.dim) == (30, 960)
    assert (checkpoint.size("num_attention_heads"), checkpoint.size("intermediate_size")) == (15, 2560)
    assert resolve("esmc_300m", ModelOptions(weights=tmp_path)).recipe.model == "esmc_300m"
    with pytest.raises(WeightsError, match="vectors of length 1152, found 960"):
        resolve("esmc_600m", ModelOptions(weights=tmp_path))
    with pytest.raises(WeightsError, match=r"storage has|larger than the files"):  # all of it is one number
        read_encoder(checkpoint)


def published_names(shape: EsmcShape) -> dict[str, Tensor]:
    """Tensors of that size as the `.pth` names them, which take no room."""
    number = torch.zeros(1)
    tensors = {"embed.weight": number.expand(64, shape.hidden)}
    for layer in range(shape.layers):
        tensors[f"transformer.blocks.{layer}.ffn.1.weight"] = number.expand(2 * shape.intermediate, shape.hidden)
        tensors[f"transformer.blocks.{layer}.ffn.3.weight"] = number.expand(shape.hidden, shape.intermediate)
    return tensors


def test_a_pth_of_another_size_says_that_the_heads_are_missing(pth: Path) -> None:
    with pytest.raises(WeightsError, match=r"how many heads .*3 layers of 48 values.*config\.json beside it"):
        find_checkpoint(pth)


def test_a_pth_of_something_else_is_refused(pth: Path, tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(3, 3)}, pth)
    with pytest.raises(WeightsError, match=r"tensors of an ESM-C of 2024 .*found conv\.weight"):
        find_checkpoint(pth)
    shutil.copy(DATA.parent / "esm" / "esm2_hf_tiny" / "config.json", pth.parent)
    with pytest.raises(WeightsError, match=r"model_type of esmc in config\.json beside it, found 'esm'"):
        find_checkpoint(pth)
    (tmp_path / "x.pth").write_bytes(b"no zip")
    with pytest.raises(WeightsError, match="zip"):
        find_checkpoint(tmp_path / "x.pth")


def test_several_pth_files_have_to_be_told_apart(pth: Path) -> None:
    shutil.copy(pth, pth.with_name("another.pth"))
    with pytest.raises(WeightsError, match=r"expected one \.pth file, found another\.pth, esmc_tiny"):
        find_checkpoint(pth.parents[2])


def test_the_configuration_beside_a_pth_must_fit_its_tensors(pth: Path) -> None:
    shutil.copy(HUGGING_FACE / "config.json", pth.parent)
    configure(pth.parent, num_hidden_layers=2)
    with pytest.raises(WeightsError, match=r"blocks\.2\.\S+ is unexpected"):
        read_encoder(find_checkpoint(pth))


class WritesAFile:
    """What a pickle with code in it looks like: opening `path` for writing when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, (str(self.path), "w"))


def test_a_pth_with_code_is_refused_and_not_executed(pth: Path, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    torch.save({"embed.weight": WritesAFile(trace)}, pth)
    with pytest.raises(WeightsError, match="tensors of an ESM-C"):
        find_checkpoint(pth)
    shutil.copy(HUGGING_FACE / "config.json", pth.parent)
    with pytest.raises(WeightsError, match="Nothing in it was executed"):
        read_encoder(find_checkpoint(pth))
    assert not trace.exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_fill_stores_the_reference_means(
    layout: str, layouts: dict[str, Path], expected: Expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDSTORE_PATH", str(tmp_path / "store"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    chosen = [row for row, sequence in enumerate(sequences(expected)) if sequence.isalpha()]
    proteins = [expected["sequences"][row].decode() for row in chosen]
    fasta = tmp_path / "proteins.faa"
    fasta.write_text("".join(f">p{row}\n{protein}\n" for row, protein in zip(chosen, proteins, strict=True)))
    assert main(["fill", str(fasta), "--model", str(layouts[layout]), "--name", "tiny", "--quiet"]) == 0
    keys = b"".join(sequence_key(canonical(protein, "protein")) for protein in proteins)
    stored = Store.open(tmp_path / "store").space("tiny").read(np.frombuffer(keys, np.uint8).reshape(-1, 24))
    means = expected["pooled_mean"][chosen]
    np.testing.assert_allclose(stored, means, rtol=0, atol=2e-3 * np.abs(means).max())
