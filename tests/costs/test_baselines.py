"""Digital machines on the same model: one matrix of 3 x 4 by hand on each, and what must hold for all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imc_ssm.chip import Deployment, compile
from imc_ssm.costs import BASELINES, Work, baseline_cost, baseline_names, compare, load_baseline
from imc_ssm.costs.baselines import DigitalAccelerator, Microcontroller, SystolicArray
from imc_ssm.devices.constants import load_constants
from imc_ssm.errors import ConfigError, DesignError
from imc_ssm.graph import Graph, Matrix, Recurrence
from imc_ssm.pricing.intervals import nominal

Factory = Callable[..., Deployment]
STEPS = 10


@pytest.fixture(scope="module")
def whole(deployment: Factory) -> Deployment:
    """4 heads, 3 complex states each, 10 steps."""
    return deployment(steps=STEPS)


@pytest.fixture(scope="module")
def matrix(whole: Deployment) -> Work:
    """The encoder alone, 3 inputs and 4 outputs: 12 products a step."""
    work = Work.of(whole)
    source, encoder, *_ = work.graph
    assert isinstance(encoder, Matrix)
    return replace(work, graph=Graph((source, encoder)))


W, X, SUM, SCALED = 9, 9, 20, 45
"""Bits: 8 and a zero point, of weights and inputs; sums of 3 products of 18; these by 24, and a bias."""


def priced(machine: str | Any, work: Work) -> tuple[Any, Any]:
    """The bill of a machine at nominal constants, and these."""
    own = load_baseline(machine) if isinstance(machine, str) else machine
    k = nominal({**load_constants().entries, **own.constants()})
    return own.bill(work, k), k


def held(work: Work) -> dict[str, int]:
    """Bits in the memories: 12 weights; 4 biases as long as their sums, constants of 4 outputs and 3 inputs; 4
    outputs."""
    assert {work.formats.bits(signal.name) for op in work.graph for signal in (*op.inputs, op.output)} == {8}
    return {"weights": 12 * 8, "coefficients": 4 * SCALED + (4 + 3) * 30, "activations": 4 * 8}


def arithmetic(work: Work, k: Any) -> float:
    """J of a step: 3 inputs brought to one scale, 12 products and sums, 4 requantized, 4 sums with the bias."""
    table = work.digital
    products = (3 * X * 24 + 12 * W * X + 4 * SUM * 24) / 64
    summed = 12 * SUM + 4 * SCALED
    joules = products * table.multiply.energy.value + summed / 8 * table.add.energy.value
    return k.logic_spread * (joules + summed * table.flip_flop.energy.value)


def cycle_of(work: Work) -> float:
    """s: the clock of 1 GHz or the slowest stage."""
    table = work.digital
    return max(1e-9, *(part.latency.value for part in (table.multiply, table.add, table.flip_flop, table.lookup)))


def test_one_matrix_on_lanes_by_hand(matrix: Work) -> None:
    """8 lanes of 8-bit weights need one port of 64 bits; coefficients are in a bank for each of 8 lanes."""
    machine = load_baseline("digital").with_(lanes=8, unit=8)
    bill, k = priced(machine, matrix)
    bits, table = held(matrix), matrix.digital
    small = table.sram[0]
    assert bill.energy_step["products"] == pytest.approx(arithmetic(matrix, k), rel=1e-12, abs=0)
    inputs = 3 * 8
    joules = (bits["weights"] + bits["coefficients"] + inputs) * small.read.value
    joules += bits["activations"] * small.write.value
    assert bill.energy_step["memories"] == pytest.approx(joules, rel=1e-12, abs=0)
    control = k.control * (arithmetic(matrix, k) + joules)
    assert bill.energy_step["control"] == pytest.approx(control, rel=1e-12, abs=0)
    assert bill.matrices == pytest.approx(STEPS * (arithmetic(matrix, k) + joules + control), rel=1e-12, abs=0)
    # 12 products on 8 lanes, 3 and 4 products on 8 of the unit: 3 cycles; accesses of 64 bits, and of 8 x 64
    assert bill.latency_step["products"] == pytest.approx(3 * cycle_of(matrix), rel=1e-12, abs=0)
    accesses = math.ceil(bits["weights"] / 64) + math.ceil(bits["coefficients"] / 512)
    accesses += math.ceil((inputs + bits["activations"]) / 64)
    assert bill.latency_step["memories"] == pytest.approx(accesses * small.latency.value, rel=1e-12, abs=0)
    assert bill.energy["products"] == pytest.approx(STEPS * bill.energy_step["products"], rel=1e-12, abs=0)
    assert bill.memory == sum(bits.values())
    area = sum(table.memory(bits[name]).area for name in ("weights", "activations"))
    area += 8 * table.memory(math.ceil(bits["coefficients"] / 8)).area
    assert bill.area["memories"] == pytest.approx(area, rel=1e-12, abs=0)
    lane = W * X / 64 * table.multiply.area.value
    lane += SUM / 8 * table.add.area.value + SUM * table.flip_flop.area.value
    assert bill.area["products"] == pytest.approx(8 * lane, rel=1e-12, abs=0)


def test_one_matrix_in_registers_by_hand(matrix: Work) -> None:
    """No bit of the weights leaves a memory: each is one access to a register, and a register's area."""
    bill, k = priced("digital-registers", matrix)
    weights = held(matrix)["weights"]
    assert bill.energy_step["products"] == pytest.approx(
        arithmetic(matrix, k) + weights * matrix.digital.flip_flop.energy.value, rel=1e-12, abs=0
    )
    read, _ = priced("digital", matrix)
    assert read.energy_step["memories"] - bill.energy_step["memories"] == pytest.approx(
        weights * matrix.digital.sram[0].read.value, rel=1e-12, abs=0
    )
    more = bill.area["products"] - read.area["products"]
    assert more == pytest.approx(weights * matrix.digital.flip_flop.area.value, rel=1e-12, abs=0)
    assert bill.memory == read.memory


