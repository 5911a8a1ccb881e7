"""How a name or a directory becomes a model with a recipe, and where its weights are found.

Resolving reads configurations and hashes files. Torch is imported, and weights are loaded, only by `Model.load`.

Weights of named models come from the local Hugging Face cache, which is used without asking the network, or are
downloaded at the pinned revision: only the files that a model needs, none of the repository's code. Wherever the files
come from, their digests must be the published ones.
"""

from __future__ import annotations

import difflib
import importlib
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

from embedstore.errors import InputError, MissingDependencyError, UnknownModelError, WeightsError, WeightsNotFoundError
from embedstore.home import expanded
from embedstore.identity import CANONICALISATION, LongPolicy, Precision, RareResidues, Recipe
from embedstore.models.checkpoint import Checkpoint, find_checkpoint
from embedstore.models.embedder import Embedder, Model, ModelShape
from embedstore.models.registry import ARCHITECTURES, LAST_LAYER, MODELS, POOLINGS, Architecture, ModelSpec, Pooling

_ANSWER_TIMEOUT_S = 10


def find_weights(spec: ModelSpec, *, download: bool = True, on_download: Callable[[str], object] | None = None) -> Path:
    """Return the folder with the files that the model needs.

    Parameters
    ----------
    download : fetch them if they are not in the local cache.
    on_download : told, in a line, what is about to be downloaded and under which licence.

    Raises
    ------
    MissingDependencyError : huggingface_hub is not installed.
    WeightsNotFoundError : they are not in the local cache, and there is no way to the hub.
    """
    try:
        hub = importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"Cannot look for the weights of {spec.name}: {error.name} is not installed. "
            "Install embedstore-bio[models], or give --weights DIR."
        ) from error
    fetch = partial(hub.hf_hub_download, spec.repository, revision=spec.revision, etag_timeout=_ANSWER_TIMEOUT_S)
    try:
        return _folder(partial(fetch, local_files_only=True), spec)
    except OSError:
        pass  # not in the cache, or not all of it
    if not download:
        raise WeightsNotFoundError(_what_to_do(spec, "not asked for"))
    obstacle = "HF_HUB_OFFLINE is set" if hub.constants.HF_HUB_OFFLINE else _obstacle(hub.constants.ENDPOINT)
    if obstacle is not None:
        raise WeightsNotFoundError(_what_to_do(spec, obstacle))
    if on_download is not None:
        on_download(_what_is_downloaded(spec))
    # Its errors derive from those of the HTTP library that it uses, which differs from release to release.
    errors: tuple[type[BaseException], ...] = (OSError, *hub.errors.HfHubHTTPError.__bases__)
    try:
        return _folder(fetch, spec)
    except errors as error:
        raise WeightsNotFoundError(_what_to_do(spec, _first_cause(error))) from error


def _what_is_downloaded(spec: ModelSpec) -> str:
    size = "" if spec.weights_bytes is None else f" ({spec.weights_bytes / 1e9:.1f} GB)"
    licence = "its licence is not known to embedstore" if spec.licence is None else f"licence {spec.licence}"
    return f"Downloading the weights of {spec.name}{size} from https://huggingface.co/{spec.repository}: {licence}."


def _folder(fetch: Callable[..., str], spec: ModelSpec) -> Path:
    folders = {Path(fetch(filename=name)).parent for name in spec.files}
    if len(folders) != 1:  # the branch moved between two files
        raise FileNotFoundError(f"the files of {spec.repository} belong to several revisions")
    return folders.pop()


def _obstacle(endpoint: str) -> str | None:
    """Why the hub cannot be reached, None if it can, or if only a proxy can tell.

    Asked beforehand, since huggingface_hub itself tries for half a minute, and says so on standard error.
    """
    if urllib.request.getproxies():
        return None
    address = urllib.parse.urlsplit(endpoint)
    host, port = address.hostname or endpoint, address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((host, port), timeout=_ANSWER_TIMEOUT_S).close()
    except OSError as error:
        return f"{host} cannot be reached: {error}"
    return None


