"""A whole recurrence on crossbar tiles: A, B, C and D of a head as one block, its scales, its ranges, its actions.

With the real parts and the imaginary parts of a head's complex states as numbers of their own, one step is one
product; the columns of a block are the new states and the output, its rows the old states and the input:

    [x[t]]   [ A      B   ] [x[t-1]]        A: blocks [re -im; im re], one a complex state
    [y[t]] = [ C A  C B+D ] [ u[t] ]        C: 2 re, -2 im of c

The output comes out of the same product as the new states, from the old ones: one conversion of every row and
every column a step, and the output does not see the rounding of the states that it belongs to. Everything else on
a tile is zero: pairs of devices at g_min, whose noise is added to every column.

Row i is driven with d_i = x_i / r_i, where the range r_i of its register is the largest value in calibration;
column j is x_j / r_j. So the weights are W_ji r_i / r_j, near one whatever the magnitude of a state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imc_ssm.chip.layout import layout_of
from imc_ssm.chip.mapping import Floats, MappedMatrix, map_matrix, with_output_ranges
from imc_ssm.devices import Chip
from imc_ssm.errors import ConfigError, DataError, DesignError, brief, shown
from imc_ssm.fixedpoint.requantization import CONSTANT_BITS, MULTIPLIER_BITS
from imc_ssm.graph import Action, Formats, Graph, Operator, Recurrence, Scale, Stored
from imc_ssm.graph.actions import Actions
from imc_ssm.kernels import full_scale
from imc_ssm.units import whole

__all__ = [
    "HeadPart",
    "MappedRecurrence",
    "OnCrossbar",
    "map_recurrence",
    "parts_on_tiles",
    "recurrences",
    "with_recurrences",
]

Numbers = npt.NDArray[Any]
SAMPLES = 4096
"""Vectors that give a tile's activity, and its ADC's ranges where weights or inputs come in pieces."""
_FINEST = 2.0**-12
"""Smallest range of a register, of its head's widest: one that hardly moves needs no large weights."""


@dataclass(frozen=True)
class HeadPart:
    """States of one head on a tile, with the head's input and their share of its output."""

    head: int
    """The head."""
    states: tuple[int, int]
    """Half-open range of its complex states: all of them, unless a tile is too small."""
    start: int
    """First row, and column, on the tile: re and im of the states in turn, last the input, and output."""

    @property
    def size(self) -> int:
        """Rows, and columns."""
        return 2 * (self.states[1] - self.states[0]) + 1


