"""A matrix-vector product as a chip does it: DAC, column sums with noise, ADC, digital scales and sums."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from imc_ssm.chip.mapping import Floats, MappedMatrix
from imc_ssm.chip.programming import Noise, ProgrammedMatrix, compensation, program
from imc_ssm.chip.reference import GLOBAL, probe_cpp, reference_tile
from imc_ssm.devices import Chip, stream_seed
from imc_ssm.errors import ConfigError, DataError, DesignError, unknown
from imc_ssm.kernels.device import single_precision

__all__ = ["AnalogLinear", "Implementation"]

Implementation = Literal["fast", "aihwkit", "aihwkit-cpp"]
_IMPLEMENTATIONS = ("aihwkit", "aihwkit-cpp", "fast")
_CHUNK = 1 << 19
"""Numbers worked on at once by "fast": 2 MB of float32 stay in the cache between passes (measured best of
2^14 to 2^30; smaller pieces lose more to starting threads than they gain)."""


class AnalogLinear(nn.Module):
    """y = W x + bias on the tiles of one chip.

        d_i  = dac.transfer(x_i, input_range) q_in                q_in  = dac.step
        s_j  = sum_i d_i w_ij + sigma_j N(0, 1)                   w     = (G+ - G-) / (g_max - g_min)
        a_j  = adc.transfer(s_j, output_range) q_out              q_out = output_range adc.step
        y_j  = input_range scale_j sum_tiles alpha a_j + bias_j   alpha = global drift compensation
        sigma_j^2 = read_noise^2 + sum_i d_i^2 v_ij               v     = variance of w (`Cell.fast_noise`)

    A new one holds the ideal targets: converters on, no noise (`ideal_weights` is True). `program` makes it
    one chip, `set_time` ages it. `implementation`: "fast" (the formula above, in place, in pieces that fit
    the cache), "aihwkit" (every tile is aihwkit's torch tile, with noise and bound management off),
    "aihwkit-cpp" (its C++ tile, where it runs; `DesignError` where it does not). Both program with the library's
    own cells unless `noise="aihwkit"`.

    Random numbers: with "fast" a generator of its own; both are seeded by (seed, chip, index, time), and
    successive calls continue the stream. `index` is the matrix's place on the chip.

    The gradient is straight-through: that of the sums without noise and rounding, zero where a converter
    saturates. It reaches the input, and so what is in front; the weights are conductances, no parameters.
    """

    def __init__(
        self,
        mapped: MappedMatrix,
        chip: Chip,
        implementation: Implementation = "fast",
        *,
        index: int = 0,
        noise: Noise = "native",
    ) -> None:
        """Build the layer in its ideal state; `ConfigError` for an unknown implementation."""
        super().__init__()
        if implementation not in _IMPLEMENTATIONS:
            raise ConfigError(unknown("implementation", implementation, _IMPLEMENTATIONS))
        if implementation == "aihwkit-cpp":
            probe_cpp()
        self.mapped = mapped
        self.chip = chip
        self.implementation = implementation
        self.index, self.noise = index, noise
        self.programmed: ProgrammedMatrix | None = None
        self.time: float | None = None
        """Seconds since programming; None = right after it (or ideal)."""
        self.alphas: tuple[float, ...] = ()
        """Drift compensation of each tile."""
        self._tiles: list[Any] = []
        self._generators: dict[torch.device, torch.Generator] = {}
        self._global_state: Tensor | None = None
        self._seed = 0
        bias = None if mapped.bias is None else torch.from_numpy(mapped.bias.copy())
        self.register_buffer("bias", bias, persistent=False)
        self.bias: Tensor | None
        self._load(mapped.target, mapped.target)

    @property
    def ideal_weights(self) -> bool:
        """Whether the targets themselves are used: no chip has been programmed."""
        return self.programmed is None

    def program(self, seed: int, chip: int) -> AnalogLinear:
        """Become chip number `chip`, right after programming."""
        self.programmed = program(self.mapped, self.chip, seed, (chip,), index=self.index, noise=self.noise)
        self.time = None
        (weights,), variance = self.programmed.state()
        self._load(weights, weights, variance)
        return self

    def set_time(self, time: Any) -> AnalogLinear:
        """Age the chip to a time (`units.seconds`), with drift compensation if the design has it.

        Raises `DesignError` before `program`, or for a time the cell has no model for.
        """
        if self.programmed is None:
            raise DesignError(f"{self.mapped.name!r} is not programmed; call program(seed, chip) before set_time")
        self.time = self.chip.cell.check_time(time)
        ((now,), variance), (before,) = self.programmed.state(self.time), self.programmed.weights()
        self._load(before, now, variance)
        return self

    def _load(self, before: Floats, now: Floats, variance: Floats | None = None) -> None:
        """Take the weights `now` (inputs, outputs), compensated to those `before`; reseed the noise.

        `variance` (1, inputs, outputs): of the weights from product to product; None: none.
        """
        if variance is not None and self.implementation != "fast":
            raise DesignError(
                f"cell {self.chip.cell.name!r} has read noise that is drawn in every product, which aihwkit's "
                "tiles do not have; use implementation 'fast'"
            )
        mapped, of = self.mapped, self.programmed
        self._seed = 0 if of is None else stream_seed(of.seed, of.chips[0], of.index, "read", str(self.time))
        self._generators, self._global_state, self._tiles = {}, None, []
        alphas = []
        for index, tile in enumerate(mapped.tiles):
            part = (slice(*tile.row), slice(*tile.column))
            on = self.chip.design.drift_compensation == "global"
            alphas.append(compensation(before[part], now[part]) if on else 1.0)
            step_in, step_out = self.chip.dac.step, tile.output_range / self.chip.adc.codes[1]
            # From ADC code to output: one factor per column.
            factor = mapped.scale[part[1]].astype(np.float64) * (step_out * alphas[-1] * mapped.input_range)
            self.register_buffer(f"factor{index}", torch.from_numpy(factor.astype(np.float32)), persistent=False)
            self.register_buffer(f"now{index}", torch.from_numpy(now[part].copy()), persistent=False)
            # From DAC codes to ADC codes (not yet rounded): both steps are folded into the weights.
            folded = now[part].astype(np.float64) * (step_in / step_out)
            if self.implementation == "fast":
                self.register_buffer(
                    f"weight{index}", torch.from_numpy(folded.astype(np.float32)), persistent=False
                )
                squares = None if variance is None else variance[0][part] * np.float32((step_in / step_out) ** 2)
                kept = None if squares is None else torch.from_numpy(squares)
                self.register_buffer(f"variance{index}", kept, persistent=False)
            else:
                cpp = self.implementation == "aihwkit-cpp"
                dac, adc = self.chip.dac, self.chip.adc
                made = reference_tile(now[part], tile.output_range, dac, adc, self._read_noise, cpp=cpp)
                self._tiles.append(made)
        self.alphas = tuple(alphas)

    @property
    def _read_noise(self) -> float:
        return 0.0 if self.ideal_weights else self.chip.design.read_noise.value

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(..., inputs) -> (..., outputs), float32; `DataError` for another number of inputs."""
        if x.ndim == 0 or x.shape[-1] != self.mapped.inputs:
            raise DataError(f"{self.mapped.name!r} takes (..., {self.mapped.inputs}), got {tuple(x.shape)}")
        flat = x.detach().reshape(-1, self.mapped.inputs).to(torch.float32)
        y = flat.new_empty(len(flat), self.mapped.outputs)
        rows = max(1, _CHUNK // max(self.mapped.inputs, self.mapped.outputs))
        with torch.no_grad():
            if self.implementation == "fast":
                for start in range(0, len(flat), rows):
                    self._fast(flat[start : start + rows], y[start : start + rows])
            else:
                self._aihwkit(flat, y)
        y = y.reshape(*x.shape[:-1], self.mapped.outputs)
        if torch.is_grad_enabled() and x.requires_grad:
            smooth = self._smooth(x).to(y.dtype)
            y = y + (smooth - smooth.detach())
        return y

    def _smooth(self, x: Tensor) -> Tensor:
        """The products in full precision, clipped as converters do: what the gradient is taken of."""
        dac, adc = self.chip.dac, self.chip.adc
        drive = (x / self.mapped.input_range).clamp(*dac.limits)
        blocks: dict[tuple[int, int], Tensor] = {}
        for index, tile in enumerate(self.mapped.tiles):
            sums = drive[..., slice(*tile.row)] @ getattr(self, f"now{index}").to(x.dtype)
            codes = (sums / tile.output_range).clamp(*adc.limits) * adc.codes[1]
            part = codes * getattr(self, f"factor{index}").to(x.dtype)
            blocks[tile.column] = blocks[tile.column] + part if tile.column in blocks else part
        return torch.cat([blocks[column] for column in sorted(blocks)], dim=-1)

    def _fast(self, x: Tensor, y: Tensor) -> None:
        """The formula of the class on codes: x (samples, inputs) -> y (samples, outputs), in place."""
        adc, noise = self.chip.adc, self._read_noise
        drive = self.chip.dac.transfer(x, self.mapped.input_range)
        for index, tile in enumerate(self.mapped.tiles):
            weight, variance = getattr(self, f"weight{index}"), getattr(self, f"variance{index}")
            part = drive[:, slice(*tile.row)]
            spread = noise * adc.codes[1] / tile.output_range
            if variance is not None:
                codes = x.new_empty(len(x), weight.shape[1])
                codes.normal_(generator=self._generator(x.device))
                codes.mul_((part.square() @ variance).add_(spread**2).sqrt_()).addmm_(part, weight)
            elif noise > 0:
                codes = x.new_empty(len(x), weight.shape[1])
                codes.normal_(0.0, spread, generator=self._generator(x.device))
                codes.addmm_(part, weight)
            else:
                codes = part @ weight
            self._decode(index, adc.convert_(codes), y)

    def _decode(self, index: int, codes: Tensor, y: Tensor) -> None:
        """Digital side of tile `index`: add its ADC codes, scaled, to y; a first row tile brings the bias."""
        tile = self.mapped.tiles[index]
        factor, out = getattr(self, f"factor{index}"), y[:, slice(*tile.column)]
        if tile.row[0] > 0:
            out.addcmul_(codes, factor)
        elif self.bias is None:
            torch.mul(codes, factor, out=out)
        else:
            torch.addcmul(self.bias[slice(*tile.column)], codes, factor, out=out)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]

    def _aihwkit(self, x: Tensor, y: Tensor) -> None:
        """The same through aihwkit's tiles, whose outputs are ADC code times step."""
        drive = x / self.mapped.input_range
        with GLOBAL, single_precision(), torch.random.fork_rng(devices=[]):
            if self._global_state is None:
                torch.default_generator.manual_seed(self._seed)
            else:
                torch.set_rng_state(self._global_state)
            for index, (tile, part) in enumerate(zip(self._tiles, self.mapped.tiles, strict=True)):
                out = tile.forward(drive[:, slice(*part.row)].contiguous(), is_test=True)
                self._decode(index, torch.round(out * (self.chip.adc.codes[1] / part.output_range)), y)
            self._global_state = torch.get_rng_state()

    def extra_repr(self) -> str:
        """One line for `print(model)`."""
        state = "ideal" if self.programmed is None else f"chip {self.programmed.chips[0]}, time {self.time}"
        return f"{self.mapped.inputs}, {self.mapped.outputs}, tiles={len(self.mapped.tiles)}, {state}"
