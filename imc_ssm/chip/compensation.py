"""Compensation of drift: the digital factor that brings the outputs of an aged tile back to those it was made for.

Every mode is a ratio of read-outs that the chip takes of itself, through the tile's own converters, often enough
for their noise to average out; what they then depend on are the weights, in which the factors are written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
import numpy.typing as npt

from imc_ssm.devices.designs import Compensation
from imc_ssm.errors import ConfigError, DataError, unknown

__all__ = ["MODES", "factors"]

Floats = npt.NDArray[np.float32]
MODES: tuple[Compensation, ...] = get_args(Compensation)


def factors(
    before: Floats, now: Floats, mode: Compensation, columns: Sequence[tuple[int, int]] | None = None
) -> npt.NDArray[np.float64]:
    """What outputs are multiplied by, (chips, outputs):

        none     1
        global   mean |before| / mean |now|                   over a tile; Joshi et al. 2020, as published
        tile     <before, now> / <now, now>                   over a tile
        column   <before, now> / <now, now>                   over each column of a tile

    "global" reads mean |w| (one-hot inputs), to which the noise of weights near zero adds: on a sparse matrix it
    follows the noise and not the drift. The other two are the least-squares factor of `now` on `before`: they
    minimise sum (a now - before)^2, the mean squared error of outputs for inputs of equal power, and fall below
    the inverse of the drift where what was stored has drowned in noise. None is negative.

    `before` and `now`: weights when programmed and today, (chips, inputs, outputs); `before` may have one chip for
    all. `columns`: half-open ranges of outputs, each on a tile of its own; None: all are on one tile. 1 where a
    tile or column reads zero. A chip's factors do not depend on the others.

    Joshi et al., Nature Communications 11:2473 (2020), doi:10.1038/s41467-020-16108-9.

    Raises `ConfigError` for an unknown mode, `DataError` for weights of another shape, or columns left out.
    """
    if mode not in MODES:
        raise ConfigError(unknown("drift compensation", mode, MODES))
    if now.ndim != 3 or before.shape[1:] != now.shape[1:] or len(before) not in (1, len(now)):
        raise DataError(
            f"weights before {before.shape} and now {now.shape} do not fit; give (chips or 1, inputs, outputs) "
            "and (chips, inputs, outputs)"
        )
    outputs = now.shape[2]
    blocks = [(0, outputs)] if columns is None else list(columns)
    if [place for first, end in blocks for place in range(first, end)] != list(range(outputs)):
        raise DataError(f"columns {blocks} are not the {outputs} outputs, each once and in order")
    out = np.ones((len(now), outputs))
    if mode == "none":
        return out
    ratio = _mean_ratio if mode == "global" else _least_squares
    if mode == "column":
        blocks = [(place, place + 1) for place in range(outputs)]
    for chip, factor in enumerate(out):
        old, new = before[chip if len(before) > 1 else 0], now[chip]
        for first, end in blocks:
            factor[first:end] = ratio(old[:, first:end], new[:, first:end])
    return out


def _mean_ratio(before: Floats, now: Floats) -> float:
    was, reads = (float(np.abs(weights).mean(dtype=np.float64)) for weights in (before, now))
    return was / reads if was > 0 and reads > 0 else 1.0


def _least_squares(before: Floats, now: Floats) -> float:
    old, new = (np.asarray(weights, np.float64) for weights in (before, now))
    power = float((new * new).sum())
    return max(float((old * new).sum()) / power, 0.0) if power > 0 else 1.0