def parts_on_tiles(
    heads: int, states: int, chip: Chip, heads_per_tile: int = 1
) -> tuple[tuple[HeadPart, ...], ...]:
    """What sits on each tile: so many heads in its diagonal blocks, or, where one is too large, a part of it.

    The states of a head do not act on one another, so that a head may be cut anywhere; the parts of its output are
    added in digital. Raises `ConfigError` for more heads than a tile has room for.
    """
    heads_per_tile = whole(heads_per_tile, "heads_per_tile", least=1)
    room = min(chip.design.rows, chip.design.columns // chip.design.slices)
    most = (room - 1) // 2
    if most < 1:
        raise DesignError(f"design {chip.design.name!r}: a state takes a tile of 3 x 3, it has {room}")
    pieces = -(-states // most)
    size = 2 * states + 1
    if heads_per_tile > 1 and heads_per_tile * size > room:
        raise ConfigError(
            f"heads_per_tile = {heads_per_tile}: a head of {states} complex states takes {size} rows and columns, "
            f"a tile of {chip.design.name!r} has {room}; give at most {max(room // size, 1)}"
        )
    ends = [states * i // pieces for i in range(pieces + 1)]
    cut = [(head, span) for head in range(heads) for span in pairwise(ends)]
    tiles = (cut[i : i + heads_per_tile] for i in range(0, len(cut), heads_per_tile))
    return tuple(tuple(HeadPart(h, span, i * size) for i, (h, span) in enumerate(tile)) for tile in tiles)


@dataclass(frozen=True, eq=False)
class MappedRecurrence:
    """The recurrence of a layer as it will be programmed."""

    name: str
    """For people."""
    module: str
    """Dotted path of the layer."""
    heads_per_tile: int
    """Heads that share a tile."""
    drive: Floats
    """(heads,): DAC full scale of each head's input."""
    registers: Floats
    """(heads, states, 2): full scale of the register of each real and imaginary part."""
    matrices: tuple[MappedMatrix, ...]
    """One a tile; inputs and states in full scales, outputs in units of the signal."""
    parts: tuple[tuple[HeadPart, ...], ...]
    """What each tile holds."""

    __repr__ = brief

    def __post_init__(self) -> None:
        """`DesignError` for arrays that no mapping makes."""
        what = f"recurrence {shown(self.name)}"
        heads, _, *pair = self.registers.shape
        if pair != [2] or self.drive.shape != (heads,):
            raise DesignError(f"{what}: its ranges are {shown(self.drive)} and {shown(self.registers)}")
        for array in (self.drive, self.registers):
            if not (np.isfinite(array).all() and (array > 0).all()):
                raise DesignError(f"{what}: its ranges are {shown(array)}; each must be more than 0")
        sizes = [sum(part.size for part in tile) for tile in self.parts]
        if [m.target.shape for m in self.matrices] != [(n, n) for n in sizes]:
            raise DesignError(f"{what}: its blocks are {shown([m.target.shape for m in self.matrices])}")

    @property
    def heads(self) -> int:
        """Number of heads."""
        return len(self.drive)

    @property
    def states(self) -> int:
        """Complex states of each head."""
        return int(self.registers.shape[1])

    def used(self, chip: Chip) -> float:
        """Share of the tiles' pairs of devices that hold a weight that is not zero."""
        held = sum(int(np.count_nonzero(m.target)) for m in self.matrices)
        return held / (len(self.matrices) * chip.design.rows * chip.design.columns)


@dataclass(frozen=True, eq=False)
class OnCrossbar(Operator):
    """x[t] = a x[t-1] + b u[t], y[t] = 2 Re(sum_n c x[t]) + D u[t] of every head in one product on tiles.

    Per step every register goes through a DAC, every column through an ADC; its code, scaled by one number (weight
    scale, converter range, drift compensation), is the register's next code or the output's.
    """

    mapped: MappedRecurrence
    """What sits on the tiles."""
    chip: Chip
    """What it is made of."""

    @property
    def matrices(self) -> tuple[MappedMatrix, ...]:
        """One a tile, read at once."""
        return self.mapped.matrices

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        at, mapped, dac = Actions(self.rate), self.mapped, self.chip.dac.bits
        heads, words = mapped.heads, mapped.registers.size
        shares = sum(len(tile) for tile in mapped.parts)
        out = [
            self._read(at, formats),
            at.read("coefficients", heads, CONSTANT_BITS, "requantization of the inputs"),
            at.multiply(heads, self._centred(formats), MULTIPLIER_BITS, "requantize the inputs"),
            at.read("state", words, dac, "state"),
            *_merged(action for m in self.matrices for action in m.product_actions(self.chip)),
            at.write("state", words, dac, "state"),
        ]
        if shares > heads:
            width = max(m.sum_bits(self.chip) for m in self.matrices)
            out += at.add(shares - heads, width, "parts of the outputs")
        return [*out, self._write(at, formats, steps)]

    def _constants(self, formats: Formats) -> list[Stored]:
        columns = sum(m.scaled for m in self.matrices)
        return [
            Stored("requantization", self.mapped.heads + columns, CONSTANT_BITS),
            Stored("state", self.mapped.registers.size, self.chip.dac.bits),
        ]


def _merged(actions: Iterable[Action]) -> list[Action]:
    """Equal actions of several tiles as one with their counts."""
    merged: dict[Action, Action] = {}
    for action in actions:
        key = replace(action, count=0, slots=0)
        old = merged.get(key, key)
        merged[key] = replace(action, count=old.count + action.count, slots=old.slots + action.slots)
    return list(merged.values())


def recurrences(graph: Graph) -> list[tuple[Recurrence, Scale]]:
    """The recurrences of a graph that fit one crossbar: those of S4D, each with the D u that is added to it."""
    return [
        (op, other)
        for op in graph
        if isinstance(op, Recurrence)
        for other in graph.of_module(op.module)
        if isinstance(other, Scale) and other.inputs == (op.output, *op.inputs)
    ]


def with_recurrences(graph: Graph, mapped: Mapping[str, MappedRecurrence], chip: Chip) -> Graph:
    """The graph with `OnCrossbar` in the place of what it computes; `DesignError` unless all modules are in it."""
    found = {first.module: (first, last) for first, last in recurrences(graph)}
    lost = {m: (r.heads, r.states) for m, r in mapped.items()}
    if lost != {m: (found[m][0].heads, found[m][0].states) for m in lost if m in found}:
        raise DesignError(f"its recurrences are {shown(lost)}, not those of the model")
    operators: list[Operator] = []
    for op in graph:
        pair = found.get(op.module) if op.module in mapped else None
        if pair is not None and op is pair[0]:
            continue
        if pair is not None and op is pair[1]:
            first, last = pair
            op = OnCrossbar(first.name, first.module, first.inputs, last.output, mapped[op.module], chip)
        operators.append(op)
    return Graph(tuple(operators))


def in_force(formats: Formats, graph: Graph) -> Formats:
    """The formats of what there is in a graph: a recurrence on tiles has none for its coefficients and states."""
    there = graph.kinds()
    return Formats({path: fmt for path, fmt in formats.items() if path in there})


@torch.no_grad()
def map_recurrence(
    name: str,
    module: str,
    coefficients: tuple[Tensor, Tensor, Tensor, Tensor],
    u: Tensor,
    mask: Tensor | None,
    chip: Chip,
    *,
    heads_per_tile: int = 1,
    input_percentile: float = 99.5,
    output_percentile: float = 99.99,
) -> MappedRecurrence:
    """Put a, b, c (heads, states), complex, and D (heads,) on tiles of `chip`.

    `u` (batch, time, heads) and `mask` (batch, time) are the layer's inputs in calibration: they fix the DAC's
    full scale of each head (`input_percentile` % of the magnitudes), each register's (the largest magnitude that
    its state takes when the clipped inputs run through the recurrence in full precision: what a register loses by
    saturating stays lost for 1 / (1 - |a|) steps), and the range of each output (`output_percentile` %).

    All columns of a tile share the ADC's range: the widest that one of its states needs. An output that needs more
    has smaller conductances.

    Raises `DataError` for states that are not finite or inputs that are all zero, `ConfigError` and `DesignError`
    as `parts_on_tiles`, `DesignError` for a DAC without a sign.
    """
    if not chip.dac.signed:
        raise DesignError(
            f"design {chip.design.name!r}: a DAC of type {chip.dac.type!r} has no sign, which states have; use "
            "recurrence 'digital', or another DAC"
        )
    a, b, c, d = (z.detach().resolve_conj().cpu() for z in coefficients)
    heads, states = a.shape
    parts = parts_on_tiles(heads, states, chip, heads_per_tile)
    spans = [part.states for tile in parts for part in tile if part.head == 0]
    drive = _drive(name, u, mask, input_percentile)
    run = _run(a, b, c, d, u.float().clamp(-drive, drive), mask, spans)
    if not (np.isfinite(run.largest).all() and np.isfinite(run.outputs).all()):
        raise DataError(f"the states of {name!r} are not finite in calibration; are all its poles stable?")
    widest = run.largest.max(axis=(1, 2), keepdims=True)
    registers = np.maximum(run.largest, np.where(widest > 0, _FINEST * widest, 1.0)).astype(np.float32)
    made, ranges = [z.numpy() for z in (a, b, c, d)], drive.numpy()
    matrices = []
    for index, tile in enumerate(parts):
        size = sum(part.size for part in tile)
        weight, wide = np.zeros((size, size)), np.zeros(size)
        seen = np.zeros((len(run.inputs), size), np.float32)
        for part in tile:
            h, stop = part.head, part.start + part.size
            own, at = (h, slice(*part.states)), slice(part.start, stop)
            poles, b_n, c_n = (z[own] for z in made[:3])
            direct = made[3][h] if part.states[0] == 0 else 0.0
            weight[at, at] = _block(poles, b_n, c_n, direct, registers[own], ranges[h])
            wide[stop - 1] = full_scale(
                torch.from_numpy(run.outputs[h, spans.index(part.states)]), output_percentile
            )
            states_of = run.states[:, h, slice(*part.states)] / registers[own]
            seen[:, part.start : stop - 1] = states_of.reshape(len(seen), -1)
            seen[:, stop - 1] = run.inputs[:, h] / ranges[h]
        ports = [part.start + part.size - 1 for part in tile]
        mapped = _on_tile(f"{name} {index}", f"{module}.tile{index}", weight, wide, ports, chip)
        if layout_of(chip).slices > 1 or chip.dac.pulses > 1:
            mapped = with_output_ranges(mapped, seen, chip, 100.0)
        activity = chip.dac.activity(chip.dac.transfer(torch.from_numpy(seen), 1.0))
        matrices.append(replace(mapped, input_activity=activity))
    return MappedRecurrence(name, module, heads_per_tile, ranges, registers, tuple(matrices), parts)


def _on_tile(name: str, module: str, weight: Numbers, wide: Numbers, ports: list[int], chip: Chip) -> MappedMatrix:
    """The blocks of a tile; `wide`: the ranges of the columns `ports`, which are outputs.

    A state's column reaches the end of its register where its sum is 1 / scale; the ADC's range is the largest of
    these.
    """
    scales = np.abs(weight).max(axis=1)
    own = np.delete(scales, ports)
    full = 1.0 / float(own[own > 0].min()) if own.any() else 1.0
    slices = layout_of(chip).slices
    return map_matrix(
        name, module, weight, None, chip, input_range=1.0, output_ranges=[full] * slices, least_scale=wide / full
    )


def _drive(name: str, u: Tensor, mask: Tensor | None, percentile: float) -> Tensor:
    """(heads,): the DAC's full scale of each head; the layer's where a head's inputs are all zero."""
    there = u.reshape(-1, u.shape[-1]) if mask is None else u[mask]
    shared = full_scale(there, percentile)
    if shared == 0:
        raise DataError(f"the inputs of {name!r} are zero in all calibration data; calibrate with other sequences")
    return torch.tensor(
        [full_scale(head, percentile) or shared for head in there.T.contiguous()], dtype=torch.float32
    )


@dataclass(frozen=True)
class _Run:
    """What calibration has seen of a recurrence."""

    largest: Numbers
    """(heads, states, 2): largest magnitude of each register."""
    outputs: Floats
    """(heads, parts, samples): outputs of the parts of a head, D u with the first."""
    states: Floats
    """(vectors, heads, states, 2): states before some of the steps, ..."""
    inputs: Floats
    """(vectors, heads): ... and the inputs of these steps."""


def _run(
    a: Tensor, b: Tensor, c: Tensor, d: Tensor, u: Tensor, mask: Tensor | None, spans: list[tuple[int, int]]
) -> _Run:
    """Run u (batch, time, heads) through the recurrence in full precision."""
    batch, time, heads = u.shape
    x = torch.zeros(batch, heads, a.shape[1], dtype=torch.complex64)
    largest = torch.zeros(heads, a.shape[1], 2, dtype=torch.float32)
    outputs, states, inputs = [], [], []
    there = torch.ones(batch, time, dtype=torch.bool) if mask is None else mask.cpu()
    picked = set(np.random.default_rng(0).permutation(time)[: max(1, SAMPLES // batch)].tolist())
    for t in range(time):
        rows, now = there[:, t], u[:, t]
        if not rows.any():
            continue
        if t in picked:
            states.append(torch.view_as_real(x[rows]).clone())
            inputs.append(now[rows])
        x = x.mul_(a).add_(b * now[..., None])
        largest = torch.maximum(largest, torch.view_as_real(x[rows]).abs().amax(0))
        y = torch.stack([2 * (c[:, i:j] * x[..., i:j]).real.sum(-1) for i, j in spans])
        y[0] += d * now
        outputs.append(y[:, rows])
    if not states:  # every sequence ends before
        states, inputs = [torch.view_as_real(x)], [u[:, -1]]
    samples = torch.cat(outputs, dim=1).permute(2, 0, 1).contiguous().numpy()
    return _Run(largest.double().numpy(), samples, torch.cat(states).numpy(), torch.cat(inputs).numpy())


def _block(a: Numbers, b: Numbers, c: Numbers, d: float, registers: Floats, drive: float) -> Numbers:
    """The weights of a part, (outputs, inputs): states and inputs in full scales, the output in its own units."""
    a, b, c = (np.asarray(z, np.complex128) for z in (a, b, c))
    r, n = registers.astype(np.float64), len(a)
    out, even = np.zeros((2 * n + 1, 2 * n + 1)), np.arange(0, 2 * n, 2)
    odd = even + 1
    out[even, even], out[even, odd] = a.real, -a.imag * r[:, 1] / r[:, 0]
    out[odd, even], out[odd, odd] = a.imag * r[:, 0] / r[:, 1], a.real
    out[even, -1], out[odd, -1] = b.real * drive / r[:, 0], b.imag * drive / r[:, 1]
    forward = 2 * c * a
    out[-1, even], out[-1, odd] = forward.real * r[:, 0], -forward.imag * r[:, 1]
    out[-1, -1] = (2 * (c * b).real.sum() + d) * drive
    return out
