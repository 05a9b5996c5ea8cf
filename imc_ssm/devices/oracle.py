"""aihwkit's noise models of cells, behind the same doors as ours; imported when asked for.

aihwkit counts in microsiemens and draws from torch's global generator; both end at this file.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

from imc_ssm.devices.cell import Cell, Draws, Programmed
from imc_ssm.errors import DesignError

__all__ = ["GLOBAL", "Reference", "generator_at"]

GLOBAL = threading.RLock()
"""Held while drawing from torch's one global generator or changing which warnings show: threads take turns."""


@contextmanager
def generator_at(seed: int) -> Iterator[None]:
    """torch's global CPU generator, which aihwkit draws from, at `seed`; put back afterwards."""
    with GLOBAL, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators too
        yield


class Reference:
    """The programming and reading of a cell through aihwkit's model of it, chip by chip."""

    def __init__(self, cell: Cell) -> None:
        """`DesignError` where aihwkit is not installed or has no model of the cell."""
        self.cell = cell
        with GLOBAL, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self.model = cell.reference()
            except ImportError as error:
                raise DesignError(f"aihwkit cannot be imported: {error}; use noise='native'") from None

    @staticmethod
    @contextmanager
    def _quiet() -> Iterator[None]:
        """Without the warnings of aihwkit's models: lists of tensors as indices (HERMES), tensors in NumPy's log10
        (CMO), which is NaN below zero (see `Cell.settle`)."""
        with GLOBAL, warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
            warnings.simplefilter("ignore")
            yield

    def _counted(self, g: npt.NDArray[np.float32]) -> torch.Tensor:
        """Conductances in S as a tensor in the model's unit."""
        return torch.from_numpy((g.astype(np.float64) / self.cell.unit).astype(np.float32))

    def _siemens(self, g: torch.Tensor) -> npt.NDArray[np.float32]:
        """A tensor in the model's unit as conductances in S, within the cell's limits."""
        return self.cell.settle((g.numpy().astype(np.float64) * self.cell.unit).astype(np.float32))

    def defined(self, time: float) -> bool:
        """Whether a device at g_max has a conductance at `time`: what is no number ends at the lower limit."""
        target = np.array([self.cell.g_max.value], np.float32)
        with self._quiet(), generator_at(0):
            g = self.model.apply_programming_noise_to_conductance(self._counted(target))
            kept = self.model.generate_drift_coefficients(self._counted(target))
            later = self.model.apply_drift_noise_to_conductance(g, kept, time)
        return bool(torch.isfinite(g).all() and torch.isfinite(later).all())

    def program(self, target: npt.NDArray[np.float32], draws: Draws) -> Programmed:
        """As `Cell.program`; `kept` is what aihwkit calls drift coefficients: exponents, or the targets."""
        return self._written(target, draws, self.cell.defects(draws, target.shape))  # aihwkit has no stuck devices

    def reprogram(self, devices: Programmed, draws: Draws) -> Programmed:
        """As `Cell.reprogram`: stuck devices stay stuck, all else is drawn anew."""
        return self._written(devices.target, draws, devices.stuck)

    def _written(
        self, target: npt.NDArray[np.float32], draws: Draws, stuck: npt.NDArray[np.float32] | None
    ) -> Programmed:
        written, kept = [], []
        for seed in draws.seeds:
            with self._quiet(), generator_at(seed):
                g = self.model.apply_programming_noise_to_conductance(self._counted(target))
                written.append(self._siemens(g))
                kept.append(self.model.generate_drift_coefficients(self._counted(target)).numpy())
        return Programmed(target, self.cell.held(np.stack(written), stuck), np.stack(kept), stuck)

    def read(self, devices: Programmed, time: float, draws: Draws) -> npt.NDArray[np.float32]:
        """As `Cell.read`."""
        only = self.cell.times.only
        if only and time == min(only):  # the programmed state is the one at the first of them
            return devices.g.copy()
        out = []
        for seed, g, kept in zip(draws.seeds, devices.g, devices.kept, strict=True):
            with self._quiet(), generator_at(seed):
                later = self.model.apply_drift_noise_to_conductance(self._counted(g), torch.from_numpy(kept), time)
            out.append(self._siemens(later))
        return self.cell.held(np.stack(out), devices.stuck)
