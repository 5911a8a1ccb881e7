"""Trying again what failed for a reason that passes: a busy server, a lost connection, half an answer.

A server that sends a byte a second never fails, so time is bounded too: an answer must come within `Patience.limit_s`,
and nothing is begun again after `Patience.total_s`. What is said of a failure holds no credentials, wherever a library
put them.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar
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
    text : of a library, perhaps.
    secrets : values that came from elsewhere, such as a file of credentials.
    """
    text = _QUERY.sub("?…", _USER.sub("", text))
    for secret in sorted({*secrets, *_secrets_of_environment()}, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "…")
    return text


def _secrets_of_environment() -> set[str]:
    return {value for name, value in os.environ.items() if _SECRET_VARIABLE.match(name)}


T = TypeVar("T")

SLOWEST_BYTES_A_SECOND = 16 << 10
_FIRST_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a remote storage is waited for.

    Attributes
    ----------
    attempts : how often a request is made in all, beside what the library below repeats by itself.
    first_pause_s : before the second attempt; pauses double, and each is shortened at random by up to a half, so that
        many clients do not come back at once.
    longest_pause_s : they do not grow beyond it.
    timeout_s : of one request, with its body; long enough for 8 MiB at the rate of a poor line.
    connect_timeout_s : of making a connection.
    total_s : after this time nothing is tried once more.
    """

    attempts: int = 8
    first_pause_s: float = 0.5
    longest_pause_s: float = 8.0
    timeout_s: float = 120.0
    connect_timeout_s: float = 10.0
    total_s: float = 300.0

    def limit_s(self, size_bytes: int) -> float:
        """Within which time some bytes of an answer must have come."""
        return self.timeout_s + size_bytes / SLOWEST_BYTES_A_SECOND

    def pause_s(self, attempt: int) -> float:
        """How long to wait after an attempt, counted from 0."""
        pause = min(self.longest_pause_s, self.first_pause_s * 2.0**attempt)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - keeps clients apart, hides nothing


class IncompleteError(Exception):
    """A server answered, but not yet as it should: it is busy, or the answer had another length than was asked for.

    `after_s` is how long the server wants to be left alone.
    """

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


class Retrying:
    """Does what one server is asked for, with patience, but with little before it has answered anything at all.

    An address that is wrong, or a network that is down, is then said within seconds.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._reached = False

    def do(
        self,
        operation: Callable[[], T],
        errors: tuple[type[Exception], ...],
        passes: Callable[[Exception], bool] = lambda error: not isinstance(error, FileNotFoundError),
    ) -> T:
        """Do an operation, again after errors that pass; the last error is raised.

        Parameters
        ----------
        operation : something that may be done twice.
        errors : the kinds of errors that may pass.
        passes : tells of one of these whether it may be gone next time.
        """
        attempt = 0
        begun_s = time.monotonic()
        while True:
            try:
                result = operation()
            except FileNotFoundError:
                self._reached = True
                raise
            except errors as error:
                attempt += 1
                self._reached |= isinstance(error, IncompleteError)
                most = self._patience.attempts if self._reached else _FIRST_ATTEMPTS
                late = time.monotonic() - begun_s >= self._patience.total_s
                if attempt >= most or late or not passes(error):
                    raise
                after_s = error.after_s if isinstance(error, IncompleteError) else 0.0
                time.sleep(max(after_s, self._patience.pause_s(attempt - 1)))
            else:
                self._reached = True
                return result
