"""S5: a MIMO diagonal state-space layer, whole, in one file.

Smith, Warrington, Linderman, "Simplified State Space Layers for Sequence Modeling", ICLR 2023 (arXiv:2208.04933).
One system with N/2 complex states, kept once per conjugate pair, is driven by all H channels and read by all of
them:

    x'(t) = A x(t) + B u(t),    y(t) = 2 Re(C x(t)) + D u(t)

B and C are dense: matrices on crossbar tiles, real and imaginary parts as outputs and inputs of their own. Between
them stands the diagonal recurrence, discretised, in the digital unit: x[t] = a x[t-1] + b v[t] with v = B u and b
what the discretisation makes of 1.

Shapes: B batch, T time, H channels, P = N/2 complex states; complex vectors are (..., 2 P), real parts first.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from imc_ssm.errors import ConfigError, shown
from imc_ssm.graph import Place, Signal, StateUpdate
from imc_ssm.kernels import state_scan
from imc_ssm.layers.parts import Dense, Direct
from imc_ssm.layers.registry import Mode, register
from imc_ssm.layers.s4d import DiagonalConfig, discretise, powers, skew_hippo

__all__ = ["S5", "S5Config", "StateUnit", "hippo_blocks"]


class S5Config(DiagonalConfig):
    """An S5 layer."""

    type: Literal["s5"] = "s5"
    """Its name."""
    blocks: int = Field(1, ge=1)
    """J, blocks of the initial state matrix, each HiPPO-N of size N / J (arXiv:2208.04933, Sec. 4.4)."""

    @model_validator(mode="after")
    def _blocks(self) -> S5Config:
        if self.n_state % (2 * self.blocks):
            raise ValueError(f"n_state = {self.n_state} is no multiple of 2 blocks = {2 * self.blocks}")
        return self

    def state_counts(self, heads: int) -> tuple[int, ...]:
        """Of the one system that all heads share."""
        return (self.n_state // 2,)

    def with_states(self, counts: tuple[int, ...]) -> Self:
        """The system with so many complex states, in one block."""
        if len(counts) != 1 or counts[0] < 1:
            raise ConfigError(f"states = {shown(counts)}: an S5 layer has one system; give one number, at least 1")
        return self.with_(n_state=2 * counts[0], blocks=1)


def hippo_blocks(n_state: int, blocks: int) -> tuple[Tensor, Tensor]:
    """Poles (P,) and eigenvectors (N, P), complex128, of the block-diagonal matrix of HiPPO-N blocks S - 1/2 I.

    Of each conjugate pair the pole with positive imaginary part is kept. The vectors are orthonormal: with V the
    columns returned and those conjugate to them, A = V diag(poles) V^H.
    """
    size = n_state // blocks
    # S v = -i l v for the eigenvalues l of the hermitian i S: poles -1/2 - i l, upper half where l < 0
    values, vectors = torch.linalg.eigh(1j * skew_hippo(size).to(torch.complex128))
    half = size // 2
    poles = torch.complex(torch.full((half,), -0.5, dtype=torch.float64), -values[:half])
    return poles.repeat(blocks), torch.block_diag(*[vectors[:, :half]] * blocks)  # type: ignore[no-untyped-call]


class StateUnit(nn.Module):
    """x[t] = a x[t-1] + b v[t] on P complex states: v (B, T, 2 P) -> x (B, T, 2 P).

    Trained: log dt (P,), A as log(-Re A) and Im A (P,).
    """

    groups: ClassVar[dict[str, str]] = dict.fromkeys(("log_dt", "log_neg_real", "imag"), "dynamics")

    def __init__(self, poles: Tensor, config: DiagonalConfig) -> None:
        super().__init__()
        self.discretisation = config.discretisation
        self.mode: Mode = "convolution"
        self.log_dt = nn.Parameter(config.log_steps(len(poles)))
        self.log_neg_real = nn.Parameter(torch.log(-poles.real).float())
        self.imag = nn.Parameter(poles.imag.float())

    def discrete(self) -> tuple[Tensor, Tensor]:
        """(a, b), each (P,) complex."""
        A = torch.complex(-torch.exp(self.log_neg_real), self.imag)
        return discretise(self.discretisation, A, torch.exp(self.log_dt))

    def forward(self, v: Tensor, mask: Tensor | None = None) -> Tensor:
        rows = parts_of(v)
        a, b = self.discrete()
        if self.mode == "recurrent":
            return vector_of(state_scan(rows, a, b))
        time = rows.shape[-1]
        drive = torch.complex(rows[:, 0], rows[:, 1])
        spectrum = torch.fft.fft(drive, n=2 * time) * torch.fft.fft(powers(a, time) * b[:, None], n=2 * time)
        x = torch.fft.ifft(spectrum, n=2 * time)[..., :time]
        return vector_of(torch.stack([x.real, x.imag], 1))

    def init_state(self, batch: int) -> Tensor:
        """x[-1] = 0, (B, P) complex."""
        return torch.complex(*(self.imag.new_zeros(batch, len(self.imag)) for _ in range(2)))

    def step(self, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One time step: v (B, 2 P) -> x (B, 2 P), next state."""
        x, last = state_scan(parts_of(v[:, None]), *self.discrete(), x0=state, return_state=True)
        return vector_of(x)[:, 0], last

    def graph(self, v: Signal, at: Place, **rules: Any) -> Signal:
        """The update; `rules`: how its integers are rounded."""
        x = at.signal("state", width=v.width, complex=True, kind="state")
        return at.emit(StateUpdate(at.label("recurrence"), at.path, (v,), x, **rules))


