"""`fill` stopped with SIGSTOP for longer than a collector waits: it starts again by itself with what it holds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from toy_model import expected, keys_of, proteins

from embedstore.errors import StoreNotFoundError
from embedstore.library import Store
from embedstore.upkeep import collect

SEQUENCES = proteins(120)

FILL = """
import itertools, json, os, signal, sys
sys.path.insert(0, sys.argv[1])
from toy_model import ToyEmbedder, proteins, records, toy_target
from embedstore.errors import EmbedStoreError
from embedstore.filling import FillOptions, SegmentLimits, fill
from embedstore.library import Store
from embedstore.storage import local

publish, number = local._publish, itertools.count()

def stop_before(*arguments):
    if next(number) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGSTOP)
    return publish(*arguments)

local._publish = stop_before
try:
    store = Store.open(sys.argv[2], create=True)
    report = fill(records(proteins(120)), toy_target(store, ToyEmbedder()), FillOptions(limits=SegmentLimits(rows=50)))
except EmbedStoreError as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(json.dumps(report.to_json()))
"""


def stopped_fills(tmp_path: Path) -> Iterator[tuple[int, Path, subprocess.Popen[str]]]:
    """Yield fills that wait before the first file that they publish, before the second, and so on to the last."""
    for number in range(100):
        place = tmp_path / f"store{number}"
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", FILL, str(Path(__file__).parent), str(place), str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                assert os.waitstatus_to_exitcode(status) == 0
                return
            yield number, place, process


@pytest.mark.slow
def test_a_writer_that_slept_through_two_collections_stores_what_it_holds(tmp_path: Path) -> None:
    stops = 0
    for number, place, process in stopped_fills(tmp_path):
        for _ in range(2):
            try:
                collect(Store.open(place).storage, grace_s=0)
            except StoreNotFoundError:
                break
        process.send_signal(signal.SIGCONT)
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, ""), number
        assert json.loads(output)["computed"] == 120
        store = Store.open(place)
        assert store.verify(deep=True).problems == []
        np.testing.assert_array_equal(store.space("toy").read(keys_of(SEQUENCES)), expected(SEQUENCES))
        stops += 1
    assert stops > 15
