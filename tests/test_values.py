"""Values that travel between the layers: rows that are not finite, reports as JSON, JSON from anybody."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedstore.errors import InputError
from embedstore.records import EmbeddingBatch, Rejection, not_finite
from embedstore.strict_json import MAX_DEPTH, facts, json_object, read_json


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_that_are_not_finite_are_found_and_large_ones_are_not(dtype: Any) -> None:
    vectors = np.full((6, 5), np.finfo(dtype).max, dtype)  # their sum is beyond the dtype
    assert not_finite(vectors).tolist() == []
    vectors[1, 2], vectors[4, 0], vectors[4, 1] = np.nan, np.inf, -np.inf
    assert not_finite(vectors).tolist() == [1, 4]
    assert not_finite(vectors[:0]).tolist() == []
    with pytest.raises(InputError, match="2 vectors are not finite, first at row 1"):
        EmbeddingBatch(np.zeros((6, 24), np.uint8), vectors)


@dataclass(frozen=True, slots=True)
class Inner:
    number: float
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    place: Path
    size_bytes: int
    inner: tuple[Inner, ...]
    rejected: list[Rejection]
    counts: dict[str, Inner] = field(default_factory=dict)


def test_the_fields_of_a_report_become_json_values() -> None:
    report = Report(Path("a/b"), 5, (Inner(1.5, ("x",)),), [Rejection("f", 3, "id", "why")], {"one": Inner(2.0)})
    assert facts(report, size_bytes="bytes") == {
        "place": "a/b",
        "bytes": 5,
        "inner": [{"number": 1.5, "names": ["x"]}],
        "rejected": [{"file": "f", "line": 3, "id": "id", "reason": "why"}],
        "counts": {"one": {"number": 2.0, "names": []}},
    }


@pytest.mark.parametrize(
    "content",
    [b"", b"[1]", b"{", b'{"a": NaN}', b'{"a": ' + b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2) + b"}", b"\xff{}"],
)
def test_what_is_no_json_object_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="expected"):
        json_object(content)


def test_a_long_file_is_refused_before_it_is_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(b'{"a": 1}')
    assert read_json(file) == {"a": 1}
    with pytest.raises(ValueError, match="at most 4 bytes"):
        read_json(file, most_bytes=4)
