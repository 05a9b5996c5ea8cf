"""What functions of costs are given: constants that reach every number, and one sentence for all that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from imc_ssm.chip import Deployment, compile
from imc_ssm.costs import CostPlan as Plan
from imc_ssm.costs import (
    actions_of,
    baseline_cost,
    by_layer,
    by_operator,
    compare,
    cost,
    energies,
    load_macro,
    operation_table,
    predict,
    real_time,
    schedule_of,
    stages_of,
    swings,
)
from imc_ssm.devices import Constants, load_constants, load_design, resolve
from imc_ssm.errors import ConfigError, FileError, ImcSsmError
from imc_ssm.graph import Matrix
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.pricing.intervals import nominal
from imc_ssm.pricing.tiles import tile_prices
from imc_ssm.quantization import quantize

Factory = Callable[..., Deployment]
CHANGED = {"logic_spread": 3.0, "sar_bit": 5.0, "sar_bit_time": 40.0, "utilised_area": 0.5, "leakage_32": 0.25}
"""Factors: of digital energies and times, of converters, of area, and of leakage."""


@pytest.fixture(scope="module")
def placed(deployment: Factory) -> Deployment:
    return deployment()


@pytest.fixture(scope="module")
def own_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TOML of constants that move energy, time, area and leakage."""
    shipped, path = load_constants(), tmp_path_factory.mktemp("own") / "own.toml"
    lines = []
    for name, factor in CHANGED.items():
        one, value = shipped[name], shipped[name].value * factor
        lines += [f"[{name}]", *(f"{end} = {value!r}" for end in ("value", "low", "high")), f'unit = "{one.unit}"']
        lines += ['kind = "cited"', 'holds = "here alone"', 'source = "made up for a test"']
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def own(own_file: Path) -> Constants:
    return load_constants(own_file)


TAKERS: dict[str, Callable[..., Any]] = {
    "cost": cost,
    "CostPlan": lambda d, **rest: Plan(d, **rest)().energy,
    "swings": swings,
    "by_layer": by_layer,
    "by_operator": lambda d, **rest: [list(parts.values()) for parts in by_operator(d, **rest).values()],
    "energies": lambda d, **rest: energies(d, actions_of(d), **rest),
    "compare": lambda d, **rest: compare(d, ["systolic"], **rest),
    "real_time": lambda d, **rest: real_time(d, 1e3, **rest),
    "schedule_of": lambda d, **rest: schedule_of(d, **rest).starts,
    "stages_of": lambda d, **rest: [(s.time, s.energy) for s in stages_of(d, **rest)],
    "operation_table": lambda d, **rest: _joules(operation_table(d, **rest)),
    "baseline_cost": lambda d, **rest: baseline_cost(d, "systolic", **rest),
}
ACTIVE = ("CostPlan", "cost", "swings", "by_layer", "by_operator", "energies")
"""Those that take an activity."""


def _joules(table: Any) -> list[float]:
    """J of every row of an operation table that counts for an inference."""
    cells = {column.header: list(column.cells) for column in table.columns}
    scale = {"J": 1.0, "mJ": 1e-3, "uJ": 1e-6, "nJ": 1e-9, "pJ": 1e-12, "fJ": 1e-15, "aJ": 1e-18}
    out = []
    for rate, energy in zip(cells["rate"], cells["energy"], strict=True):
        if rate != "per load":
            value, unit = energy.split()
            out.append(float(value.replace(",", "")) * scale[unit])
    return out


def same(one: Any, two: Any) -> bool:
    if isinstance(one, xr.Dataset):
        return bool(one.identical(two))
    return bool(np.array_equal(np.array(one), np.array(two)))


@pytest.mark.parametrize("name", TAKERS)
def test_constants_reach_every_function(name: str, placed: Deployment, own: Constants, own_file: Path) -> None:
    take = TAKERS[name]
    shipped, changed = take(placed), take(placed, constants=own)
    assert same(shipped, take(placed, constants=load_constants()))
    assert not same(shipped, changed)
    assert same(changed, take(placed, constants=own_file))
    assert same(changed, take(placed, constants=str(own_file)))


@pytest.mark.parametrize("given", [{}, {"logic_spread": 3.0}, 5, True, 0.5, []], ids=str)
@pytest.mark.parametrize("name", TAKERS)
def test_what_are_no_constants_is_said(name: str, given: Any, placed: Deployment) -> None:
    with pytest.raises(ConfigError, match=r"^constants = .*; give the path of a TOML") as error:
        TAKERS[name](placed, constants=given)
    assert "\n" not in str(error.value)


def test_constants_of_macros_are_checked_too(own: Constants, own_file: Path, tmp_path: Path) -> None:
    macro = load_macro("hermes")
    assert same(predict(macro, own), predict(macro, str(own_file)))
    for given in ({}, 5):
        with pytest.raises(ConfigError, match="constants = "):
            predict(macro, given)  # type: ignore[arg-type]
    with pytest.raises(FileError, match=r"none\.toml"):
        predict(macro, tmp_path / "none.toml")


