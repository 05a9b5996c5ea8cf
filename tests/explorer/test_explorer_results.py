"""Pages of what commands write: costs, advice, sweeps that looked for something, studies; each says how a point is
made again."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from known_sweeps import known_sweep

import imc_ssm
from imc_ssm import datasets, sweeps
from imc_ssm.devices import load_design
from imc_ssm.errors import ConfigError, ImcSsmError
from imc_ssm.explorer import Points, breakdown, command_of, design_of, toml_of
from imc_ssm.explorer.choice import costs_of
from imc_ssm.explorer.views import view_of
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.modelfile import StoredModel, save_model
from imc_ssm.quantization import calibration_batch, quantize


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small quantized model that nobody trained."""
    data = datasets.load("digits")
    torch.manual_seed(0)
    model = quantize(Classifier(ModelConfig(heads=3, n_state=4)), "uniform", *calibration_batch(data, 3))
    path = tmp_path_factory.mktemp("results") / "q.safetensors"
    save_model(path, StoredModel(model, model.scheme, {"task": "digits"}))
    return path


@pytest.fixture(scope="module")
def costs(start: Path) -> xr.Dataset:
    from imc_ssm.modelfile import load_model

    model = load_model(start).model
    return imc_ssm.cost(imc_ssm.compile_model(model, "pcm-256", datasets.load("digits")))


def test_the_page_of_costs_is_of_components(costs: xr.Dataset) -> None:
    points = Points(costs)
    assert points.over == ("component",)
    view = view_of(points)
    assert (str(view.x), str(view.y), view.colour) == ("energy", "area", "component")
    assert costs_of(points) == ["energy", "energy_step", "latency", "area", "memory"]


def test_the_ranges_of_costs_are_beside_the_parts(costs: xr.Dataset) -> None:
    parts = breakdown(Points(costs), 0)
    assert parts is not None
    ends = costs["energy_bounds"].sel(component=list(parts.components))
    factor = parts.total / float(costs["energy"].sum())
    for end, values in (("low", parts.low), ("nominal", parts.values), ("high", parts.high)):
        np.testing.assert_allclose(values, factor * ends.sel(bound=end))
    assert max(parts.high) > max(parts.values)


def test_bounds_and_quartiles_are_written_as_sweeps_do(known: xr.Dataset, costs: xr.Dataset) -> None:
    points = Points(known)
    quartile = known["accuracy"].isel(time=1).quantile(0.25, "chip")
    np.testing.assert_allclose(points.numbers("accuracy@1h:q25"), quartile.values.ravel())
    whole = Points(costs).numbers("energy_bounds@high")
    np.testing.assert_array_equal(whole, costs["energy_bounds"].sel(bound="high"))


@pytest.mark.parametrize(
    ("search", "x", "y"),
    [
        ({"minimise": ["latency_total"], "maximise": ["accuracy@1h:min"]}, "latency_total", "accuracy@1h:min"),
        ({"minimise": ["latency_total"]}, "energy", "accuracy"),
        ({"maximise": ["not here"], "minimise": ["energy"]}, "energy", "accuracy"),
        ({}, "energy", "accuracy"),
    ],
)
def test_a_sweep_opens_with_what_it_looked_for(search: dict[str, Any], x: str, y: str) -> None:
    ds = known_sweep()
    configuration = json.loads(ds.attrs["configuration"]) | {"search": search}
    points = Points(ds.assign_attrs(configuration=json.dumps(configuration)))
    view = view_of(points)
    assert (view.x, view.y) == (points.quantity(x), points.quantity(y))
    if len(search) == 1:
        assert (list(map(str, view.minimise)), view.maximise) == (search["minimise"], ())
    asked = view_of(points, x="latency_total", y="accuracy")
    assert (str(asked.x), str(asked.y)) == ("latency_total", "accuracy")


def test_a_seed_is_the_last_choice_of_a_colour(known: xr.Dataset) -> None:
    ds = known.isel({"design.adc.bits": 0}).transpose("seed", "design.cell", ...)
    assert Points(ds).usual()[2] == "design.cell"


def test_a_change_of_advice_is_a_point(start: Path, tmp_path: Path) -> None:
    point = {"start": str(start), "chips": 1, "sequences": 20, "times": "1s", "calibration": 32}
    ds = sweeps.advise(point, confirm=0)
    imc_ssm.save_results(ds, tmp_path / "a.nc")
    points = Points(imc_ssm.open_results(tmp_path / "a.nc"))
    assert points.over == ("change",)
    changes = ds["change"].values.tolist()
    for text, field, value in (("rows 256 → 128", "rows", 128), ("packing no → yes", "packing", True)):
        index = changes.index(text)
        design = design_of(points, index)
        assert getattr(design, field) == value
        (tmp_path / "p.toml").write_text(toml_of(design, text), encoding="utf-8")
        assert load_design(tmp_path / "p.toml") == design
        words = shlex.split(command_of(points, index, "p.toml", str(tmp_path / "a.nc")))
        printed: list[xr.Dataset] = []
        exec(words[2], {"print": printed.append})
        for name in ("energy", "latency", "area"):
            assert float(printed[0][f"{name}_total"]) == float(ds[name][index])
        won = float(printed[0]["accuracy"].isel(time=-1).mean() - ds["accuracy_before"])
        assert won == pytest.approx(float(ds["accuracy_change"][index]))
    assert sweeps.made(ds.isel(change=changes.index("recurrence digital → analog"))).recurrence == "analog"
    with pytest.raises(ConfigError, match="changes were given"):
        sweeps.again(ds)


def test_a_cell_that_is_not_here_is_said(known: xr.Dataset) -> None:
    design = load_design("pcm-256").model_dump(mode="json") | {"cell": "measured-elsewhere"}
    ds = known.assign_attrs(configuration=json.dumps({"design": design, "model": "m", "chips": 2}))
    with pytest.raises(ImcSsmError, match=r"one's own that is not here.*measured-elsewhere"):
        design_of(Points(ds), 0)


def test_an_experiment_is_named_with_its_study(known: xr.Dataset) -> None:
    configuration = json.dumps({"study": "qs4d", "experiment": "devices"})
    command = command_of(Points(known.assign_attrs(configuration=configuration)), 0)
    assert command == "imc-ssm experiment run qs4d/devices"


def test_the_sweep_of_a_function_says_that_nobody_holds_it() -> None:
    ds = sweeps.sweep({"x": [1, 2]}, lambda at: {"y": at["x"]}, variables={"y": ("1", "Y")})
    with pytest.raises(ImcSsmError, match="a function, which no file holds"):
        command_of(Points(ds), 0)
