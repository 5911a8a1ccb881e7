"""What `embedstore` exports: whatever a public signature names can be imported from it."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

import embedstore
from embedstore import errors

NOT_PUBLIC = {  # what they take or return is for the other parts of embedstore
    "FillOptions.__init__",  # `workers` comes from `embedstore.distributed`
    "FillOptions.computing",
    "Known.find",
    "Known.of",
    "Space.mergeable",
    "Space.publish",
    "Space.segments",
    "Space.sources",
    "Space.write_files",
    "PrepareCounts.add",
    "SpaceTarget.__init__",
    "SpaceTarget.get_model",
    "SpaceTarget.load_model",
    "Tally.add",
    "Tally.add_contigs",
}


LAZY = {"FeaturesDataset": embedstore.FeaturesDataset}
"""Classes that are named in an annotation and imported only where they are used."""


def signatures() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the functions of `embedstore`, the methods of its classes, and the constructors of its values."""
    for name in embedstore.__all__:
        value = getattr(embedstore, name)
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value) and not issubclass(value, Exception):
            for method, member in inspect.getmembers(value):
                found = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
                is_public = not method.startswith("_") or (method == "__init__" and dataclasses.is_dataclass(value))
                if is_public and inspect.isfunction(found) and f"{name}.{method}" not in NOT_PUBLIC:
                    yield f"{name}.{method}", found


def classes_in(annotation: Any) -> Iterator[type]:
    """Yield the classes of embedstore that a type is made of."""
    for part in annotation if isinstance(annotation, list | tuple) else typing.get_args(annotation):
        yield from classes_in(part)
    kind = typing.get_origin(annotation) or annotation
    if inspect.isclass(kind) and kind.__module__.startswith("embedstore"):
        yield kind


def test_everything_in_a_public_signature_is_exported() -> None:
    exported = {id(getattr(embedstore, name)) for name in embedstore.__all__}
    hidden = {
        f"{name}: {kind.__module__}.{kind.__name__}"
        for name, function in signatures()
        for annotation in typing.get_type_hints(function, localns=LAZY).values()
        for kind in classes_in(annotation)
        if id(kind) not in exported
    }
    assert not hidden, sorted(hidden)


def test_every_error_and_warning_is_exported() -> None:
    raised = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert {name for name in raised if not name.startswith("_")} <= set(embedstore.__all__)


def test_public_functions_of_a_store_take_the_same_arguments_in_the_same_order() -> None:
    order = ["self", "sequences", "model", "name", "options", "how", "on_error", "on_progress"]
    for method in ("fill", "get", "embed", "audit"):
        parameters = inspect.signature(getattr(embedstore.Store, method)).parameters
        assert list(parameters) == [name for name in order if name in parameters]
        positional = [each.name for each in parameters.values() if each.kind is each.POSITIONAL_OR_KEYWORD]
        assert positional == ["self", "sequences", "model"]


def test_functions_on_samples_take_what_goes_in_then_by_what_then_where_to_and_the_rest_by_name() -> None:
    positional = {
        "merge": ["samples", "models", "output"],
        "train": ["samples", "output"],
        "evaluate": ["samples", "classifier", "output"],
        "predict": ["sequences", "classifier", "output"],
        "compare": ["samples", "sets", "output"],
    }
    for name, expected in positional.items():
        parameters = inspect.signature(getattr(embedstore, name)).parameters.values()
        assert [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD] == expected
