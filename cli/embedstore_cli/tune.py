"""embedstore tune: find the fastest setting of a model on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from embedstore_cli import options

if TYPE_CHECKING:
    from embedstore.measuring import Tuning
    from embedstore.models.machine import Setting


def tune(
    model: options.Model,
    inputs: options.OptionalInputs = None,
    weights: options.Weights = None,
    precision: options.PrecisionChoice = None,
    device: options.Device = None,
    seconds: options.Seconds = 2.0,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Find how a model runs fastest on this machine, and keep it.

    Measures packs of several sizes, and how many side by side, with sequences as long as those of INPUT. Whenever the
    model is loaded here, it runs so; its vectors stay the same.
    """
    from embedstore.measuring import tune as find_setting
    from embedstore.models import resolve
    from embedstore.sequences import read
    from embedstore_cli.output import notice, write_json

    def show(setting: Setting) -> None:
        if not quiet:
            notice(f"measuring {setting.pack_tokens} tokens, {setting.workers} × {setting.threads} threads")

    choices = options.model_options(model, weights, precision, None, None, None)
    records = read(inputs) if inputs else None
    tuning = find_setting(resolve(model, choices), records, device=device, seconds=seconds, on_setting=show)
    if json:
        write_json(tuning.to_json())
    else:
        _write_text(tuning)
    raise typer.Exit(0)


def _write_text(tuning: Tuning) -> None:
    from embedstore_cli.output import count, notice, write_table

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
