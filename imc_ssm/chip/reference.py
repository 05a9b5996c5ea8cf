"""aihwkit behind the same doors: its noise models as a cell, its tiles as an array. Imported when asked for.

They are the oracle of the native ones. aihwkit counts in microsiemens and draws from torch's global generator;
both end at this file.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from imc_ssm.devices import Cell, Converter, Draws, Programmed
from imc_ssm.errors import DesignError

__all__ = ["Reference", "generator_at", "probe_cpp", "reference_tile"]

MICRO = 1e-6
GLOBAL = threading.RLock()
"""Held while drawing from torch's one global generator or changing which warnings show: threads take turns."""


@contextmanager
def generator_at(seed: int) -> Iterator[None]:
    """torch's global CPU generator, which aihwkit draws from, at `seed`; put back afterwards."""
    with GLOBAL, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators too
        yield


def _micro(g: npt.NDArray[np.float32]) -> torch.Tensor:
    """Conductances in S as a tensor in uS."""
    return torch.from_numpy((g.astype(np.float64) / MICRO).astype(np.float32))


def _siemens(g: torch.Tensor) -> npt.NDArray[np.float32]:
    """A tensor in uS as conductances in S."""
    return (g.numpy().astype(np.float64) * MICRO).astype(np.float32)


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

    def program(self, target: npt.NDArray[np.float32], draws: Draws) -> Programmed:
        """As `Cell.program`; `kept` is what aihwkit calls drift coefficients: exponents, or the targets in uS."""
        written, kept = [], []
        for seed in draws.seeds:
            with generator_at(seed):
                g = self.model.apply_programming_noise_to_conductance(_micro(target))
                written.append(self.cell.settle(_siemens(g)))
                kept.append(self.model.generate_drift_coefficients(_micro(target)).numpy())
        return Programmed(target, np.stack(written), np.stack(kept))

    def read(self, devices: Programmed, time: float, draws: Draws) -> npt.NDArray[np.float32]:
        """As `Cell.read`."""
        only = self.cell.times.only
        if only and time == min(only):  # the programmed state is the one at the first of them
            return devices.g.copy()
        out = []
        for seed, g, kept in zip(draws.seeds, devices.g, devices.kept, strict=True):
            # The CMO model hands tensors to NumPy's log10: deprecated, and NaN below zero (see `Cell.settle`).
            with generator_at(seed), warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
                warnings.simplefilter("ignore", DeprecationWarning)
                later = self.model.apply_drift_noise_to_conductance(_micro(g), torch.from_numpy(kept), time)
            out.append(self.cell.settle(_siemens(later)))
        return np.stack(out)


def reference_tile(
    weight: npt.NDArray[np.float32],
    output_range: float,
    dac: Converter,
    adc: Converter,
    noise: float,
    *,
    cpp: bool,
) -> Any:
    """aihwkit's simulator tile with `weight` (inputs, outputs) and converters; inputs in full scales.

    Raises `DesignError` for a converter with a transfer of its own, which aihwkit does not have.
    """
    for converter in (dac, adc):
        if not converter.signed or type(converter).convert_ is not Converter.convert_:
            raise DesignError(f"aihwkit has no converter of type {converter.type!r}; use implementation 'fast'")
    with GLOBAL, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from aihwkit.simulator.configs import InferenceRPUConfig, TorchInferenceRPUConfig
        from aihwkit.simulator.parameters.enums import BoundManagementType, NoiseManagementType
        from aihwkit.simulator.tiles.inference import InferenceTile
        from aihwkit.simulator.tiles.inference_torch import TorchInferenceTile

    config = InferenceRPUConfig() if cpp else TorchInferenceRPUConfig()
    io = config.forward
    io.inp_bound, io.inp_res = 1.0, dac.step / 2
    io.out_bound, io.out_res = output_range, adc.step / 2
    io.out_noise = noise
    # On by default: they would rescale every input vector, which no converter does.
    io.noise_management, io.bound_management = NoiseManagementType.NONE, BoundManagementType.NONE
    inputs, outputs = weight.shape
    tile = (InferenceTile if cpp else TorchInferenceTile)(outputs, inputs, config).tile
    tile.set_weights(torch.from_numpy(np.ascontiguousarray(weight.T)))
    return tile


def probe_cpp() -> None:
    """Run a small product on aihwkit's C++ tile, which is bound to torch's ABI; `DesignError` if it fails."""
    try:
        from aihwkit.simulator.configs import InferenceRPUConfig
        from aihwkit.simulator.tiles.inference import InferenceTile

        tile = InferenceTile(2, 2, InferenceRPUConfig()).tile
        tile.set_weights(torch.eye(2))
        tile.forward(torch.ones(1, 2), is_test=True)
    except Exception as error:
        raise DesignError(
            f"implementation 'aihwkit-cpp' does not run here: {error} (aihwkit's C++ tile refuses tensors of "
            f"torch {torch.__version__}); use 'aihwkit' (its torch tile) or 'fast' instead"
        ) from None
