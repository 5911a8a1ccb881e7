"""The DNABERT tokenizer: the real one where the shared folder has it, a synthetic twin everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from embedstore.errors import WeightsError, WeightsNotFoundError
from embedstore.models.dnabert import DnaTokenizer

DATA = Path(__file__).resolve().parents[1] / "data" / "dnabert_s"
UNKNOWN, CLS, SEP = 0, 1, 2


@pytest.fixture(scope="module")
def tokenizer() -> DnaTokenizer:
    return DnaTokenizer.from_file(DATA / "tokenizer.json")


@pytest.fixture(scope="module")
def real_tokenizer(shared: Path) -> DnaTokenizer:
    return DnaTokenizer.from_file(shared / "fixtures" / "dnabert_s" / "checkpoint" / "tokenizer.json")


def assert_ids_equal_reference(tokenizer: DnaTokenizer, expected_file: Path) -> None:
    with np.load(expected_file) as expected:
        sequences, ids, ends = expected["sequences"], expected["ids_concat"], expected["offsets"].tolist()
    for sequence, start, stop in zip(sequences, ends, ends[1:], strict=False):
        content = tokenizer.content_ids(str(sequence).encode())
        assert [tokenizer.first_id, *content, tokenizer.last_id] == ids[start:stop].tolist()


def test_ids_equal_the_reference(tokenizer: DnaTokenizer) -> None:
    assert_ids_equal_reference(tokenizer, DATA / "expected_synthetic_tokenizer.npz")


def test_ids_of_the_real_tokenizer_equal_the_reference(real_tokenizer: DnaTokenizer) -> None:
    assert_ids_equal_reference(real_tokenizer, DATA / "expected.npz")


def test_special_ids_and_vocabulary_are_those_of_the_file(tokenizer: DnaTokenizer) -> None:
    assert (tokenizer.first_id, tokenizer.last_id, tokenizer.vocabulary) == (CLS, SEP, 4096)


def test_long_sequence_is_not_truncated_and_short_one_not_padded(tokenizer: DnaTokenizer) -> None:
    assert len(tokenizer.content_ids(b"A" * 40_000 + b"C" * 40_000)) > 2_000
    assert len(tokenizer.content_ids(b"A")) == 1


@pytest.mark.parametrize("sequence", [b"N", b"NNNN", b"RYSWKMBDHV"])
def test_every_ambiguous_base_is_one_unknown_token(tokenizer: DnaTokenizer, sequence: bytes) -> None:
    assert tokenizer.content_ids(sequence).tolist() == [UNKNOWN] * len(sequence)


def test_many_at_once_have_the_ids_of_each_alone(tokenizer: DnaTokenizer) -> None:
    sequences = [b"ACGTTGCA" * 40, b"N", b"GGATCC", b"ACGTNNRY" * 300, b"T"]
    together = tokenizer.contents(sequences)
    assert [ids.tolist() for ids in together] == [tokenizer.content_ids(sequence).tolist() for sequence in sequences]
    assert all(ids.dtype == np.int64 for ids in together)
    assert tokenizer.contents([]) == []


def test_unknown_bases_part_the_sequence(tokenizer: DnaTokenizer) -> None:
    left, right = tokenizer.content_ids(b"ACGTTGCA"), tokenizer.content_ids(b"GGATCC")
    parted = tokenizer.content_ids(b"ACGTTGCANNGGATCC")
    assert parted.tolist() == [*left, UNKNOWN, UNKNOWN, *right]


@pytest.mark.parametrize("special", [b"[CLS]", b"[SEP]", b"[MASK]", b"[PAD]"])
def test_special_tokens_written_in_the_input_are_not_parsed(tokenizer: DnaTokenizer, special: bytes) -> None:
    special_ids = {1, 2, 3, 4}
    assert not special_ids & set(tokenizer.content_ids(b"ACGT" + special + b"ACGT").tolist())


def test_missing_file_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"tokenizer\.json"):
        DnaTokenizer.from_file(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("text", ["", "{}", "not json", '{"version": "1.0"}'])
def test_malformed_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(WeightsError, match=r"tokenizer\.json"):
        DnaTokenizer.from_file(tmp_path / "tokenizer.json")


def test_tokenizer_without_separators_is_refused(tmp_path: Path) -> None:
    document = json.loads((DATA / "tokenizer.json").read_text())
    document["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(WeightsError, match=r"\[CLS\] A \[SEP\]"):
        DnaTokenizer.from_file(tmp_path / "tokenizer.json")


def test_tokenizer_of_another_alphabet_is_refused(tmp_path: Path) -> None:
    document = json.loads((DATA / "tokenizer.json").read_text())
    vocabulary = document["model"]["vocab"]
    document["model"]["merges"] = []
    document["model"]["vocab"] = {text: place for text, place in vocabulary.items() if text != "T"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(WeightsError, match="found no T"):
        DnaTokenizer.from_file(tmp_path / "tokenizer.json")