def test_real_time_and_schedules_are_those_of_cost(placed: Deployment, own: Constants) -> None:
    """The same constants in time, work and area, and not in the leakage density alone."""
    ds, found = cost(placed, constants=own), real_time(placed, 1e3, constants=own)
    flow = schedule_of(placed, constants=own)
    assert float(found["period"]) == pytest.approx(float(ds["latency_longest_step"]))
    assert flow.time(placed.steps) == pytest.approx(float(ds["latency_total"]))
    work = float(ds["energy_total"] - ds["energy"].sel(component="leakage"))
    assert flow.energy(placed.steps) == pytest.approx(work, rel=1e-9, abs=0)
    shown = float(found["power"].sel(idle="on", part="work", bound="nominal")[0])
    assert shown == pytest.approx(work / placed.steps * 1e3, rel=1e-9, abs=0)
    whole = float(ds["area_total"] - ds["area"].sel(component="cells"))
    assert float(found["area_leaking"]) == pytest.approx(whole, rel=1e-9, abs=0)
    leaks = float(found["power"].sel(idle="on", part="leakage", bound="nominal")[0])
    assert leaks * float(ds["latency_total"]) == pytest.approx(float(ds["energy"].sel(component="leakage")))


def test_the_chip_of_a_comparison_has_its_matrices_at_the_same_constants(
    placed: Deployment, own: Constants
) -> None:
    one, two = (compare(placed, ["systolic"], constants=c)["energy_matrices"].isel(machine=0) for c in (None, own))
    parts = [by_operator(placed, constants=c) for c in (None, own)]
    of = [sum(sum(p.values()) for op, p in each.items() if isinstance(op, Matrix)) for each in parts]
    assert float(two.sel(bound="nominal") / one.sel(bound="nominal")) == pytest.approx(of[1] / of[0])
    assert of[1] > 1.1 * of[0]


@pytest.mark.parametrize("with_own", [False, True])
def test_rows_of_the_operation_table_add_up(with_own: bool, placed: Deployment, own: Constants) -> None:
    constants = own if with_own else None
    ds, table = cost(placed, constants=constants), operation_table(placed, constants=constants)
    assert sum(_joules(table)) == pytest.approx(float(ds["energy_total"]), rel=0.003)
    leaks = float(ds["energy"].sel(component="leakage"))
    assert leaks > 0.01 * float(ds["energy_total"])
    rows = [i for i, name in enumerate(table.columns[1].cells) if name == "leakage"]
    assert [_joules(table)[i] for i in rows] == [pytest.approx(leaks, rel=0.005)]


@pytest.mark.parametrize("given", ["x", "0.5", None, True, float("nan"), -0.1, 1.1, [0.1, 0.2], {}], ids=str)
@pytest.mark.parametrize("name", ACTIVE)
def test_a_wrong_activity_is_one_sentence(name: str, given: Any, placed: Deployment) -> None:
    with pytest.raises(ConfigError, match=r"^activity = ") as error:
        TAKERS[name](placed, activity=given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ACTIVE)
def test_numbers_of_any_library_are_activities(name: str, placed: Deployment) -> None:
    one, *others = (TAKERS[name](placed, activity=a) for a in (1, np.float32(1.0), np.int64(1), np.array(1.0)))
    assert all(same(one, other) for other in others)


@pytest.mark.parametrize("given", [None, 5, "d.safetensors", Path("d.safetensors"), "classifier"], ids=str)
@pytest.mark.parametrize("name", sorted(set(TAKERS) - {"baseline_cost", "energies"}))
def test_what_is_no_deployment_is_named(name: str, given: Any) -> None:
    """By the function that was called."""
    if given == "classifier":
        given = Classifier(ModelConfig(heads=4, n_state=4))
    with pytest.raises(ImcSsmError, match=f"^{name} takes a Deployment, not a {type(given).__name__};") as error:
        TAKERS[name](given)
    assert "\n" not in str(error.value)


def test_energies_of_no_deployment(placed: Deployment) -> None:
    with pytest.raises(ImcSsmError, match=r"^energies takes a Deployment, not a NoneType"):
        energies(None, actions_of(placed))  # type: ignore[arg-type]


def test_a_compiled_model_has_activities_of_its_own(placed: Deployment) -> None:
    """`activity` is for matrices without a calibrated one, and compiling calibrates one for each."""
    torch.manual_seed(0)
    data = torch.randn(2, 5, 3)
    model = quantize(Classifier(ModelConfig.parse({"inputs": 3, "heads": 4, "n_state": 4})), "uniform", data)
    for recurrence in ("digital", "analog"):
        compiled = compile(model, "pcm-256", data, recurrence=recurrence)
        assert cost(compiled, activity=0.0).equals(cost(compiled, activity=1.0))
    assert not cost(placed, activity=0.0).equals(cost(placed, activity=1.0))


@pytest.mark.parametrize("name", ["hermes-256", "hermes-256-single"])
def test_the_sources_of_hermes_say_how_it_is_priced(name: str) -> None:
    """Both converters by law, at the node of the digital table; the macro at its own."""
    chip = resolve(load_design(name))
    assert chip.adc.price is None
    assert chip.dac.price is None
    spec = tile_prices(chip, nominal(load_constants().entries)).spec
    assert (spec.adc, spec.dac, spec.node) == ("cco", "pulse-width", 32e-9)
    assert "by the law of widths" in chip.design.sources["dac"]
    assert "follow their laws" in chip.design.node.source
    assert load_macro("hermes").node == 14e-9
