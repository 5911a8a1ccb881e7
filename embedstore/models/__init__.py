"""Models: what they are called, where their weights are, and how they turn sequences into vectors.

Importing this package imports neither torch nor transformers nor huggingface_hub; `Model.load` does.
"""

from embedstore.models.batching import packs
from embedstore.models.embedder import Embedded, Embedder, Model
from embedstore.models.registry import MODELS, ModelSpec
from embedstore.models.resolution import ModelOptions, resolve

__all__ = ["MODELS", "Embedded", "Embedder", "Model", "ModelOptions", "ModelSpec", "packs", "resolve"]
