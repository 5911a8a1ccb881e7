"""Inputs that are not sequences are refused before any work, with the reason."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedstore.errors import SequenceFileError
from embedstore.sequences import read

FASTA = b">a\nMK\n"


def _zip() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.fasta", FASTA)
    return packed.getvalue()


def _tar() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("a.fasta")
        member.size = len(FASTA)
        archive.addfile(member, io.BytesIO(FASTA))
    return packed.getvalue()


REFUSED = {
    "zip": (_zip(), "a zip archive: unpack it"),
    "tar": (_tar(), "a tar archive: unpack it"),
    "tar.gz": (gzip.compress(_tar()), "a tar archive: unpack it"),
    "gzip twice": (gzip.compress(gzip.compress(FASTA)), "compressed more than once (with gzip inside)"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\n1 0 obj\n", "a PDF document (it begins with '%PDF-1.7')"),
    "html": (b"\n <!DOCTYPE html>\n<html><body>404</body></html>", "an HTML page"),
    "xml": (b'<?xml version="1.0"?>\n', "an XML document"),
    "utf-16": (">a\nMK\n".encode("utf-16"), "UTF-16 or UTF-32 text: save it as UTF-8"),
    "utf-16 without a mark": (">a\nMK\n".encode("utf-16-le"), "UTF-16 or UTF-32 text"),
    "utf-32": (">a\nMK\n".encode("utf-32-be"), "UTF-16 or UTF-32 text"),
    "binary": (b"\x01\x02\x00\x03" * 10, "binary data"),
    "hdf5": (b"\x89HDF\r\n\x1a\n\x00\x00", "an HDF5 file"),
    "sam": (b"@HD\tVN:1.6\n@SQ\tSN:x\tLN:5\n", "a SAM file"),
    "embl": (b"ID   X56734; SV 1; linear; mRNA; STD; PLN; 1859 BP.\n", "an EMBL or UniProt flat file"),
    "bare sequence": (
        b"MKVLAAGIWMKV\nMKV\n",
        "line 1 is 'MKVLAAGIWMKV', perhaps a sequence whose header line is missing",
    ),
    "indented": (b"# c\n\n >a\nMK\n", "line 3 begins with ' >a'"),
    "table": (b"##gff-version 3\nchr1\tsrc\tgene\t1\t9\n", "line 2 begins with 'chr1\\tsrc\\tgene\\t1\\t9'"),
    "prose": (b"Liebe Kollegin, anbei", "line 1 begins with 'Liebe Kollegin, anbei'"),
    "one byte": (b"\x1f", "line 1 begins with '\\x1f'"),
    "NUL behind the sign": (b">\0\0\0", "UTF-16"),
}


@pytest.mark.parametrize(("content", "reason"), REFUSED.values(), ids=REFUSED)
def test_file_that_is_not_sequences_is_refused_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "report"
    path.write_bytes(content)
    with pytest.raises(SequenceFileError) as caught:
        read([path])
    assert caught.value.file == str(path)
    assert reason in caught.value.reason
    assert "expected FASTA (its first line begins with '>'), FASTQ ('@') or GenBank ('LOCUS')" in caught.value.reason


def test_every_file_is_looked_at_before_the_first_record(tmp_path: Path) -> None:
    good, bad = tmp_path / "a.faa", tmp_path / "report.pdf"
    good.write_bytes(FASTA)
    bad.write_bytes(b"%PDF-1.7\n")
    with pytest.raises(SequenceFileError, match=r"report\.pdf: it is a PDF document"):
        read([good, bad])


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(SequenceFileError, match=r"nothing\.fa: no such file"):
        read([tmp_path / "nothing.fa"])


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(SequenceFileError, match="it is a directory; name the files in it"):
        read([tmp_path])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret.fa"
    path.write_bytes(FASTA)
    path.chmod(0)
    with pytest.raises(SequenceFileError, match="Permission denied"):
        read([path])


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file whose reading fails")
def test_file_whose_reading_fails() -> None:
    with pytest.raises(SequenceFileError, match="reading stopped: Input/output error"):
        read(["/proc/self/mem"])


def test_standard_input_twice(tmp_path: Path) -> None:
    with pytest.raises(SequenceFileError, match="<stdin>: it is named more than once"):
        read(["-", "-"])


_PRINT_ALL = "import embedstore.sequences as s\nfor r in s.read(['-']): print(r.id, r.file, r.line, r.sequence)"


@pytest.mark.parametrize("content", [FASTA, gzip.compress(FASTA)], ids=["plain", "gzip"])
def test_standard_input_is_read(content: bytes) -> None:
    ran = subprocess.run([sys.executable, "-c", _PRINT_ALL], input=content, capture_output=True, check=True)
    assert ran.stdout == b"a <stdin> 1 b'MK'\n"


def test_standard_input_of_something_else_is_refused() -> None:
    ran = subprocess.run([sys.executable, "-c", _PRINT_ALL], input=b"%PDF-1.7", capture_output=True, check=False)
    assert b"SequenceFileError: Cannot read sequences from <stdin>: it is a PDF document" in ran.stderr


@pytest.fixture
def named_pipe(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(FASTA,))
    writer.start()
    yield path
    writer.join()


def test_named_pipe_is_opened_once(named_pipe: Path) -> None:
    assert [record.id for record in read([named_pipe])] == ["a"]
