"""Which models there are.

A new model of a known architecture is one entry of `MODELS`. A new architecture is one entry of `ARCHITECTURES` (and of
`checkpoint.ARCHITECTURE_OF_MODEL_TYPE`) and a module with `load(recipe, checkpoint, device) -> Embedder`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from embedstore.identity import Molecule, Precision, RareResidues
from embedstore.models.files import combined_sha256

Pooling = Literal["mean", "mean_all", "max", "std", "sum", "cls", "frequencies"]
"""Which tokens a vector is made of, and how; see `pooling`. `frequencies` are those of the built-in models."""

POOLINGS: tuple[Pooling, ...] = ("mean", "mean_all", "max", "std", "sum", "cls")
"""Those of language models."""

LAST_LAYER = "last"
"""In recipes: the last layer, after its norm; others go by their number."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """What all models of one architecture share.

    Attributes
    ----------
    module : of `embedstore.models`; its `load(recipe, checkpoint, device)` returns the embedder.
    implementation : tag of the recipe, raised whenever that module would change numbers beyond the tolerance.
    special_tokens : put before and after the content of a sequence.
    max_length_tokens : content tokens that a model sees at once unless the user says otherwise; None: no limit.
    rare_residues : which of U, Z, O and B it is given as X unless the user says otherwise; None: there is no choice,
        each is a token of its own.
    """

    module: str
    implementation: str
    molecule: Molecule
    pooling: Pooling
    special_tokens: tuple[str, ...] = ()
    max_length_tokens: int | None = None
    precision: Precision = "half"
    rare_residues: RareResidues | None = None


ARCHITECTURES: dict[str, Architecture] = {
    "tnf": Architecture("composition", "tnf/1", "dna", "frequencies", precision="full"),
    "aac_dpc": Architecture("composition", "aac_dpc/1", "protein", "frequencies", precision="full"),
    # Trained on at most 1 022 residues; FastESM2 was trained further on up to 2 048.
    "esm2": Architecture("esm", "esm2/1", "protein", "mean", ("<cls>", "<eos>"), 1022),
    "fastesm2": Architecture("esm", "esm2/1", "protein", "mean", ("<cls>", "<eos>"), 2048),
    # Their learned positions suffice for 1 022 residues (max_position_embeddings 1 026 of the published config.json).
    "esm1b": Architecture("esm", "esm1b/1", "protein", "mean", ("<cls>", "<eos>"), 1022),
    "esm1v": Architecture("esm", "esm1v/1", "protein", "mean", ("<cls>", "<eos>"), 1022),
    # max_position_embeddings of the published config.json, the longest that it was trained on.
    "esmc": Architecture("esmc", "esmc/1", "protein", "mean", ("<cls>", "<eos>"), 2048),
    # Trained on at most 2 000 tokens, [CLS] and [SEP] among them.
    "dnabert": Architecture("dnabert", "dnabert_s/1", "dna", "mean_all", ("[CLS]", "[SEP]"), 1998),
    # Trained on at most 512 tokens, but positions are relative, and the authors embed proteins of any length at once.
    # The limit is ours: at 12 000 residues attention costs twice the matrix products of ProtT5.
    "prot_t5": Architecture("t5", "prot_t5/1", "protein", "mean", ("</s>",), 12_000, rare_residues="uzob_as_x"),
    "prost_t5": Architecture(
        "t5", "prost_t5/1", "protein", "mean", ("<AA2fold>", "</s>"), 12_000, rare_residues="uzob_as_x"
    ),
    "ankh": Architecture("t5", "ankh/1", "protein", "mean", ("</s>",), 12_000, rare_residues="kept"),
}


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model that has a name.

    Attributes
    ----------
    dim, layers : what its checkpoint must have; the built-in models have no layers.
    repository, revision : where the weights are published, at which commit; revision None: no commit is known to us,
        the branch `main` is taken, and the digest of the weights that a store was first filled with is what counts.
    files : what is needed of the repository.
    weights_sha256 : digest of the published weights (of shards, see `digests.files_sha256`), None if not known to us.
    fair_esm_sha256 : digest of the same weights in fair-esm's layout.
    tokenizer_sha256 : digest of `tokenizer.json`, None where the vocabulary is part of our code.
    licence : of the weights, as its publisher states it; None: not known to us, or there are no weights.
    """

    name: str
    architecture: str
    dim: int
    layers: int | None
    repository: str
    revision: str | None = None
    files: tuple[str, ...] = ("config.json", "model.safetensors")
    weights_sha256: str | None = None
    fair_esm_sha256: str | None = None
    tokenizer_sha256: str | None = None
    weights_bytes: int | None = None
    licence: str | None = None

    @property
    def built_in(self) -> bool:
        """True for models without weights."""
        return self.layers is None

    @property
    def molecule(self) -> Molecule:
        """What it embeds."""
        return ARCHITECTURES[self.architecture].molecule

    @property
    def precision(self) -> Precision:
        """Precision unless the user says otherwise."""
        return ARCHITECTURES[self.architecture].precision

    @property
    def max_length_tokens(self) -> int | None:
        """Content tokens seen at once unless the user says otherwise."""
        return ARCHITECTURES[self.architecture].max_length_tokens

    @property
    def non_commercial(self) -> bool:
        """True if the licence of the weights forbids commercial use."""
        return "-NC-" in (self.licence or "")

    @property
    def needs(self) -> str:
        """What has to be there before it can be used."""
        return "nothing: built in" if self.built_in else f"weights of {self.repository}"


