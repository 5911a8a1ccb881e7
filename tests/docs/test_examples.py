"""Every example of README and the pages is run as a reader would: block after block, in one folder a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest
from example_blocks import examples, pages
from example_reader import Reader

BEFORE: Mapping[str, str] = {
    "README.md": """
        mkdir examples
        cp proteins.faa examples/proteins.faa
    """,
    "docs/guide/classify.md": "embedstore prepare virus=genomes/virus host=genomes/host -o other",
    "docs/guide/compare.md": "embedstore prepare virus=genomes/virus host=genomes/host -o others",
    "docs/guide/dnabert_s.md": "mv dnabert_checkpoint my-dnabert",
    "docs/guide/features.md": """
        embedstore prepare virus=genomes/virus host=genomes/host -o samples
        embedstore merge samples/samples.tsv --models dnabert_s,fastesm2_650 --fill -o first.npz
    """,
    "docs/guide/models.md": "mv esm_checkpoint DIR",
    "docs/guide/places.md": "embedstore fill proteins.faa --model aac_dpc",
    "docs/guide/readers.md": "embedstore fill proteins.faa --model aac_dpc",
    "docs/guide/sharing.md": """
        embedstore init /mnt/lab/store
        embedstore fill proteins.faa --model fastesm2_650 --store /mnt/lab/store
        embedstore init /srv/www/embeddings
        embedstore fill proteins.faa --model fastesm2_650 --store /srv/www/embeddings
        embedstore publish-index --store /srv/www/embeddings
    """,
    "docs/guide/trust.md": "mkdir ~/.ssh ~/lab",
    "docs/guide/upkeep.md": """
        embedstore init lab-store
        embedstore fill proteins.faa --model fastesm2_650
        embedstore fill proteins.faa --model esm2_t6_8m
        embedstore fill proteins.faa --model aac_dpc
        embedstore fill genomes --model tnf
        cp new.faa withdrawn.faa
    """,
}
"""What a page takes for granted that a reader has done before, as lines of a shell."""


@pytest.mark.parametrize("page", pages())
def test_examples_of_a_page_run(page: str, reader: Reader) -> None:
    for line in BEFORE.get(page, "").strip().splitlines():
        reader.shell(line.strip())
    for example in examples(page):
        if not example.reason:
            reader.run(example)


def test_examples_that_are_not_run_say_why() -> None:
    found = [example for page in pages() for example in examples(page)]
    skipped = Counter(example.reason for example in found if example.reason)
    print(f"{len(found) - skipped.total()} examples are run, {skipped.total()} are not:", *skipped.items(), sep="\n")
    assert all(len(reason.split()) > 1 for reason in skipped)
    assert skipped.total() < len(found) / 4
