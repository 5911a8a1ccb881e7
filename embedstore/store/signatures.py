"""Signatures of commits: a reader that requires them goes by what members have published, whatever else lies there.

A commit names its files by their SHA-256 and is named by its own, so who signs that name vouches for every byte of the
segment. The signature is a document of its own, `spaces/<id>/signatures/<commit>.<fingerprint of the key>.json`, and is
written before its commit: nobody ever sees a signed writer's commit without it.

A copy of a signed segment in another store lies under new names, and so has another commit. Its signatures are those of
the commit that it is a copy of, under its own name: they vouch for it because the one follows from the other.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from embedstore.errors import CorruptStoreError, FormatVersionError, InputError
from embedstore.store.documents import Commit, commit_file
from embedstore.store.signing_keys import Members, PublicKey, Signer, parse_public_key, read_members, read_signer
from embedstore.store.storage import Storage, side_by_side
from embedstore.store.strict_json import field, one_of, refuse_requirements, sealed, typed, unsealed, well_formed

_MESSAGE_START = b"embedstore commit 1\n"
_SIGNATURE_NAME = re.compile(r"([0-9a-f]{64})\.([0-9a-f]{16})\.json")


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose word counts.

    Parameters
    ----------
    signer : signs what is published; None: nobody does.
    members : only commits that one of them has signed are read; None: all are.

    Raises
    ------
    InputError : the signer is not one of the members, so that what it publishes could not be read.
    """

    signer: Signer | None = None
    members: Members | None = None

    def __post_init__(self) -> None:
        if self.signer is None or self.members is None:
            return
        key = self.members.get(self.signer.public.fingerprint)
        if key is None or key.raw != self.signer.public.raw:
            raise InputError(
                f"Cannot sign with the key {self.signer.public.name}: signatures of members are required, and it is "
                f"none of theirs. Add this line to the file of members: {self.signer.public.text} NAME"
            )

    def refuse_unsigned(self, space: str) -> None:
        """Refuse to publish without a key what could not be read again without a signature; InputError."""
        if self.members is not None and self.signer is None:
            raise InputError(
                f"Cannot add to space {space}: signatures are required, and there is no key to sign with. "
                "Give --sign-with FILE, or set EMBEDSTORE_SIGNING_KEY."
            )


NO_TRUST = Trust()
"""Nothing is signed, and everything is read."""


def trust_of(sign_with: str | Path | None = None, require_signed: str | Path | None = None) -> Trust:
    """Read the key to sign with and the keys of the members.

    Parameters
    ----------
    sign_with : file of a private key; None: $EMBEDSTORE_SIGNING_KEY, if that is set.
    require_signed : file of the members' public keys; None: $EMBEDSTORE_MEMBERS, if that is set.

    Raises
    ------
    InputError : a file is not what it should be. MissingDependencyError : cryptography is not installed.
    """
    key = sign_with or os.environ.get("EMBEDSTORE_SIGNING_KEY")
    members = require_signed or os.environ.get("EMBEDSTORE_MEMBERS")
    return Trust(read_signer(Path(key)) if key else None, read_members(Path(members)) if members else None)


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature document."""

    commit_id: str
    key: PublicKey
    signature: bytes

    def to_bytes(self) -> bytes:
        return sealed(
            {
                "format": "embedstore-signature",
                "commit": self.commit_id,
                "public_key": self.key.text,
                "signature": base64.b64encode(self.signature).decode("ascii"),
            }
        )

    @classmethod
    def from_bytes(cls, file: str, content: bytes) -> Signature:
        """Read a signature document; CorruptStoreError when it is damaged, or is not what its name says."""
        document = unsealed(file, content)
        with well_formed(file):
            one_of("format", document["format"], ["embedstore-signature"])
            refuse_requirements(document, file)
            key = parse_public_key(field(document, "public_key", str))
            signature = base64.b64decode(typed("signature", document["signature"], str), validate=True)
            found = cls(field(document, "commit", str), key, signature)
        claim = signature_claim(file)
        if claim is None or claim[1] != key.fingerprint:
            raise CorruptStoreError(file, f"it is a signature by key {key.fingerprint}")
        return found

    @property
    def valid(self) -> bool:
        """Whether the key has signed that commit; needs cryptography."""
        return self.key.verifies(_message(self.commit_id), self.signature)


def is_signature(name: str) -> bool:
    """Tell a signature, named from the space's folder, from what else may lie beside it."""
    return name.startswith("signatures/") and name.count("/") == 1 and signature_claim(name) is not None


def signature_claim(file: str) -> tuple[str, str] | None:
    """Return the commit and the fingerprint that a signature is named by; None for a file of another kind."""
    match = _SIGNATURE_NAME.fullmatch(file.rpartition("/")[2])
    return None if match is None else (match[1], match[2])


def signature_files(storage: Storage, folder: str) -> dict[str, list[str]]:
    """Return the names of the signature documents of a space by the commit that they are named after, unchecked.

    Parameters
    ----------
    folder : `spaces/<id>/`.
    """
    files: dict[str, list[str]] = {}
    for entry in storage.list(f"{folder}signatures/"):
        claim = signature_claim(entry.name)
        if claim is not None:
            files.setdefault(claim[0], []).append(entry.name)
    return files


