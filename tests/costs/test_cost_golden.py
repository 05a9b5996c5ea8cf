"""One small deployment, every number worked out by hand from the published constants.

3 inputs, 4 heads, 3 complex states, 5 classes, 10 steps, tiles of 2 x 4; every part has a word length of its
own, so that a mix-up shows. All formats are asymmetric, one a head: words of n bits are kept and n + 1 are
multiplied (docs/fixed_point.md, section 6), and constants are one a channel. Nothing here calls the model's own
formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from imc_ssm.chip import Deployment
from imc_ssm.costs import cost
from imc_ssm.fixedpoint import Multipliers
from imc_ssm.graph import Recurrence

PJ, NS, UM2 = 1e-12, 1e-9, 1e-12
BITS = {
    "poles": 6,
    "b": 5,
    "c": 7,
    "d": 9,
    "state": 10,
    "biases": 11,
    "input": 3,
    "encoder": 4,
    "recurrent": 12,
    "after_d": 8,
    "gelu": 9,
    "mixing": 7,
    "glu": 6,
    "residual": 5,
    "pool": 10,
}
STEPS = 10
# Rows and columns over all tiles. encoder 3 x 4: row tiles of 2 and 1. mixing 4 x 8: 2 x 2 tiles.
# decoder 4 x 5: 2 row tiles, column tiles of 4 and 1.
ROWS = {"encoder": 2 + 1, "mixing": 4 * 2, "decoder": 4 * 2}
COLUMNS = {"encoder": 2 * 4, "mixing": 4 * 4, "decoder": 2 * (4 + 1)}


@pytest.fixture
def case(deployment: Callable[..., Deployment]) -> Deployment:
    return deployment(bits=BITS, steps=STEPS)


@pytest.fixture
def result(case: Deployment) -> xr.Dataset:
    return cost(case)


def near(value: float) -> Any:
    """Equal up to the order of sums."""
    return pytest.approx(value, rel=1e-9, abs=0)


def energy(ds: xr.Dataset, component: str, name: str = "energy") -> float:
    return float(ds[name].sel(component=component))


def test_dac_and_adc(result: xr.Dataset) -> None:
    step = ROWS["encoder"] + ROWS["mixing"]  # 11
    drive = 2 * 0.5 * 0.05 * 8 * 0.9**2  # two capacitive converters, 50 fF a bit, 0.9 V
    assert energy(result, "dac") == near((STEPS * step + ROWS["decoder"]) * drive * PJ)
    assert energy(result, "dac", "energy_step") == near(11 * drive * PJ)
    conversions = STEPS * (8 + 16) + 10
    convert = (0.24 * 8 + 0.002 * 2**8) * 0.9**2  # 240 fF a bit and 2 fF a code
    assert energy(result, "adc") == near(conversions * (convert + 0.00098) * PJ)


def test_lines_and_control(case: Deployment, result: xr.Dataset) -> None:
    """Lines as long as a tile: 8 cells of 0.1 um on a word line, 2 on each of two bit lines of a column."""
    rows, columns = (STEPS * 11 + 8), (STEPS * 24 + 10)
    gate = 1e-9 * 8 * 32e-9  # access transistors of 8 nodes, 1 fF/um
    word = 1.33 * 8 * (0.1e-6 * 0.2e-9 + gate) * 0.9**2 / 1  # an amplitude raises every line once
    bit = 2 * 2 * 0.1e-6 * 0.2e-9 * 0.2**2
    assert energy(result, "lines") == near(rows * word + columns * bit)
    share = 0.04 * sum(energy(result, name) for name in ("cells", "lines", "dac", "adc"))
    # A tile of 512 x 2048 takes 8.6 mW at 14 nm, 0.31 of it beside buffer, bus and tables; ours 8 / 2^20 of that,
    # scaled as logic, while it is read.
    scaled = (0.9559 * 0.8**2 - 0.7823 * 0.8 + 0.471) / (0.2363 * 0.8**2 - 0.09675 * 0.8 + 0.02239)
    reads = STEPS * (2 + 4) + 4
    tile = 0.31 * 8.6e-3 * scaled * 8 / 2**20 * (100e-9 + 1e-9 + 4 * 0.833e-9)
    assert energy(result, "control") == near(share + reads * tile)


def test_leakage(result: xr.Dataset) -> None:
    """516 W/m2 of everything but the cells, for as long as it takes."""
    area = float(result["area_total"]) - energy(result, "cells", "area")
    assert energy(result, "leakage") == near(516.0 * area * float(result["latency_total"]))


def test_cells(case: Deployment, result: xr.Dataset) -> None:
    """activity V^2 t G over both devices of each pair; 1 to 11 uS, 0.2 V, 100 ns, activity 1 / 9."""
    read = {}
    for matrix in case.matrices:
        plus = 1e-6 + np.maximum(matrix.target, 0) * 10e-6
        minus = 1e-6 + np.maximum(-matrix.target, 0) * 10e-6
        read[matrix.name] = 0.2**2 * 100e-9 * float((plus + minus).sum()) / 9
    step = read["encoder"] + read["mixing"]
    assert energy(result, "cells") == pytest.approx(STEPS * step + read["decoder"], rel=1e-5, abs=0)


def product(count: int, first: int, second: int) -> float:
    """Energy of products: 0.1282 pJ for 8 x 8 bits."""
    return count * first * second / 64 * 0.12820 * PJ


def total(count: int, bits: int) -> float:
    """Energy of sums and the registers that hold them: 0.01923 pJ for 8 bits, 0.00683 pJ a bit."""
    return count * bits * (0.019230 / 8 + 0.00683) * PJ


def test_digital_update(case: Deployment, result: xr.Dataset) -> None:
    (unit,) = (op for op in case.graph if isinstance(op, Recurrence))
    own = Multipliers.of(unit.plan(case.formats))  # how wide m_a, m_b and the accumulator come out
    # inputs x 24, to the DAC's grid; ADC codes of 8 bits x 24; two row tiles and a bias: 32 + ceil(log2 3) = 34
    encoder = product(3, 3 + 1, 24) + product(8, 8, 24) + total(4, 34) + total(4, 34)
    mixing = product(4, 9 + 1, 24) + product(16, 8, 24) + total(8, 34) + total(8, 34)
    decoder = product(4, 10 + 1, 24) + product(10, 8, 24) + total(5, 34) + total(5, 34)
    # 12 complex states; centred a 7, x 11, b 6, u 5, c 8 bits
    recurrence = product(48, 7, 11) + total(24, 19)  # a x, 7 + 11 + 1 bits
    recurrence += product(24, 6, 5)  # b u, 11 bits
    longer = max(own.a, own.b)  # what the multiplier of m_a and m_b takes
    recurrence += product(24, 19, longer) + product(24, 11, longer) + total(24, own.sum)
    recurrence += product(24, 8, 11) + total(24, 19 + 3)  # c x, 6 terms
    recurrence += product(4, 22, 24)
    scale = product(4, 10, 5) + product(4, 15, 24) + product(4, 13, 24) + total(4, 15 + 25)
    residual = product(4, 7, 24) + product(4, 5, 24) + total(4, 7 + 25)
    mean_step, mean_end = total(4, 6 + 4), product(4, 10, 24)
    step = encoder + recurrence + scale + mixing + residual + mean_step
    assert energy(result, "digital update", "energy_step") == near(step)
    assert energy(result, "digital update") == near(STEPS * step + mean_end + decoder)


def test_nonlinearity(result: xr.Dataset) -> None:
    """Tables of 8 to 9 bits, and 7 to the 17 of a sigmoid, by that of 16 to 16; a value of 8 bits by a sigmoid."""
    tables = (4 * (8 + 9) / 32 + 4 * (7 + 17) / 32) * 0.217 * PJ
    step = tables + product(4, 8, 17) + product(4, 25, 24)
    assert energy(result, "nonlinearity") == near(STEPS * step)


def test_memories(result: xr.Dataset) -> None:
    """All three memories are below 1 KB: 0.014 pJ a bit read, 0.0296 pJ a bit written.

    Constants of 30 bits: of the DAC's grid one an input, of D u + y and the residual two a channel, of the gate
    and the mean one. Biases are as long as the sums they are added to, 34 bits; the mean's sums have 10.
    """
    read = (3 * 3 + 3 * 30 + 8 * 30 + 4 * 34) + (4 * 4 + 24 * (6 + 5 + 7) + 12 * 30 + 24 * 10)
    read += (4 * 12 + 4 * 4 + 4 * 9 + 8 * 30) + 4 * 8 + (4 * 9 + 4 * 30 + 16 * 30 + 8 * 34) + (8 * 7 + 4 * 30)
    read += (4 * 6 + 4 * 4 + 8 * 30) + (4 * 5 + 4 * 10)
    write = 4 * 4 + 24 * 10 + 4 * 12 + 4 * 8 + 4 * 9 + 8 * 7 + 4 * 6 + 4 * 5 + 4 * 10
    step = (read * 0.014 + write * 0.0296) * PJ
    end_read = (4 * 10 + 4 * 30) + (4 * 10 + 4 * 30 + 10 * 30 + 5 * 34)
    end = (end_read * 0.014 + (4 * 10 + 5 * 34) * 0.0296) * PJ
    assert energy(result, "memories") == near(STEPS * step + end)


def test_memory_bits(result: xr.Dataset) -> None:
    parts = dict(zip(result["part"].values.tolist(), result["memory_part"].values.tolist(), strict=True))
    assert parts["parameters"] == 24 * (6 + 5 + 7) + 4 * 9 + 34 * (4 + 8 + 5)
    assert parts["requantization"] == 30 * (3 + 8 + 4 + 16 + 4 + 10 + 3 * 4 + 8 + 8 + 4 + 4)
    assert parts["state"] == 24 * 10 + 4 * 10
    assert parts["activations"] == 4 * (4 + 12 + 8 + 9 + 6 + 5 + 10) + 8 * 7 + 5 * 34
    assert float(result["memory_total"]) == sum(parts.values())


def test_movement(result: xr.Dataset) -> None:
    # to and from the tiles: codes of the converters, 8 bits
    step = (3 * 8 + 8 * 8) + (4 * 4 + 4 * 12) + (8 * 8 + 16 * 8)
    end = 8 * 8 + 10 * 8
    assert energy(result, "movement") == near((STEPS * step + end) * 0.054 * PJ)


def test_latency(result: xr.Dataset) -> None:
    """Two products a step and one at the end; 8 lanes at 1 GHz; every transfer fits the 384 wires."""
    expected = {
        "cells": (2 * STEPS + 1) * 100,
        "dac": 0,
        "adc": (2 * STEPS + 1) * (1 + 4 * 0.833),
        # encoder 15, recurrence 148, D 12, mixing 28, residual 8, mean 4 slots; at the end 4 and 19
        "digital update": STEPS * (2 + 19 + 2 + 4 + 1 + 1) + 1 + 3,
        "nonlinearity": STEPS * (1 + 1 + 1),
        # accesses, of 64 bits to activations, 8 x 64 to coefficients and states (a bank a lane): encoder 25 and
        # 466 bits; recurrence 64, 792 (2), 480; D 96 (2), 276; GELU 68 (2); mixing 92 (2), 872 (2); GLU 80 (2),
        # 120; residual 60, 240; mean 20, 80. At the end 40, 40 and 120; decoder 210 (4), 590 (2).
        "memories": (STEPS * (2 + 4 + 3 + 2 + 4 + 3 + 2 + 2) + 3 + 6) * 0.617,
        "movement": STEPS * 3 + 1,
    }
    for component, nanoseconds in expected.items():
        assert energy(result, component, "latency") == near(nanoseconds * NS), component
    assert float(result["latency_total"]) == near(math.fsum(expected.values()) * NS)


def test_area(case: Deployment, result: xr.Dataset) -> None:
    tiles = 2 + 4 + 4
    (unit,) = (op for op in case.graph if isinstance(op, Recurrence))
    widest = max(40, Multipliers.of(unit.plan(case.formats)).sum)
    bits = dict(zip(result["part"].values.tolist(), result["memory_part"].values.tolist(), strict=True))
    banks = [math.ceil((bits["parameters"] + bits["requantization"]) / 8)] * 8
    banks += [math.ceil(bits["state"] / 8)] * 8 + [bits["activations"]]
    # a stand-alone converter of 8 bits and 1.2 GS/s at 32 nm by the regression of arXiv:2404.06553, 0.15 of it
    joules = 0.5 / 10 ** ((min(213.7807 - 2.8719 * math.log(1 / 0.833e-9), 128.3068 + 3.2205 * 8) - 49.92571) / 10)
    joules *= math.exp(26.04962 + 1.88004 * math.log(32) - 2.82913 * math.log(8) - 1.4702)
    size = math.exp(
        1.34619 + 0.99328 * math.log(32) + 0.180715 * math.log(1 / 0.833e-9) + 0.299124 * math.log(joules)
    )
    expected = {
        "cells": tiles * 2 * 2 * 4 * 1e-14,
        "lines": tiles * 2 * 3540 * 32e-9**2,
        "dac": tiles * 2 * 2 * 438 * 32 / 40 * UM2,
        "adc": tiles * (0.15 * size + 4 * 0.039) * UM2,
        # widest product: requantize the gated, 25 x 24 bits; widest sum: D u + y, 40 bits, or the accumulator
        "digital update": 8 * (25 * 24 / 64 * 265 + widest / 8 * 46.4 + widest * 3.99) * UM2,
        "memories": sum(max(bank, 1024) / 8192 * 1800 for bank in banks) * UM2,  # all smaller than 1 KB
        "nonlinearity": 8 * (7 + 17) / 32 * 300 * UM2,  # the longer words of the two tables
        "movement": 0.09e-6,
    }
    expected["control"] = (1 / 0.45 - 1) * sum(expected[name] for name in ("cells", "lines", "dac", "adc"))
    for component, area in expected.items():
        assert energy(result, component, "area") == near(area), component
    assert float(result["tiles"]) == tiles
    assert float(result["devices"]) == 2 * (12 + 32 + 20)
