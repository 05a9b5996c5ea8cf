"""Products on tiles: ours, those of aihwkit's torch tile and those of aihwkit-lightning, on the same weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any
from zlib import crc32

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from imc_ssm.chip import AnalogLinear, MappedMatrix, map_matrix, with_output_ranges
from imc_ssm.devices import Chip, load_design, resolve

AIHWKIT, LIGHTNING = "aihwkit torch tile", "aihwkit-lightning"
DAY = 86400.0


@dataclass(frozen=True)
class Case:
    """One setting that both sides have."""

    other: str
    """`AIHWKIT` or `LIGHTNING`."""
    inputs: int
    outputs: int
    rows: int = 256
    """Of a tile."""
    columns: int = 512
    """Of a tile; lightning does not cut columns."""
    bits: tuple[int, int] = (8, 8)
    """Of DAC and ADC."""
    cell: str = "ideal"
    """Shipped cell that holds the weights."""
    age: float | None = None
    """Seconds after programming; None: as programmed, and for lightning the targets."""
    full: float = 2.5
    """DAC full scale, in standard deviations of the inputs."""
    percentile: float = 99.9
    """Of the column sums, at which the ADC's range ends."""
    scale: str = "column"
    """One scale a column, or one a tile."""
    noise: float = 0.04
    """Deviation of the output noise, in full-scale inputs times full-scale weights."""

    @property
    def label(self) -> str:
        """Its row in the table."""
        parts = [f"{self.inputs} x {self.outputs}"]
        if self.inputs > self.rows or self.outputs > self.columns:
            parts.append(f"tiles of {self.rows} x {self.columns}")
        parts.append(f"{self.bits[0]} and {self.bits[1]} bits")
        if self.full < 2:
            parts.append("saturated")
        if self.scale == "tile":
            parts.append("one scale a tile")
        if self.cell != "ideal":
            parts.append(f"{self.cell}, {'programmed' if self.age is None else f'{self.age:g} s'}")
        return ", ".join(parts)

    def chip(self, noise: float) -> Chip:
        """The chip of its design."""
        given = load_design("pcm-256")
        dac, adc = ({"type": "ideal", "bits": bits} for bits in self.bits)
        return resolve(
            given.with_(
                cell=self.cell,
                rows=self.rows,
                columns=self.columns,
                columns_per_adc=1,
                tiles=10_000,
                dac=dac,
                adc=adc,
                read_noise=given.read_noise.with_(value=noise),
            )
        )

    def inputs_of(self, samples: int) -> Tensor:
        """(samples, inputs), standard normal."""
        values = np.random.default_rng(self.inputs).normal(size=(samples, self.inputs))
        return torch.from_numpy(values.astype(np.float32))

    def mapped(self, chip: Chip) -> MappedMatrix:
        """A Gaussian matrix with a bias; for lightning with equal largest weights and one ADC range."""
        rng = np.random.default_rng(self.outputs)
        weight, bias = rng.normal(size=(self.outputs, self.inputs)), rng.normal(size=self.outputs)
        if self.other == LIGHTNING:
            for start in range(0, self.inputs, self.rows):
                part = weight[:, start : start + self.rows]
                part *= 3.0 / np.abs(part).max(axis=1, keepdims=True)
        weight = weight.astype(np.float32)
        made = map_matrix("m", "m", weight, bias, chip, input_range=self.full, scale=self.scale)  # type: ignore[arg-type]
        made = with_output_ranges(made, self.inputs_of(1000).numpy(), chip, self.percentile)
        if self.other == LIGHTNING:
            bound = float(np.float32(made.tiles[0].output_range))
            made = map_matrix(
                "m",
                "m",
                weight,
                bias,
                chip,
                input_range=self.full,
                scale=self.scale,  # type: ignore[arg-type]
                output_ranges=[bound] * len(made.tiles),
            )
        return made


