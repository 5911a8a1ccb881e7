"""Write the golden stores beside this script: `python tests/data/make_golden_stores.py`.

They hold every kind of thing that a reader of format version 1 meets: several segments, a key in two of them, a segment
that another one replaces, an index that covers some of them. Written once; a folder that exists is left as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from embedstore.identity import CANONICALISATION, Recipe, key_array, key_text, sequence_key
from embedstore.records import Canaries, EmbeddingBatch
from embedstore.storage.local import LocalStorage
from embedstore.storage.protocol import Buffer, Entry
from embedstore.store import Space, SpaceStore
from embedstore.store.documents import Commit, SegmentFormat
from embedstore.store.segment_files import SortedRows
from embedstore.store.segments import write_segment

SEQUENCES = (b"MKV", b"ACDEFGHIKLMNPQRSTVWY", b"MGLSDGEWQLVLNVWGKVEA", b"W", b"GGGGGGGG", b"MX")
DIM = 4


class OvertakenStorage(LocalStorage):
    """A storage in which somebody else commits while one writes data: so that a key gets into two segments."""

    def __init__(self, place: Path, other: EmbeddingBatch) -> None:
        super().__init__(place)
        self._place = place
        self._other: EmbeddingBatch | None = other

    def write(self, name: str, parts: Iterable[Buffer]) -> Entry:
        entry = super().write(name, parts)
        if "/data/" in name and self._other is not None:
            other, self._other = self._other, None
            open_space(LocalStorage(self._place)).append(other)
        return entry


def main() -> None:
    for layout, dtype, precision in (("zarr", "float32", "full"), ("hdf5", "float16", "half")):
        place = Path(__file__).parent / f"store_v1_{layout}"
        if not place.exists():
            make(place, layout, golden_recipe(dtype, precision))  # type: ignore[arg-type]


def golden_recipe(dtype: Literal["float16", "float32"], precision: Literal["half", "full"]) -> Recipe:
    return Recipe(
        model="golden",
        source="built-in",
        revision=None,
        weights_sha256=None,
        tokenizer_sha256=None,
        implementation="golden/1",
        molecule="protein",
        canonicalisation=CANONICALISATION["protein"],
        layer="last",
        pooling="mean",
        pooled_special_tokens=("<cls>",),
        max_length_tokens=1022,
        long="window",
        window_overlap_tokens=256,
        precision=precision,
        dtype=dtype,
        dim=DIM,
    )


def vectors(numbers: Sequence[int], dtype: str, factor: float = 1.0) -> np.ndarray:
    """(n, 4): simple numbers that both dtypes hold, one row a sequence; the last is all zeros."""
    rows = np.array([[number + 1, -number / 2, 0.125, 2.0**-number] for number in numbers])
    rows[[number == len(SEQUENCES) - 1 for number in numbers]] = 0
    return (rows * factor).astype(dtype)


def batch(recipe: Recipe, numbers: Sequence[int], factor: float = 1.0) -> EmbeddingBatch:
    keys = key_array(sequence_key(SEQUENCES[number]) for number in numbers)
    return EmbeddingBatch(keys, vectors(numbers, recipe.dtype, factor))


def open_space(storage: LocalStorage) -> Space:
    return SpaceStore(storage).space("golden")


def make(place: Path, layout: SegmentFormat, recipe: Recipe) -> None:
    canaries = Canaries(("MKV", "W"), np.arange(2 * DIM, dtype=np.float32).reshape(2, DIM))
    SpaceStore.open(place, create=True, segment_format=layout).create_space(recipe, "golden", canaries)
    storage = LocalStorage(place)
    open_space(storage).append(batch(recipe, [0, 1, 2]), {"compute_seconds": 1.5, "letters": 43})
    open_space(storage).optimise()
    within_tolerance = 1 + recipe.tolerance / 2
    overtaken = open_space(OvertakenStorage(place, batch(recipe, [3])))
    overtaken.append(batch(recipe, [3, 4], within_tolerance))
    replace_by_itself(storage, recipe, layout, [5])
    write_expected(place, recipe, within_tolerance)


def replace_by_itself(storage: LocalStorage, recipe: Recipe, layout: SegmentFormat, numbers: Sequence[int]) -> None:
    """Append a segment and replace it by one of the same rows, as merging segments does; leave both."""
    space = open_space(storage)
    folder = f"spaces/{recipe.id}/"
    before = {entry.name for entry in storage.list(f"{folder}commits/")}
    space.append(batch(recipe, numbers))
    (replaced,) = {entry.name for entry in storage.list(f"{folder}commits/")} - before
    old = Commit.from_bytes(replaced, storage.read(replaced))
    files = write_segment(storage, folder, SortedRows.of(batch(recipe, numbers)), layout, {"embedstore": {}})
    space.publish(lambda: files.commit(recipe.id, old.created_ns, {}, [old.id]))


def write_expected(place: Path, recipe: Recipe, factor_of_the_fifth: float) -> None:
    """Write what must be read, computed here and not read from the store."""
    rows = []
    for number, sequence in enumerate(SEQUENCES):
        vector = vectors([number], recipe.dtype, factor_of_the_fifth if number == 4 else 1.0)[0]
        key = sequence_key(sequence)
        rows.append({"sequence": sequence.decode(), "key": key_text(key), "vector_hex": vector.tobytes().hex()})
    expected = {"space": "golden", "id": recipe.id, "dim": recipe.dim, "dtype": recipe.dtype, "rows": rows}
    place.with_suffix(".expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
