"""All files of one space, and which of them are needed: by live commits, by pins, by readers of the index."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass

from embedstore.errors import CorruptStoreError, FormatVersionError, MissingDependencyError, StorageError
from embedstore.storage.local import TEMPORARY_PREFIX
from embedstore.storage.protocol import Entry, Storage
from embedstore.store.commits import CommitLog, Commits, Condemned, Unreadable, is_document, read_condemned
from embedstore.store.documents import Commit, SpaceDocument, commit_file, commit_in, is_data_file
from embedstore.store.index import is_index, open_index
from embedstore.store.signing import CommitSignatures, Members, Trust

_SIGNATURE = re.compile(r"signatures/([0-9a-f]{64})\.[0-9a-f]{16}\.json")


@dataclass(frozen=True, slots=True)
class Inventory:
    """What lies in a space's folder; names are from there.

    Attributes
    ----------
    files : all of them, with size and time.
    commits : those that can be read, and why others cannot; what those need is not known.
    pinned : ids of commits that a pin keeps.
    condemned : what earlier collections have found unneeded.
    removed : ids of commits of a space that was removed.
    signers : who vouches for each signed commit; one is outweighed only by another that one of the same vouches for.
    unreadable_space : why its document cannot be read; None: it can, or is not there.
    """

    files: Mapping[str, Entry]
    commits: Commits
    pinned: Set[str]
    condemned: tuple[Condemned, ...]
    removed: Set[str]
    signers: Mapping[str, Set[str]]
    unreadable_space: Unreadable | None

    @property
    def live(self) -> set[str]:
        """Ids of the commits whose rows are read."""
        return set(self.commits.live) - self.removed

    @property
    def needed_commits(self) -> set[str]:
        """Ids of the commits whose files stay: live, pinned, or signed and not replaced by those who signed them."""
        readable = self.commits.readable
        outweighed = {
            old
            for name, signers in self.signers.items()
            for old in readable[name].replaces
            if not signers.isdisjoint(self.signers.get(old, ()))
        }
        kept_by_signature = self.signers.keys() - outweighed - self.removed
        return self.live | (self.pinned & readable.keys()) | kept_by_signature

    def size_bytes(self, commit: Commit) -> int:
        """Bytes that the files of a commit take, whatever it says itself."""
        return sum(self.files[file].size_bytes for file in commit.files if file in self.files)

    def unneeded(self) -> set[str]:
        """Files that nothing needs: dead commits, their data and signatures, what crashed writers left, temporary ones.

        Indexes and documents of the collection itself are not included, nor is anything that embedstore never writes.
        Of a space whose document cannot be read, nothing is.
        """
        if self.unreadable_space is not None:
            return set()
        needed = self.needed_commits
        kept = {file for commit in needed for file in self.commits.readable[commit].files}
        there = needed | self.hiding(needed)
        return {name for name in self.files if name not in kept and self._is_unneeded(name, there)}

    def hiding(self, kept: Set[str]) -> set[str]:
        """Ids of the commits that make commits dead that stay, or that make those dead; their data is not needed."""
        replacing: dict[str, list[str]] = {}
        for name, commit in self.commits.readable.items():
            for old in commit.replaces:
                replacing.setdefault(old, []).append(name)
        hiding: set[str] = set()
        pending = list(kept)
        while pending:
            found = [name for name in replacing.get(pending.pop(), []) if name not in hiding]
            hiding.update(found)
            pending += found
        return hiding

    def removable(self, due: Set[str]) -> set[str]:
        """Leave those commits out of what is due, with their signatures, that make others dead which stay for now."""
        hiding = self.hiding({name for name in self.commits.readable if commit_file(name) not in due})
        return {name for name in due if _commit_of(name) not in hiding}

    def own_files(self) -> set[str]:
        """All files that embedstore wrote, but for the space's document and those of the collection."""
        return {name for name in self.files if _is_temporary(name) or is_index(name) or _owner_known(name)}

    def _is_unneeded(self, name: str, there: Set[str]) -> bool:
        """Tell whether nothing needs a file, where some commits stay."""
        if _is_temporary(name):
            return True
        commit = _commit_of(name)
        if commit is not None:
            is_known = commit in self.commits.readable or commit_in(name) is None
            return is_known and commit not in there and commit not in self.commits.unreadable
        return is_data_file(name) and not self.commits.unreadable

    def age_ns(self, name: str, now_ns: int) -> int:
        """Return how long ago the newest file of the same segment, or that file, was written."""
        nonce = name.split("/")[1] if name.startswith("data/") and name.count("/") > 1 else None
        if nonce is None:
            return now_ns - self.files[name].modified_ns
        prefix = f"data/{nonce}/"
        return now_ns - max(entry.modified_ns for file, entry in self.files.items() if file.startswith(prefix))

    def condemned_ns(self, document: Condemned) -> int:
        """Return since when files stand condemned: not before they were written, whatever a clock said meanwhile."""
        written = (self.files[name].modified_ns for name in document.files if name in self.files)
        return max([document.since_ns, *written])


