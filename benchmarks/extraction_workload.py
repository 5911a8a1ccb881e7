"""What the extraction benchmark embeds and with what: real sequences, random weights of the real shapes."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file

from embedstore.doctor.tiny_models import random_tensors
from embedstore.errors import SequenceError
from embedstore.identity import Molecule, canonical
from embedstore.models.dnabert import DnabertShape
from embedstore.models.esm import EsmShape
from embedstore.models.esmc import EsmcShape
from embedstore.models.t5 import T5Shape
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
    """Sizes of a model, and how many residues make a round of bearable length.

    Attributes
    ----------
    t5 : all sizes, of a T5.
    """

    layers: int
    hidden: int
    heads: int
    residues: int
    molecule: Molecule = "protein"
    t5: T5Shape | None = None
    gated: int | None = None
    """Width between the feed-forward products of an ESM-C; None: another model, and four times `hidden`."""

    @classmethod
    def of_t5(cls, shape: T5Shape, residues: int) -> Shape:
        """Take the sizes of a T5."""
        return cls(shape.layers, shape.hidden, shape.heads, residues, t5=shape)


_PROT_T5 = T5Shape(1024, 2, 32, 128, 16_384, 128, 32, 128, 1e-6, gated=False)
_ANKH_LARGE = T5Shape(1536, 6, 16, 64, 3840, 144, 64, 128, 1e-6, gated=True)

SHAPES = {
    "8m": Shape(6, 320, 20, 40_000),
    "35m": Shape(12, 480, 20, 20_000),
    "150m": Shape(30, 640, 20, 10_000),
    "650m": Shape(33, 1280, 20, 4_000),
    "esmc_300m": Shape(30, 960, 15, 8_000, gated=2560),
    "dnabert_s": Shape(12, 768, 12, 40_000, "dna"),
    "prot_t5_2_layers": Shape.of_t5(_PROT_T5, 5_000),  # of 24: weights and time of a whole one are 12 times these
    "ankh_large_6_layers": Shape.of_t5(_ANKH_LARGE, 5_000),  # of 48
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
    if shape.t5 is not None:
        _write(folder, t5_configuration(shape.t5), shape.t5.tensors(), seed)
        return
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
    _write(folder, common | configuration, shapes, seed)


def _write(folder: Path, configuration: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], seed: int) -> None:
    (folder / "config.json").write_text(json.dumps(configuration))
    save_file(random_tensors(shapes, seed, START_SPREAD), folder / "model.safetensors", metadata={"format": "pt"})


def t5_configuration(shape: T5Shape) -> dict[str, Any]:
    """Write the sizes of a T5 as its `config.json` has them."""
    return {
        "model_type": "t5",
        "architectures": ["T5EncoderModel"],
        "d_model": shape.hidden,
        "num_layers": shape.layers,
        "num_heads": shape.heads,
        "d_kv": shape.width,
        "d_ff": shape.intermediate,
        "vocab_size": shape.vocabulary,
        "relative_attention_num_buckets": shape.buckets,
        "relative_attention_max_distance": shape.max_distance,
        "layer_norm_epsilon": shape.norm_epsilon,
        "feed_forward_proj": "gated-gelu" if shape.gated else "relu",
    }
