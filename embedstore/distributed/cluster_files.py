"""Files that say which Dask cluster to start.

kind: slurm        # local, slurm, pbs or lsf
minimum: 0
maximum: 40
options:           # of dask_jobqueue's SLURMCluster, PBSCluster, LSFCluster, or of distributed's LocalCluster
  queue: gpu
  cores: 8
  memory: 32GB
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from embedstore.distributed.dask_workers import CLASSES, DaskCluster
from embedstore.errors import InputError, MissingDependencyError

_FIELDS = {"kind", "minimum", "maximum", "options"}


def read_cluster_file(path: Path) -> DaskCluster:
    """Read which cluster a YAML file describes.

    Raises
    ------
    InputError : it cannot be read, or is something else.
    MissingDependencyError : the extra `cluster` is not installed.
    """
    document = _parsed(path)
    if not isinstance(document, dict):
        raise InputError(f"Cannot start the cluster of {path}: expected kind, maximum and more, found no such fields.")
    unknown = sorted(map(str, document.keys() - _FIELDS))
    if unknown:
        raise InputError(
            f"Cannot start the cluster of {path}: expected {', '.join(sorted(_FIELDS))}, found {', '.join(unknown)}. "
            "What the class of the cluster takes belongs under options."
        )
    kind, options = document.get("kind"), document.get("options") or {}
    if kind not in CLASSES:
        raise InputError(f"Cannot start the cluster of {path}: expected kind {', '.join(CLASSES)}, found {kind!r}.")
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        raise InputError(f"Cannot start the cluster of {path}: expected names and values under options.")
    maximum = _count(path, document, "maximum", None)
    return DaskCluster(kind, _count(path, document, "minimum", maximum), maximum, options)


def _count(path: Path, document: dict[str, Any], name: str, default: int | None) -> int:
    found = document.get(name, default)
    if not isinstance(found, int) or isinstance(found, bool):
        raise InputError(
            f"Cannot start the cluster of {path}: expected a number of workers as {name}, found {found!r}."
        )
    return found


def _parsed(path: Path) -> object:
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError as error:
        raise MissingDependencyError(
            f"Cannot read {path}: {error.name} is not installed. Install it with `pip install 'embedstore[cluster]'`."
        ) from error
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {path}: it is not YAML: {error}") from error
