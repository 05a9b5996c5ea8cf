"""The digital building blocks as hardware (Amaranth), each with its stimuli and the integers it has to return.

Words are two's complement. A lane is one update of one complex state of the fixed-point unit in the joint order
(docs/fixed_point.md, section 3): symmetric formats, 8-bit poles, input coefficients and inputs, states of `bits`,
rounding half to even, one register of the new state behind it; coefficients, input and state come from memories.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from amaranth.back import rtlil
from amaranth.hdl import Cat, ClockDomain, Module, Mux, Signal, signed, unsigned

__all__ = ["BITS", "BLOCKS", "LANES", "Block", "make"]

BITS = (4, 6, 8, 10, 12, 16, 20, 24)
LANE_BITS = (4, 6, 8, 12, 16)
CODE = 8
"""Bits of poles, input coefficients and inputs of a lane."""
MULTIPLIER = 24
"""Bits of a requantization's multiplier, at most."""
GUARD = 8
"""Bits that an accumulator has beyond those of a product: 256 products fit."""


@dataclass(frozen=True)
class Block:
    """A block of one size.

    text        RTLIL
    stimuli     name of an input -> integers, one a cycle
    answers     name of an output -> integers; those of a cycle follow its inputs at once, or with its next clock
    edge
                where `registered`
    """

    name: str
    bits: int
    text: str
    stimuli: dict[str, list[int]]
    answers: dict[str, list[int]]
    registered: bool


def _uniform(rng: np.random.Generator, bits: int, count: int) -> list[int]:
    """All words of a length alike."""
    return [int(v) for v in rng.integers(-(1 << bits - 1), 1 << bits - 1, count)]


def _normal(rng: np.random.Generator, bits: int, count: int) -> list[int]:
    """Normally distributed codes of a symmetric format, a third of its range the deviation."""
    high = (1 << bits - 1) - 1
    return [int(v) for v in np.clip(np.rint(rng.normal(0, high / 3, count)), -high, high)]


def _finish(name, bits, module, inputs, outputs, stimuli, answers, registered) -> Block:
    ports = [*inputs, *outputs]
    if registered:
        module.domains.sync = domain = ClockDomain("sync", reset_less=True)
        ports.append(domain.clk)
    top = f"{name}_{bits}"
    text = rtlil.convert(module, ports=ports, name=top, emit_src=False)
    return Block(name, bits, text, stimuli, answers, registered)


def _add(bits: int, rng: np.random.Generator, cycles: int) -> Block:
    a, b, y = Signal(signed(bits), name="a"), Signal(signed(bits), name="b"), Signal(signed(bits + 1), name="y")
    m = Module()
    m.d.comb += y.eq(a + b)
    stimuli = {"a": _uniform(rng, bits, cycles), "b": _uniform(rng, bits, cycles)}
    answers = {"y": [p + q for p, q in zip(stimuli["a"], stimuli["b"], strict=True)]}
    return _finish("add", bits, m, [a, b], [y], stimuli, answers, False)


def _multiply(name: str, other: int | None) -> Callable[..., Block]:
    def build(bits: int, rng: np.random.Generator, cycles: int) -> Block:
        # the longer word first: Booth's recoding is of the second, and makes a row of every two of its bits
        longer, shorter = max(bits, other or bits), min(bits, other or bits)
        a, b = Signal(signed(longer), name="a"), Signal(signed(shorter), name="b")
        y = Signal(signed(longer + shorter), name="y")
        m = Module()
        m.d.comb += y.eq(a * b)
        stimuli = {"a": _uniform(rng, longer, cycles), "b": _uniform(rng, shorter, cycles)}
        answers = {"y": [p * q for p, q in zip(stimuli["a"], stimuli["b"], strict=True)]}
        return _finish(name, bits, m, [a, b], [y], stimuli, answers, False)

    return build


def _register(bits: int, rng: np.random.Generator, cycles: int) -> Block:
    a, y = Signal(signed(bits), name="a"), Signal(signed(bits), name="y", reset_less=True)
    m = Module()
    m.d.sync += y.eq(a)
    stimuli = {"a": _uniform(rng, bits, cycles)}
    return _finish("register", bits, m, [a], [y], stimuli, {"y": stimuli["a"]}, True)


