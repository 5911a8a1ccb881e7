"""Names that are unique in a table, made from names that need not be."""

from __future__ import annotations

from hashlib import blake2b

UNNAMED = "unnamed"
"""Stands for a record that has no id."""


class UniqueNames:
    """Hands out every name once: the second `x` becomes `x~2`, the third `x~3`.

    Only a 64-bit digest of each name is kept, so that millions of contigs take little memory. Should two names ever
    share one, the later gets a suffix that it would not have needed.
    """

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._repeats: dict[str, int] = {}

    def unique(self, name: str) -> str:
        """Return the name, with a suffix if it was handed out before."""
        name = name or UNNAMED
        if self._take(name):
            return name
        number = self._repeats.get(name, 1) + 1
        while not self._take(f"{name}~{number}"):
            number += 1
        self._repeats[name] = number
        return f"{name}~{number}"

    def _take(self, name: str) -> bool:
        digest = int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest())
        if digest in self._taken:
            return False
        self._taken.add(digest)
        return True
