"""What the examples of the pages speak of: sequences, genomes, tables, weights, servers; all made here, all small.

A language model keeps its name, but has the size and the random weights of a checkpoint that the tests ship: everything
else about it is real, from the look into the hub's cache to the recipe.
"""

from __future__ import annotations

import gzip
import shutil
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from embedstore.models.checkpoint import find_checkpoint
from embedstore.models.registry import MODELS, ModelSpec

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
CHECKPOINTS = {
    "fastesm2": DATA / "esm" / "fastesm2_tiny",
    "esm2": DATA / "esm" / "esm2_hf_tiny",
    "esm1b": DATA / "esm1b" / "esm1b_hf_tiny",
    "esm1v": DATA / "esm1b" / "esm1b_hf_tiny",
    "esmc": DATA / "esmc" / "hf_esmc_tiny",
    "dnabert": DATA / "dnabert_s",
    **{name: DATA / "t5" / name for name in ("prot_t5", "prost_t5", "ankh")},
}
REVISION = "0" * 40

GENBANK = """\
LOCUS       PHAGE1 {bases} bp    DNA     linear   PHG 01-JAN-2020
DEFINITION  A made-up phage.
ACCESSION   PHAGE1
VERSION     PHAGE1.1
FEATURES             Location/Qualifiers
     source          1..{bases}
     CDS             1..300
ORIGIN
{sequence}
//
"""


def write_world(folder: Path) -> None:
    """Write the files that the examples read."""
    pytest.importorskip("torch")
    from classify.small_genomes import write_genomes

    proteins = (ROOT / "examples" / "proteins.faa").read_bytes()
    records = proteins.split(b">")[1:]
    (folder / "proteins.faa").write_bytes(proteins)
    (folder / "proteins.faa.gz").write_bytes(gzip.compress(proteins))
    (folder / "more.faa.gz").write_bytes(gzip.compress(b">more\nMKTAYIAKQRQISFVKSHFSRQ\n"))
    (folder / "new.faa").write_bytes(b">" + records[0])
    shutil.copytree(CHECKPOINTS["dnabert"], folder / "dnabert_checkpoint")
    shutil.copytree(CHECKPOINTS["esm2"], folder / "esm_checkpoint")
    for number, label in enumerate(("virus", "host")):
        write_genomes(folder / "genomes" / label, label, genomes=8, bases=2000, seed=number)
    for other in ("other", "nonvirus"):
        shutil.copytree(folder / "genomes" / "host", folder / "genomes" / other)
    _write_contigs(folder)
    genomes = [path.stem for kind in ("virus", "host") for path in sorted((folder / "genomes" / kind).glob("*.fna"))]
    for table, column in (("genera.tsv", "cluster"), ("clusters.tsv", "cluster"), ("labels.tsv", "label")):
        rows = "".join(f"{genome}\t{genome if column == 'cluster' else genome[:-1]}\n" for genome in genomes)
        (folder / table).write_text(f"group\t{column}\n{rows}", encoding="utf-8")


def _write_contigs(folder: Path) -> None:
    genomes = sorted((folder / "genomes" / "virus").glob("*.fna"))
    contigs = b"".join(path.read_bytes() for path in genomes[:3])
    (folder / "contigs.fna").write_bytes(contigs)
    (folder / "contigs.fna.gz").write_bytes(gzip.compress(contigs))
    bases = contigs.split(b"\n")[1].decode()
    (folder / "reads.fq.gz").write_bytes(gzip.compress(f"@read\n{bases[:100]}\n+\n{'I' * 100}\n".encode()))
    lines = [
        f"{start + 1:>9} " + " ".join(bases[place : place + 10].lower() for place in range(start, start + 60, 10))
        for start in range(0, len(bases), 60)
    ]
    (folder / "phages.gbk").write_text(GENBANK.format(bases=len(bases), sequence="\n".join(lines)), encoding="ascii")


def small(spec: ModelSpec) -> ModelSpec:
    """The model of that name in the size of the tests' checkpoints."""
    checkpoint = CHECKPOINTS[spec.architecture]
    found = find_checkpoint(checkpoint)
    return replace(
        spec,
        dim=found.dim,
        layers=found.layers,
        revision=REVISION,
        files=tuple(name for name in _NEEDED if (checkpoint / name).is_file()),
        weights_sha256=None,
        fair_esm_sha256=None,
        tokenizer_sha256=None,
    )


def write_virnucpro_head(file: Path) -> None:
    """Write what VirNucPro's training pickles, for the small models."""
    torch = pytest.importorskip("torch")
    from classify.test_virnucpro_head import make_head

    sys.modules["virnucpro_train"] = types.ModuleType("virnucpro_train")
    try:
        torch.save(make_head(dim=small(MODELS["dnabert_s"]).dim + small(MODELS["esm2_t36_3b"]).dim), file)
    finally:
        del sys.modules["virnucpro_train"]


_NEEDED = ("config.json", "model.safetensors", "tokenizer.json")


def write_hub_cache(folder: Path) -> None:
    """Write a cache of the hub that has every named model, small."""
    for spec in MODELS.values():
        if not spec.built_in:
            repository = folder / f"models--{spec.repository.replace('/', '--')}"
            snapshot = repository / "snapshots" / REVISION
            snapshot.mkdir(parents=True)
            for name in small(spec).files:
                (snapshot / name).symlink_to(CHECKPOINTS[spec.architecture] / name)


def use_small_models(cache: Path, environment: pytest.MonkeyPatch) -> None:
    """Have every named model small, in the hub's cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    environment.setattr(constants, "HF_HUB_CACHE", str(cache))
    environment.setattr(constants, "HF_HUB_OFFLINE", True)
    for name, spec in MODELS.items():
        if not spec.built_in:
            environment.setitem(MODELS, name, small(spec))


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """Serve a folder; gives its address."""
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""
