"""S4D: the diagonal state-space model, whole, in one file.

Gu, Gupta, Goel, Re, "On the Parameterization and Initialization of Diagonal State Space Models", NeurIPS 2022
(arXiv:2206.11893). A sequence classifier is

    encoder -> [ SSM -> GELU -> mixing to 2H -> GLU -> + residual -> norm ] x layers -> mean over time -> decoder

Each of the H heads of the SSM is a linear system with N/2 complex states, kept once per conjugate pair:

    x'(t) = A x(t) + B u(t),    y(t) = 2 Re(C x(t)) + D u(t)

It runs in three modes that agree: "convolution" (training), "recurrent" (deployment), and `step()`
(streaming). This file knows nothing of quantization or hardware: other rooms wrap its modules, which is why
every operation that produces an activation is a module with a name.

Shapes: B batch, T time, D input channels, H heads, n = N/2 complex states, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from imc_ssm.config import Config
from imc_ssm.errors import ImcSsmError, unknown
from imc_ssm.kernels import diagonal_scan
from imc_ssm.operators import Elementwise, Mvm, Operator, Recurrence

__all__ = ["PRESETS", "S4D", "Add", "Block", "Classifier", "Ends", "MeanPool", "ModelConfig", "preset"]

Mode = Literal["convolution", "recurrent"]


class ModelConfig(Config):
    """The architecture of a classifier."""

    inputs: int = Field(1, ge=1)
    """D, input channels."""
    heads: int = Field(16, ge=1)
    """H, heads (features) of every layer."""
    n_state: int = Field(64, ge=2, multiple_of=2)
    """N, real state size per head; N/2 complex states are kept."""
    layers: int = Field(1, ge=1)
    """Number of blocks."""
    classes: int = Field(10, ge=2)
    """K, classes of the decoder."""
    norm: Literal["none", "layer", "batch"] = "none"
    """Normalisation at the end of each block."""
    discretisation: Literal["zoh", "bilinear"] = "zoh"
    """How the continuous system becomes a recurrence (zero-order hold or Tustin)."""
    initialisation: Literal["lin", "inv", "legs"] = "lin"
    """Poles at the start: S4D-Lin, S4D-Inv, S4D-LegS (the eigenvalues of HiPPO-LegS's normal part)."""
    dt_min: float = Field(1e-3, gt=0)
    """Smallest step at the start, in units of one sample."""
    dt_max: float = Field(1e-1, gt=0)
    """Largest step at the start, in units of one sample."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability of dropping an activation after the GELU, in training."""

    @model_validator(mode="after")
    def _ordered(self) -> ModelConfig:
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min = {self.dt_min} is above dt_max = {self.dt_max}")
        return self


PRESETS: dict[str, ModelConfig] = {f"s4d-{h}h": ModelConfig(heads=h) for h in (16, 64, 256, 512)}
"""One layer, N = 64, no norm: 2 H^2 + 208 H + 10 parameters for one input channel and ten classes."""


def preset(name: str) -> ModelConfig:
    """The configuration of a preset; `ImcSsmError` names the nearest one if there is none."""
    if name not in PRESETS:
        raise ImcSsmError(unknown("model", name, PRESETS))
    return PRESETS[name]


def initial_poles(kind: str, n: int) -> Tensor:
    """Continuous poles A (n,) complex128, real parts negative, imaginary parts not negative.

    lin:  A_k = -1/2 + i pi k
    inv:  A_k = -1/2 + i (N/pi) (N/(2k+1) - 1),  N = 2n
    legs: eigenvalues of S - 1/2 I, S_jk = -/+ sqrt((2j+1)(2k+1))/2 antisymmetric (HiPPO-LegS normal part)
    """
    k = torch.arange(n, dtype=torch.float64)
    if kind == "lin":
        return torch.complex(torch.full_like(k, -0.5), math.pi * k)
    if kind == "inv":
        size = 2 * n
        return torch.complex(torch.full_like(k, -0.5), size / math.pi * (size / (2 * k + 1) - 1))
    root = torch.sqrt(torch.arange(2 * n, dtype=torch.float64) + 0.5)
    skew = torch.outer(root, root)
    skew = skew.triu(1) - skew.tril(-1)
    imaginary = torch.linalg.eigvalsh(1j * skew.to(torch.complex128))  # hermitian: real, in +- pairs
    return torch.complex(torch.full((n,), -0.5, dtype=torch.float64), imaginary[n:])


class S4D(nn.Module):
    """The SSM of all heads, discretised. Input and output (B, H, T).

    Trained: log dt (H,), A as log(-Re A) and Im A (H, n), B and C as real pairs (H, n, 2), D (H,).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        heads, n = config.heads, config.n_state // 2
        self.discretisation = config.discretisation
        self.mode: Mode = "convolution"
        poles = initial_poles(config.initialisation, n).expand(heads, n)
        spread = math.log(config.dt_max) - math.log(config.dt_min)
        self.log_dt = nn.Parameter(torch.rand(heads) * spread + math.log(config.dt_min))
        self.log_neg_real = nn.Parameter(torch.log(-poles.real).float())
        self.imag = nn.Parameter(poles.imag.float())
        self.B = nn.Parameter(torch.tensor([1.0, 0.0]).expand(heads, n, 2).clone())
        self.C = nn.Parameter(torch.randn(heads, n, 2) * math.sqrt(0.5))  # complex, variance 1
        self.D = nn.Parameter(torch.randn(heads))

    def discrete(self) -> tuple[Tensor, Tensor, Tensor]:
        """(a, b, c), each (H, n) complex: x[t] = a x[t-1] + b u[t], y[t] = 2 Re(sum_n c x[t]).

        zoh:      a = exp(dt A),                       b = (a - 1) / A  B
        bilinear: a = (1 + dt A / 2) / (1 - dt A / 2), b = dt / (1 - dt A / 2)  B
        """
        A = torch.complex(-torch.exp(self.log_neg_real), self.imag)
        B, C = torch.view_as_complex(self.B), torch.view_as_complex(self.C)
        dt = torch.exp(self.log_dt)[:, None]
        if self.discretisation == "zoh":
            a = torch.exp(dt * A)
            return a, (a - 1) / A * B, C
        half = dt * A / 2
        return (1 + half) / (1 - half), dt / (1 - half) * B, C

    def kernel(self, time: int) -> Tensor:
        """The convolution kernel K[t] = 2 Re(sum_n c a^t b), (H, T); a Vandermonde product."""
        a, b, c = self.discrete()
        # a^t = exp(t log a), with log a computed once: t log a is exact enough where repeated products drift.
        powers = torch.exp(torch.log(a)[..., None] * torch.arange(time, device=a.device))  # (H, n, T)
        return 2 * torch.einsum("hn,hnt->ht", b * c, powers).real

    def forward(self, u: Tensor) -> Tensor:
        if self.mode == "recurrent":
            y = diagonal_scan(u, *self.discrete())
        else:
            time = u.shape[-1]
            size = 2 * time  # zero padding: a linear, not a circular convolution
            spectrum = torch.fft.rfft(u, n=size) * torch.fft.rfft(self.kernel(time), n=size)
            y = torch.fft.irfft(spectrum, n=size)[..., :time]
        return y + self.D[:, None] * u

    def init_state(self, batch: int) -> Tensor:
        """x[-1] = 0, (B, H, n) complex."""
        real = self.B.new_zeros(batch, *self.B.shape)
        return torch.view_as_complex(real)

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One time step: u (B, H) -> y (B, H), next state."""
        y, state = diagonal_scan(u[..., None], *self.discrete(), x0=state, return_state=True)
        return y[..., 0] + self.D * u, state

    def operators(self) -> list[Operator]:
        heads, n, _ = self.B.shape
        return [
            Recurrence("recurrence", "", heads, n),
            Elementwise("after_d", "", "scale", heads),
        ]


class Add(nn.Module):
    """Residual connection."""

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return x + residual


class Norm(nn.Module):
    """LayerNorm over channels, or BatchNorm per channel over batch and time; (..., H)."""

    def __init__(self, kind: str, heads: int) -> None:
        super().__init__()
        self.norm: nn.Module = nn.LayerNorm(heads) if kind == "layer" else nn.BatchNorm1d(heads)

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        return torch.as_tensor(self.norm(x.reshape(-1, shape[-1]))).reshape(shape)


class Block(nn.Module):
    """u -> norm(glu(mixing(gelu(ssm(u)))) + u), (B, T, H)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        heads = config.heads
        self.ssm = S4D(config)
        self.gelu = nn.GELU()
        self.dropout = nn.Dropout(config.dropout)
        self.mixing = nn.Linear(heads, 2 * heads)
        self.glu = nn.GLU(dim=-1)
        self.residual = Add()
        self.norm = nn.Identity() if config.norm == "none" else Norm(config.norm, heads)

    def forward(self, u: Tensor) -> Tensor:
        y = self.ssm(u.transpose(1, 2)).transpose(1, 2)  # heads before time inside the SSM
        return self._after(y, u)

    def _after(self, y: Tensor, u: Tensor) -> Tensor:
        y = self.glu(self.mixing(self.dropout(self.gelu(y))))
        return torch.as_tensor(self.norm(self.residual(y, u)))

    def init_state(self, batch: int) -> Any:
        return self.ssm.init_state(batch)

    def step(self, u: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One time step: u (B, H) -> (B, H), next state."""
        y, state = self.ssm.step(u, state)
        return self._after(y, u), state

    def operators(self) -> list[Operator]:
        heads = self.mixing.in_features
        ops: list[Operator] = [_placed(op, "ssm") for op in self.ssm.operators()]
        ops += [
            Elementwise("gelu", "gelu", "gelu", heads),
            Mvm("mixing", "mixing", heads, 2 * heads),
            Elementwise("glu", "glu", "glu", heads),
            Elementwise("residual", "residual", "add", heads),
        ]
        if isinstance(self.norm, Norm):
            ops.append(Elementwise("norm", "norm", "norm", heads))
        return ops


@dataclass
class Ends:
    """Where the sequences of the call that runs end: after `lengths` (batch,) steps; None: none is padded."""

    lengths: Tensor | None = None

    def mask(self, time: int) -> Tensor | None:
        """(batch, time), True within the sequences; None: everywhere."""
        if self.lengths is None:
            return None
        return torch.arange(time, device=self.lengths.device) < self.lengths[:, None]

    def vectors(self, x: Tensor) -> Tensor:
        """x (batch, time, channel) or (batch, channel) as (vectors, channel), without padding."""
        inside = self.mask(x.shape[1]) if x.ndim == 3 else None
        return x.reshape(-1, x.shape[-1]) if inside is None else x[inside]


class MeanPool(nn.Module):
    """Mean over time, (B, T, H) -> (B, H), over the first `lengths` steps of each sequence where given."""

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        inside = Ends(lengths).mask(x.shape[1])
        if lengths is None or inside is None:
            return x.mean(1)
        return (x * inside[..., None]).sum(1) / lengths[:, None]


class Classifier(nn.Module):
    """The whole model: u (B, T, D) -> logits (B, K).

    `lengths` (B,) gives the number of valid steps of each sequence; what follows them cannot reach the
    logits, because the recurrence is causal and the pool stops there. `ends` holds them for those who look at
    activations on the way.

    Raises `ImcSsmError` for an input of another shape or precision, or lengths outside 1 .. T.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = nn.Linear(config.inputs, config.heads)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.pool = MeanPool()
        self.decoder = nn.Linear(config.heads, config.classes)
        self.ends = Ends()

    def forward(self, u: Tensor, lengths: Tensor | None = None) -> Tensor:
        self.check(u, lengths)
        self.ends.lengths = lengths
        try:
            x = self.encoder(u)
            for block in self.blocks:
                x = block(x)
            return torch.as_tensor(self.decoder(self.pool(x, lengths)))
        finally:
            self.ends.lengths = None

    def check(self, u: Tensor, lengths: Tensor | None, what: str = "the input") -> None:
        """`ImcSsmError` for what `forward` would refuse, named as `what`."""
        if u.ndim != 3 or u.shape[-1] != self.config.inputs or 0 in u.shape:
            raise ImcSsmError(
                f"{what}: shape {tuple(u.shape)}; needed is (sequences, time, {self.config.inputs}) with at "
                "least one sequence and one step"
            )
        precision = next(self.parameters()).dtype
        if u.dtype != precision:
            raise ImcSsmError(f"{what}: dtype {u.dtype}, the model has {precision}; convert with .to({precision})")
        if lengths is None:
            return
        if lengths.shape != (len(u),) or lengths.is_floating_point():
            raise ImcSsmError(
                f"lengths have shape {tuple(lengths.shape)} and dtype {lengths.dtype}; needed is one integer for "
                f"each of the {len(u)} sequences"
            )
        if lengths.min() < 1 or lengths.max() > u.shape[1]:
            raise ImcSsmError(
                f"lengths run from {int(lengths.min())} to {int(lengths.max())}; allowed is 1 to {u.shape[1]}, "
                "the steps of the input"
            )

    def set_mode(self, mode: Mode) -> Classifier:
        """Run every SSM by "convolution" or in "recurrent" mode; returns the model."""
        for module in self.modules():
            if isinstance(module, S4D):
                module.mode = mode
        return self

    def init_state(self, batch: int) -> tuple[list[Any], Tensor, int]:
        """The state of a stream: of every block, the sum of the pooled features so far, and their count."""
        # float64, so that the order of the sum does not show in the mean.
        total = torch.zeros(batch, self.config.heads, dtype=torch.float64)
        return [block.init_state(batch) for block in self.blocks], total, 0  # type: ignore[operator]

    def step(
        self, u: Tensor, state: tuple[list[Any], Tensor, int]
    ) -> tuple[Tensor, tuple[list[Any], Tensor, int]]:
        """One time step: u (B, D) -> logits (B, K) of the sequence so far, next state."""
        states, total, count = state
        x = self.encoder(u)
        after = []
        for block, block_state in zip(self.blocks, states, strict=True):
            x, next_state = block.step(x, block_state)  # type: ignore[operator]
            after.append(next_state)
        total, count = total + x, count + 1
        logits = self.decoder(self.pool((total / count).to(x.dtype)[:, None]))
        return torch.as_tensor(logits), (after, total, count)

    def operators(self) -> list[Operator]:
        """Every operation of one inference, in order; names of block i are prefixed "i." from the second on."""
        config = self.config
        ops: list[Operator] = [Mvm("encoder", "encoder", config.inputs, config.heads)]
        for i, block in enumerate(self.blocks):
            prefix = f"{i}." if i else ""
            ops += [_placed(op, f"blocks.{i}", prefix) for op in block.operators()]  # type: ignore[operator]
        ops.append(Elementwise("pool", "pool", "mean", config.heads))
        ops.append(Mvm("decoder", "decoder", config.heads, config.classes, rate="sequence"))
        return ops


def _placed(op: Operator, parent: str, prefix: str = "") -> Operator:
    """The operator with its module path relative to one level further up."""
    path = f"{parent}.{op.module}" if op.module else parent
    return replace(op, name=prefix + op.name, module=path)