def test_one_matrix_on_a_systolic_array_by_hand(matrix: Work) -> None:
    """2 x 2 elements, 3 x 4 weights: four folds, none of which stays."""
    bits = 8
    machine = load_baseline("systolic").with_(rows=2, columns=2)
    bill, k = priced(machine, matrix)
    cycle, register = cycle_of(matrix), matrix.digital.flip_flop.energy.value
    # a fold: 2 to load, 2 + 2 - 2 to fill and drain, 1 to stream; 7 slots beside it on 2 lanes
    assert bill.latency_step["products"] == pytest.approx((4 * 5 + 4) * cycle, rel=1e-12, abs=0)
    moved = 12 * X + 12 * bits * 1.5  # inputs through each element; weights through 1.5 of 2 on the way in
    assert bill.energy_step["products"] == pytest.approx(
        arithmetic(matrix, k) + moved * register, rel=1e-12, abs=0
    )
    assert bill.utilisation == pytest.approx(12 * STEPS * cycle / (4 * bill.total("latency")), rel=1e-12, abs=0)
    # ten steps with weights once loaded
    blocked, _ = priced(machine.with_(block=10), matrix)
    assert blocked.latency_step["products"] == pytest.approx((4 * (4 + 10) / 10 + 4) * cycle, rel=1e-12, abs=0)
    assert bill.energy_step["memories"] - blocked.energy_step["memories"] == pytest.approx(
        0.9 * 12 * bits * matrix.digital.sram[0].read.value, rel=1e-12, abs=0
    )
    # and the outputs of nine more steps in the buffer
    assert blocked.memory - bill.memory == 9 * 4 * 8
    # four arrays hold all: nothing is loaded
    kept, _ = priced(machine.with_(arrays=4), matrix)
    assert kept.latency_step["products"] == pytest.approx((3 + 1) * cycle, rel=1e-12, abs=0)
    assert kept.energy_step["products"] == pytest.approx(
        arithmetic(matrix, k) + 12 * X * register, rel=1e-12, abs=0
    )


