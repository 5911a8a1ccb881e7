"""What is installed on this machine: versions, extras, processors and GPUs, and the models that are ready to use."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from embedstore.doctor.findings import Finding
from embedstore.errors import MissingDependencyError, WeightsNotFoundError
from embedstore.models.machine import processor
from embedstore.models.registry import MODELS, ModelSpec
from embedstore.models.resolution import find_weights

_GROUP = "software"
_EXTRAS = {
    "models": "language models",
    "train": "training and classifying",
    "remote": "stores at URLs",
    "trust": "signatures",
    "cluster": "filling through Dask",
}
"""Extra -> what it is for."""
_SHOWN = ("numpy", "zarr", "h5py", "google-crc32c", "torch", "transformers")
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)[^;]*;.*extra == ['\"]([a-z]+)['\"]")
_DISTRIBUTION = "embedstore-bio"
_GPU_TIMEOUT_S = 60.0
_ASK_TORCH = """
import json, torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
about = [torch.cuda.get_device_properties(number) for number in range(count)]
print(json.dumps([{"name": each.name, "memory_bytes": each.total_memory} for each in about]))
"""
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd")


def version_findings() -> Iterator[Finding]:
    """Report what is installed, by its metadata; none of it is imported."""
    python = platform.python_version()
    found = {"embedstore": installed(_DISTRIBUTION)} | {name: installed(name) for name in _SHOWN}
    said = ", ".join(f"{name} {number}" for name, number in found.items() if number is not None)
    yield Finding(_GROUP, "versions", "ok", f"python {python}, {said}", "", {"python": python, **found})
    missing = {extra: names for extra in _EXTRAS if (names := _not_installed(extra))}
    if missing:
        found_text = "; ".join(f"{extra} ({_EXTRAS[extra]})" for extra in missing)
        advice = f"If you want them: pip install 'embedstore-bio[{','.join(missing)}]'"
        yield Finding(_GROUP, "extras", "warn", f"not installed: {found_text}", advice, {"missing": missing})
    else:
        yield Finding(_GROUP, "extras", "ok", "all installed", "", {"missing": {}})
    yield _checksums()


def _checksums() -> Finding:
    import google_crc32c

    native = google_crc32c.implementation == "c"
    data = {"implementation": google_crc32c.implementation}
    if native:
        return Finding(_GROUP, "checksums", "ok", "by the processor's own instructions", "", data)
    advice = "Install a google-crc32c with its C extension: reading is hundreds of times slower without it."
    return Finding(_GROUP, "checksums", "warn", "in plain Python", advice, data)


def installed(name: str) -> str | None:
    """Return the version of a package, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _not_installed(extra: str) -> list[str]:
    """Return the packages of an extra that are not installed."""
    matches = (_REQUIREMENT.match(each) for each in requires(_DISTRIBUTION) or ())
    names = [match[1] for match in matches if match is not None and match[2] == extra]
    return [name for name in names if name != _DISTRIBUTION and installed(name) is None]


def processor_findings() -> Iterator[Finding]:
    """Say what models run on. torch is asked in a separate process, and only where there is a driver."""
    yield Finding(_GROUP, "processor", "ok", processor(), "", {"name": processor()})
    driver = any(Path(device).exists() for device in _GPU_DEVICES)
    data: dict[str, object] = {"driver": driver, "gpus": []}
    if not driver:
        yield Finding(_GROUP, "gpu", "ok", "none: models run on the processor", "", data)
    elif installed("torch") is None:
        advice = "pip install 'embedstore-bio[models]' to use it."
        yield Finding(_GROUP, "gpu", "warn", "there is a driver, and no torch", advice, data)
    else:
        gpus = _gpus()
        data["gpus"] = gpus
        if gpus:
            names = ", ".join(f"{gpu['name']} ({int(str(gpu['memory_bytes'])) / 2**30:.0f} GiB)" for gpu in gpus)
            yield Finding(_GROUP, "gpu", "ok", names, "", data)
        else:
            advice = "Install a torch that was built for it, and check CUDA_VISIBLE_DEVICES."
            yield Finding(_GROUP, "gpu", "warn", "there is a driver, but torch cannot use it", advice, data)


def _gpus() -> list[dict[str, object]]:
    try:
        asked = subprocess.run(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True, timeout=_GPU_TIMEOUT_S, check=True
        )
        gpus: list[dict[str, object]] = json.loads(asked.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return []
    return gpus


_MODELS = "models"


def model_findings() -> Iterator[Finding]:
    """Look for the weights of the named models in the local cache; the network is not asked."""
    built_in = [spec.name for spec in MODELS.values() if spec.built_in]
    yield Finding(_MODELS, "built in", "ok", ", ".join(built_in), "", {"models": built_in})
    here: dict[str, str] = {}
    missing: list[ModelSpec] = []
    for spec in MODELS.values():
        if spec.built_in:
            continue
        try:
            here[spec.name] = str(find_weights(spec, download=False))
        except WeightsNotFoundError:
            missing.append(spec)
        except MissingDependencyError as error:
            advice = "pip install 'embedstore-bio[models]', or give --weights DIR."
            yield Finding(_MODELS, "weights", "warn", f"cannot be looked for: {error}", advice)
            return
    found = ", ".join(here) or "none in the local cache"
    yield Finding(_MODELS, "weights", "ok", found, "", {"folders": here})
    if missing:
        sizes = ", ".join(f"{spec.name}{_size(spec)}" for spec in missing)
        advice = "Downloaded when first used; without a network, give --weights DIR."
        data = {"models": {spec.name: spec.weights_bytes for spec in missing}}
        yield Finding(_MODELS, "to download", "ok", sizes, advice, data)


def _size(spec: ModelSpec) -> str:
    if spec.weights_bytes is None:
        return ""
    gibibytes = spec.weights_bytes / 2**30
    return f" ({gibibytes:.1f} GiB)" if gibibytes >= 1 else f" ({gibibytes * 1024:.0f} MiB)"