def _first_cause(error: BaseException) -> str:
    """First line of what went wrong first; what is raised in the end only says to check the connection."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _what_to_do(spec: ModelSpec, reason: str) -> str:
    revision = spec.revision or "main"
    return (
        f"Cannot find the weights of {spec.name}: they are not in the local Hugging Face cache, and cannot be "
        f"downloaded ({reason}). Where there is a network, get {', '.join(spec.files)} of "
        f"https://huggingface.co/{spec.repository}/tree/{revision}, put them into one folder, and give --weights DIR."
    )


_OVERLAP_TOKENS = 256
_BEFORE_AND_AFTER = 2  # special tokens of an architecture that has one before the residues


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What the user may choose; None is the model's default.

    Attributes
    ----------
    weights : folder, `.pt` or `.pth` file with the weights of a named model.
    long : what happens to sequences beyond the maximal length.
    max_length : content tokens (residues of proteins) that the model sees at once.
    pooling : "mean", "mean_all", "max", "std", "sum" or "cls"; see `pooling`.
    layer : as Hugging Face counts: 0 is the embedding, 1 the states after the first layer; the last one, and -1, after
        the model's last norm; -2 the one before it.
    rare_residues : which of U, Z, O and B the model is given as X.
    on_download : told, in a line, what is about to be downloaded and under which licence.
    """

    weights: Path | None = None
    precision: Precision | None = None
    long: LongPolicy | None = None
    max_length: int | None = None
    pooling: Pooling | None = None
    layer: int | None = None
    rare_residues: RareResidues | None = None
    on_download: Callable[[str], object] | None = field(default=None, compare=False)


_DEFAULT_OPTIONS = ModelOptions()


def resolve(model: str, options: ModelOptions = _DEFAULT_OPTIONS, *, download: bool = True) -> Model:
    """Return the model of that name, or of that directory (or `.pt`, `.pth` file); a name of the registry comes first.

    Parameters
    ----------
    download : fetch the weights of a named model if they are not on this machine.

    Raises
    ------
    UnknownModelError : neither a known name nor a directory.
    WeightsNotFoundError : the weights of a named model are neither here nor can be downloaded.
    WeightsError : they are of another size than that model, or not the published ones.
    InputError : an option does not suit the model.
    """
    spec = MODELS.get(model)
    if spec is None:
        return _local(model, options)
    if spec.built_in:
        return _built_in(spec, options)
    checkpoint = find_checkpoint(
        options.weights or find_weights(spec, download=download, on_download=options.on_download)
    )
    _check_sizes(spec, checkpoint)
    weights_sha256, tokenizer_sha256 = checkpoint.weights_sha256(), checkpoint.tokenizer_sha256()
    _check_digests(spec, checkpoint, weights_sha256, tokenizer_sha256)
    recipe = _language_recipe(
        ARCHITECTURES[spec.architecture],
        options,
        model=spec.name,
        source=spec.repository,
        revision=spec.revision,
        weights_sha256=weights_sha256,
        tokenizer_sha256=tokenizer_sha256,
        dim=spec.dim,
        layers=checkpoint.layers,
        most_tokens=checkpoint.most_tokens,
    )
    load = partial(_load, ARCHITECTURES[spec.architecture], recipe, checkpoint)
    name = level_name(spec.name, recipe.layer, recipe.pooling, ARCHITECTURES[spec.architecture])
    return Model(name, recipe, load, checkpoint.shape)


def is_built_in(recipe: Recipe) -> bool:
    """Tell whether a recipe is one of the models that are part of this package, as they are now."""
    spec = MODELS.get(recipe.model)
    return spec is not None and spec.built_in and is_recipe_of(spec.name, recipe)


_LEVEL_NAME = re.compile(rf"(?P<model>.+?)(-layer(?P<layer>[0-9]+))?(-(?P<pooling>{'|'.join(POOLINGS)}))?")


def is_recipe_of(name: str, recipe: Recipe) -> bool:
    """Tell whether a recipe may have a name: that of a model, or of a level of one, is only for its own recipes."""
    stated = _LEVEL_NAME.fullmatch(name)
    spec = MODELS.get(stated["model"]) if stated is not None else None
    if spec is None or stated is None:
        return True
    if (stated["layer"] or recipe.layer, stated["pooling"] or recipe.pooling) != (recipe.layer, recipe.pooling):
        return False
    if spec.built_in:
        return recipe == _built_in(spec, ModelOptions(precision=recipe.precision)).recipe
    known = {digest for digest in (spec.weights_sha256, spec.fair_esm_sha256) if digest is not None}
    return (
        (recipe.model, recipe.source, recipe.revision) == (spec.name, spec.repository, spec.revision)
        and (recipe.molecule, recipe.dim) == (spec.molecule, spec.dim)
        and (not known or recipe.weights_sha256 in known)
        and spec.tokenizer_sha256 in (None, recipe.tokenizer_sha256)
    )


def _local(model: str, options: ModelOptions) -> Model:
    path = expanded(model)
    if not path.exists():
        raise UnknownModelError(_unknown(model))
    if options.weights is not None:
        raise InputError(
            f"Cannot use {model} with other weights: the directory already holds its weights. Leave out --weights."
        )
    checkpoint = find_checkpoint(path)
    architecture = ARCHITECTURES[checkpoint.architecture]
    recipe = _language_recipe(
        architecture,
        options,
        # Named after the architecture, not the place: what identifies the weights is their digest.
        model=checkpoint.architecture,
        source="local",
        revision=None,
        weights_sha256=checkpoint.weights_sha256(),
        tokenizer_sha256=checkpoint.tokenizer_sha256(),
        dim=checkpoint.dim,
        layers=checkpoint.layers,
        most_tokens=checkpoint.most_tokens,
    )
    name = level_name(checkpoint.name, recipe.layer, recipe.pooling, architecture)
    return Model(name, recipe, partial(_load, architecture, recipe, checkpoint), checkpoint.shape)


