"""Tasks: every sequence in one of them, of a bearable size, smaller ones towards the end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.distributed.coordination import TASK_SECONDS, TaskPlan
from embedstore.distributed.working import Task
from embedstore.filling.pool import Pack


def tasks_of(plan: TaskPlan) -> list[Task]:
    found = []
    while (task := plan.next()) is not None:
        found.append(task)
    return found


@given(
    lengths=st.lists(st.integers(1, 400), max_size=200),
    rate=st.one_of(st.none(), st.floats(0.1, 1e4)),
    workers=st.integers(1, 9),
)
def test_every_sequence_is_in_one_task(lengths: list[int], rate: float | None, workers: int) -> None:
    plan = TaskPlan(rate, workers)
    keys = [bytes([number]) for number in range(len(lengths))]
    plan.add(keys, [b"A" * length for length in lengths])
    tasks = tasks_of(plan)
    assert sorted(key for task in tasks for key in task.pack.keys) == keys
    assert all(len(task.pack) for task in tasks)
    assert plan.residues == 0
    assert not plan
    longest = [max(map(len, task.pack.sequences)) for task in tasks]
    assert longest == sorted(longest, reverse=True)


def test_tasks_are_of_some_seconds_and_get_smaller() -> None:
    plan = TaskPlan(10.0, 2)
    plan.add([bytes([n // 256, n % 256]) for n in range(5000)], [b"A"] * 5000)
    assert not plan.scarce
    residues = [task.pack.residues for task in tasks_of(plan)]
    assert residues[0] == 10 * TASK_SECONDS
    assert residues[:15] == residues[:1] * 15
    assert residues == sorted(residues, reverse=True)
    assert residues[-2] <= residues[0] / 10
    assert plan.scarce


def test_the_size_follows_what_workers_reach() -> None:
    plan = TaskPlan(1000.0, 1)
    plan.learn(residues=20, seconds=10.0)
    plan.add([bytes([n]) for n in range(200)], [b"A"] * 200)
    first = plan.next()
    assert first is not None
    assert first.pack.residues == 2 * TASK_SECONDS


def first_task(rate: float, workers: int, sequences: int, length: int) -> Task:
    plan = TaskPlan(rate, workers)
    plan.add([number.to_bytes(4, "big") for number in range(sequences)], [bytes(length)] * sequences)
    assert not plan.scarce
    task = plan.next()
    assert task is not None
    return task


@pytest.mark.parametrize(("rate", "length"), [(300_000.0, 350), (2_000_000.0, 500)])
def test_tasks_of_a_gpu_are_as_long_as_others(rate: float, length: int) -> None:
    """Proteins at 0.3 and DNA at 2 million residues or bases a second; what a worker is asked for is seconds."""
    task = first_task(rate, 1, int(2.5 * rate * TASK_SECONDS / length), length)
    assert task.pack.residues == pytest.approx(rate * TASK_SECONDS, rel=0.01)


def test_tasks_of_very_many_gpus_fit_into_the_memory_of_the_one_that_hands_them_out() -> None:
    task = first_task(2_000_000.0, 64, 6000, 100_000)
    assert task.pack.residues * 2 * 64 <= 512 << 20


def test_a_task_that_was_put_back_comes_first() -> None:
    plan = TaskPlan(1.0, 1)
    plan.add([b"x"], [b"AAA"])
    again = Task(Pack([b"y"], [b"CC"]), losses=1)
    plan.put_back(again)
    assert plan.next() == again
    assert plan
