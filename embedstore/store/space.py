"""A space: all vectors made by one recipe. It may have upstream stores behind it, which hold more of them.

Appending publishes a segment: first its data under a name never used before, then the commit, which is read back; only
then is it acknowledged. A crash at any point leaves the whole segment or an orphan that nothing refers to.
"""

from __future__ import annotations

import html
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import CorruptStoreError, InputError, MissingEmbeddingError, StorageError, plain
from embedstore.identity import KeysLike, Molecule, Recipe, as_keys, key_text
from embedstore.records import Canaries, EmbeddingBatch, Keys, Vectors
from embedstore.storage.open_files import OpenFiles
from embedstore.storage.protocol import Entry, Storage
from embedstore.store.commits import CommitLog
from embedstore.store.documents import Commit, SegmentFormat, SpaceDocument, checked_provenance, space_file
from embedstore.store.index import KeyIndex, is_index
from embedstore.store.live import LiveView, SpaceView
from embedstore.store.segment_files import SegmentFiles, SortedRows, as_strings
from embedstore.store.segments import Segment, write_segment
from embedstore.store.signing import NO_TRUST, CommitSignatures, Trust

_ALWAYS_INDEXED_KEYS = 2_000_000  # writing their index takes a fraction of a second
_MAX_UNCOVERED_SEGMENTS = 16
_MAX_UNCOVERED_SEGMENTS_OF_A_WRITER = 64  # a long fill would keep their index in memory, and merge it at each commit
_MAX_UNCOVERED_SHARE = 0.25
_COMPARED_BYTES = 4 << 20  # comparing takes several times as much memory


@dataclass(frozen=True, slots=True)
class SpaceInfo:
    """What a space holds and what it cost."""

    rows: int
    size_bytes: int
    segments: int
    compute_seconds: float
    residues: int
    """Residues or bases embedded."""


class SpaceUpstream(Protocol):
    """What lies behind a space: other stores with vectors of its recipe; see `sharing.tiers`."""

    def contains(self, keys: Keys) -> NDArray[np.bool_]:
        """Tell for each key whether one of the stores has its vector: (n,) bool.

        Parameters
        ----------
        keys : (n, 24) uint8.
        """
        ...

    def read_into(self, vectors: Vectors, rows: NDArray[np.int64], keys: Keys) -> NDArray[np.bool_]:
        """Put the vectors of keys into some rows of an array, and tell which were found: (n,) bool.

        Parameters
        ----------
        vectors : to be filled.
        rows : (n,) those that the keys belong to.
        keys : (n, 24) uint8.
        """
        ...

    def refresh(self) -> None:
        """See what has been added to the stores."""
        ...

    def settle(self) -> None:
        """Store in the local store what was found upstream and not stored yet."""
        ...


