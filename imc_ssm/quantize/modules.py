"""The wrapped modules: what a quantised model is made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from imc_ssm.fixedpoint import Format, ScanFormats
from imc_ssm.operators import Operator
from imc_ssm.quantize import pointwise
from imc_ssm.quantize.quantiser import Quantiser, fake_quantise, parameter_format
from imc_ssm.quantize.scheme import Scheme
from imc_ssm.recurrence import diagonal_scan
from imc_ssm.s4d import S4D

__all__ = [
    "AddSite",
    "DigitalMatrix",
    "GeluSite",
    "GluSite",
    "QuantisedLinear",
    "QuantisedPool",
    "QuantisedS4D",
    "Site",
]


class Site(nn.Module):
    """A module whose output is quantised.

    It is computed in float64: float32's erf and sigmoid differ in the last bit between a long and a short
    vector, which would move a code now and then (0.2 % of 16-bit GELU outputs).
    """

    def __init__(self, inner: nn.Module, output: Quantiser) -> None:
        super().__init__()
        self.inner, self.output = inner, output

    def forward(self, *inputs: Tensor) -> Tensor:
        wide = self.inner(*(x.double() for x in inputs))
        return torch.as_tensor(self.output(wide.to(inputs[0].dtype)))


class TableSite(Site):
    """A nonlinearity between two grids, read from a table on the CPU, between calibrated quantisers.

    The table has one entry per head and code of the input, made with the float64 module that it stands for.
    """

    MOST = 1 << 22
    """Entries up to which a table is made."""

    def __init__(self, inner: nn.Module, source: Quantiser, output: Quantiser) -> None:
        super().__init__(inner, output)
        self._source = [source]  # owned by the module before
        self._made: tuple[Any, ...] = (None, None)

    def table(self, x: Tensor, channels: int) -> tuple[Any, ...] | None:
        """What `_tables` made for the formats in force, or None where the module itself has to run."""
        source = self._source[0]
        if source.observing or self.output.observing or source.bits is None or self.output.bits is None:
            return None
        if x.device.type != "cpu" or x.dtype != torch.float32 or channels << source.bits > self.MOST:
            return None
        formats = source.format(), self.output.format()
        if self._made[:2] != formats:
            self._made = (*formats, *self._tables(*formats, channels))
        return self._made[2:]

    def _tables(self, source: Format, output: Format, channels: int) -> tuple[Any, ...]:
        raise NotImplementedError


def _values(grid: pointwise.Grid, bits: int, first: int = 0) -> Tensor:
    """The real values of a grid's codes, (channels from `first`, codes) float64, single precision's products."""
    codes = torch.arange(1 << bits) + torch.from_numpy(grid.low[first:, None])
    return (codes.float() * torch.from_numpy(grid.scale[first:, None])).double()


class GeluSite(TableSite):
    """The GELU, rounded: x (batch, time, head) or (batch, head)."""

    def _tables(self, source: Format, output: Format, channels: int) -> tuple[Any, ...]:
        grid = pointwise.Grid(source, channels)
        x = _values(grid, source.bits).requires_grad_()
        with torch.enable_grad():
            y = self.inner(x)
            (slope,) = torch.autograd.grad(y.sum(), x)
        table, inside = pointwise.Grid(output, channels).round(y.detach().float().numpy())
        return grid, table, (slope.numpy() * inside).astype("float32")

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        made = self.table(x, x.shape[-1])
        if made is None:
            return super().forward(x)
        return pointwise.look_up(x if x.ndim == 3 else x[:, None], *made).reshape(x.shape)


class GluSite(TableSite):
    """The gated linear unit x_1 sigmoid(x_2), rounded: (..., 2 heads) -> (..., heads)."""

    def _tables(self, source: Format, output: Format, channels: int) -> tuple[Any, ...]:
        grid = pointwise.Grid(source, channels)
        gate = torch.sigmoid(_values(grid, source.bits, channels // 2))
        return grid, gate.numpy(), (gate * (1 - gate)).float().numpy(), output

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        made = self.table(x, x.shape[-1])
        return super().forward(x) if made is None else pointwise.gate(x, *made)


class AddSite(Site):
    """The residual sum, rounded."""

    def forward(self, *inputs: Tensor) -> Tensor:
        x, y = inputs
        if self.output.observing or self.output.bits is None or x.device.type != "cpu" or x.dtype != torch.float32:
            return super().forward(x, y)
        return pointwise.add_quantised(x, y, self.output.format())


class QuantisedPool(nn.Module):
    """Mean over time in float64 (exact to rounding, whatever the order of the sum), then quantised."""

    def __init__(self, inner: nn.Module, output: Quantiser) -> None:
        super().__init__()
        self.inner, self.output = inner, output

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        mean = x.mean(1, dtype=torch.float64) if lengths is None else self.inner(x.double(), lengths)
        return torch.as_tensor(self.output(mean.to(x.dtype)))


class DigitalMatrix(nn.Module):
    """W x + b with W and b on their grids.

    The product is summed in float64, so that the result does not depend on the order of the sum: batched and
    streaming inference give the same codes.
    """

    def __init__(self, linear: nn.Linear, scheme: Scheme) -> None:
        super().__init__()
        self.linear, self.scheme = linear, scheme

    def weights(self) -> tuple[Tensor, Tensor | None]:
        """W (outputs, inputs) and b (outputs,) on their grids (one format per output row, or per tensor)."""
        scheme = self.scheme
        per_head = scheme.granularity == "head"
        weight: Tensor = self.linear.weight
        bias: Tensor | None = self.linear.bias
        if scheme.bits.weights is not None:
            fmt = parameter_format(weight, scheme.bits.weights, per_head=per_head, symmetric=scheme.symmetric)
            weight = fake_quantise(weight, fmt, 0)
        if bias is not None and scheme.bits.biases is not None:
            fmt = parameter_format(bias, scheme.bits.biases, per_head=False, symmetric=scheme.symmetric)
            bias = fake_quantise(bias, fmt, 0)
        return weight, bias

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weights()
        if x.device.type == "cpu" and x.dtype == torch.float32:
            return pointwise.linear(x, weight, bias)
        bias = None if bias is None else bias.double()
        return nn.functional.linear(x.double(), weight.double(), bias).to(x.dtype)


class QuantisedLinear(nn.Module):
    """A dense matrix with quantised input (where it is the first of the model), weights and output.

    `matrix` does the product: digital here; a compiled model puts the analog tiles in its place.
    """

    def __init__(
        self, linear: nn.Linear, scheme: Scheme, source: Quantiser | None, output: Quantiser | None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.input, self.output = source, output
        self.matrix: nn.Module = DigitalMatrix(linear, scheme)

    @property
    def weight(self) -> Tensor:
        """The weights as trained, (outputs, inputs)."""
        linear = getattr(self.matrix, "linear", None)
        assert isinstance(linear, nn.Linear)
        return linear.weight

    def forward(self, x: Tensor) -> Tensor:
        if self.input is not None:
            x = self.input(x)
        y = torch.as_tensor(self.matrix(x))
        return y if self.output is None else torch.as_tensor(self.output(y))


class QuantisedS4D(nn.Module):
    """The SSM in recurrent mode with quantised poles, B, C, D, state and outputs; u, y (batch, head, time).

    The continuous parameters stay the trained ones: they are discretised, then rounded to the range of their
    current values, in every call, so that training sees what is deployed. With bits for the state the
    recurrence is the integer one.
    """

    def __init__(self, inner: S4D, scheme: Scheme, source: Quantiser) -> None:
        super().__init__()
        self.inner, self.scheme = inner, scheme
        heads = inner.D.shape[0]
        channels = heads if scheme.granularity == "head" else None
        bits, symmetric = scheme.bits, scheme.symmetric
        # The encoder's output is this recurrence's input: one quantiser, owned by the encoder.
        self._source = [source]
        self.state = Quantiser(bits.state, channels, axis=0, symmetric=symmetric, clip=scheme.state_clip)
        self.recurrent = Quantiser(bits.recurrent, channels, axis=1, symmetric=symmetric)
        self.after_d = Quantiser(bits.after_d, channels, axis=1, symmetric=symmetric)

    def coefficients(self) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        """(a, b, c) discretised, (head, state) complex, and the formats of those that have bits."""
        a, b, c = self.inner.discrete()
        per_head = self.scheme.granularity == "head"
        formats = {}
        for part, name, value in (("a", "poles", a), ("b", "b", b), ("c", "c", c)):
            bits = getattr(self.scheme.bits, name)
            if bits is not None:
                pairs = torch.view_as_real(value.detach())
                formats[part] = parameter_format(pairs, bits, per_head=per_head, symmetric=self.scheme.symmetric)
        return a, b, c, formats

    def formats(self) -> ScanFormats:
        """All formats of the integer recurrence."""
        *_, coefficients = self.coefficients()
        return self._formats(coefficients)

    def _formats(self, coefficients: dict[str, Any]) -> ScanFormats:
        return ScanFormats(
            u=self._source[0].format(), x=self.state.format(), y=self.recurrent.format(), **coefficients
        )

    def direct(self) -> Tensor:
        """D (head,) on its grid."""
        D, bits = self.inner.D, self.scheme.bits.d
        if bits is None:
            return D
        # One value per head: a format of its own per head would be exact and meaningless, so per tensor.
        return fake_quantise(D, parameter_format(D, bits, per_head=False, symmetric=self.scheme.symmetric), 0)

    def forward(self, u: Tensor) -> Tensor:
        return self._run(u, None)[0]

    def _run(self, u: Tensor, x0: Tensor | None) -> tuple[Tensor, Tensor | None]:
        a, b, c, coefficients = self.coefficients()
        u = u.contiguous()
        last: Tensor | None = None
        if self.state.observing:
            self._observe_states(u, a, b)
            y = self.recurrent(diagonal_scan(u, a, b, c))
        elif self.scheme.bits.state is not None:
            y, last = diagonal_scan(
                u,
                a,
                b,
                c,
                formats=self._formats(coefficients),
                x0=x0,
                return_state=True,
                grad_clamp=self.scheme.grad_clamp,
            )
        else:
            a, b, c = (self._rounded(z, coefficients.get(p)) for p, z in (("a", a), ("b", b), ("c", c)))
            y, last = diagonal_scan(u, a, b, c, x0=x0, return_state=True, grad_clamp=self.scheme.grad_clamp)
            y = self.recurrent(y)
        if (
            self.after_d.observing
            or self.after_d.bits is None
            or u.device.type != "cpu"
            or u.dtype != torch.float32
        ):
            return torch.as_tensor(self.after_d(y + self.direct()[:, None] * u)), last
        return pointwise.scale_add_quantised(y, u, self.direct(), self.after_d.format()), last

    @staticmethod
    def _rounded(z: Tensor, fmt: Any) -> Tensor:
        """A coefficient on its grid (full-precision state: the rounding is all there is)."""
        if fmt is None:
            return z
        return torch.view_as_complex(fake_quantise(torch.view_as_real(z), fmt, 0).contiguous())

    @torch.no_grad()
    def _observe_states(self, u: Tensor, a: Tensor, b: Tensor) -> None:
        """Collect the states of (a part of) the calibration batch, real and imaginary parts alike."""
        most = int(max(1, 3e7 // (u.shape[1] * u.shape[2] * 2 * a.shape[1])))
        u = u[:most]
        x = torch.zeros(u.shape[0], *a.shape, dtype=a.dtype)
        seen = torch.empty(u.shape[2], *a.shape, 2, u.shape[0])
        for t in range(u.shape[2]):
            x = a * x + b * u[..., t, None]
            seen[t] = torch.view_as_real(x).movedim(0, -1)
        self.state.collect(seen.movedim(1, 0))

    def init_state(self, batch: int) -> Tensor:
        """The code of zero in every state register (batch, head, state, 2), or a complex zero state."""
        if self.scheme.bits.state is None:
            return self.inner.init_state(batch)
        heads, states, _ = self.inner.B.shape
        zero = self.state.zero_point.expand(heads).to(torch.int64)
        return zero[:, None, None].expand(batch, heads, states, 2).clone()

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One time step: u (batch, head) -> y (batch, head), next state."""
        y, last = self._run(u[..., None], state)
        assert last is not None
        return y[..., 0], last

    def operators(self) -> list[Operator]:
        """Those of the wrapped layer."""
        return self.inner.operators()
