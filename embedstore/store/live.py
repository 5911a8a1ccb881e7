"""The live segments of a space: `SpaceView` is their state at one moment, `LiveView` follows what others publish.

If several segments hold a key, the row in the oldest of them is read.

Others publish, merge and remove at any time, and a listing may be older than a commit. So a commit that was seen before
is gone only if it cannot be read either; and if a file that was live when the space was listed has vanished, the space
is listed again and the look-up repeated.

    Space.contains → LiveView.ask → SpaceView.find → KeyIndex.find → Segment.gather → Blob.rows
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Collection, Sequence, Set
from contextlib import suppress
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import CorruptStoreError, StorageError
from embedstore.records import KEY_BYTES, Keys
from embedstore.storage.open_files import OpenFiles
from embedstore.storage.protocol import Entry, Storage, empty_rows, side_by_side
from embedstore.store.commits import CommitLog, in_age, replaced_by
from embedstore.store.documents import Commit
from embedstore.store.index import KeyIndex, Places, build_index, by_value, is_index, open_index
from embedstore.store.segment_files import as_strings
from embedstore.store.segments import Segment
from embedstore.store.signing import CommitSignatures

T = TypeVar("T")
P = ParamSpec("P")


class SpaceView:
    """Look-up and gathering over the live segments of a space.

    Parameters
    ----------
    segments : live segments, older first.
    base : an index that was published, all of whose segments are live; None when there is none.
    """

    def __init__(self, segments: Sequence[Segment], base: KeyIndex | None) -> None:
        self.segments = tuple(segments)
        self.base = base
        ranks = {segment.commit_id: rank for rank, segment in enumerate(self.segments)}
        self._covered = [self.segments[ranks[commit]] for commit in base.commits] if base else []
        covered = {segment.commit_id for segment in self._covered}
        self._uncovered = [segment for segment in self.segments if segment.commit_id not in covered]
        self.delta = build_index(self._uncovered)
        self._base_ranks, self._delta_ranks = (
            np.array([ranks[segment.commit_id] for segment in some] + [-1], np.int64)  # the last is that of number -1
            for some in (self._covered, self._uncovered)
        )

    def find(self, keys: Keys) -> Places:
        """Look up keys: (rank of the segment or -1, row), both (n,) int64.

        Parameters
        ----------
        keys : (n, 24) uint8.
        """
        numbers, rows = self.delta.find(keys, self._uncovered)
        ranks = self._delta_ranks[numbers]
        if self.base is None:
            return ranks, rows
        numbers, base_rows = self.base.find(keys, self._covered)
        base_ranks = self._base_ranks[numbers]
        older = (base_ranks >= 0) & ((ranks < 0) | (base_ranks < ranks))
        return np.where(older, base_ranks, ranks), np.where(older, base_rows, rows)

    def read(self, keys: Keys, places: Places, row_bytes: int) -> NDArray[np.uint8]:
        """Gather the vectors of keys that `find` found: (n, row_bytes) uint8, each checked.

        Parameters
        ----------
        keys : (n, 24) uint8.
        places : as `find` returned them.
        row_bytes : of a vector.
        """
        ranks, rows = places
        gathered = empty_rows(len(ranks), row_bytes)
        reads = [
            partial(self.segments[rank].read_into, gathered, here, rows[here], keys[here])
            for rank, here in by_value(ranks)
        ]
        at_once = self.segments[0].requests_at_once if self.segments else 1
        for _ in side_by_side(operator.call, reads, at_once):
            pass
        return gathered

    def count(self) -> int:
        """Number of distinct keys."""
        if self.base is None or not len(self.delta):
            return len(self.delta) + (len(self.base) if self.base else 0)
        added = []
        for segment in self._uncovered:
            keys = segment.keys
            added.append(keys[self.base.find(keys, self._covered)[0] < 0])
        return len(self.base) + len(np.unique(as_strings(np.concatenate(added))))

    def keys(self) -> Keys:
        """All distinct keys, sorted: (n, 24) uint8."""
        joined = np.empty((sum(map(len, self.segments)), KEY_BYTES), np.uint8)
        start = 0
        for segment in self.segments:
            joined[start : start + len(segment)] = segment.keys
            start += len(segment)
        _, first = np.unique(as_strings(joined), return_index=True)
        return joined[first]

    def merged_index(self) -> KeyIndex:
        """Build one index over all segments."""
        return build_index(self.segments)


_MOST_LOOKS = 5  # of a reader whose files vanish, before it takes that for damage


class LiveView:
    """The view of what is live, made when it is first needed and brought up to date when asked. For several threads.

    Parameters
    ----------
    folder : `spaces/<id>/`.
    row_bytes : of a vector.
    signatures : which commits count.
    pinned : ids of the commits that count whatever has been published since; None: what is live.

    Attributes
    ----------
    ignored_commits : how many had no member's signature at the last look, where signatures are required.
    """

    def __init__(
        self,
        storage: Storage,
        files: OpenFiles,
        folder: str,
        row_bytes: int,
        signatures: CommitSignatures,
        pinned: Collection[str] | None,
    ) -> None:
        self._storage = storage
        self._files = files
        self._folder = folder
        self._row_bytes = row_bytes
        self._log = CommitLog(storage, folder)
        self._signatures = signatures
        self.pinned = None if pinned is None else frozenset(pinned)
        self.ignored_commits = 0
        self._known: dict[str, Segment] = {}
        """All commits that are there, dead ones too, by id."""
        self._view: SpaceView | None = None
        self._lock = threading.Lock()

    @property
    def is_loaded(self) -> bool:
        """Whether anything has been looked up yet."""
        return self._view is not None

    @property
    def current(self) -> SpaceView:
        """The view as it was made last."""
        if self._view is None:
            self.refresh()
        assert self._view is not None  # noqa: S101 - refresh sets it or raises
        return self._view

    def refresh(self) -> None:
        """See what others have committed, and not what they have removed.

        Raises
        ------
        CorruptStoreError : a commit is damaged.
        FormatVersionError : one needs a newer embedstore.
        """
        with self._lock:
            self._view = self._loaded(self._view)

    def add(self, commit_id: str, commit: Commit) -> None:
        """See a commit that was published just now, whatever a listing says; nothing is listed for it.

        Parameters
        ----------
        commit_id : of the commit.
        commit : as it was published.
        """
        with self._lock:
            self._known[commit_id] = self._segment(commit_id, commit)
            if self._view is not None:
                with suppress(FileNotFoundError):  # of others' segments, removed since they were listed
                    self._view = self._view_of_known(self._view)
                    return
            self._view = self._loaded(self._view)

    def index_with(self, view: SpaceView, index: KeyIndex, published: Entry | None) -> None:
        """Look up through an index over all of a view from now on: as published, else as it is in memory."""
        with self._lock:
            if self._view is view:  # as published it is mapped, and its memory can be given back
                self._view = SpaceView(view.segments, (published and self._opened(published)) or index)

    def ask(self, question: Callable[Concatenate[SpaceView, P], T], *given: P.args, **named: P.kwargs) -> T:
        """Ask the current view; where a file has vanished since it was made, a new one.

        Parameters
        ----------
        question : called with the view and what else is given.
        given : for the question.
        named : for the question, by name.
        """
        looks = 0
        while True:
            try:
                return question(self.current, *given, **named)
            except FileNotFoundError as error:
                looks = self._look_again(looks, error)

    def read(self, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.uint8] | None]:
        """Look up keys and gather their vectors, both in the same view.

        Parameters
        ----------
        keys : (n, 24) uint8.

        Returns
        -------
        The rank of each key's segment, -1 where it is missing; and the vectors, (n, row_bytes) uint8, None if any is.
        """
        looks = 0
        while True:
            try:
                view = self.current
                places = view.find(keys)
                ranks = places[0]
                return ranks, None if (ranks < 0).any() else view.read(keys, places, self._row_bytes)
            except FileNotFoundError as error:
                looks = self._look_again(looks, error)

    def _look_again(self, looks: int, error: FileNotFoundError) -> int:
        """List again what is live, where a file has vanished that was: merged away and collected meanwhile."""
        if looks + 1 == _MOST_LOOKS:
            raise self._damage(error) from error
        self.refresh()
        return looks + 1

    def _damage(self, error: FileNotFoundError) -> CorruptStoreError:
        """A file that is gone although, however often we look, a live commit names it."""
        name = str(error.filename or "").partition(self._folder)[2]
        return CorruptStoreError(f"{self._folder}{name}", "it is gone, and a live commit needs it")

    def _loaded(self, before: SpaceView | None) -> SpaceView:
        """Make the view of what is committed now; others may remove what we have just listed, so look again."""
        for _ in range(_MOST_LOOKS - 1):
            with suppress(FileNotFoundError):
                return self._load(before)
        try:
            return self._load(before)
        except FileNotFoundError as error:
            raise self._damage(error) from error

    def _load(self, before: SpaceView | None) -> SpaceView:
        """List what is committed, or pinned, and may be trusted, and make the view of it."""
        listed: Set[str] = self._log.ids() if self.pinned is None else self.pinned
        trusted = self._signatures.trusted(listed)
        self.ignored_commits = len(listed) - len(trusted)
        for commit in self._known.keys() - trusted:
            if not self._log.is_there(commit):
                del self._known[commit]
        found = self._log.read(trusted - self._known.keys())
        for error in found.unreadable.values():  # what it replaces is not known, so neither is what is live
            raise error
        self._known.update((name, self._segment(name, commit)) for name, commit in found.readable.items())
        return self._view_of_known(before)

    def _view_of_known(self, before: SpaceView | None) -> SpaceView:
        """Make the view of the commits that are known, keeping what is open already."""
        commits = {name: segment.commit for name, segment in self._known.items()}
        live = commits.keys() - (replaced_by(commits.values()) if self.pinned is None else set())
        ordered = in_age(commits, live)
        if before and ordered == [segment.commit_id for segment in before.segments]:
            return before
        base = before.base if before and before.base and set(before.base.commits) <= live else None
        base = base or self._open_base(set(live))
        return SpaceView([self._known[commit] for commit in ordered], base)

    def _segment(self, commit_id: str, commit: Commit) -> Segment:
        return Segment(self._files, self._folder, commit_id, commit, self._row_bytes)

    def _open_base(self, live: set[str]) -> KeyIndex | None:
        """Open the newest published index all of whose segments are live; one that cannot be read is skipped."""
        try:
            entries = self._storage.list(f"{self._folder}index/")
        except StorageError:  # derived, so it is skipped: its folder may be a link that leads out of the store
            return None
        for entry in reversed(entries):
            if is_index(entry.name[len(self._folder) :]):
                index = self._opened(entry)
                if index is not None and set(index.commits) <= live:
                    return index
        return None

    def _opened(self, entry: Entry) -> KeyIndex | None:
        with suppress(CorruptStoreError, StorageError, FileNotFoundError):
            return open_index(self._storage, entry.name, entry.size_bytes)
        return None
