"""A matrix-vector product as a chip does it: DAC, column sums with noise, ADC, digital scales and sums."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from imc_ssm.analog.mapping import Floats, MappedMatrix
from imc_ssm.analog.programming import ProgrammedMatrix, compensation, program, stream_seed
from imc_ssm.analog.schema import Design
from imc_ssm.errors import ConfigError, DataError, DesignError, unknown

__all__ = ["AnalogLinear", "Implementation"]

Implementation = Literal["fast", "aihwkit", "aihwkit-cpp"]
_IMPLEMENTATIONS = ("aihwkit", "aihwkit-cpp", "fast")
_CHUNK = 1 << 19
"""Numbers worked on at once by "fast": 2 MB of float32 stay in the cache between passes (measured best of
2^14 to 2^30; smaller pieces lose more to starting threads than they gain)."""


class AnalogLinear(nn.Module):
    """y = W x + bias on the tiles of one chip; inference only (no gradients).

        d_i  = clip(round(x_i / input_range / q_in)) q_in         q_in  = 2 / (2^dac_bits - 2)
        s_j  = sum_i d_i w_ij + read_noise N(0, 1)                w     = (G+ - G-) / (g_max - g_min)
        a_j  = clip(round(s_j / q_out)) q_out                     q_out = 2 output_range / (2^adc_bits - 2)
        y_j  = input_range scale_j sum_tiles alpha a_j + bias_j   alpha = global drift compensation

    A new one holds the ideal targets: converters on, no noise (`ideal_weights` is True). `program` makes it
    one chip, `set_time` ages it. `implementation`: "fast" (the formula above, in place, in pieces that fit
    the cache), "aihwkit" (every tile is aihwkit's torch tile, with noise and bound management off),
    "aihwkit-cpp" (its C++ tile, where it runs; `DesignError` where it does not).

    Random numbers: with "fast" a generator of its own; both are seeded by (seed, chip, name, time), and
    successive calls continue the stream.
    """

    def __init__(self, mapped: MappedMatrix, design: Design, implementation: Implementation = "fast") -> None:
        """Build the layer in its ideal state; `ConfigError` for an unknown implementation."""
        super().__init__()
        if implementation not in _IMPLEMENTATIONS:
            raise ConfigError(unknown("implementation", implementation, _IMPLEMENTATIONS))
        if implementation == "aihwkit-cpp":
            _probe_cpp()
        self.mapped = mapped
        self.design = design
        self.implementation = implementation
        self.programmed: ProgrammedMatrix | None = None
        self.time: float | None = None
        """Seconds since programming; None = right after it (or ideal)."""
        self.alphas: tuple[float, ...] = ()
        """Drift compensation of each tile."""
        self._input_codes = 2 ** (design.dac_bits - 1) - 1
        self._output_codes = 2 ** (design.adc_bits - 1) - 1
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
        self.programmed = program(self.mapped, self.design, seed, chip)
        self.time = None
        weights = self.programmed.weights()
        self._load(weights, weights)
        return self

    def set_time(self, seconds: float) -> AnalogLinear:
        """Age the chip to `seconds` after programming, with drift compensation if the design has it.

        Raises `DesignError` before `program`, or for a time the cell has no model for.
        """
        if self.programmed is None:
            raise DesignError(f"{self.mapped.name!r} is not programmed; call program(seed, chip) before set_time")
        now = self.programmed.weights(seconds)
        self.time = float(seconds)
        self._load(self.programmed.weights(), now)
        return self

    def _load(self, before: Floats, now: Floats) -> None:
        """Take the weights `now` (inputs, outputs), compensated to those `before`; reseed the noise."""
        mapped, chip = self.mapped, self.programmed
        self._seed = 0 if chip is None else stream_seed(chip.seed, chip.chip, mapped.name, "read", str(self.time))
        self._generators, self._global_state, self._tiles = {}, None, []
        alphas = []
        for index, tile in enumerate(mapped.tiles):
            part = (slice(*tile.row), slice(*tile.column))
            on = self.design.drift_compensation == "global"
            alphas.append(compensation(before[part], now[part]) if on else 1.0)
            step_in, step_out = 1.0 / self._input_codes, tile.output_range / self._output_codes
            # From ADC code to output: one factor per column.
            factor = mapped.scale[part[1]].astype(np.float64) * (step_out * alphas[-1] * mapped.input_range)
            self.register_buffer(f"factor{index}", torch.from_numpy(factor.astype(np.float32)), persistent=False)
            # From DAC codes to ADC codes (not yet rounded): both steps are folded into the weights.
            folded = now[part].astype(np.float64) * (step_in / step_out)
            if self.implementation == "fast":
                self.register_buffer(
                    f"weight{index}", torch.from_numpy(folded.astype(np.float32)), persistent=False
                )
            else:
                self._tiles.append(self._aihwkit_tile(now[part], tile.output_range))
        self.alphas = tuple(alphas)

    @torch.no_grad()
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(..., inputs) -> (..., outputs), float32; `DataError` for another number of inputs."""
        if x.ndim == 0 or x.shape[-1] != self.mapped.inputs:
            raise DataError(f"{self.mapped.name!r} takes (..., {self.mapped.inputs}), got {tuple(x.shape)}")
        flat = x.detach().reshape(-1, self.mapped.inputs).to(torch.float32)
        y = torch.empty(len(flat), self.mapped.outputs, device=flat.device)
        rows = max(1, _CHUNK // max(self.mapped.inputs, self.mapped.outputs))
        if self.implementation == "fast":
            for start in range(0, len(flat), rows):
                self._fast(flat[start : start + rows], y[start : start + rows])
        else:
            self._aihwkit(flat, y)
        return y.reshape(*x.shape[:-1], self.mapped.outputs)

    def _fast(self, x: Tensor, y: Tensor) -> None:
        """The formula of the class on codes: x (samples, inputs) -> y (samples, outputs), in place."""
        # Divided in this order, and by the same numbers, as aihwkit does: equal codes, also next to a tie.
        drive = x.div(self.mapped.input_range).div_(1.0 / self._input_codes)
        drive.round_().clamp_(-self._input_codes, self._input_codes)
        noise = 0.0 if self.ideal_weights else self.design.read_noise.value
        for index, tile in enumerate(self.mapped.tiles):
            weight = getattr(self, f"weight{index}")
            part = drive[:, slice(*tile.row)]
            if noise > 0:
                codes = torch.empty(len(x), weight.shape[1], device=x.device)
                codes.normal_(
                    0.0, noise * self._output_codes / tile.output_range, generator=self._generator(x.device)
                )
                codes.addmm_(part, weight)
            else:
                codes = part @ weight
            codes.round_().clamp_(-self._output_codes, self._output_codes)
            self._decode(index, codes, y)

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
        with torch.random.fork_rng(devices=[]):
            if self._global_state is None:
                torch.default_generator.manual_seed(self._seed)
            else:
                torch.set_rng_state(self._global_state)
            for index, (tile, part) in enumerate(zip(self._tiles, self.mapped.tiles, strict=True)):
                out = tile.forward(drive[:, slice(*part.row)].contiguous(), is_test=True)
                self._decode(index, torch.round(out * (self._output_codes / part.output_range)), y)
            self._global_state = torch.get_rng_state()

    def _aihwkit_tile(self, weight: Floats, output_range: float) -> Any:
        """aihwkit's simulator tile with `weight` (inputs, outputs) and the design's converters."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from aihwkit.simulator.configs import InferenceRPUConfig, TorchInferenceRPUConfig
            from aihwkit.simulator.parameters.enums import BoundManagementType, NoiseManagementType
            from aihwkit.simulator.tiles.inference import InferenceTile
            from aihwkit.simulator.tiles.inference_torch import TorchInferenceTile

        cpp = self.implementation == "aihwkit-cpp"
        config = InferenceRPUConfig() if cpp else TorchInferenceRPUConfig()
        io = config.forward
        io.inp_bound, io.inp_res = 1.0, 1.0 / (2 * self._input_codes)
        io.out_bound, io.out_res = output_range, 1.0 / (2 * self._output_codes)
        io.out_noise = 0.0 if self.ideal_weights else self.design.read_noise.value
        # On by default: they would rescale every input vector, which no converter does.
        io.noise_management, io.bound_management = NoiseManagementType.NONE, BoundManagementType.NONE
        inputs, outputs = weight.shape
        tile = (InferenceTile if cpp else TorchInferenceTile)(outputs, inputs, config).tile
        tile.set_weights(torch.from_numpy(np.ascontiguousarray(weight.T)))
        return tile

    def extra_repr(self) -> str:
        """One line for `print(model)`."""
        state = "ideal" if self.programmed is None else f"chip {self.programmed.chip}, time {self.time}"
        return f"{self.mapped.inputs}, {self.mapped.outputs}, tiles={len(self.mapped.tiles)}, {state}"


def _probe_cpp() -> None:
    """Run a small product on aihwkit's C++ tile, which is bound to torch's ABI; `DesignError` if it fails."""
    try:
        from aihwkit.simulator.configs import InferenceRPUConfig
        from aihwkit.simulator.tiles.inference import InferenceTile

        tile = InferenceTile(2, 2, InferenceRPUConfig()).tile
        tile.set_weights(torch.eye(2))
        tile.forward(torch.ones(1, 2), is_test=True)
    except Exception as error:
        raise DesignError(
            f"implementation 'aihwkit-cpp' does not run here: {error} (aihwkit's C++ tile refuses tensors of "
            f"torch {torch.__version__}); use 'aihwkit' (its torch tile) or 'fast' instead"
        ) from None
