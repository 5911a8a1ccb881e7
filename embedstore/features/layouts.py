"""Reading merged files in each of the three formats that `array_files` writes.

All columns but `X` are read; of `X` it is found where its rows lie as raw bytes. A file may come from anybody: what it
states of its sizes is compared with what is there before memory is asked for, and no link out of it is followed.
"""

from __future__ import annotations

import math
import struct
import sys
import zipfile
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, VLenUTF8Codec, ZstdCodec

from embedstore.array_files import TEXT
from embedstore.errors import InputError
from embedstore.features.columns import HEADER, ROW_DTYPE, Content, expect_columns
from embedstore.store.documents import Part

_TEXT_PLACE = np.dtype([("size_bytes", "<u4"), ("collection", "<u8"), ("object", "<u4")])
"""How HDF5 writes a text of variable length: HDF5 file format specification, IV.B."""


def read_hdf5(path: Path) -> Content:
    """Read all but the rows, and find where those lie.

    Parameters
    ----------
    path : of the file.

    Raises
    ------
    InputError : not such a file.
    Errors of h5py : it is damaged.
    """
    with h5py.File(path, "r", locking=False) as file:
        size_bytes = path.stat().st_size
        arrays = {name: _dataset(file, name, size_bytes) for name in file}
        expect_columns(
            {name: (array.shape, TEXT if _is_text(array) else array.dtype) for name, array in arrays.items()}
        )
        columns = {name: _column(array, path, size_bytes) for name, array in arrays.items() if name != "X"}
        rows = arrays["X"]
        count = int(rows.shape[0])
        parts = (Part(path.name, int(rows.id.get_offset()), count),) if rows.size else ()
        if HEADER in file.attrs and file.attrs.get_id(HEADER).shape != ():
            raise InputError(f"expected one text as {HEADER}, found several")
        header = file.attrs.get(HEADER, "")
        return Content(str(header), columns, tuple(np.shape(rows)), path.parent, parts)


def _dataset(file: Any, name: str, size_bytes: int) -> Any:
    """Open a dataset whose bytes are in this very file, as many as its shape needs.

    A file from elsewhere may name other files (external links and storage, virtual datasets), which are never opened.
    """
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise InputError(f"expected {name} in the file itself, found a link")
    array = file[name]
    if not isinstance(array, h5py.Dataset) or array.is_virtual or array.external or array.chunks is not None:
        raise InputError(f"expected {name} to be contiguous and in the file itself, found another kind of it")
    offset, claimed_bytes = array.id.get_offset(), array.size * array.dtype.itemsize
    if claimed_bytes and (offset is None or offset + claimed_bytes > size_bytes):
        raise InputError(f"expected {array.shape} of {array.dtype} in {name}, found less of it in the file")
    return array


def _is_text(array: Any) -> bool:
    return h5py.check_string_dtype(array.dtype) is not None


def _column(array: Any, path: Path, size_bytes: int) -> NDArray[Any]:
    if not _is_text(array):
        found: NDArray[Any] = array[:]
        return found
    if array.size:
        # Each text is a length and a place in the file; one place could be named a million times.
        described = np.fromfile(path, _TEXT_PLACE, array.size, offset=array.id.get_offset())
        text_bytes = int(described["size_bytes"].sum(dtype=np.int64))
        if array.id.get_storage_size() != described.nbytes or text_bytes > size_bytes:
            raise InputError(f"expected texts of at most {size_bytes} bytes in {array.name}, found {text_bytes}")
    texts: NDArray[Any] = array.astype("T")[:].astype(TEXT)
    return texts


_LOCAL_HEADER = struct.Struct("<26x2H")
"""Of a zip member: its last two fields are the lengths of the name and of the extra field that follow."""


def read_npz(path: Path) -> Content:
    """As `read_hdf5`; the errors of damaged files are those of zipfile and numpy."""
    with zipfile.ZipFile(path) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        described = {name: _described(archive, member) for name, member in members.items() if name != "X"}
        header_shape, _ = described.pop(HEADER, ((), TEXT))
        shape, offset = _rows(members["X"], path) if "X" in members else ((), 0)
        expect_columns({**described, **({"X": (shape, ROW_DTYPE)} if "X" in members else {})})
        if header_shape or offset + math.prod(shape) * ROW_DTYPE.itemsize > path.stat().st_size:
            raise InputError(f"expected X of {shape} in the file, found less of it")
        columns = {name: _array(archive, member) for name, member in members.items() if name != "X"}
    header = str(columns.pop(HEADER, ""))
    return Content(header, columns, shape, path.parent, (Part(path.name, offset, shape[0]),) if shape[0] else ())


