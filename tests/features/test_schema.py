"""A schema refuses features that are arranged or prepared differently, and names both sides."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from toy_features import PREPARATION, toy_recipe

from embedstore.errors import InputError, SchemaError
from embedstore.features import Block, Preparation, Schema

DNA = toy_recipe("dna", 768)
PROTEIN = toy_recipe("protein", 1280)
SCHEMA = Schema.of_spaces([("dnabert_s", DNA), ("fastesm2_650", PROTEIN)], PREPARATION, ["host", "virus"])


def refusal(found: Schema, expected: Schema = SCHEMA) -> SchemaError:
    with pytest.raises(SchemaError) as caught:
        expected.require(found, what="features.zarr", owner="the classifier in virus/")
    assert "features.zarr" in str(caught.value)
    assert "the classifier in virus/" in str(caught.value)
    return caught.value


def test_blocks_follow_each_other() -> None:
    assert [(block.start, block.stop, block.dim) for block in SCHEMA.blocks] == [(0, 768, 768), (768, 2048, 1280)]
    assert SCHEMA.dim == 2048
    assert SCHEMA.molecules == ("dna", "protein")


def test_json_is_read_back_equal() -> None:
    assert Schema.from_json(json.loads(json.dumps(SCHEMA.to_json()))) == SCHEMA
    bare = replace(SCHEMA, preparation=Preparation(), labels=())
    assert Schema.from_json(json.loads(json.dumps(bare.to_json()))) == bare


def test_equal_schema_is_taken_under_any_name_of_its_spaces() -> None:
    renamed = Schema.of_spaces([("mine", DNA), ("other", PROTEIN)], PREPARATION)
    SCHEMA.require(renamed, what="features.zarr", owner="the classifier")


def test_swapped_blocks_are_refused() -> None:
    swapped = Schema.of_spaces([("fastesm2_650", PROTEIN), ("dnabert_s", DNA)], PREPARATION)
    error = refusal(swapped)
    expected, found = map(str, error.differences["order of blocks"])
    assert expected.index("dnabert_s") < expected.index("fastesm2_650")
    assert found.index("fastesm2_650") < found.index("dnabert_s")
    assert "--models dnabert_s,fastesm2_650" in str(error)


def test_other_revision_under_the_same_name_is_refused_with_both_ids() -> None:
    newer = toy_recipe("protein", 1280, revision="b" * 40)
    error = refusal(Schema.of_spaces([("dnabert_s", DNA), ("fastesm2_650", newer)], PREPARATION))
    assert list(error.differences) == ["block 2"]
    assert PROTEIN.id in str(error)
    assert newer.id in str(error)


def test_other_dim_is_refused_with_both_numbers() -> None:
    narrow = toy_recipe("protein", 320)
    error = refusal(Schema.of_spaces([("dnabert_s", DNA), ("fastesm2_650", narrow)], PREPARATION))
    assert "1280" in str(error)
    assert "320" in str(error)


def test_missing_block_is_refused() -> None:
    error = refusal(Schema.of_spaces([("dnabert_s", DNA)], PREPARATION))
    assert "fastesm2_650" in str(error.differences["blocks"][0])
    assert "fastesm2_650" not in str(error.differences["blocks"][1])


@pytest.mark.parametrize(
    ("change", "place", "sides"),
    [
        ({"chunk_length": 300}, "chunk length", (500, 300)),
        ({"genetic_code": 4}, "genetic code", (1, 4)),
        ({"genetic_code": "auto"}, "genetic code", (1, "auto")),
        ({"genetic_code": "1,4"}, "genetic code", (1, "1,4")),
        ({"genetic_code": 99}, "genetic code", (1, 99)),
        ({"genetic_code": None}, "genetic code", (1, "none stated")),
        ({"frames": "coding"}, "frames", ("stop-free", "coding")),
        ({"frames": "all"}, "frames", ("stop-free", "all")),
        ({"compat": "virnucpro"}, "compat", ("none stated", "virnucpro")),
        ({"chunk_length": None}, "chunk length", (500, "none stated")),
    ],
)
def test_other_preparation_is_refused(change: dict[str, object], place: str, sides: tuple[object, object]) -> None:
    preparation = Preparation(**{**SCHEMA.to_json()["preparation"], **change})
    error = refusal(replace(SCHEMA, preparation=preparation))
    assert error.differences == {place: sides}
    assert f"{place}: expected {sides[0]}, found {sides[1]}" in str(error)


def with_preparation(**change: object) -> Schema:
    return replace(SCHEMA, preparation=Preparation(**{**SCHEMA.to_json()["preparation"], **change}))


@pytest.mark.parametrize(
    ("trained", "found"),
    [
        (1, 11),
        (11, 1),
        (27, 28),
        ("1,4", 4),
        ("1,4", 11),
        ("4,11", "1,4"),
        ("auto", 4),
        ("auto", "1,4"),
        ("auto", "auto"),
        (7, 7),
    ],
)
def test_codes_that_translate_alike_or_are_among_the_trained_ones_are_accepted(
    trained: int | str, found: int | str
) -> None:
    expected = with_preparation(genetic_code=trained)
    expected.require(with_preparation(genetic_code=found), what="features.zarr", owner="the classifier")


@pytest.mark.parametrize(("trained", "found"), [(4, 1), ("1,4", 5), (4, "1,4"), ("1,4", "auto"), (4, 5), (7, 4)])
def test_a_contradiction_of_codes_names_both(trained: int | str, found: int | str) -> None:
    error = refusal(with_preparation(genetic_code=found), with_preparation(genetic_code=trained))
    assert error.differences == {"genetic code": (trained, found)}
    assert (
        f"The classifier in virus/ was trained with genetic code {trained}, the samples of features.zarr are prepared "
        f"with {found}." in str(error)
    )


def test_what_was_trained_on_coding_frames_takes_all_that_may_be_coding() -> None:
    with_preparation(frames="coding").require(SCHEMA, what="contigs", owner="the classifier")


@pytest.mark.parametrize("code", [1, 4, "auto", "1,4", "1,4,11", None])
def test_codes_are_read_back_equal(code: int | str | None) -> None:
    schema = with_preparation(genetic_code=code)
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


def test_all_differences_are_named_at_once() -> None:
    other = Schema.of_spaces([("tnf", toy_recipe("dna", 136))], replace(PREPARATION, chunk_length=300))
    assert set(refusal(other).differences) == {"blocks", "chunk length"}


def test_labels_need_to_be_known_not_to_be_complete() -> None:
    SCHEMA.require_labels(["virus"], what="samples.tsv", owner="the classifier")
    with pytest.raises(SchemaError, match="expected host, virus, found plasmid"):
        SCHEMA.require_labels(["plasmid", "virus"], what="samples.tsv", owner="the classifier")


@pytest.mark.parametrize(
    "blocks",
    [
        (),
        (Block("a", "1" * 64, "dna", 1, 3),),
        (Block("a", "1" * 64, "dna", 0, 0),),
        (Block("a", "1" * 64, "dna", 0, 3), Block("b", "2" * 64, "dna", 4, 5)),
        (Block("a", "1" * 64, "dna", 0, 3), Block("b", "1" * 64, "dna", 3, 6)),
    ],
)
def test_blocks_that_do_not_fit_together_are_refused(blocks: tuple[Block, ...]) -> None:
    with pytest.raises(InputError):
        Schema(blocks)


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": "none"},
        {"blocks": [{"space": "a"}]},
        {"blocks": [{**SCHEMA.to_json()["blocks"][0], "stop": "768"}]},
        {"blocks": [{**SCHEMA.to_json()["blocks"][0], "stop": True}]},
        {"preparation": None},
        {"preparation": {**SCHEMA.to_json()["preparation"], "chunk_length": "500"}},
        {"preparation": {**SCHEMA.to_json()["preparation"], "speed": 3}},
        *(
            {"preparation": {**SCHEMA.to_json()["preparation"], "genetic_code": code}}
            for code in ("best", "1", "1,", "1,4 ", "auto,4", "1000,4", 0, 101, True, 1.0, [1, 4])
        ),
        {"labels": [1, 2]},
        {"labels": ["virus", "virus"]},
        {"extra": 1},
    ],
)
def test_json_of_something_else_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Schema.from_json({**SCHEMA.to_json(), **change})
