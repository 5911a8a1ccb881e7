"""Configuration of a fair-esm `.pt` file, read without torch and without executing any of its pickle.

Such a file is a zip whose `data.pkl` describes {"cfg": {"model": argparse.Namespace(...)}, "model": {name: tensor}};
older ones have "args" instead of "cfg". The sizes are taken from the *instructions* of that pickle, which are listed,
never run: the value is what is pushed right after the entry's name. The tensors' shapes are checked against them when
the weights are loaded.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embedstore.errors import WeightsError
from embedstore.models.torch_file import TorchFileError, read_pickle

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
    lacking = [name for name in _SIZES if name not in entries]
    if lacking:
        raise WeightsError(
            f"Cannot use {file}: expected a fair-esm checkpoint of ESM-2, its cfg lacks {', '.join(lacking)}."
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
