"""From names and directories to recipes: what counts, what is refused, and that torch is not needed for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from embedstore.errors import InputError, UnknownModelError, WeightsError, WeightsNotFoundError
from embedstore.models import MODELS, ModelOptions, resolve
from embedstore.models.files import digests_file, file_sha256, files_sha256

DATA = Path(__file__).resolve().parents[1] / "data" / "esm"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def copy(tmp_path: Path, name: str = "fastesm2_tiny") -> Path:
    return Path(shutil.copytree(DATA / name, tmp_path / name))


def configured_as(folder: Path, **sizes: int) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | sizes))
    return folder


def test_resolving_imports_no_torch() -> None:
    program = (
        "import sys, embedstore.models as m\n"
        f"m.resolve({str(DATA / 'fastesm2_tiny')!r}); m.resolve({str(DATA / 'fair_esm_tiny')!r})\n"
        f"m.resolve({str(DATA.parent / 'esmc' / 'hf_esmc_tiny')!r})\n"
        "m.resolve('tnf').load(None)\n"
        "assert not {'torch', 'transformers', 'huggingface_hub', 'tokenizers', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_recipe_of_a_directory_depends_on_its_weights_not_on_its_place(tmp_path: Path) -> None:
    here, there = resolve(str(DATA / "fastesm2_tiny")), resolve(str(copy(tmp_path)))
    assert here.name == there.name == "fastesm2_tiny"
    assert here.recipe == there.recipe
    assert (here.recipe.model, here.recipe.source, here.recipe.revision) == ("fastesm2", "local", None)
    assert here.recipe.weights_sha256 == file_sha256(DATA / "fastesm2_tiny" / "model.safetensors")
    assert (here.recipe.max_length_tokens, here.recipe.window_overlap_tokens) == (2048, 256)
    assert resolve(str(DATA / "esm2_hf_tiny")).recipe.max_length_tokens == 1022


def test_options_are_in_the_recipe() -> None:
    recipe = resolve(str(DATA / "esm2_hf_tiny"), ModelOptions(precision="full", max_length=100)).recipe
    assert (recipe.dtype, recipe.max_length_tokens, recipe.window_overlap_tokens) == ("float32", 100, 50)
    recipe = resolve(str(DATA / "esm2_hf_tiny"), ModelOptions(long="truncate")).recipe
    assert (recipe.dtype, recipe.long, recipe.window_overlap_tokens) == ("float16", "truncate", None)
    unlimited = resolve(str(DATA / "esm2_hf_tiny"), ModelOptions(long="none")).recipe
    assert unlimited.max_length_tokens is None
    with pytest.raises(InputError, match="at least 1"):
        resolve(str(DATA / "esm2_hf_tiny"), ModelOptions(max_length=0))


def test_fair_esm_file_may_be_named_itself(tmp_path: Path) -> None:
    folder = copy(tmp_path, "fair_esm_tiny")
    file = folder / "esm2_t3_tiny_UR50D.pt"
    assert resolve(str(file)).recipe == resolve(str(folder)).recipe
    assert resolve(str(file)).name == "esm2_t3_tiny_UR50D"
    shutil.copy(file, folder / "another.pt")
    with pytest.raises(WeightsError, match=r"another\.pt, esm2_t3_tiny_UR50D\.pt"):
        resolve(str(folder))


def test_unknown_name_is_refused_with_near_misses() -> None:
    with pytest.raises(UnknownModelError, match=r"Did you mean esm2_t33_650m.*Known models: tnf, aac_dpc"):
        resolve("esm2_650m")


def test_weights_of_another_width_or_depth_are_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="vectors of length 1280, found 64"):
        resolve("fastesm2_650", ModelOptions(weights=DATA / "fastesm2_tiny"))
    wide = configured_as(copy(tmp_path), hidden_size=1280)
    with pytest.raises(WeightsError, match="layers: 33, found 3"):
        resolve("fastesm2_650", ModelOptions(weights=wide))


def test_named_model_without_a_known_digest_takes_weights_of_its_size(tmp_path: Path) -> None:
    folder = configured_as(copy(tmp_path), hidden_size=1280, num_hidden_layers=33)
    model = resolve("fastesm2_650", ModelOptions(weights=folder))
    assert model.name == model.recipe.model == "fastesm2_650"
    assert (model.recipe.source, model.recipe.revision) == ("Synthyra/FastESM2_650", None)
    assert model.recipe.weights_sha256 == file_sha256(folder / "model.safetensors")


def test_other_weights_than_the_published_are_refused_with_both_digests(tmp_path: Path) -> None:
    folder = configured_as(copy(tmp_path, "esm2_hf_tiny"), hidden_size=320, num_hidden_layers=6)
    found = file_sha256(folder / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"{MODELS['esm2_t6_8m'].weights_sha256}.*{found}"):
        resolve("esm2_t6_8m", ModelOptions(weights=folder))


def test_named_dna_model_refuses_all_weights_but_the_pinned_in_any_container(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DATA.parent / "dnabert_s", tmp_path / "dnabert"))
    configured_as(folder, hidden_size=768, num_hidden_layers=12)
    found = file_sha256(folder / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"{MODELS['dnabert_s'].weights_sha256}.*{found}"):
        resolve("dnabert_s", ModelOptions(weights=folder))


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    folder = configured_as(copy(tmp_path), hidden_size=768, num_hidden_layers=12)
    with pytest.raises(WeightsError, match="architecture dnabert, found fastesm2"):
        resolve("dnabert_s", ModelOptions(weights=folder))


def test_directory_without_weights_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"config\.json"):
        resolve(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "esm"}')
    with pytest.raises(WeightsNotFoundError, match=r"model\.safetensors or pytorch_model\.bin"):
        resolve(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(WeightsError, match="found 'gpt2'"):
        resolve(str(tmp_path))
    with pytest.raises(WeightsNotFoundError, match="does not exist"):
        resolve("fastesm2_650", ModelOptions(weights=tmp_path / "nowhere"))


def test_weights_that_change_before_loading_are_refused(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    model = resolve(str(folder))
    shutil.copy(DATA / "esm2_hf_tiny" / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(WeightsError, match="changed since they were found"):
        model.load("cpu")


def test_devices_that_are_not_here_are_refused() -> None:
    model = resolve(str(DATA / "fastesm2_tiny"))
    for device in ("cuda:99", "cpu:3", "nonsense", "meta"):
        with pytest.raises(InputError, match=device):
            model.load(device)


def test_every_model_has_what_its_kind_needs() -> None:
    assert list(MODELS) == [
        *("tnf", "aac_dpc"),
        *("esm2_t6_8m", "esm2_t12_35m", "esm2_t30_150m", "esm2_t33_650m", "esm2_t36_3b"),
        "fastesm2_650",
        *("esm1b_t33_650m", *(f"esm1v_t33_650m_{number}" for number in range(1, 6))),
        *("esmc_300m", "esmc_600m", "dnabert_s"),
        *("prot_t5_xl_half", "prost_t5", "ankh_base", "ankh_large"),
        "dnabert2_117m",
    ]
    for name, spec in MODELS.items():
        assert spec.name == name
        assert spec.built_in == (spec.repository == "built-in") == (not spec.files)
        assert spec.built_in or spec.max_length_tokens
        assert replace(spec) == spec


def test_digests_are_remembered_until_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    set_age(file, seconds=100)
    first = file_sha256(file)
    remembered = json.loads(digests_file().read_text())
    remembered[str(file)][2] = "0" * 64
    digests_file().write_text(json.dumps(remembered))
    assert file_sha256(file) == "0" * 64  # it was the cache that answered
    file.write_bytes(b"two")
    assert file_sha256(file) not in (first, "0" * 64)


def test_digest_of_a_file_just_written_is_not_remembered(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"one")
    file_sha256(tmp_path / "weights")
    assert not digests_file().exists()


@pytest.mark.parametrize("damage", [b"", b"not json", b"[]", b'{"x": 3}', b"\xff"])
def test_damaged_digest_cache_is_ignored(tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    set_age(file, seconds=100)
    expected = file_sha256(file)
    digests_file().write_bytes(damage)
    assert file_sha256(file) == expected
    assert json.loads(digests_file().read_text())[str(file)][2] == expected


def test_shards_have_one_digest_that_names_their_order(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("b", "a")]
    for path in paths:
        path.write_bytes(path.name.encode())
    assert files_sha256(paths) == files_sha256(paths[::-1])
    assert files_sha256(paths[:1]) == file_sha256(paths[0])
    paths[0].write_bytes(b"a")
    paths[1].write_bytes(b"b")
    assert files_sha256(paths) != files_sha256(paths[:1])


def set_age(file: Path, seconds: int) -> None:
    then = time.time() - seconds
    os.utime(file, (then, then))
