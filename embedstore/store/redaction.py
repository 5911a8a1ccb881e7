"""What must not be seen in a message: credentials, wherever a library put them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from urllib.parse import urlsplit

_SECRET_VARIABLE = re.compile(r"(AWS|AZURE|GOOGLE)_.*(KEY|SECRET|TOKEN|SAS|PASSWORD|CREDENTIAL|SERVICE_ACCOUNT)")
_SHORTEST_SECRET = 6  # shorter values would blank out ordinary words
_USER = re.compile(r"(?<=://)[^/@\s\"']+@")
_QUERY = re.compile(r"(?<=[^\s\"'?])\?[^\s\"')>]+")


def redacted_url(url: str) -> str:
    """Return a URL without user, password, query and fragment."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def redacted(text: str, secrets: Collection[str] = ()) -> str:
    """Return a text without the secrets of the environment, others that are given, and what URLs may hide.

    Parameters
    ----------
    secrets : values that came from elsewhere, such as a file of credentials.
    """
    text = _QUERY.sub("?…", _USER.sub("", text))
    for secret in sorted({*secrets, *_secrets_of_environment()}, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "…")
    return text


def _secrets_of_environment() -> set[str]:
    return {value for name, value in os.environ.items() if _SECRET_VARIABLE.match(name)}
