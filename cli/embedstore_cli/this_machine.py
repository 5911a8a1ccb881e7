"""This machine and its models: models, tune, bench (how fast), cache (what is kept), completion (of a shell)."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli.arguments import Model, OptionalInputs
from embedstore_cli.context import Context, shared
from embedstore_cli.output import confirm, count, duration, notice, size, write_facts, write_json, write_table

if TYPE_CHECKING:
    from embedstore.measuring import Benchmark, Tuning
    from embedstore.models.machine import Setting

_MEASURED = ("weights", "precision", "device", "json", "quiet")
_KEPT = {
    "digests.json": "digests of weights files",
    "machine.json": "speeds and settings, of `bench`, `tune` and `selftest`",
}

Seconds = Annotated[
    float, typer.Option("--seconds", metavar="S", min=0.01, help="How long each measurement takes, about.")
]


class Action(StrEnum):
    """What to do with what is kept."""

    clear = "clear"


class Shell(StrEnum):
    """Shells that can be told how to complete."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


@shared(["json"])
def models(context: Context) -> None:
    """List the models that have a name.

    A directory with a checkpoint of their kind is a model too.
    """
    from embedstore.models.registry import MODELS

    specs = list(MODELS.values())
    if context.json:
        fields = (
            "name",
            "molecule",
            "dim",
            "layers",
            "precision",
            "max_length_tokens",
            "needs",
            "repository",
            "revision",
            "licence",
        )
        write_json([{field: getattr(spec, field) for field in fields} for spec in specs])
        return
    write_table(
        ("name", "molecule", ">dim", "precision", ">max length", "licence", "needs"),
        (
            [
                spec.name,
                spec.molecule,
                count(spec.dim),
                spec.precision,
                "–" if spec.max_length_tokens is None else count(spec.max_length_tokens),
                spec.licence or "–",
                spec.needs,
            ]
            for spec in specs
        ),
    )


@shared(_MEASURED)
def tune(
    context: Context,
    model: Model,
    inputs: OptionalInputs = None,
    seconds: Seconds = 2.0,
) -> None:
    """Find the fastest setting of a model on this machine.

    Measures packs of several sizes, and how many side by side, with sequences as long as those of INPUT. Whenever the
    model is loaded here, it runs so; its vectors stay the same.
    """
    from embedstore.measuring import tune as find_setting
    from embedstore.models import resolve
    from embedstore.sequences import read

    def show(setting: Setting) -> None:
        if not context.quiet:
            notice(f"measuring {setting.pack_tokens} tokens, {setting.workers} × {setting.threads} threads")

    choices = context.model_options(model)
    records = read(inputs) if inputs else None
    tuning = find_setting(resolve(model, choices), records, device=context.device, seconds=seconds, on_setting=show)
    if context.json:
        write_json(tuning.to_json())
    else:
        _write_tuning(tuning)
    raise typer.Exit(0)


def _write_tuning(tuning: Tuning) -> None:
    write_table(
        (">tokens a pack", ">side by side", ">threads each", ">residues or bases/s", ""),
        (
            [
                count(measured.setting.pack_tokens or 0),
                count(measured.setting.workers or 0),
                count(measured.setting.threads or 0),
                count(round(measured.residues_per_second)),
                ", ".join(
                    remark
                    for remark, holds in (
                        ("chosen", measured is tuning.chosen),
                        ("default", measured.default),
                        ("does not fit into memory", not measured.fits),
                    )
                    if holds
                ),
            ]
            for measured in tuning.curve
        ),
    )
    where = f"kept in {tuning.kept_in}" if tuning.kept_in else "it could not be kept: the cache cannot be written"
    notice(f"{tuning.model} on {tuning.place.device} in {tuning.place.dtype}, {tuning.workload}; {where}")


