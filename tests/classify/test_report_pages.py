"""Pages for people: what stands where, that nothing is clipped or hidden, what they state, that no name breaks them."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from small_genomes import QUICK

import embedstore
from embedstore.classify import plots
from embedstore.classify.blocks import Reading
from embedstore.classify.calibration import uncalibrated
from embedstore.classify.classifier import Classifier
from embedstore.classify.heads import Network, tensor_shapes
from embedstore.classify.provenance import Provenance
from embedstore.classify.report import HEADLINES, Assessed, evaluation_report, group_rows
from embedstore.classify.scores import Scores
from embedstore.classify.sections import Figure, Figures, Mark, Section, Table, page
from embedstore.classify.training import TrainReport, assess, train
from embedstore.errors import InputError
from embedstore.features import Block, Categories, Features, Samples, Schema, write_features
from embedstore.features.features import TEXT
from embedstore_cli.main import main

MADE = Provenance("2026-03-01 14:05 UTC", "embedstore train samples.tsv", (("samples", "samples.tsv"),))
HOSTILE = "</td><script>alert(1)</script>$\\frac{a$\x1b[2J\n=cmd/_"
VOID = {"meta", "br", "wbr", "path", "use", "rect"}


class Outline(HTMLParser):
    """The elements of a page in order, each with the names and classes of those around it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        named = dict(attrs)
        self.found.append((tag, named, tuple(self._open)))
        if tag not in VOID:
            self._open.append(f"{tag}.{named.get('class') or ''}")

    def handle_endtag(self, tag: str) -> None:
        """Leave an element: the innermost."""
        if tag not in VOID:
            assert self._open.pop().partition(".")[0] == tag

    def of(self, tag: str) -> list[tuple[dict[str, str | None], tuple[str, ...]]]:
        """Elements of a name, with what is around them."""
        return [(named, around) for found, named, around in self.found if found == tag]


def scored(groups: int = 34, classes: int = 5, signal: float = 2.0, name: str = "genome") -> Scores:
    """Samples of genomes, ten of each, every genome of one class; scores that know the class, but for the first."""
    labels = tuple(f"class {place} of the samples, a long name" for place in range(classes))
    genomes = np.repeat(np.arange(groups), 10)
    y = (genomes % classes).astype(np.int64)
    logits = np.random.default_rng(1).normal(size=(len(y), classes))
    logits[np.arange(len(y)), y] += np.where(genomes == 0, -9, signal)
    powers = np.exp(logits)
    samples = Samples(
        ids=np.array([f"s{number}" for number in range(len(y))], dtype=TEXT),
        sources=Categories.of([f"contig{genome}" for genome in genomes]),
        groups=Categories.of([f"{name}{genome}" for genome in genomes]),
        labels=Categories.of([labels[place] for place in y]),
        start=np.arange(len(y)) + 1,
        end=np.arange(len(y)) + 1 + np.arange(len(y)) % 500,
        strand=np.ones(len(y), np.int8),
        frame=np.ones(len(y), np.int8),
        keys={},
        origin="samples.tsv",
    )
    return Scores(samples, y, powers / powers.sum(axis=1, keepdims=True), labels)


@pytest.fixture(scope="module")
def evaluation() -> str:
    """A page of five classes and 34 groups."""
    return evaluation_page(scored())


def evaluation_page(scores: Scores, **more: object) -> str:
    """The page of an evaluation, with a classifier that the scores did not come from."""
    count = len(scores.labels)
    tensors = {name: np.ones(shape, np.float32) for name, shape in tensor_shapes("linear", 3, count).items()}
    schema = Schema((Block("aac_dpc", "0" * 64, "protein", 0, 3),), labels=scores.labels)
    classifier = Classifier(schema, Network("linear", 3, count, tensors), uncalibrated(count), {}, "folder/head")
    return evaluation_report(classifier, {**assess(scores, 1), **more}, scores, MADE)


def test_the_verdict_comes_first_and_then_the_date(evaluation: str) -> None:
    body = evaluation.partition("<body>")[2]
    assert re.findall(r"<(\w+)(?: class=(\w+))?>", body)[:4] == [
        ("h1", ""),
        ("p", "verdict"),
        ("p", "stamp"),
        ("section", ""),
    ]
    verdict = re.search("<p class=verdict>(.*?)</p>", body)
    assert verdict is not None
    assert re.fullmatch(
        r"On 340 samples of 34 groups of samples\.tsv, the classifier head has a balanced accuracy of 0\.\d{3} "
        r"\(95% interval 0\.\d{3} to 0\.\d{3}\): better than ignoring the sequence, which gives 0\.200\.",
        verdict[1],
    )


