"""The errors on validation sequences while a model is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentflow_experiments.data import SequenceDataset, subsample
from latentflow_experiments.methods.method import Method
from latentflow_experiments.metrics.equivariance import sum_per_image

SEQUENCES, BATCH = 500, 100
"""The largest number of validation sequences of each transformation, and how many of them are made at once."""


class Validation:
    """Measures the equivariance errors at equal shares of a training, on validation sequences.

    Nothing of it goes into the training: it draws no random numbers, and its time is not counted.

    Args:
        method: The method of the model.
        data: The validation sequences.
        times: How often to measure; 0 for never.
        spent: The share of the training that was spent before.
    """

    def __init__(self, method: Method[nn.Module], data: SequenceDataset, times: int, spent: float) -> None:
        self._method = method
        self._data = data
        self._times = times if method.validates else 0
        self._done = int(spent * self._times)

    def due(self, spent: float) -> bool:
        """Return whether another measurement is due at a share of the training."""
        return spent * self._times >= self._done + 1

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Measure the errors :math:`E_k`; the model is left in the mode that it was in.

        Args:
            model: The model.

        Returns:
            By ``validation/NAME`` of each transformation, the mean error over the sequences.
        """
        self._done += 1
        training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                data = self._method.labelled(model, self._data)
                motion = self._method.motion(model, self._method.choose(model, data))
                errors: list[Tensor] = []
                for k in range(len(data.names)):
                    found = []
                    for indices in torch.split(subsample(data.starts(k), SEQUENCES), BATCH):
                        frames = data.sequence(indices, k)
                        decoded = motion.decode(motion.follow(motion.start(frames), k, data.steps)).mean
                        found.append(sum_per_image(decoded.transpose(0, 1)[:, 1:] - frames[:, 1:]))
                    errors.append(torch.cat(found).mean())
        finally:
            model.train(training)
        return {f"validation/{name}": float(error) for name, error in zip(data.names, errors, strict=True)}
