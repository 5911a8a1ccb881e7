"""Who computes embeddings how: one function each, which prepares a model and returns what is timed.

All are given the same sequences and, where their format allows, the same random weights. What they share is tokens (our
own tokenizers, which cost nothing beside a model) and the mean over residues. Ways of working are re-created from
descriptions of the projects named; none of their code is here.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import EsmcModel, EsmModel, PreTrainedModel, T5EncoderModel
from transformers.utils import logging as transformers_logging

from benchmarks.extraction_dnabert import dnabert_one_at_a_time
from benchmarks.extraction_workload import Run, UnavailableError, Vectors, Workload
from embedstore.models.batching import packs
from embedstore.models.checkpoint import find_checkpoint
from embedstore.models.devices import single_threaded
from embedstore.models.esm import VOCABULARY, ProteinTokenizer
from embedstore.models.packed import Tokenizer
from embedstore.models.resolution import ModelOptions, resolve
from embedstore.models.t5 import VOCABULARY as T5_VOCABULARY
from embedstore.models.t5 import ResidueTokenizer

Contenders = Mapping[str, Callable[[Workload], Run]]

PAD = VOCABULARY.index("<pad>")


def ours(workload: Workload) -> Run:
    """Packs without padding, one a core, as `embedstore fill` computes them."""
    options = ModelOptions(precision="full")
    embedder = resolve(str(workload.checkpoint), options).load("cpu")
    lengths = [len(sequence) for sequence in workload.sequences]

    def run() -> Vectors:
        def embed(pack: NDArray[np.int64]) -> tuple[NDArray[np.int64], Vectors]:
            return pack, embedder.embed([workload.sequences[row] for row in pack]).vectors

        with ThreadPoolExecutor(embedder.workers) as executor:
            parts = list(executor.map(embed, packs(lengths, embedder.pack_residues, embedder.workers)))
        return _in_order(parts)

    return run


def virnucpro_loop(workload: Workload) -> Run:
    """fair-esm as its `extract.py` and VirNucPro use it: batches of 2 048 tokens, padding in, logits computed too."""
    esm = _package("esm", "fair-esm")
    configuration = find_checkpoint(workload.checkpoint)
    if configuration.architecture != "esm2":
        raise UnavailableError("fair-esm has no such model")
    layers = configuration.layers
    alphabet = esm.Alphabet.from_architecture("ESM-1b")
    model = esm.ESM2(layers, configuration.dim, configuration.size("num_attention_heads"), alphabet).eval()
    names = [str(number) for number in range(len(workload.sequences))]
    dataset = esm.FastaBatchedDataset(names, [sequence.decode() for sequence in workload.sequences])
    batches = dataset.get_batch_indices(2048, extra_toks_per_seq=1)

    @torch.no_grad()
    def run() -> Vectors:
        loader = torch.utils.data.DataLoader(
            dataset, collate_fn=alphabet.get_batch_converter(1024), batch_sampler=batches
        )
        vectors = np.empty((len(names), configuration.dim), dtype=np.float32)
        for labels, residues, tokens in loader:
            states = model(tokens, repr_layers=[layers], return_contacts=False)["representations"][layers]
            for row, label in enumerate(labels):
                vectors[int(label)] = states[row, 1 : len(residues[row]) + 1].mean(0).numpy()
        return vectors

    return run


def hugging_face_one_at_a_time(workload: Workload) -> Run:
    """transformers, a sequence a call: no padding, and many small matrix products on all cores."""
    return _batched(workload, [[row] for row in range(len(workload.sequences))])


def hugging_face_one_at_a_time_a_core_each(workload: Workload) -> Run:
    """The same in as many threads as there are cores."""
    return _batched(workload, [[row] for row in _longest_first(workload)], core_each=True)


def hugging_face_sorted(workload: Workload) -> Run:
    """transformers, batches of similar lengths with at most 2 048 tokens, padding counted."""
    return _batched(workload, _sorted_batches(workload, 2048))


def hugging_face_sorted_a_core_each(workload: Workload) -> Run:
    """Batches of similar lengths with at most 1 024 tokens, as many threads as there are cores."""
    return _batched(workload, _sorted_batches(workload, 1024), core_each=True)


def hugging_face_file_order(workload: Workload) -> Run:
    """transformers, eight sequences a batch as they come."""
    rows = range(len(workload.sequences))
    return _batched(workload, [list(rows[start : start + 8]) for start in rows[::8]])


def fastplms(workload: Workload) -> Run:
    """As FastPLMs' `embed_dataset` does by default: longest first, two a batch, padded to a multiple of eight."""
    rows = _longest_first(workload)
    return _batched(workload, [rows[start : start + 2] for start in range(0, len(rows), 2)], multiple=8)