def test_every_table_is_in_a_box_that_scrolls(evaluation: str, report: TrainReport) -> None:
    trained = (report.output / "report.html").read_text(encoding="utf-8")
    for text, tables in ((evaluation, 6), (trained, 12)):
        found = Outline(text).of("table")
        assert len(found) == tables
        assert all(around[-1] == "div.scroll" for _, around in found)
        assert re.search(r"\.scroll \{[^}]*overflow-x: auto", text)
        assert "table-layout" not in text


def test_all_figures_have_one_width_and_their_keys_outside_of_the_drawing(evaluation: str) -> None:
    outline = Outline(evaluation)
    drawings = [named for named, _ in outline.of("svg")]
    assert len(drawings) == 6
    assert len({(named["width"], named["height"], named["viewbox"]) for named in drawings}) == 1
    assert "legend" not in evaluation
    keys = [around for named, around in outline.of("ul") if named.get("class") == "key"]
    assert len(keys) == 5
    assert all(around[-1] == "figcaption." for around in keys)


def test_a_drawing_of_many_pairs_is_higher_and_not_wider() -> None:
    few = plots.intervals_plot("difference", {"a − b": (0.1, 0.0, 0.2)})
    names = [f"{'a long name ' * 8}{number}\n− b" for number in range(28)]
    many = plots.intervals_plot("difference", dict.fromkeys(names, (0.1, 0.0, 0.2)))
    sizes = [re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', figure.svg) for figure in (few, many)]
    assert sizes[0] is not None
    assert sizes[1] is not None
    assert sizes[0][1] == sizes[1][1]
    assert float(sizes[1][2]) > 3 * float(sizes[0][2])


def test_the_page_is_whole_and_styled(evaluation: str) -> None:
    assert "font-variant-numeric: tabular-nums" in evaluation
    assert not re.search(r"<script|<link|<img|@import|@font-face|src=|url\((?!#)|https?://(?!www\.w3\.org|purl\.org"
                         r"|creativecommons\.org|matplotlib\.org)", evaluation)  # fmt: skip


def test_groups_have_their_true_class_and_the_worst_come_first() -> None:
    scores = scored()
    rows = group_rows(scores)
    shares = [row.right / row.samples for row in rows]
    assert shares == sorted(shares)
    assert (rows[0].group, rows[0].truth, rows[0].right) == ("genome0", scores.labels[0], 0)
    assert rows[0].call != scores.labels[0]
    assert {row.group: row.truth for row in rows} == {f"genome{n}": scores.labels[n % 5] for n in range(34)}
    text = evaluation_page(scores)
    body = text[text.index("<h2>By group") :]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", body)
    assert cells[:2] == ["genome0", scores.labels[0]]


def test_a_group_of_several_classes_says_how_many_of_each() -> None:
    scores = scored(groups=4, classes=2)
    mixed = replace(scores, samples=replace(scores.samples, groups=Categories.of(["one"] * len(scores.y))))
    [row] = group_rows(mixed)
    assert row.truth == f"{scores.labels[0]} 20, {scores.labels[1]} 20"


def test_groups_that_made_the_classifier_are_marked_and_the_verdict_says_so() -> None:
    text = evaluation_page(scored(), groups_seen_in_training=["genome0", "genome7"])
    assert "but this is no test: 2 of these groups were used to make it" in text
    assert text.count("<td>yes</td>") == 2
    assert "better than" not in text.partition("<section>")[0]


def test_more_groups_than_are_shown_are_counted() -> None:
    scores = scored(groups=210, classes=2)
    text = evaluation_page(scores)
    assert "The worst 200 of 210 groups" in text


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (scored(signal=4.0), "better than ignoring the sequence, which gives 0.200"),
        (scored(signal=0.0), "not shown to be better than ignoring the sequence, which gives 0.200"),
        (scored(signal=-9.0, classes=2), "worse than ignoring the sequence, which gives 0.500"),
        (scored(groups=8), "too few groups (5 of 5 classes have fewer than 3) to say whether that is better than"),
    ],
)
def test_the_verdict_holds_the_number_against_the_base_rate(scores: Scores, said: str) -> None:
    assert Assessed(assess(scores, 1), scores).judgement.startswith(said)


def test_base_rates_are_those_of_scores_that_ignore_the_sequence() -> None:
    scores = scored(groups=9, classes=2)
    base = Assessed(assess(scores, 1), scores).base_rates()
    assert base["accuracy"] == pytest.approx(5 / 9)
    assert (base["balanced_accuracy"], base["auroc"], base["mcc"]) == (0.5, 0.5, 0.0)
    assert base["brier"] == pytest.approx(5 / 9 * 4 / 9)
    assert all(key in base for key, _ in HEADLINES)


