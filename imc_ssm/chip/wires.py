"""Wires with resistance: what a tile's devices conduct as seen from its ends; closed form and nodal analysis.

Every row i is driven at its first cell by V_i, every column j held at ground behind its last cell by the amplifier
that measures I_j. From one cell to the next, and to the driver or the amplifier, a wire has a resistance, `row`
or `column`. With u_ij on the row and v_ij on the column at cell (i, j), in V, S and ohm:

    (u_i,j-1 - u_ij) / row  =  (u_ij - u_i,j+1) / row  +  g_ij (u_ij - v_ij)           u_i,-1 = V_i
    (v_ij - v_i+1,j) / column  =  (v_i-1,j - v_ij) / column  +  g_ij (u_ij - v_ij)     v_rows,j = 0

All is linear in V, so a tile with wires equals one without whose devices have the conductances
g_eff[i, j] = dI_j / dV_i: they are computed once per chip and time, and a product costs what it did.

Devices of one weight (plus and minus) stand side by side on the row, each in a column of its own. Cells outside
the used rows and columns conduct nothing: a matrix smaller than its tile lies at the drivers and the amplifiers.
Not modelled: selectors, capacitance, resistance of drivers and amplifiers.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import splu

from imc_ssm.errors import ConfigError, DataError, unknown

__all__ = ["Solve", "closed_form", "currents", "effective", "first_order", "nodal"]

Solve = Literal["closed-form", "nodal"]
Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

_CHUNK = 32
"""Samples that `currents` solves at once: 70 MB for 256 rows of 512 cells."""


def effective(g: Array, row: float, column: float, solve: Solve = "closed-form") -> Array:
    """Effective conductances of tiles whose weights are several devices each; shape and type of `g`.

    `g` (..., devices, rows, columns), S, the used part of a tile: one row has devices x columns cells. `row`,
    `column`: resistance of the wire from one cell to the next, ohm. `solve`: `closed_form` or `nodal`.

    Raises `ConfigError` for a negative resistance or an unknown `solve`, `DataError` for another shape or values
    that are not finite.
    """
    solvers = {"closed-form": closed_form, "nodal": nodal}
    if solve not in solvers:
        raise ConfigError(unknown("solve", solve, tuple(solvers)))
    if np.ndim(g) < 3:
        raise DataError(f"conductances have shape {np.shape(g)}; give (..., devices, rows, columns)")
    g = np.asarray(g)
    *leading, devices, rows, columns = g.shape
    cells = np.moveaxis(g, -3, -1).reshape(*leading, rows, columns * devices)
    out = solvers[solve](cells, row, column).reshape(*leading, rows, columns, devices)
    return np.ascontiguousarray(np.moveaxis(out, -1, -3))


def first_order(g: Array, row: float, column: float) -> Array:
    """Effective conductances to first order in the resistances; g (..., rows, columns), one device a cell.

        g_eff_ij = g_ij (1 - row    sum_j' g_ij' (1 + min(j, j'))
                           - column sum_i' g_i'j (rows - max(i, i')))

    The current through segment k of a row is that of the cells from k on, so the first sum is a cumulative sum of
    cumulative sums. The second is the same along the column: by reciprocity, current from a cell to the amplifier
    is as voltage from the amplifier's end to the cell. The relative error of the drop is about the drop itself:
    for a few percent, and to see where `closed_form` comes from. Raises as `effective`.
    """
    values = _checked(g, row, column)
    rising = _turned(values)
    drop = row * _from_end(values).cumsum(axis=-1) + column * _turned(_from_end(rising).cumsum(axis=-1), back=True)
    return _like(values * (1 - drop), g)


def closed_form(g: Array, row: float, column: float) -> Array:
    """Effective conductances, O(rows x columns) a tile and all chips at once; g (..., rows, columns).

        g_eff = a b g + g0 (A a g) (B b g)          a, b, A, B: of ladders along row i and column j

    Row i alone, its columns at ground, is a ladder: V_i falls to a_ij V_i, exactly, by continued fractions from
    its far end (Y_ij: what the ladder from cell j on conducts):

        Y_ij = g_ij + Y_i,j+1 / (1 + row Y_i,j+1),      a_ij = prod_k<=j 1 / (1 + row Y_ik)

    Column j alone likewise: of the current of cell (i, j) the share b_ij reaches the amplifier (by reciprocity,
    the voltage that 1 V at the amplifier's end leaves at the cell). a b g is exact where a resistance is zero. It
    lacks this: the current of row i' lifts columns j', and these the rows i that feed column j. To lowest order:

        sum_i sum_j'  (b g)_ij  A_i[j, j']  g_ij'  B_j'[i, i']  (a g)_i'j'

    with A_i = (Laplacian of row i's wire + diag g_i)^-1, B likewise. With g0, the mean of g, for the middle cell
    and in A and B, the sums fall apart into the product above. The term is of the order row x column; left out is
    how it depends on single cells, which averages out, and what is of higher order. It is equal for the devices of
    a pair, so inputs that average to zero do not see it. Measured errors: docs/wires.md. Raises as `effective`.
    """
    values = _checked(g, row, column)
    rising = _turned(values)
    a, b = _ladder(values, row), _turned(_ladder(rising, column), back=True)
    out = a * b * values
    if row > 0 and column > 0:
        mean = values.mean(axis=(-2, -1), keepdims=True)
        lifted = _ladder(mean, row, values * a)
        lifted *= _turned(_ladder(mean, column, _turned(values * b)), back=True)
        out += mean * lifted
    return _like(out, g)


def nodal(g: Array, row: float, column: float) -> Array:
    """Effective conductances by nodal analysis of every tile, exact; g (..., rows, columns).

    `currents` for every row driven alone or, where columns are fewer, every amplifier (the network is reciprocal):
    20 s for 256 x 512 cells. Raises as `effective`.
    """
    values = _checked(g, row, column)
    tiles = values.reshape(-1, *values.shape[-2:])
    rows, columns = values.shape[-2:]
    if rows <= columns:
        solved = [currents(tile, np.eye(rows), row, column) for tile in tiles]
    else:  # turned by half a turn and mirrored, drivers and amplifiers change places
        turned = [tile[::-1, ::-1].T for tile in tiles]
        solved = [currents(tile, np.eye(columns), column, row)[::-1, ::-1].T for tile in turned]
    return _like(np.stack(solved).reshape(values.shape), g)


def currents(g: Array, voltages: Array, row: float, column: float) -> Doubles:
    """Currents into the amplifiers of one tile, exact, A: voltages (samples, rows), V -> (samples, columns).

    One sparse symmetric matrix of 2 x rows x columns nodes, factorised once (SuperLU): 4 s for 256 x 512 cells and
    20 samples. Where a resistance is zero the tile is made of ladders, and `closed_form`, exact there, is taken.
    Raises as `effective`, `DataError` for g that is not (rows, columns) or voltages of another shape.
    """
    values, drive = _checked(g, row, column), np.asarray(voltages, np.float64)
    if values.ndim != 2 or drive.ndim != 2 or drive.shape[1] != len(values):
        raise DataError(
            f"conductances {values.shape} and voltages {drive.shape}: give (rows, columns), (samples, rows)"
        )
    if row == 0 or column == 0:
        return drive @ closed_form(values, row, column)
    upper = np.arange(values.size).reshape(values.shape)
    lower = upper + values.size
    total = 2 * values.size
    branches: list[tuple[Any, Any, Any]] = [
        (upper[:, :-1], upper[:, 1:], 1 / row),
        (lower[:-1], lower[1:], 1 / column),
        (upper, lower, values),
    ]
    start, end, weight = (
        np.concatenate([np.broadcast_to(branch[k], branch[0].shape).ravel() for branch in branches])
        for k in range(3)
    )
    diagonal: Doubles = np.asarray(np.bincount(start, weight, total) + np.bincount(end, weight, total), np.float64)
    diagonal[upper[:, 0]] += 1 / row
    diagonal[lower[-1]] += 1 / column
    # In one list, which keeps cells of 0 S as entries: an ordering finds less fill in the full grid.
    nodes = np.arange(total)
    entries = np.concatenate([-weight, -weight, diagonal])
    places = np.concatenate([start, end, nodes]), np.concatenate([end, start, nodes])
    # Symmetric and positive definite: no pivoting, and an ordering that keeps the symmetry.
    factors = splu(
        sparse.csc_matrix((entries, places), shape=(total, total)),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    out = np.empty((len(drive), values.shape[1]))
    for first in range(0, len(drive), _CHUNK):
        part = drive[first : first + _CHUNK]
        right = np.zeros((total, len(part)))
        right[upper[:, 0]] = part.T / row
        out[first : first + _CHUNK] = factors.solve(right)[lower[-1]].T / column
    return out


def _checked(g: Array, row: float, column: float) -> Doubles:
    for name, value in (("row", row), ("column", column)):
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"wire resistance {name} = {value} ohm; it must be at least 0, such as 0.35")
    if np.ndim(g) < 2 or 0 in np.shape(g):
        raise DataError(f"conductances have shape {np.shape(g)}; give (..., rows, columns)")
    values = np.asarray(g, np.float64)
    if not np.isfinite(values).all():
        raise DataError("conductances of a tile hold NaN or infinite values")
    return values


def _like(values: Doubles, g: Array) -> Array:
    """In the floating type of `g`."""
    return values.astype(np.result_type(np.asarray(g).dtype, np.float32))


def _turned(values: Doubles, back: bool = False) -> Doubles:
    """Columns as rows that start at their amplifier, and back."""
    if back:
        return np.swapaxes(values[..., ::-1], -1, -2)
    return np.swapaxes(values, -1, -2)[..., ::-1]


def _from_end(values: Doubles) -> Doubles:
    """Cumulative sum along the last axis, from its end."""
    return values[..., ::-1].cumsum(axis=-1)[..., ::-1]


def _ladder(g: Doubles, resistance: float, inject: Doubles | None = None) -> Doubles:
    """Voltages along lines of cells to ground, (..., lines, cells); every line starts with a wire.

    Without `inject`, for 1 V at the start of every line. With it, for these currents into the cells, A, the start
    at ground. `g` broadcasts against `inject`.
    """
    # The axis that is walked along in front: every step works on contiguous numbers.
    source = None if inject is None else np.array(np.moveaxis(inject, -1, 0), order="C")
    shape = g.shape if inject is None else inject.shape
    onward = np.array(np.moveaxis(np.broadcast_to(g, shape), -1, 0), order="C")
    # From cell k on, Norton's equivalent of the rest: a conductance and a current.
    for k in range(len(onward) - 2, -1, -1):
        share = 1 / (1 + resistance * onward[k + 1])
        onward[k] += onward[k + 1] * share
        if source is not None:
            source[k] += source[k + 1] * share
    voltage = np.full(onward.shape[1:], 1.0 if source is None else 0.0)
    for k in range(len(onward)):
        if source is not None:
            voltage += resistance * source[k]
        voltage /= 1 + resistance * onward[k]
        onward[k] = voltage
    return np.moveaxis(onward, 0, -1)
