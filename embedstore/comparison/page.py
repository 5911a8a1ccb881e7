"""The page about a comparison, with the numbers of its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from embedstore.classify.report import HEADLINES, decimal, figures, intervals_plot, page, table

DRAWN = (("auroc", "AUROC"), ("balanced_accuracy", "balanced accuracy"), ("mcc", "MCC"))
_UNITS = {"dna": "base", "protein": "residue"}


def comparison_report(found: Mapping[str, Any]) -> str:
    """Describe a comparison."""
    intervals, seeds = found["intervals"], [split["seed"] for split in found["splits"]]
    how = (
        f"Means over {len(seeds)} seeds, each with its own split, which is the same for every set. In grey: "
        f"{intervals['level']:.0%} intervals, {intervals['replicates']} bootstrap samples of {intervals['of']}."
    )
    parts = [
        "<h2>Differences</h2>",
        f"<p class=about>Of each pair, how much more the first has than the second. * : 0 is not in the interval. Of "
        f"Brier score and ECE less is better. {how}</p>",
        figures([(f"Difference in {name}", _drawn(found["differences"], path, name)) for path, name in DRAWN]),
        table(*_differences(found["differences"])),
        "<h2>Each set</h2>",
        table(*_sets(found["sets"])),
        "<h2>Cost</h2>",
        "<p class=about>Seconds inside the model, as recorded when the vectors were computed, on whichever machine. A "
        "residue of a set counts with the three bases that it is translated from.</p>",
        table(("set", "columns", "unit", "seconds per million residues or bases"), _costs(found)),
        *_similarity(found["similarity"]),
        "<h2>Splits</h2>",
        table(*_splits(found["splits"])),
    ]
    return page("Comparison of " + ", ".join(some["name"] for some in found["sets"]), lead(found), parts)


def lead(found: Mapping[str, Any]) -> str:
    """Say on which samples sets were compared, and how many were left out."""
    left_out = found["left_out"]
    text = f"On {found['samples']:,} samples of {found['samples_of']}."
    if not left_out["samples"]:
        return text + " Every space has all of them."
    counts = ", ".join(f"{name} {count:,}" for name, count in left_out["lacked_by_space"].items() if count)
    return (
        f"{text} {left_out['samples']:,} others were left out of all sets, as they are missing from spaces: {counts}."
    )


def pair_name(difference: Mapping[str, Any]) -> str:
    """Name the two sets of a difference."""
    return f"{difference['of']} − {difference['minus']}"


def difference_text(metric: Mapping[str, Any], brackets: str = "<>") -> str:
    """Write a difference with its interval in brackets, and a star if 0 is not in that."""
    low, high = metric["interval"]
    if metric["value"] is None or low is None:
        return "–"
    star = "*" if low > 0 or high < 0 else ""
    return f"{metric['value']:+.3f}{star} {brackets[0]}{low:+.3f} to {high:+.3f}{brackets[1]}"


def _drawn(differences: Sequence[Mapping[str, Any]], path: str, name: str) -> str:
    rows = {}
    for difference in differences:
        metric = difference["metrics"][path]
        if metric["value"] is not None and metric["interval"][0] is not None:
            rows[pair_name(difference)] = (metric["value"], *metric["interval"])
    return intervals_plot(f"difference in {name}", rows)


def _differences(differences: Sequence[Mapping[str, Any]]) -> tuple[Sequence[str], list[Sequence[str]]]:
    header = ("metric", *map(pair_name, differences))
    return header, [
        (name, *(difference_text(some["metrics"][path]) for some in differences)) for path, name in HEADLINES
    ]


def _sets(sets: Sequence[Mapping[str, Any]]) -> tuple[Sequence[str], list[Sequence[str]]]:
    def text(metric: Mapping[str, Any]) -> str:
        low, high = metric["interval"]
        return f"{decimal(metric['value'])} <{decimal(low)}–{decimal(high)}>"

    header = ("metric", *(some["name"] for some in sets))
    return header, [(name, *(text(some["metrics"][path]) for some in sets)) for path, name in HEADLINES]


def _costs(found: Mapping[str, Any]) -> list[Sequence[str]]:
    sets = [(some["name"], some["dim"], "residue", some["seconds_per_residue"]) for some in found["sets"]]
    spaces = [
        (f"space {space['name']}", space["dim"], _UNITS[space["molecule"]], space["seconds_per_letter"])
        for space in found["spaces"]
    ]
    return [(name, f"{dim:,}", unit, _million(seconds)) for name, dim, unit, seconds in (*sets, *spaces)]


def _million(seconds: float | None) -> str:
    return "not recorded" if seconds is None else f"{seconds * 1e6:,.3g}"


def _similarity(similarity: Mapping[str, Any]) -> list[str]:
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
    return [
        "<h2>Similarity of the spaces</h2>",
        f"<p class=about>On {similarity['samples']:,} of the samples. Linear CKA, unbiased: 1 if one space is the "
        f"other turned and scaled, about 0 if they have nothing in common. Neighbours: which share of the "
        f"{similarity['neighbours']} nearest samples by cosine is the same, by chance "
        f"{decimal(similarity['overlap_by_chance'])}. Canaries: cosines of the fixed sequences that both spaces keep; "
        "not comparable if the dimensions or the sequences differ.</p>",
        table(("spaces", "linear CKA", "neighbours", "canaries"), rows),
    ]


def _splits(splits: Sequence[Mapping[str, Any]]) -> tuple[Sequence[str], list[Sequence[str]]]:
    names = list(splits[0]["samples"])

    def sizes(split: Mapping[str, Any]) -> Sequence[str]:
        return [f"{split['samples'][part]:,} of {len(split['groups'][part]):,} groups" for part in names]

    return ("seed", *names), [(str(split["seed"]), *sizes(split)) for split in splits]
