"""Lines in a stream of blocks: one kind of line end, and whole lines where a format needs them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def with_unix_line_ends(blocks: Iterable[bytes]) -> Iterator[bytes]:
    r"""Yield the blocks with `\r\n` and lone `\r` as `\n`."""
    held = b""
    for block in blocks:
        text, held = held + block, b""
        if b"\r" in text:
            if text.endswith(b"\r"):  # the next block may begin with its \n
                text, held = text[:-1], b"\r"
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if text:
            yield text
    if held:
        yield b"\n"


class LineBuffer:
    """Turns blocks cut anywhere into texts of whole lines. A line may be longer than many blocks."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def feed(self, block: bytes) -> bytes:
        r"""Return the lines that are complete now, each with its `\n`; b"" if there is none."""
        size = block.rfind(b"\n") + 1
        if not size:
            self._parts.append(block)
            return b""
        lines = b"".join([*self._parts, block[:size]])
        self._parts = [block[size:]]
        return lines

    def rest(self) -> bytes:
        """Return the line that has no end yet."""
        return b"".join(self._parts)
