"""A checkpoint on disk in its original layout: which files, which architecture, which sizes. Nothing is loaded.

Two layouts are known. *Hugging Face*: a folder with `config.json` and `model.safetensors` or `pytorch_model.bin`, or
either in shards with an index; other files of the folder (TensorFlow, Flax, HDF5 twins, code) are never opened.
*fair-esm*: one `.pt` file, alone or in a folder; the separate `-contact-regression.pt` is not needed.

A fair-esm file is a zip whose `data.pkl` describes
{"cfg": {"model": argparse.Namespace(...)}, "model": {name: tensor}}; older ones have "args" instead of "cfg". Its sizes
are read without torch, from the *instructions* of that pickle, which are listed and never executed: the value is
what is pushed right after the entry's name. When the weights are loaded, the shapes of
the tensors are checked against these sizes.

A checkpoint may come from a stranger: its documents are read up to a limit, and every size that they state must lie in
a range before it is used.
"""

from __future__ import annotations

import json
import pickletools
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from embedstore.errors import WeightsError, WeightsNotFoundError, plain
from embedstore.models.embedder import ModelShape
from embedstore.models.files import TorchFileError, file_sha256, files_sha256, read_pickle

_SIZES = {
    "encoder_embed_dim": "hidden_size",
    "encoder_layers": "num_hidden_layers",
    "encoder_attention_heads": "num_attention_heads",
}
_SWITCHES = {"token_dropout": "token_dropout"}
_MEMO = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "FRAME"}


def read_configuration(file: Path) -> dict[str, Any]:
    """Return the entries of "cfg" that matter, under the names that Hugging Face's config.json has.

    Raises
    ------
    WeightsError : not a `.pt` file of that kind, or it does not describe an ESM-2.
    """
    entries = dict(_named_values(_pickle_bytes(file), file))
    missing = [name for name in _SIZES if name not in entries]
    if missing:
        raise WeightsError(
            f"Cannot use {file}: expected a fair-esm checkpoint of ESM-2, missing from its cfg: {', '.join(missing)}."
        )
    sizes = {ours: entries[theirs] for theirs, ours in _SIZES.items()}
    return {
        "model_type": "esm",
        **sizes,
        "intermediate_size": 4 * sizes["hidden_size"],  # fair-esm's ESM2 fixes it
        "token_dropout": entries.get("token_dropout", True),
        "layer_norm_eps": 1e-5,
        "vocab_size": 33,
    }


def _pickle_bytes(file: Path) -> bytes:
    try:
        return read_pickle(file)
    except TorchFileError as error:
        raise WeightsError(f"Cannot use {file}: {error}.") from error


def _named_values(pickle: bytes, file: Path) -> Iterator[tuple[str, int | bool]]:
    """Yield each wanted entry with the plain value that follows its name."""
    name = None
    try:
        for instruction, argument, _ in pickletools.genops(pickle):
            if instruction.name in _MEMO:
                continue
            if name is not None:
                value = {"NEWTRUE": True, "NEWFALSE": False}.get(instruction.name, argument)
                if isinstance(value, bool if name in _SWITCHES else int):
                    yield name, value
            name = argument if isinstance(argument, str) and (argument in _SIZES or argument in _SWITCHES) else None
    except (ValueError, OverflowError, IndexError, struct.error) as error:
        raise WeightsError(f"Cannot use {file}: its data.pkl is damaged: {error}.") from error


Layout = Literal["huggingface", "fair-esm"]

ARCHITECTURE_OF_MODEL_TYPE: Mapping[str, str] = {
    "esm": "esm2",
    "fast_esm": "fastesm2",
    "bert": "dnabert",
    "t5": "t5",
}
"""`model_type` of a config.json -> architecture, a key of `registry.ARCHITECTURES`; of a T5, see below."""

_T5_ARCHITECTURES: Mapping[tuple[object, object], str] = {
    ("relu", 128): "prot_t5",
    ("relu", 150): "prost_t5",
    ("gated-gelu", 144): "ankh",
}
"""`feed_forward_proj` and `vocab_size` of a T5's config.json, by which protein models differ -> the architecture."""

_WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
_CONTACT_REGRESSION = "-contact-regression.pt"
_SHOWN_CHARACTERS = 80

LARGEST_CONFIGURATION_BYTES = 1 << 20
LARGEST_INDEX_BYTES = 16 << 20
_LARGEST_SIZES: Mapping[str, int] = {
    "hidden_size": 1 << 16,
    "num_hidden_layers": 1 << 10,
    "num_attention_heads": 1 << 12,
    "intermediate_size": 1 << 20,
    "vocab_size": 1 << 22,
    "type_vocab_size": 1 << 10,
    "d_model": 1 << 16,
    "num_layers": 1 << 10,
    "num_heads": 1 << 12,
    "d_kv": 1 << 12,
    "d_ff": 1 << 20,
    "relative_attention_num_buckets": 1 << 12,
    "relative_attention_max_distance": 1 << 16,
}
"""Some ten times what the largest encoders have (ESM-2 15B: 5120 wide, 48 layers)."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a checkpoint is and what its configuration says.

    Attributes
    ----------
    path : the folder, or the `.pt` file.
    architecture : a key of `registry.ARCHITECTURES`.
    weights : the file that holds the tensors, or its shards.
    tokenizer : `tokenizer.json`, where the architecture has one.
    configuration : `config.json`, or for fair-esm the entries of "cfg" under Hugging Face's names.
    """

    path: Path
    architecture: str
    layout: Layout
    weights: tuple[Path, ...]
    tokenizer: Path | None
    configuration: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the folder, or of the file without its suffix."""
        path = self.path.resolve()
        return path.stem if self.layout == "fair-esm" and path.is_file() else path.name

    @property
    def dim(self) -> int:
        """Width of the hidden states."""
        return self.size("d_model" if self._is_t5 else "hidden_size")

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.size("num_layers" if self._is_t5 else "num_hidden_layers")

    @property
    def _is_t5(self) -> bool:
        return self.configuration.get("model_type") == "t5"

    @property
    def shape(self) -> ModelShape:
        """The sizes that decide its speed."""
        return ModelShape(self.architecture, self.layers, self.dim)

    def size(self, entry: str) -> int:
        """Return a positive integer of the configuration.

        Raises
        ------
        WeightsError : it is missing, or no integer of a size that encoders have.
        """
        value, largest = self.configuration.get(entry), _LARGEST_SIZES[entry]
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
            raise WeightsError(
                f"Cannot use {self.path}: expected a positive {entry} of at most {largest} in its configuration, "
                f"found {shown(value)}."
            )
        return value

    def weights_sha256(self) -> str:
        """SHA-256 of the weights file; of shards, see `files.files_sha256`."""
        return files_sha256(self.weights)

    def tokenizer_sha256(self) -> str | None:
        """SHA-256 of the tokenizer's file, None where the vocabulary is part of our code."""
        return None if self.tokenizer is None else file_sha256(self.tokenizer)


def find_checkpoint(path: Path) -> Checkpoint:
    """Find out what a folder or a `.pt` file is, by its configuration and kind of files.

    Raises
    ------
    WeightsNotFoundError : the path does not exist, or holds no weights.
    WeightsError : the configuration cannot be read, is of an unknown architecture, or several files could be meant.
    """
    if not path.exists():
        raise WeightsNotFoundError(f"Cannot find weights: {path} does not exist.")
    if path.is_file():
        return _fair_esm(path, path)
    if (path / "config.json").is_file():
        return _hugging_face(path)
    candidates = sorted(file for file in path.glob("*.pt") if not file.name.endswith(_CONTACT_REGRESSION))
    if len(candidates) == 1:
        return _fair_esm(path, candidates[0])
    if candidates:
        names = ", ".join(file.name for file in candidates)
        raise WeightsError(f"Cannot use {path}: expected one .pt file, found {names}. Name the file itself.")
    raise WeightsNotFoundError(
        f"Cannot find weights in {path}: expected config.json with model.safetensors or pytorch_model.bin "
        "(Hugging Face), or a .pt file (fair-esm)."
    )


