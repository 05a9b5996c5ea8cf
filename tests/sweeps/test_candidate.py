"""A model on a chip as the point of a sweep: what is shared, what is measured, and made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imc_ssm
from imc_ssm import datasets
from imc_ssm.costs import cost
from imc_ssm.devices import load_design, resolve
from imc_ssm.errors import ConfigError, FileError
from imc_ssm.modelfile import load_model
from imc_ssm.quantization import calibration_batch
from imc_ssm.sweeps import (
    ChipObjective,
    ChipPoint,
    Space,
    Status,
    again,
    best,
    candidate,
    load,
    made,
    sweep,
    value,
)
from imc_ssm.sweeps.point import computed_key, mapped_key
from imc_ssm.sweeps.workshop import Workshop

FREE = {
    "design.adc.bits": 5,
    "design.read_noise": 0.01,
    "design.drift_compensation": "column",
    "design.tiles": 7,
    "design.columns_per_adc": 1,
    "design.clock": 5e8,
    "design.lanes": 3,
    "design.electrics.pulse": {"value": 5e-8, "unit": "s", "source": "of a test"},
    "design.packing": True,
    "design.wires": {
        "row": {"value": 1.0, "unit": "ohm", "source": "of a test"},
        "column": {"value": 1.0, "unit": "ohm", "source": "of a test"},
    },
}
MOVING = {
    "design.rows": 32,
    "design.columns": 32,
    "design.dac.bits": 6,
    "design.devices": 2,
    "design.polarity": "reference",
    "design.slicing": {"cells": 2, "bits": 3},
    "design.cell": "reram-wan-2022",
}


def test_every_field_of_a_design_is_known_here() -> None:
    varied = {path.split(".")[1] for path in (*FREE, *MOVING)}
    words = {"name", "description", "sources", "node", "components", "sample_hold"}
    assert varied | words == set(type(load_design("pcm-256")).model_fields)


@pytest.mark.parametrize("path", [*FREE, *MOVING])
def test_a_shared_deployment_is_the_compiled_one(path: str, small: dict[str, Any], tmp_path: Path) -> None:
    objective = ChipObjective(small)
    point = objective.base.at({path: {**FREE, **MOVING}[path]})
    shop = Workshop(tmp_path)
    first = objective.deployment(objective.base, shop)
    assert (mapped_key(first.chip) == mapped_key(point.chip())) == (path in FREE)
    stored, data = load_model(small["start"]), datasets.load("digits")
    alone = imc_ssm.compile_model(
        stored.model, point.chip(), *calibration_batch(data, 4, 32, seed=0), name="digits"
    )
    assert objective.deployment(point, shop).digest() == alone.digest()


ALIKE = ("design.tiles", "design.columns_per_adc", "design.clock", "design.lanes", "design.electrics.pulse")


@pytest.mark.parametrize("path", ALIKE)
def test_answers_are_shared_where_only_prices_differ(path: str, small: dict[str, Any], tmp_path: Path) -> None:
    objective = ChipObjective(small)
    point = objective.base.at({path: FREE[path]})
    assert computed_key(point.chip()) == computed_key(objective.base.chip())
    fresh = [
        dict(pair)
        for pair in (measured(objective, {}, tmp_path), measured(objective, {path: FREE[path]}, tmp_path))
    ]
    assert np.array_equal(fresh[0]["accuracy"], fresh[1]["accuracy"])


def measured(objective: ChipObjective, changes: dict[str, Any], folder: Path) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {}
    for piece in objective.measure(changes, Workshop(folder)):
        out |= piece
    return out


@pytest.mark.parametrize("path", [p for p in {**FREE, **MOVING} if p not in (*ALIKE, "design.packing")])
def test_answers_are_not_shared_where_the_chip_differs(path: str, small: dict[str, Any]) -> None:
    objective = ChipObjective(small)
    point = objective.base.at({path: {**FREE, **MOVING}[path]})
    assert computed_key(point.chip()) != computed_key(objective.base.chip())


def test_a_cell_has_the_numbers_of_evaluate_and_cost(small: dict[str, Any], tmp_path: Path) -> None:
    ds = sweep({"design.adc.bits": [4, 8], "cell.programming_scale": [0.0, 1.0]}, small, folder=tmp_path)
    data, stored = datasets.load("digits"), load_model(small["start"])
    for bits, scale in ((4, 0.0), (8, 1.0)):
        chip = resolve(load_design("pcm-256").with_(adc_bits=bits))
        chip = chip.with_({"cell": chip.cell.with_(programming_scale=scale)})
        placed = imc_ssm.compile_model(stored.model, chip, *calibration_batch(data, 4, 32, seed=0))
        alone = imc_ssm.evaluate(placed, data, 2, [1.0, 86400.0], sequences=40, split="validation")
        there = ds.sel({"design.adc.bits": bits, "cell.programming_scale": scale})
        assert np.array_equal(there["accuracy"], alone["accuracy"])
        assert float(there["accuracy_digital"]) == float(alone["accuracy_digital"])
        priced = cost(placed)
        assert np.array_equal(there["energy"], priced["energy"])
        assert float(there["area_total"]) == float(priced["area_total"])
    assert ds["accuracy"].attrs["n_test"] == 40
    for name in (*ds.data_vars, *ds.coords):
        assert ds[name].attrs["units"], name
        assert ds[name].attrs["long_name"], name
    assert ds["design.adc.bits"].attrs["long_name"] == "Resolution"


def test_the_best_point_is_made_again_from_its_attributes(small: dict[str, Any], tmp_path: Path) -> None:
    space = {
        "design.adc.bits": [4, 6, 8],
        "design.read_noise": {"low": 0.01, "high": 0.1, "log": True},
        "design.slicing": [None, {"cells": 2, "bits": 3}],
    }
    ds = sweep(space, small, method="sobol", trials=6, folder=tmp_path / "sweep")
    chosen = best(ds, maximise="accuracy@1d", constraints=["energy_total <= 1"])
    found = again(chosen)
    for name in found.data_vars:
        assert np.array_equal(found[name], chosen[name]), name
    point = made(chosen)
    assert point.design.adc.bits == int(chosen["design.adc.bits"])
    assert point.design.read_noise.value == float(chosen["design.read_noise"])
    assert (point.design.slicing is None) == (str(chosen["design.slicing"].values) == "none")
    assert load(tmp_path / "sweep").equals(ds)
    assert again(chosen, changes={"split": "test", "chips": 3})["accuracy"].sizes["chip"] == 3
    with pytest.raises(ConfigError, match="6 points were given"):
        again(ds)


def test_a_model_file_that_changed_is_refused(
    small: dict[str, Any], started: tuple[Path, Path], tmp_path: Path
) -> None:
    ds = sweep({"design.adc.bits": [4, 8]}, small, folder=tmp_path)
    with pytest.raises(ConfigError, match="not the model file of this sweep"):
        again(ds.isel({"design.adc.bits": 0}), start=started[0])
    with pytest.raises(FileError, match=r"another sweep: its objective\."):
        sweep(
            {"design.adc.bits": [4, 8]}, {**small, "start": str(started[0]), "scheme": "uniform"}, folder=tmp_path
        )


def test_trainings_are_shared_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    real = candidate.train

    def counted(model: Any, data: Any, config: Any, **options: Any) -> Any:
        calls.append(config)
        return real(model, data, config, **options)

    monkeypatch.setattr(candidate, "train", counted)
    base = {
        "model": {"heads": 4, "n_state": 4, "dt_min": 0.0125, "dt_max": 0.5},
        "task": "digits",
        "training": {"epochs": 1, "batch": 64},
        "scheme": "uniform",
        "qat": {"epochs": 1, "batch": 64},
        "chips": 1,
        "sequences": 40,
    }
    space = {"scheme.bits.state": [6, 8], "seed": [0, 1], "design.adc.bits": [4, 8]}
    ds = sweep(space, base, folder=tmp_path)
    assert len(calls) == 2 + 4  # a training a seed, a QAT for each of its schemes
    assert (ds["status"] == Status.DONE).all()
    assert float(abs(ds["accuracy"].isel(seed=0) - ds["accuracy"].isel(seed=1)).max()) > 0
    at = {"scheme.bits.state": 6, "seed": 1, "design.adc.bits": 8}
    found = again(ds.sel(at), folder=tmp_path)
    assert np.array_equal(found["accuracy"], ds["accuracy"].sel(at))
    assert len(calls) == 6
    assert np.array_equal(again(ds.sel(at))["accuracy"], ds["accuracy"].sel(at))
    assert len(calls) == 8


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"design.adc.bit": [4]}, "did you mean 'bits'"),
        ({"desing.lanes": [4]}, "did you mean 'design'"),
        ({"cell.programing_scale": [0.5]}, "did you mean 'programming_scale'"),
        ({"design.cell": ["pcm-256"]}, "cell"),
        ({"scheme.bits.state": [4]}, "scheme"),
        ({"design.lanes": {"low": 0, "high": 8}}, r"axis 'design.lanes' = 0: .* at least 1"),
        ({"chips": [1, 2]}, "cannot be varied"),
        ({"design.polarity": ["pairs"]}, "pair"),
    ],
)
def test_a_field_that_cannot_be_varied_says_why(space: Any, said: str, small: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=said):
        sweep(space, small)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "either start"),
        ({"start": "nowhere.safetensors"}, "nowhere"),
        ({"model": {"heads": 4}}, "task and a scheme"),
        ({"sequences": 500}, "validation split of digits has 360"),
        ({"qat": {"epochs": 1}}, "scheme"),
    ],
)
def test_a_point_that_cannot_be_says_why(fields: Any, said: str, small: dict[str, Any]) -> None:
    given = {**small, **fields} if fields.keys() <= {"sequences", "qat"} and fields else fields
    with pytest.raises(ConfigError, match=said):
        ChipObjective(given)


def test_too_few_tiles_are_a_refusal(small: dict[str, Any]) -> None:
    ds = sweep({"design.rows": [2, 256]}, small)
    assert ds["status"].values.tolist() == [Status.DONE, Status.DONE]
    ds = sweep({"design.tiles": [1, 64]}, small)
    assert ds["status"].values.tolist() == [Status.REFUSED, Status.DONE]
    assert "tiles" in json.loads(ds.attrs["refused"])["0"]


def test_what_breaks_a_constraint_is_not_evaluated(small: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = candidate.evaluate
    monkeypatch.setattr(candidate, "evaluate", lambda *a, **k: calls.append(1) or real(*a, **k))
    free = sweep({"design.columns_per_adc": [1, 256], "design.adc.bits": [4, 8]}, small)
    assert len(calls) == 2  # sharing a converter changes no answer
    calls.clear()
    area = value(free, "area_total")
    bound = float(np.sort(area.values.ravel())[1])
    ds = sweep(
        {"design.columns_per_adc": [1, 256], "design.adc.bits": [4, 8]},
        small,
        constraints=[f"area_total<={bound!r}"],
    )
    kept = (area <= bound).values
    assert np.array_equal(ds["status"], np.where(kept, Status.DONE, Status.INFEASIBLE))
    assert np.isfinite(ds["accuracy"].values[kept]).all()
    assert np.isnan(ds["accuracy"].values[~kept]).all()
    assert np.array_equal(ds["energy_total"], free["energy_total"])


def test_hopeless_trials_are_left_after_a_chip(small: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    chips: list[int] = []
    real = candidate.evaluate
    monkeypatch.setattr(candidate, "evaluate", lambda d, s, n, *a, **k: chips.append(n) or real(d, s, n, *a, **k))
    space = {"cell.programming_scale": {"low": 0.0, "high": 20.0}, "design.read_noise": {"low": 0.01, "high": 1.0}}
    ds = sweep(space, small, method="tpe", trials=16, seed=1, maximise="accuracy@1s", hopeless=5.0)
    status = ds["status"].values
    left = status == Status.HOPELESS
    assert 2 <= left.sum() <= 14
    assert np.isnan(ds["accuracy"].values[left]).any(axis=(1, 2)).all()
    assert np.isfinite(ds["accuracy"].values[left, 0]).all()
    top = ds["accuracy"].values[status == Status.DONE, 0, 0].max()
    assert (ds["accuracy"].values[left, 0, 0] <= top - 5).all()
    assert chips.count(1) == 16


def test_several_designs_and_cells_are_values_too(small: dict[str, Any]) -> None:
    ds = sweep({"design": ["pcm-256", "reram-128"], "recurrence": ["digital", "analog"]}, small)
    assert ds["design"].values.tolist() == ["pcm-256", "reram-128"]
    assert np.isfinite(ds["energy_total"]).all()
    assert made(ds.isel(design=1, recurrence=0)).design.name == "reram-128"


def test_axes_of_a_point_are_made_in_order() -> None:
    point = ChipPoint(start="q", task="digits").at({"design.adc.bits": 5, "design": "reram-128"})
    assert (point.design.name, point.design.adc.bits) == ("reram-128", 5)
    assert Space.of({"design": ["a"]}).changes({"design": "a"}) == {"design": "a"}


def test_a_sweep_is_read_without_its_model(started: tuple[Path, Path], tmp_path: Path) -> None:
    own = tmp_path / "own.safetensors"
    own.write_bytes(started[1].read_bytes())
    base = {"start": str(own), "chips": 1, "sequences": 20, "calibration": 32}
    ds = sweep({"design.adc.bits": [4, 8]}, base, folder=tmp_path / "sweep")
    own.unlink()
    assert load(tmp_path / "sweep").equals(ds)
    with pytest.raises(ConfigError, match=r"own\.safetensors"):
        again(ds.isel({"design.adc.bits": 0}))
    found = again(ds.isel({"design.adc.bits": 0}), start=started[1])
    assert np.array_equal(found["accuracy"], ds["accuracy"][0])


def test_fractions_that_are_pruned_are_axes(
    started: tuple[Path, Path], small: dict[str, Any], tmp_path: Path
) -> None:
    ds = sweep({"prune.states": [0.0, 0.5]}, small, folder=tmp_path / "quantized")
    free = sweep({"design.adc.bits": [8]}, small)
    assert np.array_equal(ds["accuracy"][0], free["accuracy"][0])
    assert float(ds["energy_total"][1]) < float(ds["energy_total"][0])
    full = {**small, "start": str(started[0]), "scheme": "uniform"}
    both = sweep({"prune.heads": [0.0, 0.5], "scheme.bits.state": [6, 8]}, full, folder=tmp_path / "full")
    assert (both["devices"].isel({"prune.heads": 1}) < both["devices"].isel({"prune.heads": 0})).all()
    assert np.array_equal(
        again(both.isel({"prune.heads": 1, "scheme.bits.state": 0}))["energy"], both["energy"][1, 0]
    )
