"""The page about a comparison, with the numbers of its JSON: which sections it has, and what its verdict says.

On top stand the verdicts, a sentence for each set but the reference; sets of features and trained classifiers have the
same sections, as far as they apply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from embedstore.classify.plots import intervals_plot
from embedstore.classify.provenance import Provenance
from embedstore.classify.report import HEADLINE, HEADLINES
from embedstore.classify.sections import Cell, Figure, Figures, Section, Table, decimal, page, with_interval
from embedstore.errors import plain

DRAWN = (("auroc", "AUROC"), ("balanced_accuracy", "balanced accuracy"), ("mcc", "MCC"))
_NO_STAR = "\u2007"
"""As wide as a digit, so that numbers with a star and without stand below each other."""
_TITLE_CHARACTERS = 80
_LINE_CHARACTERS = 50
_UNITS = {"dna": "base", "protein": "residue"}


def comparison_report(found: Mapping[str, Any], made: Provenance) -> str:
    """Describe a comparison.

    Parameters
    ----------
    found : the document of `comparing.compare`.
    made : when, by which command and from what.
    """
    sections = [
        _verdicts(found["verdicts"]),
        _sets(found),
        _differences(found),
        *_calls(found["calls"]),
        _costs(found),
        *_similarity(found["similarity"]),
        _splits(found["splits"]),
        _origin(found, made),
    ]
    seeds = ", ".join(str(split["seed"]) for split in found["splits"])
    title = _title([some["name"] for some in found["sets"]], "sets of features")
    return page(title, decision(found), f"{made.stamp}, {_noun(len(found['splits']), 'seed')} {seeds}", sections)


def classifiers_report(found: Mapping[str, Any], made: Provenance) -> str:
    """Describe a comparison of classifiers.

    Parameters
    ----------
    found : the document of `classifiers.compare_classifiers`.
    made : when, by which command and from what.
    """
    classifiers = found["classifiers"]
    facts = [
        *made.facts,
        *[(f"classifier {one['name']}", f"{one['head']}, {', '.join(one['spaces'])}") for one in classifiers],
        ("classes", ", ".join(found["labels"])),
    ]
    intervals = found["intervals"]
    grey = f"In grey: {intervals['level']:.0%} intervals, {intervals['of']}. ↓: less is better."
    how = f"{lead_of_classifiers(found)} {grey}"
    sections = [
        _verdicts(found["verdicts"]),
        Section("Each classifier", (how, _metrics(classifiers))),
        _differences(found),
        *_calls(found["calls"]),
        Section("How this was made", (Table((), facts, names=2),)),
    ]
    return page(_title([one["name"] for one in classifiers], "classifiers"), decision(found), made.stamp, sections)


def _title(names: Sequence[str], of: str) -> str:
    title = "Comparison of " + ", ".join(names)
    return title if len(title) <= _TITLE_CHARACTERS else f"Comparison of {len(names)} {of}"


def decision(found: Mapping[str, Any]) -> str:
    """Say what was decided, a sentence for each set but the reference."""
    return " ".join(one["sentence"] for one in found["verdicts"]["sets"])


def verdict(found: Mapping[str, Any]) -> str:
    """Say in a sentence which set is the best, and whether it is shown to be better than the second."""
    key, name = HEADLINE
    defined = [some for some in found["sets"] if some["metrics"][key]["value"] is not None]
    on = f"on {found['samples']:,} samples of {found['samples_of']}"
    if len(defined) < 2:
        return f"No {name} can be computed {on}."
    best, second = sorted(defined, key=lambda some: -some["metrics"][key]["value"])[:2]
    low, high = best["metrics"][key]["interval"]
    level, head = f"{found['intervals']['level']:.0%}", found["options"]["head"]
    base = 1 / len(found["labels"])
    interval = "" if low is None else f"{level} interval {decimal(low)} to {decimal(high)}; "
    difference, low, high = _between(found["differences"], best["name"], second["name"])
    if low is None or high is None:
        said = f"whether that is more than {second['name']}, the second, cannot be said"
    else:
        told = "which is more than" if low > 0 else "but not shown to be better than"
        of_it = f"{_signed(low)} to {_signed(high)}"
        said = f"{told} {second['name']}, the second (difference {_signed(difference)}, {of_it})"
    return (
        f"Of {len(found['sets'])} sets of features with a {head} head {on}, {best['name']} has the highest {name}, "
        f"{decimal(best['metrics'][key]['value'])} ({interval}ignoring the sequence gives {decimal(base)}), {said}."
    )


def lead_of_classifiers(found: Mapping[str, Any]) -> str:
    """Say on which samples classifiers were compared, and how many were left out."""
    seen = found["left_out"]["samples"]
    left_out = f" {seen:,} others were left out, as their groups made one of the classifiers." if seen else ""
    return f"On {found['samples']:,} samples of {found['samples_of']}.{left_out}"


def lead(found: Mapping[str, Any]) -> str:
    """Say on which samples sets were compared, and how many were left out."""
    left_out = found["left_out"]
    text = f"On {found['samples']:,} samples of {found['samples_of']}."
    if not left_out["samples"]:
        return text + " Every space has all of them."
    counts = ", ".join(f"{name} {count:,}" for name, count in left_out["missing_by_space"].items() if count)
    return (
        f"{text} {left_out['samples']:,} others were left out of all sets, as they are missing from spaces: {counts}."
    )


def pair_name(difference: Mapping[str, Any]) -> str:
    """Name the two sets of a difference."""
    return f"{difference['of']} − {difference['minus']}"


def difference_text(metric: Mapping[str, Any]) -> str:
    """Write a difference with its interval in brackets, and a star if 0 is not in that."""
    cell = _difference_cell(metric)
    return cell if isinstance(cell, str) else f"{cell[0].rstrip(_NO_STAR)} ({cell[1]})".replace("−", "-")


def _difference_cell(metric: Mapping[str, Any]) -> Cell:
    low, high = metric["interval"]
    if metric["value"] is None or low is None:
        return "–"
    star = "*" if low > 0 or high < 0 else _NO_STAR
    return f"{_signed(metric['value'])}{star}", f"{_signed(low)} to {_signed(high)}"


def _signed(number: float | None) -> str:
    return "–" if number is None else f"{number:+.3f}".replace("-", "−")


def _between(
    differences: Sequence[Mapping[str, Any]], name: str, other: str
) -> tuple[float | None, float | None, float | None]:
    """Difference of the headline of two sets, and its interval, whichever of them comes first."""
    for difference in differences:
        metric = difference["metrics"][HEADLINE[0]]
        value, (low, high) = metric["value"], metric["interval"]
        if (difference["of"], difference["minus"]) == (name, other):
            return value, low, high
        if (difference["minus"], difference["of"]) == (name, other) and None not in (value, low, high):
            return -value, -high, -low
    return None, None, None


def _sets(found: Mapping[str, Any]) -> Section:
    sets, intervals, seeds = found["sets"], found["intervals"], len(found["splits"])
    tested = [_tested_groups(split) for split in found["splits"]]
    groups = f"{min(tested):,}" if min(tested) == max(tested) else f"{min(tested):,} to {max(tested):,}"
    groups += f" {_noun(max(tested), 'group')}"
    how = (
        f"{lead(found)} Means over {seeds} {_noun(seeds, 'seed')}, each with its own split, which is the same for "
        f"every set, and {groups} to be tested on. In grey: {intervals['level']:.0%} intervals, "
        f"{intervals['of']}. ↓: less is better."
    )
    return Section("Each set", (verdict(found), how, _metrics(sets)))


def _metrics(contenders: Sequence[Mapping[str, Any]]) -> Table:
    def row(path: str) -> list[Cell]:
        metrics = [one["metrics"][path] for one in contenders]
        return [with_interval(metric["value"], metric["interval"]) for metric in metrics]

    header = ("metric", *(one["name"] for one in contenders))
    return Table(header, [(name, *row(path)) for path, name in HEADLINES])


def _verdicts(found: Mapping[str, Any]) -> Section:
    margin, reference, metric = found["margin"], found["reference"], found["metric"]
    text = (
        f"Each against the reference, {reference}, in {metric}, with a margin of {margin:g}. By the interval of the "
        f"difference: better, if all of it is above 0; not inferior, if all of it is above −{margin:g}; inferior, if "
        f"all of it is below −{margin:g}; else undecided. How many more groups would decide is an estimate: so many "
        "that a verdict comes with a probability of 80 % if the difference is what was found here."
    )
    rows = [
        (one["set"], one["verdict"], _difference_cell(one | {"value": one["difference"]}), _more(one))
        for one in found["sets"]
    ]
    header = ("set", "verdict", f"difference in {metric}", "groups needed beside those here")
    return Section("Verdicts", (text, Table(header, rows, names=2)))


def _more(one: Mapping[str, Any]) -> str:
    if one["verdict"] != "undecided":
        return "none"
    return "cannot be estimated" if one["more_groups"] is None else f"{one['more_groups']:,} beside {one['groups']:,}"


def _calls(calls: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Contigs whose call changes, by length, and by direction; none where no contig could be cut."""
    known = [one for one in calls if one["fragments"]]
    if not known:
        return []
    between = known[0]["between_seeds_of_reference"]
    noise = "" if between is None else f" From one seed to the next, {between:.1%} of the reference's own calls change."
    text = (
        f"Fragments of the genomes stand for contigs, called by heads that have not seen the genome; reference: "
        f"{known[0]['reference']}. Means over the seeds.{noise}"
    )
    by_length = [
        (one["of"], f"{part['length_bases']:,}", f"{part['fragments']:,.0f}", _changed(part["changed"], part["share"]))
        for one in known
        for part in one["by_length"]
    ]
    by_direction = [
        (one["of"], part["from"], part["to"], *(f"{part[key]:,.1f}" for key in ("fragments", *_RIGHT)))
        for one in known
        for part in one["by_direction"]
    ]
    lengths = Table(("set", "bases", "contigs", "calls that change"), by_length)
    directions = Table(("set", "from", "to", "contigs", "of these right before", "right now"), by_direction, names=3)
    return [Section("Contigs whose call changes", (text, lengths, directions))]


