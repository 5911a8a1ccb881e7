"""What the tests of prepare read back, with nothing of the package's own readers."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from embedstore.identity import canonical
from embedstore.records import Record
from embedstore.sequences import read

FILES = ["dna.fna", "prepare.json", "protein.faa", "samples.tsv"]


def fasta(path: Path) -> list[tuple[str, str]]:
    """Ids and sequences of a file with one line a sequence."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(header.removeprefix(">"), sequence) for header, sequence in zip(lines[::2], lines[1::2], strict=True)]


def rows(folder: Path) -> list[dict[str, str]]:
    """Rows of samples.tsv."""
    with (folder / "samples.tsv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


def settings(folder: Path) -> dict[str, Any]:
    """Parsed prepare.json."""
    document = json.loads((folder / "prepare.json").read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of all files but prepare.json, which holds the time."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "prepare.json"}


def sequences(inputs: Iterable[Path]) -> list[bytes]:
    """Canonical DNA of all records, in their order."""
    records = [record for record in read(list(inputs)) if isinstance(record, Record)]
    return [canonical(record.sequence, "dna") for record in records]
