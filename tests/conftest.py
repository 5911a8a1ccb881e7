"""Shared fixtures of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["store.object_servers"]  # s3_server, bucket, faulty_bucket; import from there too, as `store.…`

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of third-party data and reference outputs beside the checkout; the test is skipped without it."""
    if not SHARED.is_dir():
        pytest.skip("needs the shared folder beside the checkout (third-party data and reference outputs)")
    return SHARED
