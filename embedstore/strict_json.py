"""JSON as the store writes it, one way only, and reads it, suspiciously: a store may come from anybody.

A *sealed* document carries its own SHA-256 and is accepted only if its bytes are exactly what we would write for its
content, so that no damaged byte goes unseen.

Documents grow: a field that is not known is ignored, unless the document's `requires` says that a reader which does
not know it must not read on. What a document requires is asked for before anything else of it is looked at.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from embedstore.errors import CorruptStoreError, FormatVersionError, InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")

MAX_INTEGER = 2**63 - 1
"""What languages with 64-bit integers can read; larger numbers are refused."""
MAX_BYTES = 64 << 20
"""Of a document in a file."""
MAX_DEPTH = 64
"""How many lists and objects may lie in one another; deeper ones exhaust a reader's stack."""
_MOST_SHOWN = 80


def canonical(document: Mapping[str, Any]) -> bytes:
    """UTF-8, sorted keys, one blank of indentation a level, a final line end.

    Raises
    ------
    TypeError, ValueError, RecursionError : not JSON.
    """
    text = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def facts(value: DataclassInstance, **renamed: str) -> dict[str, Any]:
    """Return the fields of a dataclass as JSON values, for reports that say nothing more.

    Parameters
    ----------
    value : its fields may be dataclasses, named tuples, mappings, sequences and paths, too.
    renamed : field -> what it is called in the JSON.
    """
    fields = dataclasses.fields(value)
    return {renamed.get(each.name, each.name): _json_value(getattr(value, each.name)) for each in fields}


def _json_value(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return facts(value)
    if isinstance(value, Mapping):
        return {name: _json_value(each) for name, each in value.items()}
    if hasattr(value, "_asdict"):
        return _json_value(value._asdict())
    if isinstance(value, list | tuple):
        return [_json_value(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def sealed(document: Mapping[str, Any]) -> bytes:
    """The canonical form with `sha256` added, the digest of the canonical form without it."""
    return canonical({**document, "sha256": hashlib.sha256(canonical(document)).hexdigest()})


def unsealed(file: str, content: bytes) -> dict[str, Any]:
    """Read a sealed document; CorruptStoreError if a byte of it is not as it was written.

    Parameters
    ----------
    file : its name in the store, for messages.
    content : all its bytes.
    """
    document = parsed(file, content)
    document.pop("sha256", None)
    with well_formed(file):
        expected = sealed(document)
    if expected != content:
        raise CorruptStoreError(file, "its content does not have the SHA-256 that it states")
    return document


def parsed(file: str, content: bytes) -> dict[str, Any]:
    """Read a JSON object; CorruptStoreError if it is something else.

    Parameters
    ----------
    file : its name in the store, for messages.
    content : all its bytes.
    """
    try:
        return json_object(content)
    except ValueError as error:
        raise CorruptStoreError(file, str(error)) from error


def json_object(content: bytes) -> dict[str, Any]:
    """Read a JSON object that may come from anybody.

    Parameters
    ----------
    content : UTF-8, of a size that the caller has checked.

    Raises
    ------
    ValueError : it is not JSON, is no object, is too deep, or has a number that is none of JSON.
    """
    try:
        document = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON, found {content[:20]!r}… ({error})") from error
    if not isinstance(document, dict):
        raise ValueError("expected a JSON object")  # noqa: TRY004 - of the content, not of the argument
    refuse_deep(document)
    return document


def read_json(path: Path, most_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Read a file that is to hold a JSON object.

    Parameters
    ----------
    path : of the file.
    most_bytes : a longer one is refused before it is in memory.

    Raises
    ------
    OSError : it cannot be read.
    ValueError : see `json_object`, or it is too long.
    """
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"expected at most {most_bytes} bytes of JSON, found more")
    return json_object(content)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def refuse_deep(document: object) -> None:
    """Refuse a document of more than `MAX_DEPTH` levels; ValueError."""
    level = [document]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for each in level
            if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise ValueError(f"expected at most {MAX_DEPTH} levels of lists and objects")


@contextmanager
def well_formed(file: str) -> Iterator[None]:
    """Turn a missing field, or one in another form, into a CorruptStoreError that names the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError, InputError) as error:
        reason = f"the field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise CorruptStoreError(file, reason) from error


def refuse_requirements(document: Mapping[str, Any], what: str) -> None:
    """Refuse a document whose `requires` names anything, since this version knows no requirement yet.

    Parameters
    ----------
    document : as it was read.
    what : it is of, for the message.

    Raises
    ------
    FormatVersionError : naming what is required.
    TypeError : `requires` is not a list of strings.
    """
    required = [typed("requires", each, str) for each in typed("requires", document.get("requires", []), list)]
    if required:
        raise FormatVersionError(what, required)


def field(document: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """Return a field of exactly one type; KeyError or TypeError otherwise.

    Parameters
    ----------
    document : as it was read.
    name : of the field.
    kind : that it must have: `str`, `int`, `list`, `dict`.
    """
    return typed(name, document[name], kind)


def typed(name: str, value: object, kind: type[T]) -> T:
    """Return a value that has exactly one type (a bool is not a number); TypeError otherwise.

    Parameters
    ----------
    name : of the value, for the message.
    value : as it was read.
    kind : that it must have.
    """
    if type(value) is not kind:
        raise TypeError(f"{name}: expected {kind.__name__}, found {_shown(value)}")
    return value


def integer(document: Mapping[str, Any], name: str, least: int = 0, most: int = MAX_INTEGER) -> int:
    """Return an integer field within a range; KeyError, TypeError or ValueError otherwise.

    Parameters
    ----------
    document : as it was read.
    name : of the field.
    least : smallest value allowed.
    most : largest value allowed.
    """
    value = typed(name, document[name], int)
    if not least <= value <= most:
        raise ValueError(f"{name}: expected {least} to {most}, found {_shown(value)}")
    return value


def amount(name: str, value: object) -> float:
    """Return a number from 0 to `MAX_INTEGER`, finite; TypeError or ValueError otherwise.

    Parameters
    ----------
    name : of the value, for the message.
    value : as it was read.
    """
    if type(value) not in (int, float):
        raise TypeError(f"{name}: expected a number, found {_shown(value)}")
    if not 0 <= value <= MAX_INTEGER:  # type: ignore[operator]  # false for NaN, too
        raise ValueError(f"{name}: expected 0 to {MAX_INTEGER}, found {_shown(value)}")
    return value  # type: ignore[return-value]


def one_of(name: str, value: object, allowed: Collection[str]) -> None:
    """Refuse a value that is not allowed; ValueError.

    Parameters
    ----------
    name : of the value, for the message.
    value : as it was read.
    allowed : the values it may have.
    """
    if value not in allowed:
        raise ValueError(f"{name}: expected {' or '.join(allowed)}, found {_shown(value)}")


def matching(name: str, value: object, pattern: re.Pattern[str]) -> str:
    """Return a text of which all matches a pattern; TypeError or ValueError otherwise.

    Parameters
    ----------
    name : of the value, for the message.
    value : as it was read.
    pattern : that all of it must match.
    """
    text = typed(name, value, str)
    if not pattern.fullmatch(text):
        raise ValueError(f"{name}: expected {pattern.pattern}, found {_shown(text)}")
    return text


def _shown(value: object) -> str:
    """A value for a message: its beginning, since a stranger chose how long it is."""
    text = repr(value) if not isinstance(value, int) or abs(value) <= MAX_INTEGER else "a number beyond 64 bits"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