class CommitSignatures:
    """The signatures of one space's commits, as far as somebody asks for them.

    Parameters
    ----------
    folder : `spaces/<id>/`.

    Attributes
    ----------
    trust : whose signatures count, and who signs.
    """

    def __init__(self, storage: Storage, folder: str, trust: Trust) -> None:
        self._storage = storage
        self._folder = folder
        self.trust = trust
        self._vouched: set[str] = set()
        """Commits that a member has signed; what was checked once stays."""

    def trusted(self, commits: Set[str]) -> Set[str]:
        """Return those commits that a member has signed; all, where no signatures are required.

        Raises
        ------
        MissingDependencyError : cryptography is not installed. StorageError : a signature cannot be read.
        """
        if self.trust.members is None:
            return commits
        if not commits <= self._vouched:
            files = [file for file in self._of_members() if _commit_of(file) not in self._vouched]
            wanted = [file for file in files if _commit_of(file) in commits]
            valid = side_by_side(self._is_valid, wanted, self._storage.requests_at_once)
            self._vouched.update(_commit_of(file) for file, good in zip(wanted, valid, strict=True) if good)
        return commits & self._vouched

    def mergeable(self, commits: Set[str]) -> Set[str]:
        """Return those commits that may be merged into one that is published with the same trust.

        Without a key: those that nobody has signed, lest their signatures get lost. With a key: those that members have
        signed, or where there is no list of members, those that this key has signed: a signature vouches for all rows.
        """
        signer, members = self.trust.signer, self.trust.members
        if signer is None:
            return commits - signature_files(self._storage, self._folder).keys() if members is None else set()
        if members is not None:
            return self.trusted(commits)
        own = Trust(signer, {signer.public.fingerprint: signer.public})
        return CommitSignatures(self._storage, self._folder, own).trusted(commits)

    def signers(self, commit_id: str) -> list[str]:
        """Name those who have signed a commit: members by their names, others by the fingerprints of their keys.

        Raises
        ------
        MissingDependencyError : there are signatures, and cryptography is not installed.
        """
        members = self.trust.members or {}
        found = []
        for file in signature_files(self._storage, self._folder).get(commit_id, []):
            with suppress(FileNotFoundError, CorruptStoreError, FormatVersionError):
                signature = self.read(file)
                fingerprint = signature.key.fingerprint
                if signature.valid:
                    member = members.get(fingerprint, signature.key)
                    found.append(member.name if member.name and member.raw == signature.key.raw else fingerprint)
        return sorted(found)

    def read(self, file: str) -> Signature:
        """Read a signature document that is about the commit in its name.

        Raises
        ------
        CorruptStoreError : it is damaged, or vouches for something else.
        FileNotFoundError : it is gone, or the commit of a copy is.
        """
        found = Signature.from_bytes(file, self._storage.read(file))
        commit_id = _commit_of(file)
        if found.commit_id != commit_id and found.commit_id != self._original_of(commit_id):
            raise CorruptStoreError(file, f"it is a signature of commit {found.commit_id}")
        return found

    def sign(self, commit: Commit) -> None:
        """Sign a commit that is about to be written, if there is a key to sign with; durable when this returns.

        Raises
        ------
        CorruptStoreError : something else lies there already under the name of this signature.
        """
        signer = self.trust.signer
        if signer is not None:
            signature = Signature(commit.id, signer.public, signer.sign(_message(commit.id)))
            self.add(commit, signature)
            self._vouched.add(commit.id)

    def add(self, commit: Commit, signature: Signature) -> None:
        """Write a signature of a commit that is about to be written, or of the one that it is a copy of.

        Raises
        ------
        CorruptStoreError : something else lies there already under its name.
        """
        content = signature.to_bytes()
        name = f"{self._folder}signatures/{commit.id}.{signature.key.fingerprint}.json"
        self._storage.write(name, [content])
        if self._storage.read(name) != content:
            raise CorruptStoreError(name, "what was read back is not what was written")

    def _original_of(self, commit_id: str) -> str:
        file = f"{self._folder}{commit_file(commit_id)}"
        return Commit.from_bytes(file, self._storage.read(file)).signed_id

    def _of_members(self) -> Iterator[str]:
        """Yield the signature documents that are named after a member's key."""
        members = self.trust.members or {}
        for entry in self._storage.list(f"{self._folder}signatures/"):
            claim = signature_claim(entry.name)
            if claim is not None and claim[1] in members:
                yield entry.name

    def _is_valid(self, file: str) -> bool:
        """Check one signature by the key in the file of members, not by the one that the document brings along."""
        with suppress(FileNotFoundError, CorruptStoreError, FormatVersionError):
            found = self.read(file)
            member = (self.trust.members or {}).get(found.key.fingerprint)
            return member is not None and member.raw == found.key.raw and found.valid
        return False


def _commit_of(file: str) -> str:
    claim = signature_claim(file)
    return claim[0] if claim else ""


def _message(commit_id: str) -> bytes:
    return _MESSAGE_START + commit_id.encode("ascii")
