"""Merging: the vectors of samples, joined by key, side by side; and the labels or clusters of samples, from tables.

    samples ─▶ spaces of the models ─▶ (fill) ─▶ is every key there? ─▶ a view on the store ─▶ (a merged file)

A sample's row is found by the content of its sequences. Neither its id nor its place in any file matters.

A table of assignments is tab-separated, with a header: `sample`, `source` or `group` says what the first column names;
the other is `label`, `cluster` (which a split must not divide) or `part`. An empty value removes the label. Samples
that the table does not name stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from embedstore.atomic import from_cell
from embedstore.errors import InputError, MissingEmbeddingError, plain
from embedstore.features.clusters import read_clusters
from embedstore.features.features import Categories, Features, Samples, StoreRows
from embedstore.features.merged_files import check_output, load_samples, open_features, write_features
from embedstore.features.schema import Schema
from embedstore.filling import FillOptions, FillReport, SpaceTarget, find_target
from embedstore.filling.filler import Windows, open_intake, run
from embedstore.filling.pool import Backlog
from embedstore.filling.summary import OnProgress
from embedstore.identity import Molecule
from embedstore.models.resolution import ModelOptions
from embedstore.samples.outputs import DNA_NAME, PROTEIN_NAME
from embedstore.sequences import read
from embedstore.store.store import SpaceStore

_NAMED = ("sample", "source", "group")
_NAMES_SHOWN = 10
_CHARACTERS_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Assignments:
    """Content of a table of assignments.

    Attributes
    ----------
    named : what its names are of: "sample", "source" or "group".
    values : name -> label or cluster.
    file : for messages.
    """

    named: str
    values: Mapping[str, str]
    file: str


def with_labels(samples: Samples, path: str | Path) -> Samples:
    """Label samples as a table says.

    Parameters
    ----------
    samples : what to label.
    path : of the table, see `read_assignments`.

    Raises
    ------
    InputError : it is not such a table, or names something that is not among the samples.
    """
    return replace(samples, labels=_assigned(samples, samples.labels, read_assignments(path, "label")))


def with_clusters(samples: Samples, path: str | Path, on_note: Callable[[str], object] | None = None) -> Samples:
    """Group samples by the clusters that a table gives, or a file of MMseqs2 or CD-HIT.

    Parameters
    ----------
    samples : what to group.
    path : of the table, see `read_assignments`, or of the file, see `clusters`.
    on_note : told which ids of such a file name nothing.

    Raises
    ------
    InputError : it is neither, a table names something that is not among the samples, or a file names nothing that is.
    """
    clusters = read_clusters(path)
    if clusters is not None:
        columns = {"sample": samples.ids, "source": samples.sources.names, "group": samples.groups.names}
        what, values, unknown = clusters.named({name: texts.tolist() for name, texts in columns.items()})
        if unknown and on_note is not None:
            on_note(clusters.unknown_line(what, unknown))
        return replace(samples, groups=_assigned(samples, samples.groups, Assignments(what, values, str(path))))
    return replace(samples, groups=_assigned(samples, samples.groups, read_assignments(path, "cluster")))


def read_assignments(path: str | Path, value: Literal["label", "cluster", "part"]) -> Assignments:
    """Read a table.

    Raises
    ------
    InputError : it is not such a table, or gives one name two values; the line is named.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {path}: {error}.") from error
    header = lines[0].split("\t")
    named = [name for name in header if name in _NAMED]
    if not named or value not in header:
        raise InputError(
            f"Cannot read {path}: expected a header with one of {', '.join(_NAMED)} and {value}, separated by a tab, "
            f"found {lines[0][:80]!r}."
        )
    name_place, value_place = header.index(named[0]), header.index(value)
    values: dict[str, str] = {}
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split("\t")
        if len(fields) <= max(name_place, value_place):
            raise InputError(f"Cannot read {path}: line {number}: expected {len(header)} fields, found {len(fields)}.")
        name, text = from_cell(fields[name_place]), from_cell(fields[value_place])
        if values.setdefault(name, text) != text:
            raise InputError(
                f"Cannot read {path}: line {number}: expected {values[name]!r} as the {value} of {name} as above, "
                f"found {plain(repr(text), _CHARACTERS_SHOWN)}."
            )
    return Assignments(named[0], values, str(path))


