"""Rounding that looks at the outputs: matrices and C of a quantized model, fitted layer by layer.

Rounded to its nearest code, every weight has an error of its own, and what earlier layers got wrong is handed on.
Here each matrix, from the input on, is first the least-squares map from what really enters it (the codes of the
quantized model) to what the full-precision model has there; then it is rounded weight by weight, each error being
made up for by the weights that are not rounded yet. No label is used, and no gradient.

Order and update of the rounding are those of GPTQ (Frantar et al. 2023, arXiv:2210.17323), after OBQ (Frantar and
Alistarh 2022, arXiv:2208.11580); that the target is what the full-precision model makes of its own inputs is GPTAQ
(Li et al. 2025, arXiv:2504.02692).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imc_ssm.fixedpoint import Format, UnitState
from imc_ssm.layers import Classifier, padding_mask
from imc_ssm.quantization.modules import DigitalMatrix, QuantizedDense
from imc_ssm.quantization.quantizer import parameter_format
from imc_ssm.quantization.recurrent import QuantizedS4D
from imc_ssm.quantization.rules import FormatSpec

__all__ = ["Moments", "fit_outputs", "fitted", "rounded_row"]

DAMPING = 0.01
"""Share of the mean square of the inputs that is added to each: weights with hardly any input stay as trained."""
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6)
"""Shares of a row's range that are tried: a narrower one has finer steps and clips the largest weights."""
SAMPLES = 1 << 16
"""Samples whose products are added at a time."""
SEQUENCES = 128
"""Most sequences that C is fitted to: a head has few weights and a state in every step."""
BATCH, STEPS = 64, 16
"""Sequences, and steps of them, whose states are looked at together."""

Floats = NDArray[np.float64]


@dataclass
class Moments:
    """Sums over samples of f f^T, f t^T, f and t: features f (..., n), targets t (..., m), leading axes apart."""

    square: Floats
    cross: Floats
    features: Floats
    targets: Floats
    count: float = 0

    @classmethod
    def empty(cls, features: int, targets: int, *apart: int) -> Moments:
        """No samples yet."""
        shapes = (features, features), (features, targets), (features,), (targets,)
        a, b, c, d = (np.zeros((*apart, *shape)) for shape in shapes)
        return cls(a, b, c, d)

    def add(self, f: Floats, t: Floats, count: float | None = None) -> None:
        """Samples f (..., samples, n), t (..., samples, m); `count` of them where some are zeroed."""
        for begin in range(0, f.shape[-2], SAMPLES):
            one, two = (v[..., begin : begin + SAMPLES, :] for v in (f, t))
            self.square += np.swapaxes(one, -1, -2) @ one
            self.cross += np.swapaxes(one, -1, -2) @ two
        self.features += f.sum(-2)
        self.targets += t.sum(-2)
        self.count += f.shape[-2] if count is None else count

    def means(self, centred: bool) -> tuple[Floats, Floats]:
        """Mean f f^T and f t^T, of what is beside the means where `centred`."""
        square, cross = self.square / self.count, self.cross / self.count
        if centred:
            mean = self.features / self.count
            square = square - mean[..., :, None] * mean[..., None, :]
            cross = cross - mean[..., :, None] * self.targets[..., None, :] / self.count
        return square, cross


def _damped(square: Floats) -> Floats:
    """`square` (..., n, n) with a share of its mean diagonal added to all of it."""
    n = square.shape[-1]
    mean = np.maximum(np.trace(square, axis1=-2, axis2=-1) / n, 1e-12)
    return np.asarray(square + DAMPING * mean[..., None, None] * np.eye(n))


