"""Stores read by the workers of a loader."""

import numpy as np
from torch.utils.data import DataLoader


class Single:
    """Single images, as a loader asks for them."""

    def __init__(self, frames):
        self.frames = frames

    def __len__(self):
        return len(self.frames.grid)

    def __getitem__(self, index):
        return self.frames.read(np.array([index]))[0]


def check_workers(frames):
    """Compare what a forked worker reads with what this process read before and reads after."""
    every = np.arange(len(frames.grid))
    expected = frames.read(every)
    batches = list(DataLoader(Single(frames), batch_size=4, num_workers=1, multiprocessing_context="fork"))
    np.testing.assert_array_equal(np.concatenate(batches), expected)
    np.testing.assert_array_equal(frames.read(every), expected)
