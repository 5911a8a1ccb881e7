"""Clusters of other programs: told apart by content, by what their ids name, and what they leave out is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedstore.errors import InputError
from embedstore.features import Samples, with_clusters
from embedstore.features.clusters import read_clusters
from embedstore.features.features import Categories


def samples() -> Samples:
    """Two samples of each of three contigs, of two genomes."""
    ones = np.ones(6, np.int64)
    names = [f"{contig}:{number}" for contig in ("a", "b", "c") for number in (1, 2)]
    return Samples(
        ids=np.array(names, np.dtypes.StringDType()),
        sources=Categories.of(["a", "a", "b", "b", "c", "c"]),
        groups=Categories.of(["g", "g", "g", "g", "h", "h"]),
        labels=Categories.of([""] * 6),
        start=ones,
        end=ones,
        strand=ones.astype(np.int8),
        frame=ones.astype(np.int8),
        keys={},
    )


CD_HIT = """>Cluster 0
0\t100nt, >b... at +/99.00%
1\t130nt, >a... *
>Cluster 1
0\t80nt, >c... *
>Cluster 2
0\t80nt, >elsewhere... *
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\ta\na\tb\nc\tc\nz\telsewhere\n", ["a", "a", "a", "a", "c", "c"]),
        (CD_HIT, ["a", "a", "a", "a", "c", "c"]),
        ("g\tg\ng\th\nz\telsewhere\n", ["g"] * 6),
        ("x\ta:1\nx\tc:2\nz\telsewhere\n", ["x", "g", "g", "g", "h", "x"]),
    ],
    ids=["mmseqs-sources", "cd-hit", "mmseqs-groups", "mmseqs-samples"],
)
def test_clusters_of_programs_are_read_and_unknown_ids_are_counted_and_named(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    file, notes = tmp_path / "clusters", list[str]()
    file.write_text(text, encoding="utf-8")
    assert with_clusters(samples(), file, notes.append).groups.texts().tolist() == expected
    (note,) = notes
    assert "1 of its" in note
    assert note.endswith("elsewhere")


def test_our_tables_are_no_clusters_of_programs(tmp_path: Path) -> None:
    file = tmp_path / "groups.tsv"
    file.write_text("source\tcluster\na\tone\nb\ttwo\nc\ttwo\n", encoding="utf-8")
    assert read_clusters(file) is None
    assert with_clusters(samples(), file).groups.texts().tolist() == ["one", "one", "two", "two", "two", "two"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tb\nc\n", "line 2: expected a representative and a member"),
        ("a\tb\nc\tb\n", "line 2: expected b in one cluster, found it in that of a and of c"),
        (">Cluster 0\nnonsense\n", "line 2: expected a member of a cluster as"),
        ("x\ty\n", "found none among 1, first y"),
        (">Cluster 0\n0\t9nt, >y... *\n", "unless it is given -d 0"),
    ],
)
def test_files_that_are_no_clusters_are_refused_and_the_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "clusters"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        with_clusters(samples(), file)
