"""Pinned views, `pins/<name>.json`: an exact list of commits by space, whose files stay as long as the pin is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from embedstore.errors import CorruptStoreError, InputError, SpaceNotFoundError
from embedstore.store.documents import SPACE_NAME
from embedstore.store.storage import Storage
from embedstore.store.strict_json import field, one_of, sealed, typed, unsealed, well_formed

_FOLDER = "pins/"


@dataclass(frozen=True, slots=True)
class Pin:
    """What a store held at one moment.

    Attributes
    ----------
    spaces : space id -> ids of the commits that were live, older first.
    """

    name: str
    spaces: Mapping[str, tuple[str, ...]]

    def to_bytes(self) -> bytes:
        spaces = {space: list(commits) for space, commits in self.spaces.items()}
        return sealed({"format": "embedstore-pin", "name": self.name, "spaces": spaces})

    @classmethod
    def from_bytes(cls, file: str, content: bytes) -> Pin:
        """Read a pin; CorruptStoreError when it is damaged, or not under its own name."""
        document = unsealed(file, content)
        with well_formed(file):
            one_of("format", document["format"], ["embedstore-pin"])
            name = field(document, "name", str)
            if pin_file(name) != file:
                raise CorruptStoreError(file, f"expected the pin of that name, found {name!r}")
            spaces = field(document, "spaces", dict)
            return cls(
                name,
                {
                    typed("space", space, str): tuple(typed("commit", commit, str) for commit in commits)
                    for space, commits in spaces.items()
                },
            )


def pin_file(name: str) -> str:
    """Return the file of a pin; InputError if that is not a name."""
    if not SPACE_NAME.fullmatch(name):
        raise InputError(f"Cannot name a pin {name!r}: expected up to 100 letters, digits, and . _ + -")
    return f"{_FOLDER}{name}.json"


def read_pin(storage: Storage, name: str) -> Pin:
    """Read one pin; SpaceNotFoundError if there is none of that name."""
    file = pin_file(name)
    try:
        return Pin.from_bytes(file, storage.read(file))
    except FileNotFoundError:
        known = ", ".join(each.name for each in read_pins(storage)) or "none"
        raise SpaceNotFoundError(f"No pin {name!r} in {storage.location}; its pins: {known}.") from None


def read_pins(storage: Storage) -> list[Pin]:
    """Read all pins, sorted by name; CorruptStoreError for a damaged one."""
    pins = []
    for entry in storage.list(_FOLDER):
        if entry.name.endswith(".json"):
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
