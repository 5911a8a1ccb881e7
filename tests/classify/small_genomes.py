"""Small made-up genomes of two kinds that differ in composition, and classifiers trained on them in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from embedstore.classify.blocks import Reading
from embedstore.classify.heads import TrainOptions
from embedstore.classify.training import TrainReport, train
from embedstore.library import Store, open_store
from embedstore.samples import PrepareOptions, prepare

MODELS = ("tnf", "aac_dpc")
GENOMES = 10
GENOME_BASES = 4500
_GC = {"host": 0.62, "phage": 0.35, "virus": 0.5}


def write_genomes(folder: Path, label: str, genomes: int = GENOMES, bases: int = GENOME_BASES, seed: int = 1) -> None:
    """Write genomes of one class, a file each; few stops, so that most chunks have an open frame."""
    generator = np.random.default_rng([seed, len(label), ord(label[0])])
    folder.mkdir(parents=True, exist_ok=True)
    gc = _GC[label]
    for number in range(genomes):
        shift = generator.normal(0, 0.03)
        rates = [(1 - gc - shift) / 2 + 0.1, (gc + shift) / 2, (gc + shift) / 2, (1 - gc - shift) / 2 - 0.1]
        dna = "".join(generator.choice(list("ACGT"), bases, p=rates))
        dna = dna.replace("TAA", "CAA").replace("TAG", "CAG").replace("TGA", "CGA")
        (folder / f"{label}{number}.fna").write_text(f">{label}{number}_contig\n{dna}\n", encoding="ascii")


def prepared(folder: Path, labels: tuple[str, ...] = ("host", "virus"), length_bases: int = 300) -> Path:
    """Write genomes, cut them, and return the table of samples."""
    for label in labels:
        write_genomes(folder / label, label)
    inputs = [f"{label}={folder / label}" for label in labels]
    prepare(inputs, folder / "samples", PrepareOptions(length_bases=length_bases))
    return folder / "samples" / "samples.tsv"


def read_with(store: Store) -> Reading:
    """Read the built-in models' spaces of a store, filling them."""
    return Reading(store, MODELS, fill=True)


def trained(table: Path, output: Path, options: TrainOptions | None = None) -> TrainReport:
    """Train on a table, with a store beside the output."""
    store = open_store(output.parent / "store", create=True)
    return train(table, output, options=options or QUICK, reading=read_with(store))


QUICK = TrainOptions(folds=3, test_share=0.2)
"""The default head, with a test part."""
QUICK_MLP = TrainOptions(
    head="mlp",
    folds=3,
    test_share=0.2,
    members=2,
    max_epochs=15,
    patience_epochs=3,
    batch_rows=64,
    learning_rate=1e-3,
)
HEADS = {"linear": QUICK, "mlp": QUICK_MLP, "trees": TrainOptions(head="trees", folds=3, test_share=0.2, trees=20)}
"""Quick options of each head."""
