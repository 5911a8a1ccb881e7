"""Doing again what failed for a reason that passes: a busy server, a lost connection, half an answer."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a remote storage is waited for.

    Attributes
    ----------
    attempts : how often a request is made in all, beside what the library below repeats by itself.
    first_pause_s, longest_pause_s : pauses double from the first to the longest; each is shortened at random by up to
        a half, so that many clients do not come back at once.
    timeout_s : of one request, with its body; long enough for 8 MiB at the rate of a poor line.
    connect_timeout_s : of making a connection.
    """

    attempts: int = 5
    first_pause_s: float = 0.5
    longest_pause_s: float = 8.0
    timeout_s: float = 120.0
    connect_timeout_s: float = 10.0

    def pause_s(self, attempt: int) -> float:
        """How long to wait after an attempt, counted from 0."""
        pause = min(self.longest_pause_s, self.first_pause_s * 2.0**attempt)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - keeps clients apart, hides nothing


class IncompleteError(Exception):
    """An answer had another length than was asked for."""


def retried(
    operation: Callable[[], T],
    patience: Patience,
    errors: tuple[type[Exception], ...],
    passes: Callable[[Exception], bool],
) -> T:
    """Do an operation, again after errors that pass; the last error is raised.

    Parameters
    ----------
    operation : something that may be done twice.
    errors : the kinds of errors that may pass.
    passes : tells of one of these whether it may be gone next time.
    """
    for attempt in range(patience.attempts - 1):
        try:
            return operation()
        except errors as error:
            if not passes(error):
                raise
        time.sleep(patience.pause_s(attempt))
    return operation()
