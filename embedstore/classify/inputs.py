"""What training and evaluation are given: a merged file, or a table of samples with the spaces of a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from embedstore.errors import InputError
from embedstore.features import (
    Features,
    FillFrom,
    Samples,
    is_merged_file,
    load_samples,
    merge,
    open_features,
    with_clusters,
    with_labels,
)
from embedstore.models.resolution import ModelOptions
from embedstore.store.store import SpaceStore

FeatureInput = Features | Samples | str | Path


@dataclass(frozen=True, slots=True)
class Reading:
    """How features are come by.

    Attributes
    ----------
    store, models : where a table of samples is given; a merged file needs neither.
    labels, groups : tables that label samples, or put them into clusters that no split divides.
    fill : compute what lacks, see `embedstore.features.merge`.
    """

    store: SpaceStore | None = None
    models: Sequence[str] = ()
    labels: Path | None = None
    groups: Path | None = None
    fill: bool | FillFrom = False
    options: Mapping[str, ModelOptions] = field(default_factory=dict)


def open_input(given: FeatureInput, how: Reading) -> tuple[Features, Samples]:
    """Return features, and their samples with the labels and groups that apply.

    Raises
    ------
    InputError : models are named for a merged file, or none for a table; a table is wrong.
    MissingEmbeddingError : samples have no vector.
    """
    if isinstance(given, Features) or (not isinstance(given, Samples) and is_merged_file(Path(given))):
        if how.models:
            name = given.name if isinstance(given, Features) else given
            raise InputError(
                f"Cannot use models {','.join(how.models)} with the features {name}: their columns are fixed. "
                "Leave out --models, or give the table of samples."
            )
        features = given if isinstance(given, Features) else open_features(given)
    else:
        if how.store is None or not how.models:
            raise InputError(
                f"Cannot use the samples {given if not isinstance(given, Samples) else given.origin}: expected the "
                "models (or spaces) that make their columns, and a store. Give --models."
            )
        fill = fill_source(given, how) or False
        samples = given if isinstance(given, Samples) else load_samples(given)
        features = merge(samples, how.store, how.models, None, fill, options=how.options)
    return features, relabelled(features.samples, how)


def fill_source(given: Samples | str | Path, how: Reading) -> FillFrom | None:
    """Return where the sequences of samples are, if what lacks is to be computed.

    Raises
    ------
    InputError : nobody said where they are.
    """
    if how.fill is not True:
        return how.fill or None
    if isinstance(given, Samples):
        raise InputError(f"Cannot fill {given.origin}: tell where its sequences are (fill=FillFrom(folder)).")
    return FillFrom(Path(given).parent)


def relabelled(samples: Samples, how: Reading) -> Samples:
    """Return samples with the labels and groups that tables give.

    Raises
    ------
    InputError : a table is wrong, or names something that is not among the samples.
    """
    if how.labels is not None:
        samples = with_labels(samples, how.labels)
    return samples if how.groups is None else with_clusters(samples, how.groups)