class Space:
    """Vectors of one recipe; get one from a store. May be used from several threads.

    Its counts, its segments, and what is written are those of the local store, whatever lies behind it.

    Parameters
    ----------
    storage : where the store lies.
    files : its open files.
    document : what the space is.
    segment_format : how new segments are written.
    pinned : ids of the commits that it consists of, whatever has been published since; None: the live ones.
    trust : who signs what is published, and whose signature what is read must have.
    is_made : whether the local store has the space; it is made when the first vector is stored.

    Attributes
    ----------
    name : what it is called.
    id : SHA-256 of the recipe.
    recipe : what determined the vectors.
    molecule : "dna" or "protein".
    dim : length of a vector.
    dtype : of the vectors.
    canaries : sequences with their vectors, by which a model is recognised.
    storage : where the store lies.
    folder : of the space, in the storage.
    signatures : of its commits.
    segment_format : "zarr" or "hdf5": how new segments are written.
    upstream : where keys are looked up that it does not hold; None: nowhere.
    """

    def __init__(
        self,
        storage: Storage,
        files: OpenFiles,
        document: SpaceDocument,
        segment_format: SegmentFormat,
        pinned: Collection[str] | None = None,
        trust: Trust = NO_TRUST,
        *,
        is_made: bool = True,
    ) -> None:
        self.upstream: SpaceUpstream | None = None
        self.is_made = is_made
        self.storage = storage
        self._document = document
        self.segment_format: SegmentFormat = segment_format
        self.folder = f"spaces/{document.recipe.id}/"
        self._trust = trust
        self.signatures = CommitSignatures(storage, self.folder, trust)
        self.name = document.name
        self.recipe: Recipe = document.recipe
        self.id = document.recipe.id
        self.dim = document.recipe.dim
        self.dtype: np.dtype[Any] = np.dtype(document.recipe.dtype)
        self.molecule: Molecule = document.recipe.molecule
        self.canaries: Canaries = document.canaries
        row_bytes = self.dim * self.dtype.itemsize
        self._live = LiveView(storage, files, self.folder, row_bytes, self.signatures, pinned)

    @property
    def ignored_commits(self) -> int:
        """How many commits had no member's signature at the last look, where signatures are required."""
        return self._live.ignored_commits

    def __len__(self) -> int:
        return self._live.ask(SpaceView.count)

    def __contains__(self, key: object) -> bool:
        return bool(self.contains([key])[0])  # type: ignore[list-item]  # what is not a key is an InputError

    def keys(self) -> Keys:
        """All keys, sorted: (n, 24) uint8."""
        return self._live.ask(SpaceView.keys)

    def contains(self, keys: KeysLike) -> NDArray[np.bool_]:
        """Tell for each key whether it has a vector: (n,) bool.

        Parameters
        ----------
        keys : as for `read`.

        Raises
        ------
        InputError : one key in place of several, or something that is not a key.
        """
        keys = as_keys(keys)
        present = self._live.ask(SpaceView.find, keys)[0] >= 0
        if self.upstream is not None and not present.all():
            missing = np.flatnonzero(~present)
            present[missing] = self.upstream.contains(keys[missing])
        return present

    def missing(self, keys: KeysLike) -> Keys:
        """Return those keys that have no vector, in the order given: (m, 24) uint8.

        Parameters
        ----------
        keys : as for `read`.

        Raises
        ------
        InputError : one key in place of several, or something that is not a key.
        """
        keys = as_keys(keys)
        return keys[~self.contains(keys)]

    def read(self, keys: KeysLike) -> Vectors:
        """Read vectors, each from the first store that has it; what is damaged upstream counts as missing there.

        Parameters
        ----------
        keys : (n, 24) uint8, or a list of keys as 24 bytes or text (`SQ.…`, or 48 hexadecimal digits); in any order,
            repeated or not.

        Returns
        -------
        (n, dim) in the space's dtype, in the order of `keys`.

        Raises
        ------
        InputError : one key in place of several, or something that is not a key.
        MissingEmbeddingError : a key has no vector.
        CorruptStoreError : its bytes are damaged or gone.
        """
        keys = as_keys(keys)
        if self.upstream is not None:
            self.upstream.settle()
        just_loaded = not self._live.is_loaded
        ranks, rows = self._live.read(keys)
        if rows is None and not just_loaded:
            self.refresh()  # somebody may have filled it since
            ranks, rows = self._live.read(keys)
        if rows is None:
            return self._read_upstream_too(keys, ranks)
        vectors: Vectors = rows.view(self.dtype.newbyteorder("<"))
        return vectors

    def append(self, batch: EmbeddingBatch, provenance: Mapping[str, Any] | None = None) -> int:
        """Add vectors as one segment; durable when this returns.

        Keys that the space has already are left out, after their vectors were compared: what was read once stays.

        Parameters
        ----------
        batch : vectors in the space's dim and dtype.
        provenance : JSON values kept in the commit; `compute_seconds` and `letters` are added up by `info`.

        Returns
        -------
        Number of rows added.

        Raises
        ------
        InputError : wrong dim or dtype, provenance that is not JSON, or two vectors for one key that differ beyond
            the recipe's tolerance.
        """
        self._refuse_other_shape(batch)
        provenance = checked_provenance(provenance or {})
        batch = self._without_present(self._without_repeated(batch))
        if not len(batch):
            return 0

        def write() -> Commit:
            files = self.write_files(SortedRows.of(batch))
            self._refuse_different_from_present(batch)  # what others committed while we wrote stays older than ours
            newest = max((segment.commit.created_ns for segment in self._live.current.segments), default=0)
            return files.commit(self.id, max(files.written_ns, newest + 1), provenance)

        self.publish(write)
        if len(self._live.current.delta.commits) >= _MAX_UNCOVERED_SEGMENTS_OF_A_WRITER:
            self.optimise()
        return len(batch)

    def refresh(self) -> None:
        """See what others have committed, and no longer what they have removed; now and then in upstream stores too.

        Raises
        ------
        CorruptStoreError : a commit is damaged.
        """
        self._live.refresh()
        if self.upstream is not None:
            self.upstream.refresh()

    def settle(self) -> None:
        """Store what was found upstream and not stored yet."""
        if self.upstream is not None:
            self.upstream.settle()

    def segments(self, *, refresh: bool = True) -> tuple[Segment, ...]:
        """What is live now, older first.

        Parameters
        ----------
        refresh : look what others have committed; False: as it was known last, for callers who have just looked.
        """
        if refresh:
            self.refresh()
        return self._live.current.segments

    def sources(self, keys: KeysLike) -> list[Segment]:
        """Return the local segment that each key is read from, whose commit says when and how it was computed.

        Parameters
        ----------
        keys : as for `read`.

        Raises
        ------
        InputError : one key in place of several, or something that is not a key.
        MissingEmbeddingError : a key has no vector in the local store.
        """
        keys = as_keys(keys)
        if not (self._live.ask(SpaceView.find, keys)[0] >= 0).all():
            self.refresh()  # somebody may have filled it since
        view, (ranks, _) = self._live.ask(lambda view: (view, view.find(keys)))
        if (ranks < 0).any():
            raise self._missing_error(keys, np.flatnonzero(ranks < 0))
        return [view.segments[rank] for rank in ranks.tolist()]

    def mergeable(self, segments: Sequence[Segment]) -> list[bool]:
        """Tell for each segment whether it may be merged with others; see `CommitSignatures.mergeable`.

        Parameters
        ----------
        segments : of this space.
        """
        allowed = self.signatures.mergeable({segment.commit_id for segment in segments})
        return [segment.commit_id in allowed for segment in segments]

    def write_files(self, rows: SortedRows) -> SegmentFiles:
        """Write the files of a new segment, which is part of the space when a commit names it; see `write_segment`.

        Parameters
        ----------
        rows : sorted by key.
        """
        about = {"space": self.name, "space_id": self.id, "recipe": self.recipe.to_json()}
        return write_segment(self.storage, self.folder, rows, self.segment_format, {"embedstore": about})

    def publish(
        self, write: Callable[[], Commit | None], sign: Callable[[Commit], None] | None = None
    ) -> Commit | None:
        """Write a segment and its commit, and see it at once; see `CommitLog.publish`.

        Where the local store does not have the space yet, it is made.

        Parameters
        ----------
        write : writes the files of the segment, and returns its commit; None if there is nothing to publish.
        sign : writes the signatures of a commit; None: as the store's trust says.

        Raises
        ------
        InputError : the space is read as it was pinned, or signatures are required and there is no key to sign with.
        StorageError : it has been removed meanwhile.
        """
        if self._live.pinned is not None:
            raise InputError(f"Cannot add to space {self.name}: it is read as it was pinned. Open the store itself.")
        if sign is None:
            self._trust.refuse_unsigned(self.name)
        if not self.is_made:
            self.storage.write(space_file(self.id), [self._document.to_bytes()])
            self.is_made = True
        commit = CommitLog(self.storage, self.folder).publish(write, sign or self.signatures.sign)
        try:
            self.storage.entry(f"{self.folder}space.json")
        except FileNotFoundError:
            raise StorageError(
                f"Cannot add to space {self.name}: it was removed meanwhile. Start again to create it again."
            ) from None
        if commit is not None:
            self._live.add(commit.id, commit)
        return commit

    def check_files(self) -> None:
        """Look whether all files of the live segments are there, by their names and sizes; nothing of them is read.

        Raises
        ------
        CorruptStoreError : one is gone, or has another size.
        """
        self._live.ask(self._check_files)

    def _check_files(self, view: SpaceView) -> None:
        there = {entry.name: entry.size_bytes for entry in self.storage.walk(f"{self.folder}data/")}
        for segment in view.segments:
            for file, fact in segment.commit.files.items():
                name = f"{self.folder}{file}"
                size_bytes = there.get(name)
                if size_bytes is None:  # in an old listing, perhaps; if not, the caller looks again what is live
                    size_bytes = self.storage.entry(name).size_bytes
                if size_bytes != fact.size_bytes:
                    raise CorruptStoreError(name, f"expected {fact.size_bytes} bytes, found {size_bytes}")

    def optimise(self) -> None:
        """Publish the merged index if opening would profit; it is derived, so a member who may only read skips it."""
        view = self._live.current
        covered = len(view.base) if view.base else 0
        uncovered = len(view.delta.commits)
        large = covered + len(view.delta) > _ALWAYS_INDEXED_KEYS
        few = uncovered < _MAX_UNCOVERED_SEGMENTS and len(view.delta) < covered * _MAX_UNCOVERED_SHARE
        if not uncovered or (large and few) or self._live.pinned is not None:
            return
        view, index = self._live.ask(lambda view: (view, view.merged_index()))
        published = None
        with suppress(StorageError, FileNotFoundError):  # the latter: collected while it was written
            published = self._publish_index(index)
        self._live.index_with(view, index, published)

    def info(self) -> SpaceInfo:
        """Count rows, bytes and segments, and add up what the commits say they cost."""
        commits = [segment.commit for segment in self._live.current.segments]
        return SpaceInfo(
            rows=len(self),
            size_bytes=sum(commit.size_bytes for commit in commits),
            segments=len(commits),
            compute_seconds=sum(float(commit.provenance.get("compute_seconds", 0)) for commit in commits),
            residues=sum(int(commit.provenance.get("letters", 0)) for commit in commits),
        )

    def __repr__(self) -> str:
        count = f"{len(self):,} {self.molecule} vectors, {self.dim} × {self.dtype}"
        return plain(f"<Space {self.name} ({self.id[:8]}…): {count}>")

    def _repr_html_(self) -> str:
        facts = {
            "id": f"{self.id[:16]}…",
            "molecule": self.molecule,
            "vectors": f"{len(self):,} of {self.dim} {self.dtype}",
            "model": f"{self.recipe.model} ({self.recipe.source})",
            "pooling": self.recipe.pooling,
            "precision": self.recipe.precision,
        }
        rows = "".join(
            f"<tr><th>{name}</th><td>{html.escape(plain(str(fact)))}</td></tr>" for name, fact in facts.items()
        )
        return f"<table><caption>Space <b>{html.escape(plain(self.name))}</b></caption>{rows}</table>"

    def _read_upstream_too(self, keys: Keys, ranks: NDArray[np.int64]) -> Vectors:
        """Read keys of which the local store does not have all; `ranks` is -1 for those."""
        missing = np.flatnonzero(ranks < 0)
        vectors = np.empty((len(keys), self.dim), self.dtype.newbyteorder("<"))
        if self.upstream is not None:
            here = np.flatnonzero(ranks >= 0)
            vectors[here] = self._read_here(keys[here])
            missing = missing[~self.upstream.read_into(vectors, missing, keys[missing])]
        if len(missing):
            raise self._missing_error(keys, missing)
        self.settle()
        return vectors

    def _read_here(self, keys: Keys) -> Vectors:
        """Read keys that the local store has."""
        ranks, rows = self._live.read(keys)
        if rows is None:
            raise self._missing_error(keys, np.flatnonzero(ranks < 0))
        vectors: Vectors = rows.view(self.dtype.newbyteorder("<"))
        return vectors

    def _missing_error(self, keys: Keys, rows: NDArray[np.int64]) -> MissingEmbeddingError:
        labels = [key_text(key.tobytes()) for key in keys[rows]]
        return MissingEmbeddingError(self.name, labels, requested=len(keys))

    def _publish_index(self, index: KeyIndex) -> Entry:
        folder = f"{self.folder}index/"
        listed = [entry.name for entry in self.storage.list(folder)]
        older = [name for name in listed if is_index(name[len(self.folder) :])]
        newest = max((segment.commit.created_ns for segment in self._live.current.segments), default=0)
        written = self.storage.write(f"{folder}{newest:020d}-{uuid.uuid4().hex}.idx", index.parts())
        for name in older:
            self.storage.delete(name)
        return written

    def _refuse_other_shape(self, batch: EmbeddingBatch) -> None:
        dim, dtype = batch.vectors.shape[1], batch.vectors.dtype
        if dim != self.dim or dtype != self.dtype:
            raise InputError(
                f"Cannot append to space {self.name} ({self.id[:8]}…): expected vectors of {self.dim} {self.dtype}, "
                f"found {dim} {dtype}. Open the space made for this model."
            )

    def _without_repeated(self, batch: EmbeddingBatch) -> EmbeddingBatch:
        strings = as_strings(batch.keys)
        ordered = np.sort(strings)
        if (ordered[1:] != ordered[:-1]).all():
            return batch
        _, first, which = np.unique(strings, return_index=True, return_inverse=True)
        again = np.flatnonzero(first[which] != np.arange(len(batch)))
        self._refuse_different(batch.keys[again], batch.vectors[again], batch.vectors[first[which[again]]])
        first = np.sort(first)
        return EmbeddingBatch(batch.keys[first], batch.vectors[first])

    def _without_present(self, batch: EmbeddingBatch) -> EmbeddingBatch:
        present = self._refuse_different_from_present(batch)
        return EmbeddingBatch(batch.keys[~present], batch.vectors[~present]) if present.any() else batch

    def _refuse_different_from_present(self, batch: EmbeddingBatch) -> NDArray[np.bool_]:
        """Compare with what is committed by now; return for each key whether it is there."""
        self.refresh()
        present = self._live.ask(SpaceView.find, batch.keys)[0] >= 0  # here, whatever upstream stores have
        here = np.flatnonzero(present)
        step = max(1, _COMPARED_BYTES // (self.dim * self.dtype.itemsize))
        for start in range(0, len(here), step):
            some = here[start : start + step]
            keys = batch.keys[some]
            self._refuse_different(keys, batch.vectors[some], self._read_here(keys))
        return present

    def _refuse_different(self, keys: Keys, some: Vectors, others: Vectors) -> None:
        largest = np.abs(others).max(axis=1, initial=0).astype(np.float64)
        difference = np.abs(some.astype(np.float64) - others).max(axis=1, initial=0)
        beyond = np.flatnonzero(difference > self.recipe.tolerance * largest)
        if len(beyond):
            row = beyond[0]
            raise InputError(
                f"Cannot append to space {self.name}: {len(beyond)} keys have another vector already, first "
                f"{key_text(keys[row].tobytes())}: expected a difference of at most "
                f"{self.recipe.tolerance * largest[row]:.2g}, found {difference[row]:.2g}. "
                "The recipe no longer describes what computed them."
            )