def test_no_name_breaks_a_page() -> None:
    figure = Figure("<svg></svg>", HOSTILE, (Mark(HOSTILE, "#000000"),))
    parts = (HOSTILE, Table((HOSTILE,), [(HOSTILE,), ((HOSTILE, HOSTILE),)]), Figures((figure,)))
    text = page(HOSTILE, HOSTILE, HOSTILE, [Section(HOSTILE, parts)])
    Outline(text)
    assert "<script" not in text
    assert "\x1b" not in text
    assert text.count("\\x1b[2J\\x0a=cmd") == 12


def test_no_group_or_label_breaks_a_report() -> None:
    scores = scored(groups=6, classes=2, name=HOSTILE)
    text = evaluation_page(replace(scores, labels=(HOSTILE, "_" + "🧬" * 300)))
    Outline(text)
    assert "<script" not in text
    assert "\x1b" not in text


def test_long_names_can_be_broken_where_they_have_joints() -> None:
    text = page("", "", "", [Section("", (Table(("name",), [("Vibrio_phage_1.107.C_10N.286.52.E10_MG592481.1",)]),))])
    assert "Vibrio_<wbr>phage_<wbr>1.<wbr>107." in text
    assert '<td class="name">aac_dpc</td>' in page("", "", "", [Section("", (Table(("name",), [("aac_dpc",)]),))])


def test_a_page_states_date_command_inputs_seed_and_version(report: TrainReport) -> None:
    text = (report.output / "report.html").read_text(encoding="utf-8")
    facts = dict(re.findall(r"<tr><td[^>]*>(.*?)</td><td[^>]*>(.*?)</td></tr>", text.replace("<wbr>", "")))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", facts["date"])
    assert facts["command"] == "none: called from Python"
    assert facts["samples"].endswith("samples.tsv")
    assert facts["store"].endswith("store")
    assert facts["seed"] == "1"
    assert facts["embedstore"] == embedstore.__version__
    block = report.classifier.schema.blocks[0]
    assert facts["space tnf"] == f"{block.space_id}, 136 columns of dna"


def test_versions_of_a_classifier_name_embedstore(report: TrainReport) -> None:
    assert report.classifier.about["versions"]["embedstore"] == embedstore.__version__


def test_the_command_line_states_itself_and_hides_credentials(
    tmp_path: Path, features: Features, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    write_features(features, tmp_path / "the features.npz")
    arguments = ["train", str(tmp_path / "the features.npz"), "--head", "linear", "--folds", "2"]
    arguments += ["-o", str(tmp_path / "c"), "-s", "https://user:hidden@example.org/store?token=hidden"]
    assert main(arguments) == 0
    text = (tmp_path / "c" / "report.html").read_text(encoding="utf-8").replace("<wbr>", "")
    assert f"embedstore train &#x27;{tmp_path}/the features.npz&#x27; --head linear --folds 2" in text
    assert "2001-09-09 01:46 UTC" in text
    assert "hidden" not in text


def test_the_same_run_at_the_same_date_gives_the_same_page(tmp_path: Path, features: Features) -> None:
    pages = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        train(features, tmp_path / name / "c", options=QUICK, reading=Reading(), made=MADE)
        pages.append((tmp_path / name / "c" / "report.html").read_bytes())
    assert pages[0] == pages[1]
    assert MADE.date.encode() in pages[0]


def test_the_date_can_be_given_and_a_wrong_one_is_refused() -> None:
    assert Provenance.now("x", {"SOURCE_DATE_EPOCH": "0"}) == Provenance("1970-01-01 00:00 UTC", "x")
    with pytest.raises(InputError, match="expected seconds since 1970, found 'yesterday'"):
        Provenance.now(environment={"SOURCE_DATE_EPOCH": "yesterday"})


def test_the_training_page_says_what_was_trained_on_what(report: TrainReport) -> None:
    text = (report.output / "report.html").read_text(encoding="utf-8")
    verdict = text.partition("<p class=verdict>")[2].partition("</p>")[0]
    assert verdict.startswith("The linear head on tnf + aac_dpc, trained on ")
    assert "that it has not seen: " in verdict


def test_a_training_page_is_its_sections(report: TrainReport) -> None:
    text = (report.output / "report.html").read_text(encoding="utf-8")
    assert re.findall("<h2>(.*?)</h2>", text) == [
        "Looking for virus",
        "Contigs by length: virus",
        "What is not seen",
        "Metrics",
        "By class",
        "Plots",
        "By group",
        "By length of the sample",
        "How it was trained",
        "Groups that are alike by sequence",
        "How this was made",
    ]
