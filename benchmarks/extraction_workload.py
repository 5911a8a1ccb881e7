"""What the extraction benchmark embeds and with what: real sequences, random weights of the real shapes."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file

from embedstore.doctor.tiny_models import random_tensors
from embedstore.errors import SequenceError
from embedstore.identity import Molecule, canonical
from embedstore.models.dnabert import DnabertShape
from embedstore.models.esm import EsmShape
from embedstore.models.esmc import EsmcShape
from embedstore.records import Record
from embedstore.sequences import read

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "real"
DNA_TOKENIZER = ROOT / "tests" / "data" / "dnabert_s" / "tokenizer.json"

_LONGEST_RESIDUES = 1022  # every contender takes them whole
_VIRNUCPRO_RESIDUES = (100, 166)  # frames of chunks of 300 and 500 bases
CHUNK_BASES = 500
START_SPREAD = 0.02
"""Of the weights that the models start training with."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model, and how many residues make a round of bearable length."""

    layers: int
    hidden: int
    heads: int
    residues: int
    molecule: Molecule = "protein"
    gated: int | None = None
    """Width between the feed-forward products of an ESM-C; None: another model, and four times `hidden`."""


SHAPES = {
    "8m": Shape(6, 320, 20, 40_000),
    "35m": Shape(12, 480, 20, 20_000),
    "150m": Shape(30, 640, 20, 10_000),
    "650m": Shape(33, 1280, 20, 4_000),
    "esmc_300m": Shape(30, 960, 15, 8_000, gated=2560),
    "dnabert_s": Shape(12, 768, 12, 40_000, "dna"),
}


class UnavailableError(Exception):
    """A contender cannot take part here; the message says why."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is to be embedded, and with what.

    Attributes
    ----------
    sequences : canonical, in the order of the file.
    checkpoint : folder with random weights in the published layout.
    cores : that a contender may use.
    """

    sequences: Sequence[bytes]
    checkpoint: Path
    cores: int


Vectors = NDArray[np.float32]
Run = Callable[[], Vectors]


def real_sequences(shape: Shape, lengths: str, residues: int, seed: int) -> list[bytes]:
    """Draw sequences until they have so many residues.

    Proteins as they are ("real") or pieces as long as VirNucPro's frames ("virnucpro"); DNA in chunks of 500 bases.

    Raises
    ------
    SystemExit : the folder of real sequences is not there.
    """
    kind, pattern = ("proteins", "*.faa.gz") if shape.molecule == "protein" else ("genomes", "*/*.fna.gz")
    files = sorted((REAL / kind).glob(pattern))
    if not files:
        raise SystemExit(f"Cannot run the benchmark: expected real sequences in {REAL / kind}, found none.")
    draw = random.Random(seed)
    found = [canonical_of(record, shape.molecule) for record in read(files) if isinstance(record, Record)]
    pool = [sequence for sequence in found if sequence is not None]
    draw.shuffle(pool)
    chosen: list[bytes] = []
    for sequence in (
        pool if shape.molecule == "protein" else draw.choices(pool, [len(genome) for genome in pool], k=residues)
    ):
        piece = _piece(sequence, shape.molecule, lengths, draw)
        if piece is not None:
            chosen.append(piece)
            residues -= len(piece)
        if residues <= 0:
            break
    return chosen


def canonical_of(record: Record, molecule: Molecule) -> bytes | None:
    """Canonical sequence that every contender takes (fair-esm has no J), or None."""
    try:
        sequence = canonical(record.sequence, molecule)
    except SequenceError:
        return None
    return None if molecule == "protein" and b"J" in sequence else sequence


def _piece(sequence: bytes, molecule: Molecule, lengths: str, draw: random.Random) -> bytes | None:
    if molecule == "protein" and lengths == "real":
        return sequence if len(sequence) <= _LONGEST_RESIDUES else None
    length = CHUNK_BASES if molecule == "dna" else draw.randint(*_VIRNUCPRO_RESIDUES)
    if len(sequence) < length:
        return None
    start = draw.randint(0, len(sequence) - length)
    return sequence[start : start + length]


def write_checkpoint(folder: Path, shape: Shape, seed: int) -> None:
    """Write random weights in the layout of the published checkpoints."""
    inner = shape.gated or 4 * shape.hidden
    common = {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "num_attention_heads": shape.heads,
        "intermediate_size": inner,
        "hidden_act": "gelu",
    }
    if shape.molecule == "dna":
        sizes = DnabertShape(shape.hidden, shape.layers, shape.heads, inner, 4096, 2, 1e-12)
        configuration = {"model_type": "bert", "vocab_size": 4096, "type_vocab_size": 2, "layer_norm_eps": 1e-12}
        shutil.copy(DNA_TOKENIZER, folder / "tokenizer.json")
        shapes = sizes.tensors()
    elif shape.gated is not None:
        shapes = EsmcShape(shape.hidden, shape.layers, shape.heads, inner).tensors()
        configuration = {"model_type": "esmc", "vocab_size": 64, "hidden_act": "silu"}
    else:
        shapes = EsmShape(shape.hidden, shape.layers, shape.heads, inner, 33, 1e-5, True).tensors()
        configuration = {
            "model_type": "esm",
            "architectures": ["EsmModel"],
            "vocab_size": 33,
            "position_embedding_type": "rotary",
            "token_dropout": True,
            "emb_layer_norm_before": False,
            "layer_norm_eps": 1e-5,
            "pad_token_id": 1,
            "mask_token_id": 32,
        }
    (folder / "config.json").write_text(json.dumps(common | configuration))
    save_file(random_tensors(shapes, seed, START_SPREAD), folder / "model.safetensors", metadata={"format": "pt"})
