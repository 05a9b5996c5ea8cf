"""S4D: the diagonal state-space model, whole, in one file.

Gu, Gupta, Goel, Re, "On the Parameterization and Initialization of Diagonal State Space Models", NeurIPS 2022
(arXiv:2206.11893). Each of the H heads is a linear system with N/2 complex states, kept once per conjugate pair:

    x'(t) = A x(t) + B u(t),    y(t) = 2 Re(C x(t)) + D u(t)

It runs in three modes that agree: "convolution" (training), "recurrent" (deployment), and `step()` (streaming).
This file knows nothing of quantization or hardware.

Shapes: B batch, T time, H heads, n = N/2 complex states.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from imc_ssm.errors import ConfigError, shown
from imc_ssm.graph import Place, Recurrence, Scale, Signal
from imc_ssm.kernels import diagonal_scan
from imc_ssm.layers.registry import LayerConfig, Mode, register

__all__ = ["S4D", "DiagonalConfig", "S4DConfig", "convolve", "discretise", "exprel", "initial_poles", "skew_hippo"]


class DiagonalConfig(LayerConfig):
    """What the diagonal state-space layers have in common."""

    n_state: int = Field(64, ge=2, multiple_of=2)
    """N, real state size (of each head, or of the whole layer); N/2 complex states are kept."""
    discretisation: Literal["zoh", "bilinear"] = "zoh"
    """How the continuous system becomes a recurrence (zero-order hold or Tustin)."""
    dt_min: float = Field(1e-3, gt=0)
    """Smallest step at the start, in units of one sample."""
    dt_max: float = Field(1e-1, gt=0)
    """Largest step at the start, in units of one sample."""

    @model_validator(mode="after")
    def _ordered(self) -> DiagonalConfig:
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min = {self.dt_min} is above dt_max = {self.dt_max}")
        return self

    def log_steps(self, count: int) -> Tensor:
        """log dt (count,), drawn evenly between the logarithms of dt_min and dt_max."""
        low, high = math.log(self.dt_min), math.log(self.dt_max)
        return torch.rand(count) * (high - low) + low


class S4DConfig(DiagonalConfig):
    """An S4D layer."""

    type: Literal["s4d"] = "s4d"
    """Its name."""
    initialisation: Literal["lin", "inv", "legs"] = "lin"
    """Poles at the start: S4D-Lin, S4D-Inv, S4D-LegS (the eigenvalues of HiPPO-LegS's normal part)."""
    counts: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Complex states of each head, where pruning left them different ones, N/2 the most; 0: y = D u alone. None:
    every head has N/2."""

    @model_validator(mode="after")
    def _largest(self) -> S4DConfig:
        if self.counts is not None and 2 * max(self.counts, default=0) != self.n_state:
            raise ValueError(
                f"counts = {shown(self.counts)}, but n_state = {self.n_state}; it is twice the largest of them"
            )
        return self

    def state_counts(self, heads: int) -> tuple[int, ...]:
        """Of every head."""
        return (self.n_state // 2,) * heads if self.counts is None else self.counts

    def with_states(self, counts: tuple[int, ...]) -> Self:
        """Heads with so many complex states each."""
        most = max(counts, default=0)
        if most < 1:
            raise ConfigError("no head of the layer has a state left; keep one state at least")
        return self.with_(n_state=2 * most, counts=None if set(counts) == {most} else counts)


def skew_hippo(size: int) -> Tensor:
    """S (size, size) float64, S_jk = -/+ sqrt((2j+1)(2k+1))/2 antisymmetric: HiPPO-LegS's normal part is S - 1/2
    I."""
    root = torch.sqrt(torch.arange(size, dtype=torch.float64) + 0.5)
    skew = torch.outer(root, root)
    return skew.triu(1) - skew.tril(-1)


def initial_poles(kind: str, n: int) -> Tensor:
    """Continuous poles A (n,) complex128, real parts negative, imaginary parts not negative.

    lin:  A_k = -1/2 + i pi k
    inv:  A_k = -1/2 + i (N/pi) (N/(2k+1) - 1),  N = 2n
    legs: eigenvalues of S - 1/2 I, S of `skew_hippo`
    """
    k = torch.arange(n, dtype=torch.float64)
    if kind == "lin":
        return torch.complex(torch.full_like(k, -0.5), math.pi * k)
    if kind == "inv":
        size = 2 * n
        return torch.complex(torch.full_like(k, -0.5), size / math.pi * (size / (2 * k + 1) - 1))
    imaginary = torch.linalg.eigvalsh(1j * skew_hippo(2 * n).to(torch.complex128))  # hermitian: real, in +- pairs
    return torch.complex(torch.full((n,), -0.5, dtype=torch.float64), imaginary[n:])


def discretise(kind: str, A: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """(a, g) with x[t] = a x[t-1] + g B u[t] for x' = A x + B u held, or taken, over a step dt.

    zoh:      a = exp(dt A),                       g = (a - 1) / A, dt where A = 0
    bilinear: a = (1 + dt A / 2) / (1 - dt A / 2), g = dt / (1 - dt A / 2)
    """
    if kind == "zoh":
        return torch.exp(dt * A), dt * exprel(dt * A)
    half = dt * A / 2
    return (1 + half) / (1 - half), dt / (1 - half)


def exprel(z: Tensor) -> Tensor:
    """(exp(z) - 1) / z, 1 at 0: to the last bits for small z, where the difference has none left; complex."""
    near = z.abs() < 1e-2
    apart = torch.where(near, 1.0, z)  # the series has the gradient there
    return torch.where(
        near, 1 + z / 2 * (1 + z / 3 * (1 + z / 4 * (1 + z / 5 * (1 + z / 6)))), torch.expm1(apart) / apart
    )


def powers(a: Tensor, time: int) -> Tensor:
    """a^t for t = 0 .. time - 1, (..., time); 0^0 = 1."""
    # exp(t log a), with log a computed once: t log a is exact enough where repeated products drift.
    a = a + 1e-30 * (a == 0).to(
        a.dtype
    )  # whose logarithm is finite: its powers are 1 and then nothing, gradients included
    return torch.exp(torch.log(a)[..., None] * torch.arange(time, device=a.device))


def convolve(u: Tensor, kernel: Tensor) -> Tensor:
    """The first T values of the linear convolution of u (..., T) with kernel (..., T), real."""
    time = u.shape[-1]
    size = 2 * time  # zero padding: a linear, not a circular convolution
    spectrum = torch.fft.rfft(u, n=size) * torch.fft.rfft(kernel, n=size)
    return torch.as_tensor(torch.fft.irfft(spectrum, n=size)[..., :time])


@register(S4DConfig)
class S4D(nn.Module):
    """The SSM of all heads, discretised. Input and output (B, T, H).

    Trained: log dt (H,), A as log(-Re A) and Im A (H, n), B and C as real pairs (H, n, 2), D (H,).

    Where heads have different numbers of states (`S4DConfig.counts`) A, B and C are packed, (sum of counts, ...),
    head after head. What computes with them gets rectangles (H, n), whose other places have the head's last pole
    and b = c = 0: these states are zero and reach no output.
    """

    groups: ClassVar[dict[str, str]] = dict.fromkeys(("log_dt", "log_neg_real", "imag", "B"), "dynamics")
    packed_names: ClassVar[tuple[str, ...]] = ("log_neg_real", "imag", "B", "C")
    """Parameters that are packed where heads have different numbers of states."""
    there: Tensor | None
    """(H, n), whether a head has the state; None: every head has all."""
    place: Tensor | None
    """(H, n), where it is packed."""

    def __init__(self, heads: int, config: S4DConfig) -> None:
        super().__init__()
        n = config.n_state // 2
        self.discretisation = config.discretisation
        self.mode: Mode = "convolution"
        poles = initial_poles(config.initialisation, n).expand(heads, n)
        self.log_dt = nn.Parameter(config.log_steps(heads))
        self.log_neg_real = nn.Parameter(torch.log(-poles.real).float())
        self.imag = nn.Parameter(poles.imag.float())
        self.B = nn.Parameter(torch.tensor([1.0, 0.0]).expand(heads, n, 2).clone())
        self.C = nn.Parameter(torch.randn(heads, n, 2) * math.sqrt(0.5))  # complex, variance 1
        self.D = nn.Parameter(torch.randn(heads))
        self._count(config.counts)
        if self.there is not None:
            for name in self.packed_names:
                setattr(self, name, nn.Parameter(self.packed(getattr(self, name).detach())))

    def _count(self, counts: tuple[int, ...] | None) -> None:
        """Give heads so many states; None: all have as many as there are."""
        self.counts = counts
        there = place = None
        if counts is not None:
            heads = len(self.D)
            if len(counts) != heads:
                raise ConfigError(
                    f"counts = {shown(counts)} are states of {len(counts)} heads, the layer has {heads}; give one "
                    "number a head"
                )
            own, n = torch.tensor(counts), torch.arange(max(counts))
            there = n < own[:, None]
            place = torch.minimum(n, (own[:, None] - 1).clamp(min=0)) + (own.cumsum(0) - own)[:, None]
            place = place.clamp(max=sum(counts) - 1)  # of a last head without states
        self.register_buffer("there", there, persistent=False)
        self.register_buffer("place", place, persistent=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Heads, and complex states of each: of the one that has most, where they differ."""
        heads, states = self.C.shape[:2] if self.there is None else self.there.shape
        return heads, states

    def packed(self, values: Tensor) -> Tensor:
        """Of values (H, n, ...) those of the states that heads have, as parameters hold them."""
        return values if self.there is None else values[self.there]

    def spread(self, values: Tensor, *, zero: bool = True) -> Tensor:
        """Parameters as (H, n, ...); where a head has no such state 0, or (not `zero`) the value of its last."""
        if self.there is None or self.place is None:
            return values
        found = values[self.place]
        there = self.there.reshape(self.there.shape + (1,) * (found.ndim - 2))
        return torch.where(there, found, 0) if zero else found

    def discrete(self) -> tuple[Tensor, Tensor, Tensor]:
        """(a, b, c), each (H, n) complex: x[t] = a x[t-1] + b u[t], y[t] = 2 Re(sum_n c x[t])."""
        A = self.spread(torch.complex(-torch.exp(self.log_neg_real), self.imag), zero=False)
        B, C = (torch.view_as_complex(self.spread(pairs)) for pairs in (self.B, self.C))
        a, gain = discretise(self.discretisation, A, torch.exp(self.log_dt)[:, None])
        return a, gain * B, C

    def kernel(self, time: int) -> Tensor:
        """The convolution kernel K[t] = 2 Re(sum_n c a^t b), (H, T); a Vandermonde product."""
        a, b, c = self.discrete()
        return torch.as_tensor(2 * torch.einsum("hn,hnt->ht", b * c, powers(a, time)).real)

    def forward(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        rows = u.transpose(1, 2)  # heads before time inside
        if self.mode == "recurrent":
            y = diagonal_scan(rows, *self.discrete())
        else:
            y = convolve(rows, self.kernel(rows.shape[-1]))
        return (y + self.D[:, None] * rows).transpose(1, 2)

    def init_state(self, batch: int) -> Tensor:
        """x[-1] = 0, (B, H, n) complex."""
        real = self.C.new_zeros(batch, *self.shape, 2)
        return torch.view_as_complex(real)

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One time step: u (B, H) -> y (B, H), next state."""
        y, state = diagonal_scan(u[..., None], *self.discrete(), x0=state, return_state=True)
        return y[..., 0] + self.D * u, state

    def graph(self, u: Signal, at: Place, **rules: Any) -> Signal:
        """The recurrence and the direct path; `rules`: how its integers are rounded, and how often."""
        heads, n = self.shape
        y = at.signal("recurrent", width=heads)
        at.emit(Recurrence(at.label("recurrence"), at.path, (u,), y, heads, n, counts=self.counts, **rules))
        return at.emit(Scale(at.label("after_d"), at.path, (y, u), at.signal("after_d", width=heads)))
