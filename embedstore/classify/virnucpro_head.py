"""Reading heads that VirNucPro trained: pickled modules, of which nothing is executed.

`torch.save(model, "500_model.pth")` pickles the module itself, which loading would rebuild by running what the file
says. Here the instructions of the pickle are listed first, never run: whatever they name beyond the parts of exactly
that network is a reason to refuse the file. Then torch's own restricted reader (`weights_only`) reads it, with
stand-ins that only hold attributes in place of the module's classes.

The network (Li-Jing-1997/VirNucPro at 0f93f27, train.py): hidden_layer Linear(d, 512), bn1 BatchNorm1d(512), ReLU,
dropout 0.5, output_layer Linear(512, 2); class 0 is others, class 1 virus. Its inputs are not standardised.
"""

from __future__ import annotations

import collections
import pickle
import pickletools
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from embedstore.classify.calibration import uncalibrated
from embedstore.classify.classifier import Classifier, check_output, save_classifier
from embedstore.classify.heads import DROPOUT, HIDDEN_UNITS, NORM_EPSILON, Network, Tensors
from embedstore.errors import MissingDependencyError, ModelError, SchemaError, WeightsError
from embedstore.features import Preparation, Schema
from embedstore.filling import find_target
from embedstore.models.files import TorchFileError, read_pickle
from embedstore.models.resolution import ModelOptions
from embedstore.samples import PrepareOptions
from embedstore.store.store import SpaceStore

try:
    import torch

    from embedstore.models.weights import storage_problem
except ImportError as error:
    raise MissingDependencyError(
        "Cannot import a classifier: torch is not installed. Install it with `pip install 'embedstore-bio[train]'`."
    ) from error

LABELS = ("others", "virus")

_NETWORK = "MLPClassifier"
_PLAIN = {
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    "torch FloatStorage",
    "torch LongStorage",  # counts of batches
    "__builtin__ set",
    "builtins set",
}
_LAYERS = {
    "torch.nn.modules.linear Linear": "Linear",
    "torch.nn.modules.batchnorm BatchNorm1d": "BatchNorm1d",
    "torch.nn.modules.dropout Dropout": "Dropout",
    "torch.nn.modules.activation ReLU": "ReLU",
}
_TENSORS = {
    "hidden_layer.weight": "hidden.weight",
    "hidden_layer.bias": "hidden.bias",
    "bn1.weight": "norm.weight",
    "bn1.bias": "norm.bias",
    "bn1.running_mean": "norm.running_mean",
    "bn1.running_var": "norm.running_var",
    "output_layer.weight": "output.weight",
    "output_layer.bias": "output.bias",
}
_KINDS = {"hidden_layer": "Linear", "bn1": "BatchNorm1d", "output_layer": "Linear", "dropout": "Dropout"}
_SETTINGS = {"bn1": {"eps": NORM_EPSILON}, "dropout": {"p": DROPOUT}}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
_LARGEST_PICKLE_BYTES = 1 << 20
_UNREADABLE = (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError,
               TypeError, ArithmeticError, AssertionError, MemoryError, struct.error)  # fmt: skip
_MARKS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "FRAME", "GET", "BINGET", "LONG_BINGET"}


@dataclass(frozen=True, slots=True)
class HeadSource:
    """What the file of a head does not state.

    Attributes
    ----------
    dna, protein : models or spaces of its two blocks, DNA first.
    length_bases : of the chunks that it was trained on.
    """

    dna: str
    protein: str
    length_bases: int


