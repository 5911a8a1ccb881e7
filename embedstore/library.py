"""What the command line and notebooks use: a store that can fill itself, and say what it holds."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from embedstore.auditing import AuditOptions, AuditReport, audit
from embedstore.errors import InputError, StoreError, plain
from embedstore.filling.filler import FillOptions, fill
from embedstore.filling.summary import FillReport, OnProgress
from embedstore.filling.target import SpaceTarget, find_target
from embedstore.home import expanded
from embedstore.models.embedder import Embedder, Model
from embedstore.models.resolution import ModelOptions
from embedstore.retrieval import Embeddings, Retrieved, fill_and_retrieve, present_of, retrieve
from embedstore.sequences.in_memory import records_of
from embedstore.sharing.tiers import Tiers, Upstream, upstream_places
from embedstore.storage.file_systems import share
from embedstore.storage.locations import Location, is_url, open_storage
from embedstore.storage.protocol import is_stray
from embedstore.storage.retrying import redacted_url
from embedstore.store.documents import SegmentFormat
from embedstore.store.pins import Pin, read_pins
from embedstore.store.signing import trust_of
from embedstore.store.space import Space
from embedstore.store.store import SpaceStore
from embedstore.store.verification import VerifyReport, verify
from embedstore.upkeep import CollectReport, CompactReport, RepairReport, collect, compact, pin, repair, unpin
from embedstore.upkeep.collection import DEFAULT_GRACE_S
from embedstore.upkeep.web_index import PublishedIndex, publish_web_index

_SPACES_SHOWN = 5
"""So many are named where a store is shown in one line."""

OnError = Literal["raise", "skip", "nan"]

Sequences = Any
"""A path, or what holds sequences: a list of records, texts, Biopython objects or pairs; a dict; a pandas object."""


def default_place() -> Location:
    """Return where the store lies unless told otherwise: $EMBEDSTORE_PATH, else $XDG_DATA_HOME/embedstore."""
    place = os.environ.get("EMBEDSTORE_PATH")
    if place:
        return place if is_url(place) else expanded(place)
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    if data.is_absolute():
        return data / "embedstore"
    home = expanded("~")
    if not home.is_dir():
        raise InputError(
            f"Cannot tell where the store lies: expected a home directory, found no folder {home}. Name the store "
            "(--store), or set EMBEDSTORE_PATH."
        )
    return home / ".local" / "share" / "embedstore"


def open_store(
    path: Location | None = None,
    create: bool = False,
    *,
    segment_format: SegmentFormat = "zarr",
    pin: str | None = None,
    sign_with: str | Path | None = None,
    require_signed: str | Path | None = None,
    upstream: Location | Sequence[Location] | None = None,
    pull_through: bool = False,
) -> Store:
    """Open the store in a folder, or at a URL.

    Parameters
    ----------
    path : where it lies; None: $EMBEDSTORE_PATH, else the default place, see `default_place`.
    create : make a store where there is nothing, or an empty folder.
    segment_format : "zarr" or "hdf5", for a store that is made now.
    pin : read what the store held when that pin was made, bit for bit; nothing can be added then.
    sign_with : file of an Ed25519 private key (`ssh-keygen -t ed25519`) to sign with what is published;
        None: $EMBEDSTORE_SIGNING_KEY, if that is set.
    require_signed : file of members' public keys, a line each: only what one of them has signed is read;
        None: $EMBEDSTORE_MEMBERS, if that is set.
    upstream : folders or URLs of stores that are looked up after this one, in order; `()`: none;
        None: $EMBEDSTORE_UPSTREAM. One that cannot be reached or read is skipped, with an `UpstreamWarning`. A pinned
        view is exact, and looks nothing up elsewhere.
    pull_through : keep in this store what is found in those.

    Raises
    ------
    StoreNotFoundError : no store lies there.
    SpaceNotFoundError : no such pin.
    CorruptStoreError : it cannot be read.
    FormatVersionError : it needs a newer embedstore.
    InputError : a file does not hold such keys.
    MissingDependencyError : cryptography is not installed, or what the kind of URL needs.
    """
    trust = trust_of(sign_with, require_signed)
    place = default_place() if path is None else path
    store = Store.open(place, create=create, segment_format=segment_format, pin=pin, trust=trust)
    if pin is None:
        given = [upstream] if isinstance(upstream, str | Path) else upstream
        places = upstream_places() if given is None else given
        store.tiers = Tiers(tuple(Upstream(each, trust) for each in places if each), pull_through)
    return store


def make_store(path: Location, *, segment_format: SegmentFormat = "zarr", shared: bool = False) -> Store:
    """Make a store where there is nothing, or an empty folder; a store like it that is there already is kept.

    Parameters
    ----------
    path : folder or URL.
    segment_format : "zarr" or "hdf5": how segments are written.
    shared : let the group of the folder write, and all that is ever made in it, whatever the umask of its members.

    Raises
    ------
    StoreError : a store is there that writes the other format.
    StoreNotFoundError : something else is there.
    InputError : `shared` is given with a URL.
    """
    if shared:
        if is_url(path):
            place = redacted_url(str(path))
            raise InputError(f"Cannot share {place} with a group: expected a folder. Give permissions on the bucket.")
        if not Path(path).exists() or all(is_stray(each.name) for each in Path(path).iterdir()):
            share(Path(path))
    store = Store.open(path, create=True, segment_format=segment_format)
    if store.segment_format != segment_format:
        raise StoreError(
            f"Cannot make a store at {store.location}: expected none, or one of format {segment_format}, "
            f"found one of format {store.segment_format}. Use it as it is, or give another path."
        )
    if shared:  # now that it is known to be a store
        share(Path(path))
    return store


def verify_store(
    path: Location | None = None, *, deep: bool = False, require_signed: str | Path | None = None
) -> VerifyReport:
    """Check a store, one that is too damaged to be opened too.

    Parameters
    ----------
    path : where it lies; None: as for `open_store`.
    deep : read every byte.
    require_signed : as for `open_store`; then a commit that no member has signed is a problem.

    Raises
    ------
    StoreNotFoundError : nothing of a store lies there.
    InputError : the file does not hold members' keys.
    """
    members = trust_of(require_signed=require_signed).members
    storage = open_storage(default_place() if path is None else path)
    if not storage.list("spaces/"):
        SpaceStore(storage)
    return verify(storage, deep=deep, members=members)


def repair_store(
    path: Location | None = None, *, sign_with: str | Path | None = None, require_signed: str | Path | None = None
) -> RepairReport:
    """Remove what is damaged from a store, and keep all that is whole; the next fill computes the rest.

    Parameters
    ----------
    path : where it lies; None: as for `open_store`.
    sign_with : OpenSSH private key that signs what is written; None: $EMBEDSTORE_SIGNING_KEY.
    require_signed : as for `open_store`.

    Raises
    ------
    StoreNotFoundError : nothing of a store lies there.
    """
    storage = open_storage(default_place() if path is None else path)
    if not storage.list("spaces/"):
        SpaceStore(storage)
    return repair(storage, trust_of(sign_with, require_signed))


def publish_index(path: Location | None = None) -> PublishedIndex:
    """Write `index.json`, by which a store can be read from any web server; see `web_index`.

    Parameters
    ----------
    path : where it lies; None: as for `open_store`.

    Raises
    ------
    StoreNotFoundError : no store lies there.
    CorruptStoreError : a commit is damaged.
    """
    storage = open_storage(default_place() if path is None else path)
    SpaceStore(storage)
    return publish_web_index(storage)


class Store(SpaceStore):
    """A store of embeddings that fills itself; `embedstore.open` makes one.

    The model that was loaded last is kept, so that filling again with it does not load it again.
    """

    tiers: Tiers = Tiers()
    _loaded: tuple[tuple[str, str | None], Embedder] | None = None

    def fill(
        self,
        sequences: Sequences,
        model: str,
        *,
        name: str | None = None,
        options: ModelOptions | None = None,
        how: FillOptions | None = None,
        on_progress: OnProgress | None = None,
    ) -> FillReport:
        """Compute and store what is missing in the space of a model.

        Parameters
        ----------
        sequences : a path, or what holds sequences; see `sequences.in_memory.records_of`.
        model : name or directory of a model.
        name : of the space, if it is not to be called like the model.
        options : weights, precision, what happens to long sequences.
        how : device, limits.
        on_progress : called often, with the same object each time.

        Returns
        -------
        What was read, found and computed.

        Raises
        ------
        MoleculeError : the sequences are of the other molecule than the model.
        ModelError : vectors are missing, and the model is not available.
        StoreError : the store refuses.
        KeyboardInterrupt : after what was computed has been stored.
        """
        target = self.target(model, name=name, options=options)
        report = fill(records_of(sequences), target, how, on_progress=on_progress)
        report.raise_if_interrupted()
        return report

    def get(
        self,
        sequences: Sequences,
        model: str,
        *,
        name: str | None = None,
        options: ModelOptions | None = None,
        on_error: OnError = "raise",
    ) -> Embeddings:
        """Read the vectors of sequences.

        Parameters
        ----------
        sequences : a path, or what holds sequences, in any order, repeated or not.
        model : name or directory of a model, or name of a space.
        name : of the space, if it is not called like the model.
        options : weights, precision, what happens to long sequences.
        on_error : what happens to sequences without a vector: "raise", "skip" leaves them out, "nan" gives rows of NaN.

        Returns
        -------
        Ids, keys and vectors, one row per sequence, in their order; NumPy takes it for the (n, dim) array of vectors.

        Raises
        ------
        MissingEmbeddingError : some have no vector yet.
        InputError : some are not sequences of the model's molecule.
        """
        target = self.target(model, name=name, options=options)
        if _is_strict(on_error):
            return _all_of(retrieve(records_of(sequences), target))
        return present_of(list(records_of(sequences)), target.recipe, target.space, skip=on_error == "skip")

    def embed(
        self,
        sequences: Sequences,
        model: str,
        *,
        name: str | None = None,
        options: ModelOptions | None = None,
        how: FillOptions | None = None,
        on_error: OnError = "raise",
        on_progress: OnProgress | None = None,
    ) -> Embeddings:
        """Read the vectors of sequences, computing and storing what is missing: `fill` and `get` in one pass.

        Parameters
        ----------
        sequences : a path, or what holds sequences, in any order, repeated or not.
        model : name or directory of a model.
        name : of the space, if it is not to be called like the model.
        options : weights, precision, what happens to long sequences.
        how : device, limits.
        on_error : what happens to sequences without a vector: "raise", "skip" leaves them out, "nan" gives rows of NaN.
        on_progress : called often, with the same object each time.

        Returns
        -------
        Ids, keys and vectors, one row per sequence, in their order; NumPy takes it for the (n, dim) array of vectors.

        Raises
        ------
        InputError : some are not sequences of the model's molecule, or the model has no vector for them.
        ModelError : vectors are missing, and the model is not available.
        StoreError : the store refuses.
        KeyboardInterrupt : after what was computed has been stored.

        Examples
        --------
        >>> store = open_store("lab-store", create=True)
        >>> found = store.embed({"first": "MKTAYIAKQR", "second": "GSHMASMTGG"}, model="aac_dpc")
        >>> found.ids, found.X.shape
        (['first', 'second'], (2, 420))
        """
        target = self.target(model, name=name, options=options)
        if _is_strict(on_error):
            return _all_of(fill_and_retrieve(records_of(sequences), target, how, on_progress=on_progress))
        records = list(records_of(sequences))
        space = fill_and_retrieve(records, target, how, on_progress=on_progress).space
        return present_of(records, target.recipe, space, skip=on_error == "skip")

    def audit(
        self,
        sequences: Sequences,
        model: str,
        *,
        name: str | None = None,
        options: ModelOptions | None = None,
        how: AuditOptions | None = None,
    ) -> AuditReport:
        """Compute some of the stored vectors again and compare; nothing is stored.

        Parameters
        ----------
        sequences : to choose from: a path, or what holds sequences; those that have no vector are skipped.
        model : name or directory of a model.
        name : of the space, if it is not called like the model.
        options : weights, precision, what happens to long sequences.
        how : how many sequences, which, on which device.

        Returns
        -------
        What was compared, and which vectors differ.

        Raises
        ------
        InputError : there is no such space yet, or it has none of the sequences.
        MoleculeError : the sequences are of the other molecule than the space.
        CanaryError : the model does not give the space's fixed vectors, so it cannot judge the others.
        ModelError : the model is not available.
        CorruptStoreError : a stored vector is damaged.
        """
        target = self.target(model, name=name, options=options)
        return audit(records_of(sequences), target, how or AuditOptions())

    def pin(self, name: str) -> Pin:
        """Keep all that the store holds now under a name; `embedstore.open(path, pin=name)` reads exactly that.

        Spaces that cannot be read, damaged or of a newer version, are not in it; they are in `unreadable`.

        Parameters
        ----------
        name : of the pin.

        Returns
        -------
        The pin: the spaces and their commits.

        Raises
        ------
        InputError : not a name, or taken.
        StorageError : the segments were merged away again and again meanwhile.
        """
        return pin(self, name)

    def unpin(self, name: str) -> None:
        """Remove a pin; what only it kept is collected later.

        Parameters
        ----------
        name : of the pin.

        Raises
        ------
        SpaceNotFoundError : there is none of that name.
        """
        unpin(self, name)

    def pins(self) -> list[Pin]:
        """Return all pins of the store, sorted by name.

        Raises
        ------
        CorruptStoreError : one is damaged.
        FormatVersionError : one needs a newer embedstore.
        """
        return read_pins(self.storage)

    def compact(self, space: str, *, only_small: bool = False) -> CompactReport:
        """Merge the segments of a space into few; others may read and fill meanwhile.

        Parameters
        ----------
        space : its name or id.
        only_small : leave segments alone that are large already.

        Raises
        ------
        SpaceNotFoundError : there is no such space.
        StorageError : the storage refuses to take what was merged.
        """
        return compact(self.space(space), only_small=only_small)

    def gc(self, *, grace_s: float = DEFAULT_GRACE_S, dry_run: bool = False) -> CollectReport:
        """Remove what nothing needs any more.

        Parameters
        ----------
        grace_s : how long ago that must have been noticed first, in seconds.
        dry_run : only say what would be removed.

        Raises
        ------
        StorageError : the storage refuses.
        """
        return collect(self.storage, grace_s=grace_s, dry_run=dry_run, members=self.trust.members)

    def repair(self) -> RepairReport:
        """Remove what is damaged, keep what is whole; the next fill computes the rest.

        Raises
        ------
        StorageError : the storage refuses.
        """
        return repair(self.storage, self.trust)

    def target(self, model: str, *, name: str | None = None, options: ModelOptions | None = None) -> SpaceTarget:
        """Find the space that a model fills, or will fill; see `embedstore.filling.find_target`.

        Parameters
        ----------
        model : name or directory of a model, or name of a space.
        name : of the space, if it is not to be called like the model.
        options : weights, precision, what happens to long sequences.

        Raises
        ------
        ModelError : no such model, and no such space either.
        SpaceConflictError : that name is taken by another recipe, or that recipe's space is called otherwise.
        """
        target = find_target(self, model, options or ModelOptions(), name)

        def obtain() -> Model:
            model = target.obtain()
            return replace(model, load=partial(self._load, model))

        return replace(target, obtain=obtain)

    def _load(self, model: Model, device: str | None) -> Embedder:
        wanted = (model.recipe.id, device)
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None  # free the other model first
            self._loaded = wanted, model.load(device)
        return self._loaded[1]

    def __repr__(self) -> str:
        spaces = self.local_spaces()
        held = [f"{plain(space.name)} ({len(space):,})" for space in spaces[:_SPACES_SHOWN]]
        held += [f"{len(spaces) - _SPACES_SHOWN} more"] if len(spaces) > _SPACES_SHOWN else []
        return f"<Store {plain(self.location)}: {', '.join(held) or 'empty'}>"

    def _repr_html_(self) -> str:
        fields = ("name", "molecule", "dim", "dtype", "rows")
        head = "".join(f"<th>{field}</th>" for field in fields)
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(plain(overview(space)[field]))}</td>" for field in fields) + "</tr>"
            for space in self.local_spaces()
        )
        return (
            f"<table><caption>Store <b>{html.escape(plain(self.location))}</b></caption><tr>{head}</tr>{rows}</table>"
        )


def overview(space: Space) -> dict[str, Any]:
    """Describe a space in one row, as JSON values; the keys are a contract.

    Parameters
    ----------
    space : to describe.
    """
    info = space.info()
    return {
        "name": space.name,
        "id": space.id,
        "molecule": space.molecule,
        "dim": space.dim,
        "dtype": str(space.dtype),
        "rows": info.rows,
        "bytes": info.size_bytes,
        "segments": info.segments,
    }


def details(space: Space) -> dict[str, Any]:
    """Describe a space fully, as JSON values: `overview`, cost, commits ignored because no member has signed them, and
    recipe.

    Parameters
    ----------
    space : to describe.
    """
    info = space.info()
    cost = {"compute_seconds": round(info.compute_seconds, 3), "letters": info.residues}
    ignored = {"ignored_commits": space.ignored_commits}
    return {**overview(space), **cost, **ignored, "recipe": space.recipe.to_json()}


def _is_strict(on_error: str) -> bool:
    if on_error not in get_args(OnError):
        raise InputError(f"Cannot take on_error: expected raise, skip or nan, found {on_error!r}.")
    return on_error == "raise"


def _all_of(retrieved: Retrieved) -> Embeddings:
    """Return all vectors, unless some were asked for that there are none of."""
    for refused, what in ((retrieved.rejected, "cannot be taken"), (retrieved.failed, "have no vector")):
        if refused:
            first = refused[0]
            raise InputError(
                f"Cannot return a vector of each sequence: {len(refused)} {what}, first "
                f"{first.id or 'without an id'} ({first.file + ', line' if first.file else 'position'} {first.line}): "
                f"{first.reason}. Leave them out."
            )
    return Embeddings(retrieved.ids, retrieved.keys, retrieved.read())
