"""Random numbers that follow from a seed and a place alone."""

import numpy as np
import torch


def generator_at(seed: int, *place: int) -> torch.Generator:
    """The random numbers of one place in training, whatever was drawn before: the same when a run is resumed."""
    state = np.random.SeedSequence((seed, *place)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def permutation(n: int, seed: int) -> torch.Tensor:
    """0 to n - 1 in a random order, (n,) int64: the same for the same seed."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))
