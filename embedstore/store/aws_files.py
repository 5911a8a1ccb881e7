"""What the files of the AWS command line say, for libraries that only look at the environment.

`~/.aws/credentials` has a section a profile, `~/.aws/config` one called `profile NAME` (or `default`). The variables
AWS_PROFILE, AWS_SHARED_CREDENTIALS_FILE and AWS_CONFIG_FILE are read. The environment goes first.
"""

from __future__ import annotations

import configparser
from collections.abc import Mapping

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
