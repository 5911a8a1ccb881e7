"""Layers and poolings: every layer of the reference, one pass for several, windows, names and recipes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from embedstore.errors import InputError
from embedstore.models import resolve
from embedstore.models.batching import windows
from embedstore.models.checkpoint import find_checkpoint
from embedstore.models.esm import ProteinTokenizer, read_encoder
from embedstore.models.machine import Setting
from embedstore.models.packed import PackedEmbedder
from embedstore.models.registry import POOLINGS, Pooling
from embedstore.models.resolution import ModelOptions, is_recipe_of

TINY = Path(__file__).resolve().parents[1] / "data" / "esm" / "fastesm2_tiny"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "fixtures" / "esm2_layers"
ESMC = SHARED.with_name("esmc")
PROTEINS = [b"MKTAYIAKQRQISFVKSHFSRQ", b"M", b"ACDEFGHIKLMNPQRSTVWYXBZUO", b"GG" * 40]


def load(folder: Path, **options: object) -> PackedEmbedder:
    return resolve(str(folder), ModelOptions(precision="full", **options)).load("cpu")  # type: ignore[arg-type, return-value]


def every_level(embedder: PackedEmbedder, layers: int) -> PackedEmbedder:
    names = [*map(str, range(layers)), "last"]
    recipes = [replace(embedder.recipe, layer=layer, pooling=pooling) for layer in names for pooling in POOLINGS]
    return embedder.for_recipes(recipes)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/fixtures/esm2_layers")
@pytest.mark.parametrize("pack_tokens", [40, 5000])
def test_every_layer_and_pooling_equals_the_reference(pack_tokens: int) -> None:
    expected = np.load(SHARED / "expected.npz")
    known: dict[Pooling, NDArray[np.float32]] = {
        "mean": expected["mean"],
        "mean_all": expected["mean_with_cls_eos"],
        "max": expected["max"],
        "std": expected["std_population"],
        "cls": expected["cls"],
    }
    embedder = load(SHARED / "esm2_hf_tiny", max_length=5000)
    sequences = [str(sequence).upper().encode() for sequence in expected["sequences"]]
    lengths = np.array([len(sequence) for sequence in sequences])[:, None, None]
    known["sum"] = expected["mean"] * lengths
    found = every_level(embedder, 4).with_setting(Setting(pack_tokens)).embed_all(sequences)
    for place, recipe in enumerate(every_level(embedder, 4).recipes):
        layer = 4 if recipe.layer == "last" else int(recipe.layer)
        wanted = known[recipe.pooling][:, layer]  # type: ignore[index]
        scale = np.maximum(1, lengths[:, 0]) if recipe.pooling == "sum" else 1
        np.testing.assert_allclose(
            found[place].vectors / scale, wanted / scale, rtol=0, atol=2e-5, err_msg=f"{recipe.layer} {recipe.pooling}"
        )


@pytest.mark.skipif(not ESMC.is_dir(), reason="needs ../shared/fixtures/esmc")
def test_every_layer_of_esmc_equals_the_reference() -> None:
    expected = np.load(ESMC / "expected.npz")
    embedder = load(ESMC / "hf_esmc_tiny", max_length=5000)
    recipes = [replace(embedder.recipe, layer=layer) for layer in ("0", "1", "2")]
    sequences = [str(sequence).upper().encode() for sequence in expected["sequences"]]
    for place, embedded in enumerate(embedder.for_recipes(recipes).embed_all(sequences)):
        np.testing.assert_allclose(embedded.vectors, expected["pooled_mean_per_block"][:, place], rtol=0, atol=1e-5)


def test_a_vector_does_not_depend_on_what_else_is_asked_for() -> None:
    embedder = load(TINY)
    together = every_level(embedder, 3).embed_all(PROTEINS)
    for place, recipe in enumerate(every_level(embedder, 3).recipes):
        alone = embedder.for_recipes([recipe])
        assert alone.recipe == recipe
        scale = 100 if recipe.pooling == "sum" else 1
        for number, protein in enumerate(PROTEINS):
            vector = alone.embed([protein]).vectors[0]
            np.testing.assert_allclose(together[place].vectors[number], vector, rtol=0, atol=1e-5 * scale)


def test_windows_are_pooled_as_one_sequence() -> None:
    """The same by plain formulas over the states of all windows, a residue counting once however many have it."""
    encoder = read_encoder(find_checkpoint(TINY))
    embedder = load(TINY, max_length=30)
    protein = bytes(np.random.default_rng(0).choice(list(b"ACDEFGHIKLMNPQRSTVWY"), 50).tolist())
    content = ProteinTokenizer().content_ids(protein)
    cut = windows(50, 30, 15)
    assert len(cut) == 3
    states = []
    for window in cut:
        ids = torch.tensor([0, *content[window.start : window.stop], 2])
        states.append(np.asarray(encoder.hidden_states(ids, [len(ids)]), np.float64))
    rows, weights = np.concatenate([each[1:-1] for each in states]), np.concatenate([each.weights for each in cut])
    total = (rows * weights[:, None]).sum(axis=0)
    specials = np.mean([each[0] + each[-1] for each in states], axis=0)
    expected = {
        "mean": total / 50,
        "sum": total,
        "mean_all": (total + specials) / 52,
        "max": rows.max(axis=0),
        "std": np.sqrt((weights[:, None] * (rows - total / 50) ** 2).sum(axis=0) / 50),
        "cls": np.mean([each[0] for each in states], axis=0),
    }
    found = embedder.for_recipes([replace(embedder.recipe, pooling=pooling) for pooling in POOLINGS])
    for recipe, embedded in zip(found.recipes, found.embed_all([protein]), strict=True):
        tolerance = 1e-5 * (50 if recipe.pooling == "sum" else 1)
        np.testing.assert_allclose(embedded.vectors[0], expected[recipe.pooling], rtol=0, atol=tolerance)


def test_states_that_overflow_are_computed_again_for_all_levels() -> None:
    embedder = load(TINY)
    half = resolve(str(TINY)).recipe
    encoder = read_encoder(find_checkpoint(TINY))

    class Overflowing:
        device, dtype = encoder.device, torch.float16

        def hidden_states(self, token_ids, lengths, see=None, depth=None):  # type: ignore[no-untyped-def]
            def broken(number: int, states: torch.Tensor) -> None:
                changed = states.clone()
                changed[:, 3] = -torch.inf
                see(number, changed)

            return encoder.hidden_states(token_ids, lengths, broken, depth)

    recipes = [replace(half, layer="1", pooling=pooling) for pooling in ("max", "std", "mean")]
    retried = PackedEmbedder(
        recipes[0], ProteinTokenizer(), Overflowing(), others=recipes[1:], full_encoder=lambda: encoder
    )
    expected = embedder.for_recipes([replace(embedder.recipe, layer="1", pooling=each.pooling) for each in recipes])
    for one, other in zip(retried.embed_all(PROTEINS), expected.embed_all(PROTEINS), strict=True):
        assert not one.failures
        np.testing.assert_allclose(one.vectors, other.vectors, rtol=0, atol=1e-5)


def test_layers_are_counted_as_hugging_face_does() -> None:
    default = resolve(str(TINY))
    for last in (-1, 3):
        assert resolve(str(TINY), ModelOptions(layer=last)).recipe == default.recipe
    assert resolve(str(TINY), ModelOptions(layer=-4)).recipe == resolve(str(TINY), ModelOptions(layer=0)).recipe
    assert resolve(str(TINY), ModelOptions(layer=2)).recipe.layer == "2"
    for wrong in (4, -5):
        with pytest.raises(InputError, match=r"expected 0 .the embedding. to 3"):
            resolve(str(TINY), ModelOptions(layer=wrong))


def test_each_level_has_its_own_space_and_name() -> None:
    one = resolve(str(TINY), ModelOptions(layer=1, pooling="max"))
    assert one.name == "fastesm2_tiny-layer1-max"
    assert resolve(str(TINY), ModelOptions(pooling="cls")).recipe.pooled_special_tokens == ("<cls>",)
    with pytest.raises(InputError, match="built in"):
        resolve("tnf", ModelOptions(layer=1))
    with pytest.raises(InputError, match="layer and pooling"):
        load(TINY).for_recipes([replace(one.recipe, precision="half")])


def test_the_name_of_a_level_is_only_for_that_level() -> None:
    recipe = resolve(str(TINY), ModelOptions(layer=1, pooling="max")).recipe
    published = replace(recipe, model="esm2_t6_8m")
    assert is_recipe_of("somebody's-layer1-max", recipe)
    assert not is_recipe_of("esm2_t6_8m-layer1-max", published)  # of other weights
    assert not is_recipe_of("esm2_t6_8m-layer2-max", published)
