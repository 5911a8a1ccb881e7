"""What tested samples do not show: the sequences, and the chunks, of the same genomes that have no open frame.

Metrics are of samples, and a fragment without a sample is not among the fragments. `prepare.json` beside the table of
samples has a line for each source that was cut, with its length and how many of its chunks gave samples: so it is known
how many fragments there are in all, and which share of the chunks is seen. A merged file has no such lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.classify.blocks import FeatureInput
from embedstore.classify.classifier import Classifier
from embedstore.classify.fragments import chunk_bases, fragments_of
from embedstore.classify.metrics import Classes, called
from embedstore.classify.scores import Scores
from embedstore.features import Features, Samples, is_merged_file
from embedstore.samples.cutting import SourceSummary
from embedstore.samples.outputs import SETTINGS_NAME
from embedstore.samples.preparing import read_sources
from embedstore.samples.seen import Seen


@dataclass(frozen=True, slots=True)
class CutSources:
    """The sources of tested samples, and those of the same genomes that gave none.

    Attributes
    ----------
    sources : each with the class that it is tested as; None: they are not known.
    labels : the classes.
    chunk_bases : length of the chunks.
    unknown : why they are not known.
    """

    sources: tuple[SourceSummary, ...] | None
    labels: tuple[str, ...]
    chunk_bases: int = 1
    unknown: str = ""

    def to_json(self) -> dict[str, Any]:
        """How much is seen of them, see `embedstore.samples.seen`, or why that is not known."""
        if self.sources is None:
            return {"seen": None, "seen_unknown": self.unknown}
        seen = Seen()
        for one in self.sources:
            seen.add(one)
        return {"seen": seen.to_json()}

    def recall_of_all(
        self, scores: Scores, logits: NDArray[np.float32], classifier: Classifier, positive: int | None
    ) -> dict[int, Any]:
        """Return the recall of all fragments, where those without a sample are not found, by length; empty: not known.

        Parameters
        ----------
        scores : of the tested samples. logits : (n, classes) of the same.
        classifier : tells how fragments are scored.
        positive : place of the class that is looked for; None: there is none.
        """
        if self.sources is None:
            return {}
        lengths = {one.source: one.length_bases for one in self.sources}
        own = np.array([lengths.get(name, 0) for name in scores.samples.sources.names.tolist()], np.int64)
        folds = np.zeros(len(scores.y), np.int64)
        seen = fragments_of(scores.samples, logits, scores.probabilities, scores.y, folds, source_bases=own)
        calls = called(classifier.sequence_scores(seen.logits, seen.scores, seen.counts, seen.chunks))
        found = {}
        for length in np.unique(seen.length_bases).tolist():
            here = seen.length_bases == length
            of_all = self._fragments(length)
            y = seen.y[here]
            right = np.bincount(y[calls[here] == y], minlength=len(self.labels))
            recall = right / np.maximum(of_all, 1)
            found[length] = {
                "fragments": int(of_all.sum()),
                "share_with_sample": len(y) / int(of_all.sum()),
                **({} if positive is None else {"positive": {"recall": float(recall[positive])}}),
                "recall": float(recall[of_all > 0].mean()),
                "by_label": {
                    label: {"fragments": count, "recall": share if count else None}
                    for label, count, share in zip(self.labels, of_all.tolist(), recall.tolist(), strict=True)
                },
            }
        return found

    def _fragments(self, length_bases: int) -> NDArray[np.int64]:
        """(classes,) fragments of each class, with or without a sample; half a chunk may be missing at the end."""
        found = np.zeros(len(self.labels), np.int64)
        for one in self.sources or ():
            found[self.labels.index(one.label)] += (one.length_bases + self.chunk_bases // 2) // length_bases
        return found


def cut_sources(given: FeatureInput, tested: Samples, y: Classes, labels: tuple[str, ...]) -> CutSources:
    """Find what the tested samples were cut from, and what else of the same genomes was cut and gave no sample.

    A source without a sample is counted as the class of its group. If no source of the group gave a sample, it is
    counted as what `prepare` was told, unless some labelled sources are not tested, as with a test part: then nobody
    said on which side it is.

    Parameters
    ----------
    given : what was given to `train` or `evaluate`.
    tested : samples, `y` their classes among `labels`.

    Raises
    ------
    InputError : `prepare.json` beside the table is damaged.
    """
    if isinstance(given, Features | Samples) or is_merged_file(Path(given)):
        return CutSources(None, labels, unknown="only a table of samples has prepare.json beside it")
    sources = read_sources(Path(given).parent / SETTINGS_NAME)
    if sources is None:
        return CutSources(
            None, labels, unknown="no prepare.json that names the groups of its sources is beside the samples"
        )
    ends = np.zeros(len(tested.sources.names), np.int64)
    np.maximum.at(ends, tested.sources.codes, tested.end)
    codes, first = np.unique(tested.sources.codes, return_index=True)
    classes = dict(zip(tested.sources.names[codes].tolist(), y[first].tolist(), strict=True))
    lengths = {one.source: one.length_bases for one in sources}
    if any(lengths.get(str(tested.sources.names[code]), 0) < ends[code] for code in codes.tolist()):
        return CutSources(None, labels, unknown="prepare.json beside the samples is of other samples")
    return CutSources(tuple(_tested(sources, classes, labels)), labels, chunk_bases(tested))


def _tested(sources: Sequence[SourceSummary], classes: dict[str, int], labels: tuple[str, ...]) -> list[SourceSummary]:
    of_groups: dict[str, set[str]] = {}
    for one in sources:
        if one.source in classes:
            of_groups.setdefault(one.group, set()).add(labels[classes[one.source]])
    complete = all(one.source in classes for one in sources if one.samples and one.label in labels)
    found = []
    for one in sources:
        label = one.label
        if one.source in classes:
            label = labels[classes[one.source]]
        elif one.samples or (one.group not in of_groups and not complete):
            continue
        elif len(of_groups.get(one.group, ())) == 1:
            (label,) = of_groups[one.group]
        if label in labels:
            found.append(replace(one, label=label))
    return found