def test_one_matrix_on_a_core_by_hand(matrix: Work) -> None:
    """12 products of the library; per input a constant read and a product; per output a constant read, a product,
    a bias of two words read and added, a store."""
    bill, k = priced("microcontroller", matrix)
    scalar = 3 * (k.access + k.instruction)
    scalar += 4 * (k.access + k.instruction + 2 * k.access + 2 * k.instruction + k.access)
    spent = 12 * k.mac + k.overhead * scalar
    assert bill.total("latency_step") == pytest.approx(spent / k.clock, rel=1e-12, abs=0)
    assert bill.total("energy_step") == pytest.approx(spent * k.cycle_energy, rel=1e-12, abs=0)
    assert bill.area["memories"] == pytest.approx(sum(held(matrix).values()) * k.memory_bit, rel=1e-12, abs=0)


@pytest.mark.parametrize("name", baseline_names())
def test_each_machine_pays_for_work_and_words(name: str, deployment: Factory, whole: Deployment) -> None:
    base = baseline_cost(whole, name)
    again = baseline_cost(replace(whole, steps=2 * STEPS), name)
    once = base["energy_total"] - STEPS * base["energy_step_total"]
    if getattr(load_baseline(name), "block", 1) == 1:  # a longer sequence: the same but for the mean's wider sum
        assert np.allclose(again["energy_step_total"], base["energy_step_total"], rtol=0.02, atol=0)
    assert (again["energy_total"] > base["energy_total"]).all()
    assert (abs(once) < 0.2 * base["energy_total"]).all()
    wide = baseline_cost(deployment(steps=STEPS, heads=8), name)
    long = baseline_cost(deployment(steps=STEPS, bits={"mixing": 16, "state": 16}), name)
    for more in (wide, long):
        assert (more["energy_total"] > base["energy_total"]).sel(bound="nominal")
        assert (more["area_total"] > base["area_total"]).all()
        assert float(more["memory_total"]) > float(base["memory_total"])
    assert (wide["latency_total"] >= base["latency_total"]).all()
    for part in ("energy", "energy_step", "latency", "latency_step", "area"):
        assert np.allclose(
            base[part].sel(bound="nominal").sum("component"),
            base[f"{part}_total"].sel(bound="nominal"),
            rtol=1e-12,
            atol=0,
        )
        low, middle, high = (base[part].sel(bound=bound) for bound in ("low", "nominal", "high"))
        assert bool((low <= middle).all())
        assert bool((middle <= high).all())
    assert 0 < float(base["utilisation"].max()) <= 1


def test_more_lanes_are_never_slower(whole: Deployment) -> None:
    machine = load_baseline("digital")
    for field in ("lanes", "unit"):
        changed = (machine.with_(**{field: n}) for n in (1, 2, 7, 32, 1024))
        times = [float(baseline_cost(whole, own)["latency_total"][1]) for own in changed]
        assert times == sorted(times, reverse=True)
        assert times[0] > times[-1]


def test_a_wider_port_is_never_slower_and_banks_spend_less(deployment: Factory) -> None:
    model, machine = deployment(steps=4, heads=64, states=16), load_baseline("digital").with_(unit=1)

    def of(name: str, **fields: int) -> float:
        return float(baseline_cost(model, machine.with_(**fields))[f"{name}_total"][1])

    assert of("latency", port=256) < of("latency", port=64) < of("latency", port=8)
    assert of("latency", bank=8192) < of("latency", bank=10**6)
    assert of("energy", bank=8192) < of("energy", bank=10**6)


@pytest.mark.parametrize("edge", [1, 3, 8, 64])
@pytest.mark.parametrize("block", [1, 5, 1000])
def test_a_systolic_array_is_used_by_one_over_its_fill(matrix: Work, edge: int, block: int) -> None:
    bill, _ = priced(load_baseline("systolic").with_(rows=edge, columns=edge, block=block), matrix)
    assert 0 < bill.utilisation <= 1
    if block == 1:
        assert bill.utilisation <= 1 / (2 * edge)


