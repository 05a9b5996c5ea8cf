"""Constants as numbers for laws: nominal, or all scenarios at once, and the interval of what follows from them.

A law is plain arithmetic on `k.NAME`. With `nominal(...)` these are floats. With `scenarios(...)` they are arrays
of S = 1 + 2 K numbers for K constants: element 0 is nominal; elements 1 + 2 i and 2 + 2 i have the i-th constant
alone at its lower and its upper end. A total computed from them has its interval by `bounds`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from imc_ssm.devices.constants import CostConstant

__all__ = ["BOUNDS", "Bounds", "Number", "Values", "bounds", "least", "most", "nominal", "scenarios", "swings"]

Number: TypeAlias = Any
"""A float, or a NumPy array of scenarios or designs."""


class Values:
    """Constants by attribute."""

    def __init__(self, numbers: Mapping[str, Number], names: tuple[str, ...] = ()) -> None:
        self._numbers = dict(numbers)
        self.names = names
        """Constants in the order of their scenarios; none where all are nominal."""

    def __getattr__(self, name: str) -> Number:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no constant {name!r}") from None

    def __getitem__(self, name: str) -> Number:
        """The constant of a name, also of one with a dot."""
        return self._numbers[name]


class Bounds(NamedTuple):
    """An interval around the nominal value, each of the shape of the result."""

    low: npt.NDArray[np.float64]
    nominal: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


BOUNDS = Bounds._fields
"""Labels of the dimension `bound`: low, nominal, high."""


def nominal(constants: Mapping[str, CostConstant]) -> Values:
    """All constants at their nominal values."""
    return Values({name: constant.value for name, constant in constants.items()})


def scenarios(constants: Mapping[str, CostConstant]) -> Values:
    """Arrays of all scenarios: nominal, then each constant alone at its lower and at its upper end."""
    names = tuple(constants)
    numbers: dict[str, Number] = {}
    for i, name in enumerate(names):
        constant = constants[name]
        row = np.full(1 + 2 * len(names), constant.value)
        row[1 + 2 * i], row[2 + 2 * i] = constant.low, constant.high
        numbers[name] = row
    return Values(numbers, names)


def bounds(result: npt.ArrayLike, k: Values) -> Bounds:
    """The interval of a non-negative result (..., S): sources are independent, so deviations add in quadrature.

    With r_0 nominal, and r the two results where one constant is at its ends, the constant moves the result up by
    max(ln(r / r_0), 0) and down by max(-ln(r / r_0), 0); low and high are r_0 exp(-+ root of the sum of squares),
    each of its own. A result that is no function of the constants, or 0, is its own interval.
    """
    nominal_, up, down = _moved(result, k)
    factor_up, factor_down = (np.exp(np.sqrt(np.square(part).sum(-1))) for part in (up, down))
    return Bounds(nominal_ / factor_down, nominal_, nominal_ * factor_up)


def swings(result: npt.ArrayLike, k: Values) -> dict[str, tuple[float, float]]:
    """What each constant alone does to a result (S,): the lowest and the highest factor, widest first."""
    _, up, down = _moved(result, k)
    found = {name: (float(np.exp(-down[i])), float(np.exp(up[i]))) for i, name in enumerate(k.names)}
    return dict(sorted(found.items(), key=lambda item: item[1][0] / item[1][1]))


def _moved(result: npt.ArrayLike, k: Values) -> tuple[npt.NDArray[np.float64], ...]:
    """Nominal result, and by how much in logs every constant alone moves it up and down, (..., K)."""
    values = np.asarray(result, np.float64)
    size = 1 + 2 * len(k.names)
    if values.ndim == 0 or values.shape[-1] != size:
        values = np.repeat(values[..., None], size, axis=-1)
    middle = values[..., :1]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where((middle > 0) & (values > 0), np.log(values / middle), 0.0)[..., 1:]
    pairs = logs.reshape(*logs.shape[:-1], len(k.names), 2)
    return middle[..., 0], np.maximum(pairs.max(-1), 0.0), np.maximum(-pairs.min(-1), 0.0)


def most(a: Number, b: Number) -> Number:
    """The larger of two, element by element; of floats a float."""
    return np.maximum(a, b) if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) else max(a, b)


def least(a: Number, b: Number) -> Number:
    """The smaller of two, element by element; of floats a float."""
    return np.minimum(a, b) if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) else min(a, b)
