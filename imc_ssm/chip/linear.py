"""A matrix-vector product as chips do it: DAC, column sums with noise, ADC, digital scales and sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from imc_ssm.chip.compensation import factors
from imc_ssm.chip.layout import layout_of
from imc_ssm.chip.mapping import Floats, MappedMatrix
from imc_ssm.chip.programming import Noise, ProgrammedMatrix, program
from imc_ssm.chip.reference import GLOBAL, probe_cpp, reference_tile
from imc_ssm.chip.streaming_noise import APART, MovingNoise, Stream, moving_noise
from imc_ssm.devices import Chip, Converter, Draws, Transfers, stream_seed
from imc_ssm.errors import ConfigError, DataError, DesignError, unknown
from imc_ssm.fixedpoint import Format
from imc_ssm.kernels import Grid, quantize, room_for, tile_product
from imc_ssm.kernels.device import single_precision

__all__ = ["AnalogLinear", "Implementation"]

Numbers = npt.NDArray[np.float64]
Implementation = Literal["fast", "aihwkit", "aihwkit-cpp"]
_IMPLEMENTATIONS = ("aihwkit", "aihwkit-cpp", "fast")
_CHUNK = 1 << 19
"""Numbers worked on at once step by step: 2 MB of float32 stay in the cache between passes (measured best of
2^14 to 2^30; smaller pieces lose more to starting threads than they gain)."""


class AnalogLinear(nn.Module):
    """y = W x + bias on the tiles of one chip, or of several side by side.

        d_i  = dac.transfer(x_i, input_range)                 codes; v_ip the drive of pulse p (`Converter.drives`)
        s_js = sum_i v_ip w_ijs + sigma_js N(0, 1)            w     = weights of slice s (`Layout`)
        a_js = adc(s_js / q_out)                              q_out = output_range adc.step
        y_j  = input_range scale_j alpha_j sum_(tiles, slices, pulses) share_s share_p q_out a_js + bias_j
        sigma_js^2 = read_noise^2 + sum_i v_ip^2 var(w_ijs)   alpha = drift compensation, var = `Cell.fast_noise`

    The ADC has the errors of its converters (`converters.Adc`), drawn once for each chip. A new layer holds the
    ideal targets: converters uniform, no noise (`ideal_weights` is True). `program` makes it one chip or several,
    `set_time` ages them, and says what noise does while sequences run (`Stream`; None: it stands still). With
    several chips the first axis of the input is (chip, sequence), chip by chip.

    `implementation`: "fast" (the formula above, in one pass over all chips, `kernels.tile_product`; converters
    with nonlinearity, several pulses or a rule of their own, and noise that moves, take a pass for each step),
    "aihwkit" (every tile is aihwkit's torch tile, with noise and bound management off), "aihwkit-cpp" (its C++
    tile, where it runs; `DesignError` where it does not). All program with the library's own cells unless
    `noise="aihwkit"`.

    Random numbers: all are seeded by (seed, chip, index, time), where `index` is the matrix's place on the chip,
    and successive calls continue the streams. In one pass they are functions of the seed and the number of the
    product since `set_time`: whatever the batch, the threads and the device.

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
        wires = chip.design.wires
        if wires is not None and wires.solve == "time-stepped":
            if implementation != "aihwkit":
                raise DesignError(
                    "wires solved 'time-stepped' are those of aihwkit's tile; use implementation 'aihwkit'"
                )
            if chip.design.polarity != "pair":
                raise DesignError("aihwkit's time-stepped wires know pairs only; give the design polarity 'pair'")
        self.mapped = mapped
        self.chip = chip
        self.layout = layout_of(chip)
        self.implementation = implementation
        self.index, self.noise = index, noise
        self.programmed: ProgrammedMatrix | None = None
        self.time: float | None = None
        """Seconds since programming; None = right after it (or ideal)."""
        self.alphas: tuple[Numbers, ...] = ()
        """Drift compensation of each part of the matrix, (chips, columns)."""
        self._tiles: list[list[Any]] = []
        self._generators: dict[tuple[torch.device, int], torch.Generator] = {}
        self._global_state: Tensor | None = None
        self._seeds: tuple[int, ...] = (0,)
        self._moving: MovingNoise | None = None
        self._units: list[Numbers] = []
        self._position, self._start = 0, math.nan
        self._drawn = 0
        """Products of a chip since its noise was seeded."""
        bias = None if mapped.bias is None else torch.from_numpy(mapped.bias.copy())
        self.register_buffer("bias", bias, persistent=False)
        self.bias: Tensor | None
        wired, names = mapped.wired, ("rows", "columns", "idle")
        for name in names:
            own = None if wired is None else torch.from_numpy(getattr(wired, name).copy())
            self.register_buffer(name, own, persistent=False)
        self.rows: Tensor
        self.columns: Tensor
        self.idle: Tensor | None
        whole = mapped.target[None]
        self._load(whole, whole, self.layout.split(mapped.target)[None])

    @property
    def ideal_weights(self) -> bool:
        """Whether the targets themselves are used: no chip has been programmed."""
        return self.programmed is None

    @property
    def chips(self) -> int:
        """How many chips it is."""
        return 1 if self.programmed is None else len(self.programmed.chips)

    def program(self, seed: int, chip: int | Sequence[int] | npt.NDArray[Any], *, cycle: int = 0) -> AnalogLinear:
        """Become chip number `chip`, or the chips of several numbers, right after programming.

        `cycle`: how often they have been programmed again before (`programming.program`).
        """
        numbers = tuple(chip) if isinstance(chip, (Sequence, np.ndarray)) else (chip,)
        if not numbers:
            raise ConfigError(f"{self.mapped.name!r}: program at least one chip; no number was given")
        self.programmed = program(
            self.mapped, self.chip, seed, numbers, index=self.index, noise=self.noise, cycle=cycle
        )
        self.time = self._moving = None
        sliced, variance = self.programmed.state()
        whole = self.programmed.whole(sliced)
        self._load(whole, whole, sliced, variance)
        return self

    def set_time(self, time: Any, *, calibrated: Any = None, stream: Stream | None = None) -> AnalogLinear:
        """Age the chips to a time (`units.seconds`), with drift compensation if the design has it.

        `calibrated`: the time at which that was measured, 0 for programming; None: now. `stream`: when products
        of sequences run, so that noise that is faster than a sequence moves in it; the first is product 0, unless
        an earlier stream with the same `start` goes on. Raises `DesignError` before `program`, for a time the cell
        has no model for, or where the noise cannot move.
        """
        if self.programmed is None:
            raise DesignError(f"{self.mapped.name!r} is not programmed; call program(seed, chip) before set_time")
        self.time = self.chip.cell.check_time(time)
        slower = math.inf if stream is None else stream.at(self.mapped.rate).slowest
        sliced, variance = self.programmed.state(self.time, slower)
        moving = None if stream is None else moving_noise(self.programmed, self.time, stream)
        start = math.nan if stream is None or stream.start is None else stream.start
        if start != self._start:
            self._position, self._start = 0, start
        if moving is not None and moving.variance is not None:
            variance = moving.variance if variance is None else variance + moving.variance
        self._moving = moving
        before = self.programmed.weights()
        if calibrated is None:
            measured = self.programmed.whole(sliced)
        else:
            measured = before if calibrated == 0 else self.programmed.weights(calibrated)
        self._load(before, measured, sliced, variance)
        return self

    def _load(self, before: Floats, measured: Floats, sliced: Floats, variance: Floats | None = None) -> None:
        """Take the weights `sliced` (chips, slices, inputs, outputs), and reseed the noise.

        They are compensated by what brings the weights `measured` (chips, inputs, outputs) to those `before`.
        `variance`, of the shape of `sliced`: that of the weights from product to product; None: none.
        """
        if (variance is not None or self._moving is not None) and self.implementation != "fast":
            raise DesignError(
                f"cell {self.chip.cell.name!r} has read noise that is drawn in every product, which aihwkit's "
                "tiles do not have; use implementation 'fast'"
            )
        mapped, of, design = self.mapped, self.programmed, self.chip.design
        if of is not None:
            self._seeds = tuple(of.seeds("read", str(self.time)))
        self._generators, self._global_state, self._drawn = {}, None, 0
        self._tiles, self._units = [[] for _ in range(len(sliced))], []
        alphas = {
            part: factors(before[(..., *_cut(part))], measured[(..., *_cut(part))], design.drift_compensation)
            for part in mapped.parts
        }
        self.alphas = tuple(alphas.values())
        for index, tile in enumerate(mapped.tiles):
            part = (slice(None), tile.slice, slice(*tile.row), slice(*tile.column))
            step_out = tile.output_range / self.chip.adc.codes[1]
            # From ADC code to output: one factor per column.
            share = step_out * mapped.input_range * self.layout.shares[tile.slice]
            factor = mapped.scale[part[-1]].astype(np.float64) * share * alphas[tile.row, tile.column]
            self._keep(f"factor{index}", factor.astype(np.float32))
            self._keep(f"now{index}", sliced[part].copy())
            if self.implementation != "fast":
                cpp, (dac, adc) = self.implementation == "aihwkit-cpp", (self.chip.dac, self.chip.adc)
                wires = self._wires
                for tiles, weight in zip(self._tiles, sliced[part], strict=True):
                    made = reference_tile(weight, tile.output_range, dac, adc, self._read_noise, cpp=cpp, **wires)
                    tiles.append(made)
                continue
            # From the drive to ADC codes (not yet rounded): both steps are folded into the weights.
            step = self._drive_step / step_out
            errors = self._transfers(index, tile.column[1] - tile.column[0])
            gain = 1.0 if errors is None else errors.gain[:, None].astype(np.float64)
            self._keep(f"weight{index}", (sliced[part].astype(np.float64) * step * gain).astype(np.float32))
            squares = None if variance is None else variance[part] * np.square(step * gain).astype(np.float32)
            self._keep(f"variance{index}", squares)
            self._units.append(np.broadcast_to(step * gain, (len(sliced), 1, factor.shape[-1]))[:, 0])
            self._keep(f"offset{index}", None if errors is None else errors.offset)
            self._keep(f"inl{index}", None if errors is None else errors.inl)
            seeds = None if of is None else np.array(of.seeds("read", str(self.time), index), np.int64)
            self._keep(f"seed{index}", seeds)

    def _keep(self, name: str, value: npt.NDArray[Any] | None) -> None:
        """A buffer that goes where the layer goes, and into no file."""
        kept = None if value is None else torch.from_numpy(np.ascontiguousarray(value))
        self.register_buffer(name, kept, persistent=False)

    def _transfers(self, index: int, columns: int) -> Transfers | None:
        """The errors of the converters of tile `index`; None: there are none."""
        of, adc = self.programmed, self.chip.adc
        if of is None or not adc.erroneous:
            return None
        seeds = [stream_seed(of.seed, chip, of.index, "adc", index) for chip in of.chips]
        return adc.drawn(Draws(seeds), columns, self.chip.design.columns_per_adc)

    @property
    def _drive_step(self) -> float:
        """Full voltages of a unit of drive: a DAC code's, or that of a bit's pulse."""
        return self.chip.dac.step if self.chip.dac.encoding != "bit-serial" else 1.0

    @property
    def _wires(self) -> dict[str, Any]:
        """What aihwkit's tile needs to know of wires that are its own (`Wires.solve`); nothing otherwise."""
        wires, layout = self.chip.design.wires, self.layout
        if self.ideal_weights or wires is None or wires.solve != "time-stepped":
            return {}
        return {
            "column": wires.column.value,
            "window": (layout.devices * layout.g_min, layout.devices * layout.g_max),
        }

    @property
    def _read_noise(self) -> float:
        return 0.0 if self.ideal_weights else self.chip.design.read_noise.value

    def _spread(self, tile: int) -> float:
        """Deviation of the noise in front of the ADC's rounding, in codes: read noise and the converter's own."""
        if self.ideal_weights:
            return 0.0
        adc = self.chip.adc
        return float(np.hypot(self._read_noise * adc.codes[1] / self.mapped.tiles[tile].output_range, adc.noise))

    takes_format = True
    """Whether `forward` rounds its outputs where asked."""

    def forward(self, x: Tensor, mask: Tensor | None = None, fmt: Format | None = None) -> Tensor:
        """(..., inputs) -> (..., outputs), float32; `DataError` for another number of inputs.

        `fmt`: the outputs come to its grid, as `kernels.quantize` brings them.
        With several chips the first axis is theirs times anything: chip by chip.
        """
        if x.ndim == 0 or x.shape[-1] != self.mapped.size[0]:
            raise DataError(f"{self.mapped.name!r} takes (..., {self.mapped.size[0]}), got {tuple(x.shape)}")
        if self.chips > 1 and (x.ndim < 2 or x.shape[0] % self.chips):
            raise DataError(
                f"{self.mapped.name!r} is {self.chips} chips and takes ({self.chips} x sequences, ..., "
                f"{self.mapped.size[0]}), got {tuple(x.shape)}"
            )
        if self.idle is None:
            return self._product(x, fmt)
        y = self._product(x[..., self.rows], None)
        whole = self.idle.expand(*y.shape[:-1], -1).index_copy(-1, self.columns, y)
        return whole if fmt is None else quantize(whole, fmt, -1)

    def _product(self, x: Tensor, fmt: Format | None) -> Tensor:
        """`forward` of the inputs that drive a row, to the outputs that have a column."""
        abreast = x.ndim == 2 and self.mapped.rate == "step"  # a step of sequences side by side
        trained, one_pass = torch.is_grad_enabled() and x.requires_grad, self._in_one_pass
        with torch.no_grad():
            y = self._fused(x, None if trained else fmt) if one_pass else self._in_steps(x, abreast)
        products = x.numel() // (self.mapped.inputs * self.chips)
        self._drawn += products
        self._position += 1 if abreast else products
        if trained:
            smooth = self._smooth(x).to(y.dtype)
            y = y + (smooth - smooth.detach())
        return y if fmt is None or (one_pass and not trained) else quantize(y, fmt, -1)

    @property
    def _in_one_pass(self) -> bool:
        """Whether the fused product computes what these converters and devices do."""
        dac, adc, moving = self.chip.dac, self.chip.adc, self._moving
        plain = all(
            getattr(type(of), name) is getattr(Converter, name)
            for of in (dac, adc)
            for name in ("convert_", "transfer", "drives")
        )
        moves = moving is not None and moving.followed
        return self.implementation == "fast" and plain and dac.pulses == 1 and not adc.inl and not moves

    def _fused(self, x: Tensor, fmt: Format | None) -> Tensor:
        """The formula of the class, each tile of all chips in one pass; the last of a column rounds."""
        dac, adc, mapped = self.chip.dac, self.chip.adc, self.mapped
        shape = (self.chips, x.shape[0] // self.chips, *x.shape[1:]) if x.ndim > 1 else (1, 1, -1)
        given = x.detach().to(torch.float32).view(shape)  # splits the first axis, wherever the numbers lie
        y = room_for(given, self.chips, mapped.outputs)
        grid = None if fmt is None else Grid.of(fmt, mapped.outputs).on(x.device)
        last = {tile.column: index for index, tile in enumerate(mapped.tiles)}
        for index, tile in enumerate(mapped.tiles):
            columns, first = slice(*tile.column), tile.row[0] == 0 and tile.slice == 0
            tile_product(
                given[..., slice(*tile.row)],
                getattr(self, f"weight{index}"),
                full_scale=mapped.input_range,
                step_in=dac.step,
                codes_in=dac.codes,
                codes_out=adc.codes,
                factor=getattr(self, f"factor{index}"),
                bias=self.bias[columns] if first and self.bias is not None else None,
                grid=grid[:, columns] if grid is not None and index == last[tile.column] else None,
                spread=self._spread(index),
                offset=getattr(self, f"offset{index}"),
                variance=getattr(self, f"variance{index}"),
                seed=getattr(self, f"seed{index}"),
                position=self._drawn,
                out=y[..., columns],
                add=not first,
            )
        return y.reshape(*x.shape[:-1], mapped.outputs)

    def _in_steps(self, x: Tensor, abreast: bool) -> Tensor:
        """The same in pieces, step by step, or through aihwkit's tiles."""
        flat = x.detach().reshape(self.chips, -1, self.mapped.inputs).to(torch.float32)
        y = flat.new_empty(*flat.shape[:2], self.mapped.outputs)
        rows = max(1, _CHUNK // max(self.mapped.inputs, self.mapped.outputs))
        if self.implementation == "fast":
            for chip in range(self.chips):
                for start in range(0, flat.shape[1], rows):
                    piece = slice(start, start + rows)
                    first = self._position + start * (APART if abreast else 1)
                    self._fast(flat[chip, piece], y[chip, piece], chip, first, abreast)
        else:
            self._aihwkit(flat, y)
        return y.reshape(*x.shape[:-1], self.mapped.outputs)

    @property
    def weight(self) -> Tensor:
        """(chips, outputs, inputs): what products multiply with on average, compensated, in the weights' units."""
        out = self.get_buffer("now0").new_zeros(self.chips, self.mapped.outputs, self.mapped.inputs)
        for index, tile in enumerate(self.mapped.tiles):
            unit = tile.output_range / self.chip.adc.codes[1] * self.mapped.input_range  # of a code
            scaled = getattr(self, f"now{index}") * (getattr(self, f"factor{index}") / unit)[:, None]
            out[:, slice(*tile.column), slice(*tile.row)] += scaled.mT
        return out

    def _smooth(self, x: Tensor) -> Tensor:
        """The products in full precision, clipped as converters do: what the gradient is taken of."""
        dac, adc = self.chip.dac, self.chip.adc
        drive = (x.reshape(self.chips, -1, self.mapped.inputs) / self.mapped.input_range).clamp(*dac.limits)
        blocks: dict[tuple[int, int], Tensor] = {}
        for index, tile in enumerate(self.mapped.tiles):
            sums = drive[..., slice(*tile.row)] @ getattr(self, f"now{index}").to(x.dtype)
            codes = sums / tile.output_range
            if dac.pulses == 1:  # bits are converted one by one
                codes = codes.clamp(*adc.limits)
            part = codes * adc.codes[1] * getattr(self, f"factor{index}").to(x.dtype)[:, None]
            blocks[tile.column] = blocks[tile.column] + part if tile.column in blocks else part
        return torch.cat([blocks[column] for column in sorted(blocks)], dim=-1).reshape(*x.shape[:-1], -1)

    def _fast(self, x: Tensor, y: Tensor, chip: int, first: int, abreast: bool) -> None:
        """The formula of the class on codes: x (samples, inputs) -> y (samples, outputs) of one chip, in place.

        `first`: the number of the first product, in its stream; `abreast`: each is in one of its own.
        """
        dac, adc = self.chip.dac, self.chip.adc
        drives = dac.drives(dac.transfer(x, self.mapped.input_range))
        for index, tile in enumerate(self.mapped.tiles):
            weight, variance = getattr(self, f"weight{index}")[chip], getattr(self, f"variance{index}")
            offset, inl = getattr(self, f"offset{index}"), getattr(self, f"inl{index}")
            spread = self._spread(index)
            for pulse, (drive, share) in enumerate(drives):
                part = drive[:, slice(*tile.row)]
                if variance is not None:
                    codes = x.new_empty(len(x), weight.shape[1])
                    codes.normal_(generator=self._generator(x.device, chip))
                    codes.mul_((part.square() @ variance[chip]).add_(spread**2).sqrt_()).addmm_(part, weight)
                elif spread > 0:
                    codes = x.new_empty(len(x), weight.shape[1])
                    codes.normal_(0.0, spread, generator=self._generator(x.device, chip))
                    codes.addmm_(part, weight)
                else:
                    codes = part @ weight
                if self._moving is not None:
                    moved = self._moving.sums(part, chip, index, tile, first, abreast=abreast)
                    if moved is not None:
                        codes += moved * torch.from_numpy(self._units[index][chip].astype(np.float32)).to(x.device)
                if offset is not None:
                    codes += offset[chip]
                if inl is not None:
                    codes += _looked_up(inl[chip], codes, adc.codes)
                self._decode(index, chip, adc.convert_(codes), y, share * self._drive_share, first=pulse == 0)

    @property
    def _drive_share(self) -> float:
        """Full scales of the input that a unit of a pulse's share stands for."""
        return self.chip.dac.step if self.chip.dac.encoding == "bit-serial" else 1.0

    def _decode(self, index: int, chip: int, codes: Tensor, y: Tensor, share: float, *, first: bool) -> None:
        """Digital side of tile `index`: add its ADC codes, scaled, to y; the first of a column brings the bias."""
        tile = self.mapped.tiles[index]
        factor, out = getattr(self, f"factor{index}")[chip], y[:, slice(*tile.column)]
        factor = factor if share == 1.0 else factor * share
        if tile.row[0] > 0 or tile.slice > 0 or not first:
            out.addcmul_(codes, factor)
        elif self.bias is None:
            torch.mul(codes, factor, out=out)
        else:
            torch.addcmul(self.bias[slice(*tile.column)], codes, factor, out=out)

    def _generator(self, device: torch.device, chip: int) -> torch.Generator:
        if (device, chip) not in self._generators:
            self._generators[device, chip] = torch.Generator(device).manual_seed(self._seeds[chip])
        return self._generators[device, chip]

    def _aihwkit(self, x: Tensor, y: Tensor) -> None:
        """The same through aihwkit's tiles, whose outputs are ADC code times step."""
        dac = self.chip.dac
        with GLOBAL, single_precision(), torch.random.fork_rng(devices=[]):
            if self._global_state is None:
                torch.default_generator.manual_seed(self._seeds[0])
            else:
                torch.set_rng_state(self._global_state)
            for chip, tiles in enumerate(self._tiles):
                if dac.pulses == 1:
                    drives = [(x[chip] / self.mapped.input_range, 1.0)]
                else:
                    drives = dac.drives(dac.transfer(x[chip], self.mapped.input_range))
                for index, (tile, part) in enumerate(zip(tiles, self.mapped.tiles, strict=True)):
                    for pulse, (drive, share) in enumerate(drives):
                        out = tile.forward(drive[:, slice(*part.row)].contiguous(), is_test=True)
                        codes = torch.round(out * (self.chip.adc.codes[1] / part.output_range))
                        self._decode(index, chip, codes, y[chip], share * self._drive_share, first=pulse == 0)
            self._global_state = torch.get_rng_state()

    def extra_repr(self) -> str:
        """One line for `print(model)`."""
        of = self.programmed
        state = "ideal" if of is None else f"chip {', '.join(map(str, of.chips))}, time {self.time}"
        return f"{self.mapped.inputs}, {self.mapped.outputs}, tiles={len(self.mapped.parts)}, {state}"


def _cut(part: tuple[tuple[int, int], tuple[int, int]]) -> tuple[slice, slice]:
    """The rows and columns of a part."""
    return slice(*part[0]), slice(*part[1])


def _looked_up(table: Tensor, signal: Tensor, codes: tuple[int, int]) -> Tensor:
    """table (columns, codes) at the codes next to `signal` (samples, columns)."""
    place = signal.round().clamp_(*codes).sub_(codes[0]).to(torch.int64)
    return table.T.gather(0, place)