def import_classifier(
    file: str | Path,
    source: HeadSource,
    output: str | Path,
    store: SpaceStore,
    options: Mapping[str, ModelOptions] | None = None,
) -> Classifier:
    """Turn a head of VirNucPro into a classifier's folder.

    Its samples were cut by VirNucPro, so its schema asks for `prepare --compat virnucpro`.

    Raises
    ------
    WeightsError : the file is anything but that network. Nothing of it was executed, and nothing is written.
    SchemaError : the network has another width than both models together.
    ModelError : a model is not known.
    """
    file, output, chosen = Path(file), Path(output), options or {}
    check_output(output)
    tensors = read_head(file)
    targets = [find_target(store, name, chosen.get(name, ModelOptions())) for name in (source.dna, source.protein)]
    for target, molecule in zip(targets, ("dna", "protein"), strict=True):
        if target.recipe.molecule != molecule:
            raise ModelError(
                f"Cannot import {file}: expected a {molecule} model, found {target.name} for {target.recipe.molecule}."
            )
    preparation = PrepareOptions(length_bases=source.length_bases, compat="virnucpro").preparation()
    spaces = [(target.name, target.recipe) for target in targets]
    schema = Schema.of_spaces(spaces, Preparation(**preparation), LABELS)
    dim = tensors["hidden.weight"].shape[1]
    if dim != schema.dim:
        widths = " + ".join(f"{target.name} {target.recipe.dim}" for target in targets)
        raise SchemaError(
            f"Cannot import {file}: expected a network of {schema.dim} inputs ({widths}), found one of {dim}. "
            "Name the models that it was trained on.",
            {"columns": (schema.dim, dim)},
        )
    standard = {"input.mean": np.zeros(dim, np.float32), "input.deviation": np.ones(dim, np.float32)}
    network = Network("mlp", dim, len(LABELS), {**standard, **tensors})
    about = {"imported_from": file.name, "kind": "a head of VirNucPro"}
    classifier = Classifier(schema, network, uncalibrated(len(LABELS)), about, str(output))
    save_classifier(classifier, output)
    return classifier


def read_head(file: Path) -> Tensors:
    """Read the tensors of a pickled head, under the names of `heads.tensor_shapes`.

    Raises
    ------
    WeightsError : the file is anything but that network.
    """
    network = _network_class(_globals(_pickle_bytes(file), file), file)
    module = _read(file, network)
    try:
        problems = _problems(module)
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise _refused(file, f"its module has another structure: {error}") from error
    if problems:
        raise _refused(file, "; ".join(problems[:5]))
    tensors = {ours: _tensor(module, theirs) for theirs, ours in _TENSORS.items()}
    odd = [name for name, tensor in tensors.items() if tensor.dtype != np.float32 or not np.isfinite(tensor).all()]
    if odd:
        raise _refused(file, f"expected finite float32 numbers, found others in {', '.join(odd)}")
    return tensors


class _Layer:
    """Holds the attributes of a layer, and does nothing."""

    _modules: ClassVar[Mapping[str, Any]] = {}
    _parameters: ClassVar[Mapping[str, Any]] = {}
    _buffers: ClassVar[Mapping[str, Any]] = {}


class _Linear(_Layer): ...


class _BatchNorm1d(_Layer): ...


class _Dropout(_Layer): ...


class _ReLU(_Layer): ...


class _Network(_Layer): ...


_STAND_INS = {"Linear": _Linear, "BatchNorm1d": _BatchNorm1d, "Dropout": _Dropout, "ReLU": _ReLU}


def _pickle_bytes(file: Path) -> bytes:
    try:
        return read_pickle(file, _LARGEST_PICKLE_BYTES)
    except TorchFileError as error:
        raise _refused(file, str(error)) from error


def _globals(content: bytes, file: Path) -> set[str]:
    """Return everything that the instructions of a pickle name, "module name"; none is run."""
    found, texts = set(), [""]
    try:
        for instruction, argument, _ in pickletools.genops(content):
            if instruction.name in ("GLOBAL", "INST"):
                found.add(str(argument))
            elif instruction.name == "STACK_GLOBAL":
                found.add(" ".join(texts[-2:]))
            elif instruction.name.startswith("EXT"):
                raise _refused(file, f"it uses {instruction.name}, which files of torch never do")
            if isinstance(argument, str) and instruction.name not in _MARKS:
                texts.append(argument)
    except (ValueError, IndexError, OverflowError, struct.error) as error:
        raise _refused(file, f"its pickle is damaged: {error}") from error
    return found


