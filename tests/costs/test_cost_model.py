"""Properties of the cost model: scaling, monotony, additivity, units, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_ssm.costs import COMPONENTS, cost, operation_counts, operation_table, table
from imc_ssm.errors import ConfigError, DesignError
from imc_ssm.operators import Elementwise

Factory = Callable[..., SimpleNamespace]


WORDS = (
    *("poles", "b", "c", "d", "state", "biases", "input", "encoder", "recurrent"),
    *("after_d", "gelu", "mixing", "glu", "residual", "pool"),
)


def test_steps_double_the_step_energy(deployment: Factory) -> None:
    one, two = cost(deployment(steps=8)), cost(deployment(steps=16))
    end = one["energy"] - 8 * one["energy_step"]
    # The running sum is one bit wider over 16 steps; all else is equal.
    same = [name for name in COMPONENTS if name != "digital update"]
    doubled = 2 * (one["energy"] - end).sel(component=same)
    xr.testing.assert_allclose(doubled + end.sel(component=same), two["energy"].sel(component=same))
    wider = (two["energy_step"] - one["energy_step"]).sel(component="digital update")
    assert float(wider) == pytest.approx(
        4 * (0.019230 / 8 + 0.00683) * 1e-12
    )  # one bit of four sums and registers
    assert bool((two["latency"] > one["latency"]).all())


@given(st.sampled_from(WORDS), st.integers(2, 15))
@settings(max_examples=60, deadline=None)
def test_energy_grows_with_every_word_length(deployment: Factory, part: str, bits: int) -> None:
    fewer, more = (cost(deployment(bits={part: n}))["energy_total"] for n in (bits, bits + 1))
    assert float(fewer) < float(more)


@given(heads=st.integers(1, 12), states=st.integers(1, 8), rows=st.integers(1, 9), columns=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_totals_are_sums(deployment: Factory, heads: int, states: int, rows: int, columns: int) -> None:
    ds = cost(deployment(heads=heads, states=states, rows=rows, columns=columns))
    for name in ("energy", "latency", "area", "memory"):
        assert float(ds[f"{name}_total"]) == pytest.approx(float(np.nansum(ds[name])))
    assert float(ds["energy"].min()) > 0
    assert bool((ds["energy"] > ds["energy_step"]).all())
    assert float(ds["memory_part"].sum()) == float(ds["memory"].sel(component="memories"))
    # Devices in use do not depend on how the matrices are cut.
    assert float(ds["devices"]) == 2 * (3 * heads + 2 * heads**2 + 5 * heads)


def test_smaller_tiles_cost_more_conversions(deployment: Factory) -> None:
    whole, cut = (cost(deployment(rows=rows))["energy"] for rows in (4, 2))
    assert float(cut.sel(component="adc")) == pytest.approx(2 * float(whole.sel(component="adc")))
    assert float(cut.sel(component="cells")) == pytest.approx(float(whole.sel(component="cells")))


def test_sharing_converters_trades_area_for_time(deployment: Factory) -> None:
    own, shared = (cost(deployment(columns_per_adc=n)) for n in (1, 4))
    adc = {"component": "adc"}
    assert float(own["area"].sel(adc)) > float(shared["area"].sel(adc))
    assert float(own["latency"].sel(adc)) < float(shared["latency"].sel(adc))
    assert float(own["energy"].sel(adc)) == float(shared["energy"].sel(adc))


def test_activity_scales_the_cells(deployment: Factory) -> None:
    case = deployment()
    base = cost(case, activity=0.1)["energy"]
    twice = cost(case, activity=0.2)["energy"]
    assert float(twice[0]) == pytest.approx(2 * float(base[0]))
    np.testing.assert_array_equal(twice[1:], base[1:])
    for matrix in case.matrices:
        matrix.input_activity = 0.3
    assert float(cost(case, activity=0.1)["energy"][0]) == pytest.approx(3 * float(base[0]))


def test_units_names_and_meaning(deployment: Factory) -> None:
    ds = cost(deployment())
    assert list(ds["component"].values) == list(COMPONENTS)
    for name, variable in ds.data_vars.items():
        assert variable.attrs["units"] in {"J", "s", "m2", "bit", "1"}, name
        assert variable.attrs["long_name"], name
    meaningless = [name for name in COMPONENTS if name != "memories"]
    assert bool(ds["memory"].sel(component=meaningless).isnull().all())
    for name in ("energy", "latency", "area"):
        assert bool(ds[name].notnull().all())


def test_a_layer_norm_is_counted(deployment: Factory) -> None:
    case = deployment()
    before = float(cost(case)["energy_total"])
    case.operators = (*case.operators[:7], Elementwise("norm", "layers.0", "norm", 4), *case.operators[7:])
    assert float(cost(case)["energy_total"]) > before


def test_tables(deployment: Factory) -> None:
    case = deployment()
    assert table(cost(case)).row_count == len(COMPONENTS) + 1
    counts = operation_counts(case)
    assert operation_table(case).row_count == len(counts)
    assert {op.component for op in counts} == set(COMPONENTS)
    with pytest.raises(AttributeError):
        counts[0].count = 0  # type: ignore[misc]
    assert replace(counts[0], count=0).count == 0


def test_refusals(deployment: Factory) -> None:
    for activity in (-0.1, 1.1, math.nan):
        with pytest.raises(ConfigError, match=r"activity = .* between 0 and 1"):
            cost(deployment(), activity=activity)
    with pytest.raises(DesignError, match="unknown adc 'sar-8'; did you mean 'sar-8b'"):
        cost(deployment(adc="sar-8"))
    with pytest.raises(DesignError, match="adc 'sar-8b' resolves 8 bits, the design asks for 9; use one of"):
        cost(deployment(adc_bits=9))
    with pytest.raises(DesignError, match="periphery at 14 nm, its component table 'periphery-32nm' is for 32 nm"):
        cost(deployment(node=SimpleNamespace(value=14e-9)))
    with pytest.raises(DesignError, match="unknown component table"):
        cost(deployment(components="periphery-7nm"))
    case = deployment()
    case.matrices = case.matrices[:-1]
    with pytest.raises(DesignError, match="operator 'decoder' has no mapped matrix"):
        cost(case)
