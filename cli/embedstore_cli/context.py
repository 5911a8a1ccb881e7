"""The options that commands share, each defined once, and what they mean: one `Context`, passed as an argument.

A command says which groups of them it has (`@shared(FILLING, OUTPUT)`), and gets them as its first argument. Those that
it does not have are as if they were not given. Where an option is not given, the environment variable that its help
names counts; no command ever sets one.
"""

from __future__ import annotations

import inspect
import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import cache, partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from embedstore_cli.arguments import weights_of
from embedstore_cli.command import ARGUMENTS

if TYPE_CHECKING:
    from embedstore.filling import FillOptions, SpaceTarget
    from embedstore.filling.filler import Computing
    from embedstore.library import Store
    from embedstore.models.registry import Pooling
    from embedstore.models.resolution import ModelOptions
    from embedstore.storage.locations import Location
    from embedstore.store.documents import SegmentFormat


class Precision(StrEnum):
    """Precision of the arithmetic and of what is stored."""

    half = "half"
    full = "full"


class RareResidues(StrEnum):
    """Which of U, Z, O and B a T5 model is given as X."""

    kept = "kept"
    uzo_as_x = "uzo_as_x"
    uzob_as_x = "uzob_as_x"


class Long(StrEnum):
    """What happens to sequences that are longer than the model takes."""

    window = "window"
    truncate = "truncate"
    reject = "reject"
    none = "none"