@shared(_MEASURED[:-1])
def bench(
    context: Context,
    model: Model,
    inputs: OptionalInputs = None,
    seconds: Seconds = 3.0,
) -> None:
    """Measure how fast a model is on this machine.

    And what a fill adds. With INPUT, also how long filling it would take. `fill --dry-run` uses what was measured.
    """
    from embedstore.measuring import bench as measure
    from embedstore.models import resolve
    from embedstore.sequences import read

    choices = context.model_options(model)
    records = read(inputs) if inputs else None
    benchmark = measure(resolve(model, choices), records, device=context.device, seconds=seconds)
    if context.json:
        write_json(benchmark.to_json())
    else:
        write_facts(_bench_facts(benchmark))
    raise typer.Exit(0)


def _bench_facts(found: Benchmark) -> list[tuple[str, str]]:
    facts = [
        ("model", f"{found.model}, {found.place.dtype} on {found.place.device}"),
        (
            "measured with",
            f"{count(found.sequences)} sequences, {count(found.residues)} residues or bases: {found.workload}",
        ),
        ("speed", f"{count(round(found.residues_per_second))} residues or bases/s"),
    ]
    if found.share_of_matmul is not None and found.matmul_gflops is not None:
        share = f"{found.share_of_matmul:.2f} of {count(round(found.matmul_gflops))} Gflop/s"
        facts.append(("matrix products", f"{share} that large ones reach in the same threads"))
    facts.append(("a fill takes", f"{100 * (found.fill_to_model - 1):+.1f} % of the model alone: reading and storing"))
    if found.input is not None and found.projected_seconds is not None:
        about = f"{count(found.input.unique)} distinct sequences, {count(found.input.residues)} residues or bases"
        facts.append(("the input", f"{about}: about {duration(found.projected_seconds)}, if none is stored yet"))
    return facts


@shared(["yes", "json"])
def cache(
    context: Context,
    action: Annotated[
        Action | None,
        typer.Argument(metavar="clear", help="Remove what is kept, except weights.", show_default=False),
    ] = None,
) -> None:
    """Show what this machine keeps beside stores, and where.

    Weights belong to the cache of huggingface_hub, which other programs use too: they are shown, and never removed.
    """
    from embedstore.models.files import cache_file

    ours = [(cache_file(name), what) for name, what in _KEPT.items() if cache_file(name).is_file()]
    if action is Action.clear:
        if ours and not context.yes:
            confirm(f"Remove {', '.join(str(path) for path, _ in ours)}")
        for path, _ in ours:
            path.unlink(missing_ok=True)
            notice(f"Removed {path}.")
        return
    found = [*ours, *_weights()]
    if context.json:
        write_json([{"path": str(path), "bytes": _bytes(path), "what": what} for path, what in found])
    elif found:
        write_table(("what", ">size", "path"), ([what, size(_bytes(path)), str(path)] for path, what in found))
    else:
        notice(f"Nothing is kept yet; {cache_file('')} is where it will be.")


def _weights() -> list[tuple[Path, str]]:
    """Return the folders of the named models' weights that were fetched."""
    from embedstore.models.registry import MODELS

    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return []
    folders = {
        spec.name: Path(HF_HUB_CACHE) / f"models--{spec.repository.replace('/', '--')}"
        for spec in MODELS.values()
        if not spec.built_in
    }
    return [(folder, f"weights of {name}") for name, folder in folders.items() if folder.is_dir()]


def _bytes(path: Path) -> int:
    """Return the size of a file, or of the files below a folder; what is linked counts once, where it lies."""
    if path.is_file():
        return path.stat().st_size
    return sum(
        os.lstat(Path(folder, name)).st_size
        for folder, _, names in os.walk(path)
        for name in names
        if not Path(folder, name).is_symlink()
    )


@shared([])
def completion(
    context: Context, shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish.", show_default=False)]
) -> None:
    """Write what makes a shell complete commands and options.

    `embedstore --install-completion` adds them to the settings of the shell that you are in.
    """
    from typer._completion_shared import get_completion_script

    print(get_completion_script(prog_name="embedstore", complete_var="_EMBEDSTORE_COMPLETE", shell=shell.value))
