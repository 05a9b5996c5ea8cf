"""Programming, drift and read noise of conductances, through aihwkit's published noise models.

A chip's state *is* its conductances, so everything here is on conductance level: aihwkit's own tile
re-normalises weights by their noisy maximum and merges the pair. aihwkit counts in microsiemens; that ends at
this file.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from imc_ssm.analog.mapping import MappedMatrix
from imc_ssm.analog.schema import Cell, Design
from imc_ssm.errors import DesignError

__all__ = ["ProgrammedMatrix", "compensation", "noise_model", "program", "stream_seed"]

Floats = npt.NDArray[np.float32]
_MICRO = 1e-6


def stream_seed(*parts: int | float | str) -> int:
    """A 63-bit seed from a tuple: SHA-256 of its text, so equal in every process (unlike Python's hash)."""
    # Through Python's own types: a NumPy 3 must seed as 3 does.
    plain = [p if isinstance(p, str) else float(p) if isinstance(p, float) else int(p) for p in parts]
    text = "\x1f".join(repr(part) for part in plain)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


@contextmanager
def _global_generator(seed: int) -> Iterator[None]:
    """torch's global CPU generator, which aihwkit draws from, at `seed`; put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators too
        yield


def noise_model(cell: Cell) -> Any:
    """aihwkit's noise model of a cell, with the arguments its defaults get wrong.

    Its methods take and return conductances in uS. Raises `DesignError` if aihwkit ignores an argument.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from aihwkit.inference.noise.pcm import PCMLikeNoiseModel
        from aihwkit.inference.noise.reram import ReRamCMONoiseModel, ReRamWan2022NoiseModel

    g_max = cell.g_max.value / _MICRO
    if cell.model == "pcm-like":
        assert cell.t_0 is not None  # the schema has checked it
        return PCMLikeNoiseModel(
            g_max=g_max,
            t_0=cell.t_0.value,
            prog_noise_scale=cell.programming_scale,
            read_noise_scale=cell.read_scale,
            drift_scale=cell.drift_scale,
        )
    if cell.model == "reram-cmo":
        assert cell.acceptance_range is not None
        percent = round(100 * cell.acceptance_range.value, 6)
        model = ReRamCMONoiseModel(
            g_max=g_max,
            g_min=cell.g_min.value / _MICRO,
            prog_noise_scale=cell.programming_scale,
            read_noise_scale=cell.read_scale,
            drift_scale=cell.drift_scale,
            acceptance_range=percent,  # in percent; any unknown value silently means 0.2
        )
        if model.acceptance_range != percent:
            raise DesignError(f"cell {cell.name!r}: aihwkit has no acceptance range of {percent} %")
        return model
    # Without g_max=40 uS the fit would be stretched over 25 uS: 1.6 times the measured relative noise.
    return ReRamWan2022NoiseModel(g_max=g_max, noise_scale=cell.programming_scale)


def _limits(cell: Cell) -> tuple[float, float]:
    """Lowest and highest conductance a device can take, uS.

    A filament of the CMO cell stays in [g_min, g_max], as its drift model in aihwkit clamps too; the others
    are only kept from becoming negative, since their g_max is where weights are mapped, not where the device
    ends.
    """
    if cell.model == "reram-cmo":
        return cell.g_min.value / _MICRO, cell.g_max.value / _MICRO
    return 0.0, float("inf")


def _settle(g: torch.Tensor, cell: Cell) -> torch.Tensor:
    """Clamp at the physical limits; NaN is log10 of a conductance relaxed below zero: the lower limit."""
    low, high = _limits(cell)
    return torch.nan_to_num(g, nan=low, posinf=high).clamp_(low, high)


def _micro(g: npt.NDArray[Any]) -> torch.Tensor:
    """Conductances in S as a tensor in uS."""
    return torch.from_numpy((g.astype(np.float64) / _MICRO).astype(np.float32))


def _siemens(g: torch.Tensor) -> Floats:
    """A tensor in uS as conductances in S."""
    return (g.numpy().astype(np.float64) * _MICRO).astype(np.float32)


@dataclass(frozen=True, eq=False)
class ProgrammedMatrix:
    """A matrix in the devices of one chip, right after programming."""

    mapped: MappedMatrix
    """What was to be programmed."""
    cell: Cell
    """The device."""
    seed: int
    """Seed of the experiment."""
    chip: int
    """Number of the chip within it."""
    g_plus: Floats
    """(inputs, outputs), S: the devices that add."""
    g_minus: Floats
    """(inputs, outputs), S: the devices that subtract."""
    drift_plus: Floats
    """(inputs, outputs), what the drift model keeps: the exponent nu (pcm-like) or the target in S."""
    drift_minus: Floats
    """(inputs, outputs): as `drift_plus`."""

    def at(self, time: float) -> tuple[Floats, Floats]:
        """(g_plus, g_minus) in S, `time` seconds after programming: drift and accumulated 1/f noise.

        The draws are seeded by (seed, chip, name, time): the same call gives the same arrays, in any order.
        What was fixed at programming (exponents, programming noise) is kept; relaxation and 1/f noise are
        drawn anew at every time, as the models say nothing about their correlation. A cell measured at
        listed times only has its first one as programmed state. Raises `DesignError` for a time the cell
        has no model for.
        """
        time = self.cell.check_time(time)
        if self.cell.model == "reram-wan2022" and time == min(self.cell.times.only):
            return self.g_plus.copy(), self.g_minus.copy()
        model = noise_model(self.cell)
        pair = []
        with _global_generator(stream_seed(self.seed, self.chip, self.mapped.name, "time", time)):
            for g, drift in ((self.g_plus, self.drift_plus), (self.g_minus, self.drift_minus)):
                kept = torch.from_numpy(drift) if self.cell.model == "pcm-like" else _micro(drift)
                # The CMO model hands tensors to NumPy's log10: deprecated, and NaN below zero (see _settle).
                with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
                    warnings.simplefilter("ignore", DeprecationWarning)
                    later = model.apply_drift_noise_to_conductance(_micro(g), kept, time)
                pair.append(_siemens(_settle(later, self.cell)))
        return pair[0], pair[1]

    def weights(self, time: float | None = None) -> Floats:
        """(g_plus - g_minus) / (g_max - g_min), (inputs, outputs); `time` in s, None = as programmed."""
        plus, minus = (self.g_plus, self.g_minus) if time is None else self.at(time)
        span = self.cell.g_max.value - self.cell.g_min.value
        return np.asarray((plus - minus) / span, dtype=np.float32)


def program(mapped: MappedMatrix, design: Design, seed: int, chip: int) -> ProgrammedMatrix:
    """Write the targets into the devices of chip number `chip`.

    G+ = g_min + max(target, 0) (g_max - g_min), G- likewise of -target, each with the cell's programming
    noise: N(0, sigma(G)) with sigma of the published polynomial, clamped at the device's limits. Drift
    coefficients are drawn once, here. Seeded by (seed, chip, name).
    """
    cell = design.load_cell()
    model = noise_model(cell)
    g_min, span = cell.g_min.value, cell.g_max.value - cell.g_min.value
    written, kept = [], []
    with _global_generator(stream_seed(seed, chip, mapped.name, "programming")):
        for part in (np.maximum(mapped.target, 0), np.maximum(-mapped.target, 0)):
            target = _micro(g_min + part.astype(np.float64) * span)
            written.append(_siemens(_settle(model.apply_programming_noise_to_conductance(target), cell)))
            drift = model.generate_drift_coefficients(target)
            kept.append(drift.numpy() if cell.model == "pcm-like" else _siemens(drift))
    return ProgrammedMatrix(mapped, cell, seed, chip, written[0], written[1], kept[0], kept[1])


def compensation(programmed: Floats, now: Floats) -> float:
    """Global drift compensation of one tile: readout(programmed) / readout(now).

    The readout is the mean |normalised column sum| over one-hot inputs, that is mean |w|, taken often enough
    to be exact (Joshi et al., Nature Communications 11:2473 (2020), doi:10.1038/s41467-020-16108-9). 1 for a
    tile that reads zero.
    """
    before = float(np.abs(programmed).mean(dtype=np.float64))
    after = float(np.abs(now).mean(dtype=np.float64))
    return before / after if before > 0 and after > 0 else 1.0
