"""Keys that commits are signed with: Ed25519 keys as `ssh-keygen -t ed25519` makes them.

The members of a lab stand in a file in the style of OpenSSH's `authorized_keys`, a line each: `ssh-ed25519 AAAA… name`.
`cryptography` is imported only when something is signed or a signature is checked.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from embedstore.errors import InputError, MissingDependencyError
from embedstore.home import expanded

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
    """Read `ssh-ed25519 AAAA… name`; the name may lack.

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
    InputError : it cannot be read, has a passphrase, or is no Ed25519 key. MissingDependencyError : cryptography is not
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
            f"Cannot {purpose}: cryptography is not installed. Install embedstore[trust]."
        ) from error
    return ed25519
