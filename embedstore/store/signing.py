"""Signatures of commits: the keys that sign, the members who are trusted, and which commits they have signed.

Keys are Ed25519 keys as `ssh-keygen -t ed25519` makes them. A file in the style of OpenSSH's `authorized_keys` lists
the members of a lab, one per line: `ssh-ed25519 AAAA… name`. `cryptography` is imported only when something is signed
or a signature is checked.

A commit names its files by their SHA-256 and is itself named by its own, so a signature of that name vouches for every
byte of the segment. It is a document of its own, `spaces/<id>/signatures/<commit>.<fingerprint of the key>.json`,
written before the commit: nobody ever sees a commit whose signature is still to come.

A copy of a signed segment in another store has new file names, and is therefore another commit. It carries the
signatures of the commit that it was copied from, under its own name; they are valid for it because the signed commit
can be reconstructed from the copy.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from embedstore.errors import CorruptStoreError, FormatVersionError, InputError, MissingDependencyError
from embedstore.home import expanded
from embedstore.storage.protocol import Storage, side_by_side
from embedstore.store.documents import Commit, commit_file
from embedstore.strict_json import field, one_of, refuse_requirements, sealed, typed, unsealed, well_formed

_KIND = "ssh-ed25519"
_BLOB_START = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"  # RFC 8709: the kind, and the length of the key
_KEY_BYTES = 32
_FINGERPRINT_DIGITS = 16
_MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The public half of an Ed25519 key: 32 bytes, and whose it is, as the file says."""

    raw: bytes
    name: str = ""

    @property
    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of its 32 bytes."""
        return hashlib.sha256(self.raw).hexdigest()[:_FINGERPRINT_DIGITS]

    @property
    def text(self) -> str:
        """As OpenSSH writes it, without the name."""
        return f"{_KIND} {base64.b64encode(_BLOB_START + self.raw).decode('ascii')}"

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Tell whether a signature of a message was made with the private half.

        Raises
        ------
        MissingDependencyError : cryptography is not installed.
        """
        key = _ed25519("check signatures").Ed25519PublicKey.from_public_bytes(self.raw)
        from cryptography.exceptions import InvalidSignature

        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


Members = Mapping[str, PublicKey]
"""Fingerprint -> key of each member."""


@dataclass(frozen=True, slots=True, repr=False)
class Signer:
    """The private half of a key; it never leaves this process."""

    public: PublicKey
    sign: Callable[[bytes], bytes]
    """message -> signature, 64 bytes; the same one each time."""


def parse_public_key(line: str) -> PublicKey:
    """Read `ssh-ed25519 AAAA… name`; the name may be missing.

    Raises
    ------
    ValueError : it is something else.
    """
    kind, _, rest = line.strip().partition(" ")
    encoded, _, name = rest.strip().partition(" ")
    if kind != _KIND:
        raise ValueError(f"expected a key of kind {_KIND}, found {kind[:40]!r}")
    try:
        blob = base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise ValueError(f"expected base64 after {_KIND}, found {encoded[:20]!r}…") from error
    if not blob.startswith(_BLOB_START) or len(blob) != len(_BLOB_START) + _KEY_BYTES:
        raise ValueError(f"expected {_KEY_BYTES} bytes of an Ed25519 key, found something else")
    return PublicKey(blob[len(_BLOB_START) :], name.strip())


def read_members(file: Path) -> Members:
    """Read the keys of the members: `ssh-ed25519 AAAA… name`, a line each; blank lines and `#` comments are skipped.

    Raises
    ------
    InputError : it cannot be read, holds a line of another kind, or no key at all.
    """
    members: dict[str, PublicKey] = {}
    text = _content(file, "members").decode("utf-8", "replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            key = parse_public_key(line)
        except ValueError as error:
            raise InputError(
                f"Cannot read members from {file}: line {number}: {error}. "
                "Put the content of each member's .pub file there, a line each."
            ) from error
        members[key.fingerprint] = key
    if not members:
        raise InputError(f"Cannot read members from {file}: expected at least one line `{_KIND} AAAA… name`.")
    return members


def read_signer(file: Path) -> Signer:
    """Read a private key as `ssh-keygen -t ed25519 -N ""` writes it.

    Raises
    ------
    InputError : it cannot be read, has a passphrase, or is no Ed25519 key.
    MissingDependencyError : cryptography is not
        installed.
    """
    content = _content(file, "a signing key")
    ed25519 = _ed25519("sign commits")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    make_one = 'Make one with `ssh-keygen -t ed25519 -N "" -f FILE`.'
    if content.lstrip().startswith(b"ssh-"):
        raise InputError(f"Cannot sign with {file}: it is the public half. Give the file without .pub.")
    try:
        key = load_ssh_private_key(content, password=None)
    except TypeError as error:  # how the library says that it is encrypted
        raise InputError(
            f"Cannot sign with {file}: it has a passphrase, which a fill on a cluster cannot be asked for. "
            f"Use a key that only signs commits. {make_one}"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"Cannot sign with {file}: expected a private key as OpenSSH writes it. {make_one}") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        kind = type(key).__name__.removesuffix("PrivateKey").strip("_")
        raise InputError(f"Cannot sign with {file}: expected an Ed25519 key, found {kind}. {make_one}")
    return Signer(PublicKey(key.public_key().public_bytes_raw(), file.stem), key.sign)


def _content(file: Path, what: str) -> bytes:
    try:
        with expanded(file).open("rb") as stream:
            content = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"Cannot read {what} from {file}: {error.strerror or error}.") from error
    if len(content) > _MAX_FILE_BYTES:
        raise InputError(f"Cannot read {what} from {file}: expected at most {_MAX_FILE_BYTES} bytes.")
    return content


def _ed25519(purpose: str) -> ModuleType:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"Cannot {purpose}: cryptography is not installed. Install embedstore-bio[trust]."
        ) from error
    return ed25519


_MESSAGE_START = b"embedstore commit 1\n"
_SIGNATURE_NAME = re.compile(r"([0-9a-f]{64})\.([0-9a-f]{16})\.json")


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose word counts.

    Parameters
    ----------
    signer : signs what is published; None: nobody does.
    members : only commits that one of them has signed are read; None: all are.
    files : the private key and the members' keys as they were named, absolute, for other processes to read; None where
        none was named, or the environment did.

    Raises
    ------
    InputError : the signer is not one of the members, so that what it publishes could not be read.
    """

    signer: Signer | None = None
    members: Members | None = None
    files: tuple[Path | None, Path | None] = (None, None)

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
    InputError : a file is not what it should be.
    MissingDependencyError : cryptography is not installed.
    """
    key = sign_with or os.environ.get("EMBEDSTORE_SIGNING_KEY")
    members = require_signed or os.environ.get("EMBEDSTORE_MEMBERS")
    named = (
        Path(sign_with).absolute() if sign_with else None,
        Path(require_signed).absolute() if require_signed else None,
    )
    return Trust(read_signer(Path(key)) if key else None, read_members(Path(members)) if members else None, named)


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
        MissingDependencyError : cryptography is not installed.
        StorageError : a signature cannot be read.
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

        Without a key: those that nobody has signed, so that no signature is lost. With a key: those that members have
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