def _assigned(samples: Samples, column: Categories, table: Assignments) -> Categories:
    """Return a column with the values of a table in place of its own."""
    names = {"sample": samples.ids, "source": samples.sources.names, "group": samples.groups.names}[table.named]
    numbers = {text: number for number, text in enumerate(column.names.tolist())}
    numbers.setdefault("", len(numbers))
    new = {name: numbers.setdefault(text, len(numbers)) for name, text in table.values.items()}
    keep = -1
    found = np.fromiter((new.get(name, keep) for name in names), np.int32, len(names))
    if len(new) != np.count_nonzero(found != keep):
        _refuse_unknown(samples, names.tolist(), table)
    if table.named != "sample":
        places = (samples.sources if table.named == "source" else samples.groups).codes
        found = np.append(found, np.int32(keep))[places]
    met = np.where(found == keep, np.where(column.codes < 0, numbers[""], column.codes), found).astype(np.int32)
    return _renumbered(numbers, met)


def _renumbered(numbers: Mapping[str, int], met: NDArray[np.int32]) -> Categories:
    """Make a column without the texts that no longer occur."""
    texts = list(numbers)
    used, again = np.unique(met, return_inverse=True)
    return Categories.numbered({texts[number]: place for place, number in enumerate(used)}, again.astype(np.int32))


def _refuse_unknown(samples: Samples, names: list[str], table: Assignments) -> None:
    unknown = sorted(set(table.values).difference(names))
    if unknown:
        shown = ", ".join(plain(name, _CHARACTERS_SHOWN) for name in unknown[:_NAMES_SHOWN]) + (
            " …" if len(unknown) > _NAMES_SHOWN else ""
        )
        raise InputError(
            f"Cannot use {table.file} for {samples.origin}: expected names of its {table.named}s, found {len(unknown)} "
            f"that are none: {shown}."
        )


_WINDOW_KEYS = 1 << 18
_FILE_NAMES: dict[Molecule, str] = {"dna": DNA_NAME, "protein": PROTEIN_NAME}


@dataclass(frozen=True, slots=True)
class FillFrom:
    """Where the sequences of samples are, to compute the missing vectors.

    Attributes
    ----------
    folder : with `dna.fna` and `protein.faa`.
    options : device, limits of segments.
    on_progress : told the progress of each space; see `embedstore.filling.fill`.
    on_report : told what was filled, after each space.
    """

    folder: Path
    options: FillOptions = field(default_factory=FillOptions)
    on_progress: OnProgress | None = None
    on_report: Callable[[FillReport], object] | None = None


def merge(
    samples: Samples | str | Path,
    models: Sequence[str],
    output: str | Path | None = None,
    *,
    store: SpaceStore,
    fill: bool | FillFrom = False,
    labels: str | Path | None = None,
    options: Mapping[str, ModelOptions] | None = None,
) -> Features:
    """Join samples with their vectors, one block a model, in the order asked.

    Parameters
    ----------
    samples : a `samples.tsv`, or what was loaded from one.
    store : whose spaces have the vectors.
    models : names or directories of models, or names of spaces.
    output : write a merged file (`.zarr`, `.h5`, `.npz`) and return its features; None: return a view on the store.
    fill : compute missing vectors, from `dna.fna` and `protein.faa` beside the table, or as `FillFrom` says.
    labels : table that labels the samples, see `read_assignments`.
    options : model -> weights, precision and so on, where not the defaults.

    Raises
    ------
    MissingEmbeddingError : samples have no vector; counts and names them. Nothing is written.
    InputError : a table is wrong, ids repeat, the samples have no sequences of a model's molecule, a vector is not
        finite.
    ModelError, StoreError : as `find_target` and `fill`.
    """
    if output is not None:
        check_output(Path(output))
    source = fill if isinstance(fill, FillFrom) else None
    if fill is True:
        if isinstance(samples, Samples):
            raise InputError(f"Cannot fill {samples.origin}: expected the folder of its sequences (fill=FillFrom).")
        source = FillFrom(Path(samples).parent)
    if not isinstance(samples, Samples):
        samples = load_samples(samples)
    if labels is not None:
        samples = with_labels(samples, labels)
    targets = [find_target(store, model, (options or {}).get(model, ModelOptions()), None) for model in models]
    schema = schema_of(targets, samples)
    reports: Sequence[FillReport] = ()
    if source is not None:
        targets, reports = fill_spaces(targets, source)
    features = _view(samples, schema, targets, reports)
    if output is None:
        return features
    write_features(features, Path(output))
    return open_features(output)


