"""S4D classifiers with the parameters and key names of state-spaces/s4, written anew for the tests.

Their kernels are run as what they mean: the recurrence x' = A x + B u discretised, one step at a time, and a plain
sum instead of an FFT. So nothing of how the library computes is shared. Batch first, (B, T, D) -> (B, K).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, glu

__all__ = ["BlockKind", "Example", "Sequence", "build"]

BlockKind = Literal["s4d", "version 3", "version 4"]


class Kernel(nn.Module):
    """The numbers of H diagonal systems, under the names of one version."""

    def __init__(self, heads: int, states: int, kind: BlockKind, *, systems: int | None = None, tied: bool = True):
        super().__init__()
        self.kind, shared = kind, heads if systems is None else systems
        steps = math.log(0.01) + torch.rand(heads, 1 if tied else states) * math.log(20)
        damping = math.log(0.5) + 0.3 * torch.randn(shared, states)
        speed = math.pi * torch.arange(states) + 0.1 * torch.randn(shared, states)
        C, B = torch.randn(1, heads, states, 2), torch.randn(1, shared, states, 2)
        named = {
            "s4d": {"C": C[0], "log_dt": steps[:, 0], "log_A_real": damping, "A_imag": speed},
            "version 3": {"C": C, "B": B[0], "log_dt": steps, "inv_A_real": damping, "A_imag": speed},
            "version 4": {"C": C, "B": B, "inv_dt": steps, "A_real": damping, "A_imag": speed},
        }[kind]
        for name, value in named.items():
            setattr(self, name, nn.Parameter(value.clone()))

    def response(self, time: int, how: str) -> Tensor:
        """Outputs (H, T) for an impulse."""
        C = torch.view_as_complex(self.C)
        C = C if self.kind == "s4d" else C[0]
        heads = len(C)
        if self.kind == "s4d":
            A, B, dt = torch.complex(-self.log_A_real.exp(), self.A_imag), torch.ones_like(C), self.log_dt[:, None]
        elif self.kind == "version 3":
            A, dt = torch.complex(-self.inv_A_real.exp(), self.A_imag), self.log_dt
            B = torch.view_as_complex(self.B)
        else:
            A, dt = torch.complex(-self.A_real.exp(), -self.A_imag), self.inv_dt
            B = torch.view_as_complex(self.B)[0]
        rows = torch.arange(heads) % len(A)  # head h uses system h modulo S
        A, B, dt = A[rows], B[rows] if self.kind != "s4d" else B, dt.exp()
        if how == "zoh":
            a = torch.exp(A * dt)
            x = (a - 1) / A * B
        else:
            a = (2 + A * dt) / (2 - A * dt)
            x = 2 * dt / (2 - A * dt) * B
        out = []
        for _ in range(time):
            out.append(2 * (C * x).sum(1).real)
            x = a * x
        return torch.stack(out, 1)


class Nested(nn.Module):
    """A module called `kernel`, which has D, or not, beside it."""

    def __init__(self, kernel: nn.Module, D: Tensor | None = None) -> None:
        super().__init__()
        self.kernel = kernel
        if D is not None:
            self.D = nn.Parameter(D)


class Block(nn.Module):
    """y = glu(W act(k * u + D u)), (B, T, H)."""

    def __init__(self, heads: int, states: int, kind: BlockKind, how: str, **options: object) -> None:
        super().__init__()
        self.kind, self.how = kind, how
        kernel = Kernel(heads, states, kind, **options)  # type: ignore[arg-type]
        D = torch.randn(heads)
        mixing: nn.Module = nn.Linear(heads, 2 * heads)
        if kind == "s4d":
            self.D, self.kernel = nn.Parameter(D), kernel
            mixing = nn.Conv1d(heads, 2 * heads, kernel_size=1)
        elif kind == "version 3":
            self.D, self.kernel = nn.Parameter(D[None]), Nested(kernel)
        else:
            self.layer = Nested(kernel, D[None])
        self.output_linear = nn.Sequential(mixing, nn.Identity())

    def forward(self, u: Tensor) -> Tensor:
        time = u.shape[1]
        place = self.layer if self.kind == "version 4" else self
        kernel = place.kernel if self.kind != "version 3" else place.kernel.kernel
        k = kernel.response(time, self.how)
        delay = torch.arange(time)[:, None] - torch.arange(time)
        toeplitz = torch.where(delay >= 0, k[:, delay.clamp(min=0)], 0)
        y = gelu(torch.einsum("hts,bsh->bth", toeplitz, u) + place.D.reshape(-1) * u)
        if self.kind == "version 4":  # FFTConv has a GELU, and S4Block another one
            y = gelu(y)
        mixing = self.output_linear[0]
        weight = mixing.weight[..., 0] if mixing.weight.ndim == 3 else mixing.weight
        return glu(y @ weight.T + mixing.bias, -1)


def _residual(x: Tensor, layer: nn.Module, norm: nn.Module, prenorm: bool) -> Tensor:
    return x + layer(norm(x)) if prenorm else norm(x + layer(x))


class Example(nn.Module):
    """The model of their example.py."""

    def __init__(
        self, blocks: list[Block], shape: tuple[int, int, int], prenorm: bool, norm: type[nn.Module]
    ) -> None:
        super().__init__()
        inputs, heads, outputs = shape
        self.prenorm = prenorm
        self.encoder = nn.Linear(inputs, heads)
        self.s4_layers = nn.ModuleList(blocks)
        self.norms = nn.ModuleList(norm(heads) for _ in blocks)
        self.decoder = nn.Linear(heads, outputs)

    def forward(self, u: Tensor) -> Tensor:
        x = self.encoder(u)
        for layer, norm in zip(self.s4_layers, self.norms, strict=True):
            x = _residual(x, layer, norm, self.prenorm)
        return self.decoder(x.mean(1))


class Named(nn.Module):
    """Modules under names of one's own."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


