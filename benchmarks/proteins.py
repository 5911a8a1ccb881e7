"""Synthetic proteins whose lengths and composition are those of real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

LINE_RESIDUES = 60
_BLOCK_PROTEINS = 10_000

_MEDIAN_LENGTH_RESIDUES = 222
_LENGTH_SPREAD = 0.85
"""Of the logarithm. Both fitted to 20 000 proteins of bacteria, viruses, plastids and Swiss-Prot (mean 319)."""

_ALPHABET = "ACDEFGHIKLMNPQRSTVWYX"
_PER_MILLE = (74, 18, 55, 66, 39, 64, 21, 59, 63, 95, 23, 48, 47, 41, 50, 73, 55, 63, 12, 32, 1)
"""Composition of the same proteins."""


def write_proteins(path: Path, count: int, seed: int, *, median_length_residues: int = _MEDIAN_LENGTH_RESIDUES) -> None:
    """Write a FASTA file of random proteins, 60 residues a line."""
    rng = np.random.default_rng(seed)
    alphabet = np.frombuffer(
        "".join(residue * share for residue, share in zip(_ALPHABET, _PER_MILLE, strict=True)).encode(), np.uint8
    )
    with path.open("wb") as file:
        for start in range(0, count, _BLOCK_PROTEINS):
            proteins = min(_BLOCK_PROTEINS, count - start)
            lengths = np.exp(rng.normal(np.log(median_length_residues), _LENGTH_SPREAD, proteins)).astype(int) + 5
            residues = alphabet[rng.integers(0, len(alphabet), lengths.sum(), dtype=np.uint16)].tobytes()
            ends = np.cumsum(lengths)
            for number, (first, end) in enumerate(zip((ends - lengths).tolist(), ends.tolist(), strict=True), start):
                lines = [
                    residues[place : min(place + LINE_RESIDUES, end)] for place in range(first, end, LINE_RESIDUES)
                ]
                file.write(b">protein_%d synthetic\n%s\n" % (number, b"\n".join(lines)))