def torch_compile(workload: Workload) -> Run:
    """Its model compiled for any length, a sequence a call."""
    compiled = torch.compile(_States(_hugging_face(workload)), dynamic=True)

    @torch.inference_mode()
    def run() -> Vectors:
        return np.stack([compiled(_one(sequence))[0, 1:-1].mean(0).numpy() for sequence in workload.sequences])

    try:
        run()
    except Exception as error:  # torch's compiler has many ways to fail on a machine
        raise UnavailableError(f"torch.compile failed here: {type(error).__name__}") from error
    return run


def openvino(workload: Workload) -> Run:
    """Its model converted for OpenVINO, float32, a sequence a call."""
    ov = _package("openvino", "openvino")
    shape = ov.PartialShape([1, -1])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = _one(workload.sequences[0])
        model = ov.convert_model(_States(_hugging_face(workload)), example_input=example, input=[shape])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": workload.cores}
    compiled = ov.Core().compile_model(model, "CPU", settings)
    return _by_arrays(workload, lambda ids: compiled([ids])[0])


def onnxruntime(workload: Workload) -> Run:
    """Its model exported for onnxruntime, a sequence a call."""
    ort = _package("onnxruntime", "onnxruntime")
    _package("onnxscript", "onnxscript")
    file = workload.checkpoint / "model.onnx"
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _States(_hugging_face(workload)),
            (_one(workload.sequences[0]),),
            file,
            dynamo=True,
            input_names=["token_ids"],
            dynamic_shapes={"token_ids": {1: torch.export.Dim("tokens", min=2, max=4096)}},
            verbose=False,
        )
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = workload.cores
    session = ort.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    return _by_arrays(workload, lambda ids: session.run(None, {"token_ids": ids})[0])


PROTEIN_CONTENDERS: Contenders = {
    "ours": ours,
    "virnucpro_loop": virnucpro_loop,
    "hugging_face_one_at_a_time": hugging_face_one_at_a_time,
    "hugging_face_one_at_a_time_a_core_each": hugging_face_one_at_a_time_a_core_each,
    "hugging_face_sorted": hugging_face_sorted,
    "hugging_face_sorted_a_core_each": hugging_face_sorted_a_core_each,
    "hugging_face_file_order": hugging_face_file_order,
    "fastplms": fastplms,
    "torch_compile": torch_compile,
    "openvino": openvino,
    "onnxruntime": onnxruntime,
}
DNA_CONTENDERS: Contenders = {
    "ours": ours,
    "virnucpro_loop": dnabert_one_at_a_time,
}
T5_CONTENDERS: Contenders = {
    name: PROTEIN_CONTENDERS[name] for name in PROTEIN_CONTENDERS if name == "ours" or name.startswith("hugging_face")
}
OWN_WEIGHTS = {"virnucpro_loop"}
"""Protein contenders with random weights of their own, since they read another layout: not compared with ours."""


