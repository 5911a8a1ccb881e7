"""What is known of this machine: the setting that is fastest for a model, and how fast that is.

`tune`, `bench` and `selftest` measure it, loading a model and dry runs use it. All is in one file,
`$XDG_CACHE_HOME/embedstore/machine.json`, by model, device, arithmetic and release of torch: one home directory may
serve many machines. Without the file, or with a damaged one, the defaults hold. None of it changes what is computed
beyond the tolerance.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from embedstore.identity import Recipe
from embedstore.models.embedder import ModelShape
from embedstore.models.files import cache_file, read_entries, write_entries

_MOST_PACK_TOKENS = 1 << 24
_MOST_THREADS = 4096


@dataclass(frozen=True, slots=True)
class Setting:
    """How a model is run; None is the default of its device.

    Attributes
    ----------
    pack_tokens : tokens computed at once.
    workers : packs computed side by side.
    threads : of the processor, for each of them.
    """

    pack_tokens: int | None = None
    workers: int | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model runs, and in which arithmetic.

    Attributes
    ----------
    device : name of the GPU, or `processor()`.
    dtype : "float32" or "float16".
    """

    device: str
    dtype: str


def kept_setting(shape: ModelShape, place: Place) -> Setting:
    """Return the setting that was kept; the defaults if there is none."""
    entry = _entries("settings").get(_setting_name(shape, place), {})
    tokens, workers, threads = (entry.get(field) for field in ("pack_tokens", "workers", "threads"))
    bounds = ((tokens, _MOST_PACK_TOKENS), (workers, _MOST_THREADS), (threads, _MOST_THREADS))
    return Setting(tokens, workers, threads) if all(_is_number(*bound) for bound in bounds) else Setting()


def keep_setting(shape: ModelShape, place: Place, setting: Setting) -> bool:
    """Keep a setting for this machine; return whether that was possible."""
    return _keep("settings", _setting_name(shape, place), asdict(setting))


def kept_rate(recipe: Recipe, device: str | None = None) -> float | None:
    """Return the residues a second that were measured here; of several devices, on the fastest.

    Parameters
    ----------
    recipe : of the model; a GPU computes `half` and `full` differently, a processor does not.
    device : "cpu" leaves out GPUs.
    """
    here, arithmetic = processor(), "float16" if recipe.precision == "half" else "float32"
    rates = []
    for entry in _entries("rates").values():
        rate = entry.get("residues_per_second")
        known = (entry.get("model"), entry.get("processor"), entry.get("torch"))
        if known != (_model_name(recipe), here, _torch_version()) or not isinstance(rate, float) or not rate > 0:
            continue
        if entry.get("device") == here or (entry.get("dtype") == arithmetic and device != "cpu"):
            rates.append(rate)
    return max(rates, default=None)


def keep_rate(recipe: Recipe, place: Place, residues_per_second: float) -> bool:
    """Keep the speed of a model on this machine; return whether that was possible."""
    model = _model_name(recipe)
    about = {"model": model, **asdict(place), "processor": processor(), "torch": _torch_version()}
    return _keep("rates", f"{model}, {_on_this_machine(place)}", {**about, "residues_per_second": residues_per_second})


def kept_file() -> Path:
    """The file that holds all of it."""
    return cache_file("machine.json")


def usable_processors() -> frozenset[int]:
    """Numbers of the processors that this process may use; of all of them on systems without affinity (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


@cache
def processor() -> str:
    """Name of the processor, and how much of it this process may use."""
    cores = len(usable_processors())
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return f"{_processor_name()} × {min(cores, int(limit)) if limit.isdecimal() and int(limit) else cores}"


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


@cache
def _torch_version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return "none"


def _entries(kind: str) -> dict[str, dict[str, Any]]:
    found = read_entries(kept_file()).get(kind)
    entries = found if isinstance(found, dict) else {}
    return {name: entry for name, entry in entries.items() if isinstance(entry, dict)}


def _keep(kind: str, name: str, entry: Mapping[str, Any]) -> bool:
    document = {each: _entries(each) for each in ("settings", "rates")}
    document[kind][name] = dict(entry)
    return write_entries(kept_file(), document)


def _setting_name(shape: ModelShape, place: Place) -> str:
    return f"{shape.architecture} {shape.layers or 0} × {shape.dim}, {_on_this_machine(place)}"


def _model_name(recipe: Recipe) -> str:
    """Name of a model that has one, else digest of its weights."""
    return (recipe.weights_sha256 if recipe.source == "local" else None) or recipe.model


def _on_this_machine(place: Place) -> str:
    where = dict.fromkeys((place.device, processor()))
    return f"{place.dtype} on {' beside '.join(where)}, torch {_torch_version()}"


def _is_number(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
