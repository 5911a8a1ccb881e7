"""The examples in the help of each command, which the command reference shows too, are run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from example_reader import Reader

from embedstore_cli.command import EXAMPLES

_SAMPLES = "embedstore prepare virus=genomes/virus host=genomes/host -o samples"
_CLASSIFIER = "embedstore train samples/samples.tsv -m {models} --fill --folds 2 --test 0.3 -o {name}"
_WEIGHTS = "mkdir ~/weights; cp -r esm_checkpoint ~/weights/esm2"
_FILLED = "embedstore fill proteins.faa -m aac_dpc; embedstore fill contigs.fna -m tnf"
_SHARED = "embedstore fill proteins.faa -m aac_dpc --store {place}"

BEFORE: Mapping[str, tuple[str, ...]] = {
    "get": ("embedstore fill proteins.faa -m esm2_t33_650m",),
    "prepare": ("cp -r genomes/virus viruses", "cp -r genomes/host bacteria"),
    "merge": (_SAMPLES, _WEIGHTS),
    "train": (_SAMPLES, "embedstore merge samples/samples.tsv -m tnf --fill -o features.zarr"),
    "evaluate": (
        _SAMPLES,
        "embedstore merge samples/samples.tsv -m tnf --fill -o features.zarr",
        _CLASSIFIER.format(models="tnf", name="classifier"),
    ),
    "predict": (
        _SAMPLES,
        _WEIGHTS,
        "mkdir contigs; cp contigs.fna contigs/contigs.fna",
        "embedstore merge samples/samples.tsv -m esm2_t33_650m --weights ~/weights/esm2 --fill -o features.zarr",
        "embedstore train features.zarr --folds 2 -o classifier",
    ),
    "compare": (
        _SAMPLES,
        "cp -r samples others",
        "embedstore fill samples/dna.fna -m tnf --name old",
        "embedstore fill samples/protein.faa -m aac_dpc --name new",
        _CLASSIFIER.format(models="tnf", name="old_classifier"),
        _CLASSIFIER.format(models="aac_dpc", name="new_classifier"),
    ),
    "ls": (_FILLED, _SHARED.format(place="s3://bucket/embeddings")),
    "info": (_FILLED,),
    "push": (_FILLED, "embedstore init /shared/embeddings"),
    "pull": (
        _SHARED.format(place="/shared/embeddings"),
        _SHARED.format(place="/srv/www/embeddings"),
        "embedstore publish-index -s /srv/www/embeddings",
    ),
    "sync": (_FILLED, _SHARED.format(place="/shared/embeddings"), _SHARED.format(place="s3://bucket/embeddings")),
    "publish-index": (_SHARED.format(place="/var/www/embeddings"),),
    "verify": (_FILLED,),
    "audit": ("embedstore fill proteins.faa -m esm2_t33_650m",),
    "selftest": (_WEIGHTS,),
    "compact": (_FILLED,),
    "gc": (_FILLED,),
    "pin": (_FILLED,),
    "embedstore pin paper-2025 --remove": (_FILLED, "embedstore pin paper-2025"),
    "completion": ("mkdir -p ~/.config/fish/completions",),
    "rm": (_FILLED, "cp new.faa withdrawn.faa"),
}
"""What the examples of a command, or one of them, take for granted."""

ANSWERED: Mapping[str, str] = {"embedstore rm --sequences withdrawn.faa": " --yes"}
"""What asks a person before it goes on -> how the question is answered."""

NOT_RUN: Mapping[str, str] = {
    "embedstore selftest --device cuda": "needs a GPU",
    "tune": "measures this machine for minutes; tests/measuring does it in short",
    "bench": "measures this machine for minutes; tests/measuring does it in short",
}
"""Commands, or examples, that are not run -> why."""

_LONG = frozenset({"train", "evaluate", "predict", "compare", "selftest"})


def cases() -> list[Any]:
    return [
        pytest.param(name, example, id=example, marks=[pytest.mark.slow] if name in _LONG else [])
        for name, examples in EXAMPLES.items()
        if name not in NOT_RUN
        for example in examples
        if example not in NOT_RUN
    ]


@pytest.mark.parametrize(("name", "example"), cases())
def test_example_of_the_help_runs(name: str, example: str, reader: Reader) -> None:
    for line in BEFORE.get(example, BEFORE.get(name, ())):
        reader.shell(line)
    reader.shell(example + ANSWERED.get(example, ""), "help")