def test_states_in_the_elements_are_read_from_no_memory(whole: Deployment) -> None:
    """An array that holds the states; one too small for them reads as the vector unit does."""
    work = Work.of(whole)
    last = next(i for i, op in enumerate(work.graph) if isinstance(op, Recurrence))
    scan = replace(work, graph=Graph(tuple(work.graph)[: last + 1]))
    vector, _ = priced(load_baseline("systolic"), scan)
    inside, _ = priced(load_baseline("epochcore"), scan)
    small, _ = priced(load_baseline("epochcore").with_(rows=2, columns=2), scan)
    assert inside.energy_step["memories"] < 0.3 * vector.energy_step["memories"]
    vector, _ = priced(load_baseline("systolic").with_(rows=2, columns=2), scan)
    assert small.energy_step["memories"] == pytest.approx(vector.energy_step["memories"], rel=1e-12, abs=0)


def test_the_chip_stands_beside_them(whole: Deployment) -> None:
    ds = compare(whole, ["digital", "microcontroller"])
    assert ds["machine"].values.tolist() == [whole.design.name, "digital", "microcontroller"]
    assert set(ds["energy_total"].dims) == {"machine", "bound"}
    assert float(ds["energy"].sel(machine=whole.design.name, component="adc", bound="nominal")) > 0
    assert math.isnan(float(ds["energy"].sel(machine="digital", component="adc", bound="nominal")))
    totals = ds["energy_total"].sel(bound="nominal")
    assert float(totals.sel(machine="microcontroller")) > 100 * float(totals.sel(machine=whole.design.name))
    with pytest.raises(ConfigError, match="own name"):
        compare(whole, ["digital", "digital"])


def test_a_quantized_model_needs_no_chip(whole: Deployment) -> None:
    model = whole.digital()
    alone = Work.of(model, steps=STEPS, lanes=whole.design.lanes, clock=whole.design.clock.value)
    assert np.array_equal(
        baseline_cost(alone, "digital")["energy_total"], baseline_cost(whole, "digital")["energy_total"]
    )
    slow = baseline_cost(model, "digital", steps=2 * STEPS)["latency_total"]
    assert (slow > baseline_cost(model, "digital", steps=STEPS)["latency_total"]).all()
    with pytest.raises(ConfigError, match="steps"):
        baseline_cost(model, "digital")


def test_recurrences_on_tiles_are_refused(whole: Deployment) -> None:
    data = torch.randn(4, STEPS, 3)
    moved = compile(whole.digital(), "pcm-256", data, recurrence="analog")
    with pytest.raises(DesignError, match="digital"):
        Work.of(moved)


def test_machines_are_data(tmp_path: Path) -> None:
    assert {load_baseline(name).name for name in baseline_names()} == set(baseline_names())
    kinds = {"digital": DigitalAccelerator, "systolic": SystolicArray, "microcontroller": Microcontroller}
    assert kinds.items() <= BASELINES.known.items()
    with pytest.raises(DesignError, match="baseline"):
        load_baseline("digitol")
    own = tmp_path / "own.toml"
    own.write_text('type = "digitl"\n')
    with pytest.raises(ConfigError, match="digital"):
        load_baseline(own)


def test_every_constant_of_a_machine_moves_its_price(whole: Deployment) -> None:
    for name in baseline_names():
        machine = load_baseline(name)
        base, _ = priced(machine, Work.of(whole))
        for field, constant in machine.constants().items():
            up = constant.with_(value=2 * constant.value, low=0.0, high=4 * constant.value)
            changed, _ = priced(machine.with_(**{field: up}), Work.of(whole))
            totals = [(b.total("energy"), b.total("latency"), b.total("area")) for b in (base, changed)]
            assert totals[0] != totals[1], (name, field)


def test_constants_of_machines_have_ranges_and_few_are_assumed() -> None:
    found = {
        (name, field): constant
        for name in baseline_names()
        for field, constant in load_baseline(name).constants().items()
    }
    assert sum(constant.kind == "assumed" for constant in found.values()) <= 0.1 * len(found)
    for key, constant in found.items():
        assert constant.low < constant.high or constant.kind == "derived", key
