"""One point: what it is made of, its design, and the command that makes its numbers again."""

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
from imc_ssm import datasets, results, sweeps
from imc_ssm.devices import load_design
from imc_ssm.errors import FileError, ImcSsmError
from imc_ssm.explorer import Points, ageing, breakdown, command_of, design_of, opened, toml_of
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.modelfile import StoredModel, save_model
from imc_ssm.quantization import calibration_batch, quantize
from imc_ssm.study import initial_steps
from imc_ssm.training import TrainConfig, train


def test_the_breakdown_has_the_components_and_their_ranges(known: xr.Dataset) -> None:
    parts = breakdown(Points(known), 0)
    assert parts is not None
    assert parts.text == "Energy per inference (nJ)"
    assert parts.components == ("memories", "adc", "cells")
    np.testing.assert_allclose(parts.values, [3, 2, 1])
    np.testing.assert_allclose(parts.low, [1.5, 1, 0.5])
    np.testing.assert_allclose(parts.high, [6, 4, 2])
    assert parts.total == pytest.approx(6)
    assert breakdown(Points(known), 0, "area") is None


def test_ageing_has_every_chip_at_every_time(known: xr.Dataset) -> None:
    found = ageing(Points(known), 7)
    assert found is not None
    place = Points(known).places(7)
    np.testing.assert_array_equal(found.values, known["accuracy"].isel(place).transpose("chip", "time").values)
    assert found.digital == float(known["accuracy_digital"].isel(place))
    assert ageing(Points(known[["energy"]]), 0) is None


def test_a_point_of_chips_still_shows_the_deployment(known: xr.Dataset) -> None:
    points = Points(known.isel({"design.adc.bits": [1], "design.cell": [0], "seed": [0]}))
    assert points.over == ("chip", "time")
    parts, found = breakdown(points, 3), ageing(points, 3)
    assert parts is not None
    assert found is not None
    assert found.values.shape == (4, 3)


def test_the_design_is_the_base_with_what_was_varied(known: xr.Dataset, tmp_path: Path) -> None:
    points = Points(known)
    for index in (0, 11):
        at = points.places(index)
        path = tmp_path / f"{index}.toml"
        path.write_text(toml_of(design_of(points, index), f"Known sweep: point {index}"), encoding="utf-8")
        expected = load_design("pcm-256").with_(
            {
                "adc.bits": (4, 6, 8)[at["design.adc.bits"]],
                "cell": str(known["design.cell"].values[at["design.cell"]]),
            }
        )
        assert load_design(path) == expected


@pytest.mark.parametrize(
    ("base", "over", "match"),
    [
        ({"cell": {"programming_scale": 2.0}}, None, "constants of its own for its cell .programming_scale."),
        ({}, ["seed"], "'design.adc.bits' are taken together"),
    ],
)
def test_what_a_design_cannot_say_is_refused(base: dict[str, Any], over: list[str] | None, match: str) -> None:
    points = Points(known_sweep(**base), over)
    with pytest.raises(ImcSsmError, match=match):
        design_of(points, 0)


def test_without_a_configuration_there_is_neither(known: xr.Dataset) -> None:
    known.attrs = {}
    with pytest.raises(ImcSsmError, match="no configuration"):
        design_of(Points(known), 0)
    with pytest.raises(ImcSsmError, match="does not say which command"):
        command_of(Points(known), 0)


