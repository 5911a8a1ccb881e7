"""What is the same for all language models: windows, packs, precision, memory, threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedstore.identity import Recipe
from embedstore.models import resolve
from embedstore.models.batching import MemoryBudget, compute_in_packs, windows
from embedstore.models.checkpoint import find_checkpoint
from embedstore.models.esm import ProteinTokenizer, read_encoder
from embedstore.models.machine import Setting
from embedstore.models.packed import PackedEmbedder

pytestmark = pytest.mark.usefixtures("one_thread")

DATA = Path(__file__).resolve().parents[1] / "data" / "esm" / "fastesm2_tiny"
ALANINE, CYSTEINE = 5, 23  # in the vocabulary, as M is 20, W is 22


class Ids:
    """An encoder with exact states: each token's id, and one. Alanine overflows, cysteine is never finite."""

    device = torch.device("cpu")

    def __init__(self, dtype: torch.dtype = torch.float32, most_tokens: int = 10**9) -> None:
        self.dtype = dtype
        self.most_tokens = most_tokens
        self.packs: list[int] = []

    def hidden_states(self, token_ids: Tensor, lengths: Sequence[int]) -> Tensor:
        self.packs.append(len(token_ids))
        assert sum(lengths) == len(token_ids)
        if len(token_ids) > self.most_tokens:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")
        states = torch.stack((token_ids.float(), torch.ones(len(token_ids))), 1)  # (t, 2)
        states[token_ids == CYSTEINE] = torch.nan
        states[token_ids == ALANINE] = 1e5
        return states.to(self.dtype)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return replace(resolve(str(DATA)).recipe, dim=2, precision="full", dtype="float32")


def embed(
    recipe: Recipe, encoder: Ids, proteins: Sequence[bytes], **options: Any
) -> tuple[NDArray[np.float32], dict[int, str]]:
    embedded = PackedEmbedder(recipe, ProteinTokenizer(), encoder, **options).embed(proteins)
    return embedded.vectors, dict(embedded.failures)


def test_long_sequences_count_every_residue_once(recipe: Recipe) -> None:
    windowed = replace(recipe, max_length_tokens=50, window_overlap_tokens=12)
    protein = b"MKTWLV" * 97
    vectors, failures = embed(windowed, Ids(), [protein, b"MK"], setting=Setting(pack_tokens=100))
    assert failures == {}
    mean = ProteinTokenizer().content_ids(protein).mean()
    np.testing.assert_allclose(vectors, [[mean, 1], [(20 + 15) / 2, 1]], rtol=1e-6)


def test_windows_of_a_real_encoder_equal_a_plain_loop() -> None:
    encoder = read_encoder(find_checkpoint(DATA))
    recipe = replace(resolve(str(DATA)).recipe, max_length_tokens=40, window_overlap_tokens=10, dtype="float32")
    protein = bytes(np.random.default_rng(0).choice(list(b"ACDEFGHIKLMNPQRSTVWY"), 173).tolist())
    content = ProteinTokenizer().content_ids(protein)
    sums, times = np.zeros((len(content), 64)), np.zeros((len(content), 1))
    for window in windows(len(content), 40, 10):
        ids = torch.tensor([0, *content[window.start : window.stop], 2])
        sums[window.start : window.stop] += np.asarray(encoder.hidden_states(ids, [len(ids)]))[1:-1]
        times[window.start : window.stop] += 1
    vector = PackedEmbedder(recipe, ProteinTokenizer(), encoder).embed([protein]).vectors[0]
    np.testing.assert_allclose(vector, (sums / times).mean(axis=0), rtol=0, atol=1e-5)


def test_truncation_and_rejection_follow_the_recipe(recipe: Recipe) -> None:
    proteins = [b"MMMMWWWW", b"MWMW", b"WWWWW"]
    short = replace(recipe, max_length_tokens=4, long="truncate", window_overlap_tokens=None)
    vectors, failures = embed(short, Ids(), proteins)
    np.testing.assert_allclose(vectors, [[20.0, 1.0], [21.0, 1.0], [22.0, 1.0]], rtol=1e-6)
    vectors, failures = embed(replace(short, long="reject"), Ids(), proteins)
    assert failures == {
        0: "it has 8 tokens, more than the 4 that the space allows",
        2: "it has 5 tokens, more than the 4 that the space allows",
    }
    np.testing.assert_allclose(vectors[1], [21, 1], rtol=1e-6)


def test_what_overflows_is_computed_again_in_full_precision(recipe: Recipe) -> None:
    full = Ids()
    proteins = [b"MM", b"AW", b"WW"]
    vectors, failures = embed(recipe, Ids(torch.float16), proteins, full_encoder=lambda: full)
    assert failures == {}
    np.testing.assert_allclose(vectors, [[20.0, 1.0], [50_011.0, 50_000.5], [22.0, 1.0]], rtol=1e-6)
    assert full.packs == [4]  # only the one that overflowed


def test_values_that_stay_infinite_fail_their_own_sequence_only(recipe: Recipe) -> None:
    vectors, failures = embed(recipe, Ids(torch.float16), [b"MC", b"WW"], full_encoder=Ids)
    assert failures == {0: "the model gives values that are not finite in float32"}
    np.testing.assert_allclose(vectors[1], [22, 1], rtol=1e-6)


def test_values_beyond_the_stored_type_are_failures(recipe: Recipe) -> None:
    _, failures = embed(replace(recipe, dtype="float16", precision="half"), Ids(), [b"AA", b"WW"])
    assert failures == {0: "the model gives values that are not finite in float16"}