CASES = (
    Case(AIHWKIT, 1, 16),
    Case(AIHWKIT, 16, 32),
    Case(AIHWKIT, 64, 128),
    Case(AIHWKIT, 64, 128, bits=(4, 4)),
    Case(AIHWKIT, 64, 128, bits=(6, 6)),
    Case(AIHWKIT, 64, 128, bits=(8, 6)),
    Case(AIHWKIT, 64, 128, bits=(8, 10)),
    Case(AIHWKIT, 64, 128, bits=(12, 12)),
    Case(AIHWKIT, 64, 128, full=0.5, percentile=90.0),
    Case(AIHWKIT, 100, 70, rows=48, columns=32),
    Case(AIHWKIT, 256, 256),
    Case(AIHWKIT, 512, 512, columns=256),
    Case(AIHWKIT, 64, 128, cell="pcm-nandakumar-2019"),
    Case(AIHWKIT, 64, 128, cell="pcm-nandakumar-2019", age=DAY),
    Case(AIHWKIT, 64, 128, cell="pcm-hermes-dual", age=DAY),
    Case(AIHWKIT, 64, 128, cell="reram-cmo-falcone", age=DAY),
    Case(AIHWKIT, 64, 128, cell="reram-wan-2022", age=DAY),
    Case(LIGHTNING, 16, 32),
    Case(LIGHTNING, 64, 128),
    Case(LIGHTNING, 64, 128, bits=(6, 6)),
    Case(LIGHTNING, 64, 128, bits=(8, 10)),
    Case(LIGHTNING, 64, 128, full=0.5, percentile=90.0),
    Case(LIGHTNING, 64, 128, scale="tile"),
    Case(LIGHTNING, 256, 256),
    Case(LIGHTNING, 512, 512),
)

Product = Callable[[Tensor], Tensor]


def sides(case: Case, noise: float) -> tuple[AnalogLinear, Product]:
    """Ours and the other, of the same weights; their noise is drawn from different seeds, and every case's is."""
    chip = case.chip(noise)
    mapped = case.mapped(chip)
    seed = crc32(f"{case.other} {case.label}".encode())
    ours = AnalogLinear(mapped, chip).program(seed, 0)
    if case.age is not None:
        ours.set_time(case.age)
    if case.other == LIGHTNING:
        return ours, lightning(case, mapped, noise, seed)
    # Devices of the ideal cell are the same for every seed: only the noise of the products is another one.
    theirs = AnalogLinear(mapped, chip, "aihwkit").program(seed + (case.cell == "ideal"), 0)
    if case.age is not None:
        theirs.set_time(case.age)
    return ours, theirs