_RIGHT = ("right_before", "right_after")


def _changed(count: float, share: float | None) -> Cell:
    return f"{count:,.1f}", "" if share is None else f"{share:.1%}"


def _tested_groups(split: Mapping[str, Any]) -> int:
    """Count the groups of the test part; without one, all are tested on, out of fold."""
    groups = split["groups"]
    return len(groups["test"]) if "test" in groups else sum(map(len, groups.values()))


def _differences(found: Mapping[str, Any]) -> Section:
    differences = found["differences"]
    text = (
        "Of each pair, how much more the first has than the second, on the same groups in every draw. *: 0 is not in "
        f"the interval. {len(differences) * len(HEADLINES):,} intervals stand here, uncorrected: decide beforehand "
        "which one counts, since some stars are there by chance."
    )
    header = ("metric", *map(pair_name, differences))
    rows = [(name, *(_difference_cell(some["metrics"][path]) for some in differences)) for path, name in HEADLINES]
    figures = tuple(_drawn(differences, path, name) for path, name in DRAWN)
    return Section("Differences", (text, Figures(figures), Table(header, rows)))


def _drawn(differences: Sequence[Mapping[str, Any]], path: str, name: str) -> Figure:
    rows = {}
    for difference in differences:
        metric = difference["metrics"][path]
        if metric["value"] is not None and metric["interval"][0] is not None:
            pair = pair_name(difference)
            if len(pair) > _LINE_CHARACTERS:
                pair = f"{plain(difference['of'])}\n− {plain(difference['minus'])}"
            rows[pair] = (metric["value"], *metric["interval"])
    return intervals_plot(f"difference in {name}", rows)


