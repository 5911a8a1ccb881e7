"""Making a segment part of its space: its commit, written last, and read back before anybody relies on it.

What a crashed writer left is collected some day, and nobody can tell a slow writer from a crashed one. So the writer
looks whether its files are condemned, or gone already, before its commit and after it:

- condemned before: they are written again under another name, and there is no commit yet;
- condemned after, or between: the collector may have listed the commits before ours was there, so ours is taken back,
  which nobody was told of, and all is written again;
- there, and not condemned after: whoever condemns them from now on lists the commits later, and finds ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from embedstore.errors import CorruptStoreError, StorageError
from embedstore.store.condemned import are_safe
from embedstore.store.documents import Commit
from embedstore.store.storage import Storage

_MAX_ATTEMPTS = 5


def no_signature(commit_id: str) -> None:
    """Sign nothing."""


def publish(
    storage: Storage, folder: str, write: Callable[[], Commit], sign: Callable[[str], None] = no_signature
) -> tuple[str, Commit]:
    """Write a segment and its commit; durable, and safe from collection, when this returns.

    Parameters
    ----------
    folder : `spaces/<id>/`.
    write : writes the files of the segment under a new name, and returns the commit that names them; called again if
        somebody began to collect them.
    sign : writes the signature of a commit, given its id, before the commit.

    Returns
    -------
    The id of the commit, and the commit.

    Raises
    ------
    StorageError : they were collected again and again. CorruptStoreError : what is read back is something else.
    """
    for _ in range(_MAX_ATTEMPTS):
        commit = write()
        if publish_commit(storage, folder, commit, sign):
            return id_of(commit), commit
    raise StorageError(
        f"Cannot add to {storage.location}: new files were condemned {_MAX_ATTEMPTS} times before their commit was "
        "there. Collect with a longer grace period than writing a segment takes."
    )


def publish_commit(storage: Storage, folder: str, commit: Commit, sign: Callable[[str], None] = no_signature) -> bool:
    """Write the commit of files that are there already; False, and no commit, if they are condemned or gone."""
    if not are_safe(storage, folder, commit.files):
        return False
    content, commit_id = commit.to_bytes(), id_of(commit)
    sign(commit_id)
    name = f"{folder}commits/{commit_id}.json"
    storage.write(name, [content])
    if storage.read(name) != content:
        raise CorruptStoreError(name, "what was read back is not what was written")
    if not are_safe(storage, folder, commit.files):
        storage.delete(name)
        return False
    return True


def id_of(commit: Commit) -> str:
    """Return the SHA-256 of a commit's document."""
    return hashlib.sha256(commit.to_bytes()).hexdigest()
