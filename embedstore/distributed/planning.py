"""Cutting what waits into tasks: of a size that takes a worker some seconds, smaller ones towards the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from embedstore.distributed.working import Task
from embedstore.filling.pool import Pack

TASK_SECONDS = 20.0
"""Long against what a task costs beside the model (a commit), short against what a lost one costs."""
_SMALLEST_SHARE = 16
_TASKS_LEFT_PER_WORKER = 2
_MOST_LETTERS = 4 << 20  # what travels to a worker in one message
_MOST_RECORDS = 50_000
_UNKNOWN_LETTERS_PER_SECOND = 1000.0


class TaskPlan:
    """Sequences that wait to be handed out.

    Within what is added at once, neighbours in length are computed together, longest first. Towards the end tasks get
    smaller, so that no worker waits long for the one that has the last of all (guided self-scheduling).

    Parameters
    ----------
    letters_per_second : of one worker, about; corrected by `learn`.
    workers : how many there are, about.
    """

    def __init__(self, letters_per_second: float | None, workers: int) -> None:
        self._rate = letters_per_second or _UNKNOWN_LETTERS_PER_SECOND
        self._workers = workers
        self._ordered: deque[tuple[bytes, bytes]] = deque()
        self._again: deque[Task] = deque()
        self._learned_letters = 0
        self._learned_seconds = 0.0
        self.letters = 0
        """Letters that wait, without those of tasks that were put back."""

    def __bool__(self) -> bool:
        return bool(self._ordered or self._again)

    @property
    def scarce(self) -> bool:
        """Whether more should be added, before the tasks get small."""
        return self.letters < _TASKS_LEFT_PER_WORKER * self._workers * self._full_letters()

    def add(self, keys: Sequence[bytes], sequences: Sequence[bytes]) -> None:
        """Let sequences wait, behind those that do already."""
        self._ordered.extend(sorted(zip(keys, sequences, strict=True), key=lambda pair: -len(pair[1])))
        self.letters += sum(map(len, sequences))

    def put_back(self, task: Task) -> None:
        """Let a task wait that has been handed out before."""
        self._again.append(task)

    def learn(self, letters: int, seconds: float) -> None:
        """Take in how long a worker took for so many letters."""
        self._learned_letters += letters
        self._learned_seconds += seconds
        if self._learned_seconds > 0 and self._learned_letters:
            self._rate = self._learned_letters / self._learned_seconds

    def next(self) -> Task | None:
        """Hand out a task; None if nothing waits."""
        if self._again:
            return self._again.popleft()
        if not self._ordered:
            return None
        most = self._task_letters()
        keys: list[bytes] = []
        sequences: list[bytes] = []
        letters = 0
        while self._ordered and len(keys) < _MOST_RECORDS:
            length = len(self._ordered[0][1])
            if keys and letters + length > most:
                break
            key, sequence = self._ordered.popleft()
            keys.append(key)
            sequences.append(sequence)
            letters += length
        self.letters -= letters
        return Task(Pack(keys, sequences))

    def _full_letters(self) -> float:
        return min(_MOST_LETTERS, self._rate * TASK_SECONDS)

    def _task_letters(self) -> float:
        full = self._full_letters()
        share = self.letters / (_TASKS_LEFT_PER_WORKER * self._workers)
        return min(full, max(share, full / _SMALLEST_SHARE))
