"""What a user chooses when a classifier is trained, checked once."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from embedstore.errors import InputError

NetworkKind = Literal["mlp", "linear"]
CalibrationKind = Literal["temperature", "vector", "none"]


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How a classifier is trained.

    Attributes
    ----------
    network : "mlp" is VirNucPro's head; "linear" is logistic regression, the baseline.
    seed : of the split, the first weights, the order of samples and dropout.
    validation_share, calibration_share, test_share : of the samples, about; the rest is trained on.
    input_dropout : share of the inputs that are left out at random in training; helps where genomes are few.
    balance_classes : weigh samples so that all classes count alike; scores are then calibrated for classes that occur
        equally often, otherwise for the frequencies in the calibration part.
    patience_epochs : training ends after so many epochs in which the validation loss did not fall.
    ignore_unlabelled : leave samples without a label out, rather than refuse them.
    device : "cpu", "cuda:0"; None: the best there is.

    Raises
    ------
    InputError : a number is out of range.
    """

    network: NetworkKind = "mlp"
    seed: int = 1
    validation_share: float = 0.15
    calibration_share: float = 0.15
    test_share: float = 0.2
    balance_classes: bool = True
    calibration: CalibrationKind = "temperature"
    max_epochs: int = 200
    patience_epochs: int = 10
    batch_rows: int = 1024
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    input_dropout: float = 0.0
    ignore_unlabelled: bool = False
    device: str | None = None

    def __post_init__(self) -> None:
        shares = (self.validation_share, self.calibration_share, self.test_share)
        if self.test_share <= 0:
            raise InputError(
                f"Cannot train: expected a share of samples to test on above 0, found {self.test_share}: without an "
                "honest test set nothing is known of a classifier."
            )
        if self.validation_share <= 0 or self.calibration_share < 0 or sum(shares) >= 1:
            raise InputError(
                f"Cannot train: expected shares for validation (above 0), calibration and test that leave something to "
                f"train on, found {', '.join(map(str, shares))}. Choose smaller ones."
            )
        if (self.calibration_share == 0) != (self.calibration == "none"):
            raise InputError(
                f"Cannot train: expected a calibration part exactly if there is a calibration, found a share of "
                f"{self.calibration_share} and calibration {self.calibration}."
            )
        for name in ("max_epochs", "patience_epochs", "learning_rate"):
            if not getattr(self, name) > 0:
                raise InputError(f"Cannot train: expected {name} above 0, found {getattr(self, name)}.")
        if not 0 <= self.input_dropout < 1:
            raise InputError(f"Cannot train: expected an input dropout from 0 to below 1, found {self.input_dropout}.")
        if self.batch_rows < 2:
            raise InputError(f"Cannot train: expected at least 2 rows a batch, found {self.batch_rows}.")

    def to_json(self) -> dict[str, Any]:
        """The options as JSON values."""
        return asdict(self)