class _States(torch.nn.Module):
    """Token ids to the last states, nothing else."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, token_ids: Tensor) -> Tensor:
        states: Tensor = self.model(input_ids=token_ids).last_hidden_state
        return states


def _package(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UnavailableError(f"{package} is not installed") from error


def _hugging_face(workload: Workload) -> PreTrainedModel:
    transformers_logging.set_verbosity_error()  # it misses heads for other tasks
    transformers_logging.disable_progress_bar()
    if find_checkpoint(workload.checkpoint).architecture == "esmc":
        model: PreTrainedModel = EsmcModel.from_pretrained(workload.checkpoint, local_files_only=True)
    else:
        model = EsmModel.from_pretrained(workload.checkpoint, add_pooling_layer=False, local_files_only=True)
    model.eval()
    return model


def _framed(tokenizer: Tokenizer, sequence: bytes) -> Tensor:
    content = tokenizer.content_ids(sequence)
    before = [] if tokenizer.first_id is None else [tokenizer.first_id]
    return torch.tensor([*before, *content.tolist(), tokenizer.last_id])


def _one(sequence: bytes) -> Tensor:
    return _framed(ProteinTokenizer(), sequence)[None]  # (1, l)


def _longest_first(workload: Workload) -> list[int]:
    return sorted(range(len(workload.sequences)), key=lambda row: -len(workload.sequences[row]))


def _sorted_batches(workload: Workload, tokens: int) -> list[list[int]]:
    batches: list[list[int]] = [[]]
    widest = 0
    for row in _longest_first(workload):
        widest = widest or len(workload.sequences[row]) + 2
        if batches[-1] and widest * (len(batches[-1]) + 1) > tokens:
            batches.append([])
            widest = len(workload.sequences[row]) + 2
        batches[-1].append(row)
    return batches


def _batched(
    workload: Workload, batches: Sequence[Sequence[int]], *, multiple: int = 1, core_each: bool = False
) -> Run:
    """transformers' model over padded batches, on all cores together or each on one."""
    model: PreTrainedModel
    tokenizer: Tokenizer
    if find_checkpoint(workload.checkpoint).configuration["model_type"] == "t5":
        model, pad = T5EncoderModel.from_pretrained(workload.checkpoint).eval(), T5_VOCABULARY.index("<pad>")
        tokenizer = ResidueTokenizer(None, "uzob_as_x")
    else:
        model, pad, tokenizer = _hugging_face(workload), PAD, ProteinTokenizer()
    before = int(tokenizer.first_id is not None)

    def compute(rows: Sequence[int]) -> tuple[NDArray[np.int64], Vectors]:
        ids = [_framed(tokenizer, workload.sequences[row]) for row in rows]
        width = -(-max(map(len, ids)) // multiple) * multiple
        padded = torch.full((len(ids), width), pad)
        for place, row in enumerate(ids):
            padded[place, : len(row)] = row
        mask = None if len(ids) == 1 and width == len(ids[0]) else (padded != pad).long()
        with torch.inference_mode():
            states = model(input_ids=padded, attention_mask=mask).last_hidden_state  # (b, l, d)
            means = [states[place, before : len(row) - 1].mean(0) for place, row in enumerate(ids)]
            return np.array(rows), torch.stack(means).numpy()

    def compute_on_one_core(rows: Sequence[int]) -> tuple[NDArray[np.int64], Vectors]:
        with single_threaded():
            return compute(rows)

    def run() -> Vectors:
        if not core_each:
            return _in_order(map(compute, batches))
        with ThreadPoolExecutor(workload.cores) as executor:
            return _in_order(executor.map(compute_on_one_core, batches))

    return run


def _by_arrays(workload: Workload, states_of: Callable[[NDArray[np.int64]], Any]) -> Run:
    """A runtime that takes and gives arrays, a sequence a call."""

    def run() -> Vectors:
        return np.stack([states_of(_one(sequence).numpy())[0, 1:-1].mean(0) for sequence in workload.sequences])

    return run


def _in_order(parts: Iterable[tuple[NDArray[np.int64], Vectors]]) -> Vectors:
    rows, vectors = zip(*parts, strict=True)
    return np.concatenate(vectors)[np.argsort(np.concatenate(rows))]
