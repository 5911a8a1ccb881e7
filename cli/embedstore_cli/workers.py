"""Options that say who computes: this process, others of this machine, or a cluster; and which part of the input."""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from embedstore.distributed import Shard
    from embedstore.distributed.coordination import Workers
    from embedstore.filling import FillReport, SpaceTarget

Count = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", min=1, help="Compute in N processes; on GPUs, one each.", show_default=False
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option("--scheduler", metavar="ADDRESS", help="Compute on the workers of this Dask scheduler."),
]
Cluster = Annotated[
    Path | None,
    typer.Option("--cluster", metavar="FILE.yaml", help="Compute on workers that Dask starts, as the file says."),
]
ShardText = Annotated[
    str | None,
    typer.Option("--shard", metavar="i/N", help="Only the i-th of N parts of the input, balanced: for job arrays."),
]


def chosen_fill(count: int | None, scheduler: str | None, cluster: Path | None) -> Callable[..., FillReport]:
    """Return `filling.fill`, or the same with the workers that the options name."""
    from embedstore import filling

    if sum(option is not None for option in (count, scheduler, cluster)) > 1:
        raise typer.BadParameter("give one of --workers, --scheduler and --cluster")
    workers: Workers
    if count is not None:
        from embedstore.distributed import LocalProcesses

        workers = LocalProcesses(count)
    elif scheduler is not None:
        from embedstore.distributed import DaskScheduler

        workers = DaskScheduler(scheduler)
    elif cluster is not None:
        from embedstore.distributed import read_cluster_file

        workers = read_cluster_file(cluster)
    else:
        return filling.fill
    from embedstore.distributed import fill_with_workers

    return partial(fill_with_workers, workers=workers)


def chosen_shard(text: str | None, inputs: Sequence[str]) -> Shard | None:
    """Return the shard that the option names; its input must be such that it can be read twice."""
    if text is None:
        return None
    from embedstore.distributed import Shard
    from embedstore.errors import InputError

    shard = Shard.from_text(text)
    for name in inputs:
        if name == "-" or not stat.S_ISREG(Path(name).stat().st_mode):
            raise InputError(
                f"Cannot fill a shard of {'standard input' if name == '-' else name}: expected files, since a shard is "
                "found by reading the whole input twice, found a stream. Write it to a file first."
            )
    return shard


def fill_input(
    fill: Callable[..., FillReport], inputs: Sequence[str], target: SpaceTarget, shard: Shard | None, any_molecule: bool
) -> FillReport:
    """Fill from all records of the input, or from those of a shard; `fill` takes records, the target, and `only`."""
    from embedstore.sequences import read

    if shard is None:
        return fill(read(inputs), target)
    from embedstore.distributed import fill_shard

    return fill_shard(
        lambda: read(inputs),
        target,
        shard,
        lambda records, only: fill(records, target, only=only),
        any_molecule=any_molecule,
    )
