"""How a name or a directory becomes a model with a recipe, and where its weights are found.

Resolving reads configurations and hashes files. Torch is imported, and weights are loaded, only by `Model.load`.

Weights of named models come from the local Hugging Face cache, which is used without asking the network, or are
downloaded at the pinned revision: only the files that a model needs, none of the repository's code. Wherever the files
come from, their digests must be the published ones.
"""

from __future__ import annotations

import difflib
import importlib
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from embedstore.errors import InputError, MissingDependencyError, UnknownModelError, WeightsError, WeightsNotFoundError
from embedstore.home import expanded
from embedstore.identity import CANONICALISATION, LongPolicy, Precision, Recipe
from embedstore.models.checkpoint import Checkpoint, find_checkpoint
from embedstore.models.embedder import Embedder, Model, ModelShape
from embedstore.models.registry import ARCHITECTURES, MODELS, Architecture, ModelSpec, Pooling

_ANSWER_TIMEOUT_S = 10


def find_weights(spec: ModelSpec, *, download: bool = True) -> Path:
    """Return the folder with the files that the model needs.

    Parameters
    ----------
    download : fetch them if they are not in the local cache.

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
    # Its errors derive from those of the HTTP library that it uses, which differs from release to release.
    errors: tuple[type[BaseException], ...] = (OSError, *hub.errors.HfHubHTTPError.__bases__)
    try:
        return _folder(fetch, spec)
    except errors as error:
        raise WeightsNotFoundError(_what_to_do(spec, _first_cause(error))) from error


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


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What the user may choose; None is the model's default.

    Attributes
    ----------
    weights : folder, `.pt` or `.pth` file with the weights of a named model.
    long : what happens to sequences beyond the maximal length.
    max_length : content tokens (residues of proteins) that the model sees at once.
    pooling : "mean" or "mean_all".
    """

    weights: Path | None = None
    precision: Precision | None = None
    long: LongPolicy | None = None
    max_length: int | None = None
    pooling: Pooling | None = None


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
    checkpoint = find_checkpoint(options.weights or find_weights(spec, download=download))
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
        most_tokens=checkpoint.most_tokens,
    )
    load = partial(_load, ARCHITECTURES[spec.architecture], recipe, checkpoint)
    return Model(spec.name, recipe, load, checkpoint.shape)


def is_built_in(recipe: Recipe) -> bool:
    """Tell whether a recipe is one of the models that are part of this package, as they are now."""
    spec = MODELS.get(recipe.model)
    return spec is not None and spec.built_in and is_recipe_of(spec.name, recipe)


def is_recipe_of(name: str, recipe: Recipe) -> bool:
    """Tell whether a recipe may have a name: that of a model is only for the recipes of that model."""
    spec = MODELS.get(name)
    if spec is None:
        return True
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
        most_tokens=checkpoint.most_tokens,
    )
    return Model(checkpoint.name, recipe, partial(_load, architecture, recipe, checkpoint), checkpoint.shape)


def _unknown(model: str) -> str:
    near = difflib.get_close_matches(model.lower(), MODELS, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"No model is named {model!r}, and there is no such directory.{hint} Known models: {', '.join(MODELS)}."


def _built_in(spec: ModelSpec, options: ModelOptions) -> Model:
    unsuitable = [
        f"--{name.replace('_', '-')}"
        for name in ("weights", "long", "max_length", "pooling")
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
    most_tokens: int | None,
) -> Recipe:
    precision = options.precision or architecture.precision
    pooling = options.pooling or architecture.pooling
    if pooling == "frequencies":
        raise InputError(f"Cannot pool {model} by {pooling}: expected mean or mean_all.")
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
        layer="last",
        pooling=pooling,
        pooled_special_tokens=architecture.special_tokens if pooling == "mean_all" else (),
        max_length_tokens=max_length,
        long=long,
        window_overlap_tokens=overlap,
        precision=precision,
        dtype="float16" if precision == "half" else "float32",
        dim=dim,
    )


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
