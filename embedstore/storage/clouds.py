"""How the object store of each cloud is reached: its address, credentials and certificates.

The library below reads most of the environment by itself; here is what it does not.

- The files of the AWS command line: `~/.aws/credentials` has a section a profile, `~/.aws/config` one called `profile
  NAME` (or `default`). The variables AWS_PROFILE, AWS_SHARED_CREDENTIALS_FILE and AWS_CONFIG_FILE are read. What the
  environment says itself goes first.
- `http://` and emulators: the library refuses them unless its client is told otherwise; users who name such an address
  want it.
- Certificate authorities: `SSL_CERT_FILE` and `SSL_CERT_DIR` stand in place of the system's, which both libraries that
  we use read by themselves. `AWS_CA_BUNDLE`, `REQUESTS_CA_BUNDLE` and `CURL_CA_BUNDLE`, which other tools read, come in
  addition: the first that is set.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from embedstore.errors import StorageError
from embedstore.home import expanded

_OTHER_SOURCES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)
_KEYS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
_NEED_A_PROGRAM = ("sso_session", "sso_start_url", "role_arn", "credential_process")


def settings_of_files(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what the environment leaves open: credentials, region, endpoint; {} where the files say nothing.

    Raises
    ------
    StorageError : the profile's credentials are not in the files but come from a program.
    """
    profile = environment.get("AWS_PROFILE") or "default"
    section = profile if profile == "default" else f"profile {profile}"
    config = _section(environment.get("AWS_CONFIG_FILE") or "~/.aws/config", section)
    credentials = _section(environment.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials", profile)
    found = {}
    if not any(environment.get(name) for name in _OTHER_SOURCES):
        said = {**config, **credentials}
        found = {ours: said[theirs] for theirs, ours in _KEYS.items() if theirs in said}
        if not found and any(name in said for name in _NEED_A_PROGRAM):
            raise StorageError(
                f"Cannot use the AWS profile {profile}: expected keys in its section, found a role or single sign-on. "
                "Run `eval $(aws configure export-credentials --format env)` first."
            )
    if "region" in config and not (environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")):
        found["region"] = config["region"]
    if "endpoint_url" in config and not endpoint_of(environment):
        found["endpoint"] = config["endpoint_url"]
    return found


def endpoint_of(environment: Mapping[str, str]) -> str | None:
    """Return the address of the S3 server that the environment names."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        if environment.get(name):
            return environment[name]
    return None


def _section(file: str, name: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    path = expanded(file)
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, OSError, UnicodeDecodeError):
        # Its text may hold a secret, so the reason is not passed on.
        raise StorageError(f"Cannot read the AWS settings in {path}. Fix the file, or use the environment.") from None
    return dict(parser[name]) if parser.has_section(name) else {}


_ADDED = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_MOST_BYTES = 16 << 20  # all that browsers trust take a quarter of a megabyte

ADVICE = (
    "If it is signed by an authority of your own, name the file of that authority's certificate (PEM) in "
    "SSL_CERT_FILE, or in AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE beside the system's."
)


def added_authorities() -> str | None:
    """Return the certificates (PEM) of the authorities that the environment adds; None where it adds none.

    Raises
    ------
    StorageError : a variable names no such file, or one without certificates.
    """
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if os.environ.get(variable) and not Path(os.environ[variable]).exists():
            raise _unusable(variable, "it is not there")
    variable = next((name for name in _ADDED if os.environ.get(name)), "")
    if not variable:
        return None
    place = Path(os.environ[variable])
    try:
        files = sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else [place]
        if sum(file.stat().st_size for file in files) > _MOST_BYTES:
            raise _unusable(variable, f"expected at most {_MOST_BYTES >> 20} MiB of certificates, found more")
        contents = [content for file in files if _BEGIN in (content := file.read_bytes())]
        text = b"\n".join(contents).decode("utf-8")
    except OSError as error:
        raise _unusable(variable, error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise _unusable(variable, "expected text (PEM), found bytes") from None
    if not text:
        raise _unusable(variable, "expected certificates (PEM), found none")
    return text


def _unusable(variable: str, reason: str) -> StorageError:
    return StorageError(
        f"Cannot read the certificates in {os.environ[variable]}, which {variable} names: {reason}. "
        "Name a file of certificates (PEM), or unset the variable."
    )


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
    environment : `os.environ`.

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
