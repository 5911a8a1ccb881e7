"""A classifier on disk: a folder of plain tensors and JSON, read strictly. Nothing in it is pickled.

classifier.safetensors   the tensors of `heads.tensor_shapes`, float32, or of `heads.FOREST_DTYPES`
classifier.json          format, version, head, schema, calibrations, SHA-256 of the others, and how it
                         came about: options, split by group, how it was fitted, metrics, versions
sketches.safetensors     k-mers of the groups that it was made from, see `known`; not there if these were not
report.html, scores.tsv  for people: plots, and the scores of the tested samples, to recompute every number
fallback.safetensors     on request, with the part `fallback` of the document: a head on the DNA blocks alone, for
                         sequences without a sample (see `fallback`)

A reader that does not know `fallback` leaves it out: it gives such sequences no call, as for any classifier, and all
else alike; therefore the version stays. The tensors have a file of their own, as the first holds those of its head and
no others.

Version 1 had a `network`, "mlp" or "linear", and no calibration of sequences; it is read as ever.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.atomic import check_folder, complete
from embedstore.classify.calibration import Calibration, Chunks, SequenceCalibration
from embedstore.classify.heads import (
    MOST_MEMBERS,
    Forest,
    Head,
    HeadKind,
    Network,
    Tensors,
    forest_problems,
    tensor_problems,
    tensor_shapes,
)
from embedstore.classify.known import SKETCHES_NAME, Recall, read_known, safetensors_numpy
from embedstore.classify.metrics import Probabilities
from embedstore.errors import FormatVersionError, InputError, WeightsError, plain
from embedstore.features import Block, Schema

TENSORS_NAME = "classifier.safetensors"
FALLBACK_NAME = "fallback.safetensors"
DOCUMENT_NAME = "classifier.json"
REPORT_NAME = "report.html"
SCORES_NAME = "scores.tsv"

FORMAT = "embedstore-classifier"
FORMAT_VERSION = 2

_LARGEST_DOCUMENT_BYTES = 1 << 28
_SPARE_BYTES = 64 << 20
"""How much larger than the network's tensors their file may be before it is not even read."""
_SHOWN_CHARACTERS = 80
_KINDS: dict[str, HeadKind] = {"mlp": "mlp", "linear": "linear", "trees": "trees"}
_LABELS_SHOWN = 4
_LARGEST_FOREST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Classifier:
    """A trained head with everything that decides whether features fit it.

    Attributes
    ----------
    schema : of the features that it takes; `schema.labels` are its classes.
    about : how it came about, JSON values.
    name : for messages.
    sequences : calibration of sequences of several samples; None: the mean of their samples' scores is taken.
    fallback : a classifier of the same classes by the DNA blocks alone, see `dna_schema`; None: there is none.
    recall : reads the sketches of the groups that it was made from; None: there are none.

    Raises
    ------
    InputError : the parts are not of one size.
    """

    schema: Schema
    head: Head
    calibration: Calibration
    about: Mapping[str, Any] = field(default_factory=dict)
    name: str = "the classifier"
    sequences: SequenceCalibration | None = None
    fallback: Classifier | None = None
    recall: Recall | None = None

    def __post_init__(self) -> None:
        expected = (self.schema.dim, len(self.schema.labels), len(self.schema.labels))
        found = (self.head.dim, self.head.classes, len(self.calibration.scale))
        if expected != found:
            raise InputError(
                f"Cannot use {self.name}: its schema expects columns, classes and calibrated classes of {expected}, "
                f"found {found} in its head and calibration."
            )
        if self.fallback is not None and self.fallback.schema != dna_schema(self.schema):
            raise InputError(f"Cannot use {self.name}: expected a fallback of the columns of its DNA blocks.")

    def __repr__(self) -> str:
        shown = ", ".join(self.labels[:_LABELS_SHOWN]) + (", …" if len(self.labels) > _LABELS_SHOWN else "")
        return plain(f"<Classifier {self.name}: {self.schema.dim:,} columns, {len(self.labels)} classes ({shown})>")

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the scores."""
        return self.schema.labels

    @property
    def owner(self) -> str:
        """Its name in messages about schemas."""
        return f"the classifier {self.name}"

    def sequence_scores(
        self,
        mean_logits: NDArray[np.float64],
        mean_scores: NDArray[np.float64],
        counts: NDArray[np.int64],
        chunks: Chunks | None = None,
    ) -> Probabilities:
        """Return (n, classes) scores of sequences from what their samples have.

        Parameters
        ----------
        mean_logits, mean_scores : (n, classes), means over the samples of each.
        counts : (n,) samples of each.
        chunks : of each, and how many of them are open; None: each is one chunk.
        """
        return mean_scores if self.sequences is None else self.sequences.probabilities(mean_logits, counts, chunks)

    def to_json(self) -> dict[str, Any]:
        """The content of `classifier.json`, without the checksum."""
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "schema": self.schema.to_json(),
            **self._head_to_json(),
            **({} if self.fallback is None else {"fallback": self.fallback._head_to_json()}),
        }

    def _head_to_json(self) -> dict[str, Any]:
        return {
            "head": {"kind": self.head.kind, "members": self.head.members},
            "calibration": self.calibration.to_json(),
            "sequences": None if self.sequences is None else self.sequences.to_json(),
            "about": dict(self.about),
        }


def dna_schema(schema: Schema) -> Schema | None:
    """Return the schema of the DNA blocks alone, one after the other; None if there is none."""
    blocks: list[Block] = []
    for block in schema.blocks:
        if block.molecule == "dna":
            start = blocks[-1].stop if blocks else 0
            blocks.append(replace(block, start=start, stop=start + block.dim))
    return replace(schema, blocks=tuple(blocks)) if blocks else None


def check_output(path: Path) -> None:
    """Refuse a place where something other than a classifier is.

    Raises
    ------
    InputError : a file, or a folder without a classifier, is there; or the folder above does not exist.
    """
    check_folder(path, DOCUMENT_NAME, "a classifier")


def save_classifier(classifier: Classifier, path: Path, others: Mapping[str, bytes] | None = None) -> None:
    """Write a classifier's folder; it appears under its name once it is complete.

    Parameters
    ----------
    others : further files of the folder, by name.
    """
    save = safetensors_numpy().save
    check_output(path)
    tensors = save(dict(classifier.head.tensors))
    document = {**classifier.to_json(), "sha256": hashlib.sha256(tensors).hexdigest()}
    fallback = {}
    if classifier.fallback is not None:
        fallback[FALLBACK_NAME] = save(dict(classifier.fallback.head.tensors))
        document["fallback"]["sha256"] = hashlib.sha256(fallback[FALLBACK_NAME]).hexdigest()
    sketches: dict[str, bytes] = {}
    if classifier.recall is not None:
        known = classifier.recall()
        sketches[SKETCHES_NAME] = content = known.to_bytes()
        document["sketches"] = {**known.to_json(), "sha256": hashlib.sha256(content).hexdigest()}
    files = {
        TENSORS_NAME: tensors,
        **fallback,
        DOCUMENT_NAME: (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode(),
        **sketches,
        **(others or {}),
    }
    with _complete(path) as folder:
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)


def load_classifier(path: str | Path) -> Classifier:
    """Read a classifier; nothing in it is executed.

    Raises
    ------
    InputError : there is none, or its JSON is invalid. FormatVersionError : a newer embedstore wrote it.
    WeightsError : its tensors are damaged, or not exactly those that its JSON describes.
    """
    path = Path(path)
    document = _document(path)
    try:
        schema = Schema.from_json(document.get("schema", {}))
    except InputError as error:
        raise _unreadable(path, error) from error
    if len(schema.labels) < 2:
        raise InputError(f"Cannot read the classifier {path}: expected at least two classes, found {schema.labels}.")
    classifier = replace(_read_part(document, path, TENSORS_NAME, schema), recall=_recall_of(document, path))
    stated, of_dna = document.get("fallback"), dna_schema(schema)
    if stated is None:
        return classifier
    if not isinstance(stated, dict) or of_dna is None:
        raise _unreadable(path, InputError("expected a fallback of a classifier that has a block of DNA"))
    return replace(classifier, fallback=_read_part(stated, path, FALLBACK_NAME, of_dna))


def _recall_of(document: Mapping[str, Any], path: Path) -> Recall | None:
    sketches = document.get("sketches")
    if not isinstance(sketches, dict) or not (path / SKETCHES_NAME).exists():
        return None
    return partial(read_known, path / SKETCHES_NAME, sketches)


def _read_part(document: Mapping[str, Any], path: Path, file_name: str, schema: Schema) -> Classifier:
    """Read a head with its calibrations."""
    kind, members = _head_of(document, path)
    try:
        calibration = Calibration.from_json(document.get("calibration"), len(schema.labels))
        stated = document.get("sequences")
        sequences = None if stated is None else SequenceCalibration.from_json(stated, len(schema.labels))
    except InputError as error:
        raise _unreadable(path, error) from error
    head = _read_head(path / file_name, document.get("sha256"), kind, members, schema)
    about = document.get("about")
    return Classifier(schema, head, calibration, about if isinstance(about, dict) else {}, str(path), sequences)


def _unreadable(path: Path, error: InputError) -> InputError:
    return InputError(f"Cannot read the classifier {path}: {str(error).rstrip('.')}. Train it again.")


def _head_of(document: Mapping[str, Any], path: Path) -> tuple[HeadKind, int]:
    """Return kind and number of members of the head that a document states."""
    stated = document.get("head", {"kind": document.get("network"), "members": 1})
    kind = _KINDS.get(str(stated.get("kind"))) if isinstance(stated, dict) else None
    members = stated.get("members") if isinstance(stated, dict) else None
    known = isinstance(members, int) and not isinstance(members, bool) and 1 <= members <= MOST_MEMBERS
    if kind is None or not known or not isinstance(members, int) or (members > 1 and kind != "mlp"):
        raise InputError(
            f"Cannot read the classifier {path}: expected a head mlp (of 1 to {MOST_MEMBERS} members), linear or "
            f"trees, found {plain(repr(stated), _SHOWN_CHARACTERS)}."
        )
    return kind, members


def _read_head(file: Path, sha256: object, kind: HeadKind, members: int, schema: Schema) -> Head:
    classes = len(schema.labels)
    if kind == "trees":

        def tree_problems(tensors: Tensors) -> list[str]:
            return forest_problems(tensors, schema.dim, classes)

        return Forest(schema.dim, classes, _tensors(file, sha256, _LARGEST_FOREST_BYTES, tree_problems))
    shapes = tensor_shapes(kind, schema.dim, classes, members)
    size_bytes = 4 * sum(map(math.prod, shapes.values()))
    tensors = _tensors(file, sha256, size_bytes, lambda found: tensor_problems(found, shapes))
    return Network(kind, schema.dim, classes, tensors, members)


def _document(path: Path) -> dict[str, Any]:
    file = path / DOCUMENT_NAME
    if not file.is_file():
        found = "a file" if path.is_file() else "a folder without it" if path.is_dir() else "nothing"
        hint = " To read a head of VirNucPro, use `embedstore import-classifier`." if path.is_file() else ""
        raise InputError(
            f"Cannot read the classifier {path}: expected a folder with {DOCUMENT_NAME}, found {found}.{hint}"
        )
    try:
        with file.open("rb") as stream:
            content = stream.read(_LARGEST_DOCUMENT_BYTES + 1)
        if len(content) > _LARGEST_DOCUMENT_BYTES:
            raise InputError(f"Cannot read the classifier {path}: {DOCUMENT_NAME} is too large.")
        document = json.loads(content.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"Cannot read the classifier {path}: {DOCUMENT_NAME}: {error}.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f"Cannot read the classifier {path}: expected the format {FORMAT} in {DOCUMENT_NAME}.")
    if document.get("version") not in range(1, FORMAT_VERSION + 1):
        raise FormatVersionError(
            f"the classifier {path}", [f"format version {plain(repr(document.get('version')), _SHOWN_CHARACTERS)}"]
        )
    return document


def _tensors(file: Path, sha256: object, size_bytes: int, problems_of: Callable[[Tensors], list[str]]) -> Tensors:
    safetensors = safetensors_numpy()
    from safetensors import SafetensorError

    if file.exists() and not file.is_file():
        raise WeightsError(f"Cannot read {file}: expected a file, found something else.")
    largest_bytes = size_bytes + _SPARE_BYTES
    try:
        with file.open("rb") as stream:
            content = stream.read(largest_bytes + 1)
    except OSError as error:
        raise WeightsError(f"Cannot read {file}: {error.strerror}. Train the classifier again.") from error
    if len(content) > largest_bytes:
        raise WeightsError(f"Cannot use {file}: expected at most {largest_bytes} bytes, found more.")
    found = hashlib.sha256(content).hexdigest()
    try:
        tensors: Tensors = safetensors.load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"Cannot read {file}: it is damaged: {error}. Train the classifier again.") from error
    problems = problems_of(tensors)
    if problems:
        raise WeightsError(f"Cannot use {file}: {'; '.join(problems[:5])}. Train the classifier again.")
    if found != sha256:
        raise WeightsError(
            f"Cannot use {file}: it is damaged, or of another classifier: expected SHA-256 {sha256}, found {found}. "
            "Train the classifier again."
        )
    return tensors


def _complete(path: Path) -> AbstractContextManager[Path]:
    return complete(path.absolute())
