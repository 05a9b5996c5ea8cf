"""The quantized S4D layer: an SSM whose parts have word lengths, integer where the state has one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imc_ssm.errors import ConfigError, FileError
from imc_ssm.fixedpoint import Format, PoleGrid, ScanFormats, UnitState
from imc_ssm.fixedpoint.formats import MAX_PERIOD
from imc_ssm.fixedpoint.oracle import first_residual
from imc_ssm.graph import Place, Signal
from imc_ssm.kernels import ScanUnit, diagonal_scan
from imc_ssm.kernels.codes import Coefficient
from imc_ssm.kernels.learned import Ranges
from imc_ssm.kernels.ranges import Range
from imc_ssm.layers import S4D
from imc_ssm.quantization.context import Context, check_static, quantizes
from imc_ssm.quantization.discrete import DiscreteS4D
from imc_ssm.quantization.kept import Kept, parameters_of
from imc_ssm.quantization.modules import ParameterGrid
from imc_ssm.quantization.poles import grid_of, polar, stored_poles, stored_words
from imc_ssm.quantization.quantizer import Quantizer, fake_quantize, parameter_format
from imc_ssm.quantization.rates import groups_of, held, several_steps, slowest, windows
from imc_ssm.quantization.rules import FormatSpec
from imc_ssm.quantization.scheme import Scheme
from imc_ssm.quantization.sites import scale_add

__all__ = ["QuantizedS4D", "State", "at_rest", "rounded"]

State = Tensor | UnitState
_FINEST = 2.0**-12
"""Smallest range of a state, of its head's widest."""


