"""Merging, collecting, pinning and repairing in an object store behind a proxy that breaks every tenth request."""

from __future__ import annotations

import pytest
from sample_rows import assert_right, new_space, open_space, sample_batch, sample_keys
from store.object_servers import Fault, FaultProxy

from embedstore.storage.objects import ObjectStorage
from embedstore.storage.retrying import Patience
from embedstore.store import SpaceStore
from embedstore.upkeep import collect, compact, pin, repair

KEYS = sample_keys(range(40))
QUICK = Patience(attempts=6, first_pause_s=0.02, longest_pause_s=0.2, timeout_s=1.0)
FAULTS = {fault: 0.02 for fault in Fault if fault is not Fault.STALLED}


@pytest.fixture
def storage(faulty_bucket: tuple[str, FaultProxy]) -> ObjectStorage:
    url, proxy = faulty_bucket
    proxy.faults = dict(FAULTS)
    return ObjectStorage(f"{url}/lab", patience=QUICK)


def test_merging_and_collecting_under_faults_lose_nothing_and_leave_nothing(
    storage: ObjectStorage, faulty_bucket: tuple[str, FaultProxy]
) -> None:
    space = new_space(storage, "hdf5")
    for start in range(0, 40, 10):
        space.append(sample_batch(KEYS[start : start + 10], space.recipe))
    pin(SpaceStore(storage), "paper")
    space.append(sample_batch(sample_keys(range(100, 110)), space.recipe))
    assert compact(open_space(storage)).segments_after == 1
    assert collect(storage, grace_s=3600).removed_files == 0
    removed = collect(storage, grace_s=0).removed_files
    assert removed == 2  # the commit and the file of the one segment that is not pinned
    assert_right(open_space(storage), KEYS)
    pinned = SpaceStore(storage, pin="paper").space("toy")
    assert_right(pinned, KEYS)
    assert len(pinned.segments()) == 4
    report = SpaceStore(storage).verify(deep=True)
    assert (report.problems, report.orphans) == ([], [])
    assert faulty_bucket[1].injected.total() > 5


def test_a_damaged_object_is_found_and_repaired(storage: ObjectStorage) -> None:
    space = new_space(storage, "hdf5")
    space.append(sample_batch(KEYS, space.recipe))
    commit = space.segments()[0].commit
    name = f"{space.folder}{next(iter(commit.files))}"
    content = bytearray(storage.read(name))
    content[commit.arrays["vectors"][0].offset + 3] ^= 0x10
    storage.delete(name)
    storage.write(name, [bytes(content)])
    fresh = ObjectStorage(storage.location, patience=QUICK)
    report = repair(fresh)
    assert (report.rows_lost, report.rows_kept, report.left) == (1, 39, [])
    repaired = open_space(ObjectStorage(storage.location, patience=QUICK))
    assert_right(repaired, repaired.keys())
    assert repaired.append(sample_batch(KEYS, repaired.recipe)) == 1
