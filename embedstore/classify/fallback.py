"""A second head on the DNA blocks alone, which calls sequences that have no open frame, and so no sample.

It is a classifier of its own, trained along on the same samples with the same folds, and on the chunks without an open
frame of the same genomes, if `prepare` was told to keep these (`closed.fna`). Without them its training saw nothing but
the DNA of stop-free frames, codon by codon on the frame's strand; what it is used on is whole chunks in which every
frame has a stop, on the forward strand. The guide says how well that does.

    chunks without an open frame ─ (predict cuts and fills them with the others) ─▶ DNA vectors ─▶ this head
        ─▶ mean over the chunks of a sequence ─▶ its call, marked as one from DNA
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from embedstore.array_files import TEXT
from embedstore.classify.blocks import FeatureInput, Reading, fill_source
from embedstore.classify.classifier import Classifier, dna_schema
from embedstore.classify.contigs import Contig
from embedstore.classify.scores import PIECE_ROWS
from embedstore.classify.splitting import Split
from embedstore.errors import InputError
from embedstore.features import Features, Samples, fill_spaces, is_merged_file, view
from embedstore.features.features import ARRAYS, Categories, Indices, StoreRows
from embedstore.filling import SpaceTarget, find_target
from embedstore.filling.filler import open_intake
from embedstore.identity import canonical, key_array, sequence_key
from embedstore.models.resolution import ModelOptions
from embedstore.records import KEY_BYTES, Keys, Rejection
from embedstore.samples.outputs import CLOSED_NAME, SETTINGS_NAME
from embedstore.samples.preparing import read_settings, read_sources
from embedstore.sequences import read


def dna_features(features: Features) -> Features:
    """Return the same samples with the columns of their DNA blocks only.

    Raises
    ------
    InputError : no block is of DNA.
    """
    schema = dna_schema(features.schema)
    if schema is None:
        blocks = ", ".join(map(str, features.schema.blocks))
        raise InputError(
            f"Cannot train a fallback on DNA alone with {features.name}: expected a block of DNA, found {blocks}. "
            "Add a DNA model to --models, or leave out --dna-only-fallback."
        )
    return Features(features.samples, schema, _DnaRows(features), features.name)


class _DnaRows:
    """Rows of which only the columns of DNA are kept."""

    def __init__(self, features: Features) -> None:
        self._features = features
        blocks = [block for block in features.schema.blocks if block.molecule == "dna"]
        self._columns = np.concatenate([np.arange(block.start, block.stop) for block in blocks])

    def gather(self, indices: Indices, rows: NDArray[np.float32]) -> None:
        rows[:] = self._features.rows(indices)[:, self._columns]


def with_closed(
    given: FeatureInput, how: Reading, dna: Features, labelled: Samples, split: Split
) -> tuple[Features, Samples, Split]:
    """Add the chunks without an open frame that are beside a table of samples; nothing, if there are none.

    Each is in the part of its group; chunks of groups without a sample are in none.

    Parameters
    ----------
    given, how : as for `train`.
    dna : features of the samples. labelled : the same samples with the labels and groups that apply.

    Raises
    ------
    InputError : the file is not one that `prepare` wrote with this table.
    MissingEmbeddingError : chunks have no vector.
    """
    if isinstance(given, Features | Samples) or is_merged_file(Path(given)) or how.store is None:
        return dna, labelled, split
    path = Path(given).parent / CLOSED_NAME
    if not _are_kept(path):
        return dna, labelled, split
    closed = _closed_samples(path, labelled)
    found = [find_target(how.store, model, how.options.get(model, ModelOptions())) for model in how.models]
    targets = [target for target in found if target.recipe.molecule == "dna"]
    source = fill_source(given, how)
    if source is not None:
        targets, _ = fill_spaces(targets, source, lambda target: open_intake(read([path]), target, any_molecule=True))
    both = (labelled, closed)
    samples = Samples(
        **{name: np.concatenate([getattr(one, name) for one in both]) for name in ARRAYS},
        sources=Categories.of(np.concatenate([one.sources.texts() for one in both])),
        groups=replace(labelled.groups, codes=np.concatenate([one.groups.codes for one in both])),
        labels=replace(labelled.labels, codes=np.concatenate([one.labels.codes for one in both])),
        keys={"dna": np.concatenate([one.keys["dna"] for one in both])},
        preparation=labelled.preparation,
        origin=labelled.origin,
    )
    rows = {}
    for part, own in split.rows.items():
        here = np.flatnonzero(np.isin(closed.groups.codes, labelled.groups.codes[own]))
        rows[part] = np.concatenate([own, here + len(labelled)])
    schema = replace(dna.schema, labels=tuple(labelled.labels.names.tolist()))
    features = Features(samples, schema, _BothRows(dna, view(closed, targets)), dna.name)
    return features, samples, replace(split, rows=rows)


def _are_kept(path: Path) -> bool:
    """Whether `prepare` kept closed chunks; what an earlier run left in the folder is not of this table."""
    settings = path.parent / SETTINGS_NAME
    if not path.is_file() or not settings.is_file():
        return False
    try:
        options = read_settings(settings).get("options")
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read {settings}: {error}. Prepare the samples again.") from error
    return isinstance(options, dict) and options.get("keep_closed") is True


def _closed_samples(path: Path, labelled: Samples) -> Samples:
    """Read the chunks of sources whose group, as `prepare` named it, has labelled samples."""
    sources = {one.source: one for one in read_sources(path.parent / SETTINGS_NAME) or ()}
    codes, first = np.unique(labelled.sources.codes, return_index=True)
    found = dict(zip(labelled.sources.names[codes].tolist(), first.tolist(), strict=True))
    of_group = {sources[name].group: row for name, row in found.items() if name in sources}
    names: list[str] = []
    rows: list[int] = []
    keys: list[bytes] = []
    for record in read([path]):
        source = record.id.rpartition(":")[0]
        if isinstance(record, Rejection) or source not in sources:
            raise InputError(f"Cannot use {path}: {record.id} is no chunk of {labelled.origin}. Prepare again.")
        row = found.get(source, of_group.get(sources[source].group))
        if row is not None and labelled.labels.codes[row] >= 0:
            names.append(record.id)
            rows.append(row)
            keys.append(sequence_key(canonical(record.sequence, "dna")))
    spans = [name.rpartition(":")[2].split("-") for name in names]
    start, end = np.array(spans, np.int64).reshape(-1, 2).T
    return Samples(
        ids=np.array(names, dtype=TEXT),
        sources=Categories.of([name.rpartition(":")[0] for name in names]),
        groups=labelled.groups.take(np.array(rows, np.int64)),
        labels=labelled.labels.take(np.array(rows, np.int64)),
        start=start,
        end=end,
        strand=np.ones(len(names), np.int8),
        frame=np.ones(len(names), np.int8),
        keys={"dna": key_array(keys)},
        preparation=labelled.preparation,
        origin=str(path),
    )


class _BothRows:
    """Rows of two features, those of the second behind those of the first."""

    def __init__(self, first: Features, second: Features) -> None:
        self._first, self._second = first, second

    def gather(self, indices: Indices, rows: NDArray[np.float32]) -> None:
        is_second = indices >= len(self._first)
        rows[~is_second] = self._first.rows(indices[~is_second])
        rows[is_second] = self._second.rows(indices[is_second] - len(self._first))


def fallback_of(classifier: Classifier) -> Classifier:
    """Return the head on DNA alone of a classifier.

    Raises
    ------
    InputError : it has none.
    """
    if classifier.fallback is not None:
        return classifier.fallback
    found = ", ".join(map(str, classifier.schema.blocks))
    if dna_schema(classifier.schema) is None:
        raise InputError(
            f"Cannot call sequences from DNA alone with {classifier.owner}: expected a block of DNA, found {found}. "
            "Train with a DNA model among --models, or leave out --dna-only-fallback."
        )
    raise InputError(
        f"Cannot call sequences from DNA alone with {classifier.owner}: expected a head on DNA alone, found none. "
        "Train again with --dna-only-fallback, or leave it out here."
    )


class DnaCaller:
    """Calls sequences without a sample, which come in the order in which their chunks were cut.

    Parameters
    ----------
    fallback : the head on DNA alone.
    targets : the spaces of all blocks, which have been filled.
    keys : of the chunks without an open frame, one after the other.
    """

    def __init__(self, fallback: Classifier, targets: Sequence[SpaceTarget], keys: BinaryIO) -> None:
        self._fallback = fallback
        self._spaces = [target.space for target in targets if target.recipe.molecule == "dna"]
        self._keys = keys

    def call(self, contigs: Iterable[Contig]) -> Iterator[Contig]:
        """Yield sequences, in order, with a call from DNA where they have closed chunks whose vectors are there."""
        held: list[Contig] = []
        chunks = 0
        for contig in contigs:
            held.append(contig)
            chunks += contig.counts.closed
            if chunks >= PIECE_ROWS:
                yield from self._called(held, chunks)
                held, chunks = [], 0
        yield from self._called(held, chunks)

    def _called(self, contigs: Sequence[Contig], chunks: int) -> Sequence[Contig]:
        if not chunks:
            return contigs
        counts = [contig.counts.closed for contig in contigs]
        keys = np.frombuffer(self._keys.read(chunks * KEY_BYTES), np.uint8).reshape(chunks, KEY_BYTES)
        members = np.repeat(np.arange(len(contigs)), counts)
        present, logits = self._logits(keys)
        members = members[present]
        scores = self._fallback.calibration.probabilities(logits)
        classes = len(self._fallback.labels)
        scored = np.bincount(members, minlength=len(contigs))
        sums = np.zeros((2, len(contigs), classes))
        np.add.at(sums[0], members, logits.astype(np.float64))
        np.add.at(sums[1], members, scores)
        calls = np.zeros((len(contigs), classes), np.int64)
        np.add.at(calls, (members, scores.argmax(axis=1)), 1)
        at = np.flatnonzero(scored)
        means = sums[:, at] / scored[at, None]
        found = list(contigs)
        for place, own in zip(at.tolist(), self._fallback.sequence_scores(means[0], means[1], scored[at]), strict=True):
            found[place] = replace(contigs[place], scores=own, shares=calls[place] / scored[place], from_dna=True)
        return found

    def _logits(self, keys: Keys) -> tuple[Indices, NDArray[np.float32]]:
        """Return which of the chunks have all their vectors, and the logits of these."""
        present = np.arange(len(keys))
        spaces = [space for space in self._spaces if space is not None]
        if len(spaces) < len(self._spaces):
            present = present[:0]
        for space in spaces:
            present = present[space.contains(keys[present])]
        rows = np.empty((len(present), self._fallback.schema.dim), np.float32)
        if len(present):
            StoreRows([(space, keys[present]) for space in spaces]).gather(np.arange(len(present)), rows)
        finite = np.isfinite(rows).all(axis=1)
        return present[finite], self._fallback.head.logits(rows[finite])
