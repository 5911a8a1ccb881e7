"""A content-addressed store of sequence embeddings: embed a sequence once, read it everywhere.

>>> import embedstore
>>> store = embedstore.open("lab-store", create=True)
>>> store.embed(["MKTAYIAKQR", "GSHMASMTGG"], model="aac_dpc").X.shape
(2, 420)

Public names are imported when they are first used, so that importing this package costs nothing; torch is imported
only when a model that needs it is loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedstore.auditing import AuditOptions, AuditReport, DifferingVector
    from embedstore.classify.blocks import Reading
    from embedstore.classify.calibration import Calibration, Chunks, OpenChunks, SequenceCalibration
    from embedstore.classify.calling import Called, Calling
    from embedstore.classify.classifier import Classifier, load_classifier
    from embedstore.classify.evaluation import Evaluation, evaluate
    from embedstore.classify.fragments import Fragments
    from embedstore.classify.heads import Forest, Network, TrainOptions
    from embedstore.classify.known import Known
    from embedstore.classify.prediction import PredictOptions, PredictProgress, PredictReport, predict
    from embedstore.classify.provenance import Provenance
    from embedstore.classify.scores import Scores
    from embedstore.classify.splitting import Split
    from embedstore.classify.tables import Tally
    from embedstore.classify.training import Trained, TrainReport, Unseen, train
    from embedstore.classify.unseen import CutSources
    from embedstore.comparison.comparing import Comparison, compare
    from embedstore.comparison.verdicts import DecideOptions
    from embedstore.errors import (
        CanaryError,
        CorruptStoreError,
        DeviceWarning,
        EmbedStoreError,
        FormatVersionError,
        InputError,
        MissingDependencyError,
        MissingEmbeddingError,
        ModelError,
        MoleculeError,
        SchemaError,
        SequenceError,
        SequenceFileError,
        SpaceConflictError,
        SpaceNotFoundError,
        StorageError,
        StoreError,
        StoreNotFoundError,
        UnknownModelError,
        UpstreamWarning,
        WeightsError,
        WeightsNotFoundError,
        WorkerError,
    )
    from embedstore.features import (
        Batch,
        Block,
        Categories,
        Features,
        FillFrom,
        Preparation,
        Samples,
        Schema,
        merge,
        open_features,
    )
    from embedstore.features.torch_dataset import FeaturesDataset
    from embedstore.filling import FillOptions, FillProgress, FillReport, SegmentLimits, SpaceTarget
    from embedstore.filling.summary import DryRun, SpaceSummary
    from embedstore.identity import Recipe, canonical, key_array, key_from_text, key_text, sequence_key
    from embedstore.library import Store
    from embedstore.library import open_store as open
    from embedstore.models.registry import MODELS
    from embedstore.models.resolution import ModelOptions
    from embedstore.records import Canaries, EmbeddingBatch, Record, Rejection
    from embedstore.retrieval import Embeddings
    from embedstore.samples import (
        CodeTable,
        LabelledInput,
        PrepareCounts,
        PrepareOptions,
        PrepareReport,
        Sample,
        SampleBatch,
        Seen,
        SeenCounts,
        SourceSummary,
        prepare,
        read_code_table,
        read_samples,
    )
    from embedstore.sequences import read
    from embedstore.sequences.translation import GeneticCode
    from embedstore.sharing import CopyReport, SpaceCopy, pull, push, sync
    from embedstore.store import Problem, SpaceInfo, SpaceStore, VerifyReport
    from embedstore.store.pins import Pin
    from embedstore.store.space import Space
    from embedstore.store.store import Opening
    from embedstore.upkeep import CollectReport, CompactReport, RepairReport

    __version__: str

_HOME = {
    "AuditOptions": "auditing",
    "AuditReport": "auditing",
    "Batch": "features",
    "Block": "features",
    "Calibration": "classify.calibration",
    "Chunks": "classify.calibration",
    "OpenChunks": "classify.calibration",
    "Called": "classify.calling",
    "Calling": "classify.calling",
    "Canaries": "records",
    "CanaryError": "errors",
    "Categories": "features",
    "Classifier": "classify.classifier",
    "CodeTable": "samples",
    "CollectReport": "upkeep",
    "CompactReport": "upkeep",
    "Comparison": "comparison.comparing",
    "DecideOptions": "comparison.verdicts",
    "CopyReport": "sharing",
    "CorruptStoreError": "errors",
    "DeviceWarning": "errors",
    "DifferingVector": "auditing",
    "DryRun": "filling.summary",
    "EmbedStoreError": "errors",
    "EmbeddingBatch": "records",
    "Embeddings": "retrieval",
    "Evaluation": "classify.evaluation",
    "Features": "features",
    "FeaturesDataset": "features.torch_dataset",
    "FillFrom": "features",
    "FillOptions": "filling",
    "FillProgress": "filling",
    "FillReport": "filling",
    "Forest": "classify.heads",
    "FormatVersionError": "errors",
    "Fragments": "classify.fragments",
    "GeneticCode": "sequences.translation",
    "InputError": "errors",
    "Known": "classify.known",
    "LabelledInput": "samples",
    "MODELS": "models.registry",
    "MissingDependencyError": "errors",
    "MissingEmbeddingError": "errors",
    "ModelError": "errors",
    "ModelOptions": "models.resolution",
    "MoleculeError": "errors",
    "Network": "classify.heads",
    "Opening": "store.store",
    "Pin": "store.pins",
    "PredictOptions": "classify.prediction",
    "PredictProgress": "classify.prediction",
    "PredictReport": "classify.prediction",
    "Preparation": "features",
    "PrepareCounts": "samples",
    "Seen": "samples",
    "SeenCounts": "samples",
    "SourceSummary": "samples",
    "CutSources": "classify.unseen",
    "PrepareOptions": "samples",
    "PrepareReport": "samples",
    "Problem": "store",
    "Provenance": "classify.provenance",
    "Reading": "classify.blocks",
    "Recipe": "identity",
    "Record": "records",
    "Rejection": "records",
    "RepairReport": "upkeep",
    "Sample": "samples",
    "SampleBatch": "samples",
    "Samples": "features",
    "Schema": "features",
    "SchemaError": "errors",
    "Scores": "classify.scores",
    "SegmentLimits": "filling",
    "SequenceCalibration": "classify.calibration",
    "SequenceError": "errors",
    "SequenceFileError": "errors",
    "Space": "store.space",
    "SpaceConflictError": "errors",
    "SpaceCopy": "sharing",
    "SpaceInfo": "store",
    "SpaceNotFoundError": "errors",
    "SpaceStore": "store",
    "SpaceSummary": "filling.summary",
    "SpaceTarget": "filling",
    "Split": "classify.splitting",
    "StorageError": "errors",
    "Store": "library",
    "StoreError": "errors",
    "StoreNotFoundError": "errors",
    "Tally": "classify.tables",
    "TrainOptions": "classify.heads",
    "TrainReport": "classify.training",
    "Trained": "classify.training",
    "Unseen": "classify.training",
    "UnknownModelError": "errors",
    "UpstreamWarning": "errors",
    "VerifyReport": "store",
    "WeightsError": "errors",
    "WeightsNotFoundError": "errors",
    "WorkerError": "errors",
    "canonical": "identity",
    "compare": "comparison.comparing",
    "evaluate": "classify.evaluation",
    "key_array": "identity",
    "key_from_text": "identity",
    "key_text": "identity",
    "load_classifier": "classify.classifier",
    "merge": "features",
    "open": "library",
    "open_features": "features",
    "predict": "classify.prediction",
    "prepare": "samples",
    "pull": "sharing",
    "push": "sharing",
    "read": "sequences",
    "read_code_table": "samples",
    "read_samples": "samples",
    "sequence_key": "identity",
    "sync": "sharing",
    "train": "classify.training",
}
"""Public name -> module of this package that defines it."""

_OTHER_NAME = {"open": "open_store"}
"""What the module calls it, where a builtin of the public name is wanted there."""

__all__ = [
    "MODELS",
    "AuditOptions",
    "AuditReport",
    "Batch",
    "Block",
    "Calibration",
    "Called",
    "Calling",
    "Canaries",
    "CanaryError",
    "Categories",
    "Chunks",
    "Classifier",
    "CodeTable",
    "CollectReport",
    "CompactReport",
    "Comparison",
    "CopyReport",
    "CorruptStoreError",
    "CutSources",
    "DecideOptions",
    "DeviceWarning",
    "DifferingVector",
    "DryRun",
    "EmbedStoreError",
    "EmbeddingBatch",
    "Embeddings",
    "Evaluation",
    "Features",
    "FeaturesDataset",
    "FillFrom",
    "FillOptions",
    "FillProgress",
    "FillReport",
    "Forest",
    "FormatVersionError",
    "Fragments",
    "GeneticCode",
    "InputError",
    "Known",
    "LabelledInput",
    "MissingDependencyError",
    "MissingEmbeddingError",
    "ModelError",
    "ModelOptions",
    "MoleculeError",
    "Network",
    "OpenChunks",
    "Opening",
    "Pin",
    "PredictOptions",
    "PredictProgress",
    "PredictReport",
    "Preparation",
    "PrepareCounts",
    "PrepareOptions",
    "PrepareReport",
    "Problem",
    "Provenance",
    "Reading",
    "Recipe",
    "Record",
    "Rejection",
    "RepairReport",
    "Sample",
    "SampleBatch",
    "Samples",
    "Schema",
    "SchemaError",
    "Scores",
    "Seen",
    "SeenCounts",
    "SegmentLimits",
    "SequenceCalibration",
    "SequenceError",
    "SequenceFileError",
    "SourceSummary",
    "Space",
    "SpaceConflictError",
    "SpaceCopy",
    "SpaceInfo",
    "SpaceNotFoundError",
    "SpaceStore",
    "SpaceSummary",
    "SpaceTarget",
    "Split",
    "StorageError",
    "Store",
    "StoreError",
    "StoreNotFoundError",
    "Tally",
    "TrainOptions",
    "TrainReport",
    "Trained",
    "UnknownModelError",
    "Unseen",
    "UpstreamWarning",
    "VerifyReport",
    "WeightsError",
    "WeightsNotFoundError",
    "WorkerError",
    "__version__",
    "canonical",
    "compare",
    "evaluate",
    "key_array",
    "key_from_text",
    "key_text",
    "load_classifier",
    "merge",
    "open",
    "open_features",
    "predict",
    "prepare",
    "pull",
    "push",
    "read",
    "read_code_table",
    "read_samples",
    "sequence_key",
    "sync",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("embedstore-bio")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), _OTHER_NAME.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
