"""Conductances of cells: ours and those of aihwkit's noise models, as programmed and later."""

from __future__ import annotations

import numpy as np
from product_agreement import DAY, Comparison, compared

from imc_ssm.chip import Reference
from imc_ssm.devices import Cell, Draws, device_names, load_cell, stream_seed
from imc_ssm.errors import DesignError

TARGETS = (0.0, 0.05, 0.3, 0.6, 1.0)
"""Fractions of the way from g_min to g_max."""


def cells() -> list[str]:
    """Shipped cells that have a class of their own and a model in aihwkit."""
    out = []
    for name in device_names("cells"):
        cell = load_cell(name)
        try:
            Reference(cell)
        except DesignError:
            continue
        if cell.model != "aihwkit":
            out.append(name)
    return out


def stage(model: Cell | Reference, target: float, time: float | None, devices: int, *seed: str) -> np.ndarray:
    """Conductances in S of so many devices, a time in s after programming (None: as programmed)."""
    targets = np.full(devices, target, np.float32)
    made = model.program(targets, Draws([stream_seed(*seed, "programming")]))
    if time is None:
        return made.g[0].astype(np.float64)
    return model.read(made, time, Draws([stream_seed(*seed, "reading")]))[0].astype(np.float64)


def agreement(name: str, devices: int) -> dict[str, Comparison]:
    """Ours against aihwkit's at every target and time, new devices for each, so that no test knows of another."""
    cell, out = load_cell(name), {}
    for fraction in TARGETS:
        for time in (None, *(cell.times.only or (1.0, 3600.0, DAY, 30 * DAY))):
            where = f"{fraction:g} of the window, {'programmed' if time is None else f'{time:g} s'}"
            ours, theirs = (
                stage(model, cell.g_min.value + fraction * cell.span, time, devices, name, where, side)
                for side, model in (("ours", cell), ("theirs", Reference(cell)))
            )
            # to 0.0001 uS: below it lie the last bits of single precision
            out[where] = compared(ours, theirs, 1e-8)
    return out