def _option(*names: str, **settings: Any) -> Any:
    """An option without a default to be shown; those that have one say it in their help, or are switches."""
    return typer.Option(*names, **{"show_default": False, **settings})


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the shared options say. None: not given."""

    store: Annotated[
        str | None,
        _option(
            "--store",
            "-s",
            metavar="PATH|URL",
            help="The store. Default: $EMBEDSTORE_PATH, else $XDG_DATA_HOME/embedstore.",
        ),
    ] = None
    upstream: Annotated[
        list[str] | None,
        _option(
            "--upstream",
            metavar="PATH|URL",
            help="A store to look up after yours; may be given several times. Default: $EMBEDSTORE_UPSTREAM.",
        ),
    ] = None
    pull_through: Annotated[
        bool,
        _option(
            "--pull-through",
            help="Keep in your store what is found in upstream stores. Default: if $EMBEDSTORE_PULL_THROUGH is set.",
        ),
    ] = False
    pin: Annotated[
        str | None, _option("--pin", metavar="NAME", help="Read exactly what `embedstore pin NAME` kept.")
    ] = None
    sign_with: Annotated[
        Path | None,
        _option(
            "--sign-with",
            metavar="KEY",
            help="Sign what is stored with this OpenSSH key (Ed25519). Default: $EMBEDSTORE_SIGNING_KEY.",
        ),
    ] = None
    require_signed: Annotated[
        Path | None,
        _option(
            "--require-signed",
            metavar="MEMBERS",
            help="Read only what one of these keys has signed; lines as in .pub files. Default: $EMBEDSTORE_MEMBERS.",
        ),
    ] = None
    name: Annotated[
        str | None, _option("--name", metavar="NAME", help="Name of the space. Default: that of the model.")
    ] = None
    weights: Annotated[
        list[str] | None,
        _option(
            "--weights",
            metavar="[MODEL=]DIR",
            help="Weights of a named model, if not in the usual cache; may be given several times. Without MODEL=: of "
            "the only model that has weights.",
        ),
    ] = None
    precision: Annotated[
        Precision | None,
        _option("--precision", help="half: stored as float16; full: float32. Default: the model's. Part of the space."),
    ] = None
    long: Annotated[
        Long | None,
        _option(
            "--long",
            help="Sequences beyond the maximal length: overlapping windows (default), cut, rejected, or no limit. "
            "Part of the space.",
        ),
    ] = None
    max_length: Annotated[
        int | None,
        _option(
            "--max-length",
            metavar="N",
            min=1,
            help="Residues or tokens the model sees at once. Default: the model's. Part of the space.",
        ),
    ] = None
    layer: Annotated[
        str | None,
        _option(
            "--layer",
            metavar="N",
            help="Which layer's states: 0 is the embedding, -1 the last (default), after its norm. Part of the space.",
        ),
    ] = None
    pooling: Annotated[
        str | None,
        _option(
            "--pooling",
            metavar="P",
            help="mean over residues, mean_all with special tokens, max, std, sum, or cls. Default: the model's. Part "
            "of the space.",
        ),
    ] = None
    rare_residues: Annotated[
        RareResidues | None,
        _option(
            "--rare-residues",
            help="Which of U, Z, O and B a T5 model is given as X. Default: the model's. Part of the space.",
        ),
    ] = None
    device: Annotated[
        str | None, _option("--device", metavar="D", help="cpu, cuda, cuda:1. Default: the best there is.")
    ] = None
    any_molecule: Annotated[bool, _option("--any-molecule", help="Take proteins that look like DNA.")] = False
    workers: Annotated[
        int | None,
        _option(
            "--workers",
            metavar="N",
            min=1,
            help="Compute in N processes; on GPUs, one each. Default: in this process.",
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        _option("--scheduler", metavar="ADDRESS", help="Compute on the workers of this Dask scheduler."),
    ] = None
    cluster: Annotated[
        Path | None,
        _option("--cluster", metavar="FILE.yaml", help="Compute on workers that Dask starts, as the file says."),
    ] = None
    json: Annotated[bool, _option("--json", help="Write JSON on standard output.")] = False
    quiet: Annotated[bool, _option("--quiet", "-q", help="No progress, no summary.")] = False
    yes: Annotated[bool, _option("--yes", "-y", help="Do not ask.")] = False
    command_line: str = ""
    """As it was typed: `embedstore fill …`."""

    def open(self, *, create: bool = False) -> Store:
        """Open the store with its upstream stores; if there is none, and none may be made, those alone."""
        from embedstore.errors import StoreNotFoundError

        keep, upstream = self._keeps_what_is_found, self._upstream()
        create = create or (keep and bool(upstream))
        try:
            return self.open_at(self.store, create=create, pin=self.pin, upstream=upstream, pull_through=keep)
        except StoreNotFoundError:
            found = None if self.pin else self._upstream_alone()
            if found is None:
                raise
            return found

    def open_if_any(self) -> Store | None:
        """Open the store to look things up, with its upstream stores, if there is one of them."""
        from embedstore.errors import StoreNotFoundError

        try:
            return self.open_at(self.store, upstream=self._upstream())
        except StoreNotFoundError:
            return self._upstream_alone()

    def open_own(self, *, create: bool = False, segment_format: SegmentFormat = "zarr") -> Store:
        """Open the store without its upstream stores."""
        return self.open_at(self.store, create=create, segment_format=segment_format, pin=self.pin)

    def open_at(
        self,
        place: Location | None,
        *,
        create: bool = False,
        segment_format: SegmentFormat = "zarr",
        pin: str | None = None,
        upstream: tuple[Location, ...] = (),
        pull_through: bool = False,
    ) -> Store:
        """Open the store at a place, with the keys that the options name."""
        from embedstore.library import open_store

        return open_store(
            place,
            create=create,
            segment_format=segment_format,
            pin=pin,
            upstream=upstream,
            pull_through=pull_through,
            sign_with=self.sign_with,
            require_signed=self.require_signed,
        )

    def target_to_fill(self, model: str) -> SpaceTarget:
        """Find the space to fill; makes the store if there is none, but only once the model is known to be one."""
        self.model_options(model)
        return self.targets_to_fill(model)[0]

    def targets_to_fill(self, model: str) -> list[SpaceTarget]:
        """Do the same for each layer and pooling."""
        from embedstore.filling import find_target
        from embedstore_cli.output import notice

        found, levels = self.open_if_any(), self.options_of_levels(model)
        if self.name is not None and len(levels) > 1:
            raise typer.BadParameter("--name: expected one space to fill, found several layers or poolings")
        for options in levels:
            target = find_target(found, model, options, self.name)
            if target.notice is not None and not self.quiet:
                notice(target.notice)
        store = self.open(create=True)
        if not self.quiet and (found is None or found.id != store.id):
            notice(f"Made a store at {store.location}.")
        targets = [find_target(store, model, options, self.name) for options in levels]
        return list({target.recipe.id: target for target in targets}.values())

    def model_options(self, model: str) -> ModelOptions:
        """Gather what was said about the only model, of which one layer and one pooling are wanted."""
        options = self.options_of_levels(model)
        if len(options) > 1:
            raise typer.BadParameter("expected one --layer and one --pooling; only `fill` takes several")
        return options[0]

    def options_of_levels(self, model: str) -> list[ModelOptions]:
        """Gather what was said about the only model, for each layer with each pooling."""
        from embedstore.models.resolution import ModelOptions

        whole = ModelOptions(
            weights=weights_of([model], self.weights).get(model),
            precision=None if self.precision is None else self.precision.value,
            long=None if self.long is None else self.long.value,
            max_length=self.max_length,
            rare_residues=None if self.rare_residues is None else self.rare_residues.value,
            on_download=self._on_download,
        )
        return [
            replace(whole, layer=layer, pooling=pooling)
            for layer in _layers(self.layer)
            for pooling in _poolings(self.pooling)
        ]

    def options_of_models(self, models: Sequence[str]) -> dict[str, ModelOptions]:
        """Gather what was said about each of several models; models whose licence must be shown are among them."""
        from embedstore.models.registry import MODELS
        from embedstore.models.resolution import ModelOptions

        found = weights_of(models, self.weights)
        given = {
            name: ModelOptions(
                weights=found.get(name),
                precision=None if self.precision is None else self.precision.value,
                on_download=self._on_download,
            )
            for name in models
        }
        restricted = {name for name in models if name in MODELS and MODELS[name].non_commercial}
        return {name: options for name, options in given.items() if options != ModelOptions() or name in restricted}

    @property
    def _on_download(self) -> Callable[[str], object] | None:
        """What tells of downloads and their licences."""
        from embedstore_cli.output import notice

        return None if self.quiet else notice

    def fill_options(self, *, any_molecule: bool = True) -> FillOptions:
        """Gather what was said about the fill."""
        from embedstore.filling import FillOptions

        return FillOptions(device=self.device, any_molecule=any_molecule, workers=self._computing())

    def _computing(self) -> Callable[[FillOptions], AbstractContextManager[Computing]] | None:
        """Return what opens the workers that the options name; None: none are named."""
        if sum(option is not None for option in (self.workers, self.scheduler, self.cluster)) > 1:
            raise typer.BadParameter("give one of --workers, --scheduler and --cluster")
        if self.workers is None and self.scheduler is None and self.cluster is None:
            return None
        from embedstore.distributed import DaskScheduler, LocalProcesses, computing_with, read_cluster_file
        from embedstore.distributed.coordination import Workers

        workers: Workers
        if self.workers is not None:
            workers = LocalProcesses(self.workers)
        elif self.scheduler is not None:
            workers = DaskScheduler(self.scheduler)
        else:
            assert self.cluster is not None  # noqa: S101 - one of three
            workers = read_cluster_file(self.cluster)
        return partial(computing_with, workers)

    @property
    def _keeps_what_is_found(self) -> bool:
        return self.pull_through or bool(os.environ.get("EMBEDSTORE_PULL_THROUGH"))

    def _upstream(self) -> tuple[Location, ...]:
        from embedstore.sharing import upstream_places

        return upstream_places(self.upstream or None)

    def _upstream_alone(self) -> Store | None:
        """Open the first upstream store that can be had, only to be read."""
        from embedstore.sharing.tiers import Upstream

        upstream = self._upstream()
        for number, each in enumerate(upstream):
            if Upstream(each).store is not None:
                return self.open_at(each, upstream=upstream[number + 1 :])
        return None


def _layers(text: str | None) -> list[int | None]:
    """6,20,-1 -> [6, 20, -1]"""
    if text is None:
        return [None]
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--layer: expected numbers such as 6 or 6,20,-1, found {text!r}") from None


def _poolings(text: str | None) -> list[Pooling | None]:
    """mean,max -> ["mean", "max"]"""
    from embedstore.models.registry import POOLINGS

    if text is None:
        return [None]
    named: dict[str, Pooling] = {pooling: pooling for pooling in POOLINGS}
    unknown = [part for part in text.split(",") if part not in named]
    if unknown:
        raise typer.BadParameter(f"--pooling: expected some of {', '.join(named)}, found {unknown[0]!r}")
    return [named[part] for part in text.split(",")]


LOOKING_UP = ("store", "upstream", "pin", "require_signed")
MODEL = ("weights", "precision", "long", "max_length", "layer", "pooling", "rare_residues", "device")
WORKERS = ("workers", "scheduler", "cluster")
FILLING = (
    *("store", "upstream", "pull_through", "sign_with", "require_signed"),
    *("weights", "precision", "device", *WORKERS),
)
"""What every command has that may fill."""
OUTPUT = ("json", "quiet")


def shared(*groups: Iterable[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command options of `Context`, which it gets together as its first argument."""
    names = tuple(dict.fromkeys(name for group in groups for name in group))

    def with_options(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def command(_typer: typer.Context, **given: Any) -> None:
            options = {name: given.pop(name) for name in names}
            line = f"{_typer.command_path} {shlex.join(_typer.meta[ARGUMENTS])}"
            function(Context(**options, command_line=line), **given)

        typed = inspect.Parameter("_typer", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        parameters = [typed, *(each.replace(kind=each.KEYWORD_ONLY) for each in own), *_parameters(names)]
        signature = inspect.Signature(parameters)
        command.__dict__["__signature__"] = signature  # what typer goes by
        command.__annotations__ = {}
        return command

    return with_options


def _parameters(names: Iterable[str]) -> list[inspect.Parameter]:
    return [_every_parameter()[name] for name in names]


@cache
def _every_parameter() -> dict[str, inspect.Parameter]:
    hints = get_type_hints(Context, include_extras=True)
    return {
        field.name: inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(Context)
    }
