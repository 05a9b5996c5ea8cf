"""What cells do, side by side: their programming error against conductance, and their error over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from imc_ssm.devices.cell import Cell, Draws, stream_seed
from imc_ssm.errors import ConfigError
from imc_ssm.units import whole

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["behaviour"]

LEVELS, EVERY = 17, 4
"""Conductances from g_min to g_max that are written, and of these the ones that are read over time."""
TIMES = (1.0, 10.0, 60.0, 600.0, 3600.0, 86400.0, 172800.0, 604800.0, 2592000.0)
"""s; those that a cell has no model for are NaN."""


def behaviour(cells: Sequence[Cell], *, devices: int = 4000, seed: int = 0) -> xr.Dataset:
    """Draw `devices` devices of every cell at 17 levels of its range, and read 5 of these at times up to 30 days.

    Returns a dataset over (cell, level) and (cell, read_level, time), in shares of the range g_max - g_min:
    `programming_error` is the standard deviation of what was written; `shift` and `spread` are mean and standard
    deviation of what is read, less the target, with the noise that is slower than a product. Levels are shares of
    the range too. Stuck devices are left out, as those three times as far off as the middle 95 % of the devices.

    A standard deviation of n devices has a standard error of 1 / sqrt(2 n), 1.1 % for 4,000.
    Raises `ConfigError` where two cells have one name or there is none.
    """
    import xarray as xr

    names = [cell.name for cell in cells]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"cells {names}: give at least one, each once")
    devices, seed = whole(devices, "devices", least=100), whole(seed, "seed")
    level = np.linspace(0.0, 1.0, LEVELS)
    written = np.full((len(cells), LEVELS), np.nan)
    shift, spread = (np.full((len(cells), len(level[::EVERY]), len(TIMES)), np.nan) for _ in range(2))
    for i, cell in enumerate(cells):
        goal = np.repeat(cell.g_min.value + level * cell.span, devices).reshape(LEVELS, devices).astype(np.float32)
        g = cell.program(goal, Draws([stream_seed(seed, "levels")])).g[0]
        written[i] = _moments(g - goal)[1] / cell.span
        few = cell.program(goal[::EVERY], Draws([stream_seed(seed, "programming")]))
        for j, time in enumerate(TIMES):
            if time in cell.times.only or (
                not cell.times.only and cell.times.earliest <= time <= cell.times.latest
            ):
                read = cell.read(few, time, Draws([stream_seed(seed, time)], [stream_seed(seed, "life")]))
                shift[i, :, j], spread[i, :, j] = (m / cell.span for m in _moments(read[0] - goal[::EVERY]))

    def named(values: np.ndarray, name: str) -> tuple[tuple[str, ...], np.ndarray, dict[str, str]]:
        dims = ("cell", "level") if values.ndim == 2 else ("cell", "read_level", "time")
        return dims, values, {"units": "1", "long_name": name}

    return xr.Dataset(
        {
            "programming_error": named(written, "Standard deviation of what is written, share of the range"),
            "shift": named(shift, "Mean of conductance less target, share of the range"),
            "spread": named(spread, "Standard deviation of conductance less target, share of the range"),
            "span": ("cell", [cell.span for cell in cells], {"units": "S", "long_name": "g_max - g_min"}),
        },
        {
            "cell": ("cell", names),
            "level": ("level", level, {"units": "1", "long_name": "Share of the conductance range"}),
            "read_level": ("read_level", level[::EVERY], {"units": "1", "long_name": "Share of the range, read"}),
            "time": ("time", list(TIMES), {"units": "s", "long_name": "Time after programming"}),
        },
        {"devices": devices, "seed": seed},
    )


def _moments(error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over devices (last axis), without those that do not follow."""
    low, middle, high = np.quantile(error, [0.025, 0.5, 0.975], axis=-1, keepdims=True)
    follow = np.abs(error - middle) <= 3 * np.maximum(high - middle, middle - low)
    return np.mean(error, axis=-1, where=follow), np.std(error, axis=-1, where=follow)
