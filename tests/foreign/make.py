"""Write the committed checkpoints: weights as `.pt`, and inputs and logits (float64) of the model behind them.

Run from here: `python make.py`. The tests only read what it wrote.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from s4_models import Example, Sequence, build

FOLDER = Path(__file__).parent / "data"


@torch.no_grad()
def write() -> None:
    """example.py's model with pre-norm as its script saves it, and SequenceModel's (4.0) as Lightning does."""
    rng = np.random.default_rng(20)
    example = build("s4d", Example, prenorm=True, seed=5)
    sequence = build("version 4", Sequence, seed=6)
    shells = {
        "example": (example, {"model": example.state_dict(), "acc": 88.0, "epoch": 9}),
        "sequence": (sequence, {"state_dict": sequence.state_dict(), "epoch": 9, "global_step": 1000}),
    }
    FOLDER.mkdir(exist_ok=True)
    for name, (model, content) in shells.items():
        torch.save(content, FOLDER / f"{name}.pt")
        u = rng.normal(size=(3, 20, 2))
        np.savez(FOLDER / f"{name}.npz", inputs=u, logits=model.double()(torch.from_numpy(u)).numpy())


if __name__ == "__main__":
    write()
