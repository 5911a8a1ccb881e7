"""What a sequence is, and what determined its numbers.

A *sequence key* says what a sequence is: the GA4GH refget digest (sha512t24u) of its canonical form. A *recipe* holds
all that determined a vector's numbers; the SHA-256 of its canonical JSON is the id of the space that holds them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import FormatVersionError, InputError, SequenceError
from embedstore.records import KEY_BYTES, Keys

Molecule = Literal["dna", "protein"]
Precision = Literal["half", "full"]
LongPolicy = Literal["window", "truncate", "reject", "none"]
RareResidues = Literal["kept", "uzo_as_x", "uzob_as_x"]

MAX_DIM = 1 << 20
"""The widest vector that a space may hold; the largest models of the field have some ten thousand values."""
CANONICALISATION: dict[Molecule, str] = {"dna": "dna/1", "protein": "protein/1"}
"""Tag of the canonical form, raised whenever the same input would get another key."""

_HEX_KEY = re.compile(rf"[0-9a-fA-F]{{{2 * KEY_BYTES}}}")
_WHITESPACE = b" \t\r\n\v\f"
_NUCLEOTIDES = b"ACGTRYSWKMBDHVN"  # IUPAC-IUB 1984; U is written T
_AMINO_ACIDS = b"ACDEFGHIKLMNPQRSTVWYBJOUXZ"
_INVALID = 0
_STOP = ord("*")


def _translation(allowed: bytes, replaced: dict[bytes, bytes]) -> bytes:
    """Table that upper-cases, replaces, and turns what is not allowed into `_INVALID`."""
    table = bytearray(256)
    for code in allowed:
        table[code] = table[ord(chr(code).lower())] = code
    for old, new in replaced.items():
        table[ord(old)] = table[ord(old.lower())] = ord(new)
    return bytes(table)


_TABLES: dict[Molecule, bytes] = {
    "dna": _translation(_NUCLEOTIDES, {b"U": b"T"}),
    "protein": _translation(_AMINO_ACIDS, {}),
}


def canonical(sequence: bytes | str, molecule: Molecule) -> bytes:
    """Return the canonical form: whitespace removed, upper-case, U as T in DNA, one final `*` dropped in proteins.

    Parameters
    ----------
    sequence : as it was read.
    molecule : "dna" or "protein".

    Raises
    ------
    SequenceError : the sequence is empty or holds a character that the molecule does not have.
    """
    raw = sequence if isinstance(sequence, bytes) else sequence.encode("utf-8", "replace")
    cleaned = raw.translate(_TABLES[molecule], _WHITESPACE)
    if _INVALID in cleaned:
        cleaned = _without_final_stop(raw, cleaned, molecule)
    if not cleaned:
        raise SequenceError("empty sequence")
    return cleaned


def _without_final_stop(raw: bytes, cleaned: bytes, molecule: Molecule) -> bytes:
    bare = raw.translate(None, _WHITESPACE)
    if molecule == "protein" and bare[-1] == _STOP:
        cleaned = cleaned[:-1]
    place = cleaned.find(_INVALID)
    if place < 0:
        return cleaned
    character = _printable(bare, place)
    alphabet = "IUPAC nucleotide codes" if molecule == "dna" else "the 20 amino acids and B J O U X Z"
    where = f"{character} at position {place + 1}"
    raise SequenceError(f"{where} is not valid in a {molecule} sequence (allowed: {alphabet})")


def _printable(bare: bytes, place: int) -> str:
    start = place
    while start and bare[start] & 0xC0 == 0x80:  # inside a UTF-8 character
        start -= 1
    return repr(bare[start : start + 4].decode("utf-8", "replace")[0])


_NUCLEOTIDE_ONLY_MIN_RESIDUES = 50
_PLAIN_NUCLEOTIDES = b"ACGTUN"


def looks_like_dna(residues: bytes) -> bool:
    """Tell whether a canonical *protein* sequence is rather a nucleic acid that passes as one.

    True for at least 50 residues of which 95 % are A C G T U N. In UniProt those six make up about a quarter of a
    protein, so a protein of that length passing as DNA is a matter of extreme low complexity only.
    """
    if len(residues) < _NUCLEOTIDE_ONLY_MIN_RESIDUES:
        return False
    head = residues[:_NUCLEOTIDE_ONLY_MIN_RESIDUES]
    if len(head.translate(None, _PLAIN_NUCLEOTIDES)) > _NUCLEOTIDE_ONLY_MIN_RESIDUES // 2:
        return False
    return len(residues.translate(None, _PLAIN_NUCLEOTIDES)) * 20 <= len(residues)


def sequence_key(sequence: bytes | str, molecule: Molecule | None = None) -> bytes:
    """Return the 24-byte refget digest of a sequence: the first 24 bytes of the SHA-512 of its canonical form.

    Parameters
    ----------
    sequence : in its canonical form, as bytes, where no molecule is given.
    molecule : "dna" or "protein": bring the sequence into its canonical form first.

    Raises
    ------
    InputError : a text without a molecule.
    SequenceError : not a sequence of the molecule.
    """
    if molecule is not None:
        sequence = canonical(sequence, molecule)
    elif isinstance(sequence, str):
        raise InputError("Cannot make a key of a text: expected its molecule too. Use sequence_key(text, 'protein').")
    return hashlib.sha512(sequence).digest()[:KEY_BYTES]


def key_text(key: bytes) -> str:
    """Write a 24-byte key as text, `SQ.` + base64url (32 characters)."""
    return "SQ." + base64.urlsafe_b64encode(key).decode("ascii")


def key_from_text(text: str) -> bytes:
    """Read a key written by `key_text`.

    Raises
    ------
    InputError : not such a key.
    """
    try:
        key = base64.b64decode(text.removeprefix("SQ."), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith("SQ.") or len(key) != KEY_BYTES:
        raise InputError(f"Cannot read sequence key {text!r}: expected SQ. and 32 base64url characters.")
    return key


def key_array(keys: Iterable[bytes]) -> Keys:
    """Stack 24-byte keys into an (n, 24) uint8 array."""
    return np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, KEY_BYTES)


KeysLike = Keys | Iterable[bytes | str | NDArray[np.uint8]]
"""Keys: an (n, 24) uint8 array; or a list whose items are 24 bytes, text (`SQ.…`, or 48 hexadecimal digits), or rows of
such an array.
"""


def as_keys(keys: KeysLike) -> Keys:
    """Return keys as an array, (n, 24) uint8; such an array is returned as it is.

    Raises
    ------
    InputError : one key in place of several, or something that is not a key.
    """
    if isinstance(keys, np.ndarray) and keys.dtype.kind not in "OU":
        if keys.dtype == np.uint8 and keys.ndim == 2 and keys.shape[1] == KEY_BYTES:
            return keys
        raise _no_keys(f"{keys.shape} {keys.dtype}")
    if isinstance(keys, str | bytes):
        raise _no_keys(f"a single {type(keys).__name__}; put it into a list")
    if isinstance(keys, Mapping | Set) or not isinstance(keys, Iterable):
        raise _no_keys(type(keys).__name__)
    return key_array(_key_bytes(each) for each in keys)


def _key_bytes(key: object) -> bytes:
    if isinstance(key, bytes) and len(key) == KEY_BYTES:
        return key
    if isinstance(key, str):
        return bytes.fromhex(key) if _HEX_KEY.fullmatch(key) else key_from_text(key)
    if isinstance(key, np.ndarray) and key.shape == (KEY_BYTES,) and key.dtype == np.uint8:
        return key.tobytes()
    raise _no_keys(f"{key!r:.80} among them")


def _no_keys(found: str) -> InputError:
    return InputError(
        f"Cannot look up keys: expected an array of shape (n, {KEY_BYTES}) uint8, or a list of keys, each of "
        f"{KEY_BYTES} bytes or a text (SQ.… or {2 * KEY_BYTES} hexadecimal digits), found {found}."
    )


@dataclass(frozen=True)
class Recipe:
    """All that determines the numbers of a space. Device, batch size, kernel and thread count are not in it.

    It may gain fields: each of them has a default, and where it has that value it is left out of the JSON, so that the
    ids of all recipes from before stay what they are. A field that is not known makes a recipe unreadable, since it
    says something about the numbers.
    """

    model: str
    source: str
    """Repository of the weights; "built-in" or "local"."""
    revision: str | None
    weights_sha256: str | None
    tokenizer_sha256: str | None
    implementation: str
    """Tag of our code, raised whenever it would change numbers beyond the stated tolerance."""
    molecule: Molecule
    canonicalisation: str
    layer: str
    pooling: str
    pooled_special_tokens: tuple[str, ...]
    max_length_tokens: int | None
    """Content tokens (residues for proteins) that the model sees at once; None: no limit."""
    long: LongPolicy
    """What happens beyond it."""
    window_overlap_tokens: int | None
    precision: Precision
    dtype: Literal["float16", "float32"]
    dim: int
    rare_residues: RareResidues = "kept"
    """Which of U, Z, O and B the model is given as X."""

    @property
    def tolerance(self) -> float:
        """Largest difference between two computations of one vector, relative to its largest absolute value.

        `full`: float32 on different machines and kernels. `half`: the rounding to float16 (2**-11) of each, and fp16
        arithmetic on one side.
        """
        return 1e-4 if self.precision == "full" else 4e-3

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values, without those added later that have their default; `from_json` reads them back."""
        document = {**asdict(self), "pooled_special_tokens": list(self.pooled_special_tokens)}
        defaults = {field.name: field.default for field in fields(self) if field.default is not MISSING}
        return {name: value for name, value in document.items() if name not in defaults or value != defaults[name]}

    def canonical_json(self) -> bytes:
        """UTF-8 JSON with sorted keys and no blanks: what the id is the digest of."""
        return canonical_recipe_json(self.to_json())

    @cached_property
    def id(self) -> str:
        """SHA-256 of the canonical JSON, 64 hexadecimal digits."""
        return recipe_id(self.to_json())

    def differences(self, other: Recipe) -> dict[str, tuple[object, object]]:
        """Fields that differ, each with (mine, the other's)."""
        mine, theirs = asdict(self), asdict(other)
        return {name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read a recipe back from its parsed JSON.

        Raises
        ------
        InputError : a field is missing, or its value is not one that a recipe may have.
        FormatVersionError : a field is unknown, so a newer embedstore wrote it.
        """
        known = {field.name: field for field in fields(cls)}
        missing = [name for name, field in known.items() if field.default is MISSING and name not in document]
        if missing:
            raise InputError(f"Cannot read a recipe: these fields are missing: {', '.join(missing)}.")
        unknown = sorted(document.keys() - known.keys())
        if unknown:
            raise FormatVersionError("a recipe", [f"the recipe field {name}" for name in unknown])
        _check_fields(document)
        return cls(**{**document, "pooled_special_tokens": tuple(document["pooled_special_tokens"])})


def recipe_id(document: Mapping[str, Any]) -> str:
    """Return the id of a recipe given as JSON values, one from a newer embedstore too."""
    return hashlib.sha256(canonical_recipe_json(document)).hexdigest()


def canonical_recipe_json(document: Mapping[str, Any]) -> bytes:
    """UTF-8 JSON with sorted keys and no blanks: what the id is the digest of."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


_TEXTS = ("model", "source", "implementation", "canonicalisation", "layer", "pooling")
_OPTIONAL_TEXTS = ("revision", "weights_sha256", "tokenizer_sha256")
_CHOICES: dict[str, tuple[str, ...]] = {
    "molecule": get_args(Molecule),
    "long": get_args(LongPolicy),
    "precision": get_args(Precision),
    "dtype": ("float16", "float32"),
    "rare_residues": get_args(RareResidues),
}
_MAX_TOKENS = 2**63 - 1


def _check_fields(document: Mapping[str, Any]) -> None:
    """Refuse values of another type or outside their range; InputError."""
    for name in (*_TEXTS, *_OPTIONAL_TEXTS):
        if not isinstance(document[name], str) and not (name in _OPTIONAL_TEXTS and document[name] is None):
            raise _unfit(name, "a text", document[name])
    for name, allowed in _CHOICES.items():
        if name in document and document[name] not in allowed:
            raise _unfit(name, " or ".join(allowed), document[name])
    tokens = document["pooled_special_tokens"]
    if not isinstance(tokens, (list, tuple)) or not all(isinstance(each, str) for each in tokens):
        raise _unfit("pooled_special_tokens", "a list of texts", tokens)
    for name, least in (("max_length_tokens", 1), ("window_overlap_tokens", 0)):
        if document[name] is not None and not _is_within(document[name], least, _MAX_TOKENS):
            raise _unfit(name, f"nothing, or {least} or more", document[name])
    if not _is_within(document["dim"], 1, MAX_DIM):
        raise _unfit("dim", f"1 to {MAX_DIM}", document["dim"])


def _is_within(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _unfit(name: str, expected: str, found: object) -> InputError:
    return InputError(f"Cannot read a recipe: expected {expected} as {name}, found {found!r:.80}.")
