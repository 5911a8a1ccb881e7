"""Which models can be used here at once, and what would be downloaded for the others."""

from __future__ import annotations

from collections.abc import Iterator

from embedstore.doctor.findings import Finding
from embedstore.errors import MissingDependencyError, WeightsNotFoundError
from embedstore.models import hub
from embedstore.models.registry import MODELS, ModelSpec

_GROUP = "models"


def model_findings() -> Iterator[Finding]:
    """Look for the weights of the named models in the local cache; the network is not asked."""
    built_in = [spec.name for spec in MODELS.values() if spec.built_in]
    yield Finding(_GROUP, "built in", "ok", ", ".join(built_in), "", {"models": built_in})
    here: dict[str, str] = {}
    lacking: list[ModelSpec] = []
    for spec in MODELS.values():
        if spec.built_in:
            continue
        try:
            here[spec.name] = str(hub.find(spec, download=False))
        except WeightsNotFoundError:
            lacking.append(spec)
        except MissingDependencyError as error:
            advice = "pip install 'embedstore[models]', or give --weights DIR."
            yield Finding(_GROUP, "weights", "warn", f"cannot be looked for: {error}", advice)
            return
    found = ", ".join(here) or "none in the local cache"
    yield Finding(_GROUP, "weights", "ok", found, "", {"folders": here})
    if lacking:
        sizes = ", ".join(f"{spec.name}{_size(spec)}" for spec in lacking)
        advice = "Downloaded when first used; without a network, give --weights DIR."
        data = {"models": {spec.name: spec.weights_bytes for spec in lacking}}
        yield Finding(_GROUP, "to download", "ok", sizes, advice, data)


def _size(spec: ModelSpec) -> str:
    if spec.weights_bytes is None:
        return ""
    gibibytes = spec.weights_bytes / 2**30
    return f" ({gibibytes:.1f} GiB)" if gibibytes >= 1 else f" ({gibibytes * 1024:.0f} MiB)"