def _shift(name: str, stages: int) -> Callable[..., Block]:
    def build(bits: int, rng: np.random.Generator, cycles: int) -> Block:
        a, s = Signal(signed(bits), name="a"), Signal(unsigned(stages), name="s")
        y = Signal(signed(bits), name="y")
        m = Module()
        m.d.comb += y.eq(a >> s)
        stimuli = {
            "a": _uniform(rng, bits, cycles),
            "s": [int(v) for v in rng.integers(0, min(bits, 1 << stages), cycles)],
        }
        answers = {"y": [p >> q for p, q in zip(stimuli["a"], stimuli["s"], strict=True)]}
        return _finish(name, bits, m, [a, s], [y], stimuli, answers, False)

    return build


def _accumulate(bits: int, rng: np.random.Generator, cycles: int) -> Block:
    width = 2 * bits + GUARD
    a, b, clear = Signal(signed(bits), name="a"), Signal(signed(bits), name="b"), Signal(name="clear")
    y = Signal(signed(width), name="y", reset_less=True)
    m = Module()
    m.d.sync += y.eq(Mux(clear, 0, y) + a * b)
    stimuli = {
        "a": _uniform(rng, bits, cycles),
        "b": _uniform(rng, bits, cycles),
        "clear": [int(t % 64 == 0) for t in range(cycles)],
    }
    answers, total = [], 0
    for p, q, first in zip(*stimuli.values(), strict=True):
        total = (0 if first else total) + p * q
        answers.append(total)
    return _finish("multiply_accumulate", bits, m, [a, b, clear], [y], stimuli, {"y": answers}, True)


def _round(m: Module, v: Signal, shift: Signal, bits: int, tag: str) -> Signal:
    """clamp(round(v / 2^shift)), half to even, to +-(2^(bits-1) - 1)."""
    width = len(v)
    moved = Signal(signed(width + 1), name=f"moved_{tag}")
    mask = Signal(unsigned(width), name=f"mask_{tag}")
    rest = Signal(name=f"rest_{tag}")
    rounded = Signal(signed(width + 1), name=f"rounded_{tag}")
    m.d.comb += [
        moved.eq(Cat(0, v).as_signed() >> shift),
        # what lies below the half: ones in the bits under shift - 1
        mask.eq(Cat(*(shift > k + 1 for k in range(width)))),
        rest.eq((v & mask).any()),
        rounded.eq((moved >> 1) + (moved[0] & (rest | moved[1]))),
    ]
    high = (1 << bits - 1) - 1
    out = Signal(signed(bits), name=f"clamped_{tag}")
    m.d.comb += out.eq(Mux(rounded > high, high, Mux(rounded < -high, -high, rounded)))
    return out


def half_even(v: int, shift: int) -> int:
    """round(v / 2^shift), half to even."""
    return v if shift == 0 else (v + (1 << shift - 1) - 1 + ((v >> shift) & 1)) >> shift


@dataclass(frozen=True)
class Plan:
    """Words of a lane: accumulator, multipliers (bits), and the integers that its stimuli use."""

    accumulator: int
    of_a: int
    of_b: int
    m_a: int
    m_b: int
    shift: int


def plan(bits: int) -> Plan:
    """Free scales: an accumulator of 32 bits where the pole's multiplier keeps 12 bits in it, else of 53."""
    width = 32 if bits <= 32 - CODE - 12 else 53
    of_a, of_b = min(MULTIPLIER, width - CODE - bits), min(MULTIPLIER, width - 2 * CODE + 1)
    m_a = int(0.71 * (1 << of_a))
    shift = round(np.log2(m_a * 127))
    high = (1 << bits - 1) - 1
    m_b = int(np.clip(0.23 * high * 2.0**shift / 127**2, 1, (1 << of_b) - 1))
    return Plan(width, of_a, of_b, m_a, m_b, shift)


def plan_of_shifts(bits: int) -> Plan:
    """Power-of-two scales: both products are moved left by 0 to 7, their sum right by 0 to 15."""
    exponent = np.log2(((1 << bits - 1) - 1) / 2 * 128 / 127**2)
    left_b = max(0, min(7, int(np.floor(exponent))))
    left_a = max(0, min(7, int(np.ceil(-exponent))))
    return Plan(bits + 2 * CODE, 3, 3, left_a, left_b, 7 + left_a)


def _operands(bits: int, rng: np.random.Generator, cycles: int) -> dict[str, list[int]]:
    """Codes of a lane: poles of magnitude 0.98 at all angles, everything else normal."""
    poles = 0.98 * np.exp(1j * rng.uniform(0, np.pi, cycles))
    return {
        "xr": _normal(rng, bits, cycles),
        "xi": _normal(rng, bits, cycles),
        "u": _normal(rng, CODE, cycles),
        "ar": [int(v) for v in np.rint(127 * poles.real)],
        "ai": [int(v) for v in np.rint(127 * poles.imag)],
        "br": _normal(rng, CODE, cycles),
        "bi": _normal(rng, CODE, cycles),
    }


