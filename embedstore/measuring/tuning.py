"""`tune`: measure the settings of a model on this machine, and keep the best one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from embedstore.errors import InputError
from embedstore.measuring.workload import BuiltIn, Workload, sample_records
from embedstore.models.embedder import Model, ModelShape
from embedstore.models.machine import Place, Setting, keep_setting, kept_file
from embedstore.models.tuning import Measured, choose, measure
from embedstore.types import Record, Rejection

if TYPE_CHECKING:
    from embedstore.models.packed import PackedEmbedder


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was measured.

    Attributes
    ----------
    workload : what it was measured with.
    curve : one value a setting, in the order in which they were measured.
    chosen : one of them.
    kept_in : the file, None if it could not be written.
    """

    model: str
    place: Place
    workload: str
    curve: tuple[Measured, ...]
    chosen: Measured
    kept_in: str | None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "model": self.model,
            "device": self.place.device,
            "dtype": self.place.dtype,
            "workload": self.workload,
            "curve": [
                {
                    "pack_tokens": measured.setting.pack_tokens,
                    "workers": measured.setting.workers,
                    "threads": measured.setting.threads,
                    "letters_per_second": round(measured.letters_per_second, 1),
                    "fits": measured.fits,
                    "default": measured.default,
                    "chosen": measured is self.chosen,
                }
                for measured in self.curve
            ],
            "kept_in": self.kept_in,
        }


def tune(
    model: Model,
    records: Iterable[Record | Rejection] | None = None,
    *,
    device: str | None = None,
    seconds: float = 2.0,
    on_setting: Callable[[Setting], None] = lambda setting: None,
) -> Tuning:
    """Measure settings of a language model, and keep the best one for whenever it is loaded on this machine.

    Parameters
    ----------
    records : whose lengths count; None: realistic ones.
    seconds : about how long each setting is measured in each of three rounds.
    on_setting : told what is measured next.

    Raises
    ------
    InputError : the model is built in: it has no settings; or there is no such device, or no sequence.
    ModelError : it cannot be had or loaded.
    """
    shape = language_model_shape(model)
    workload: Workload = BuiltIn(model.recipe.molecule)
    if records is not None:
        workload = sample_records(records, model)
    embedder = cast("PackedEmbedder", model.load(device))
    curve = measure(embedder, workload.take, seconds=seconds, on_setting=on_setting)
    chosen = choose(curve)
    place = place_of(embedder)
    kept = keep_setting(shape, place, chosen.setting)
    return Tuning(model.name, place, workload.name, tuple(curve), chosen, str(kept_file()) if kept else None)


def language_model_shape(model: Model) -> ModelShape:
    """Return the shape of a model with weights.

    Raises
    ------
    InputError : it has none.
    """
    if model.shape is None or model.shape.layers is None:
        raise InputError(f"Cannot tune {model.name}: it is built in and has no settings. Give a language model.")
    return model.shape


def place_of(embedder: PackedEmbedder) -> Place:
    """Return where a language model runs."""
    from embedstore.models.devices import machine_place

    return machine_place(embedder.encoder.device, embedder.encoder.dtype)