def schema_of(targets: Sequence[SpaceTarget], samples: Samples) -> Schema:
    """Arrange the spaces of some targets for samples; none of them needs to exist yet.

    Parameters
    ----------
    targets : a model and its space each, in the order of the columns.
    samples : what the features are of.

    Raises
    ------
    InputError : a space is named twice, or the samples have no sequences of its molecule.
    """
    for target in targets:
        if target.recipe.molecule not in samples.keys:
            raise InputError(
                f"Cannot merge {samples.origin} with {target.name}: expected {target.recipe.molecule} keys, "
                f"found {' and '.join(samples.keys) or 'none'}."
            )
    spaces = [(target.name, target.recipe) for target in targets]
    return Schema.of_spaces(spaces, samples.preparation, samples.labels.names.tolist())


def view(samples: Samples, targets: Sequence[SpaceTarget], *, check: bool = True) -> Features:
    """Return features that are read from the store; nothing is written.

    Parameters
    ----------
    samples : what the features are of.
    targets : a model and its space each, in the order of the columns.
    check : look now whether every sample has its vectors; otherwise that is found out when its row is read.

    Raises
    ------
    MissingEmbeddingError : samples have no vector; counts and names them.
    InputError : see `schema_of`.
    """
    return _view(samples, schema_of(targets, samples), targets, check=check)


def is_missing(samples: Samples, target: SpaceTarget) -> NDArray[np.bool_]:
    """Tell which samples have no vector in a space, (n,) bool.

    Parameters
    ----------
    samples : what the features are of.
    target : a model and its space.
    """
    keys = samples.keys[target.recipe.molecule]
    absent = np.ones(len(keys), np.bool_)
    if target.space is not None:
        for start in range(0, len(keys), _WINDOW_KEYS):
            absent[start : start + _WINDOW_KEYS] = ~target.space.contains(keys[start : start + _WINDOW_KEYS])
    return absent


def fill_spaces(
    targets: Sequence[SpaceTarget], source: FillFrom, windows_of: Callable[[SpaceTarget], Windows] | None = None
) -> tuple[list[SpaceTarget], list[FillReport]]:
    """Compute the vectors of prepared samples that are missing from spaces, one space after the other.

    Parameters
    ----------
    targets : the spaces.
    source : where the sequences are, and who is told what.
    windows_of : gives the sequences for a space; None: they are read from the FASTA files of `source`.

    Returns
    -------
    The targets with spaces that were made since, and what was done for each.

    Raises
    ------
    KeyboardInterrupt : Ctrl-C, after what was computed has been stored.
    EmbedStoreError : as `embedstore.filling.fill`.
    """
    filled, reports = [], []
    for target in targets:
        if windows_of is not None:
            windows = windows_of(target)
        else:
            # What `prepare` translated is protein, however much a repeat of A, C, G and T in it may look like DNA.
            records = read([source.folder / _FILE_NAMES[target.recipe.molecule]])
            windows = open_intake(records, target, any_molecule=True)
        backlog = Backlog(target, source.on_progress)
        with source.options.computing() as computing:
            report = run(windows, backlog, computing)[0]
        if source.on_report is not None:
            source.on_report(report)
        report.raise_if_interrupted()
        filled.append(replace(target, space=backlog.space))
        reports.append(report)
    return filled, reports


def _view(
    samples: Samples,
    schema: Schema,
    targets: Sequence[SpaceTarget],
    reports: Sequence[FillReport] = (),
    *,
    check: bool = True,
) -> Features:
    """Make features; what is missing is named with the reason that the report of its space gives."""
    blocks = []
    for place, target in enumerate(targets):
        rows = np.flatnonzero(is_missing(samples, target)) if check or target.space is None else ()
        if len(rows):
            refused = (*reports[place].rejected, *reports[place].failed) if reports else ()
            reasons = {each.id: each.reason for each in refused}
            ids = samples.ids[rows].tolist()
            labels = [f"{name} ({reasons[name]})" if name in reasons else name for name in ids]
            raise MissingEmbeddingError(target.name, labels, requested=len(samples))
        if target.space is not None:
            blocks.append((target.space, samples.keys[target.recipe.molecule]))
    return Features(samples, schema, StoreRows(blocks), samples.origin)
