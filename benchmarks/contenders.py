"""The ways in which vectors are kept elsewhere, and ours: each can write a set durably and read some of it back.

What others do is re-created from their public layouts, each in the fastest way that we know of. Those that have no keys
are asked by row, as if somebody had looked the keys up already.
"""

from __future__ import annotations

import io
import os
import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import zarr
from numpy.typing import NDArray

from benchmarks.timing import installed_version
from embedstore.identity import CANONICALISATION, Recipe
from embedstore.records import Canaries, EmbeddingBatch, Keys
from embedstore.store import SegmentFormat, SpaceStore

_BLOCK_ROWS = 8192
_WRITE_BYTES = 1 << 20  # more at once was slower
_PROTEIN_RESIDUES = 330  # mean length


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """Vectors asked for: (q, 24) uint8 keys and (q,) int64 rows of the same vectors."""

    keys: Keys
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, share: float) -> Query:
        """Return the first part of the query, at least one vector."""
        count = max(1, round(len(self) * share))
        return Query(self.keys[:count], self.rows[:count])


class Contender:
    """One way to keep vectors in a folder.

    Attributes
    ----------
    name : in the reports.
    package : that it needs beyond embedstore's own.
    share : part of the work that it is given, its time being scaled up: for the very slow ones.
    """

    name: ClassVar[str]
    package: ClassVar[str | None] = None
    share: ClassVar[float] = 1.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, keys: Keys, vectors: NDArray[np.float32]) -> None:
        """Keep (n, 24) keys and (n, dim) vectors; durable when this returns."""
        raise NotImplementedError

    def open(self) -> None:
        """Make ready for reading."""

    def read(self, query: Query) -> NDArray[np.float32]:
        """Return the vectors of a query, (q, dim), in its order."""
        raise NotImplementedError

    @classmethod
    def obstacle(cls) -> str | None:
        """Why it cannot take part, or None."""
        if cls.package is None or installed_version(cls.package):
            return None
        return f"{cls.package} is not installed"