def _hugging_face(folder: Path) -> Checkpoint:
    configuration = _read_json(folder / "config.json", LARGEST_CONFIGURATION_BYTES)
    model_type = configuration.get("model_type")
    architecture = ARCHITECTURE_OF_MODEL_TYPE.get(str(model_type))
    if architecture is None:
        known = ", ".join(ARCHITECTURE_OF_MODEL_TYPE)
        raise WeightsError(
            f"Cannot use {folder}: expected a model_type of {known} in config.json, found {shown(model_type)}."
        )
    if architecture == "t5":
        architecture = _t5_architecture(folder, configuration)
    tokenizer = folder / "tokenizer.json"
    if architecture == "dnabert" and not tokenizer.is_file():
        raise WeightsNotFoundError(f"Cannot use {folder}: expected tokenizer.json beside config.json, found none.")
    return Checkpoint(
        path=folder,
        architecture=architecture,
        layout="huggingface",
        weights=_weights_files(folder),
        tokenizer=tokenizer if architecture == "dnabert" else None,
        configuration=configuration,
    )


def _t5_architecture(folder: Path, configuration: Mapping[str, Any]) -> str:
    feed_forward, vocabulary = configuration.get("feed_forward_proj"), configuration.get("vocab_size")
    for (known_feed_forward, known_vocabulary), architecture in _T5_ARCHITECTURES.items():
        if (feed_forward, vocabulary) == (known_feed_forward, known_vocabulary):
            return architecture
    known = ", ".join(f"{proj} and {size} ({name})" for (proj, size), name in _T5_ARCHITECTURES.items())
    raise WeightsError(
        f"Cannot use {folder}: expected a T5 of proteins, with feed_forward_proj and vocab_size {known} in "
        f"config.json, found {shown(feed_forward)} and {shown(vocabulary)}."
    )


def _weights_files(folder: Path) -> tuple[Path, ...]:
    for name in _WEIGHTS_FILES:
        if (folder / name).is_file():
            return (folder / name,)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index)
    expected = " or ".join(_WEIGHTS_FILES)
    raise WeightsNotFoundError(f"Cannot find weights in {folder}: expected {expected} beside config.json.")


def _shards(index: Path) -> tuple[Path, ...]:
    places = _read_json(index, LARGEST_INDEX_BYTES).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise WeightsError(f"Cannot use {index}: expected a weight_map that names the shards.")
    names = sorted({str(name) for name in places.values()})
    foreign = [name for name in names if Path(name).name != name]
    if foreign:
        raise WeightsError(f"Cannot use {index}: expected shards in the same folder, found {', '.join(foreign)}.")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise WeightsNotFoundError(
            f"Cannot find weights in {index.parent}: {index.name} names missing files: {', '.join(missing)}."
        )
    return tuple(index.parent / name for name in names)


def _fair_esm(path: Path, file: Path) -> Checkpoint:
    return Checkpoint(
        path=path,
        architecture="esm2",
        layout="fair-esm",
        weights=(file,),
        tokenizer=None,
        configuration=read_configuration(file),
    )


def shown(value: object) -> str:
    """Write a value of a configuration into a message, however long it is."""
    return plain(repr(value), _SHOWN_CHARACTERS)


def _read_json(file: Path, largest_bytes: int) -> dict[str, Any]:
    try:
        document = json.loads(_content(file, largest_bytes), object_pairs_hook=_each_once, parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"Cannot read {file}: {error}.") from error
    if not isinstance(document, dict):
        raise WeightsError(f"Cannot read {file}: expected a JSON object.")
    return document


def _content(file: Path, largest_bytes: int) -> bytes:
    with file.open("rb") as stream:
        content = stream.read(largest_bytes + 1)
    if len(content) > largest_bytes:
        raise ValueError(f"expected at most {largest_bytes} bytes, found more")
    return content


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("expected every name once, found one twice in an object")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"expected numbers, found {text}")
