"""Weights of the named models: from the local Hugging Face cache, or downloaded at the pinned revision.

Only the files that a model needs are fetched, none of the repository's code. What is in the local cache is used without
asking the network; that digests are the published ones is checked by `resolution`, wherever the files came from.
"""

from __future__ import annotations

import importlib
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

from embedstore.errors import MissingDependencyError, WeightsNotFoundError
from embedstore.models.registry import ModelSpec

_ANSWER_TIMEOUT_S = 10


def find(spec: ModelSpec, *, download: bool = True) -> Path:
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
            "Install embedstore[models], or give --weights DIR."
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
        raise FileNotFoundError(f"the files of {spec.repository} are of several revisions")
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