def lightning(case: Case, mapped: MappedMatrix, noise: float, seed: int) -> Product:
    """aihwkit-lightning's linear layer with our ranges.

    Its DAC has `inp_res` states from -input_range to input_range, its ADC `out_res` from -bound to bound with
    bound = input_range out_bound max |w|, of each column with the clip type "per channel" (which by itself clips
    no weight), of the row tile otherwise. Noise is drawn in training mode only, divided by the root of the number
    of row tiles. Ranges stay, as nothing is learned or initialised from data.
    """
    with redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from aihwkit_lightning.nn import AnalogLinear as Lightning
        from aihwkit_lightning.simulator.configs import TorchInferenceRPUConfig, WeightClipType

    config: Any = TorchInferenceRPUConfig()
    tiles = -(-case.inputs // case.rows)
    config.mapping.max_input_size = case.rows
    ranges = config.pre_post.input_range
    ranges.enable, ranges.learn_input_range, ranges.init_value, ranges.init_from_data = True, False, case.full, 0
    io = config.forward
    io.inp_res, io.out_res = (float(2**bits - 2) for bits in case.bits)
    io.out_bound = mapped.tiles[0].output_range
    io.out_noise, io.out_noise_per_channel = noise * np.sqrt(tiles), case.scale == "column"
    if case.scale == "column":
        config.clip.type = WeightClipType.LAYER_GAUSSIAN_PER_CHANNEL
    layer = Lightning(case.inputs, case.outputs, bias=True, rpu_config=config)
    weight = torch.from_numpy((mapped.target * mapped.scale).T.copy())
    layer.set_weights_and_biases(weight, torch.from_numpy(mapped.bias))
    layer.train(noise > 0)
    generator = torch.Generator().manual_seed(seed)

    def product(x: Tensor) -> Tensor:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            result: Tensor = layer(x.clone())
            return result

    return product


def steps_of(layer: AnalogLinear) -> np.ndarray:
    """The output of one ADC code of each column, the least over row tiles."""
    mapped = layer.mapped
    out = np.full(mapped.outputs, np.inf)
    for tile, alpha in zip(mapped.tiles, layer.alphas, strict=True):
        columns = slice(*tile.column)
        step = tile.output_range / layer.chip.adc.codes[1] * mapped.input_range * mapped.scale[columns]
        out[columns] = np.minimum(out[columns], step * np.ravel(alpha))
    return out


def exact_sums(layer: AnalogLinear, x: np.ndarray) -> list[tuple[slice, np.ndarray]]:
    """Columns and column sums of each tile in ADC codes, not rounded, in double precision."""
    mapped, dac, adc = layer.mapped, layer.chip.dac, layer.chip.adc
    assert layer.programmed is not None
    weights = layer.programmed.weights(layer.time)[0].astype(np.float64)
    drive = dac.transfer(torch.from_numpy(x), mapped.input_range).double().numpy() * dac.step
    return [
        (
            slice(*tile.column),
            drive[:, slice(*tile.row)]
            @ weights[slice(*tile.row), slice(*tile.column)]
            * (adc.codes[1] / tile.output_range),
        )
        for tile in mapped.tiles
    ]


def without_noise(case: Case, samples: int) -> dict[str, float]:
    """Codes of both sides: how many differ, by how much, and how far from an edge between codes their sums lie.

    An input may lie on an edge of the DAC, where two ways to divide it give two codes: `differ_dac` counts outputs
    that differ in sequences with such an input (1e-5 of a code), `edge` is the others' distance to an ADC's edge.
    """
    ours, theirs = sides(case, 0.0)
    x = case.inputs_of(samples)
    y, z = ours(x).double().numpy(), theirs(x).double().detach().numpy()
    apart = np.abs(y - z) / steps_of(ours)
    differ = apart > 0.01
    sums = exact_sums(ours, x.numpy())
    edge, saturated, top = np.full(y.shape, np.inf), 0.0, ours.chip.adc.codes[1]
    for columns, codes in sums:
        edge[:, columns] = np.minimum(edge[:, columns], to_edge(codes))
        saturated += float((np.abs(codes) > top).mean()) / len(sums)
    drive = x.double().numpy() / case.full * ours.chip.dac.codes[1]
    on_edge = (to_edge(drive) < 1e-5).any(axis=1, keepdims=True)
    return {
        "clipped": 100 * float((x.abs() > case.full).double().mean()),
        "saturated": 100 * saturated,
        "n_outputs": y.size,
        "differ": int(differ.sum()),
        "differ_dac": int((differ & on_edge).sum()),
        "largest": float(apart[differ].max(initial=0.0)),
        "edge": float(edge[differ & ~on_edge].max(initial=0.0)),
        "rounding": float(np.abs(y - z)[~differ].max() / np.abs(y).max()),
    }


def to_edge(codes: np.ndarray) -> np.ndarray:
    """How far a signal, in codes, lies from the nearest edge between two codes."""
    return np.abs(codes - np.floor(codes) - 0.5)


@dataclass(frozen=True)
class Comparison:
    """Two samples: p of each test, and log(variance ratio) with its standard error (NaN: one value only)."""

    p: dict[str, float]
    ratio: float = np.nan
    error: float = np.nan


def with_noise(case: Case, repeats: int, places: int) -> list[Comparison]:
    """Outputs of one input again and again, at so many places (sequence, column) drawn at random."""
    ours, theirs = sides(case, case.noise)
    x = case.inputs_of(4)
    rng = np.random.default_rng(case.inputs + case.outputs)
    y, z = (
        np.concatenate([side(part).detach().double().numpy() for part in x.repeat(repeats, 1).split(4 * 250)])
        for side in (ours, theirs)
    )
    steps, out = steps_of(ours), []
    for place in rng.choice(4 * case.outputs, size=min(places, 4 * case.outputs), replace=False):
        sequence, column = divmod(int(place), case.outputs)
        one, two = (side.reshape(repeats, 4, -1)[:, sequence, column] for side in (y, z))
        out.append(compared(one, two, float(steps[column])))
    return out


def compared(one: np.ndarray, two: np.ndarray, step: float) -> Comparison:
    """Two-sample Kolmogorov-Smirnov, and the variance ratio by its logarithm, whose error the kurtosis gives.

    Values are rounded to a hundredth of `step`, below which float32 may tell equal ones apart.
    """
    one, two = (np.rint(sample / step * 100) for sample in (one, two))
    p = {"Kolmogorov-Smirnov": float(stats.ks_2samp(one, two, method="asymp").pvalue)}
    if min(one.std(), two.std()) == 0:
        return Comparison(p)
    error = np.sqrt(sum((stats.kurtosis(sample, fisher=False) - 1) / len(sample) for sample in (one, two)))
    ratio = float(np.log(one.var(ddof=1) / two.var(ddof=1)))
    return Comparison(p | {"variance ratio": float(2 * stats.norm.sf(abs(ratio) / error))}, ratio, float(error))
