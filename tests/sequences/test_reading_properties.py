"""Any list of records, written in any way, reads back equal, wherever the blocks are cut."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.records import Record
from embedstore.sequences.compression import zstd
from embedstore.sequences.reading import read_batches

_ID = st.text(
    st.characters(codec="utf-8", exclude_characters=" \t\n\r\v\f\0") | st.sampled_from("ab>;#|"), min_size=1, max_size=8
)
_RESIDUES = st.text(st.sampled_from("ACDXYacdxy*-5@+"), min_size=1, max_size=30)
_FILLER = st.sampled_from([[], [], [], [""], ["# a > b"], [";"], [" ", "\t"]])
_COMPRESS = {"plain": bytes, "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstd.compress}


class _Written(NamedTuple):
    id: str
    residues: str
    line: int


class _Layout(NamedTuple):
    """How records are written, and how they are read again."""

    line_end: str
    ends_with_line_end: bool
    compression: str
    member_bytes: int
    block_bytes: int

    def pack(self, lines: list[str]) -> bytes:
        text = (self.line_end.join(lines) + self.line_end * self.ends_with_line_end).encode()
        compress = _COMPRESS[self.compression]
        pieces = (text[start : start + self.member_bytes] for start in range(0, len(text), self.member_bytes))
        return b"".join(map(compress, pieces))


_LAYOUT = st.builds(
    _Layout,
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    ends_with_line_end=st.booleans(),
    compression=st.sampled_from(sorted(_COMPRESS)),
    member_bytes=st.sampled_from([50, 1 << 20]),
    block_bytes=st.integers(1, 40) | st.just(1 << 18),
)


@st.composite
def _fasta(draw: st.DrawFn) -> tuple[list[str], list[_Written]]:
    lines = list(draw(_FILLER))
    written = []
    for _ in range(draw(st.integers(0, 6))):
        id_ = draw(_ID | st.just(""))
        header = id_ and id_ + draw(st.sampled_from(["", " ", " word > more", "\tx", "  # y"]))
        start = len(lines) + 1
        lines.append(">" + draw(st.sampled_from(["", "", "", " "])) + header)
        sequence = draw(st.lists(_RESIDUES, max_size=4))
        for residues in sequence:
            blank = draw(st.sampled_from(["", "", " ", "\t"]))
            lines += [residues[:3] + blank + residues[3:], *draw(_FILLER)]
        written.append(_Written(id_, "".join(sequence), start))
    return lines, written


@st.composite
def _fastq(draw: st.DrawFn) -> tuple[list[str], list[_Written]]:
    lines: list[str] = []
    written = []
    for _ in range(draw(st.integers(0, 6))):
        lines += draw(st.sampled_from([[], [], [""]]))
        id_, residues = draw(_ID | st.just("")), draw(_RESIDUES)
        written.append(_Written(id_, residues, len(lines) + 1))
        quality = draw(st.text(st.sampled_from("@+>I!~"), min_size=len(residues), max_size=len(residues)))
        lines += ["@" + id_, residues, "+" + draw(st.sampled_from(["", id_])), quality]
    return lines, written


def _read_back(path: Path, content: bytes, block_bytes: int) -> Iterator[_Written]:
    path.write_bytes(content)
    for item in chain.from_iterable(read_batches(str(path), block_bytes)):
        residues = b"".join(item.sequence.split()).decode() if isinstance(item, Record) else ""
        yield _Written(item.id, residues, item.line)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("properties") / "input"


@settings(max_examples=150, deadline=None)
@given(fasta=_fasta(), layout=_LAYOUT)
def test_any_fasta_reads_back_equal(path: Path, fasta: tuple[list[str], list[_Written]], layout: _Layout) -> None:
    lines, written = fasta
    assert list(_read_back(path, layout.pack(lines), layout.block_bytes)) == written


@settings(max_examples=100, deadline=None)
@given(fastq=_fastq(), layout=_LAYOUT)
def test_any_fastq_reads_back_equal(path: Path, fastq: tuple[list[str], list[_Written]], layout: _Layout) -> None:
    lines, written = fastq
    assert list(_read_back(path, layout.pack(lines), layout.block_bytes)) == written


@settings(max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=300), start=st.sampled_from([b">", b"@a\n", b"LOCUS       a\n"]), size=st.integers(1, 50)
)
def test_any_bytes_read_the_same_in_small_and_large_blocks(path: Path, content: bytes, start: bytes, size: int) -> None:
    path.write_bytes(start + content.replace(b"\0", b"\n"))
    small = list(chain.from_iterable(read_batches(str(path), size)))
    assert small == list(chain.from_iterable(read_batches(str(path))))


def test_reading_is_lazy(path: Path) -> None:
    path.write_bytes(b">a\nMK\n" * 100_000)
    records = chain.from_iterable(read_batches(str(path)))
    assert [record.line for record in islice(records, 3)] == [1, 3, 5]