class Channels(nn.Module):
    """A BatchNorm of (B, T, H), called `norm`; or any other norm."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.flatten(0, 1)).reshape(x.shape)


class Sequence(nn.Module):
    """SequenceModel between an encoder and a decoder, with the keys of its Lightning module."""

    def __init__(
        self, blocks: list[Block], shape: tuple[int, int, int], prenorm: bool, norm: type[nn.Module]
    ) -> None:
        super().__init__()
        inputs, heads, outputs = shape
        self.prenorm = prenorm
        self.encoder = nn.Sequential(nn.Linear(inputs, heads))
        layers = [Named(layer=block, norm=Channels(norm(heads))) for block in blocks]
        self.model = Named(layers=nn.ModuleList(layers), **({"norm": Channels(norm(heads))} if prenorm else {}))
        self.decoder = nn.Sequential(Named(output_transform=nn.Linear(heads, outputs)))

    def forward(self, u: Tensor) -> Tensor:
        x = self.encoder(u)
        for place in self.model.layers:
            x = _residual(x, place.layer, place.norm, self.prenorm)
        if self.prenorm:
            x = self.model.norm(x)
        return self.decoder[0].output_transform(x.mean(1))


def build(
    kind: BlockKind,
    container: type[Example] | type[Sequence],
    *,
    prenorm: bool = False,
    how: str = "zoh",
    layers: int = 3,
    heads: int = 4,
    states: int = 4,
    inputs: int = 2,
    outputs: int = 3,
    norm: type[nn.Module] = nn.LayerNorm,
    seed: int = 0,
    **options: object,
) -> nn.Module:
    """A model with drawn parameters, norms included."""
    torch.manual_seed(seed)
    blocks = [Block(heads, states, kind, how, **options) for _ in range(layers)]
    model = container(blocks, (inputs, heads, outputs), prenorm, norm)
    for module in model.modules():
        if isinstance(module, norm):
            nn.init.normal_(module.weight, 1.0, 0.2)
            nn.init.normal_(module.bias, 0.0, 0.2)
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_(0.0, 0.3)
                module.running_var.uniform_(0.5, 2.0)
    return model.eval()
