"""One number per block, library and quantity: the coefficient of the textbook's law, and how far the sizes lie
from it.

quantity = coefficient * size(bits)        least squares of relative deviations
quantity ~ bits^exponent                   the power that fits best, least squares of logarithms
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

__all__ = ["SIZES", "fit"]

SIZES: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "add": ("n", lambda n: n),
    "multiply": ("n n", lambda n: n * n),
    "multiply_8": ("8 n", lambda n: 8 * n),
    "multiply_24": ("24 n", lambda n: 24 * n),
    "register": ("n", lambda n: n),
    "shift_3": ("3 n", lambda n: 3 * n),
    "shift_5": ("5 n", lambda n: 5 * n),
    "multiply_accumulate": ("n n", lambda n: n * n),
    "lane_folded": ("n", lambda n: n),
    "lane_multiplied": ("n", lambda n: n),
    "lane_shifts": ("n", lambda n: n),
}
"""What a block's energy and area grow with, in words and as a function of the word length."""
FITTED = ("energy", "area")


def relative(values: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """Coefficient c that minimises the sum of (c size / value - 1)^2, and the root mean square of what is left."""
    ratio = sizes / values
    coefficient = float(ratio.sum() / (ratio**2).sum())
    return coefficient, float(np.sqrt(np.mean((coefficient * ratio - 1) ** 2)))


def fit(measured: xr.Dataset) -> xr.Dataset:
    """Coefficient, relative residual and free exponent of energy (nominal) and area of every block and library."""
    libraries, blocks = measured.library.values, measured.block.values
    shape = (len(libraries), len(blocks), len(FITTED))
    coefficient, residual, exponent = (np.full(shape, np.nan) for _ in range(3))
    bits = measured.bits.values.astype(float)
    for i, library in enumerate(libraries):
        for j, block in enumerate(blocks):
            for k, quantity in enumerate(FITTED):
                values = measured[quantity].sel(library=library, block=block)
                values = (values.sel(bound="nominal") if "bound" in values.dims else values).values
                there = np.isfinite(values)
                sizes = SIZES[str(block)][1](bits[there])
                coefficient[i, j, k], residual[i, j, k] = relative(values[there], sizes)
                exponent[i, j, k] = np.polyfit(np.log(bits[there]), np.log(values[there]), 1)[0]
    dims = ("library", "block", "quantity")
    return xr.Dataset(
        {
            "coefficient": (dims, coefficient, {"units": "J or m2", "long_name": "per unit of the block's size"}),
            "residual": (dims, residual, {"units": "1", "long_name": "relative deviation from the law, r.m.s."}),
            "exponent": (dims, exponent, {"units": "1", "long_name": "free power of the word length"}),
            "size": (
                "block",
                [SIZES[str(b)][0] for b in blocks],
                {"units": "1", "long_name": "what the law is linear in, n the word length"},
            ),
        },
        {"quantity": list(FITTED), "library": libraries, "block": blocks},
    )