def _expected(bits: int, codes: dict[str, list[int]], m_a: int, m_b: int, shift: int) -> dict[str, list[int]]:
    high = (1 << bits - 1) - 1

    def part(p: int, d: int) -> int:
        return max(-high, min(high, half_even(m_a * p + m_b * d, shift)))

    rows = list(zip(*(codes[k] for k in ("xr", "xi", "u", "ar", "ai", "br", "bi")), strict=True))
    return {
        "yr": [part(ar * xr - ai * xi, br * u) for xr, xi, u, ar, ai, br, bi in rows],
        "yi": [part(ar * xi + ai * xr, bi * u) for xr, xi, u, ar, ai, br, bi in rows],
    }


def _lane(name: str, form: str) -> Callable[..., Block]:
    def build(bits: int, rng: np.random.Generator, cycles: int) -> Block:
        words = plan_of_shifts(bits) if form == "shifts" else plan(bits)
        width = words.accumulator
        codes = _operands(bits, rng, cycles)
        m_a, m_b = (words.m_a, words.m_b) if form != "shifts" else (1 << words.m_a, 1 << words.m_b)
        answers = _expected(bits, codes, m_a, m_b, words.shift)
        constant = {"shift": [words.shift] * cycles}
        of_a, of_b = CODE, CODE
        if form == "folded":
            codes |= {k: [m_a * v for v in codes[k]] for k in ("ar", "ai")}
            codes |= {k: [m_b * v for v in codes[k]] for k in ("br", "bi")}
            of_a, of_b = min(CODE + MULTIPLIER, width - bits), min(CODE + MULTIPLIER, width - CODE + 1)
        else:
            constant |= {"ma": [words.m_a] * cycles, "mb": [words.m_b] * cycles}
        widths = {"xr": bits, "xi": bits, "u": CODE, "ar": of_a, "ai": of_a, "br": of_b, "bi": of_b}
        s = {k: Signal(signed(w), name=k) for k, w in widths.items()}
        stages = 4 if form == "shifts" else (width - 1).bit_length()
        fixed = {"shift": Signal(unsigned(stages), name="shift")}
        if form != "folded":
            fixed |= {"ma": Signal(unsigned(words.of_a), name="ma"), "mb": Signal(unsigned(words.of_b), name="mb")}
        m = Module()
        outputs = []
        p = {"r": s["ar"] * s["xr"] - s["ai"] * s["xi"], "i": s["ar"] * s["xi"] + s["ai"] * s["xr"]}
        for part in ("r", "i"):
            v = Signal(signed(width), name=f"v_{part}")
            d = s[f"b{part}"] * s["u"]
            if form == "folded":
                m.d.comb += v.eq(p[part] + d)
            else:
                product = Signal(signed(bits + CODE), name=f"p_{part}")
                m.d.comb += product.eq(p[part])
                if form == "shifts":
                    m.d.comb += v.eq((product << fixed["ma"]) + (d << fixed["mb"]))
                else:
                    m.d.comb += v.eq(product * fixed["ma"] + d * fixed["mb"])
            y = Signal(signed(bits), name=f"y{part}", reset_less=True)
            m.d.sync += y.eq(_round(m, v, fixed["shift"], bits, part))
            outputs.append(y)
        inputs = [*s.values(), *fixed.values()]
        return _finish(name, bits, m, inputs, outputs, codes | constant, answers, True)

    return build


BLOCKS: dict[str, Callable[..., Block]] = {
    "add": _add,
    "multiply": _multiply("multiply", None),
    "multiply_8": _multiply("multiply_8", 8),
    "multiply_24": _multiply("multiply_24", 24),
    "register": _register,
    "shift_3": _shift("shift_3", 3),
    "shift_5": _shift("shift_5", 5),
    "multiply_accumulate": _accumulate,
    "lane_folded": _lane("lane_folded", "folded"),
    "lane_multiplied": _lane("lane_multiplied", "multiplied"),
    "lane_shifts": _lane("lane_shifts", "shifts"),
}
LANES = tuple(name for name in BLOCKS if name.startswith("lane"))


def sizes(name: str) -> tuple[int, ...]:
    """Word lengths of a block."""
    return LANE_BITS if name in LANES else BITS


def make(name: str, bits: int, seed: int, cycles: int) -> Block:
    """A block with `cycles` stimuli of a seed."""
    return BLOCKS[name](bits, np.random.default_rng([seed, list(BLOCKS).index(name), bits]), cycles)
