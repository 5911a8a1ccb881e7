"""From records to the vectors that a space holds of them, in the order of the records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from embedstore.errors import MissingDependencyError, MissingEmbeddingError, SequenceError
from embedstore.filling.filler import FillOptions, fill, open_intake
from embedstore.filling.intake import Selection
from embedstore.filling.summary import OnProgress, SpaceSummary
from embedstore.filling.target import SpaceTarget
from embedstore.identity import Recipe, key_text, sequence_key
from embedstore.records import KEY_BYTES, Keys, Record, Rejection, Vectors
from embedstore.store.space import Space


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings(NDArrayOperatorsMixin):
    """Vectors with what they are of; NumPy takes it for the array `X`.

    Attributes
    ----------
    ids : n ids; "" where a sequence came without one.
    keys : (n, 24) uint8; zeros where there is no vector.
    X : (n, dim) in the space's dtype.
    """

    ids: list[str]
    keys: Keys
    X: Vectors

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, index: Any) -> Any:
        return self.X[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.X)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Vectors:
        if copy is False and dtype is not None and dtype != self.X.dtype:
            raise ValueError(f"Cannot view {self.X.dtype} as {dtype} without a copy.")
        return np.array(self.X, dtype, copy=True) if copy else np.asarray(self.X, dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        arrays = [each.X if isinstance(each, Embeddings) else each for each in inputs]
        return getattr(ufunc, method)(*arrays, **options)

    def __getattr__(self, name: str) -> Any:
        """What an array has, this has: shape, dtype, mean."""
        if name.startswith("_") or name in ("ids", "keys", "X"):
            raise AttributeError(name)
        return getattr(self.X, name)

    def __repr__(self) -> str:
        return f"<Embeddings {len(self):,} x {self.X.shape[1]} {self.X.dtype}>"

    def to_frame(self) -> Any:
        """Return a pandas DataFrame: one row per sequence, the ids as its index."""
        try:
            import pandas
        except ImportError as error:
            raise MissingDependencyError("Cannot make a DataFrame: expected pandas. pip install pandas.") from error
        return pandas.DataFrame(self.X, index=pandas.Index(self.ids, name="id", dtype=object))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Retrieved:
    """Records whose vectors a space holds, in the order of the input; the vectors are read when asked for.

    Attributes
    ----------
    ids : n ids.
    keys : (n, 24) uint8.
    name : of the space.
    recipe : of the space.
    space : None if it has not been made; then there are no rows.
    rejected : records that are not sequences of the space's molecule.
    failed : records that the model has no vector for.
    """

    ids: list[str]
    keys: Keys
    name: str
    recipe: Recipe
    space: Space | None
    rejected: tuple[Rejection, ...] = ()
    failed: tuple[Rejection, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        refused = f", {len(self.rejected):,} rejected" if self.rejected else ""
        refused += f", {len(self.failed):,} failed" if self.failed else ""
        return f"<Retrieved {len(self):,} x {self.recipe.dim} {self.recipe.dtype} of {self.name}{refused}>"

    def to_json(self) -> dict[str, Any]:
        """Say what was found, as JSON values, without the rows themselves."""
        return {
            "space": SpaceSummary.of(self.recipe, self.name).to_json(),
            "rows": len(self),
            "rejected": [rejection._asdict() for rejection in self.rejected],
            "failed": [rejection._asdict() for rejection in self.failed],
        }

    def read(self, start: int = 0, stop: int | None = None) -> Vectors:
        """Read the vectors of rows [start, stop): (n, dim) in the space's dtype.

        Parameters
        ----------
        start : the first row.
        stop : behind the last one; None: all that follow.

        Raises
        ------
        CorruptStoreError : bytes are damaged or gone.
        """
        if self.space is None:
            return np.empty((0, self.recipe.dim), self.recipe.dtype)
        return self.space.read(self.keys[start:stop])


def retrieve(records: Iterable[Record | Rejection], target: SpaceTarget, *, any_molecule: bool = False) -> Retrieved:
    """Find the vectors of records.

    Parameters
    ----------
    records : in the order that the rows are to have.
    target : the space to find them in.
    any_molecule : take proteins that look like DNA.

    Raises
    ------
    MissingEmbeddingError : some are missing, named by their ids, or keys where they have none.
    MoleculeError : the records are of the other molecule than the space.
    """
    intake = open_intake(records, target, any_molecule=any_molecule)
    selection = Selection()
    for window in intake:
        selection.add(window)
    keys = selection.keys
    present = target.space.contains(keys) if target.space is not None else np.zeros(len(keys), np.bool_)
    missing = np.flatnonzero(~present).tolist()
    if missing:
        labels = [selection.ids[row] or key_text(keys[row].tobytes()) for row in missing]
        raise MissingEmbeddingError(target.name, labels, requested=len(keys))
    return Retrieved(selection.ids, keys, target.name, target.recipe, target.space, tuple(intake.rejected))


def fill_and_retrieve(
    records: Iterable[Record | Rejection],
    target: SpaceTarget,
    options: FillOptions | None = None,
    *,
    on_progress: OnProgress | None = None,
) -> Retrieved:
    """Fill what is missing, and find the vectors of all records but those that failed; the records are read once.

    Parameters
    ----------
    records : in the order that the rows are to have.
    target : the space to fill.
    options : how to fill.
    on_progress : called often, with the same object each time.

    Raises
    ------
    KeyboardInterrupt : Ctrl-C, after what was computed until then has been stored.
    EmbedStoreError : as `fill`.
    """
    selection = Selection()
    report = fill(records, target, options, on_progress=on_progress, selection=selection)
    report.raise_if_interrupted()
    ids, keys = selection.ids, selection.keys
    space = target.store.find_space(target.recipe) if target.store is not None else None
    if report.failed:
        present = space.contains(keys) if space is not None else np.zeros(len(keys), np.bool_)
        ids, keys = [ids[row] for row in np.flatnonzero(present).tolist()], keys[present]
    return Retrieved(ids, keys, report.space.name, target.recipe, space, report.rejected, report.failed)


def present_of(records: Sequence[Record | Rejection], recipe: Recipe, space: Space | None, *, skip: bool) -> Embeddings:
    """Read the vectors that there are; a record without one is skipped, or has a row of NaN and a key of zeros.

    Parameters
    ----------
    records : in the order that the rows are to have.
    recipe : of the space.
    space : None if it has not been made; then there are no vectors.
    skip : leave out records without a vector.
    """
    keys = np.zeros((len(records), KEY_BYTES), np.uint8)
    usable = np.zeros(len(records), np.bool_)
    for row, record in enumerate(records):
        if isinstance(record, Record):
            try:
                key = sequence_key(record.sequence, recipe.molecule)
            except SequenceError:
                continue
            keys[row], usable[row] = np.frombuffer(key, np.uint8), True
    present = np.zeros(len(records), np.bool_)
    if space is not None:
        present[usable] = space.contains(keys[usable])
    vectors = np.full((len(records), recipe.dim), np.nan, recipe.dtype)
    if space is not None and present.any():
        vectors[present] = space.read(keys[present])
    keys[~present] = 0
    rows = np.flatnonzero(present) if skip else np.arange(len(records))
    return Embeddings([records[row].id for row in rows.tolist()], keys[rows], vectors[rows])
