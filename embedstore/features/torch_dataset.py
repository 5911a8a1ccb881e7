"""Features as a dataset for torch's loaders; the one module of `features` that imports torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedstore.errors import MissingDependencyError
from embedstore.features.features import Features

try:
    import torch
    from torch.utils.data import Dataset
except ImportError as error:
    raise MissingDependencyError(
        "Cannot make a dataset: torch is not installed. Install it with `pip install 'embedstore-bio[models]'`."
    ) from error


Item = tuple[torch.Tensor, torch.Tensor]


class FeaturesDataset(Dataset[Item]):
    """Rows and classes of features: an item is x (d,) float32 and y () int64, -1 where there is no label.

    A list of numbers gives one batch, x (k, d) and y (k,), from one gather, which is many times faster than row by row:
    `DataLoader(dataset, sampler=BatchSampler(RandomSampler(dataset), 1024, drop_last=False), batch_size=None)`.
    """

    def __init__(self, features: Features) -> None:
        self._features = features
        self._y = torch.from_numpy(features.y)

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, index: int | Sequence[int]) -> Item:
        if isinstance(index, int | np.integer):
            if not 0 <= index < len(self):  # what ends a loop over a sequence
                raise IndexError(index)
            return torch.from_numpy(self._features.rows([index])[0]), self._y[index]
        return torch.from_numpy(self._features.rows(index)), self._y[list(index)]

    def __getitems__(self, indices: list[int]) -> list[Item]:
        """A loader's own batches, gathered at once."""
        return list(zip(*self[indices], strict=True))