def _costs(found: Mapping[str, Any]) -> Section:
    text = (
        "Seconds inside the model, as recorded when the vectors were computed, on whichever machine. A residue of a "
        "set counts with the three bases that it is translated from. Hours: for a million contigs of 1,000 bases, each "
        "base in one chunk, each chunk with one open frame, on that machine."
    )
    sets = [
        (some["name"], "residue", f"{some['dim']:,}", _million(some["seconds_per_residue"]), _hours(some))
        for some in found["sets"]
    ]
    spaces = [
        (f"space {one['name']}", _UNITS[one["molecule"]], f"{one['dim']:,}", _million(one["seconds_per_residue"]), "")
        for one in found["spaces"]
    ]
    rows = [*sets, *spaces]
    header = ("set or space", "unit", "columns", "seconds per million units", "hours per million contigs")
    return Section("Cost", (text, Table(header, rows, names=2)))


def _million(seconds: float | None) -> str:
    return "not recorded" if seconds is None else f"{seconds * 1e6:,.3g}"


def _hours(some: Mapping[str, Any]) -> str:
    hours = some["hours_for_a_million_contigs"]
    return "not recorded" if hours is None else f"{hours:,.3g}"


def _similarity(similarity: Mapping[str, Any]) -> list[Section]:
    def canaries(cosines: Sequence[float] | None) -> str:
        return "not comparable" if cosines is None else ", ".join(map(decimal, cosines))

    if not similarity["pairs"]:
        return []
    rows = [
        (
            " and ".join(pair["spaces"]),
            decimal(pair["linear_cka"]),
            decimal(pair["neighbour_overlap"]),
            canaries(pair["canary_cosines"]),
        )
        for pair in similarity["pairs"]
    ]
    text = (
        f"On {similarity['samples']:,} of the samples. Linear CKA, unbiased: 1 if one space is the other turned and "
        f"scaled, about 0 if they have nothing in common. Neighbours: which share of the {similarity['neighbours']} "
        f"nearest samples by cosine is the same, by chance {decimal(similarity['overlap_by_chance'])}. Canaries: "
        "cosines of the fixed sequences that both spaces keep; not comparable if dimensions or sequences differ."
    )
    return [
        Section("Similarity of the spaces", (text, Table(("spaces", "linear CKA", "neighbours", "canaries"), rows)))
    ]


def _splits(splits: Sequence[Mapping[str, Any]]) -> Section:
    names = list(splits[0]["samples"])

    def sizes(split: Mapping[str, Any]) -> Sequence[str]:
        return [f"{split['samples'][part]:,} of {len(split['groups'][part]):,} groups" for part in names]

    rows = [(str(split["seed"]), *sizes(split)) for split in splits]
    return Section("Splits", ("Samples and groups of each part.", Table(("seed", *names), rows)))


def _origin(found: Mapping[str, Any], made: Provenance) -> Section:
    """Return when, how and from what the page was made."""
    facts = [
        *made.facts,
        *[
            (f"space {space['name']}", f"{space['id']}, {space['dim']:,} columns of {space['molecule']}")
            for space in found["spaces"]
        ],
        ("head", found["options"]["head"]),
        ("classes", ", ".join(found["labels"])),
    ]
    return Section("How this was made", (Table((), facts, names=2),))


def _noun(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"