def level_name(name: str, layer: str, pooling: str, architecture: Architecture) -> str:
    """Return the name of a model's space: with layer and pooling where they are not the model's usual ones."""
    suffix = "" if layer == LAST_LAYER else f"-layer{layer}"
    return name + suffix + ("" if pooling == architecture.pooling else f"-{pooling}")


@dataclass(frozen=True, slots=True)
class SpaceWanted:
    """What is known of the space of a model whose weights are not at hand.

    Attributes
    ----------
    name : of the space, unless the user says otherwise.
    layer, pooling : as in its recipe; None: not asked for.
    """

    name: str
    layer: str | None
    pooling: Pooling | None


def space_wanted(model: str, options: ModelOptions) -> SpaceWanted:
    """Say which space a model, or the name of a space, stands for.

    Raises
    ------
    InputError : the model has no such layer.
    """
    spec = MODELS.get(model)
    if spec is not None and spec.layers is not None:
        architecture = ARCHITECTURES[spec.architecture]
        layer, pooling = layer_text(model, spec.layers, options.layer), options.pooling or architecture.pooling
        return SpaceWanted(level_name(model, layer, pooling, architecture), layer, pooling)
    asked = None if options.layer is None else LAST_LAYER if options.layer == -1 else str(options.layer)
    return SpaceWanted(model, asked, options.pooling)