class MemoryMap(Contender):
    """The limit: raw rows in a file, mapped, and gathered by numpy. No keys, no checks."""

    name = "memory_map"

    def write(self, keys: Keys, vectors: NDArray[np.float32]) -> None:
        content = memoryview(np.asarray(vectors)).cast("B")
        with (self.folder / "vectors.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(vectors))
            for start in range(0, len(content), _WRITE_BYTES):
                file.write(content[start : start + _WRITE_BYTES])
            file.flush()
            os.fsync(file.fileno())

    def open(self) -> None:
        self.vectors = np.asarray(np.load(self.folder / "vectors.npy", mmap_mode="r"))

    def read(self, query: Query) -> NDArray[np.float32]:
        return np.take(self.vectors, query.rows, axis=0)


class EmbedStore(Contender):
    """A space of ours: look-up by key, every row checked against its checksum."""

    layout: ClassVar[SegmentFormat]

    def write(self, keys: Keys, vectors: NDArray[np.float32]) -> None:
        store = SpaceStore.open(self.folder / "store", create=True, segment_format=self.layout)
        recipe = toy_recipe(vectors.shape[1])
        canaries = Canaries(("M",), np.ones((1, recipe.dim), np.float32))
        store.create_space(recipe, "benchmark", canaries).append(EmbeddingBatch(keys, vectors))

    def open(self) -> None:
        self.space = SpaceStore.open(self.folder / "store").space("benchmark")

    def read(self, query: Query) -> NDArray[np.float32]:
        return self.space.read(query.keys)


class EmbedStoreZarr(EmbedStore):
    __doc__ = EmbedStore.__doc__
    name = "embedstore_zarr"
    layout = "zarr"


class EmbedStoreHdf5(EmbedStore):
    __doc__ = EmbedStore.__doc__
    name = "embedstore_hdf5"
    layout = "hdf5"


class Hdf5Matrix(Contender):
    """One contiguous HDF5 dataset through h5py, by row; a loop over rows or a sorted selection, whichever is faster."""

    name = "hdf5_matrix"
    _LOOP_MAX_ROWS = 100

    def write(self, keys: Keys, vectors: NDArray[np.float32]) -> None:
        with h5py.File(self.folder / "matrix.h5", "w") as file:
            dataset = file.create_dataset("vectors", vectors.shape, vectors.dtype)
            for start in range(0, len(vectors), _BLOCK_ROWS):
                dataset[start : start + _BLOCK_ROWS] = vectors[start : start + _BLOCK_ROWS]
        make_durable(self.folder)

    def open(self) -> None:
        self.vectors = h5py.File(self.folder / "matrix.h5", "r")["vectors"]

    def read(self, query: Query) -> NDArray[np.float32]:
        if len(query) <= self._LOOP_MAX_ROWS:
            return np.stack([self.vectors[row] for row in query.rows.tolist()])
        rows, back = np.unique(query.rows, return_inverse=True)
        return self.vectors[rows][back]


class Hdf5DatasetEach(Contender):
    """One HDF5 file, a dataset a sequence, named by hexadecimal key (bio_embeddings, biotrainer, UniProt's files)."""

    name = "hdf5_dataset_each"
    share = 0.05

    def write(self, keys: Keys, vectors: NDArray[np.float32]) -> None:
        with h5py.File(self.folder / "datasets.h5", "w") as file:
            for name, vector in zip(_hex(keys), vectors, strict=True):
                file.create_dataset(name, data=vector)
        make_durable(self.folder)

    def open(self) -> None:
        self.file = h5py.File(self.folder / "datasets.h5", "r")

    def read(self, query: Query) -> NDArray[np.float32]:
        return np.stack([self.file[name][:] for name in _hex(query.keys)])


class Lmdb(Contender):
    """LMDB: key -> raw row, written in key order in one transaction; read with no copy but the one into the result."""

    name = "lmdb"
    package = "lmdb"

    def write(self, keys: Keys, vectors: NDArray[np.float32]) -> None:
        with self._environment(map_size=2 * vectors.nbytes + (64 << 20)) as environment:
            names = _raw(keys)
            with environment.begin(write=True) as transaction:
                for row in sorted(range(len(names)), key=names.__getitem__):
                    transaction.put(names[row], vectors[row].data, append=True)

    def open(self) -> None:
        self.environment = self._environment(readonly=True, lock=False)

    def read(self, query: Query) -> NDArray[np.float32]:
        with self.environment.begin(buffers=True) as transaction:
            return np.stack([np.frombuffer(transaction.get(name), np.float32) for name in _raw(query.keys)])

    def _environment(self, **options: Any) -> Any:
        import lmdb

        return lmdb.open(str(self.folder / "lmdb"), **options)


class Lance(Contender):
    """A Lance dataset of keys and fixed-size lists, its rows taken by number."""

    name = "lance"
    package = "pylance"

    def write(self, keys: Keys, vectors: NDArray[np.float32]) -> None:
        import lance
        import pyarrow

        dim = vectors.shape[1]
        schema = pyarrow.schema(
            {"key": pyarrow.binary(keys.shape[1]), "vector": pyarrow.list_(pyarrow.float32(), dim)}.items()
        )

        def batches() -> Iterator[Any]:
            for start in range(0, len(keys), _BLOCK_ROWS):
                block = np.ascontiguousarray(vectors[start : start + _BLOCK_ROWS])
                names = pyarrow.array(_raw(keys[start : start + _BLOCK_ROWS]), schema.field("key").type)
                values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(block.reshape(-1)), dim)
                yield pyarrow.record_batch([names, values], schema=schema)

        lance.write_dataset(batches(), str(self.folder / "vectors.lance"), schema=schema)
        make_durable(self.folder)

    def open(self) -> None:
        import lance

        self.dataset = lance.dataset(str(self.folder / "vectors.lance"))

    def read(self, query: Query) -> NDArray[np.float32]:
        column = self.dataset.take(query.rows, columns=["vector"]).column("vector").combine_chunks()
        return column.flatten().to_numpy().reshape(len(query), -1)


