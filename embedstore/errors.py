"""Every error that embedstore raises on purpose, grouped by what a handler would do about it.

    EmbedStoreError
    ├── InputError                 fix the input or the arguments
    │   ├── SequenceError          one sequence is not what its molecule allows: reject that record
    │   ├── SequenceFileError      a file does not hold sequences
    │   ├── MoleculeError          DNA was given to a protein model, or the reverse
    │   └── SchemaError            features are not arranged as what they are used with expects
    ├── MissingEmbeddingError      fill first
    ├── StoreError                 look at the store
    │   ├── StoreNotFoundError     there is no store at that place
    │   ├── SpaceNotFoundError     the store has no such space
    │   ├── SpaceConflictError     the name is taken by another recipe
    │   ├── FormatVersionError     a newer embedstore wrote it: upgrade
    │   ├── CorruptStoreError      bytes are damaged or gone: verify, restore
    │   └── StorageError           the storage refused (permission, space, connection)
    ├── WorkerError                look at the processes that compute, or at what starts them
    └── ModelError                 look at the model
        ├── UnknownModelError      no model of that name
        ├── WeightsNotFoundError   the weights are not on this machine
        ├── WeightsError           the weights are not the ones that were expected
        ├── CanaryError            the loaded model does not reproduce the space's fixed vectors
        └── MissingDependencyError an optional extra is not installed

    UpstreamWarning (a UserWarning)   a store that is looked up after another one is skipped
    DeviceWarning (a RuntimeWarning)  a GPU that is there is not used

Messages say what failed and on what, what was expected and found, and what to do next. The values are attributes too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

UNSHOWABLE = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff"
"""Inside a regular expression's brackets: what moves a terminal's cursor, ends a line or turns the direction of
writing, and lone surrogates, which stand for the bytes of a file name that is no UTF-8."""

_UNSHOWABLE = re.compile(f"[{UNSHOWABLE}]")


def plain(text: object, longest: int | None = None) -> str:
    r"""Write a text for people: what would steer a terminal is escaped, ESC as `\x1b`, and it stays on one line.

    Ids, labels, names and paths come from other people's files; so does what an error quotes of them.

    Parameters
    ----------
    longest : characters to show; a longer text ends in `…`.
    """
    shown = str(text)
    if longest is not None and len(shown) > longest:
        shown = f"{shown[:longest]}…"
    return _UNSHOWABLE.sub(lambda found: escaped(found[0]), shown)


def escaped(character: str) -> str:
    r"""Write one character as `\xHH` or `\uHHHH`."""
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class EmbedStoreError(Exception):
    """Base of all errors raised by embedstore."""


class InputError(EmbedStoreError):
    """The input or an argument is wrong."""


class SequenceError(InputError):
    """One sequence cannot be made canonical; `reason` says why, without naming the record."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SequenceFileError(InputError):
    """A file does not hold sequences, or cannot be opened."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"Cannot read sequences from {file}: {reason}")
        self.file = file
        self.reason = reason


class MoleculeError(InputError):
    """The sequences are of the other molecule than the model embeds."""


class SchemaError(InputError):
    """Features are not arranged, or not prepared, as what they are used with expects.

    `differences` maps each place that differs to (expected, found).
    """

    def __init__(self, message: str, differences: Mapping[str, tuple[object, object]]) -> None:
        super().__init__(message)
        self.differences = dict(differences)


class MissingEmbeddingError(EmbedStoreError):
    """Some requested sequences have no vector in the space.

    Attributes
    ----------
    space : name of the space.
    missing : labels of what is missing (record ids or `SQ.` keys), in request order.
    """

    _SHOWN = 10
    _SHOWN_CHARACTERS = 80

    def __init__(self, space: str, missing: Sequence[str], *, requested: int) -> None:
        shown = ", ".join(plain(label, self._SHOWN_CHARACTERS) for label in missing[: self._SHOWN])
        more = f" and {len(missing) - self._SHOWN} more" if len(missing) > self._SHOWN else ""
        super().__init__(
            f"Space {space} does not have {len(missing)} of {requested} requested sequences: {shown}{more}. "
            "Fill them first (`embedstore fill`, or `get --fill`)."
        )
        self.space = space
        self.missing = list(missing)
        self.requested = requested


class StoreError(EmbedStoreError):
    """The store cannot do what was asked."""


class StoreNotFoundError(StoreError):
    """No store lies at that place."""


class SpaceNotFoundError(StoreError):
    """The store holds no space of that name or id."""


class SpaceConflictError(StoreError):
    """A space of that name exists and was made by another recipe.

    `differences` maps each differing recipe field to (in the store, asked for).
    """

    def __init__(self, message: str, differences: Mapping[str, tuple[object, object]]) -> None:
        super().__init__(message)
        self.differences = dict(differences)


class FormatVersionError(StoreError):
    """A store, a space or a document needs a newer embedstore than this one.

    Attributes
    ----------
    what : what cannot be read: "space esm2_t6_8m (3f9a…)".
    needs : what this version does not know, each in a word or two.
    """

    def __init__(self, what: str, needs: Sequence[str]) -> None:
        super().__init__(
            f"Cannot read {what}: it needs {', '.join(needs)}, which this version of embedstore does not know. "
            "Upgrade embedstore."
        )
        self.what = what
        self.needs = tuple(needs)


class CorruptStoreError(StoreError):
    """Bytes of the store are damaged or gone; nothing was returned from them.

    `file` is the name inside the store.
    """

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file} is damaged: {reason}. Run `embedstore verify --deep` to see all that is.")
        self.file = file
        self.reason = reason


class StorageError(StoreError):
    """The storage refused an operation: no permission, no space, no connection."""


class WorkerError(EmbedStoreError):
    """The processes that were to compute die, cannot be started, or cannot be reached."""


class ModelError(EmbedStoreError):
    """A model cannot be used as asked."""


class UnknownModelError(ModelError):
    """No model of that name is known, and no directory of that name exists."""


class WeightsNotFoundError(ModelError):
    """The weights are not on this machine and cannot be fetched."""


class WeightsError(ModelError):
    """The weights differ from what the model or the space expects."""


class CanaryError(ModelError):
    """The loaded model does not reproduce the vectors that the space keeps of fixed sequences."""


class MissingDependencyError(ModelError):
    """An optional dependency is needed; the message names the extra to install."""


class UpstreamWarning(UserWarning):
    """A store that is looked up after another one cannot be reached or read, wholly or in part; work continues."""


class DeviceWarning(RuntimeWarning):
    """A GPU that is there does not compute; the processor does instead."""
