"""Compression is recognised by content; data that ends early or is damaged never passes for a complete record."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import tracemalloc
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from Bio import bgzf

from embedstore.errors import SequenceFileError
from embedstore.records import Record, Rejection
from embedstore.sequences import read
from embedstore.sequences.compression import decompressed, zstd


def _bgzip(data: bytes) -> bytes:
    packed = BytesIO()
    writer = bgzf.BgzfWriter(fileobj=packed)
    writer.write(data)
    writer.flush()
    packed.write(bgzf._bgzf_eof)
    return packed.getvalue()


def _zstd(data: bytes) -> bytes:
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


def _skippable_frame(content: bytes) -> bytes:
    return b"\x50\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bgzip": _bgzip,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": _zstd,
}


def _fasta(records: int) -> bytes:
    draw = random.Random(7)
    return b"".join(
        b">p%d\n%s\n" % (number, bytes(draw.choices(b"ACDEFGHIKLMNPQRSTVWY", k=50))) for number in range(records)
    )


FORMATS = {
    "fasta": _fasta(300),
    "fastq": b"".join(b"@r%d\nACGTNACGTA\n+\nIIIIIIIIII\n" % number for number in range(300)),
}


@pytest.fixture(params=COMPRESSIONS)
def compress(request: pytest.FixtureRequest) -> Callable[[bytes], bytes]:
    return COMPRESSIONS[request.param]


@pytest.mark.parametrize("text", FORMATS.values(), ids=FORMATS)
def test_compressed_reads_like_plain_whatever_the_name(
    tmp_path: Path, compress: Callable[[bytes], bytes], text: bytes
) -> None:
    path = tmp_path / "misnamed.txt"
    path.write_bytes(text)
    plain = list(read([path]))
    path.write_bytes(compress(text))
    assert list(read([path])) == plain
    assert len(plain) == 300


def test_many_members_read_as_one_text(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    text = FORMATS["fasta"]
    path = tmp_path / "members"
    path.write_bytes(b"".join(compress(text[start : start + 999]) for start in range(0, len(text), 999)))
    assert [record.id for record in read([path])] == [f"p{number}" for number in range(300)]


def test_members_of_zero_bytes_and_padding_are_skipped(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "padded"
    path.write_bytes(compress(b"") + compress(b">a\nMK\n") + b"\0" * 512 + compress(b">b\nMK\n") + b"\0" * 700_000)
    assert [record.id for record in read([path])] == ["a", "b"]


def test_zstd_with_skippable_frames(tmp_path: Path) -> None:
    path = tmp_path / "frames"
    path.write_bytes(_skippable_frame(b"index") + _zstd(b">a\nMK\n") + _skippable_frame(b"") + _zstd(b">b\nV\n"))
    assert [record.id for record in read([path])] == ["a", "b"]


@pytest.mark.parametrize("text", [b"", b"\n\n# nothing\n"])
def test_compressed_nothing_has_no_records(tmp_path: Path, compress: Callable[[bytes], bytes], text: bytes) -> None:
    path = tmp_path / "nothing"
    path.write_bytes(compress(text))
    assert list(read([path])) == []


def _records_then_rejection(path: Path, expected: list[Record]) -> Rejection | None:
    """Check that the records of a broken file are the first of `expected`; return what follows them."""
    try:
        items = list(read([path]))
    except SequenceFileError:
        return None  # broken before the first record
    assert items[:-1] == expected[: len(items) - 1]
    assert isinstance(items[-1], Rejection)
    return items[-1]


@pytest.mark.parametrize("text", FORMATS.values(), ids=FORMATS)
def test_truncation_at_any_offset_rejects_the_record_it_falls_into(
    tmp_path: Path, compress: Callable[[bytes], bytes], text: bytes
) -> None:
    path = tmp_path / "cut"
    path.write_bytes(text)
    expected = list(read([path]))
    packed = compress(text)
    offsets = sorted({*range(1, len(packed), 1 + len(packed) // 50), *range(len(packed) - 20, len(packed))})
    for offset in offsets:
        path.write_bytes(packed[:offset])
        rejection = _records_then_rejection(path, expected)
        if rejection is not None:
            assert "data ends early" in rejection.reason
    assert rejection is not None


def test_truncation_between_bgzip_members_is_seen(tmp_path: Path) -> None:
    text = _fasta(3_000)
    packed = _bgzip(text)
    start = packed.index(b"\x1f\x8b\x08\x04", 1)
    path = tmp_path / "cut"
    path.write_bytes(packed[:start])
    *records, rejection = read([path])
    assert 500 < len(records) < 3_000
    assert "the empty block that ends bgzip data is missing" in rejection.reason


def test_flipped_byte_at_any_offset_never_passes_unnoticed(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    text = FORMATS["fasta"]
    path = tmp_path / "flipped"
    path.write_bytes(text)
    expected = list(read([path]))
    packed = compress(text)
    for offset in range(0, len(packed), 1 + len(packed) // 90):
        path.write_bytes(packed[:offset] + bytes([packed[offset] ^ 0x41]) + packed[offset + 1 :])
        try:
            items = list(read([path]))
        except SequenceFileError:
            continue
        # Some bytes say nothing of the content: the time and system in a gzip header, for example.
        assert items == expected or isinstance(items[-1], Rejection)


def test_garbage_behind_compressed_data_is_seen(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "garbage"
    path.write_bytes(compress(FORMATS["fasta"]) + b"not compressed data at all, only text")
    *records, rejection = read([path])
    assert len(records) == 299
    assert rejection.id == "p299"
    assert "data is damaged" in rejection.reason


def test_reading_goes_on_with_the_next_input_behind_a_truncated_one(tmp_path: Path) -> None:
    packed = gzip.compress(FORMATS["fasta"])
    (tmp_path / "cut.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "whole.gz").write_bytes(gzip.compress(b">next\nMK\n"))
    items = list(read([tmp_path / "cut.gz", tmp_path / "whole.gz"]))
    rejected = [item for item in items if isinstance(item, Rejection)]
    assert len(rejected) == 1
    assert rejected[0].reason == (
        "its gzip data ends early: the file is cut off; this record and all that follow in the file were not read"
    )
    assert items[-1].id == "next"


def test_truncated_genbank_rejects_its_record(tmp_path: Path, shared: Path) -> None:
    packed = (shared / "data/real/genbank/phiX174_NC_001422.gb.gz").read_bytes()
    path = tmp_path / "cut.gb.gz"
    for size in range(1_000, len(packed), 500):
        path.write_bytes(packed[:size])
        (rejection,) = read([path])
        assert isinstance(rejection, Rejection)
        assert (rejection.line, rejection.id) == (1, "NC_001422.1")
        assert "data ends early" in rejection.reason


def test_data_that_breaks_before_the_first_record_is_an_error(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "stump"
    path.write_bytes(compress(FORMATS["fasta"])[:20])
    with pytest.raises(SequenceFileError, match=r"data ends early: the file is cut off, before its first record"):
        read([path])


def test_content_is_decompressed_in_bounded_pieces(compress: Callable[[bytes], bytes]) -> None:
    packed = compress(b"A" * 5_000_000)
    sizes = [len(block) for block in decompressed(iter([packed]), block_bytes=100_000)]
    assert sum(sizes) == 5_000_000
    assert max(sizes) <= 100_000


def test_content_does_not_depend_on_how_the_file_is_read(compress: Callable[[bytes], bytes]) -> None:
    text = FORMATS["fasta"]
    packed = compress(text) + compress(b"") + compress(text)

    def bytewise() -> Iterator[bytes]:
        return (packed[place : place + 1] for place in range(len(packed)))

    assert b"".join(decompressed(bytewise(), block_bytes=64)) == text + text


def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    batch = b"".join(b">p%d\n%s\n" % (number, b"MKVLA" * 60) for number in range(3_000))
    path = tmp_path / "large.gz"
    path.write_bytes(b"".join([gzip.compress(batch)] * 10))
    tracemalloc.start()
    try:
        count = sum(1 for _ in read([path]))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 30_000
    assert peak_bytes < 4 << 20 < 8 << 20 < len(batch) * 10
