"""Shards: disjoint, complete, balanced, and the same whatever the order, the ids and the lines of the input."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_workers import Toy, keys_of, proteins, records

from embedstore.distributed import Shard
from embedstore.distributed.sharding import KeySet, shard_keys
from embedstore.errors import InputError
from embedstore.filling import SpaceTarget
from embedstore.filling.filler import open_intake
from embedstore.identity import key_array
from embedstore.library import Store
from embedstore.records import Record
from embedstore.sequences import read
from embedstore_cli.main import main

TARGET = SpaceTarget(None, Toy().recipe, "toy", None, Toy())


def shards(sequences: Sequence[str], count: int) -> list[set[bytes]]:
    found = [shard_keys(records(sequences), TARGET, Shard(number, count)) for number in range(1, count + 1)]
    return [{key.tobytes() for key in shard.keys} for shard in found]


@settings(max_examples=60, deadline=None)
@given(
    sequences=st.lists(st.text("ACDEFGHIKLMNPQRSTVWY", min_size=1, max_size=30), min_size=1, max_size=60),
    count=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
def test_shards_part_the_distinct_sequences_whatever_their_order_and_look(
    sequences: list[str], count: int, seed: int
) -> None:
    parts = shards(sequences, count)
    union = set().union(*parts)
    assert sum(map(len, parts)) == len(union) == len(set(sequences))
    assert union == {key.tobytes() for key in keys_of(sequences)}
    residues = {key.tobytes(): len(sequence) for key, sequence in zip(keys_of(sequences), sequences, strict=True)}
    sums = [sum(residues[key] for key in part) for part in parts]
    assert max(sums) - min(sums) <= max(map(len, sequences))
    choose = random.Random(seed)
    changed = [f"{sequence[:3]}\n {sequence[3:].lower()}*" for sequence in sequences] + choose.choices(sequences, k=5)
    choose.shuffle(changed)
    assert shards(changed, count) == parts


def test_what_the_store_holds_does_not_move_a_shard(tmp_path: Path) -> None:
    sequences = proteins(50)
    before = shard_keys(records(sequences), TARGET, Shard(2, 3)).keys
    store = Store.open(tmp_path / "store", create=True)
    store.fill(sequences[:20], "aac_dpc")
    target = store.target("aac_dpc")
    np.testing.assert_array_equal(shard_keys(records(sequences), target, Shard(2, 3)).keys, before)


def test_repeated_records_are_merged_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = shards(proteins(40), 3)
    monkeypatch.setattr("embedstore.distributed.sharding._MERGED_RECORDS", 16)
    monkeypatch.setattr("embedstore.filling.intake.FIRST_WINDOW_RECORDS", 7)
    monkeypatch.setattr("embedstore.filling.intake.WINDOW_RECORDS", 7)
    assert shards(proteins(40) * 5, 3) == whole


def test_real_proteins_are_balanced_by_residues(shared: Path) -> None:
    files = sorted((shared / "data" / "real" / "proteins").glob("*.faa.gz"))
    found = [record for record in read(files) if isinstance(record, Record)][:20_000]
    residues = {
        key: len(sequence)
        for window in open_intake(found, TARGET, any_molecule=False)
        for key, sequence in zip(window.keys, window.sequences, strict=True)
    }
    keys, lengths = key_array(residues), np.fromiter(residues.values(), np.uint32)
    for count in (2, 3, 5, 8, 16):
        parts = [Shard(number, count).deal(keys, lengths) for number in range(1, count + 1)]
        sums = [sum(residues[key.tobytes()] for key in part) for part in parts]
        assert sum(sums) == sum(residues.values())
        assert max(sums) < 1.001 * min(sums), count


def test_key_sets_find_keys_that_share_their_beginning() -> None:
    keys = np.zeros((6, 24), np.uint8)
    keys[:, 23] = [1, 2, 3, 4, 5, 9]
    keys[5, 0] = 7
    here = KeySet(keys[[0, 2, 4, 5]])
    np.testing.assert_array_equal(here(keys), [True, False, True, False, True, True])
    assert not KeySet(keys[:0])(keys).any()
    assert here(keys[:0]).shape == (0,)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "a/b", "1", "1/2/3", "-1/4", ""])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="shard"):
        Shard.from_text(text)


def fasta(tmp_path: Path) -> Path:
    path = tmp_path / "p.faa"
    path.write_text("".join(f">s{n}\n{sequence}\n" for n, sequence in enumerate([*proteins(30), "M-V", *proteins(4)])))
    return path


def test_filling_all_shards_fills_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, reports, codes = fasta(tmp_path), [], []
    for number in (1, 2, 3):
        more = ["--workers", "2"] if number == 2 else []
        where = ["-m", "aac_dpc", "-s", str(tmp_path / "store"), "--json", "-q"]
        assert main(["fill", str(path), *where, "--shard", f"{number}/3", "--dry-run"]) == (3 if number == 1 else 0)
        planned = json.loads(capsys.readouterr().out)
        codes.append(main(["fill", str(path), *where, "--shard", f"{number}/3", *more]))
        reports.append(json.loads(capsys.readouterr().out))
        assert planned["misses"] == reports[-1]["computed"]
    assert codes == [3, 0, 0]
    assert [len(report["rejected"]) for report in reports] == [1, 0, 0]
    assert [report["read"] for report in reports] == [35, 35, 35]
    assert [report["unique"] for report in reports] == [10, 10, 10]
    assert [report["computed"] for report in reports] == [10, 10, 10]
    assert len(Store.open(tmp_path / "store").get(proteins(30), "aac_dpc")) == 30


def test_a_shard_of_a_stream_is_refused_with_a_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["fill", "-", "-m", "aac_dpc", "-s", str(tmp_path / "store"), "--shard", "1/2"]
    assert main(arguments) == 1
    assert "found a stream. Write it to a file first." in capsys.readouterr().err
