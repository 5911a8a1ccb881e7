"""DNA to tokens as DNABERT-2 and DNABERT-S do it: byte-pair encoding over A C G T.

The merges come from the checkpoint's own `tokenizer.json`. Three things in that file would harm us and are switched off
or kept out here: truncation to 2 000 tokens, padding *to* 2 000 tokens, and special tokens spelt out in the input
("[SEP]" in a sequence would become the real separator).

Every letter that is not A, C, G or T is one unknown token of its own. Canonical sequences are upper-case, so that only
N and the other IUPAC letters are unknown here; the original tokenizer given lower-case DNA makes each letter unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from embedstore.errors import WeightsError, WeightsNotFoundError, plain

CLS, SEP, UNK = "[CLS]", "[SEP]", "[UNK]"
LARGEST_TOKENIZER_BYTES = 64 << 20
_SHOWN_CHARACTERS = 500
_PANIC = "PanicException"
"""What the package's Rust code raises where it meets a state that it takes for impossible; no Exception."""


@dataclass(frozen=True, slots=True, eq=False)
class DnaTokenizer:
    """Content tokens of DNA; the ids that every window starts and ends with are kept beside it.

    Attributes
    ----------
    vocabulary : number of ids; all ids are below it.
    """

    first_id: int
    last_id: int
    vocabulary: int
    _tokenizer: Tokenizer

    @classmethod
    def from_file(cls, path: Path) -> DnaTokenizer:
        """Read a `tokenizer.json`.

        Raises
        ------
        WeightsNotFoundError : there is no such file.
        WeightsError : it is no tokenizer, or not one of DNABERT's kind.
        """
        if not path.is_file():
            raise WeightsNotFoundError(
                f"Cannot load the DNABERT tokenizer: there is no {path}. "
                "Put the checkpoint's tokenizer.json beside its weights."
            )
        with path.open("rb") as stream:
            content = stream.read(LARGEST_TOKENIZER_BYTES + 1)
        if len(content) > LARGEST_TOKENIZER_BYTES:
            raise WeightsError(
                f"Cannot load the DNABERT tokenizer {path}: expected at most {LARGEST_TOKENIZER_BYTES} bytes."
            )
        try:
            return cls._checked(Tokenizer.from_str(content.decode("utf-8")), path)
        except WeightsError:
            raise
        except BaseException as error:  # the package raises nothing more specific for a malformed file
            if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
                raise
            raise WeightsError(
                f"Cannot load the DNABERT tokenizer {path}: {plain(error, _SHOWN_CHARACTERS)}."
            ) from error

    @classmethod
    def _checked(cls, tokenizer: Tokenizer, path: Path) -> DnaTokenizer:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        first, last = tokenizer.token_to_id(CLS), tokenizer.token_to_id(SEP)
        lacking = [token for token in (CLS, SEP, UNK, *"ACGT") if _lacks(tokenizer, token)]
        if lacking or first is None or last is None:
            raise WeightsError(
                f"Cannot use the tokenizer {path} for DNABERT: expected the tokens [CLS] [SEP] [UNK] A C G T in its "
                f"vocabulary, found no {' '.join(lacking)}."
            )
        framed = tokenizer.encode("A").ids
        if framed != [first, tokenizer.token_to_id("A"), last]:
            raise WeightsError(
                f"Cannot use the tokenizer {path} for DNABERT: expected it to write A as [CLS] A [SEP], "
                f"found ids {framed}."
            )
        ids = tokenizer.get_vocab(with_added_tokens=True).values()
        return cls(first_id=first, last_id=last, vocabulary=max(ids) + 1, _tokenizer=tokenizer)

    def content_ids(self, letters: bytes) -> NDArray[np.int64]:
        """Tokenise one canonical sequence of any length.

        Returns
        -------
        (t,) int64, without [CLS] and [SEP].
        """
        encoding = self._tokenizer.encode(letters.decode("ascii"), add_special_tokens=False)
        return np.array(encoding.ids, dtype=np.int64)


def _lacks(tokenizer: Tokenizer, token: str) -> bool:
    return tokenizer.token_to_id(token) is None
