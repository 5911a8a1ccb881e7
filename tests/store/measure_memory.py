"""Print by how many bytes the peak memory of a process grew over one operation on a store.

Run as `measure_memory.py OPERATION LAYOUT FOLDER ROWS DIM`.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sample_rows import new_space, open_space, sample_recipe

from embedstore.records import EmbeddingBatch, Keys


def main(operation: str, layout: Any, place: Path, rows: int, dim: int) -> None:
    recipe = sample_recipe(dim=dim, dtype="float16", precision="half")
    random = np.random.default_rng(0)
    keys: Keys = random.integers(0, 256, (rows, 24), dtype=np.uint8)
    small = EmbeddingBatch(~keys[:10], np.ones((10, dim), np.float16))
    if operation == "read":
        space = open_space(place)
        space.read(keys[:10])
        before = peak_bytes()
        space.read(keys)
    else:
        space = new_space(place, layout, recipe)
        if operation == "append":
            space.append(small)
        batch = EmbeddingBatch(keys, np.ones((rows, dim), np.float16))
        before = peak_bytes()
        space.append(batch)
    print(json.dumps({"grown_bytes": peak_bytes() - before, "vectors_bytes": rows * dim * 2}))


def peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
