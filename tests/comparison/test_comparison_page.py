"""The page of a comparison: its verdict, that nothing is clipped, what it states; on numbers that are made up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from embedstore.classify.provenance import Provenance
from embedstore.classify.report import HEADLINES
from embedstore.comparison.page import comparison_report, difference_text, verdict

MADE = Provenance("2026-03-01 14:05 UTC", "embedstore compare samples.tsv -m old -m new", (("samples", "samples.tsv"),))
Interval = tuple[float | None, float | None]


def document(sets: Mapping[str, float], low: float | None, high: float | None) -> dict[str, Any]:
    """Sets with a balanced accuracy, each pair with the same interval, signed as the later is better or not."""
    names = list(sets)

    def metrics(value: float, interval: Interval) -> dict[str, Any]:
        return {path: {"value": value, "interval": list(interval)} for path, _ in HEADLINES}

    pairs = [(later, earlier) for place, earlier in enumerate(names) for later in names[place + 1 :]]
    signed: Interval = (None, None) if low is None or high is None else (low, high)
    turned: Interval = (None, None) if low is None or high is None else (-high, -low)
    return {
        "samples": 100,
        "samples_of": "samples.tsv",
        "left_out": {"samples": 0, "missing_by_space": {}},
        "labels": ["host", "phage", "virus", "none"],
        "options": {"head": "linear"},
        "intervals": {"level": 0.95, "replicates": 300, "of": "groups"},
        "splits": [{"seed": 1, "samples": {"fold 1": 50, "fold 2": 50}, "groups": {"fold 1": ["a"], "fold 2": ["b"]}}],
        "sets": [
            {
                "name": name,
                "dim": 4,
                "seconds_per_residue": None,
                "hours_for_a_million_contigs": None,
                "metrics": metrics(value, (value - 0.1, value + 0.1)),
            }
            for name, value in sets.items()
        ],
        "differences": [
            {
                "of": later,
                "minus": earlier,
                "metrics": metrics(sets[later] - sets[earlier], signed if sets[later] > sets[earlier] else turned),
            }
            for later, earlier in pairs
        ],
        "verdicts": {
            "metric": "AUROC",
            "margin": 0.01,
            "reference": names[0],
            "sets": [
                {
                    "set": name,
                    "verdict": "undecided",
                    "difference": 0.1,
                    "interval": [-0.1, 0.3],
                    "groups": 2,
                    "more_groups": 40,
                    "sentence": f"{name} is undecided.",
                }
                for name in names[1:]
            ],
        },
        "calls": [
            {
                "of": names[1],
                "reference": names[0],
                "fragments": 40,
                "by_length": [{"length_bases": 1000, "fragments": 40, "changed": 4, "share": 0.1}],
                "by_direction": [{"from": "host", "to": "none", "fragments": 4, "right_before": 1, "right_after": 3}],
                "between_seeds_of_reference": 0.05,
            }
        ],
        "spaces": [],
        "similarity": {"pairs": []},
    }


@pytest.mark.parametrize(
    ("sets", "interval", "said"),
    [
        (
            {"old": 0.5, "new": 0.7},
            (0.1, 0.3),
            "new has the highest balanced accuracy, 0.700 (95% interval 0.600 to 0.800; ignoring the sequence gives "
            "0.250), which is more than old, the second (difference +0.200, +0.100 to +0.300).",
        ),
        ({"old": 0.7, "new": 0.5}, (0.1, 0.3), "more than new, the second (difference +0.200, +0.100 to +0.300)."),
        (
            {"old": 0.5, "mid": 0.6, "new": 0.7},
            (-0.1, 0.3),
            "but not shown to be better than mid, the second (difference +0.100, −0.100 to +0.300).",
        ),
        ({"old": 0.5, "new": 0.7}, (None, None), "whether that is more than old, the second, cannot be said."),
    ],
)
def test_the_verdict_names_the_best_set_and_whether_it_is_told_apart(
    sets: dict[str, float], interval: Interval, said: str
) -> None:
    text = verdict(document(sets, *interval))
    assert text.startswith(f"Of {len(sets)} sets of features with a linear head on 100 samples of samples.tsv, ")
    assert text.endswith(said)


def test_sets_without_a_number_have_no_verdict() -> None:
    found = document({"old": 0.5, "new": 0.7}, 0.1, 0.3)
    for some in found["sets"]:
        some["metrics"]["balanced_accuracy"] = {"value": None, "interval": [None, None]}
    assert verdict(found) == "No balanced accuracy can be computed on 100 samples of samples.tsv."


def test_the_page_has_the_verdict_first_and_boxes_around_tables() -> None:
    names = [f"a_model_with_a_long_name_{number} + another/of=them$_{number}\n" for number in range(8)]
    text = comparison_report(document({name: 0.1 * place for place, name in enumerate(names)}, 0.1, 0.3), MADE)
    body = text.partition("<body>")[2]
    assert re.findall(r"<(?:h1|p class=\w+|section|h2)>", body)[:5] == [
        "<h1>", "<p class=verdict>", "<p class=stamp>", "<section>", "<h2>",
    ]  # fmt: skip
    assert text.count("<table") == text.count("<div class=scroll tabindex=0><table") == 8
    assert len(set(re.findall(r'<svg [^>]*width="([\d.]+)pt"', text))) == 1
    assert re.findall("<h2>(.*?)</h2>", text) == [
        "Verdicts", "Each set", "Differences", "Contigs whose call changes", "Cost", "Splits", "How this was made",
    ]  # fmt: skip
    assert "another/of=them$_1" in body.partition("<p class=stamp>")[0]
    assert "embedstore compare samples.tsv -m old -m new" in text
    assert "2026-03-01 14:05 UTC" in text
    assert "336 intervals stand here, uncorrected" in text


def test_a_difference_in_a_table_of_text_has_plain_signs() -> None:
    assert difference_text({"value": -0.25, "interval": [-0.5, -0.125]}) == "-0.250* (-0.500 to -0.125)"
    assert difference_text({"value": 0.25, "interval": [-0.5, 0.5]}) == "+0.250 (-0.500 to +0.500)"
    assert difference_text({"value": None, "interval": [None, None]}) == "–"


def test_the_sentence_on_top_is_escaped() -> None:
    found = document({"old": 0.5, "<b>new": 0.7}, 0.1, 0.3)
    text = comparison_report(found, MADE)
    assert "<p class=verdict>&lt;b&gt;new is undecided.</p>" in text
    assert "<b>" not in text
    assert "40 beside 2" in text
