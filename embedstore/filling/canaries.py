"""Canaries: fixed sequences whose vectors tell whether a loaded model still gives the numbers of its space.

They catch what no hash of a file can: layers left uninitialised, a library upgrade that moved the numbers, the wrong
weights under the right name.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import CanaryError, CorruptStoreError, ModelError, SequenceError
from embedstore.identity import Molecule, Recipe, canonical
from embedstore.models.embedder import Embedder
from embedstore.models.resolution import ModelOptions, is_built_in, is_recipe_of, resolve
from embedstore.records import Canaries
from embedstore.store.documents import SpaceDocument, space_file
from embedstore.store.space import Space

SEQUENCES: dict[Molecule, tuple[str, ...]] = {
    "protein": (
        "ACDEFGHIKLMNPQRSTVWY",
        "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG",  # ubiquitin
        "MKXBZUOJWWWWCCCCHHHHPPPPGGGGGGGGNNNNQQQQKKKKRRRRDDDDEEEEXXXXMAYLKS",
    ),
    "dna": (
        "ACGTTGCAAGCTTCGA",
        "GAGTTTTATCGCTTCCATGACGCAGAAGTTAACACTTTCGGATATTTCTGATGAGTCGAAAAATTATCTTGATAAAGCAGGAATTACTACTGCTTGTTTA",
        "ATATATATATGCGCGCGCGCNNNNRYSWKMACGTACGTTTTTTTTTTAAAAAAAAAACCCCCCCCCCGGGGGGGGGG",
    ),
}
"""Sequences that a new space gets; a space that exists keeps its own. The middle ones are natural (human ubiquitin, the
beginning of phage phiX174), the others hold every residue or base and low complexity."""

_FEWEST = 1
"""Canaries of a space that comes from elsewhere; ours have three each."""


def compute(embedder: Embedder) -> Canaries:
    """Embed the canaries of a new space.

    Raises
    ------
    ModelError : the model has no vector for one of them.
    """
    recipe = embedder.recipe
    # What a model rejects for its length cannot be a canary; no residue of ours is more than one token.
    limit = recipe.max_length_tokens if recipe.long == "reject" else None
    sequences = tuple(sequence[:limit] for sequence in SEQUENCES[recipe.molecule])
    return Canaries(sequences, _vectors(embedder, sequences))


def adopted(document: SpaceDocument) -> SpaceDocument:
    """Return the part of a space's document from another store that may be adopted.

    What it says of its vectors' model cannot be believed, only tested: those of a built-in model are computed again,
    those of a model with weights are when it fills the space for the first time.

    Raises
    ------
    CorruptStoreError : it has no canaries, or such as no model gives.
    """
    name, kept = document.name, document.canaries
    different = {row.tobytes() for row in kept.vectors}
    if len(kept.sequences) < _FEWEST or len(different) < len(kept.sequences) or not kept.vectors.any(axis=1).all():
        raise _refused(document, f"expected {_FEWEST} or more fixed sequences, each with a different vector")
    try:
        for sequence in kept.sequences:
            canonical(sequence, document.recipe.molecule)
    except SequenceError as error:
        raise _refused(document, f"its fixed sequences are not {document.recipe.molecule} ({error})") from None
    if is_built_in(document.recipe):
        found = _vectors(resolve(document.recipe.model, ModelOptions()).load(None), kept.sequences)
        if _worst(kept.vectors, found)[0] > document.recipe.tolerance:
            raise _refused(document, f"{_name(document.recipe)} gives different vectors for its fixed sequences")
    return replace(document, name=adopted_name(document)) if adopted_name(document) != name else document


def adopted_name(document: SpaceDocument) -> str:
    """Return the name that a space from another store gets here: the name of a model is reserved for that model."""
    recipe = document.recipe
    return document.name if is_recipe_of(document.name, recipe) else f"{document.name[:80]}-{recipe.id[:8]}"


def _refused(document: SpaceDocument, reason: str) -> CorruptStoreError:
    return CorruptStoreError(space_file(document.recipe.id), f"{reason}; it is not taken over from another store")


def check(space: Space, embedder: Embedder, computed: Canaries | None = None) -> None:
    """Embed the canaries that the space keeps and compare.

    Parameters
    ----------
    space : whose canaries are to be reproduced.
    embedder : the model.
    computed : canaries that the model has embedded already, and that need not be embedded again.

    Raises
    ------
    CanaryError : a vector differs beyond the recipe's tolerance.
    ModelError : the model has no vector for one of them.
    """
    expected, sequences = space.canaries.vectors, space.canaries.sequences
    if computed is not None and computed.sequences == sequences:
        found = computed.vectors
    else:
        found = _vectors(embedder, sequences)
    if found.shape != expected.shape:
        raise CanaryError(
            f"Cannot fill space {space.name} ({space.id[:8]}…): expected vectors of length {expected.shape[1]}, "
            f"found {found.shape[1]}. Use the model that the space was made with."
        )
    tolerance = space.recipe.tolerance
    difference, row = _worst(expected, found)
    if not difference <= tolerance:
        column = int(np.argmax(np.abs(expected[row] - found[row])))
        raise CanaryError(
            f"Cannot fill space {space.name} ({space.id[:8]}…): {_name(space.recipe)} does not reproduce the vectors "
            f"that the space was created with. For its fixed sequence {row + 1} expected value "
            f"{expected[row, column]:.6g} at position {column}, found {found[row, column]:.6g}: "
            f"the vectors differ by {difference:.2g} of the largest value, "
            f"at most {tolerance:g} is allowed. Check the weights and the versions of the installed libraries."
        )


def _worst(expected: NDArray[np.float32], found: NDArray[np.float32]) -> tuple[float, int]:
    """Largest difference relative to the largest expected value, and its row."""
    scale = np.maximum(np.abs(expected).max(axis=1), np.finfo(np.float32).tiny)
    differences = np.abs(expected - found).max(axis=1) / scale
    row = int(np.argmax(differences))  # the first NaN, if there is one
    return float(differences[row]), row


def _vectors(embedder: Embedder, sequences: tuple[str, ...]) -> NDArray[np.float32]:
    embedded = embedder.embed([sequence.encode("ascii") for sequence in sequences])
    for row, reason in embedded.failures.items():
        raise ModelError(f"{_name(embedder.recipe)} has no vector for the fixed sequence {sequences[row]!r}: {reason}.")
    return np.asarray(embedded.vectors, dtype=np.float32)


def _name(recipe: Recipe) -> str:
    return f"model {recipe.model}"
