"""Pinned views, `pins/<name>.json`: an exact list of commits by space, whose files stay as long as the pin is there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from embedstore.errors import CorruptStoreError, InputError, SpaceNotFoundError
from embedstore.storage.protocol import Storage
from embedstore.store.documents import SPACE_NAME
from embedstore.strict_json import field, matching, one_of, refuse_requirements, sealed, unsealed, well_formed

_FOLDER = "pins/"
_FILE = re.compile(rf"pins/{SPACE_NAME.pattern}\.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Pin:
    """What a store held at one moment.

    Attributes
    ----------
    name : of the pin.
    spaces : space id -> ids of the commits that were live, older first.
    """

    name: str
    spaces: Mapping[str, tuple[str, ...]]

    def to_bytes(self) -> bytes:
        """Return the content of the pin's file."""
        spaces = {space: list(commits) for space, commits in self.spaces.items()}
        return sealed({"format": "embedstore-pin", "name": self.name, "spaces": spaces})

    @classmethod
    def from_bytes(cls, file: str, content: bytes) -> Pin:
        """Read a pin.

        Parameters
        ----------
        file : its name in the store.
        content : of the file.

        Raises
        ------
        CorruptStoreError : it is damaged, or not under its own name.
        FormatVersionError : it needs a newer embedstore.
        """
        document = unsealed(file, content)
        with well_formed(file):
            one_of("format", document["format"], ["embedstore-pin"])
            refuse_requirements(document, file)
            name = field(document, "name", str)
            if pin_file(name) != file:
                raise CorruptStoreError(file, f"expected the pin of that name, found {name!r}")
            spaces = field(document, "spaces", dict)
            return cls(
                name,
                {
                    matching("space", space, _SHA256): tuple(
                        matching("commit", each, _SHA256) for each in field(spaces, space, list)
                    )
                    for space in spaces
                },
            )


def pin_file(name: str) -> str:
    """Return the file of a pin; InputError if that is not a name."""
    if not SPACE_NAME.fullmatch(name):
        raise InputError(f"Cannot name a pin {name!r}: expected up to 100 of A-Z a-z 0-9 and . _ + -")
    return f"{_FOLDER}{name}.json"


def is_pin(file: str) -> bool:
    """Tell a pin from what else may lie beside it: temporary files, and those of operating systems."""
    return _FILE.fullmatch(file) is not None


def read_pin(storage: Storage, name: str) -> Pin:
    """Read one pin; SpaceNotFoundError if there is none of that name."""
    file = pin_file(name)
    try:
        return Pin.from_bytes(file, storage.read(file))
    except FileNotFoundError:
        known = ", ".join(each.name for each in read_pins(storage)) or "none"
        raise SpaceNotFoundError(f"No pin {name!r} in {storage.location}; its pins: {known}.") from None


def read_pins(storage: Storage) -> list[Pin]:
    """Read all pins, sorted by name; CorruptStoreError for a damaged one, FormatVersionError for a newer one."""
    pins = []
    for entry in storage.list(_FOLDER):
        if is_pin(entry.name):
            try:
                pins.append(Pin.from_bytes(entry.name, storage.read(entry.name)))
            except FileNotFoundError:  # removed since the listing
                continue
    return pins


def pinned_commits(storage: Storage) -> dict[str, set[str]]:
    """Return the commits that pins keep: space id -> ids."""
    kept: dict[str, set[str]] = {}
    for pin in read_pins(storage):
        for space, commits in pin.spaces.items():
            kept.setdefault(space, set()).update(commits)
    return kept
