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
    from embedstore.classify.blocks import Reading
    from embedstore.classify.classifier import Classifier, load_classifier
    from embedstore.classify.evaluation import evaluate
    from embedstore.classify.heads import TrainOptions
    from embedstore.classify.prediction import PredictOptions, predict
    from embedstore.classify.training import train
    from embedstore.comparison.comparing import compare
    from embedstore.errors import (
        CanaryError,
        CorruptStoreError,
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
    from embedstore.features import Features, Schema, merge, open_features
    from embedstore.filling import FillOptions, FillReport
    from embedstore.identity import Recipe, canonical, key_array, key_from_text, key_text, sequence_key
    from embedstore.library import Store
    from embedstore.library import open_store as open
    from embedstore.models.registry import MODELS
    from embedstore.models.resolution import ModelOptions
    from embedstore.records import EmbeddingBatch, Record, Rejection
    from embedstore.retrieval import Embeddings
    from embedstore.samples import PrepareOptions, PrepareReport, prepare, read_samples
    from embedstore.sequences import read
    from embedstore.sharing import CopyReport, pull, push, sync
    from embedstore.store.space import Space

    __version__: str

_HOME = {
    "Embeddings": "retrieval",
    "CanaryError": "errors",
    "CorruptStoreError": "errors",
    "FormatVersionError": "errors",
    "InputError": "errors",
    "MissingDependencyError": "errors",
    "ModelError": "errors",
    "MoleculeError": "errors",
    "SequenceError": "errors",
    "SequenceFileError": "errors",
    "SpaceConflictError": "errors",
    "SpaceNotFoundError": "errors",
    "StorageError": "errors",
    "StoreError": "errors",
    "StoreNotFoundError": "errors",
    "UnknownModelError": "errors",
    "WeightsError": "errors",
    "WeightsNotFoundError": "errors",
    "WorkerError": "errors",
    "Classifier": "classify.classifier",
    "CopyReport": "sharing",
    "EmbedStoreError": "errors",
    "EmbeddingBatch": "records",
    "Features": "features",
    "FillOptions": "filling",
    "FillReport": "filling",
    "MODELS": "models.registry",
    "MissingEmbeddingError": "errors",
    "ModelOptions": "models.resolution",
    "PredictOptions": "classify.prediction",
    "PrepareOptions": "samples",
    "PrepareReport": "samples",
    "Reading": "classify.blocks",
    "Recipe": "identity",
    "Record": "records",
    "Rejection": "records",
    "Schema": "features",
    "SchemaError": "errors",
    "Space": "store.space",
    "Store": "library",
    "TrainOptions": "classify.heads",
    "UpstreamWarning": "errors",
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
    "CanaryError",
    "Classifier",
    "CopyReport",
    "CorruptStoreError",
    "EmbedStoreError",
    "EmbeddingBatch",
    "Embeddings",
    "Features",
    "FillOptions",
    "FillReport",
    "FormatVersionError",
    "InputError",
    "MissingDependencyError",
    "MissingEmbeddingError",
    "ModelError",
    "ModelOptions",
    "MoleculeError",
    "PredictOptions",
    "PrepareOptions",
    "PrepareReport",
    "Reading",
    "Recipe",
    "Record",
    "Rejection",
    "Schema",
    "SchemaError",
    "SequenceError",
    "SequenceFileError",
    "Space",
    "SpaceConflictError",
    "SpaceNotFoundError",
    "StorageError",
    "Store",
    "StoreError",
    "StoreNotFoundError",
    "TrainOptions",
    "UnknownModelError",
    "UpstreamWarning",
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
