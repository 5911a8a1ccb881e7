"""Object stores behind a proxy that breaks requests in every way: nothing lost, nothing wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sample_rows import assert_right, new_space, open_space, sample_batch, sample_keys
from store.object_servers import Fault, FaultProxy, S3Server

from embedstore.errors import StorageError
from embedstore.library import Store
from embedstore.sequences import read
from embedstore.storage.objects import ObjectStorage
from embedstore.storage.retrying import Patience
from embedstore.store.verification import verify

PROTEINS = Path(__file__).resolve().parents[2] / "examples" / "proteins.faa"
QUICK = Patience(attempts=5, first_pause_s=0.02, longest_pause_s=0.2, timeout_s=1.0)
_STALLED = pytest.param(Fault.STALLED, marks=pytest.mark.slow)
_SOON = [fault for fault in Fault if fault is not Fault.STALLED]


@pytest.fixture
def behind(
    bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[ObjectStorage, FaultProxy]]:
    """A storage behind a proxy that injects nothing yet."""
    with FaultProxy(s3_server.url, {}, stall_s=1.5) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield ObjectStorage(f"{bucket}/store", patience=QUICK), proxy


@pytest.mark.parametrize("fault", [*_SOON, _STALLED])
def test_each_operation_survives_a_fault_of_each_kind(behind: tuple[ObjectStorage, FaultProxy], fault: Fault) -> None:
    storage, proxy = behind
    proxy.once(fault)
    storage.write("a/name", [b"content"])
    for ask in (
        lambda: storage.read("a/name") == b"content",
        lambda: storage.entry("a/name").size_bytes == 7,
        lambda: [entry.name for entry in storage.list("a/")] == ["a/name"],
        lambda: [entry.name for entry in storage.walk("")] == ["a/name"],
        lambda: storage.open("a/name", 7).bytes(2, 3).tobytes() == b"nte",
        lambda: storage.delete("a/name") is None,
    ):
        proxy.once(fault)
        assert ask()
    assert proxy.injected[fault] == 7
    assert storage.list("") == []


@pytest.mark.slow
@pytest.mark.parametrize("fault", Fault)
def test_a_large_file_survives_faults_at_each_of_its_requests(
    behind: tuple[ObjectStorage, FaultProxy], fault: Fault
) -> None:
    storage, proxy = behind
    content = np.random.default_rng(0).integers(0, 256, 20 << 20, dtype=np.uint8)
    parts = np.split(content, 7 * [0] + [1 << 20, 9 << 20])
    storage.write("clean", parts)
    clean = proxy.requests
    for number in range(clean):
        proxy.after(number, fault)
        assert storage.write(f"large/{number}", parts).size_bytes == len(content)
        read = storage.open(f"large/{number}", len(content)).bytes(0, len(content))
        assert np.array_equal(read, content)
    assert proxy.injected[fault] == clean


def test_a_large_file_survives_the_loss_of_its_last_answers(behind: tuple[ObjectStorage, FaultProxy]) -> None:
    storage, proxy = behind
    parts = [bytes(9 << 20)]
    storage.write("clean", parts)
    last = proxy.requests - 2
    for fault in (Fault.LOST_RESPONSE, Fault.TRUNCATED_BODY):
        proxy.after(last, fault)
        assert storage.write(f"large/{fault.name}", parts).size_bytes == 9 << 20
    assert proxy.injected.total() == 2


def test_a_request_that_is_not_answered_is_made_again(behind: tuple[ObjectStorage, FaultProxy]) -> None:
    storage, proxy = behind
    storage.write("name", [b"content"])
    proxy.once(Fault.STALLED)
    assert storage.read("name") == b"content"


def test_rows_survive_faults(behind: tuple[ObjectStorage, FaultProxy]) -> None:
    storage, proxy = behind
    table = np.random.default_rng(0).integers(0, 256, (20_000, 1000), dtype=np.uint8)
    storage.write("table", [table])
    proxy.faults = dict.fromkeys(_SOON, 0.1)
    rows = np.random.default_rng(1).integers(0, len(table), 500)
    assert np.array_equal(storage.open("table", table.nbytes).rows(0, 1000, rows), table[rows])


@pytest.mark.slow
def test_appending_and_reading_under_faults_loses_nothing(behind: tuple[ObjectStorage, FaultProxy]) -> None:
    storage, proxy = behind
    space = new_space(storage, "zarr")
    proxy.faults = dict.fromkeys(_SOON, 0.05)
    keys = sample_keys(range(60))
    for start in range(0, 60, 20):
        assert space.append(sample_batch(keys[start : start + 20], space.recipe)) == 20
    proxy.faults = {}
    found = open_space(ObjectStorage(storage.location, patience=QUICK))
    assert len(found.segments()) == 3
    assert_right(found, keys)
    report = verify(storage, deep=True)
    assert (report.problems, report.orphans) == ([], [])
    assert sum(proxy.injected.values()) > 5


def test_a_fill_under_faults_is_complete_and_right(faulty_bucket: tuple[str, FaultProxy], tmp_path: Path) -> None:
    url, proxy = faulty_bucket
    records = list(read([PROTEINS]))
    report = Store.open(f"{url}/lab", create=True, segment_format="hdf5").fill(records, "aac_dpc")
    assert (report.computed, report.complete) == (14, True)
    assert Store.open(f"{url}/lab").fill(records, "aac_dpc").computed == 0
    local = Store.open(tmp_path / "local", create=True)
    local.fill(records, "aac_dpc")
    again = Store.open(f"{url}/lab")
    assert again.get(records, "aac_dpc").tobytes() == local.get(records, "aac_dpc").tobytes()
    report_of_check = again.verify(deep=True)
    assert (report_of_check.problems, report_of_check.orphans) == ([], [])
    assert sum(proxy.injected.values()) > 5


def test_a_server_that_never_answers_is_a_storage_error_that_says_what_to_do(
    behind: tuple[ObjectStorage, FaultProxy],
) -> None:
    storage, proxy = behind
    proxy.faults = {Fault.ERROR_500: 1.0}
    with pytest.raises(StorageError, match=r"Cannot read s3://bucket-\d+/store/name: 500 .*AWS_ENDPOINT_URL"):
        storage.read("name")


def test_parts_that_fail_leave_no_large_file(behind: tuple[ObjectStorage, FaultProxy]) -> None:
    storage, _ = behind

    def parts() -> Iterator[bytes]:
        yield bytes(20 << 20)
        raise ValueError

    with pytest.raises(ValueError):
        storage.write("large", parts())
    assert storage.list("") == []


@pytest.mark.slow
def test_a_large_file_that_is_refused_is_not_said_to_be_written(behind: tuple[ObjectStorage, FaultProxy]) -> None:
    storage, proxy = behind
    storage.list("")
    proxy.after(2, *[Fault.ERROR_503] * 100)
    with pytest.raises(StorageError, match="Cannot write"):
        storage.write("large", [bytes(20 << 20)])
    proxy.once()
    assert storage.list("") == []
