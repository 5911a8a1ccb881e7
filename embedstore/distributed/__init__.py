"""Filling with many workers: the same fill, its model work done by other processes, on this machine or on others.

    records ─▶ look-up ─▶ tasks of similar cost ─▶ workers, each appending its own segments ─▶ receipts ─▶ report

`coordination` makes tasks of the queued sequences and collects receipts, `working` is what a worker does with a task.
Workers are processes of this machine (`processes`) or of a Dask cluster (`dask_workers`). `sharding` divides an input
among jobs that do not communicate.
"""

from embedstore.distributed.coordination import computing_with, fill_with_workers
from embedstore.distributed.dask_workers import DaskCluster, DaskScheduler, read_cluster_file
from embedstore.distributed.processes import LocalProcesses
from embedstore.distributed.sharding import Shard, fill_shard

__all__ = [
    "DaskCluster",
    "DaskScheduler",
    "LocalProcesses",
    "Shard",
    "computing_with",
    "fill_shard",
    "fill_with_workers",
    "read_cluster_file",
]
