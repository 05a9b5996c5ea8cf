"""Ways to run a quantised model, for the tests of this folder."""

import torch
from torch import Tensor

from imc_ssm.datasets import SequenceDataset
from imc_ssm.s4d import Classifier


def stream(model: Classifier, u: Tensor) -> Tensor:
    """Logits after the last step, one step at a time."""
    state, logits = model.init_state(len(u)), torch.zeros(0)
    for t in range(u.shape[1]):
        logits, state = model.step(u[:, t], state)
    return logits


def some(digits: SequenceDataset, n: int = 20) -> Tensor:
    """The first test sequences, (n, T, 1)."""
    return torch.from_numpy(digits.split("test").take(n).values)
