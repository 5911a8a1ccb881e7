"""The pages of `train` and `evaluate`: which sections they have, and what these say.

A page is a list of sections (`sections.page`); `training_report` and `evaluation_report` are these lists. A section is
one function that returns a `Section`. The verdict on top names one number, `HEADLINE`, with its interval, and holds it
against the base rate: what scores that ignore the sequence would give on the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.classify.classifier import Classifier
from embedstore.classify.metrics import Measures, called
from embedstore.classify.plots import (
    calibration_plot,
    class_scores_plot,
    confusion_plot,
    length_plot,
    loss_plot,
    precision_recall_plot,
    roc_plot,
    strength_plot,
)
from embedstore.classify.provenance import Provenance
from embedstore.classify.scores import Scores
from embedstore.classify.sections import Cell, Figures, Section, Table, decimal, page, with_interval
from embedstore.errors import EmbedStoreError, plain

HEADLINE = ("balanced_accuracy", "balanced accuracy")
"""The number of the verdict: of scores that ignore the sequence it is 1 / classes, however frequent each class is."""

HEADLINES = (
    HEADLINE,
    ("auroc", "AUROC"),
    ("auprc", "AUPRC"),
    ("mcc", "MCC"),
    ("f1", "F1"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("accuracy", "accuracy"),
    ("brier", "Brier score ↓"),
    ("ece", "ECE ↓"),
    ("brier_balanced", "Brier score, classes balanced ↓"),
    ("ece_balanced", "ECE, classes balanced ↓"),
)
_OF_CLASS = (("auroc", "AUROC"), ("auprc", "AUPRC"), ("f1", "F1"), ("precision", "precision"), ("recall", "recall"))
_GROUPS_SHOWN = 200
_UNSEEN_GROUPS = 20
_FEWEST_GROUPS = 3
"""Of each class, for an interval from drawing groups to say anything."""
_ENOUGH_GROUPS = 10
UNDRAWABLE = (EmbedStoreError, OSError, ImportError, ValueError, RuntimeError, LookupError, TypeError, ArithmeticError,
              AttributeError, MemoryError)  # fmt: skip
"""What matplotlib and its fonts were seen to raise. Numbers that took hours are worth more than a page about them."""


def drawn_or_why(draw: Callable[[], str]) -> tuple[str | None, str]:
    """Draw a page; if that fails, return None and the reason: the results do not depend on the page."""
    try:
        return draw(), ""
    except UNDRAWABLE as error:
        return None, plain(error) or type(error).__name__


def training_report(classifier: Classifier, test: Scores, made: Provenance) -> str:
    """Describe a classifier and how it did on its test part, or out of fold.

    Parameters
    ----------
    classifier : with its metrics under `about["test"]`.
    test : scores of the tested samples.
    made : when, by which command and from what.
    """
    about, tested = classifier.about, Assessed(classifier.about["test"], test)
    spaces = " + ".join(block.space for block in classifier.schema.blocks)
    unseen = "that it has not seen" if tested.evaluation.get("tested_on") == "test" else "out of fold"
    verdict = (
        f"The {classifier.head.kind} head on {spaces}, trained on {about['trained_on']}, has a "
        f"{tested.headline} on {tested.size} {unseen}: {tested.judgement}."
    )
    sections = [*_evaluated(tested), _training(classifier), _origin(classifier, made)]
    # Two labels of one sequence are more than a remark: they come first.
    sections.insert(0 if _under_two_labels(about["grouping"]) else -1, _relatives(about))
    stamp = f"{made.stamp}, seed {about['options']['seed']}"
    return page(f"Classifier {Path(classifier.name).name}", verdict, stamp, sections)


def evaluation_report(classifier: Classifier, evaluation: Mapping[str, Any], scores: Scores, made: Provenance) -> str:
    """Describe how a classifier did on labelled samples.

    Parameters
    ----------
    evaluation : its metrics.
    scores : what they were computed from.
    made : when, by which command and from what.
    """
    tested, name = Assessed(evaluation, scores), Path(classifier.name).name
    seen = evaluation.get("groups_seen_in_training", [])
    verdict = f"On {tested.size} of {scores.samples.origin}, the classifier {name} has a {tested.headline}"
    if seen:
        verdict += (
            f", but this is no test: {len(seen):,} of these groups were used to make it (see the table of groups)."
        )
    else:
        verdict += f": {tested.judgement}."
    known = evaluation.get("known_by_sequence", {})
    if known.get("known"):
        verdict += f" Of {known['looked_at']:,} sources the classifier knows {known['known']:,} by sequence."
    sections = [*_evaluated(tested), *([_known(known)] if known else []), _origin(classifier, made)]
    return page(f"Evaluation of {name}", verdict, made.stamp, sections)


@dataclass(frozen=True, slots=True)
class Assessed:
    """Metrics of scored samples, and the scores, with what the verdict says of them.

    Attributes
    ----------
    evaluation : what `training.assess` returns.
    """

    evaluation: Mapping[str, Any]
    scores: Scores

    @property
    def size(self) -> str:
        """How much was scored."""
        return f"{self.evaluation['samples']:,.0f} samples of {self.evaluation['groups']:,} groups"

    @property
    def headline(self) -> str:
        """The number of the verdict with its interval, "balanced accuracy of 0.81 (95% interval 0.7 to 0.9)"."""
        key, name = HEADLINE
        low, high = self._interval(key)
        level = f"{self.evaluation['intervals']['level']:.0%}"
        interval = "" if low is None else f" ({level} interval {decimal(low)} to {decimal(high)})"
        return f"{name} of {decimal(self.evaluation[key])}{interval}"

    @property
    def judgement(self) -> str:
        """Whether that number is better than the base rate, as far as the groups can tell."""
        low, high = self._interval(HEADLINE[0])
        base = self.base_rates()[HEADLINE[0]]
        rate = f"ignoring the sequence, which gives {decimal(base)}"
        counts = self.groups_by_label().values()
        few = sum(count < _FEWEST_GROUPS for count in counts)
        if few or low is None or high is None:
            classes = f" ({few} of {len(counts)} classes have fewer than {_FEWEST_GROUPS})" if few else ""
            return f"too few groups{classes} to say whether that is better than {rate}"
        if low > base:
            return f"better than {rate}"
        return f"worse than {rate}" if high < base else f"not shown to be better than {rate}"

    def base_rates(self) -> dict[str, Any]:
        """All metrics of scores that are the shares of the classes, whatever the sequence."""
        shares = np.bincount(self.scores.y, minlength=len(self.scores.labels)) / len(self.scores.y)
        constant = np.tile(shares, (len(self.scores.y), 1))
        found = Measures(self.scores.y, constant, self.scores.labels).at()
        return {key: None if isinstance(value, float) and np.isnan(value) else value for key, value in found.items()}

    def groups_by_label(self) -> dict[str, int]:
        """In how many groups each class occurs, of those that do."""
        codes = self.scores.samples.groups.codes
        found = {label: len(np.unique(codes[self.scores.y == place])) for place, label in enumerate(self.scores.labels)}
        return {label: count for label, count in found.items() if count}

    def _interval(self, *names: str) -> tuple[float | None, float | None]:
        """Return the interval of a metric. A label may hold any character, so names are not told apart by one."""
        intervals = self.evaluation["intervals"]
        low, high = intervals.get("numbers", intervals).get("/".join(names), (None, None))
        return low, high

    def number(self, *names: str) -> Cell:
        """Write a metric with its interval."""
        value: Any = self.evaluation
        for name in names:
            value = value[name]
        return with_interval(value, self._interval(*names))


def _evaluated(tested: Assessed) -> list[Section]:
    """Return the sections about scored samples, the class that is looked for first."""
    first = [_positive(tested)] if "positive" in tested.evaluation else []
    contigs = [_contigs(tested)] if tested.evaluation.get("contigs") else []
    unseen = [_unseen(tested)] if "seen" in tested.evaluation else []
    others = [_metrics(tested), _classes(tested), _plots(tested), _groups(tested), _lengths(tested)]
    return [*first, *contigs, *unseen, *others]


_OF_POSITIVE = (("auroc", "AUROC"), ("auprc", "AUPRC"), ("recall", "recall"), ("precision", "precision"))


def _positive(tested: Assessed) -> Section:
    found = tested.evaluation["positive"]
    label = found["label"]
    text = (
        f"Samples called {label}, against all others. The AUPRC of scores that ignore the sequence is the share of the "
        "class. Precision at a prevalence: where so many of the samples are of the class."
    )
    rows: list[tuple[Cell, ...]] = [("share of the class", decimal(found["base_rate"]))]
    rows += [(name, tested.number("classes", label, key)) for key, name in _OF_POSITIVE]
    rows.append(("false positive rate ↓", decimal(found["false_positive_rate"])))
    rows += [
        (f"precision at {float(prevalence):.0%} prevalence", decimal(precision))
        for prevalence, precision in found["precision_at_prevalence"].items()
    ]
    return Section(f"Looking for {label}", (text, Table(("metric", "value"), rows)))


def _contigs(tested: Assessed) -> Section:
    """Return how fragments of the sources are called, by length."""
    contigs, positive = tested.evaluation["contigs"], tested.evaluation.get("positive")
    names = [] if positive is None else ["classes", positive["label"]]
    text = (
        "Sources cut into fragments of one length, each scored from the mean logit and the number of its samples, as "
        "predict scores a sequence; fragments without a sample are not among them. Recall of all: of these, and of "
        "those without a sample, which are never found. In grey: intervals as below."
    )
    header = ["bases", "fragments", "of", "groups", "AUROC", "AUPRC", "recall", "recall of all"]
    if positive is not None:
        precisions = [f"precision at {float(each):.0%}" for each in positive["precision_at_prevalence"]]
        header += ["false positive rate ↓", *precisions]
    rows, calibrations = [], []
    for part in contigs:
        one = Assessed(part, tested.scores)
        of_all = part.get("of_all")
        count = "–" if of_all is None else f"{of_all['fragments']:,}"
        cells: list[Cell] = [f"{part['length_bases']:,}", f"{part['fragments']:,}", count, f"{part['groups']:,}"]
        cells += [one.number(*names, key) for key in ("auroc", "auprc", "recall")]
        cells.append(decimal(None if of_all is None else of_all.get("positive", of_all)["recall"]))
        if positive is not None:
            cells.append(decimal(part["positive"]["false_positive_rate"]))
            cells += [decimal(each) for each in part["positive"]["precision_at_prevalence"].values()]
        rows.append(cells)
        calibrations.append([f"{part['length_bases']:,}", *_calibration_cells(part)])
    title = "Contigs by length" if positive is None else f"Contigs by length: {positive['label']}"
    return Section(title, (text, Table(header, rows), _CALIBRATION_TEXT, Table(_CALIBRATION_HEADER, calibrations)))


_UNSEEN_TEXT = (
    "A chunk with a stop codon in every frame gives no sample, and a sequence of such chunks only gets no call: the "
    "numbers of samples say nothing of them. Share: of the chunks, those with an open frame."
)
_UNSEEN_HEADER = ("sequences", "without a sample", "chunks", "with an open frame", "share")


def _unseen(tested: Assessed) -> Section:
    """Return which share of the chunks gave samples, by class, by length of the sequence and by group."""
    seen = tested.evaluation["seen"]
    title = "What is not seen"
    if seen is None:
        return Section(title, (_UNSEEN_TEXT, f"Not known here: {tested.evaluation['seen_unknown']}."))

    def row(name: str, part: Mapping[str, Any]) -> tuple[Cell, ...]:
        counts = (part[key] for key in ("sources", "sources_without_sample", "chunks", "chunks_seen"))
        return name, *(f"{number:,}" for number in counts), decimal(part["share"])

    rows = [row("all", seen), *(row(part["label"], part) for part in seen["by_label"])]
    for part in seen["by_length"]:
        span = f"{part['from']:,}–{part['to']:,} bases" if part["to"] else f"{part['from']:,} bases and more"
        rows.append(row(span, part))
    parts: list[str | Table | Figures] = [_UNSEEN_TEXT, Table(("", *_UNSEEN_HEADER), rows)]
    groups = sorted(seen["by_group"] or (), key=lambda part: (part["share"] or 0.0, part["group"]))[:_UNSEEN_GROUPS]
    if len(groups) > 1:
        least = [row(part["group"], part) for part in groups]
        parts += ["The groups of which least is seen.", Table(("group", *_UNSEEN_HEADER), least)]
    return Section(title, tuple(parts))


_CALIBRATION_TEXT = (
    "How well these scores are calibrated, classes balanced; before: the mean of the samples' scores; by others: a "
    "calibration that is fitted to the other folds, which cannot know the fold."
)
_CALIBRATION_HEADER = ("bases", "Brier score ↓", "before", "by others", "ECE ↓", "before", "by others")


def _calibration_cells(part: Mapping[str, Any]) -> list[str]:
    others = part.get("calibrated_by_others", {})
    cells = []
    for key in ("brier_balanced", "ece_balanced"):
        cells += [decimal(part[key]), decimal(part["before_calibration"][key]), decimal(others.get(key))]
    return cells


def _metrics(tested: Assessed) -> Section:
    intervals, base = tested.evaluation["intervals"], tested.base_rates()
    text = (
        f"{tested.size}. Means over classes are unweighted. ↓: less is better. In grey: "
        f"{intervals['level']:.0%} intervals, {intervals['of']}. "
        "Base rate: what scores equal to the shares of the classes give, whatever the sequence."
    )
    few = {label: count for label, count in tested.groups_by_label().items() if count < _ENOUGH_GROUPS}
    if few:
        counts = ", ".join(f"{label} {count}" for label, count in few.items())
        text += f" With so few groups of a class ({counts}), intervals are rough."
    rows = [(name, tested.number(key), decimal(base[key])) for key, name in HEADLINES]
    return Section("Metrics", (text, Table(("metric", "value", "base rate"), rows)))


def _classes(tested: Assessed) -> Section:
    classes, groups = tested.evaluation["classes"], tested.groups_by_label()
    first = next(iter(classes.values()))
    precisions, prevalences = first["recall_at_precision"], first["precision_at_prevalence"]
    header = ("class", "samples", "groups", *(name for _, name in _OF_CLASS))
    worth = (
        "class",
        *(f"recall at precision {precision}" for precision in precisions),
        *(f"precision at {float(prevalence):.0%} prevalence" for prevalence in prevalences),
    )
    rows = [
        (
            label,
            f"{numbers['samples']:,.0f}",
            f"{groups.get(label, 0):,}",
            *(tested.number("classes", label, key) for key, _ in _OF_CLASS),
        )
        for label, numbers in classes.items()
    ]
    worths = [
        (
            label,
            *(decimal(numbers["recall_at_precision"][precision]) for precision in precisions),
            *(decimal(numbers["precision_at_prevalence"][prevalence]) for prevalence in prevalences),
        )
        for label, numbers in classes.items()
    ]
    text = "Recall where so many of the calls must be right; precision where so many of the samples are of the class."
    return Section("By class", (Table(header, rows), text, Table(worth, worths)))


def _plots(tested: Assessed) -> Section:
    evaluation, scores = tested.evaluation, tested.scores
    figures = (
        roc_plot(scores),
        precision_recall_plot(scores),
        confusion_plot(evaluation["confusion"], scores.labels),
        calibration_plot(scores),
        class_scores_plot(scores),
        length_plot(scores, evaluation["by_length"]),
    )
    return Section("Plots", (Figures(figures),))


def _groups(tested: Assessed) -> Section:
    """Return each group with its true class and what it was called; the worst come first."""
    rows = group_rows(tested.scores)
    shown = f"The worst {_GROUPS_SHOWN:,} of {len(rows):,} groups" if len(rows) > _GROUPS_SHOWN else "The worst first"
    text = f"{shown}: by the share of samples that are called right, then by the mean score of the true class."
    header = [
        "group",
        "true class",
        "mostly called",
        "samples",
        "called right",
        "share",
        "mean score of the true class",
    ]
    cells = [[*row.cells] for row in rows[:_GROUPS_SHOWN]]
    seen = set(tested.evaluation.get("groups_seen_in_training", ()))
    if seen:
        header.append("used to make the classifier")
        for row, written in zip(rows, cells, strict=False):
            written.append("yes" if row.group in seen else "no")
    return Section("By group", (text, Table(header, cells, names=3)))


@dataclass(frozen=True, slots=True)
class GroupRow:
    """How the samples of a group were called.

    Attributes
    ----------
    truth : its class; of several, each with its number of samples.
    call : the most frequent one.
    score : mean score of the true class.
    """

    group: str
    truth: str
    call: str
    samples: int
    right: int
    score: float

    @property
    def cells(self) -> Sequence[str]:
        """A row of the table."""
        name = self.group or "(no group)"
        counts = (f"{self.samples:,}", f"{self.right:,}", decimal(self.right / self.samples))
        return name, self.truth, self.call, *counts, decimal(self.score)


def group_rows(scores: Scores) -> list[GroupRow]:
    """Summarise each group, the worst first."""
    groups, calls = scores.samples.groups, called(scores.probabilities)
    of_truth = scores.probabilities[np.arange(len(scores.y)), scores.y]
    order = np.argsort(groups.codes, kind="stable")
    codes, starts = np.unique(groups.codes[order], return_index=True)
    found = []
    for code, rows in zip(codes.tolist(), np.split(order, starts[1:]), strict=True):
        truths = np.bincount(scores.y[rows], minlength=len(scores.labels))
        present = np.flatnonzero(truths).tolist()
        counts = [scores.labels[place] + (f" {truths[place]:,}" if len(present) > 1 else "") for place in present]
        found.append(
            GroupRow(
                group=str(groups.names[code]) if code >= 0 else "",
                truth=", ".join(counts),
                call=scores.labels[int(np.bincount(calls[rows]).argmax())],
                samples=len(rows),
                right=int((calls[rows] == scores.y[rows]).sum()),
                score=float(of_truth[rows].mean()),
            )
        )
    return sorted(found, key=lambda row: (row.right / row.samples, row.score, row.group))


def _lengths(tested: Assessed) -> Section:
    labels = tested.scores.labels
    header = ("bases", "samples", "accuracy", "AUROC", *(f"recall of {label}" for label in labels))
    rows = [
        (
            f"{part['from']:,}–{part['to']:,}",
            f"{part['samples']:,}",
            decimal(part["accuracy"]),
            decimal(part["auroc"]),
            *(decimal(part["recall"][label]) for label in labels),
        )
        for part in tested.evaluation["by_length"]
    ]
    return Section("By length of the sample", (Table(header, rows),))


def _training(classifier: Classifier) -> Section:
    about = classifier.about
    split, fit = about["split"], about["fit"]
    facts = [
        ("head", classifier.head.kind),
        *_fit_facts(fit),
        ("calibration of the scores", classifier.calibration.kind),
        *[
            (part, f"{samples:,} samples of {len(split['groups'][part]):,} groups")
            for part, samples in split["samples"].items()
        ],
        ("groups kept together, as they share a sequence or are relatives", str(sum(map(len, split["joined_groups"])))),
    ]
    parts: list[str | Table | Figures] = [Table((), facts, names=2)]
    if "path" in fit:
        parts.append(Figures((strength_plot(fit["path"], fit["strength"]),)))
    elif "curves" in fit:
        parts.append(Figures((loss_plot(fit["curves"], fit["epochs"]),)))
    if about.get("simple_head"):
        parts.insert(0, simple_head_text(about["simple_head"]))
    if "dna_only_fallback" in about["test"]:
        parts.append(fallback_text(about["test"]["dna_only_fallback"]))
    return Section("How it was trained", tuple(parts))


def _under_two_labels(grouping: Mapping[str, Any]) -> int:
    return int(grouping["pairs_under_two_labels"]) + len(grouping["equal_under_two_labels"])


def _relatives(about: Mapping[str, Any]) -> Section:
    """Return which groups are alike by sequence, and what has two labels."""
    grouping, relatives = about["grouping"], about["relatives"]
    least = grouping["least"]
    if not grouping["looked_at"]:
        text = (
            f"Relatives were not looked for, as {grouping['why']}: if a genome has a strain under another name, the "
            "numbers are too good."
        )
    else:
        kept = (
            "They are kept together"
            if grouping["by"] == "sequence"
            else f"They are not kept together, as {grouping['why']}"
        )
        text = (
            f"{grouping['pairs']:,} pairs of groups share at least {least['dna_21_mers']:.0%} of the 21-mers of the "
            f"smaller one's DNA, or {least['residue_10_mers']:.0%} of the 10-mers of its proteins. {kept}; of those "
            f"named, {grouping['pairs_in_two_parts']:,} are in two parts."
        )
    parts: list[str | Table] = [text]
    if grouping["pairs_under_two_labels"]:
        parts.append(
            f"Attention: of {grouping['pairs_under_two_labels']:,} pairs the labels differ; one may be wrong. They "
            "come first."
        )
    if relatives:
        rows = [
            (one["first"], one["second"], *one["labels"], decimal(one["containment"]), decimal(one["of_residues"]))
            for one in sorted(relatives, key=_by_importance)[:_GROUPS_SHOWN]
        ]
        parts.append(Table(("group", "relative", "label", "its label", "of DNA", "of proteins"), rows, names=4))
    if grouping["equal_under_two_labels"]:
        parts.append("Attention: groups that have equal sequences under two labels; one may be wrong.")
        rows_of_equal = [
            (one["first"], one["second"], *one["labels"], one["molecule"], f"{one['sequences']:,}")
            for one in grouping["equal_under_two_labels"][:_GROUPS_SHOWN]
        ]
        parts.append(Table(("group", "other", "label", "its label", "of", "sequences"), rows_of_equal, names=5))
    return Section("Groups that are alike by sequence", tuple(parts))


def _by_importance(relative: Mapping[str, Any]) -> tuple[bool, float]:
    """Order pairs: those under two labels first, then the most alike."""
    one, other = relative["labels"]
    return one == other, -max(relative["containment"], relative["of_residues"])


def _known(known: Mapping[str, Any]) -> Section:
    """Return which sources a classifier knows by sequence, whatever they are called."""
    title = "Sources that the classifier knows by sequence"
    if not known["looked_at"]:
        return Section(title, (f"Not looked at: {known.get('why') or 'there are none'}.",))
    text = (
        f"{known['known']:,} of {known['looked_at']:,} sources share enough of their k-mers with a group that made the "
        "classifier. For these it is no test."
    )
    others = known["of_the_others"]
    if others is not None:
        numbers = (("auroc", "AUROC"), ("balanced_accuracy", "balanced accuracy"), ("mcc", "MCC"))
        said = ", ".join(f"{name} {decimal(others[key])}" for key, name in numbers)
        text += f" Without them: {others['samples']:,} samples of {others['groups']:,} groups, {said}."
    rows = [
        (one["source"], one["group"], one["label"], decimal(one["of_dna"]), decimal(one["of_residues"]))
        for one in known["named"][:_GROUPS_SHOWN]
    ]
    table = [Table(("source", "known as", "labelled", "of its DNA", "of its proteins"), rows, names=3)] if rows else []
    return Section(title, (text, *table))


def _fit_facts(fit: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "strength" in fit:
        others = ", ".join(f"{strength:.3g}" for strength in fit["strengths_of_folds"])
        return [("strength of the penalty", f"{fit['strength']:.3g}; chosen for each fold by the others: {others}")]
    if "epochs" in fit:
        best = ", ".join(map(str, fit["best_epochs"]))
        return [("epochs", f"{fit['epochs']}, the median of the best ones of the networks of the folds: {best}")]
    return [("nodes", f"{fit['nodes']:,}")]


def simple_head_text(found: Mapping[str, Any]) -> str:
    """Say whether the default head is beaten, on the same folds."""
    ours, simple = found["of_this_head"], found["head"]
    if found["is_beaten"]:
        said = f"This head beats the simple one ({simple}) on the same folds"
    else:
        said = f"This head does not beat the simple one ({simple}) on the same folds; use that one"
    numbers = f"AUROC {decimal(ours['auroc'])} and {decimal(found['auroc'])}"
    return f"{said} ({numbers}, log loss {decimal(ours['log_loss'])} and {decimal(found['log_loss'])})."


def fallback_text(found: Mapping[str, Any]) -> str:
    """Say how the head on DNA alone does, and of what that is known."""
    said = "A second head on the DNA alone, for sequences without an open frame: AUROC"
    closed = found.get("closed_chunks")
    if closed is not None:
        return f"{said} {decimal(closed['auroc'])} on {closed['chunks']:,} chunks without one."
    return f"{said} {decimal(found['auroc'])} on the samples, which have one; on chunks without one it is not known."


def _origin(classifier: Classifier, made: Provenance) -> Section:
    """Return when, how and from what the page was made."""
    schema, options = classifier.schema, classifier.about.get("options")
    versions = classifier.about.get("versions")
    seed = options.get("seed") if isinstance(options, dict) else None  # the classifier may come from anybody
    others = versions if isinstance(versions, dict) else {}
    facts = [
        *made.facts,
        *[
            (f"space {block.space}", f"{block.space_id}, {block.dim:,} columns of {block.molecule}")
            for block in schema.blocks
        ],
        ("preparation", _preparation(classifier)),
        ("classifier trained with seed", "not stated" if seed is None else str(seed)),
        ("classifier trained with", ", ".join(f"{name} {found}" for name, found in others.items()) or "not stated"),
    ]
    return Section("How this was made", (Table((), facts, names=2),))


def _preparation(classifier: Classifier) -> str:
    stated = classifier.schema.preparation
    facts = {
        "chunks of": None if stated.chunk_length is None else f"{stated.chunk_length:,} bases",
        "genetic code": stated.genetic_code,
        "frames": stated.frames,
        "as by": stated.compat,
    }
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None) or "not stated"