def rounded_row(row: Floats, damped: Floats, fmt: Format, fixed: dict[int, float]) -> Floats:
    """One row of weights (n,) on a grid, for a small error e^T `damped` e of its output.

    Those of `fixed` first, to the values that it gives, then those with the strongest inputs. Every error is
    spread over the weights that are left: w_j <- w_j - (w_i - q_i) U_ij / U_ii, U the upper Cholesky factor of the
    inverse of `damped` (n, n).
    """
    n = len(row)
    order = np.array([*fixed, *(i for i in np.argsort(-np.diag(damped)) if i not in fixed)])
    upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    scale, zero, low, high = (float(v) for v in (fmt.scale, fmt.zero_point, fmt.low, fmt.high))
    w, q = row[order].copy(), np.empty(n)
    for i in range(n):
        nearest = scale * (min(max(np.rint(w[i] / scale) + zero, low), high) - zero)
        q[i] = fixed[int(order[i])] if i < len(fixed) else nearest
        w[i + 1 :] -= (w[i] - q[i]) / upper[i, i] * upper[i, i + 1 :]
    found = np.empty(n)
    found[order] = q
    return found


def _rounded(rows: Floats, damped: Floats, grid: Callable[[Floats], Format]) -> Floats:
    """Rows (row, n) that share a format, `grid` of their values: the nearest codes, or those of the best share of
    their range where these have less error.

    The extremes keep to the ends of the range, so that the format over the result is the same one.
    """

    def error(found: Floats) -> float:
        wrong = found - rows
        return float(np.einsum("ki,kij,kj->", wrong, damped, wrong))

    whole = grid(rows)
    best = whole.dequantize(whole.quantize(rows))
    least = error(best)
    for share in SHARES:
        ends = np.array([share * min(rows.min(), 0.0), share * max(rows.max(), 0.0)])
        fmt = grid(ends)
        # A power of two may leave the range's ends inside the codes: the extremes are then the nearest to them.
        low, high = (float(fmt.dequantize(fmt.quantize(end))) for end in ends)
        fixed = {at: v for at, v in ((int(rows.argmin()), low), (int(rows.argmax()), high)) if v != 0.0}
        made = []
        for k, row in enumerate(rows):
            own = {at % len(row): v for at, v in fixed.items() if at // len(row) == k}
            made.append(rounded_row(row, damped[k], fmt, own))
        found = np.stack(made)
        if error(found) < least:
            best, least = found, error(found)
    return best


def fitted(square: Floats, cross: Floats, start: Floats, spec: FormatSpec) -> Floats:
    """Weights (row, n) for means of f f^T (n, n) or (row, n, n) and f t^T (row, n), on the grid of their spec.

    The least-squares rows, held at `start` (row, n) by the damping; then rounded, in full precision not.
    """
    damped = np.broadcast_to(_damped(square), (len(start), *square.shape[-2:]))
    held = damped - np.broadcast_to(square, damped.shape)
    right = cross + np.einsum("kij,kj->ki", held, start)
    rows: Floats = np.linalg.solve(damped, right[..., None])[..., 0]
    if spec.bits is None:
        return rows

    def grid(values: Floats) -> Format:
        assert spec.bits is not None
        return parameter_format(
            values, spec.bits, "tensor", symmetric=spec.symmetric, power_of_two=spec.power_of_two
        )

    if spec.granularity == "tensor" or rows.shape[1] == 1:  # one weight a row would be exact
        return _rounded(rows, damped, grid)
    return np.concatenate([_rounded(rows[k : k + 1], damped[k : k + 1], grid) for k in range(len(rows))])


@torch.no_grad()
def fit_outputs(quantized: Classifier, exact: Classifier, u: Tensor, lengths: Tensor | None = None) -> None:
    """Fit every matrix and C of a quantized model in place, in the order in which signals pass them.

    `exact`: the full-precision model that it came from; u (B, T, D): calibration sequences, and their `lengths`.
    Biases take up the mean that is left. Matrices without bits are fitted and not rounded; a recurrence whose
    state has none stays as it is.
    """
    mask, training = padding_mask(lengths, u.shape[1]), exact.training
    exact.eval()
    try:
        for path in quantized.graph().modules():
            module = quantized.get_submodule(path)
            if isinstance(module, QuantizedDense) and isinstance(module.matrix, DigitalMatrix):
                _fit_matrix(module.matrix, *_seen(quantized, exact, path, u, lengths), mask)
            elif isinstance(module, QuantizedS4D) and module.integer:
                _fit_recurrence(module, *_seen(quantized, exact, path, u, lengths), mask)
    finally:
        exact.train(training)


class _Reached(Exception):
    """The module that was to be looked at has run."""


def _seen(
    quantized: nn.Module, exact: nn.Module, path: str, u: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What enters a module of the quantized model, and what leaves it in the full-precision one."""
    kept: list[Tensor] = []

    def before(_: nn.Module, inputs: Any) -> None:
        kept.append(inputs[0])
        raise _Reached

    def after(_: nn.Module, __: Any, output: Tensor) -> None:
        kept.append(output)
        raise _Reached

    for model, hook in (
        (quantized, quantized.get_submodule(path).register_forward_pre_hook(before)),
        (exact, exact.get_submodule(path).register_forward_hook(after)),
    ):
        try:
            model(u, lengths)
        except _Reached:
            pass
        finally:
            hook.remove()
    return kept[0], kept[1]


def _samples(x: Tensor, mask: Tensor | None) -> Floats:
    """(samples, channels), without padding."""
    rows = x if mask is None or x.ndim < 3 else x[mask]
    found: Floats = rows.reshape(-1, x.shape[-1]).cpu().double().numpy()
    return found


def _fit_matrix(matrix: DigitalMatrix, x: Tensor, target: Tensor, mask: Tensor | None) -> None:
    """W and bias for the target, from what enters."""
    linear = matrix.linear
    moments = Moments.empty(x.shape[-1], target.shape[-1])
    moments.add(_samples(x, mask), _samples(target, mask))
    square, cross = moments.means(centred=linear.bias is not None)
    w = fitted(square, cross.T, linear.weight.detach().cpu().double().numpy(), matrix.grid.spec)
    linear.weight.copy_(torch.from_numpy(w))
    if linear.bias is not None:
        linear.bias.copy_(torch.from_numpy((moments.targets - w @ moments.features) / moments.count))


def _fit_recurrence(layer: QuantizedS4D, u: Tensor, target: Tensor, mask: Tensor | None) -> None:
    """C of every head, for y + D u as in full precision, from the states that the unit really has.

    In units of the registers, v = c s_x, as the words of C count: y = 2 sum_n v_r x'_r - v_i x'_i.
    """
    inner, unit, (heads, states) = layer.inner, layer.unit(), layer.shape
    registers = layer.state.format()
    scale, zero = (
        np.broadcast_to(v if v.ndim == 2 else np.atleast_1d(v)[:, None], (heads, states))[..., None]
        for v in (registers.scale.astype(np.float64), registers.zero_point)
    )
    goals = (target - layer.grid(inner.D) * u).transpose(1, 2)
    moments, sign = Moments.empty(2 * states, 1, heads), np.array([2.0, -2.0])
    for begin in range(0, min(len(u), SEQUENCES), BATCH):
        some = slice(begin, begin + BATCH)
        rows, goal = u[some].transpose(1, 2).contiguous(), goals[some].cpu().double().numpy()
        valid = np.ones((len(rows), rows.shape[2])) if mask is None else mask[some].cpu().double().numpy()
        last: Any = None
        for first in range(0, rows.shape[2], STEPS):
            seen = []
            for step in range(first, min(first + STEPS, rows.shape[2])):
                _, last = unit(rows[:, :, step : step + 1], last)
                codes = (last.x if isinstance(last, UnitState) else last).cpu().numpy()
                seen.append(((codes - zero) * sign).reshape(len(codes), heads, -1))
            kept = valid[:, first : first + STEPS].T[..., None, None]
            f = (np.stack(seen) * kept).transpose(2, 0, 1, 3).reshape(heads, -1, 2 * states)
            t = (goal[:, :, first : first + STEPS].transpose(2, 0, 1)[..., None] * kept).transpose(2, 0, 1, 3)
            moments.add(f, t.reshape(heads, -1, 1), float(kept.sum()))
    square, cross = moments.means(centred=False)
    pairs = torch.view_as_real(inner.discrete()[2].resolve_conj()).cpu().double().numpy()
    start = np.asarray(pairs * scale, np.float64)
    v = fitted(square, cross[..., 0], start.reshape(heads, -1), layer.specs["c"])
    inner.C.copy_(inner.packed(torch.from_numpy(v.reshape(heads, states, 2) / scale)))