def _described(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of a member, if it holds as many bytes as these need."""
    if member.compress_type != zipfile.ZIP_STORED:
        raise InputError(f"expected {member.filename} to be stored, found it deflated")
    with archive.open(member) as content:
        shape, _, dtype = _npy_header(content)
        held_bytes = member.file_size - content.tell()
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != held_bytes:
        raise InputError(f"expected {shape} of {dtype} in {member.filename}, found {held_bytes} bytes")
    return shape, TEXT if dtype.kind == "U" else dtype


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(member) as content:
        array: NDArray[Any] = np.lib.format.read_array(content, allow_pickle=False)
    return array.astype(TEXT) if array.dtype.kind == "U" and array.ndim else array


def _rows(member: zipfile.ZipInfo, path: Path) -> tuple[tuple[int, ...], int]:
    """Shape of `X`, and the byte of the file at which its rows begin; each has a checksum, so zip's is not needed."""
    if member.compress_type != zipfile.ZIP_STORED:
        raise InputError(f"expected {member.filename} to be stored, found it deflated")
    with path.open("rb") as file:
        file.seek(member.header_offset)
        name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        file.seek(name_bytes + extra_bytes, 1)
        shape, fortran_order, dtype = _npy_header(file)
        offset = file.tell()
    if dtype != ROW_DTYPE or fortran_order:
        raise InputError(f"expected X to be float32 in C order, found {dtype}")
    return shape, offset


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("another version of the npy format")
    return np.lib.format.read_array_header_1_0(file)


if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_LARGEST_DOCUMENT_BYTES = 64 << 20
_LARGEST_RATIO = 500
"""Names and ids compress to a twentieth at most; what claims to be much smaller is a bomb."""
_HEAD_BYTES = (128 << 10) + 64
"""A block of zstd and what comes before it."""
_TEXT_BYTES = 4
"""Of each text at least, its length; and of the number of texts, before the first."""


def read_zarr(path: Path) -> Content:
    """As `read_hdf5`; the errors of damaged files are those of zarr."""
    # A group's own listing only warns of members that are damaged.
    names = [folder.name for folder in path.iterdir() if folder.is_dir()]
    for file in [path / "zarr.json", *(path / name / "zarr.json" for name in names)]:
        if file.stat().st_size > _LARGEST_DOCUMENT_BYTES:
            raise InputError(f"expected at most {_LARGEST_DOCUMENT_BYTES} bytes in {file.name}, found more")
    group = zarr.open_group(path, mode="r", zarr_format=3, use_consolidated=False)
    arrays: dict[str, Any] = {name: group[name] for name in names}
    expect_columns({name: (array.shape, _dtype(array)) for name, array in arrays.items()})
    parts = _parts(path, arrays["X"])
    for name, array in arrays.items():
        if name != "X":
            _check_chunks(path, name, array)
    columns = {name: np.asarray(array[:]) for name, array in arrays.items() if name != "X"}
    header = group.attrs.get(HEADER, "")
    return Content(str(header), columns, arrays["X"].shape, path, parts)


def _unpacked_head(head: bytes) -> tuple[int | None, bytes]:
    """What a zstd frame states of the size of its content, None if nothing, and the first bytes of that."""
    try:
        stated_bytes = zstd.get_frame_info(head).decompressed_size
        return stated_bytes, zstd.ZstdDecompressor().decompress(head, _TEXT_BYTES)
    except (zstd.ZstdError, EOFError) as error:
        raise InputError(f"it is damaged: {error}") from error


def _dtype(array: Any) -> np.dtype[Any]:
    if not isinstance(array, zarr.Array):
        raise InputError(f"expected arrays in the group, found {array}")
    return TEXT if isinstance(array.dtype, np.dtypes.StringDType) else array.dtype


def _check_chunks(path: Path, name: str, array: Any) -> None:
    """Refuse chunks that are larger than the array needs, or that would become so when they are decompressed."""
    codecs = [type(codec) for codec in array.metadata.codecs]
    first = VLenUTF8Codec if array.dtype == TEXT else BytesCodec
    rows, chunk_rows = array.shape[0], array.chunks[0]
    if codecs not in ([first, ZstdCodec], [first]) or array.chunks[1:] != array.shape[1:] or chunk_rows > max(rows, 1):
        raise InputError(f"expected {name} in chunks of whole rows, compressed with zstd, found {array.metadata}")
    for start in range(0, rows, chunk_rows):
        place = (start // chunk_rows, *[0] * (array.ndim - 1))
        file = path / name / array.metadata.encode_chunk_key(place)
        with file.open("rb") as stream:
            head, held_bytes = stream.read(_HEAD_BYTES), file.stat().st_size
        stated_bytes, content = _unpacked_head(head) if ZstdCodec in codecs else (held_bytes, head[:_TEXT_BYTES])
        if array.dtype == TEXT and int.from_bytes(content, "little") != chunk_rows:
            raise InputError(f"expected {chunk_rows} texts in {file.name} of {name}, found another number")
        if array.dtype == TEXT:
            least_bytes, largest_bytes = _TEXT_BYTES * chunk_rows, _LARGEST_RATIO * held_bytes + (1 << 20)
        else:
            least_bytes = largest_bytes = chunk_rows * math.prod(array.shape[1:]) * array.dtype.itemsize
        if stated_bytes is None or not least_bytes <= stated_bytes <= largest_bytes:
            raise InputError(
                f"expected {least_bytes} to {largest_bytes} bytes in {file.name} of {name}, found {stated_bytes}"
            )


def _parts(path: Path, rows: Any) -> tuple[Part, ...]:
    raw = [BytesCodec(endian="little")]
    chunk_rows, *width = rows.chunks
    codecs = rows.metadata.codecs
    if rows.dtype != ROW_DTYPE or list(codecs) != raw or tuple(width) != rows.shape[1:] or rows.shards is not None:
        raise InputError(f"expected X to be float32 in chunks of whole rows, not compressed, found {rows.metadata}")
    count = rows.shape[0]
    parts = []
    for start in range(0, count, chunk_rows):
        file = "X/" + rows.metadata.encode_chunk_key((start // chunk_rows, 0))
        chunk_bytes = chunk_rows * rows.shape[1] * ROW_DTYPE.itemsize
        found = (path / file).stat().st_size if (path / file).is_file() else 0
        if found != chunk_bytes:
            raise InputError(f"expected {chunk_bytes} bytes in {file}, found {found}")
        parts.append(Part(file, 0, min(chunk_rows, count - start)))
    return tuple(parts)
