"""A file of `torch.save`, looked at without torch and without executing any of its pickle.

It may come from a stranger, so nothing that it claims is believed before memory is asked for: the archive's members
must be stored as they are (a deflated one could be a bomb) and fit into the file together; in the older layout, one
pickle behind the other, no storage may claim more elements than the file has bytes.
"""

from __future__ import annotations

import pickletools
import struct
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

LARGEST_PICKLE_BYTES = 64 << 20
_ARCHIVE = b"PK\x03\x04"

_PICKLES_BEFORE_STORAGES = 5
"""Of the older layout: magic number, version, machine, the object, and the storages' names."""


class TorchFileError(ValueError):
    """It is no file of `torch.save`, or claims more than it holds; the message is a clause that says which."""


def read_pickle(file: Path, largest_bytes: int = LARGEST_PICKLE_BYTES) -> bytes:
    """Return the pickle of a zip archive as `torch.save` has written since 1.6.

    Raises
    ------
    TorchFileError : it is no such archive, or one that claims more than it holds.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.read(_pickle_member(archive.infolist(), file.stat().st_size, largest_bytes))
    except TorchFileError:
        raise
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise TorchFileError(
            f"expected a .pt file as torch.save has written since 1.6 (a zip archive): {error}"
        ) from error


def _pickle_member(members: Sequence[zipfile.ZipInfo], held_bytes: int, largest_bytes: int) -> zipfile.ZipInfo:
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise TorchFileError("expected members that are stored, found compressed ones")
    claimed_bytes = sum(member.file_size for member in members)
    if claimed_bytes > held_bytes:
        raise TorchFileError(f"its members claim {claimed_bytes} bytes, the file has {held_bytes}")
    pickles = [member for member in members if member.filename.rsplit("/", 1)[-1] == "data.pkl"]
    if len(pickles) != 1 or pickles[0].file_size > largest_bytes:
        raise TorchFileError(f"expected one data.pkl of at most {largest_bytes} bytes inside")
    return pickles[0]


def is_archive(file: Path) -> bool:
    """Tell the layout as torch itself does: by the first four bytes, which zipfile does not look at."""
    with file.open("rb") as stream:
        return stream.read(len(_ARCHIVE)) == _ARCHIVE


def check_sizes(file: Path) -> None:
    """See that a file of either layout does not claim more than it holds.

    Raises
    ------
    TorchFileError : it does, or is damaged.
    """
    if is_archive(file):
        read_pickle(file)
        return
    size_bytes = file.stat().st_size
    with file.open("rb") as stream:
        pickles = BytesIO(stream.read(LARGEST_PICKLE_BYTES))
    for _ in range(_PICKLES_BEFORE_STORAGES):
        claimed = _largest_storage(pickles)
        if claimed > size_bytes:
            raise TorchFileError(f"a tensor claims {claimed} elements, the file has {size_bytes} bytes")


def _largest_storage(pickle: BytesIO) -> int:
    """Return the largest number of elements that a storage of one pickle claims: the last number of its description."""
    number, largest = 0, 0
    try:
        for instruction, argument, _ in pickletools.genops(pickle):
            if isinstance(argument, int) and "PUT" not in instruction.name and "GET" not in instruction.name:
                number = argument
            elif instruction.name in ("BINPERSID", "PERSID"):
                largest = max(largest, number)
    except (ValueError, OverflowError, IndexError, struct.error) as error:
        raise TorchFileError(f"its pickle is damaged: {error}") from error
    return largest
