"""What of a space is live: its commits as they are listed, their segments, and the view over them.

Others publish, merge and remove at any time, and a listing may be older than a commit. So a commit that was there is
gone only if asking for it says so, and where a file has vanished that was live when we listed, we list again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Set
from contextlib import suppress
from typing import TypeVar

from embedstore.errors import CorruptStoreError, StorageError
from embedstore.store.commits import CommitLog, in_age, replaced_by
from embedstore.store.documents import Commit
from embedstore.store.index import KeyIndex, is_index, open_index
from embedstore.store.open_files import OpenFiles
from embedstore.store.segments import Segment
from embedstore.store.signatures import CommitSignatures
from embedstore.store.storage import Storage
from embedstore.store.view import SpaceView

T = TypeVar("T")

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
    ignored_commits : how many lacked a member's signature when it looked last, where signatures are required.
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
        CorruptStoreError : a commit is damaged. FormatVersionError : one needs a newer embedstore.
        """
        with self._lock:
            self._view = self._loaded(self._view)

    def add(self, commit_id: str, commit: Commit) -> None:
        """See a commit that was published just now, whatever a listing says."""
        with self._lock:
            self._known[commit_id] = self._segment(commit_id, commit)
            self._view = self._loaded(self._view)

    def index_with(self, view: SpaceView, index: KeyIndex) -> None:
        """Look up through an index over all of a view from now on: as published, else as it is in memory."""
        with self._lock:
            if self._view is view:  # as published it is mapped, and its memory can be given back
                self._view = SpaceView(view.segments, self._open_base(set(index.commits)) or index)

    def ask(self, question: Callable[[SpaceView], T]) -> T:
        """Ask the current view; where a file has gone since it was made, a new one."""
        return self.looking_again(lambda: question(self.current))

    def looking_again(self, question: Callable[[], T]) -> T:
        """Ask; where a file has gone since we listed what is live, list again, and ask again."""
        for _ in range(_MOST_LOOKS - 1):
            try:
                return question()
            except FileNotFoundError:  # merged away and collected meanwhile
                self.refresh()
        try:
            return question()
        except FileNotFoundError as error:
            raise self._damage(error) from error

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
        """List what is committed, and make the view of it, keeping what is open already."""
        listed = self._listed()
        for commit in self._known.keys() - listed:
            if not self._log.is_there(commit):
                del self._known[commit]
        found = self._log.read(listed - self._known.keys())
        for error in found.unreadable.values():  # what it replaces is not known, so neither is what is live
            raise error
        self._known.update((name, self._segment(name, commit)) for name, commit in found.readable.items())
        commits = {name: segment.commit for name, segment in self._known.items()}
        live = commits.keys() - (replaced_by(commits.values()) if self.pinned is None else set())
        ordered = in_age(commits, live)
        if before and ordered == [segment.commit_id for segment in before.segments]:
            return before
        base = before.base if before and before.base and set(before.base.commits) <= live else None
        base = base or self._open_base(set(live))
        return SpaceView([self._known[commit] for commit in ordered], base)

    def _listed(self) -> Set[str]:
        """Return the commits to read: those that are listed, or pinned, and may be trusted."""
        listed: Set[str] = self._log.ids() if self.pinned is None else self.pinned
        trusted = self._signatures.trusted(listed)
        self.ignored_commits = len(listed) - len(trusted)
        return trusted

    def _segment(self, commit_id: str, commit: Commit) -> Segment:
        return Segment(self._files, self._folder, commit_id, commit, self._row_bytes)

    def _open_base(self, live: set[str]) -> KeyIndex | None:
        """Open the newest published index all of whose segments are live; one that cannot be read is skipped."""
        try:
            entries = self._storage.list(f"{self._folder}index/")
        except StorageError:  # derived, so done without: its folder may be a link that leads out of the store
            return None
        for entry in reversed(entries):
            if is_index(entry.name[len(self._folder) :]):
                with suppress(CorruptStoreError, StorageError, FileNotFoundError):
                    index = open_index(self._storage, entry.name, entry.size_bytes)
                    if set(index.commits) <= live:
                        return index
        return None
