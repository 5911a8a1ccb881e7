"""What of a space is live: its commits as they are listed, their segments, and the view over them.

Others publish, merge and remove at any time, and a listing may be older than a commit. So a commit that was there is
gone only if asking for it says so, and where a file has vanished that was live when we listed, we list again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence, Set
from contextlib import suppress
from typing import TypeVar

from embedstore.errors import CorruptStoreError
from embedstore.store.documents import Commit, commit_id, is_commit
from embedstore.store.index import KeyIndex, open_index
from embedstore.store.open_files import OpenFiles
from embedstore.store.segments import Segment
from embedstore.store.signatures import CommitSignatures
from embedstore.store.storage import Storage, side_by_side
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
        """See what others have committed, and not what they have removed; CorruptStoreError for a damaged commit."""
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
            if not self._is_there(commit):
                del self._known[commit]
        self._known.update(self._read_commits(sorted(listed - self._known.keys())))
        dead = {old for each in self._known.values() for old in each.commit.replaces}
        live = self._known.keys() - (dead if self.pinned is None else set())
        ordered = sorted(live, key=lambda commit: (self._known[commit].commit.created_ns, commit))
        if before and ordered == [segment.commit_id for segment in before.segments]:
            return before
        base = before.base if before and before.base and set(before.base.commits) <= live else None
        base = base or self._open_base(set(live))
        return SpaceView([self._known[commit] for commit in ordered], base)

    def _listed(self) -> Set[str]:
        """Return the commits to read: those that are listed, or pinned, and may be trusted."""
        listed: Set[str]
        if self.pinned is not None:
            listed = self.pinned
        else:
            entries = self._storage.list(f"{self._folder}commits/")
            listed = {commit_id(entry.name) for entry in entries if is_commit(entry.name)}
        trusted = self._signatures.trusted(listed)
        self.ignored_commits = len(listed) - len(trusted)
        return trusted

    def _is_there(self, commit: str) -> bool:
        """Ask for one commit: a listing may be older than it (network file systems keep listings for seconds)."""
        try:
            self._storage.entry(f"{self._folder}commits/{commit}.json")
        except FileNotFoundError:
            return False
        return True

    def _read_commits(self, commits: Sequence[str]) -> Iterator[tuple[str, Segment]]:
        def read(commit: str) -> Segment | None:
            name = f"{self._folder}commits/{commit}.json"
            try:
                return self._segment(commit, Commit.from_bytes(name, self._storage.read(name)))
            except FileNotFoundError:  # replaced and collected since the listing
                return None

        for commit, segment in zip(commits, side_by_side(read, commits, self._storage.requests_at_once), strict=True):
            if segment is not None:
                yield commit, segment

    def _segment(self, commit_id: str, commit: Commit) -> Segment:
        name = f"{self._folder}commits/{commit_id}.json"
        if f"spaces/{commit.space_id}/" != self._folder:
            raise CorruptStoreError(name, f"expected a commit of {self._folder}, found one of space {commit.space_id}")
        return Segment(self._files, self._folder, commit_id, commit, self._row_bytes)

    def _open_base(self, live: set[str]) -> KeyIndex | None:
        """Open the newest published index all of whose segments are live; a damaged one is passed over."""
        for entry in reversed(self._storage.list(f"{self._folder}index/")):
            if entry.name.endswith(".idx"):
                with suppress(CorruptStoreError, FileNotFoundError):
                    index = open_index(self._storage, entry.name, entry.size_bytes)
                    if set(index.commits) <= live:
                        return index
        return None
