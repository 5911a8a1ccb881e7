"""Running packs through a loaded model, in as many threads as it asks for."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice

from embedstore.filling.pool import Pack
from embedstore.models.embedder import Embedded, Embedder

_PACKS_IN_HAND_PER_WORKER = 2


def embed_packs(embedder: Embedder, packs: Iterable[Pack]) -> Generator[tuple[Pack, Embedded], None, None]:
    """Yield packs with their vectors, in the order in which they are done; `packs` is drawn from on demand."""
    if embedder.workers <= 1:
        for pack in packs:
            yield pack, embedder.embed(pack.sequences)
    else:
        yield from _embed_in_threads(embedder, iter(packs))


def _embed_in_threads(embedder: Embedder, packs: Iterator[Pack]) -> Generator[tuple[Pack, Embedded], None, None]:
    executor = ThreadPoolExecutor(embedder.workers, thread_name_prefix="embedstore-model")
    running: dict[Future[Embedded], Pack] = {}
    try:
        while True:
            for pack in islice(packs, _PACKS_IN_HAND_PER_WORKER * embedder.workers - len(running)):
                running[executor.submit(embedder.embed, pack.sequences)] = pack
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()
    finally:
        executor.shutdown(cancel_futures=True)