def _unknown(model: str) -> str:
    near = difflib.get_close_matches(model.lower(), MODELS, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"No model is named {model!r}, and there is no such directory.{hint} Known models: {', '.join(MODELS)}."


def _built_in(spec: ModelSpec, options: ModelOptions) -> Model:
    unsuitable = [
        f"--{name.replace('_', '-')}"
        for name in ("weights", "long", "max_length", "layer", "pooling", "rare_residues")
        if getattr(options, name) is not None
    ]
    if unsuitable:
        raise InputError(f"Cannot use {spec.name} with {', '.join(unsuitable)}: it is built in and has no such option.")
    architecture = ARCHITECTURES[spec.architecture]
    precision = options.precision or architecture.precision
    recipe = Recipe(
        model=spec.name,
        source=spec.repository,
        revision=None,
        weights_sha256=None,
        tokenizer_sha256=None,
        implementation=architecture.implementation,
        molecule=architecture.molecule,
        canonicalisation=CANONICALISATION[architecture.molecule],
        layer="none",
        pooling=architecture.pooling,
        pooled_special_tokens=(),
        max_length_tokens=None,
        long="none",
        window_overlap_tokens=None,
        precision=precision,
        dtype="float16" if precision == "half" else "float32",
        dim=spec.dim,
    )
    shape = ModelShape(spec.architecture, None, spec.dim)
    return Model(spec.name, recipe, partial(_load, architecture, recipe, None), shape)


def _language_recipe(
    architecture: Architecture,
    options: ModelOptions,
    *,
    model: str,
    source: str,
    revision: str | None,
    weights_sha256: str,
    tokenizer_sha256: str | None,
    dim: int,
    layers: int,
    most_tokens: int | None,
) -> Recipe:
    precision = options.precision or architecture.precision
    pooling = options.pooling or architecture.pooling
    if pooling not in POOLINGS:
        raise InputError(f"Cannot pool {model} by {pooling!r}: expected one of {', '.join(POOLINGS)}.")
    max_length, long, overlap = _length_policy(architecture, options, most_tokens)
    return Recipe(
        model=model,
        source=source,
        revision=revision,
        weights_sha256=weights_sha256,
        tokenizer_sha256=tokenizer_sha256,
        implementation=architecture.implementation,
        molecule=architecture.molecule,
        canonicalisation=CANONICALISATION[architecture.molecule],
        layer=layer_text(model, layers, options.layer),
        pooling=pooling,
        pooled_special_tokens=_pooled_special_tokens(model, architecture, pooling),
        max_length_tokens=max_length,
        long=long,
        window_overlap_tokens=overlap,
        precision=precision,
        dtype="float16" if precision == "half" else "float32",
        dim=dim,
        rare_residues=_rare_residues(model, architecture, options),
    )


def layer_text(model: str, layers: int, asked: int | None) -> str:
    """Return how a recipe says which layer is pooled; one way for each layer, however it was asked for.

    Raises
    ------
    InputError : the model has no such layer.
    """
    if asked is None:
        return LAST_LAYER
    place = asked if asked >= 0 else layers + 1 + asked
    if not 0 <= place <= layers:
        raise InputError(
            f"Cannot take layer {asked} of {model}: expected 0 (the embedding) to {layers} (the last, as -1), or "
            f"-{layers + 1} to -1."
        )
    return LAST_LAYER if place == layers else str(place)


def _pooled_special_tokens(model: str, architecture: Architecture, pooling: Pooling) -> tuple[str, ...]:
    if pooling == "cls":
        if len(architecture.special_tokens) < _BEFORE_AND_AFTER:
            raise InputError(f"Cannot pool {model} by cls: it has no special token before the residues.")
        return architecture.special_tokens[:1]
    return architecture.special_tokens if pooling == "mean_all" else ()


def _rare_residues(model: str, architecture: Architecture, options: ModelOptions) -> RareResidues:
    chosen = options.rare_residues or architecture.rare_residues or "kept"
    if architecture.rare_residues is None and chosen != "kept":
        raise InputError(
            f"Cannot use {model} with rare residues {chosen}: expected kept, since each of U, Z, O and B is a token "
            "of its own. Only T5 models have a choice."
        )
    return chosen


def _length_policy(
    architecture: Architecture, options: ModelOptions, most_tokens: int | None
) -> tuple[int | None, LongPolicy, int | None]:
    """Maximal length, what happens beyond it, and how far windows overlap."""
    long = options.long or "window"
    if most_tokens is not None and (long == "none" or (options.max_length or 0) > most_tokens):
        asked = "no limit" if long == "none" else f"a maximal length of {options.max_length}"
        raise InputError(
            f"Cannot use the model with {asked}: it has learned positions for at most {most_tokens} residues. "
            "Longer sequences can be treated in windows (the default), truncated, or rejected."
        )
    if long == "none":
        if options.max_length is not None:
            raise InputError(
                "Cannot combine a maximal length with unlimited long sequences. Leave out one of the two options."
            )
        return None, long, None
    max_length = architecture.max_length_tokens if options.max_length is None else options.max_length
    if max_length is not None and most_tokens is not None:
        max_length = min(max_length, most_tokens)
    if max_length is None or max_length < 1:
        raise InputError(f"Cannot use a maximal length of {max_length}: expected at least 1.")
    return max_length, long, min(_OVERLAP_TOKENS, max_length // 2) if long == "window" else None


def _check_sizes(spec: ModelSpec, checkpoint: Checkpoint) -> None:
    for what, expected, found in (
        ("vectors of length", spec.dim, checkpoint.dim),
        ("layers:", spec.layers, checkpoint.layers),
    ):
        if expected != found:
            raise WeightsError(
                f"Cannot use {checkpoint.path} as {spec.name}: expected {what} {expected}, found {found}. "
                f"Give the weights of {spec.repository}, or give the directory itself as the model."
            )
    family = ARCHITECTURES[spec.architecture].implementation
    if ARCHITECTURES[checkpoint.architecture].implementation != family:
        raise WeightsError(
            f"Cannot use {checkpoint.path} as {spec.name}: expected the architecture {spec.architecture}, "
            f"found {checkpoint.architecture}."
        )


def _check_digests(spec: ModelSpec, checkpoint: Checkpoint, weights: str, tokenizer: str | None) -> None:
    published = {"huggingface": spec.weights_sha256, "fair-esm": spec.fair_esm_sha256}.get(checkpoint.layout)
    expected = (("weights", published, weights), ("tokenizer", spec.tokenizer_sha256, tokenizer or ""))
    for what, known, found in expected:
        if known is not None and known != found:
            raise WeightsError(
                f"Cannot use {checkpoint.path} as {spec.name}: expected {what} with SHA-256 {known} "
                f"({spec.repository}), found {found or 'none'}. "
                "Give the published files, or give the directory itself as the model."
            )


def _load(architecture: Architecture, recipe: Recipe, checkpoint: Checkpoint | None, device: str | None) -> Embedder:
    if checkpoint is not None and checkpoint.weights_sha256() != recipe.weights_sha256:
        raise WeightsError(
            f"Cannot load {checkpoint.path}: expected weights with SHA-256 {recipe.weights_sha256}, "
            f"found {checkpoint.weights_sha256()}. They changed since they were found: start again."
        )
    try:
        module = importlib.import_module(f"embedstore.models.{architecture.module}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("embedstore"):
            raise
        raise MissingDependencyError(
            f"Cannot load {recipe.model}: {error.name} is not installed. Install embedstore-bio[models]."
        ) from error
    return cast(Embedder, module.load(recipe, checkpoint, device))
