"""What training and evaluation are given, and the spaces that a classifier's columns come from.

The input is a merged file, or a table of samples with the spaces of a store; the spaces are found there and compared
with the classifier's schema before any work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from embedstore.classify.classifier import Classifier
from embedstore.errors import (
    InputError,
    ModelError,
    SchemaError,
    SpaceConflictError,
    SpaceNotFoundError,
    UnknownModelError,
    plain,
)
from embedstore.features import (
    Block,
    Features,
    FillFrom,
    Preparation,
    Samples,
    Schema,
    is_merged_file,
    load_samples,
    merge,
    open_features,
    with_clusters,
    with_labels,
)
from embedstore.filling import SpaceTarget, find_target
from embedstore.filling.target import NamedModel
from embedstore.identity import Recipe
from embedstore.models.embedder import Model
from embedstore.models.registry import LAST_LAYER, MODELS, POOLINGS
from embedstore.models.resolution import ModelOptions, resolve
from embedstore.store.space import Space
from embedstore.store.store import SpaceStore

FeatureInput = Features | Samples | str | Path


@dataclass(frozen=True, slots=True)
class Reading:
    """How the input is read and joined with vectors.

    Attributes
    ----------
    store : where a table of samples is given; a merged file needs none.
    models : whose vectors make the columns, likewise.
    labels : table that labels samples.
    groups : clusters that no split divides: a table, or a file of MMseqs2 or CD-HIT.
    fill : compute missing vectors, see `embedstore.features.merge`.
    on_note : told, a line at a time, how groups are made and what is odd about them.
    """

    store: SpaceStore | None = None
    models: Sequence[str] = ()
    labels: Path | None = None
    groups: Path | None = None
    fill: bool | FillFrom = False
    options: Mapping[str, ModelOptions] = field(default_factory=dict)
    on_note: Callable[[str], object] | None = None

    def note(self, line: str) -> None:
        """Tell a line, if anybody listens."""
        if self.on_note is not None:
            self.on_note(line)


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
        features = merge(samples, how.models, store=how.store, fill=fill, options=how.options)
    return features, relabelled(features.samples, how)


def fill_source(given: Samples | str | Path, how: Reading) -> FillFrom | None:
    """Return where the sequences of samples are, if missing vectors are to be computed.

    Raises
    ------
    InputError : nobody said where they are.
    """
    if how.fill is not True:
        return how.fill or None
    if isinstance(given, Samples):
        raise InputError(
            f"Cannot fill {given.origin}: expected the folder of its sequences. Give fill=FillFrom(folder)."
        )
    return FillFrom(Path(given).parent)


def relabelled(samples: Samples, how: Reading) -> Samples:
    """Return samples with the labels and groups that tables give.

    Raises
    ------
    InputError : a table is wrong, or names something that is not among the samples.
    """
    if how.labels is not None:
        samples = with_labels(samples, how.labels)
    return samples if how.groups is None else with_clusters(samples, how.groups, how.on_note)


def sequences_folder(given: FeatureInput, how: Reading) -> Path | None:
    """Return the folder where `prepare` wrote the sequences of samples; None for features, whose samples have none."""
    if isinstance(how.fill, FillFrom):
        return how.fill.folder
    if isinstance(given, Features | Samples) or is_merged_file(Path(given)):
        return None
    return Path(given).parent


_HINT = "Name the models or their directories with --models, in the order of the classifier's blocks."


def find_spaces(
    classifier: Classifier,
    store: SpaceStore,
    models: Sequence[str] = (),
    options: Mapping[str, ModelOptions] | None = None,
) -> tuple[SpaceTarget, ...]:
    """Find the spaces of a classifier's blocks, in their order.

    Parameters
    ----------
    classifier : whose blocks.
    store : where spaces are looked for, and made.
    models : names or directories of models, or spaces, one a block; none: those that the schema names.
    options : model -> weights, precision and so on, where not the defaults.

    Raises
    ------
    ModelError : a model is not known, and the store has no such space.
    """
    chosen = options or {}
    if models:
        return tuple(find_target(store, model, chosen.get(model, ModelOptions()), None) for model in models)
    return tuple(_space_of(classifier, block, store, chosen) for block in classifier.schema.blocks)


def require_schema(classifier: Classifier, targets: Sequence[SpaceTarget], preparation: Preparation, what: str) -> None:
    """Refuse spaces or a preparation that are not those that a classifier was trained on.

    Raises
    ------
    SchemaError : both sides of every difference are named.
    """
    spaces = [(target.name, target.recipe) for target in targets]
    classifier.schema.require(Schema.of_spaces(spaces, preparation), what=what, owner=classifier.owner)


def _space_of(
    classifier: Classifier, block: Block, store: SpaceStore, options: Mapping[str, ModelOptions]
) -> SpaceTarget:
    """Find the space of one block: by its id, which decides, and else by its name, which is never taken for a path."""
    space = _space(store, block.space_id)
    if space is None and block.space not in MODELS:
        space = _space(store, block.space)
    if space is not None:
        chosen = _options_of(space.recipe, options.get(block.space, ModelOptions()))
        source = NamedModel.of(space.recipe.model, chosen) if space.recipe.model in MODELS else None
        return SpaceTarget(store, space.recipe, space.name, space, partial(_obtain, space, chosen), source=source)
    if block.space not in MODELS:
        raise UnknownModelError(
            f"Cannot find block {block} of {classifier.owner}: no model is named {plain(block.space)}, and the store "
            f"{store.location} has no such space. {_HINT}"
        )
    try:
        return find_target(store, block.space, options.get(block.space, ModelOptions()))
    except SpaceConflictError as error:
        raise _other_recipe(classifier, block, store, error) from error
    except ModelError as error:
        raise type(error)(f"Cannot find block {block} of {classifier.owner}. {error} {_HINT}") from error


def _obtain(space: Space, options: ModelOptions) -> Model:
    """Get the model of a space by its recipe, which the creator of the space wrote: a name, never a path."""
    if space.recipe.model not in MODELS:
        raise UnknownModelError(f"No model is named {plain(space.recipe.model)}. {_HINT}")
    return resolve(space.recipe.model, options)


def _other_recipe(classifier: Classifier, block: Block, store: SpaceStore, error: SpaceConflictError) -> SchemaError:
    """Say which space has the name, where it is not the block's."""
    found = store.space(block.space)
    sides = (f"{block.space} of recipe {block.space_id}", f"{found.name} of recipe {found.id}")
    return SchemaError(
        f"Cannot use the store {store.location} with {classifier.owner}: expected {sides[0]}, found {sides[1]}. "
        "Use the store that it was trained on, or train again.",
        {"space": sides, **error.differences},
    )


def _space(store: SpaceStore, name_or_id: str) -> Space | None:
    try:
        return store.space(name_or_id)
    except SpaceNotFoundError:
        return None


def _options_of(recipe: Recipe, chosen: ModelOptions) -> ModelOptions:
    """Return the options that lead to a recipe, with what was chosen; the built-in models have none."""
    if recipe.weights_sha256 is None:
        return chosen
    return ModelOptions(
        weights=chosen.weights,
        precision=chosen.precision or recipe.precision,
        long=chosen.long or recipe.long,
        max_length=recipe.max_length_tokens if chosen.max_length is None else chosen.max_length,
        pooling=chosen.pooling or next((known for known in POOLINGS if known == recipe.pooling), None),
        layer=chosen.layer if chosen.layer is not None or recipe.layer == LAST_LAYER else int(recipe.layer),
        rare_residues=chosen.rare_residues or recipe.rare_residues,
        on_download=chosen.on_download,
    )