@quantizes(S4D)
class QuantizedS4D(nn.Module):
    """The SSM in recurrent mode with quantized poles, B, C, D, state and outputs; u, y (batch, time, head).

    The parameters of `inner` stay the trained ones: a, b and c are made of them, then rounded to the range of
    their current values, in every call, so that training sees what is deployed. With bits for the state the
    recurrence is the integer one.

    Dynamic ranges are those of the call's batch: the state's of the full-precision states that it would have, the
    output's of the output before it is rounded. They need the whole sequence: such a layer cannot stream.

    Where the scheme has a `rate_limit`, the buffer `periods` (head,) int64 says every how many steps each head is
    updated: chosen from the poles when the layer is wrapped (`rates.slowest`), kept from then on, in QAT too. a, b
    and their formats are those of so many steps. Without one it is None.
    """

    periods: Tensor | None

    def __init__(
        self,
        inner: S4D,
        scheme: Scheme,
        specs: Mapping[str, FormatSpec],
        source: Quantizer,
        quantizers: tuple[Quantizer, Quantizer, Quantizer],
        moving: tuple[str, ...] = (),
    ) -> None:
        """`specs` of "poles", "b", "c", "d" and "state"; `quantizers` of state, "recurrent" and "after_d";
        `moving`: paths of the model whose ranges are dynamic."""
        super().__init__()
        self.moving = moving
        self.inner, self.scheme, self.specs = inner, scheme, dict(specs)
        # The signal that enters is this recurrence's input: one quantizer, owned by the module before.
        self._source = [source]
        self.state, self.recurrent, self.after_d = quantizers
        self.grid = ParameterGrid(self.specs["d"])
        self._unit: Kept[ScanUnit] = Kept()
        self._rates: tuple[object, tuple[int, ...]] | None = None
        self._scaled: Kept[Any] = Kept()
        self.register_buffer("periods", self._chosen_periods())

    @classmethod
    def of(cls, module: S4D, context: Context) -> QuantizedS4D:
        """In the parameterisation of the scheme."""
        scheme, (heads, states) = context.scheme, module.shape
        if scheme.parameterisation != "continuous":
            module = DiscreteS4D(module, frozen=scheme.parameterisation == "frozen")
        specs = {part: context.spec(part) for part in ("poles", "b", "c", "d", "state")}
        per_state = (heads, states) if specs["state"].granularity == "state" else heads
        state = context.quantizer("state", per_state, axis=0, clip=scheme.state_clip)
        outputs = (context.output("recurrent", axis=1), context.output("after_d"))
        if scheme.rate_limit is not None:
            _check_slow(context.path, scheme, state, outputs[0])
        return cls(module, scheme, specs, context.source(), (state, *outputs), context.moving)

    @classmethod
    def alone(cls, layer: S4D, scheme: Scheme) -> QuantizedS4D:
        """A layer outside of a model, not calibrated: its coefficients are rounded as the scheme says."""
        specs = {part: scheme.spec(part) for part in ("poles", "b", "c", "d", "state")}
        quantizers = (Quantizer(scheme.spec(part).bits, None) for part in ("state", "recurrent", "after_d"))
        return cls(layer, scheme, specs, Quantizer(None, None), tuple(quantizers))  # type: ignore[arg-type]

    def quantizers(self) -> dict[str, Quantizer]:
        """Of the state and the two signals."""
        return {"state": self.state, "recurrent": self.recurrent, "after_d": self.after_d}

    @property
    def shape(self) -> tuple[int, int]:
        """Heads, and complex states of each."""
        return self.inner.shape

    @property
    def integer(self) -> bool:
        """Whether the recurrence computes on integers."""
        return self.state.bits is not None

    def _chosen_periods(self) -> Tensor | None:
        limit = self.scheme.rate_limit
        if limit is None or not self.integer:
            return None
        return slowest(self.inner.discrete()[0], limit, self.scheme.max_period)

    def rates(self) -> tuple[int, ...] | None:
        """Steps between two updates of each head; None: every head in every step."""
        if self.periods is None:
            return None
        # Read once: on a GPU every look at the numbers waits for all that runs.
        seen = None if self.periods.is_inference() else (id(self.periods), self.periods._version)
        if self._rates is None or seen is None or self._rates[0] != seen:
            self._rates = seen, tuple(int(k) for k in self.periods.tolist())
        return self._rates[1] if max(self._rates[1]) > 1 else None

    def limit(self, steps: int) -> None:
        """No period beyond sequences of so many steps: such a head would never be updated."""
        if self.periods is not None:
            self.periods.clamp_(max=1 << (steps.bit_length() - 1))

    def check(self, path: str) -> None:
        """`FileError` for periods that no unit has, of a file."""
        if self.periods is not None:
            for k in self.periods.tolist():
                if not 1 <= k <= MAX_PERIOD or k & (k - 1):
                    raise FileError(
                        f"{path}.periods holds {k}; allowed are powers of two from 1 to {MAX_PERIOD}; quantize it "
                        "again"
                    )

    def words(self) -> dict[str, Any]:
        """Codes of "poles", "b", "c" (head, state, 2) and "d" (head,) that have bits; of polar poles, whose
        multipliers "poles" are, what is stored as well (`stored_poles`)."""
        *values, of = self.coefficients()
        pairs = {name: (z, of.get(p)) for name, p, z in zip(("poles", "b", "c"), "abc", values, strict=True)}
        made = {name: Coefficient.of(z, fmt).codes for name, (z, fmt) in pairs.items() if fmt is not None}
        made |= stored_poles(self.exact()[0], self.pole_grid())
        return made if self.specs["d"].bits is None else {**made, "d": self.grid.codes(self.inner.D)}

    def formats(self) -> dict[str, Format]:
        """Of everything that has bits."""
        *_, of = self.coefficients()
        made = {"poles": of.get("a"), "b": of.get("b"), "c": of.get("c"), "d": self.grid.format(self.inner.D)}
        made |= {name: None if q.bits is None else q.format() for name, q in self.quantizers().items()}
        return {name: fmt for name, fmt in made.items() if fmt is not None}

    def coefficients(self) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        """(a, b, c), (head, state) complex, a and b of as many steps as the head's period has, and the formats of
        those that have a word."""
        return self._worded(*self.exact())

    def exact(self) -> tuple[Tensor, Tensor, Tensor]:
        """(a, b, c) as trained, a and b of as many steps as the head's period has."""
        a, b, c = self.inner.discrete()
        if (rates := self.rates()) is None:
            return a, b, c
        assert self.periods is not None
        return *several_steps(a, b, self.periods, max(rates)), c

    def pole_grid(self) -> PoleGrid | None:
        """The grid of decay and phase that the poles lie on; None where they are Cartesian."""
        return grid_of(self.exact()[0], self.scheme, self.specs["poles"])

    def _worded(self, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        """(a, b, c), a on its grid of decay and phase where it has one, and the formats of those that have bits;
        of c with the registers' format in force."""
        formats: dict[str, Any] = {}
        if (made := polar(a, self.scheme, self.specs["poles"])) is not None:
            a, formats["a"] = made
        for part, name, value in (("a", "poles", a), ("b", "b", b), ("c", "c", c)):
            spec = self.specs[name]
            if spec.bits is not None and part not in formats:
                pairs = torch.view_as_real(value.detach().resolve_conj()).cpu().numpy()
                apart = part == "c" and self.specs["state"].granularity == "state" and self.integer
                rules: Any = {"symmetric": spec.symmetric, "power_of_two": spec.power_of_two}
                formats[part] = (
                    _register_format(pairs, spec.bits, self.state.format(), **rules)
                    if apart
                    else parameter_format(pairs, spec.bits, spec.granularity, **rules)
                )
        return a, b, c, formats

    def scan_formats(self) -> ScanFormats:
        """All formats of the integer recurrence; dynamic ones are those of the last batch."""
        *_, coefficients = self.coefficients()
        return self._scan_formats(coefficients)

    def _scan_formats(self, coefficients: dict[str, Any]) -> ScanFormats:
        rules: Any = {"periods": self.rates(), "residual_bits": self.scheme.residual_bits} | self._roundings
        u, x, y = (q.format() for q in (self._source[0], self.state, self.recurrent))
        return ScanFormats(u=u, x=x, y=y, **rules, **coefficients)

    def unit(self) -> ScanUnit:
        """The integer recurrence, ready to run; kept while parameters and (static) formats stay."""
        formats = *(q.format() for q in (self._source[0], self.state, self.recurrent)), self.inner.discrete

        def make() -> ScanUnit:
            a, b, c, coefficients = self.coefficients()
            return ScanUnit(a, b, c, formats=self._scan_formats(coefficients))

        own = parameters_of(self.inner)
        return self._unit.get(own if self.periods is None else [*own, self.periods], formats, make)

    @property
    def _roundings(self) -> dict[str, str]:
        return {"rounding_placement": self.scheme.rounding_placement, "rounding": self.scheme.rounding}

    def forward(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._run(u.transpose(1, 2), mask, None)[0].transpose(1, 2)

    def _run(self, u: Tensor, mask: Tensor | None, x0: State | None) -> tuple[Tensor, State | None]:
        """y (batch, head, time) and the last state."""
        u = u.contiguous()
        y, last = self._recurrence(u, mask, x0)
        quantizers = self.recurrent, self._source[0], self.after_d
        return scale_add(y, u, self.inner.D, self.grid, quantizers, self._scaled, mask), last

    def _recurrence(self, u: Tensor, mask: Tensor | None, x0: State | None) -> tuple[Tensor, State | None]:
        """y (batch, head, time) on its grid, and the last state."""
        scheme = self.scheme
        if self.integer and not (self.state.observing or self.state.dynamic or self.recurrent.dynamic):
            start: Any = x0
            ranges = Ranges(self.state.log_factor, self.recurrent.log_factor)
            return self.unit()(u, start, grad_clamp=scheme.grad_clamp, ranges=ranges)
        a, b, c = self.exact()
        if self.state.observing:
            if self.state.bits is not None:
                self.state.collect_range(*self._filled(*self._states(u, a, b, mask)))
            return self.recurrent(self._exact(u, a, b, c), mask), None
        if self.state.dynamic:
            self.state.follow_range(*self._states(u, a, b, mask))
        a, b, c, coefficients = self._worded(a, b, c)
        options: dict[str, Any] = {"x0": x0, "return_state": True, "grad_clamp": scheme.grad_clamp}
        if not self.integer:
            a, b, c = (rounded(z, coefficients.get(p)) for p, z in (("a", a), ("b", b), ("c", c)))
            y, last = diagonal_scan(u, a, b, c, state_clip=scheme.state_clip, **options)
            return self.recurrent(y, mask), last
        formats = self._scan_formats(coefficients)
        if self.recurrent.dynamic:
            with torch.no_grad():  # the same integers without the last rounding
                self.recurrent.follow(diagonal_scan(u, a, b, c, formats=replace(formats, y=None)), mask)
            formats = replace(formats, y=self.recurrent.format())
        y, last = diagonal_scan(u, a, b, c, formats=formats, **options)
        return y, last

    def _exact(self, u: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """y (batch, head, time) in full precision, every head at its rate."""
        y = torch.empty_like(u)
        for period, at in self._groups():
            part = diagonal_scan(windows(u[:, at], period), a[at], b[at], c[at], state_clip=self.scheme.state_clip)
            y[:, at] = held(part, period, u.shape[-1])
        return y

    def _groups(self) -> Iterator[tuple[int, Any]]:
        """(period, heads that have it)."""
        rates = self.rates()
        return iter([(1, slice(None))]) if rates is None else groups_of(rates)

    def _states(self, u: Tensor, a: Tensor, b: Tensor, mask: Tensor | None) -> Range:
        """The range of the full-precision states, and of a x and b u where the unit gives them the same format.

        The clip ends it. Where states have ranges of their own, those below 2^-12 of their head's widest have that
        much, so that a state that hardly moves needs neither a fine format nor, in these units, a large C.
        """
        scheme, spec = self.scheme, self.specs["state"]
        assert spec.bits is not None
        lengths = None if mask is None else mask.sum(1)
        separate = scheme.rounding_placement == "separate"
        found = []
        for period, at in self._groups():
            ends = None if lengths is None else lengths // period
            rows = windows(u[:, at], period)
            found.append(
                spec.observer.states(
                    rows, a[at], b[at], spec.granularity, ends, separate, spec.bits, spec.symmetric
                )
            )
        low, high = _joined(found, [at for _, at in self._groups()], spec.granularity)
        if scheme.state_clip is not None:
            low, high = np.maximum(low, -scheme.state_clip), np.minimum(high, scheme.state_clip)
        if spec.granularity == "state":
            width = np.maximum(high, 0) - np.minimum(low, 0)
            least = _FINEST * width.max(axis=1, keepdims=True)
            low, high = np.where(width < least, -least, low), np.where(width < least, least, high)
        return low, high

    def _filled(self, low: NDArray[Any], high: NDArray[Any]) -> Range:
        """Where scales are powers of two: the range of states counted in units of 1/g, so that it fills its
        word, 1 <= g < 2. B becomes g B and C becomes C / g, which changes no output.

        A range that would pass the state's clip ends there.
        """
        spec, inner = self.specs["state"], self.inner
        if not spec.power_of_two:
            return low, high
        assert spec.bits is not None
        free, wide = (
            Format.from_range(low, high, spec.bits, symmetric=spec.symmetric, power_of_two=power).scale
            for power in (False, True)
        )
        gain = np.maximum(1.0, wide.astype(np.float64) / free * (1 - 2.0**-20))  # just inside, whatever is rounded
        if (clip := self.scheme.state_clip) is not None:
            reach = np.maximum(np.maximum(-low, high), 1e-30)
            gain = np.minimum(gain, np.maximum(1.0, clip * (1 - 1e-5) / reach))
        gain = gain.astype(np.float32)
        shape = gain.shape + (1,) * (3 - gain.ndim)
        with torch.no_grad():
            whole = torch.from_numpy(gain.reshape(shape)).to(inner.B)
            by = inner.packed(whole.expand(*self.shape, 1)) if inner.there is not None else whole
            inner.B.mul_(by)
            inner.C.div_(by)
        return low * gain, high * gain

    def init_state(self, batch: int) -> State:
        """The code of zero in every state register (batch, head, state, 2), or a complex zero state.

        A `UnitState` where the unit keeps more: a counter for dither and slow heads, sums of these heads' inputs,
        residuals. Raises `ImcSsmError` where ranges are dynamic.
        """
        check_static(self.moving, "streaming")
        if not self.integer:
            return self.inner.init_state(batch)
        heads, states = self.shape
        zero = self.state.zero_point
        zero = zero if zero.ndim == 2 else zero.expand(heads)[:, None]
        x = zero[..., None].expand(batch, heads, states, 2).clone()
        return at_rest(x, self.scheme, slow=self.rates() is not None)

    def step(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: u (batch, head) -> y (batch, head), next state; `ImcSsmError` where ranges are dynamic."""
        check_static(self.moving, "streaming")
        y, last = self._run(u[..., None], None, state)
        assert last is not None
        return y[..., 0], last

    def graph(self, u: Signal, at: Place) -> Signal:
        """As in full precision, with the scheme's roundings and the heads' periods."""
        rules: dict[str, Any] = dict(self._roundings)
        if (rates := self.rates()) is not None:
            rules["periods"] = rates
        if self.scheme.rounding == "feedback":
            rules["residual_bits"] = self.scheme.residual_bits
        if (words := stored_words(self.scheme, self.specs["poles"])) is not None:
            rules["pole_words"] = words
        return self.inner.graph(u, at, **rules)


def at_rest(codes: Tensor, scheme: Scheme, *, slow: bool = False) -> State:
    """What an integer unit with these codes of zero (batch, head, ...) keeps before a sequence; `slow`: some heads
    are."""
    if not slow and scheme.rounding == scheme.nearest:
        return codes
    x = codes.int()
    first = first_residual(scheme.residual_bits)
    residual = torch.full_like(x, first) if scheme.rounding == "feedback" else None
    return UnitState(x, 0, x.new_zeros(x.shape[:2]) if slow else None, residual)


def _check_slow(path: str, scheme: Scheme, state: Quantizer, recurrent: Quantizer) -> None:
    """`ConfigError` where a head cannot be slow: without an integer unit, or with ranges that follow the batch."""
    given = f"{path}: rate_limit = {scheme.rate_limit}"
    if state.bits is None:
        raise ConfigError(
            f"{given}, but its state is in full precision and heads are slow in the integer unit only; give the "
            "state bits, or leave rate_limit out"
        )
    for name, q in (("state", state), ("recurrent", recurrent)):
        if q.dynamic:
            raise ConfigError(
                f"{given}, but the ranges of {path}.{name} are dynamic; use static calibration, or leave "
                "rate_limit out"
            )


def _joined(ranges: list[Range], places: list[Any], granularity: str) -> Range:
    """The ranges of groups of heads in one: of all heads where one is shared, else each group's at its place."""
    if len(ranges) == 1:
        return ranges[0]
    lows, highs = ([pair[side] for pair in ranges] for side in (0, 1))
    if granularity == "tensor":
        return np.min(lows, axis=0), np.max(highs, axis=0)
    order = np.argsort(np.concatenate(places))
    return np.concatenate(lows)[order], np.concatenate(highs)[order]


def _register_format(
    pairs: NDArray[Any], bits: int, registers: Format, *, symmetric: bool, power_of_two: bool = False
) -> Format:
    """C's format where every register has its own: one per head for C s_x; pairs (head, state, 2).

    C counts in units of the registers then: the products c x of a head share one scale, so that their sum needs no
    alignment, and each part of C is as fine as the output needs it.
    """
    units = registers.scale.astype(np.float64)
    rules: Any = {"symmetric": symmetric, "power_of_two": power_of_two}
    shared = parameter_format(pairs * units[..., None], bits, "head", **rules)
    zero = np.broadcast_to(shared.zero_point[:, None], units.shape)
    return Format(bits, (shared.scale[:, None] / units).astype(np.float32), zero, symmetric)


def rounded(z: Tensor, fmt: Format | None) -> Tensor:
    """A coefficient on its grid (full-precision state: the rounding is all there is)."""
    if fmt is None:
        return z
    return torch.view_as_complex(fake_quantize(torch.view_as_real(z), fmt, 0).contiguous())
