"""A store that a later version has written to: what may be ignored is, what may not is named, nothing else suffers."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from sample_rows import files_of, sample_batch, sample_keys, sample_recipe

from embedstore.errors import FormatVersionError, InputError, SpaceConflictError, SpaceNotFoundError
from embedstore.identity import Recipe, key_array, sequence_key
from embedstore.sharing import pull
from embedstore.storage.local import LocalStorage
from embedstore.store import SpaceStore
from embedstore.upkeep import collect, compact, pin, remove_space, repair
from embedstore.upkeep.web_index import publish_web_index
from embedstore_cli.main import main

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "store_from_the_future"
KEYS = key_array(sequence_key(sequence) for sequence in (b"MKV", b"ACDEFGHIKLMNPQRSTVWY", b"MGLSDGEWQLVLNVWGKVEA"))
VECTORS = [[1, 0, 0.125, 1], [2, -0.5, 0.125, 0.5], [3, -1, 0.125, 0.25]]
NEEDS = {
    "residues": "per-residue vectors",
    "adapted": "the recipe field adapter_sha256",
    "packed": "compressed vectors",
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return shutil.copytree(GOLDEN, tmp_path / "store")


def assert_whole(place: Path) -> None:
    space = SpaceStore.open(place).space("described")
    assert space.read(KEYS).tolist() == VECTORS


def others(place: Path) -> dict[Path, bytes]:
    """All files that this version cannot judge."""
    mine = SpaceStore.open(place).space("described").id
    return {path: path.read_bytes() for path in files_of(place / "spaces") if mine not in path.parts}


def test_what_is_known_is_read_and_what_is_not_is_named(place: Path) -> None:
    store = SpaceStore.open(place)
    assert [space.name for space in store.spaces()] == ["described", "packed"]
    assert_whole(place)
    for name, need in NEEDS.items():
        with pytest.raises(FormatVersionError, match=need) as caught:
            store.space(name).read(KEYS)
        assert "Upgrade embedstore" in str(caught.value)
        assert caught.value.needs == (need,)
    with pytest.raises(SpaceNotFoundError, match="described, packed"):
        store.space("catalogue")


def test_a_space_that_cannot_be_read_is_not_made_again(place: Path) -> None:
    store = SpaceStore.open(place)
    for name in ("residues", "adapted"):
        with pytest.raises(FormatVersionError):
            store.find_space(sample_recipe(), name)
    with pytest.raises(SpaceConflictError):
        store.find_space(sample_recipe(), "packed")


OPERATIONS: dict[str, Callable[[Path], object]] = {
    "append": lambda place: (
        SpaceStore.open(place)
        .space("described")
        .append(sample_batch(sample_keys(range(9)), SpaceStore.open(place).space("described").recipe))
    ),
    "compact": lambda place: compact(SpaceStore.open(place).space("described")),
    "collect": lambda place: [collect(LocalStorage(place), grace_s=0) for _ in range(2)],
    "evict": lambda place: collect(LocalStorage(place), grace_s=0, max_size_bytes=1 << 40),
    "repair": lambda place: repair(LocalStorage(place)),
    "publish": lambda place: publish_web_index(LocalStorage(place)),
    "pin": lambda place: pin(SpaceStore.open(place), "paper"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_nothing_of_a_later_version_is_touched(place: Path, operation: str) -> None:
    before = others(place)
    OPERATIONS[operation](place)
    assert others(place) == before
    assert_whole(place)


def test_checking_distinguishes_what_it_cannot_judge_from_damage(place: Path) -> None:
    report = SpaceStore.open(place).verify(deep=True)
    assert report.problems == []
    assert len(report.unchecked) == 3
    assert all("a newer embedstore" in each.reason for each in report.unchecked)


def test_pulling_takes_what_is_known_and_names_the_rest(place: Path, tmp_path: Path) -> None:
    near = SpaceStore.open(tmp_path / "near", create=True)
    report = pull(near, SpaceStore.open(place))
    assert (report.copied, report.complete) == (3, False)
    assert near.space("described").read(KEYS).tolist() == VECTORS
    reasons = "\n".join(problem.reason for space in report.spaces for problem in space.problems)
    assert all(need in reasons for need in NEEDS.values())


def test_unknown_facts_travel_with_a_copy(place: Path, tmp_path: Path) -> None:
    near = SpaceStore.open(tmp_path / "near", create=True)
    pull(near, SpaceStore.open(place))
    (segment,) = near.space("described").segments()
    assert segment.commit.extra == {"written_by": {"name": "embedstore", "version": "9.0"}}


def test_a_newer_pin_and_a_newer_signature_are_named_and_left_alone(place: Path) -> None:
    from embedstore.strict_json import sealed

    (place / "pins").mkdir()
    document = {"format": "embedstore-pin", "name": "paper", "spaces": {}, "requires": ["tags"]}
    (place / "pins" / "paper.json").write_bytes(sealed(document))
    with pytest.raises(FormatVersionError, match="tags"):
        SpaceStore.open(place, pin="paper")
    with pytest.raises(FormatVersionError, match="tags"):  # who cannot read a pin does not know what it keeps
        collect(LocalStorage(place), grace_s=0)
    assert "pins/paper.json" in {each.file for each in SpaceStore.open(place).verify().unchecked}


def test_a_space_of_a_later_version_is_not_removed_by_name(place: Path) -> None:
    store = SpaceStore.open(place)
    with pytest.raises(FormatVersionError):
        remove_space(store, store.space("adapted"))


def test_commands_go_on_without_what_they_cannot_read(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "--store", str(place)]) == 0
    shown = capsys.readouterr()
    assert "described" in shown.out
    assert all(need in shown.err for need in NEEDS.values())
    assert main(["info", "--store", str(place)]) == 0
    assert main(["verify", "--deep", "--store", str(place)]) == 0
    assert "not checked" in capsys.readouterr().out
    assert main(["info", "residues", "--store", str(place)]) == 1
    assert "per-residue vectors" in capsys.readouterr().err
    assert main(["compact", "--store", str(place)]) == 1  # what it could not do is said by the exit code, too
    assert main(["gc", "--grace", "0", "--store", str(place)]) == 0
    assert "cannot be read" in capsys.readouterr().out


@dataclass(frozen=True)
class LaterRecipe(Recipe):
    """As a later version may have it."""

    adapter_sha256: str | None = None
    per_residue: bool = False


def later(**fields: Any) -> LaterRecipe:
    return LaterRecipe(**{**asdict(sample_recipe()), **fields})


def test_a_recipe_that_gains_fields_keeps_the_ids_of_all_from_before() -> None:
    assert later().id == sample_recipe().id
    assert later().to_json() == sample_recipe().to_json()
    adapted = later(adapter_sha256="0" * 64)
    assert adapted.id != sample_recipe().id
    assert LaterRecipe.from_json(adapted.to_json()) == adapted
    assert LaterRecipe.from_json(sample_recipe().to_json()) == later()
    with pytest.raises(FormatVersionError, match="adapter_sha256"):
        Recipe.from_json(adapted.to_json())
    with pytest.raises(InputError, match="these fields are missing: model"):
        Recipe.from_json({name: value for name, value in sample_recipe().to_json().items() if name != "model"})


def test_the_ids_of_today_are_those_of_version_1() -> None:
    found = {path.parent.name for path in (GOLDEN.parent).glob("store_v1_*/spaces/*/space.json")}
    assert found == {
        "15f56f78232bd204b2e8473ce3026fd51f0f2db35d3269a328974e19d0034dcb",
        "9037342b183b3bb3d7924608edf06000da4a2ac541b67aba3b6230536e5219e5",
    }
    recipe = sample_recipe()
    assert recipe.id == hashlib.sha256(recipe.canonical_json()).hexdigest()
