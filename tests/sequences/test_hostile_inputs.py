"""Inputs made to exhaust memory, and files that change while they are read: typed errors, and bounded memory."""

from __future__ import annotations

import gzip
import lzma
import os
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from embedstore.errors import SequenceFileError
from embedstore.records import Record, Rejection
from embedstore.sequences import read
from embedstore.sequences.compression import LONGEST_ID_BYTES, zstd
from embedstore.sequences.reading import read_batches

MEGABYTE = 1 << 20
LONG_ID = "i" * MEGABYTE


def read_all(path: Path, block_bytes: int = 1 << 17, longest_bytes: int = 1000) -> list[Record | Rejection]:
    return [record for batch in read_batches(str(path), block_bytes, longest_bytes) for record in batch]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def gzip_of(start: bytes, repeated: bytes, times: int) -> Iterator[bytes]:
    """Compress `repeated` so often without ever holding it."""
    packer = zlib.compressobj(9, wbits=31)
    yield packer.compress(start)
    for _ in range(times):
        yield packer.compress(repeated)
    yield packer.flush()


FORMATS: dict[str, Callable[[str], str]] = {
    "fasta": lambda id_: f">{id_} more\nMKV\n",
    "fastq": lambda id_: f"@{id_} more\nACG\n+\nIII\n",
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("id_", [LONG_ID, "i" * (LONGEST_ID_BYTES + 1)])
def test_id_that_is_too_long_is_a_rejection_with_file_and_line(tmp_path: Path, form: str, id_: str) -> None:
    write = FORMATS[form]
    path = written(tmp_path / "x", "".join(map(write, ["a", id_, "i" * LONGEST_ID_BYTES])).encode())
    first, refused, last = read([path])
    assert isinstance(first, Record)
    assert isinstance(last, Record)
    assert len(last.id) == LONGEST_ID_BYTES
    assert isinstance(refused, Rejection)
    assert (refused.file, refused.line) == (str(path), 3 if form == "fasta" else 5)
    assert refused.id == "i" * 80 + "…"
    assert refused.reason == f"expected an id of at most {LONGEST_ID_BYTES} bytes, found {len(id_)}"


@pytest.mark.parametrize("block_bytes", [5, 64, 1 << 17])
@pytest.mark.parametrize("body", [b"A" * 5000, b"ACGT\n" * 1000, b"\n" * 5000, b"A>\n" * 900])
def test_fasta_record_that_is_too_long_is_skipped_and_reading_goes_on(
    tmp_path: Path, block_bytes: int, body: bytes
) -> None:
    path = written(tmp_path / "x.fa", b">a\nMK\n>long one\n" + body + b"\n>c\nMKV\n>d\nMKL\n")
    found = read_all(path, block_bytes)
    if block_bytes < len(body):
        assert found[1] == Rejection(str(path), 3, "long", "expected a record of at most 1000 bytes, found more")
    assert [record.id for record in found] == ["a", "long", "c", "d"]
    lines = path.read_bytes().split(b"\n")
    assert all(lines[record.line - 1].startswith(b">") for record in found)


def test_long_last_record_is_rejected_whether_the_input_ends_or_breaks_off(tmp_path: Path) -> None:
    content = b">a\nMK\n>long\n" + b"ACGT\n" * 100_000
    for path in (
        written(tmp_path / "x.fa", content),
        written(tmp_path / "x.fa.gz", gzip.compress(content)[:-20]),
    ):
        found = read_all(path, 512)
        assert [(type(record), record.id, record.line) for record in found] == [
            (Record, "a", 1),
            (Rejection, "long", 3),
        ]


def test_lines_of_fastq_and_records_of_genbank_that_are_too_long_end_the_file_with_a_rejection(tmp_path: Path) -> None:
    fastq = b"@a\nACG\n+\nIII\n@b\n" + b"A" * 5000 + b"\n+\n" + b"I" * 5000 + b"\n"
    genbank = (
        b"LOCUS       a 4 bp DNA\nORIGIN\n        1 acgt\n//\nLOCUS       b 9 bp DNA\nORIGIN\n" + b"  1 acgt\n" * 900
    )
    for content, what in ((fastq, "a line"), (genbank, "a record")):
        *_, last = read_all(written(tmp_path / "x", content), 512)
        assert isinstance(last, Rejection)
        assert f"it has {what} of more than 1000 bytes; this record and all that follow" in last.reason


@pytest.mark.parametrize(
    ("start", "repeated"),
    [(b"", b"\0" * MEGABYTE), (b"", b"A" * MEGABYTE), (b"", b"\n" * MEGABYTE), (b"#", b"A" * MEGABYTE)],
)
def test_gzip_bomb_without_a_record_takes_no_memory(tmp_path: Path, start: bytes, repeated: bytes) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(b"".join(gzip_of(start, repeated, 50)))
    tracemalloc.start()
    nothing_in_it = bool(start) or repeated.isspace()
    with nullcontext() if nothing_in_it else pytest.raises(SequenceFileError, match=r"bomb\.gz"):
        assert list(read([path])) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * MEGABYTE


@pytest.mark.parametrize("start", [b">", b">a\n", b"@", b"@a\n", b"LOCUS       a\n"])
def test_gzip_bomb_of_one_record_is_rejected_in_bounded_memory(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(b"".join(gzip_of(start, b"A" * MEGABYTE, 100)))
    assert path.stat().st_size < MEGABYTE
    tracemalloc.start()
    found = read_all(path, longest_bytes=8 * MEGABYTE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [type(record) for record in found] == [Rejection]
    assert len(found[0].id) <= 81
    assert peak < 4 * 8 * MEGABYTE


def test_longest_record_takes_four_times_its_size(tmp_path: Path) -> None:
    path = written(tmp_path / "x.fa", b">a\n" + b"ACGT" * (4 * MEGABYTE) + b"\n>b\nMK\n")
    tracemalloc.start()
    assert [record.id for record in read([path])] == ["a", "b"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 16 * MEGABYTE


def test_xz_that_asks_for_a_huge_dictionary_is_refused(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 512 << 20}]
    content = bytearray(lzma.compress(b">a\nMK\n", check=lzma.CHECK_NONE, filters=[{**filters[0], "dict_size": 4096}]))
    place = content.index(b"\x21\x01\x00", 12)  # LZMA2, one byte of properties: the dictionary's size
    content[place + 2] = 40  # 4 GiB
    header = content[12 : 12 + 4 * (content[12] + 1)]
    header[-4:] = zlib.crc32(header[:-4]).to_bytes(4, "little")
    content[12 : 12 + len(header)] = header
    path = written(tmp_path / "x.fa.xz", bytes(content))
    with pytest.raises(SequenceFileError, match=r"x\.fa\.xz: its xz data asks for too much memory .* smaller window"):
        list(read([path]))
    assert [record.id for record in read([written(path, lzma.compress(b">a\nMK\n", preset=9))])] == ["a"]


def test_zstd_that_asks_for_a_huge_window_is_refused(tmp_path: Path) -> None:
    frame = (
        b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([(31 - 10) << 3]) + b"\x01\x00\x00"
    )  # a window of 2 GiB, one empty block
    path = written(tmp_path / "x.fa.zst", frame + zstd.compress(b">a\nMK\n"))
    with pytest.raises(
        SequenceFileError, match=r"x\.fa\.zst: its zstd data asks for too much memory .* smaller window"
    ):
        list(read([path]))
    long = {zstd.CompressionParameter.window_log: 27}
    assert [record.id for record in read([written(path, zstd.compress(b">a\nMK\n", options=long))])] == ["a"]


@pytest.mark.parametrize("change_bytes", [-30_000, +30_000])
def test_file_that_changes_while_it_is_read_is_an_error_before_its_last_record(
    tmp_path: Path, change_bytes: int
) -> None:
    path = written(tmp_path / "x.fa", b"".join(b">r%d\n%s\n" % (number, b"MKV" * 30) for number in range(5000)))
    size = path.stat().st_size
    records = read([path])
    read_before = [next(records) for _ in range(10)]
    os.truncate(path, size + change_bytes)
    with pytest.raises(SequenceFileError, match=rf"x\.fa: it changed while it was read: it had {size} bytes"):
        read_before.extend(records)
    assert all(isinstance(record, Record) and len(record.sequence) == 90 for record in read_before)


def test_file_that_is_replaced_while_it_is_read_is_read_as_it_was(tmp_path: Path) -> None:
    path = written(tmp_path / "x.fa", b"".join(b">r%d\nMKV\n" % number for number in range(50_000)))
    records = read([path])
    next(records)
    written(tmp_path / "new", b">other\nM\n").replace(path)
    assert sum(1 for _ in records) == 49_999


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full"])
def test_endless_device_is_refused(device: str) -> None:
    with pytest.raises(SequenceFileError, match="binary data"):
        list(read([device]))


def test_memory_that_does_not_suffice_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("embedstore.sequences.fasta._records_one_by_one", fail)
    path = written(tmp_path / "x.fa", b">a\n" + b"ACGT" * (2 * MEGABYTE))
    with pytest.raises(SequenceFileError, match=r"x\.fa: a record of it is too long for the memory"):
        list(read([path]))