def take_inventory(storage: Storage, folder: str, pinned: Set[str], members: Members | None = None) -> Inventory:
    """List and read what lies in a space's folder.

    Parameters
    ----------
    storage : of the store.
    folder : `spaces/<id>/`.
    pinned : ids of its commits that a pin keeps.
    members : those whose signatures count, as one; None: everybody's count, each for what the same key has signed.
    """
    files = {entry.name[len(folder) :]: entry for entry in storage.walk(folder)}
    listed = {commit for name in files if (commit := commit_in(name)) is not None}
    commits = CommitLog(storage, folder).read(listed, whatever_refuses=True)
    condemned = []
    for name, entry in files.items():
        if is_document(name):
            with suppress(FileNotFoundError, CorruptStoreError, StorageError):  # what cannot be read condemns nothing
                condemned.append(read_condemned(storage, entry))
    named = {commit for each in condemned for name in each.files if (commit := commit_in(name)) is not None}
    signers = _members_signed(storage, folder, listed, members) if members else _signers(storage, folder, files)
    return Inventory(
        files=files,
        commits=commits,
        pinned=pinned,
        condemned=tuple(condemned),
        removed=set() if "space.json" in files else named & commits.readable.keys(),
        signers={commit: keys for commit, keys in signers.items() if commit in commits.readable},
        unreadable_space=_why_unreadable(storage, f"{folder}space.json") if "space.json" in files else None,
    )


def _why_unreadable(storage: Storage, file: str) -> Unreadable | None:
    try:
        SpaceDocument.from_bytes(file, storage.read(file))
    except (CorruptStoreError, FormatVersionError, StorageError) as error:
        return error
    except FileNotFoundError:  # removed since the listing
        return None
    return None


def _members_signed(storage: Storage, folder: str, commits: Set[str], members: Members) -> dict[str, Set[str]]:
    trusted = CommitSignatures(storage, folder, Trust(members=members)).trusted(commits)
    return {commit: {"a member"} for commit in trusted}


def _signers(storage: Storage, folder: str, files: Mapping[str, Entry]) -> dict[str, Set[str]]:
    """Return the fingerprints of the keys that have signed each commit.

    One that cannot be checked, or read, counts for its commit, and outweighs no other.
    """
    signatures = CommitSignatures(storage, folder, Trust())
    signers: dict[str, set[str]] = {}
    for name, match in _matches(files):
        try:
            with suppress(FileNotFoundError, CorruptStoreError, FormatVersionError):
                found = signatures.read(f"{folder}{name}")
                if found.valid:
                    signers.setdefault(match[1], set()).add(found.key.fingerprint)
        except (MissingDependencyError, StorageError):
            signers.setdefault(match[1], set()).add(match[1])
    return dict(signers)


def _matches(files: Mapping[str, Entry]) -> Iterator[tuple[str, re.Match[str]]]:
    for name in files:
        match = _SIGNATURE.fullmatch(name)
        if match is not None:
            yield name, match


def _commit_of(name: str) -> str | None:
    """Return the id of the commit that a file is, or a signature of."""
    signature = _SIGNATURE.fullmatch(name)
    return commit_in(name) if signature is None else signature[1]


def _is_temporary(name: str) -> bool:
    return name.rpartition("/")[2].startswith(TEMPORARY_PREFIX)


def _owner_known(name: str) -> bool:
    return commit_in(name) is not None or is_data_file(name) or _SIGNATURE.fullmatch(name) is not None


def in_order_of_removal(inventory: Inventory, names: Set[str]) -> list[str]:
    """Sort commits first, each before the one that replaces it, then all other files.

    Parameters
    ----------
    inventory : of the space.
    names : of files, from the space's folder.
    """
    commits = {commit for name in names if (commit := commit_in(name)) is not None}
    others = sorted(name for name in names if commit_in(name) is None)
    ordered: list[str] = []
    for commit in sorted(commits):
        stack = [(commit, False)]
        while stack:
            current, done = stack.pop()
            if done:
                ordered.append(commit_file(current))
            elif current in commits:
                commits.discard(current)
                known = inventory.commits.readable.get(current)
                stack.append((current, True))
                stack += [(old, False) for old in (known.replaces if known else ())]
    return ordered + others


def stale_indexes(storage: Storage, folder: str, inventory: Inventory) -> list[str]:
    """Return indexes that no reader takes: damaged, of commits that are not live, or older than one that is taken.

    Parameters
    ----------
    storage : of the store.
    folder : `spaces/<id>/`.
    inventory : of the space.
    """
    if inventory.unreadable_space is not None or inventory.commits.unreadable:
        return []
    live = inventory.live
    stale: list[str] = []
    taken = False
    for name in sorted((name for name in inventory.files if is_index(name)), reverse=True):
        try:
            entry = inventory.files[name]
            good = not taken and set(open_index(storage, entry.name, entry.size_bytes).commits) <= live
        except (FileNotFoundError, StorageError):
            continue
        except CorruptStoreError:
            good = False
        if good:
            taken = True
        else:
            stale.append(name)
    return stale