_T5_FILES = ("config.json", "pytorch_model.bin")
_ANKH_LICENCE = "CC-BY-NC-SA-4.0"  # not for commercial use

# Revisions and digests are those that public projects pin for these repositories; several independent ones agree, but
# for Ankh's, which are one project's (FastPLMs).
_MODELS = (
    ModelSpec("tnf", "tnf", dim=136, layers=None, repository="built-in", files=()),
    ModelSpec("aac_dpc", "aac_dpc", dim=420, layers=None, repository="built-in", files=()),
    ModelSpec(
        "esm2_t6_8m",
        "esm2",
        dim=320,
        layers=6,
        repository="facebook/esm2_t6_8M_UR50D",
        revision="c731040fcd8d73dceaa04b0a8e6329b345b0f5df",
        weights_sha256="24c5fa474c48f3b754b86efe752d5f189d2bcd88190fa2270fc92b2ef3034189",
        fair_esm_sha256="46f002a9870c9bdecd0ea887acb1f9a38a6b561e8f8bf8a6990b679b9d31b928",
        weights_bytes=31_384_292,
        licence="MIT",
    ),
    ModelSpec(
        "esm2_t12_35m",
        "esm2",
        dim=480,
        layers=12,
        repository="facebook/esm2_t12_35M_UR50D",
        revision="6fbf070e65b0b7291e7bbcd451118c216cff79d8",
        weights_sha256="e35647818e0e064351d4531ed480d225a002567b4b2b93ad3a9246d753150fc0",
        fair_esm_sha256="7f21e80e61d16a71735163ef555d3009afb0c98da74c48e29df08606973cc55e",
        weights_bytes=136_008_798,
        licence="MIT",
    ),
    ModelSpec(
        "esm2_t30_150m",
        "esm2",
        dim=640,
        layers=30,
        repository="facebook/esm2_t30_150M_UR50D",
        revision="a695f6045e2e32885fa60af20c13cb35398ce30c",
        weights_sha256="c3f1da8aea53bddd32c246c86168c23b9fd72341fb9db9a94436f855f5053566",
        fair_esm_sha256="881c7176cf198ef8dec26a3c375d40eb58d0c33df95c22562ca6cc6d3f812c62",
        weights_bytes=595_257_706,
        licence="MIT",
    ),
    ModelSpec(
        "esm2_t33_650m",
        "esm2",
        dim=1280,
        layers=33,
        repository="facebook/esm2_t33_650M_UR50D",
        revision="08e4846e537177426273712802403f7ba8261b6c",
        weights_sha256="a08adabb949fa67ad3c14b509d04fd60368b35007b0095e3358f81200c4f4db0",
        fair_esm_sha256="ea9d0522b335a8778dea6535a65301f10208dece28cd5865482b0b1fc446168c",
        weights_bytes=2_609_506_392,
        licence="MIT",
    ),
    ModelSpec(
        "esm2_t36_3b",
        "esm2",
        dim=2560,
        layers=36,
        repository="facebook/esm2_t36_3B_UR50D",
        revision="476b639933c8baad5ad09a60ac1a87f987b656fc",
        files=(
            "config.json",
            "pytorch_model.bin.index.json",
            "pytorch_model-00001-of-00002.bin",
            "pytorch_model-00002-of-00002.bin",
        ),
        weights_sha256=combined_sha256(
            (
                "0f971f11c449d21422aa982b791619c10351972992c735f4c3cd43fe09790412",
                "7560b46fc383c691fb74b915b7d4bcef40d3df181447f16ba4b298845e308d0c",
            )
        ),
        fair_esm_sha256="7de8b4082ba15891959ab368b77ce3886697af1efb16d3c9e9e7b0c5d3f07500",
        weights_bytes=11_367_082_474,
        licence="MIT",
    ),
    ModelSpec(
        "fastesm2_650",
        "fastesm2",
        dim=1280,
        layers=33,
        repository="Synthyra/FastESM2_650",
    ),
    ModelSpec(
        "esm1b_t33_650m",
        "esm1b",
        dim=1280,
        layers=33,
        repository="facebook/esm1b_t33_650M_UR50S",
        files=("config.json", "pytorch_model.bin"),
        licence="MIT",
    ),
    *(
        ModelSpec(
            f"esm1v_t33_650m_{number}",
            "esm1v",
            dim=1280,
            layers=33,
            repository=f"facebook/esm1v_t33_650M_UR90S_{number}",
            files=("config.json", "pytorch_model.bin"),
            licence="MIT",
        )
        for number in range(1, 6)
    ),
    ModelSpec("esmc_300m", "esmc", dim=960, layers=30, repository="biohub/ESMC-300M", licence="MIT"),
    ModelSpec("esmc_600m", "esmc", dim=1152, layers=36, repository="biohub/ESMC-600M", licence="MIT"),
    ModelSpec(
        "dnabert_s",
        "dnabert",
        dim=768,
        layers=12,
        repository="zhihan1996/DNABERT-S",
        revision="00e47f96cdea35e4b6f5df89e5419cbe47d490c6",
        files=("config.json", "pytorch_model.bin", "tokenizer.json"),
        weights_sha256="f3cfc3d0541859df64759e758cc4bc40fe1d5760799a7d098a9f9f09501c1e5f",
        tokenizer_sha256="667f5a0e6e9630f7052b004784dda7c7aeba395cc4ca3c01b11b02e6aa29d7b1",
        weights_bytes=468_320_053,
    ),
    ModelSpec(
        "prot_t5_xl_half",
        "prot_t5",
        dim=1024,
        layers=24,
        repository="Rostlab/prot_t5_xl_half_uniref50-enc",
        files=_T5_FILES,
        licence="MIT",  # in the file of that name; AFL-3.0 in the README
    ),
    ModelSpec(
        "prost_t5",
        "prost_t5",
        dim=1024,
        layers=24,
        repository="Rostlab/ProstT5_fp16",  # the authors' own, half the size of Rostlab/ProstT5
        revision="07a6547d51de603f1be84fd9f2db4680ee535a86",
        files=_T5_FILES,
        licence="MIT",
    ),
    ModelSpec(
        "ankh_base",
        "ankh",
        dim=768,
        layers=48,
        repository="ElnaggarLab/ankh-base",
        revision="d99cb6b966530dfc2ae96bc69d9255c2a07308b0",
        files=_T5_FILES,
        weights_sha256="9b2a886374f0ff4a893f4e7a989deed76bb2458c8998bd5202ea8e97d92ddcc3",
        licence=_ANKH_LICENCE,
    ),
    ModelSpec(
        "ankh_large",
        "ankh",
        dim=1536,
        layers=48,
        repository="ElnaggarLab/ankh-large",
        revision="74b371dbfa3ee0a05d32ae74df0c2e0b82d6b9a6",
        files=_T5_FILES,
        weights_sha256="517b6e8b279dedcb477af240b35c46bd6eb3307723eb281e60d4b2c8a87b889b",
        licence=_ANKH_LICENCE,
    ),
    ModelSpec(
        "dnabert2_117m",
        "dnabert",
        dim=768,
        layers=12,
        repository="zhihan1996/DNABERT-2-117M",
        files=("config.json", "pytorch_model.bin", "tokenizer.json"),
    ),
)

MODELS: dict[str, ModelSpec] = {spec.name: spec for spec in _MODELS}
