"""What coordination needs of the workers, whoever runs them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from embedstore.distributed.working import Job, Receipt, Task


@dataclass(frozen=True, slots=True)
class Loss:
    """A worker died while it had a task.

    Attributes
    ----------
    reason : how it died, to follow "the worker".
    """

    reason: str


Outcome = tuple[Task, Receipt | Loss]


class Executor(Protocol):
    """Workers that can be given tasks. Used from one thread."""

    @property
    def workers(self) -> int:
        """How many there are, or are to be, about."""
        ...

    @property
    def in_hand(self) -> int:
        """How many tasks were submitted whose outcome is not told yet."""
        ...

    def vacancies(self) -> int:
        """How many tasks should be submitted now."""
        ...

    def submit(self, task: Task) -> None:
        """Have a task computed."""
        ...

    def wait(self, timeout_s: float | None) -> None:
        """Wait until there is an outcome, or something else to see to; not longer than so many seconds."""
        ...

    def outcomes(self) -> list[Outcome]:
        """Return what outcomes there are, without waiting.

        Raises
        ------
        WorkerError : workers cannot be started, cannot be reached, or fail for a reason that lies in none of the tasks.
        """
        ...

    def stop(self) -> list[Outcome]:
        """Have running tasks end early, storing what they have computed; return their outcomes. Nothing follows."""
        ...


class Workers(Protocol):
    """Where tasks can be computed; nothing is started before `open`."""

    @property
    def letters_per_second_divisor(self) -> int:
        """By what the speed of this machine must be divided to be that of one worker, about."""
        ...

    def open(self, job: Job) -> AbstractContextManager[Executor]:
        """Get workers for a job; none of them is left when the context ends.

        Raises
        ------
        WorkerError : they cannot be had. InputError : the options do not suit. MissingDependencyError : an extra lacks.
        """
        ...