def test_a_study_says_its_design_where_only_one_fits(known: xr.Dataset) -> None:
    designs = [load_design("pcm-256").with_(adc_bits=b).model_dump(mode="json") for b in (4, 6)]
    jobs = [{"kind": "deploy", "design": d} for d in designs]
    known.attrs["configuration"] = json.dumps({"experiment": "converters", "study": "x", "jobs": jobs})
    assert design_of(Points(known), 0).adc.bits == 4
    with pytest.raises(ImcSsmError, match="0 designs"):
        design_of(Points(known), 11)
    assert command_of(Points(known), 0) == "imc-ssm experiment run x/converters"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small quantized model that knows a little about the digits."""
    folder, data = tmp_path_factory.mktemp("start"), datasets.load("digits")
    dt_min, dt_max = initial_steps(data.time)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier(ModelConfig(heads=4, n_state=8, dt_min=dt_min, dt_max=dt_max))
    train(model, data, TrainConfig(epochs=3, batch=32, learning_rate=2e-2), mode="convolution")
    quantized = quantize(model, "uniform", *calibration_batch(data, 4, most=64))
    save_model(folder / "q.safetensors", StoredModel(quantized, quantized.scheme, {"task": "digits"}))
    return folder / "q.safetensors"


@pytest.fixture(scope="module")
def swept(start: Path) -> Path:
    """The folder of a sweep of two points."""
    base = {"start": str(start), "chips": 2, "sequences": 40, "times": [1.0, 86400.0]}
    sweeps.sweep({"design.adc.bits": [4, 8]}, base, folder=start.parent / "sweep")
    return start.parent / "sweep"


def test_the_line_of_a_sweep_makes_the_same_numbers(swept: Path) -> None:
    points = Points(opened([swept]))
    words = shlex.split(command_of(points, 1, "p.toml", str(swept)))
    assert words[:2] == ["python", "-c"]
    printed: list[xr.Dataset] = []
    exec(words[2], {"print": printed.append})
    own = points.source.isel(points.places(1))
    for name in ("accuracy", "energy"):
        np.testing.assert_array_equal(printed[0][name].values, own[name].values)


def test_the_command_of_a_deployment_makes_the_same_numbers(start: Path, tmp_path: Path) -> None:
    first, point = tmp_path / "first.nc", tmp_path / "point.toml"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(start.parent)
        options = f"--chips 2 --sequences 40 --times 1s,30d --seed 3 --compensation column --out {first}"
        _run(["imc-ssm", "deploy", start.name, *options.split()])
        points = Points(opened([first]))
        point.write_text(toml_of(design_of(points, 0), "a point"), encoding="utf-8")
        words = shlex.split(command_of(points, 0, str(point)))
        words[-1] = str(tmp_path / words[-1])
        _run(words)
    assert design_of(points, 0).drift_compensation == "column"
    assert results.values_equal(results.load(tmp_path / "again.nc"), results.load(first))


def _run(words: list[str]) -> None:
    from imc_ssm import cli

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", words)
        cli.main()


def test_the_line_says_which_point_of_which_result(known: xr.Dataset) -> None:
    for source, opener in (("out/sweep", "sweeps.load"), ("out/sweep.nc", "imc_ssm.open_results")):
        line = shlex.split(command_of(Points(known), 5, "p.toml", source))[2]
        assert line.partition("print")[2] == (
            f'(sweeps.again({opener}("{source}").isel({{"design.adc.bits": 1, "design.cell": 0, "seed": 1}})))'
        )


def test_sweeps_open_by_their_folder(swept: Path, tmp_path: Path) -> None:
    live = opened([swept])
    assert results.values_equal(live, sweeps.load(swept))
    assert results.values_equal(opened([swept / "dataset.zarr"]), live)
    with pytest.raises(FileError, match="holds no Zarr dataset"):
        opened([tmp_path])
    (tmp_path / "a.csv").write_text("1")
    with pytest.raises(FileError, match="is no dataset"):
        opened([tmp_path / "a.csv"])
    with pytest.raises(FileError, match="No such file"):
        opened([tmp_path / "none.nc"])


def test_several_results_keep_their_designs(known: xr.Dataset) -> None:
    from imc_ssm.explorer import together

    other = known_sweep(design="taox-yao-128")
    points = Points(together({"a": known, "b": other}))
    assert design_of(points, 0) == design_of(Points(known), 0)
    assert design_of(points, 13) == design_of(Points(other), 1)
    with pytest.raises(ImcSsmError, match="several results are shown together"):
        command_of(points, 0)


def test_explore_stands_in_the_front() -> None:
    from imc_ssm import explorer

    assert imc_ssm.explore is explorer.explore
