"""Proteins to tokens as ESM-2 does it: one letter, one token.

Hugging Face's EsmTokenizer turns a run of unknown letters into one `<unk>`, and fair-esm raises KeyError; here each
letter that the vocabulary lacks (of the canonical ones that is J) is one `<unk>`: a token a residue.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

VOCABULARY = (
    *("<cls>", "<pad>", "<eos>", "<unk>"),
    *"LAGVSERTIDPKQNFYMHWCXBUZO.-",
    *("<null_1>", "<mask>"),
)
"""Tokens in the order of their ids, as in `vocab.txt` of the published checkpoints."""

_UNKNOWN = VOCABULARY.index("<unk>")


class ProteinTokenizer:
    """Content tokens of proteins; see `packed.Tokenizer`."""

    first_id = VOCABULARY.index("<cls>")
    last_id = VOCABULARY.index("<eos>")

    def __init__(self) -> None:
        self._ids = np.full(256, _UNKNOWN, dtype=np.int64)
        for number, token in enumerate(VOCABULARY):
            if len(token) == 1:
                self._ids[ord(token)] = number

    def content_ids(self, letters: bytes) -> NDArray[np.int64]:
        """(len(letters),) int64, without `<cls>` and `<eos>`."""
        return self._ids[np.frombuffer(letters, dtype=np.uint8)]
