"""Files beside the models: caches that only save time, SHA-256 of weights, and a first look into `torch.save` files.

*Caches* are small JSON files in `$XDG_CACHE_HOME/embedstore`. Each is written whole under a temporary name and renamed;
a damaged or unreadable one counts as empty. Two processes may write at once: one of them wins, and what the other one
knew is computed again.

*Digests.* Hashing the weights of a large model takes seconds to a minute, so a digest is remembered by path, size and
modification time (nanoseconds) in `digests.json`. Without that cache, files are hashed again.

*Files of `torch.save`* are read without torch and without executing any of their pickle. They may come from a stranger,
so no size that they state is believed before memory is reserved: the members of the archive must be stored uncompressed
(a deflated one could be a bomb) and fit into the file together; in the older layout, one pickle behind the other, no
storage may state more elements than the file has bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickletools
import struct
import time
import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from embedstore.atomic import replacing
from embedstore.errors import InputError, StorageError
from embedstore.home import expanded
from embedstore.strict_json import read_json


def cache_file(name: str) -> Path:
    """Return where the file of that name lies; nowhere, without a home directory."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return expanded(base) / "embedstore" / name
    except InputError:
        return Path(os.devnull) / "embedstore" / name


def read_entries(file: Path) -> dict[str, Any]:
    """Return the entries of the file's JSON object; none if it cannot be read."""
    try:
        return read_json(file)
    except (OSError, ValueError):
        return {}


def write_entries(file: Path, entries: Mapping[str, Any]) -> bool:
    """Replace the file; return whether that was possible."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(entries, indent=1))
    except (OSError, StorageError):
        return False
    return True


_SETTLED_NS = 2_000_000_000
"""A file younger than this may still change without its time changing, on file systems with coarse clocks."""

_MOST_ENTRIES = 1000


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits, from the cache when the file is unchanged.

    Raises
    ------
    OSError : the file cannot be read.
    """
    path = path.resolve()
    before = path.stat()
    stamp = [before.st_size, before.st_mtime_ns]
    known = _read_cache().get(str(path))
    if known is not None and known[:2] == stamp:
        return str(known[2])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        after = os.fstat(file.fileno())
    unchanged = [after.st_size, after.st_mtime_ns] == stamp
    if unchanged and time.time_ns() - after.st_mtime_ns > _SETTLED_NS:
        _remember(str(path), [*stamp, digest])
    return digest


def files_sha256(paths: Sequence[Path]) -> str:
    """Return one digest for the files of a checkpoint.

    That of the file when there is one; of several (shards) the SHA-256 of their digests in the order of their names,
    a line each.
    """
    digests = [file_sha256(path) for path in sorted(paths, key=lambda path: path.name)]
    return combined_sha256(digests)


def combined_sha256(digests: Sequence[str]) -> str:
    """Combine the digests of shards, given in the order of the files' names."""
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode("ascii")).hexdigest()


def digests_file() -> Path:
    """Where digests are kept."""
    return cache_file("digests.json")


def _read_cache() -> dict[str, list[int | str]]:
    return {path: entry for path, entry in read_entries(digests_file()).items() if _is_entry(entry)}


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 3
        and isinstance(entry[0], int)
        and isinstance(entry[1], int)
        and isinstance(entry[2], str)
        and len(entry[2]) == 64
    )


def _remember(path: str, entry: list[int | str]) -> None:
    entries = _read_cache()
    entries.pop(path, None)
    entries[path] = entry
    write_entries(digests_file(), dict(list(entries.items())[-_MOST_ENTRIES:]))


LARGEST_PICKLE_BYTES = 64 << 20
_ARCHIVE = b"PK\x03\x04"

_PICKLES_BEFORE_STORAGES = 5
"""Of the older layout: magic number, version, machine, the object, and the storages' names."""


class TorchFileError(ValueError):
    """It is not a file of `torch.save`, or states larger sizes than it has; the message is a clause that says which."""


def read_pickle(file: Path, largest_bytes: int = LARGEST_PICKLE_BYTES) -> bytes:
    """Return the pickle of a zip archive as `torch.save` has written since 1.6.

    Raises
    ------
    TorchFileError : it is not such an archive, or claims more than it holds.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.read(_pickle_member(archive.infolist(), file.stat().st_size, largest_bytes))
    except TorchFileError:
        raise
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise TorchFileError(
            f"expected a .pt file as torch.save has written since release 1.6 (a zip archive): {error}"
        ) from error


def _pickle_member(members: Sequence[zipfile.ZipInfo], held_bytes: int, largest_bytes: int) -> zipfile.ZipInfo:
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise TorchFileError("expected uncompressed members, found compressed ones")
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
    """Check that a file of either layout does not state larger sizes than it has.

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


_REBUILD = "torch._utils _rebuild_tensor_v2"


def tensor_shapes(pickle: bytes) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors by name, from the instructions of a pickle, which are listed and never executed.

    A tensor is described by its name, the function that makes it, its storage, and then its offset and its sizes. The
    storages are not looked at: they may be smaller.

    Raises
    ------
    TorchFileError : the pickle is damaged.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    text, name, function = "", "", None
    after_function = False
    numbers: list[int] | None = None
    try:
        for instruction, argument, _ in pickletools.genops(pickle):
            kind = instruction.name
            if after_function and kind.endswith("BINPUT"):
                function = argument  # where the next tensor finds it
            after_function = kind == "GLOBAL" and argument == _REBUILD
            if after_function or (kind.endswith("BINGET") and argument == function):
                name = text
            elif isinstance(argument, str) and kind != "GLOBAL":
                text = argument
            elif kind == "BINPERSID":
                numbers = []
            elif numbers is not None and "TUPLE" in kind:
                shapes[name], numbers = tuple(numbers[1:]), None
            elif numbers is not None and isinstance(argument, int):
                numbers.append(argument)
    except (ValueError, OverflowError, IndexError, struct.error) as error:
        raise TorchFileError(f"its pickle is damaged: {error}") from error
    return shapes
