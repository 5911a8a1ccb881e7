"""JSON as the store writes it, one way only, and reads it, suspiciously: a store may come from anybody.

A *sealed* document carries its own SHA-256 and is accepted only if its bytes are exactly what we would write for its
content, so that no damaged byte goes unseen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from embedstore.errors import CorruptStoreError, InputError

T = TypeVar("T")


def canonical(document: Mapping[str, Any]) -> bytes:
    """UTF-8, sorted keys, one blank of indentation a level, a final line end.

    Raises
    ------
    TypeError, ValueError, RecursionError : not JSON.
    """
    text = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def sealed(document: Mapping[str, Any]) -> bytes:
    """The canonical form with `sha256` added, the digest of the canonical form without it."""
    return canonical({**document, "sha256": hashlib.sha256(canonical(document)).hexdigest()})


def unsealed(file: str, content: bytes) -> dict[str, Any]:
    """Read a sealed document; CorruptStoreError if a byte of it is not as it was written."""
    document = parsed(file, content)
    document.pop("sha256", None)
    with well_formed(file):
        expected = sealed(document)
    if expected != content:
        raise CorruptStoreError(file, "its content does not have the SHA-256 that it states")
    return document


def parsed(file: str, content: bytes) -> dict[str, Any]:
    """Read a JSON object; CorruptStoreError if it is none."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptStoreError(file, f"expected JSON, found {content[:20]!r}… ({error})") from error
    if not isinstance(document, dict):
        raise CorruptStoreError(file, "expected a JSON object")
    return document


@contextmanager
def well_formed(file: str) -> Iterator[None]:
    """Turn what a document lacks, or holds in another form, into a CorruptStoreError that names the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, InputError) as error:
        lack = f"it lacks the field {error}" if isinstance(error, KeyError) else str(error)
        raise CorruptStoreError(file, lack) from error


def field(document: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """Return a field of exactly one type; KeyError or TypeError otherwise."""
    return typed(name, document[name], kind)


def typed(name: str, value: object, kind: type[T]) -> T:
    """Return a value that has exactly one type (a bool is no number); TypeError otherwise."""
    if type(value) is not kind:
        raise TypeError(f"{name}: expected {kind.__name__}, found {value!r}")
    return value


def one_of(name: str, value: object, allowed: Collection[str]) -> None:
    """Refuse a value that is not allowed; ValueError."""
    if value not in allowed:
        raise ValueError(f"{name}: expected {' or '.join(allowed)}, found {value!r}")
