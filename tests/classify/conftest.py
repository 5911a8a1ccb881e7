"""One set of samples, one store and one classifier for all tests that change none of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_genomes import prepared, trained

from embedstore.classify.training import TrainReport
from embedstore.features import Features, merge
from embedstore.library import Store, open_store


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of all that is shared: genomes, `samples/`, `store/`, `classifier/`."""
    return tmp_path_factory.mktemp("classify")


@pytest.fixture(scope="session")
def table(place: Path) -> Path:
    return prepared(place)


@pytest.fixture(scope="session")
def report(place: Path, table: Path) -> TrainReport:
    return trained(table, place / "classifier")


@pytest.fixture(scope="session")
def store(place: Path, report: TrainReport) -> Store:
    return open_store(place / "store")


@pytest.fixture(scope="session")
def features(table: Path, store: Store) -> Features:
    return merge(table, ("tnf", "aac_dpc"), store=store)
