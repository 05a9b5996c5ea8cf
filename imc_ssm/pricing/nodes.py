"""Process nodes: how logic scales from one to another, its supply and its leakage. Never for converters or lines.

Node lengths are in m. Functions take constants `k` as floats or as arrays of scenarios.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from imc_ssm.pricing.intervals import Number, Values, most

__all__ = ["gate_delay", "leakage_density", "logic_scale", "supply"]

POLYNOMIALS: dict[float, tuple[float, float, float]] = {
    130.0: (7.171, -6.709, 2.904),
    90.0: (4.762, -4.781, 2.092),
    65.0: (3.755, -4.398, 1.975),
    45.0: (1.103, -0.362, 0.2767),
    32.0: (0.9559, -0.7823, 0.471),
    20.0: (0.373, -0.1582, 0.04104),
    16.0: (0.2958, -0.1241, 0.03024),
    14.0: (0.2363, -0.09675, 0.02239),
    10.0: (0.2068, -0.09311, 0.02375),
    7.0: (0.1776, -0.09097, 0.02447),
}
"""a, b, c of the energy of logic at V, a V^2 + b V + c, by node in nm: Stillmaker and Baas, Integration 58:74
(2017), doi:10.1016/j.vlsi.2017.02.002."""
SUPPLIED = (130, 65, 40, 32, 28, 22, 16, 14, 7)
"""Nodes in nm with a constant `supply_NODE`."""
LEAKING = (130, 65, 32)
"""Nodes in nm with a constant `leakage_NODE`; smaller ones leak as the last."""
THRESHOLD, EXPONENT = 0.35, 1.3
"""V, 1: delay ~ V / (V - V_t)^1.3, the alpha-power law (Sakurai and Newton 1990, doi:10.1109/4.52187)."""


def logic_scale(k: Values, node: float) -> Number:
    """Energy of logic at `node` and 0.8 V over that at 45 nm and 0.9 V, linear between nodes.

    `k.logic_spread` is how far single circuits lie from it."""
    at = [(nm, _polynomial(nm, 0.8)) for nm in POLYNOMIALS]
    return k.logic_spread * _between(at, node * 1e9) / _polynomial(45.0, 0.9)


def supply(k: Values, node: float) -> Number:
    """Nominal supply of logic at `node`, V, linear between nodes."""
    return _between([(nm, k[f"supply_{nm}"]) for nm in SUPPLIED], node * 1e9)


def leakage_density(k: Values, node: float) -> Number:
    """Leakage of logic at `node`, W/m2, linear in the logarithm of the node between nodes."""
    at = [(math.log(nm), k[f"leakage_{nm}"]) for nm in LEAKING]
    return k.leakage_spread * _between(at, math.log(node * 1e9))


def gate_delay(k: Values, node: float, volt: Number) -> Number:
    """Delay of a gate at a supply of `volt` over that at the node's nominal one; below 0.4 V as at 0.4 V."""
    return _delay(volt) / _delay(supply(k, node))


def _delay(volt: Number) -> Number:
    volt = most(volt, 0.4)
    return volt / (volt - THRESHOLD) ** EXPONENT


def _polynomial(nm: float, volt: float) -> float:
    a, b, c = POLYNOMIALS[nm]
    return a * volt * volt + b * volt + c


def _between(points: Sequence[tuple[float, Number]], x: float) -> Number:
    """Linear interpolation, constant outside; the values may be arrays."""
    points = sorted(points, key=lambda point: point[0])
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * ((x - x0) / (x1 - x0))
    return points[-1][1]