class Sqlite(Contender):
    """SQLite as FastPLMs keeps it: the sequence as primary key, a blob of dtype, shape and raw numbers.

    In place of a sequence stands a text as long as a protein is on average: the hexadecimal key, repeated.
    """

    name = "sqlite"
    _AT_ONCE = 900

    def write(self, keys: Keys, vectors: NDArray[np.float32]) -> None:
        head = struct.pack("<BBii", 1, 2, 1, vectors.shape[1])  # version, float32, one dimension, its size
        connection = sqlite3.connect(self.folder / "vectors.db")
        with connection:
            connection.execute("CREATE TABLE embeddings (sequence TEXT PRIMARY KEY, embedding BLOB NOT NULL)")
            rows = ((name, head + vector.tobytes()) for name, vector in zip(_texts(keys), vectors, strict=True))
            connection.executemany("INSERT INTO embeddings VALUES (?, ?)", rows)
        connection.close()

    def open(self) -> None:
        self.connection = sqlite3.connect(self.folder / "vectors.db")

    def read(self, query: Query) -> NDArray[np.float32]:
        names = _texts(query.keys)
        found: dict[str, NDArray[np.float32]] = {}
        for start in range(0, len(names), self._AT_ONCE):
            some = names[start : start + self._AT_ONCE]
            statement = f"SELECT sequence, embedding FROM embeddings WHERE sequence IN ({','.join('?' * len(some))})"
            for name, blob in self.connection.execute(statement, some):
                found[name] = np.frombuffer(blob, "<f4", offset=struct.calcsize("<BBii"))
        return np.stack([found[name] for name in names])


class ZarrSharded(Contender):
    """zarr-python on an array in shards of 8 192 rows, whose inner chunks are 16 rows without compression."""

    name = "zarr_sharded"
    share = 0.2
    _chunks: ClassVar[dict[str, int]] = {"chunks": 16, "shards": _BLOCK_ROWS}

    def write(self, keys: Keys, vectors: NDArray[np.float32]) -> None:
        dim = vectors.shape[1]
        array = zarr.create_array(
            self.folder / "vectors.zarr",
            shape=vectors.shape,
            dtype=vectors.dtype,
            compressors=None,
            **{kind: (rows, dim) for kind, rows in self._chunks.items()},
        )
        for start in range(0, len(vectors), _BLOCK_ROWS):
            array[start : start + _BLOCK_ROWS] = vectors[start : start + _BLOCK_ROWS]
        make_durable(self.folder)

    def open(self) -> None:
        self.vectors = zarr.open_array(self.folder / "vectors.zarr", mode="r")

    def read(self, query: Query) -> NDArray[np.float32]:
        return np.asarray(self.vectors.oindex[query.rows])


class ZarrChunked(ZarrSharded):
    """zarr-python on chunk files of 256 rows without compression: many queries read nearly the whole array once."""

    name = "zarr_chunked"
    share = 1.0
    _chunks: ClassVar[dict[str, int]] = {"chunks": 256}


OURS: tuple[type[Contender], ...] = (EmbedStoreZarr, EmbedStoreHdf5)
OTHERS: tuple[type[Contender], ...] = (Hdf5Matrix, Lmdb, Lance, Sqlite, ZarrSharded, ZarrChunked, Hdf5DatasetEach)


def toy_recipe(dim: int) -> Recipe:
    """Return the recipe of a float32 protein space of any dimension."""
    return Recipe(
        model="benchmark",
        source="built-in",
        revision=None,
        weights_sha256=None,
        tokenizer_sha256=None,
        implementation="benchmark/1",
        molecule="protein",
        canonicalisation=CANONICALISATION["protein"],
        layer="none",
        pooling="none",
        pooled_special_tokens=(),
        max_length_tokens=None,
        long="none",
        window_overlap_tokens=None,
        precision="full",
        dtype="float32",
        dim=dim,
    )


def make_durable(folder: Path) -> None:
    """Sync all files below a folder, for writers that do not."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def random_keys(count: int, rng: np.random.Generator) -> Keys:
    """Make keys as evenly spread as digests are: (count, 24) uint8."""
    return np.frombuffer(rng.bytes(count * 24), np.uint8).reshape(count, 24)


def fill_random(vectors: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Fill (n, dim) with numbers, a block at a time."""
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = vectors[start : start + _BLOCK_ROWS]
        block[:] = rng.standard_normal(block.shape, dtype=np.float32)


def _raw(keys: Keys) -> list[bytes]:
    content, size = io.BytesIO(keys.tobytes()), keys.shape[1]
    return [content.read(size) for _ in range(len(keys))]


def _hex(keys: Keys) -> list[str]:
    return [name.hex() for name in _raw(keys)]


def _texts(keys: Keys) -> list[str]:
    repeats = -(-_PROTEIN_RESIDUES // (2 * keys.shape[1]))
    return [(name * repeats)[:_PROTEIN_RESIDUES] for name in _hex(keys)]
