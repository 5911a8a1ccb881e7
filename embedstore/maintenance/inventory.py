"""All files of one space, and what of them is needed: by live commits, by pins, by readers of the index."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass

from embedstore.errors import CorruptStoreError
from embedstore.store.condemned import Condemned, read_condemned
from embedstore.store.documents import Commit, commit_id, is_commit
from embedstore.store.index import open_index
from embedstore.store.local import TEMPORARY_PREFIX
from embedstore.store.signatures import CommitSignatures, Trust
from embedstore.store.signing_keys import Members
from embedstore.store.storage import Entry, Storage, side_by_side

_DATA = re.compile(r"data/[0-9a-f]{32}[./].*")
_INDEX = re.compile(r"index/.*\.idx")
_SIGNATURE = re.compile(r"signatures/([0-9a-f]{64})\..*\.json")


@dataclass(frozen=True, slots=True)
class Inventory:
    """What lies in a space's folder; names are from there.

    Attributes
    ----------
    files : all of them, with size and time.
    commits : those that can be read, by id.
    damaged : commits that cannot: what they need is not known.
    pinned : ids of commits that a pin keeps.
    condemned : what earlier collections have found unneeded.
    removed : ids of commits of a space that was removed.
    signed : ids of commits that members have signed, or where nobody knows the members, anybody.
    """

    files: Mapping[str, Entry]
    commits: Mapping[str, Commit]
    damaged: tuple[str, ...]
    pinned: Set[str]
    condemned: tuple[Condemned, ...]
    removed: Set[str]
    signed: Set[str]

    @property
    def live(self) -> set[str]:
        """Ids of the commits whose rows are read."""
        replaced = {old for commit in self.commits.values() for old in commit.replaces}
        return set(self.commits) - replaced - self.removed

    @property
    def needed_commits(self) -> set[str]:
        """Ids of the commits whose files stay: live, pinned, or signed where what replaces them is not."""
        replaced_by_signed = {old for name in self.signed for old in self.commits[name].replaces}
        trusted_only = self.signed - replaced_by_signed - self.removed
        return self.live | (self.pinned & self.commits.keys()) | trusted_only

    def unneeded(self) -> set[str]:
        """Files that nothing needs: dead commits, their data and signatures, what crashed writers left, temporary ones.

        Indexes and documents of the collection itself are not among them, nor is anything that embedstore never writes.
        """
        needed = self.needed_commits
        kept = {file for commit in needed for file in self.commits[commit].files}
        return {name for name in self.files if name not in kept and self._is_unneeded(name, needed)}

    def _is_unneeded(self, name: str, needed: Set[str]) -> bool:
        if name.rpartition("/")[2].startswith(TEMPORARY_PREFIX):
            return True
        if is_commit(name) and name.startswith("commits/"):
            return commit_id(name) in self.commits and commit_id(name) not in needed
        signature = _SIGNATURE.fullmatch(name)
        if signature is not None:
            return signature[1] not in needed and f"commits/{signature[1]}.json" not in self.damaged
        return _DATA.fullmatch(name) is not None and not self.damaged

    def age_ns(self, name: str, now_ns: int) -> int:
        """Return how long ago the newest file of the same segment, or that file, was written."""
        nonce = name.split("/")[1] if name.startswith("data/") and name.count("/") > 1 else None
        if nonce is None:
            return now_ns - self.files[name].modified_ns
        prefix = f"data/{nonce}/"
        return now_ns - max(entry.modified_ns for file, entry in self.files.items() if file.startswith(prefix))


def take_inventory(storage: Storage, folder: str, pinned: Set[str], members: Members | None = None) -> Inventory:
    """List and read what lies in a space's folder.

    Parameters
    ----------
    folder : `spaces/<id>/`.
    pinned : ids of its commits that a pin keeps.
    members : those whose signatures count; None: every signature counts, unchecked.
    """
    files = {entry.name.removeprefix(folder): entry for entry in storage.walk(folder)}
    names = [name for name in files if name.startswith("commits/") and is_commit(name)]

    def read(name: str) -> Commit | CorruptStoreError | None:
        try:
            return Commit.from_bytes(f"{folder}{name}", storage.read(f"{folder}{name}"))
        except CorruptStoreError as error:
            return error
        except FileNotFoundError:  # collected since the listing
            return None

    found = dict(zip(names, side_by_side(read, names, storage.requests_at_once), strict=True))
    commits = {commit_id(name): commit for name, commit in found.items() if isinstance(commit, Commit)}
    condemned = []
    for name, entry in files.items():
        if name.startswith("gc/") and name.endswith(".json"):
            with suppress(FileNotFoundError, CorruptStoreError):  # a damaged one condemns nothing
                condemned.append(read_condemned(storage, entry))
    named = {commit_id(name) for each in condemned for name in each.files if is_commit(name)}
    return Inventory(
        files=files,
        commits=commits,
        damaged=tuple(name for name, commit in found.items() if isinstance(commit, CorruptStoreError)),
        pinned=pinned,
        condemned=tuple(condemned),
        removed=set() if "space.json" in files else named & commits.keys(),
        signed=_signed(storage, folder, files, members) & commits.keys(),
    )


def _signed(storage: Storage, folder: str, files: Iterable[str], members: Members | None) -> Set[str]:
    claimed = {match[1] for name in files if (match := _SIGNATURE.fullmatch(name))}
    return claimed if members is None else CommitSignatures(storage, folder, Trust(members=members)).trusted(claimed)


def stale_indexes(storage: Storage, folder: str, inventory: Inventory) -> list[str]:
    """Return indexes that no reader takes: damaged, of commits that are not live, or older than one that is taken."""
    live = inventory.live
    stale: list[str] = []
    taken = False
    for name in sorted((name for name in inventory.files if _INDEX.fullmatch(name)), reverse=True):
        try:
            entry = inventory.files[name]
            good = not taken and set(open_index(storage, entry.name, entry.size_bytes).commits) <= live
        except FileNotFoundError:
            continue
        except CorruptStoreError:
            good = False
        if good:
            taken = True
        else:
            stale.append(name)
    return stale
