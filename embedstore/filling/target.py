"""Where vectors go: the store, the recipe, the space if it exists already, and the model if it is available."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from embedstore.errors import (
    MissingDependencyError,
    ModelError,
    SpaceConflictError,
    SpaceNotFoundError,
    UnknownModelError,
    WeightsNotFoundError,
)
from embedstore.filling.summary import FillProgress, OnProgress
from embedstore.home import expanded
from embedstore.identity import Recipe
from embedstore.models.embedder import Model
from embedstore.models.registry import MODELS
from embedstore.models.resolution import ModelOptions, resolve, space_wanted
from embedstore.store.space import Space
from embedstore.store.store import SpaceStore, recipe_conflict


@dataclass(frozen=True, slots=True)
class SpaceTarget:
    """The space of one recipe in one store.

    Attributes
    ----------
    store : None for a store that is not there yet; then nothing can be stored, only counted.
    name : of the space, existing or to be made.
    space : None until the first vector is stored.
    obtain : gives the model, from the hub if need be; called when something has to be computed. Raises ModelError.
    notice : something that the user should know, a sentence.
    source : gives the same model in another process, where it can be sent by value; None: in this process only.
    """

    store: SpaceStore | None
    recipe: Recipe
    name: str
    space: Space | None
    obtain: Callable[[], Model]
    notice: str | None = None
    source: Callable[[], Model] | None = None

    def get_model(self, missing: str) -> Model:
        """Get the model, without loading it.

        Parameters
        ----------
        missing : how many sequences it is needed for, "12" or "at least 12".

        Raises
        ------
        ModelError : it is not available.
        SpaceConflictError : its recipe is not the space's.
        InputError : signatures are required, and there is no key to sign with.
        """
        if self.store is not None:
            self.store.trust.refuse_unsigned(self.name)  # before hours of work for nothing
        try:
            model = self.obtain()
        except ModelError as error:
            reason = f"Cannot compute {missing} sequences that are missing from space {self.name}. {error}"
            raise type(error)(reason) from error
        if model.recipe != self.recipe:
            raise recipe_conflict(self.name, self.recipe, model.recipe)
        return model


@dataclass(frozen=True, slots=True)
class NamedModel:
    """How to get a model in any process: equal if it is the same, and picklable."""

    model: str
    options: ModelOptions

    @classmethod
    def of(cls, model: str, options: ModelOptions) -> NamedModel:
        """Name a model for processes that may run in another folder."""
        place = expanded(model)
        weights = None if options.weights is None else expanded(options.weights).absolute()
        return cls(
            str(place.absolute()) if model not in MODELS and place.exists() else model,
            replace(options, weights=weights, on_download=None),
        )

    def __call__(self) -> Model:
        return resolve(self.model, self.options)


def find_target(
    store: SpaceStore | None,
    model: str,
    options: ModelOptions,
    name: str | None = None,
    *,
    on_progress: OnProgress | None = None,
) -> SpaceTarget:
    """Find the space that a model fills, or will fill.

    Where the model is unknown or its weights are not on this machine, a space of that name is used: what it
    holds can be read, and the model is fetched only when vectors are missing.

    Parameters
    ----------
    store : None for a store that is not there yet.
    model : name or directory of a model, or name or id of a space.
    options : weights, precision, what happens to long sequences.
    name : of the space; None: that of the model.
    on_progress : told before the model is looked for; hashing the weights of a large one takes a minute, once.

    Raises
    ------
    ModelError : no such model, and no such space either.
    SpaceConflictError : that name is taken by another recipe, or that recipe's space is called otherwise.
    """
    if on_progress is not None:
        on_progress(FillProgress(phase="finding the model", space=name or model))
    try:
        resolved = resolve(model, options, download=False)
    except (UnknownModelError, WeightsNotFoundError, MissingDependencyError):
        space = _space_called(store, model, options, name)
        if space is not None:
            obtain = partial(resolve, model, options)
            return SpaceTarget(store, space.recipe, space.name, space, obtain, source=NamedModel.of(model, options))
        resolved = resolve(model, options)
    source = NamedModel.of(model, options)
    wanted = name or resolved.name
    space = store.find_space(resolved.recipe, wanted) if store is not None else None
    if space is None or space.name == wanted:
        return SpaceTarget(store, resolved.recipe, wanted, space, lambda: resolved, source=source)
    if name is not None:
        raise SpaceConflictError(
            f"Cannot use the name {name}: space {space.name} already holds exactly this recipe. "
            f"Leave out --name, or give --name {space.name}.",
            {"name": (space.name, name)},
        )
    notice = f"Using space {space.name}: it holds exactly this recipe."
    return SpaceTarget(store, resolved.recipe, space.name, space, lambda: resolved, notice, source)


def _space_called(store: SpaceStore | None, model: str, options: ModelOptions, name: str | None) -> Space | None:
    """Find the space to use in place of a model that is not available, if it is certain to be that model's."""
    if store is None:
        return None
    wanted = space_wanted(model, options)
    space = _space_named(store, name or wanted.name) or _space_named(store, name or model)
    if space is None or (name is not None and space.recipe.model != model):
        return None
    recipe = space.recipe
    asked = replace(
        recipe,
        precision=options.precision or recipe.precision,
        long=options.long or recipe.long,
        max_length_tokens=recipe.max_length_tokens if options.max_length is None else options.max_length,
        pooling=options.pooling or recipe.pooling,
        layer=recipe.layer if options.layer is None else wanted.layer or recipe.layer,
        rare_residues=options.rare_residues or recipe.rare_residues,
    )
    if asked != recipe:
        raise recipe_conflict(space.name, recipe, asked)
    return space


def _space_named(store: SpaceStore, name: str) -> Space | None:
    try:
        return store.space(name)
    except SpaceNotFoundError:
        return None
