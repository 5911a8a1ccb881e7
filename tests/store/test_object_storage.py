"""Object stores, against an S3 server in a process of its own."""

from __future__ import annotations

import pytest
from storage_contract import StorageContract

from embedstore.store.objects import ObjectStorage


class TestObjectStorage(StorageContract):
    @pytest.fixture
    def storage(self, bucket: str) -> ObjectStorage:
        return ObjectStorage(f"{bucket}/some prefix/below")


class TestObjectStorageAtTheTopOfABucket(StorageContract):
    @pytest.fixture
    def storage(self, bucket: str) -> ObjectStorage:
        return ObjectStorage(bucket)
