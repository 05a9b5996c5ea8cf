"""Poles as decay and phase: straight-through in training, and the Cartesian format of the unit's multipliers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imc_ssm.errors import ImcSsmError
from imc_ssm.fixedpoint import Format, PoleGrid, settled
from imc_ssm.quantization.quantizer import parameter_format
from imc_ssm.quantization.rules import FormatSpec
from imc_ssm.quantization.scheme import Scheme

__all__ = ["grid_of", "polar", "stored_poles", "stored_words"]


def stored_words(scheme: Scheme, spec: FormatSpec) -> tuple[int, int] | None:
    """Bits of decay and phase that are stored of a pole; None where it is Cartesian or has no word."""
    if scheme.pole_form == "cartesian" or spec.bits is None:
        return None
    return spec.bits if scheme.pole_decay_bits is None else scheme.pole_decay_bits, spec.bits


def grid_of(a: Tensor, scheme: Scheme, spec: FormatSpec) -> PoleGrid | None:
    """The grid of decay and phase over the current poles (head, state); None as `stored_words`.

    Raises `ImcSsmError` for poles that are not finite.
    """
    words = stored_words(scheme, spec)
    if words is None or scheme.pole_form == "cartesian":
        return None
    poles = a.detach().resolve_conj().cpu().numpy().astype(np.complex128)
    if not np.all(np.isfinite(poles)):
        raise ImcSsmError("a parameter is not finite; try a smaller learning rate")
    return PoleGrid.over(poles, scheme.pole_form, *words, granularity=spec.granularity)


def stored_poles(a: Tensor, grid: PoleGrid | None) -> dict[str, NDArray[Any]]:
    """Of poles (head, state) on a grid the codes "pole_decay" and "pole_phase" int64 (head, state), and the grid's
    float32 constants "pole_grid" (5, ...) in the order of `PoleGrid`; nothing without a grid."""
    if grid is None:
        return {}
    decay, phase = grid.codes(a.detach().resolve_conj().cpu().numpy().astype(np.complex128))
    names = ("decay_start", "decay_step", "phase_start", "phase_slope", "phase_step")
    constants = np.stack(np.broadcast_arrays(*(getattr(grid, name) for name in names)))
    return {"pole_decay": decay, "pole_phase": phase, "pole_grid": constants}


def polar(a: Tensor, scheme: Scheme, spec: FormatSpec) -> tuple[Tensor, Format] | None:
    """The multipliers (head, state) that the unit makes of the poles' codes, and their format; None as
    `stored_words`.

    Straight-through: what changes the decay that is rounded (|a|, or ln(-ln |a|)) changes the rounded decay as
    much, and so does the phase; no gradient of the decay passes where it saturates, on or outside the unit circle:

        d a_q = e^(i theta_q) w d|a| + i a_q d theta,    w = 1 (polar), rho_q ln rho_q / (|a| ln |a|) (log_polar)
    """
    grid = grid_of(a, scheme, spec)
    if grid is None:
        return None
    poles = a.detach().resolve_conj().cpu().numpy().astype(np.complex128)
    points = grid.quantize(poles)
    pairs = np.stack([points.real, points.imag], axis=-1)
    rules: Any = {"symmetric": spec.symmetric, "power_of_two": spec.power_of_two}
    fmt = parameter_format(pairs, scheme.pole_multiplier_bits, spec.granularity, **rules)
    held = _like(settled(points, fmt), a)
    if not (torch.is_grad_enabled() and a.requires_grad):
        return held, fmt
    size, radius = np.abs(poles), np.abs(points)
    weight = grid.inside(poles).astype(np.float64)
    if grid.form == "log_polar":
        exact = np.where(weight > 0, size, 0.5)
        weight = weight * radius * np.log(radius) / (exact * np.log(exact))
    there = torch.where(a == 0, torch.ones_like(a), a)  # 0 has no phase
    change = [z - z.detach() for z in (there.abs(), there.angle())]  # zeros with gradients
    along = [_real(w, a) * z for w, z in zip((weight, np.where(size > 0, radius, 0.0)), change, strict=True)]
    return held + _like(np.exp(1j * np.angle(points)), a) * torch.complex(*along), fmt


def _like(values: NDArray[np.complex128], a: Tensor) -> Tensor:
    return torch.from_numpy(values).to(a)


def _real(values: NDArray[np.float64], a: Tensor) -> Tensor:
    return torch.from_numpy(values).to(a.device, a.real.dtype)