def _network_class(named: set[str], file: Path) -> str:
    """Return the path of the network's class, if nothing else is named that does not belong to it."""
    others = sorted(named - _PLAIN - set(_LAYERS))
    networks = [name for name in others if name.rpartition(" ")[2] == _NETWORK]
    strange = [name.replace(" ", ".") for name in others if name not in networks]
    if strange:
        raise _refused(file, f"it names {', '.join(strange[:5])}")
    if len(networks) != 1:
        raise _refused(file, f"expected a pickled {_NETWORK}, found {'several' if networks else 'none'}")
    return networks[0].replace(" ", ".")


def _read(file: Path, network: str) -> object:
    stand_ins: list[Any] = [(_STAND_INS[name], path.replace(" ", ".")) for path, name in _LAYERS.items()]
    stand_ins += [(_Network, network), collections.OrderedDict, set]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _refused(file, f"it cannot be read by torch's restricted reader: {reason}") from error


def _problems(module: object) -> list[str]:
    """Say where a module is not exactly the network."""
    if not isinstance(module, _Network):
        return [f"expected a {_NETWORK}, found {type(module).__name__.lstrip('_')}"]
    layers = dict(module._modules)
    layers.pop("relu", None)
    kinds = {name: type(layer).__name__.lstrip("_") for name, layer in layers.items()}
    if kinds != _KINDS:
        return [f"expected the layers {_KINDS}, found {kinds}"]
    problems = [f"{name} has hooks" for name, layer in [("it", module), *layers.items()] if _has_hooks(layer)]
    for name, settings in _SETTINGS.items():
        for setting, expected in settings.items():
            found = getattr(layers[name], setting, None)
            if found != expected:
                problems.append(f"expected {setting} {expected} of {name}, found {found}")
    if problems:
        return problems
    return _tensor_problems(module, layers)


def _tensor_problems(module: _Network, layers: Mapping[str, Any]) -> list[str]:
    names = {
        f"{name}.{tensor}"
        for name, layer in layers.items()
        for tensor in (*layer._parameters, *layer._buffers)
        if tensor != "num_batches_tracked"
    }
    if names != set(_TENSORS) or module._parameters or module._buffers:
        return [f"expected the tensors {', '.join(_TENSORS)}, found {', '.join(sorted(names))}"]
    dim = tuple(_found(module, "hidden_layer.weight").shape)[-1:]
    wide, classes = (HIDDEN_UNITS,), (len(LABELS),)
    shapes = dict.fromkeys(_TENSORS, wide) | {
        "hidden_layer.weight": wide + dim,
        "output_layer.weight": classes + wide,
        "output_layer.bias": classes,
    }
    wrong = [
        f"expected {name} of {shape}, found {tuple(_found(module, name).shape)}"
        for name, shape in shapes.items()
        if tuple(_found(module, name).shape) != shape
    ]
    return wrong or [problem for name in shapes if (problem := _claim(name, _found(module, name)))]


def _claim(name: str, tensor: Any) -> str | None:
    """Say why a tensor is not to be copied: of another type, or larger than what the file holds of it."""
    if tensor.dtype != torch.float32:
        return f"expected finite float32 numbers, found others in {name}"
    problem = storage_problem(tensor)
    return None if problem is None else f"{name}: {problem}"


def _has_hooks(layer: object) -> bool:
    return any(len(getattr(layer, name, ())) for name in _HOOKS)


def _found(module: _Network, path: str) -> Any:
    layer_name, name = path.split(".")
    layer = module._modules[layer_name]
    tensor = layer._parameters.get(name) if name in layer._parameters else layer._buffers.get(name)
    return tensor if isinstance(tensor, torch.Tensor) else torch.empty(0)


def _tensor(module: object, path: str) -> Any:
    assert isinstance(module, _Network)  # noqa: S101 - looked at before
    return _found(module, path).detach().numpy().copy()


def _refused(file: Path, reason: str) -> WeightsError:
    return WeightsError(
        f"Refused to import {file}: {reason}. Expected the pickled head of VirNucPro (Linear, BatchNorm, ReLU, dropout "
        "0.5, Linear) and nothing else; nothing in the file was executed."
    )
