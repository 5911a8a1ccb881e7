"""From the table that `prepare` writes to samples in memory: a few hundred bytes each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import InputError, plain
from embedstore.features.samples import ARRAYS, CATEGORIES, TEXT, Categories, Samples, Texts
from embedstore.features.schema import Preparation
from embedstore.identity import Molecule
from embedstore.samples.outputs import SETTINGS_NAME
from embedstore.samples.table import SampleBatch, read_samples
from embedstore.types import KEY_BYTES, Keys

_NAMES_SHOWN = 10
_CHARACTERS_SHOWN = 80


def load_samples(path: str | Path) -> Samples:
    """Read a table of samples, and from `prepare.json` beside it how they were prepared.

    Without `prepare.json` nothing is stated of the preparation, and a schema that states something will not match.

    Raises
    ------
    InputError : one of the two is not what it should be, or an id occurs twice.
    """
    path = Path(path)
    return collect(read_samples(path), read_preparation(path.parent / SETTINGS_NAME), str(path))


def read_preparation(path: Path) -> Preparation:
    """Read how samples were prepared; nothing is stated where there is no such file.

    Raises
    ------
    InputError : the file does not say it.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Preparation()
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"Cannot read {path}: {error}. Prepare the samples again.") from error
    preparation = document.get("preparation") if isinstance(document, dict) else None
    try:
        return Preparation.from_json(preparation)
    except InputError as error:
        raise InputError(f"Cannot read {path}: {error} Prepare the samples again.") from error


def collect(batches: Iterable[SampleBatch], preparation: Preparation, origin: str) -> Samples:
    """Join batches of a table.

    Parameters
    ----------
    origin : where they come from, for messages.

    Raises
    ------
    InputError : an id occurs twice.
    """
    no_keys = np.empty((0, KEY_BYTES), np.uint8)
    pieces: dict[str, list[NDArray[Any]]] = {name: [np.empty(0, dtype)] for name, dtype in ARRAYS.items()}
    pieces |= {name: [np.empty(0, np.int32)] for name in CATEGORIES} | {"dna": [no_keys], "protein": [no_keys]}
    numbers: dict[str, dict[str, int]] = {name: {} for name in CATEGORIES}
    for batch in batches:
        _append(batch, pieces, numbers)
    joined: dict[str, Any] = {name: np.concatenate(pieces.pop(name)) for name in list(pieces)}
    refuse_repeated(joined["ids"], origin)
    for name in CATEGORIES:
        joined[name] = Categories.numbered(numbers[name], joined[name])
    keys: dict[Molecule, Keys] = {"dna": joined.pop("dna"), "protein": joined.pop("protein")}
    return Samples(**joined, keys=keys, preparation=preparation, origin=origin)


def refuse_repeated(ids: Texts, origin: str) -> None:
    """Refuse ids that occur twice.

    Raises
    ------
    InputError : counts and names them.
    """
    ordered = np.sort(ids)
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if len(again):
        names = ", ".join(plain(name, _CHARACTERS_SHOWN) for name in again[:_NAMES_SHOWN].tolist())
        raise InputError(
            f"Cannot use {origin}: expected each sample id once, found {len(again)} more than once: {names}"
            f"{' …' if len(again) > _NAMES_SHOWN else ''}. Give each sample its own id."
        )


def _append(batch: SampleBatch, pieces: dict[str, list[NDArray[Any]]], numbers: dict[str, dict[str, int]]) -> None:
    for name in CATEGORIES:
        known, texts = numbers[name], getattr(batch, name)
        pieces[name].append(np.fromiter((known.setdefault(text, len(known)) for text in texts), np.int32, len(batch)))
    pieces["ids"].append(np.array(batch.samples, dtype=TEXT))
    pieces["start"].append(batch.starts)
    pieces["end"].append(batch.ends)
    pieces["strand"].append(np.array([1 if strand == "+" else -1 for strand in batch.strands], np.int8))
    pieces["frame"].append(batch.frames.astype(np.int8))
    pieces["dna"].append(batch.dna_keys)
    pieces["protein"].append(batch.protein_keys)