def parts_of(v: Tensor) -> Tensor:
    """(B, T, 2 P) as real and imaginary part, (B, 2, P, T): a view."""
    rows = v.transpose(1, 2)
    return rows.reshape(len(rows), 2, -1, rows.shape[-1])


def vector_of(x: Tensor) -> Tensor:
    """(B, 2, P, T) as (B, T, 2 P): a view."""
    return x.flatten(1, 2).transpose(1, 2)


@register(S5Config)
class S5(nn.Module):
    """drive (B) -> recurrence -> readout (2 Re C) -> + D u; (B, T, H) -> (B, T, H).

    Init: A from HiPPO-N blocks, B = V^H B0, C = C0 V with B0 and C0 real and normal, of variance 1/H and 1/N.
    """

    groups: ClassVar[dict[str, str]] = {}

    def __init__(self, heads: int, config: S5Config) -> None:
        super().__init__()
        poles, vectors = hippo_blocks(config.n_state, config.blocks)
        states = len(poles)
        self.drive = Dense(heads, 2 * states, bias=False, complex_output=True)
        self.unit = StateUnit(poles, config)
        self.readout = Dense(2 * states, heads, bias=False)
        self.after_d = Direct(heads)
        with torch.no_grad():
            into = vectors.mH @ (torch.randn(config.n_state, heads) / math.sqrt(heads)).to(vectors)
            out = (torch.randn(heads, config.n_state) / math.sqrt(config.n_state)).to(vectors) @ vectors
            self.drive.weight.copy_(torch.cat([into.real, into.imag]))
            self.readout.weight.copy_(2 * torch.cat([out.real, -out.imag], 1))

    def forward(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.unit(self.drive(u, mask), mask)
        return torch.as_tensor(self.after_d(self.readout(x, mask), u, mask))

    def init_state(self, batch: int) -> Tensor:
        """The unit's."""
        return self.unit.init_state(batch)

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One time step: u (B, H) -> y (B, H), next state."""
        x, state = self.unit.step(self.drive(u), state)
        return self.after_d(self.readout(x), u), state

    def graph(self, u: Signal, at: Place) -> Signal:
        """Two matrices, and between them the state."""
        v = self.drive.graph(u, at / "drive")
        x = self.unit.graph(v, at / "unit")
        y = self.readout.graph(x, at / "readout")
        return self.after_d.graph(y, u, at / "after_d")
