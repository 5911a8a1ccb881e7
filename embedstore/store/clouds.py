"""What the environment says of a cloud's object store: its address, whether that may be `http://`, an emulator.

The library below reads most of it by itself. It refuses `http://`, though, unless its client is told otherwise; whoever
names such an address, or an emulator, wants it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from embedstore.store.aws_files import endpoint_of, settings_of_files

CONTAINERS = {"s3": "bucket", "gs": "bucket", "az": "container"}
"""What each calls that in which objects lie."""
SOURCES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE and ~/.aws",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or what `gcloud auth application-default login` left",
    "az": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
}
ADDRESSES = {
    "s3": "AWS_ENDPOINT_URL, AWS_REGION",
    "gs": "GOOGLE_BASE_URL, STORAGE_EMULATOR_HOST",
    "az": "AZURE_STORAGE_ENDPOINT, AZURE_STORAGE_USE_EMULATOR",
}
_ALLOWING = {"s3": "AWS_ALLOW_HTTP", "gs": "GOOGLE_ALLOW_HTTP", "az": "AZURE_ALLOW_HTTP"}
_GOOGLE_CREDENTIALS = (
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_BEARER_TOKEN",
)
_NOT_SECRET = ("region", "endpoint", "base_url", "bearer_token")


@dataclass(frozen=True, slots=True)
class CloudSettings:
    """How the store of one cloud is reached.

    Attributes
    ----------
    config : what the library below does not find by itself.
    endpoint : the address that was named, "" where none was.
    allow_http : whether it may be asked without encryption.
    """

    config: Mapping[str, str]
    endpoint: str
    allow_http: bool
    secrets: tuple[str, ...] = field(repr=False)


def cloud_settings(scheme: str, environment: Mapping[str, str]) -> CloudSettings:
    """Read the environment, and for S3 the usual files.

    Parameters
    ----------
    scheme : s3, gs or az.

    Raises
    ------
    StorageError : the files cannot be used.
    """
    config: dict[str, str] = {}
    emulated = False
    if scheme == "s3":
        config = settings_of_files(environment)
        endpoint = endpoint_of(environment) or config.get("endpoint", "")
    elif scheme == "gs":
        endpoint, emulator = environment.get("GOOGLE_BASE_URL", ""), environment.get("STORAGE_EMULATOR_HOST", "")
        if not endpoint and emulator:
            endpoint = emulator if "://" in emulator else f"http://{emulator}"
            config["base_url"] = endpoint.rstrip("/")
            if not any(environment.get(name) for name in _GOOGLE_CREDENTIALS):
                config["bearer_token"] = "emulator"  # noqa: S105 - it wants none, but the library would ask for one
    else:
        endpoint = environment.get("AZURE_STORAGE_ENDPOINT") or environment.get("AZURE_ENDPOINT", "")
        emulated = _is_set(environment.get("AZURE_STORAGE_USE_EMULATOR"))
    allow_http = emulated or endpoint.lower().startswith("http://") or _is_set(environment.get(_ALLOWING[scheme]))
    secrets = tuple(value for name, value in config.items() if name not in _NOT_SECRET)
    return CloudSettings(config, endpoint, allow_http, secrets)


def _is_set(value: str | None) -> bool:
    return (value or "").lower() in ("1", "true", "yes", "on", "y", "t")