def test_a_pack_that_does_not_fit_is_split_and_later_ones_are_smaller(recipe: Recipe) -> None:
    encoder = Ids(most_tokens=25)
    embedder = PackedEmbedder(recipe, ProteinTokenizer(), encoder, setting=Setting(pack_tokens=100))
    proteins = [b"W" * length for length in (8, 8, 8, 8, 8, 30, 8, 8)]
    embedded = embedder.embed(proteins)
    assert dict(embedded.failures) == {5: "memory does not suffice for its 32 tokens at once"}
    np.testing.assert_allclose(np.delete(embedded.vectors, 5, axis=0), [[22, 1]] * 7, rtol=1e-6)
    assert embedder.budget.tokens <= 25
    encoder.packs.clear()
    embedder.embed([b"W" * 8] * 8)
    assert max(encoder.packs) <= 25


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_each_kind_of_memory_error_is_survived(error: Exception) -> None:
    vectors, failures = compute_in_packs([5, 6], MemoryBudget(100), failing(error, beyond=1))
    assert failures == {}
    assert sorted(vectors) == [0, 1]


def test_other_errors_are_not_swallowed() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        compute_in_packs([5, 6], MemoryBudget(100), failing(RuntimeError("a bug"), beyond=1))


def failing(error: Exception, beyond: int) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
    def compute(pack: NDArray[np.int64]) -> NDArray[np.float32]:
        if len(pack) > beyond:
            raise error
        return np.zeros((len(pack), 2), dtype=np.float32)

    return compute


class Crowded(Ids):
    """A device on which the long sequence finds no memory as long as the short one is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.short_is_inside, self.long_was_refused = threading.Event(), threading.Event()

    def hidden_states(self, token_ids: Tensor, lengths: Sequence[int]) -> Tensor:
        if len(token_ids) == 10:
            self.short_is_inside.set()
            assert self.long_was_refused.wait(10)
        elif not self.long_was_refused.is_set():
            assert self.short_is_inside.wait(10)
            self.long_was_refused.set()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().hidden_states(token_ids, lengths)


def test_a_sequence_that_another_worker_left_no_memory_for_is_tried_again_alone(recipe: Recipe) -> None:
    encoder = Crowded()
    embedder = PackedEmbedder(recipe, ProteinTokenizer(), encoder, setting=Setting(pack_tokens=30))
    with ThreadPoolExecutor(2) as executor:
        found = list(executor.map(embedder.embed, [[b"W" * 28], [b"M" * 8]]))
    assert encoder.packs == [10, 30]
    assert [dict(embedded.failures) for embedded in found] == [{}, {}]
    np.testing.assert_allclose([embedded.vectors[0] for embedded in found], [[22, 1], [20, 1]], rtol=1e-6)


def test_who_computes_alone_waits_for_the_others_and_they_for_it() -> None:
    budget, order = MemoryBudget(100), []
    entered, leave = threading.Event(), threading.Event()

    def shared() -> None:
        with budget.shared():
            entered.set()
            leave.wait(10)
            order.append("shared")

    def alone() -> None:
        with budget.alone():
            order.append("alone")

    def later() -> None:
        with budget.shared():
            order.append("later")

    threads = [threading.Thread(target=each) for each in (shared, alone, later)]
    threads[0].start()
    assert entered.wait(10)
    threads[1].start()
    while not budget._waiting:
        time.sleep(0.001)
    threads[2].start()
    leave.set()
    for thread in threads:
        thread.join(10)
    assert order == ["shared", "alone", "later"]


def test_what_overflows_in_several_threads_loads_the_float32_weights_once(recipe: Recipe) -> None:
    loaded: list[Ids] = []

    def load_slowly() -> Ids:
        time.sleep(0.05)
        loaded.append(Ids())
        return loaded[-1]

    embedder = PackedEmbedder(recipe, ProteinTokenizer(), Ids(torch.float16), full_encoder=load_slowly)
    tuned = embedder.with_setting(Setting(pack_tokens=50))
    with ThreadPoolExecutor(4) as executor:
        found = list(executor.map(lambda each: each.embed([b"AW"]), [embedder, tuned] * 3))
    assert not any(embedded.failures for embedded in found)
    assert len(loaded) == 1


def test_too_little_memory_for_the_float32_weights_fails_what_overflows_and_nothing_else(recipe: Recipe) -> None:
    tried = []

    def load() -> Ids:
        tried.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    embedder = PackedEmbedder(recipe, ProteinTokenizer(), Ids(torch.float16), full_encoder=load)
    for _ in range(2):
        embedded = embedder.embed([b"AW", b"WW"])
        assert dict(embedded.failures) == {
            0: "it overflows in float16, and memory does not suffice for the weights in float32"
        }
        np.testing.assert_allclose(embedded.vectors[1], [22, 1], rtol=1e-6)
    assert len(tried) == 1  # each try reads all weights


def test_threads_share_the_weights_and_torch_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    embedder = PackedEmbedder(resolve(str(DATA)).recipe, ProteinTokenizer(), read_encoder(find_checkpoint(DATA)))
    rng = np.random.default_rng(5)
    proteins = [bytes(rng.choice(list(b"ACDEFGHIKLMNPQRSTVWY"), size).tolist()) for size in rng.integers(5, 200, 40)]
    alone = embedder.embed(proteins).vectors
    with ThreadPoolExecutor(4) as executor:
        packs = executor.map(lambda start: embedder.embed(proteins[start : start + 4]).vectors, range(0, 40, 4))
        together = np.concatenate(list(packs))
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    assert torch.get_num_threads() == before
    assert embedder.workers >= 1


def test_no_sequences_give_no_vectors(recipe: Recipe) -> None:
    vectors, failures = embed(recipe, Ids(), [])
    assert vectors.shape == (0, 2)
    assert failures == {}
