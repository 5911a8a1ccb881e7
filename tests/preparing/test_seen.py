"""Of which chunks there are samples is stated: of all, by class, group and length, and read back source by source."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
from reading_outputs import rows, settings

from embedstore.errors import InputError
from embedstore.features import load_samples
from embedstore.samples import PrepareOptions, prepare, seen
from embedstore.samples.preparing import read_settings, read_sources
from embedstore_cli.main import main

OPEN = "ACGGCC"
CLOSED = "TAATTAATTAACTAACTAG"
REAL = Path(__file__).parents[3] / "shared" / "data" / "real" / "genomes"


@pytest.fixture
def genomes(tmp_path: Path) -> Path:
    """Two classes: four chunks of 300 of virus, two of them open; of host six, one of them."""
    for label, name, sequences in [
        ("virus", "v1", [OPEN * 100]),
        ("virus", "v2", [CLOSED * 32]),
        ("host", "h1", [OPEN * 10 + "TAATTAATTAACTAACTAG" * 13, CLOSED * 80, OPEN * 50]),
    ]:
        (tmp_path / label).mkdir(exist_ok=True)
        records = "".join(f">{name}_{number}\n{dna}\n" for number, dna in enumerate(sequences))
        (tmp_path / label / f"{name}.fna").write_text(records)
    return tmp_path


def prepared(genomes: Path, *more: str) -> Path:
    inputs = [f"{label}={genomes / label}" for label in ("virus", "host")]
    prepare([*inputs, *more], genomes / "out", PrepareOptions(length_bases=300))
    return genomes / "out"


def test_shares_are_those_counted_by_hand(genomes: Path) -> None:
    found = settings(prepared(genomes))["seen"]

    def numbers(part: dict[str, int]) -> tuple[int, int, int, int]:
        return part["sources"], part["sources_without_sample"], part["chunks"], part["chunks_seen"]

    # v1 600 bases, v2 608; h1 307, 1520 and 300: 2, 3, 2, 6 and 1 chunks.
    assert numbers(found) == (5, 3, 14, 3)
    assert found["share"] == 3 / 14
    assert {part["label"]: numbers(part) for part in found["by_label"]} == {"host": (3, 2, 9, 1), "virus": (2, 1, 5, 2)}
    assert {part["group"]: numbers(part) for part in found["by_group"]} == {
        "h1": (3, 2, 9, 1),
        "v1": (1, 0, 2, 2),
        "v2": (1, 1, 3, 0),
    }
    assert [(part["from"], part["to"], *numbers(part)) for part in found["by_length"]] == [
        (0, 499, 2, 1, 3, 1),
        (500, 999, 2, 1, 5, 2),
        (1000, 2999, 1, 1, 6, 0),
    ]


def test_sources_are_read_back_with_group_and_label(genomes: Path) -> None:
    folder = prepared(genomes)
    sources = read_sources(folder / "prepare.json")
    assert sources is not None
    assert [(one.source, one.group, one.label, one.length_bases) for one in sources] == [
        ("v1_0", "v1", "virus", 600),
        ("v2_0", "v2", "virus", 608),
        ("h1_0", "h1", "host", 307),
        ("h1_1", "h1", "host", 1520),
        ("h1_2", "h1", "host", 300),
    ]
    assert read_settings(folder / "prepare.json") == {**settings(folder), "sources": {}}


def test_sources_are_read_back_from_json_that_was_written_again(genomes: Path) -> None:
    folder = prepared(genomes)
    before = read_sources(folder / "prepare.json")
    document = settings(folder)
    (folder / "prepare.json").write_text(json.dumps(document))
    assert read_sources(folder / "prepare.json") == before
    for one in document["sources"].values():
        del one["group"]
    (folder / "prepare.json").write_text(json.dumps(document))
    assert read_sources(folder / "prepare.json") is None
    (folder / "prepare.json").unlink()
    assert read_sources(folder / "prepare.json") is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"length": 608', '"length": -1'),
        ('"length": 608', '"length": "608"'),
        ('"no open frame": 3', '"no open frame": 300'),
        ('"no open frame": 3', '"no reason": 3'),
        ('"samples": 0', '"sample": 0'),
        ("\n }\n}\n", "\n"),
    ],
)
def test_damaged_sources_are_refused(genomes: Path, old: str, new: str) -> None:
    path = prepared(genomes) / "prepare.json"
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))
    with pytest.raises(InputError, match=r"Cannot read .*prepare\.json"):
        read_sources(path)


def test_a_table_of_more_sources_than_json_may_have_bytes_is_read(
    genomes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepared(genomes)
    size_bytes = (folder / "prepare.json").stat().st_size
    monkeypatch.setattr("embedstore.samples.preparing.MAX_BYTES", size_bytes - 100)
    monkeypatch.setattr("embedstore.strict_json.MAX_BYTES", size_bytes - 100)
    assert load_samples(folder / "samples.tsv").preparation.chunk_length == 300
    assert len(read_sources(folder / "prepare.json") or ()) == 5


def test_groups_are_not_listed_where_there_are_too_many(genomes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "MOST_GROUPS", 2)
    found = settings(prepared(genomes))["seen"]
    assert found["by_group"] is None
    assert found["chunks"] == 14


def test_the_command_states_shares(genomes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = [f"{label}={genomes / label}" for label in ("virus", "host")]
    assert main(["prepare", *inputs, "-o", str(genomes / "out"), "--length", "300"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "seen 21.4% of the chunks have an open frame; 3 of 5 sequences have none" in told
    assert "seen by class host 11.1%, virus 40.0%" in told
    assert "seen by length 0 to 499 33.3%, 500 to 999 40.0%, 1,000 to 2,999 0.0%" in told
    assert "least seen v2 0.0%, h1 11.1%, v1 100.0%" in told


@pytest.mark.skipif(not REAL.is_dir(), reason="the real genomes are not here")
def test_shares_of_real_genomes_are_those_of_their_sources_and_samples(tmp_path: Path) -> None:
    prepare([f"virus={REAL / 'virus' / 'T4.fna.gz'}"], tmp_path / "out")
    found = settings(tmp_path / "out")
    chunks: dict[str, set[int]] = defaultdict(set)
    length, count = 168903, -(-168903 // 500)
    starts = [round(number * (length - 500) / (count - 1)) for number in range(count)]
    for row in rows(tmp_path / "out"):
        middle = (int(row["start"]) + int(row["end"])) / 2
        chunks[row["source"]].add(min(range(count), key=lambda number: abs(starts[number] + 250 - middle)))
    assert found["seen"]["chunks"] == count
    assert found["seen"]["chunks_seen"] == sum(map(len, chunks.values()))
