"""How much of a layer's output each of its states makes: H2 norms of modes, Gramians, Hankel singular values.

A layer's mode n answers an impulse with h_n[t] = 2 Re(g_n a_n^t), g = c b. Its energy over all time is

    E_n = sum_t h_n[t]^2 = 2 |g|^2 / (1 - |a|^2) + 2 Re(g^2 / (1 - a^2)),

the squared H2 norm of the system that it is alone; of several inputs and outputs the sum over all pairs of them.
Source: Antoulas, "Approximation of Large-Scale Dynamical Systems", SIAM 2005.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
import scipy.linalg
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from imc_ssm.errors import ImcSsmError
from imc_ssm.layers.s4d import S4D
from imc_ssm.layers.s5 import S5
from imc_ssm.quantization import QuantizedS4D

__all__ = ["Modes", "gramians", "hankel", "head_energy", "mode_energy", "modes", "real_form"]

Complex = NDArray[np.complex128]


@dataclass(frozen=True, eq=False)
class Modes:
    """The poles of a layer's systems and how strongly each is driven and read."""

    a: Complex
    """Poles, (system, state)."""
    power: NDArray[np.float64]
    """sum |g|^2 over all pairs of an input and an output, (system, state)."""
    square: Complex
    """sum g^2 over them, (system, state)."""


@singledispatch
def modes(layer: nn.Module) -> Modes:
    """The modes of a layer, quantized or not: of the coefficients as they are trained.

    Another layer is taught by `modes.register(Its class)`. Raises `ImcSsmError` for one that is not.
    """
    raise ImcSsmError(
        f"the modes of a {type(layer).__name__} are not known, so its states cannot be ranked by them; take "
        "criterion 'saliency', or teach them: imc_ssm.pruning.modes.register"
    )


@modes.register
def _(layer: S4D) -> Modes:
    with torch.no_grad():
        a, b, c = (z.resolve_conj().cpu().numpy().astype(np.complex128) for z in layer.discrete())
    return Modes(a, np.abs(c * b) ** 2, (c * b) ** 2)


@modes.register
def _(layer: QuantizedS4D) -> Modes:
    return modes(layer.inner)


@modes.register
def _(layer: S5) -> Modes:
    unit: Any = getattr(layer.unit, "inner", layer.unit)
    with torch.no_grad():
        a, b = (z.resolve_conj().cpu().numpy().astype(np.complex128) for z in unit.discrete())
    rows, columns = _weight(layer.drive), _weight(layer.readout) / 2  # 2 Re(C x): real, and minus imaginary part
    into = rows[: len(a)] + 1j * rows[len(a) :]
    out = columns[:, : len(a)] - 1j * columns[:, len(a) :]
    power = (np.abs(into) ** 2).sum(1) * (np.abs(out) ** 2).sum(0) * np.abs(b) ** 2
    return Modes(a[None], power[None], ((into**2).sum(1) * (out**2).sum(0) * b**2)[None])


def _weight(dense: Any) -> NDArray[np.float64]:
    """(outputs, inputs) of a matrix, quantized or not."""
    matrix = getattr(dense, "matrix", dense)
    weight: Tensor = getattr(matrix, "linear", matrix).weight
    return np.asarray(weight.detach().cpu().double().numpy())


def mode_energy(found: Modes) -> NDArray[np.float64]:
    """E of every mode, (system, state); infinite where it does not decay (|a| >= 1) and is driven and read."""
    own = np.abs(found.a)
    stable = own < 1
    a = np.where(stable, found.a, 0)
    energy = 2 * found.power / (1 - np.abs(a) ** 2) + 2 * (found.square / (1 - a**2)).real
    return np.where(stable | (found.power == 0), np.maximum(energy, 0.0), np.inf)


def head_energy(a: ArrayLike, b: ArrayLike, c: ArrayLike, d: ArrayLike) -> NDArray[np.float64]:
    """Squared H2 norm of every head y[t] = 2 Re(sum_n c x[t]) + D u[t], (head,); a, b, c (head, state), d (head,).

        sum_nm 2 Re(g_n g_m* / (1 - a_n a_m*)) + 2 Re(g_n g_m / (1 - a_n a_m)) + 4 D Re(sum_n g_n) + D^2

    Infinite where a driven pole does not decay.
    """
    poles, d = np.asarray(a, np.complex128), np.asarray(d, np.float64)
    g = np.asarray(b, np.complex128) * np.asarray(c, np.complex128)
    lost = ((np.abs(poles) >= 1) & (g != 0)).any(1)
    poles = np.where(np.abs(poles) < 1, poles, 0)
    one, two = poles[:, :, None], poles[:, None, :]
    pairs = g[:, :, None] * g[:, None, :].conj() / (1 - one * two.conj())
    pairs = pairs + g[:, :, None] * g[:, None, :] / (1 - one * two)
    energy = 2 * pairs.real.sum((1, 2)) + 4 * d * g.sum(1).real + d**2
    return np.where(lost, np.inf, np.maximum(energy, 0.0))


def real_form(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """A (2 n, 2 n), B (2 n,), C (2 n,), real, of one head's complex states a, b, c (n,): the same impulse
    response.

    Each state becomes its real and imaginary part; 2 Re(c x) = 2 Re(c) Re(x) - 2 Im(c) Im(x).
    """
    a, b, c = (np.asarray(z, np.complex128) for z in (a, b, c))
    blocks = [np.array([[z.real, -z.imag], [z.imag, z.real]]) for z in a]
    into = np.stack([b.real, b.imag], 1).ravel()
    return scipy.linalg.block_diag(*blocks), into, np.stack([2 * c.real, -2 * c.imag], 1).ravel()


def gramians(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Controllability and observability Gramians (2 n, 2 n) of one head in its real form:

        P = A P A^T + B B^T,    Q = A^T Q A + C^T C.

    Raises `ImcSsmError` for a pole that does not decay.
    """
    if (np.abs(np.asarray(a)) >= 1).any():
        raise ImcSsmError("a pole does not decay (|a| >= 1): its Gramians do not exist")
    A, B, C = real_form(a, b, c)
    solve: Callable[..., NDArray[Any]] = scipy.linalg.solve_discrete_lyapunov
    return solve(A, np.outer(B, B)), solve(A.T, np.outer(C, C))


def hankel(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> NDArray[np.float64]:
    """Hankel singular values (2 n,) of one head, falling: the roots of the eigenvalues of P Q.

    Balanced truncation to order r is wrong by at most 2 (sigma_{r+1} + ... + sigma_2n) in the H-infinity norm, and
    no system of order r by less than sigma_{r+1}: what leaving out states in their own coordinates is compared
    with. Source: Antoulas 2005. Raises as `gramians`.
    """
    P, Q = gramians(a, b, c)
    return np.sort(np.sqrt(np.maximum(np.linalg.eigvals(P @ Q).real, 0.0)))[::-1]
