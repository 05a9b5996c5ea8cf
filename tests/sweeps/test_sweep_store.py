"""Cells in a folder: there or not, whoever writes and whoever is killed; one dataset of them."""

from __future__ import annotations

import json
import os
import random
import time
import warnings
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import walkers
import xarray as xr
import zarr

from imc_ssm import results
from imc_ssm.errors import ConfigError, FileError
from imc_ssm.sweeps import Search, Space, Status, Store, load, run_plan, standing, sweep


def whole(method: str, tmp_path: Path) -> xr.Dataset:
    plan = walkers.plan(method)
    return plan.dataset(run_plan(plan, tmp_path / "whole"))


def start(folder: Path, method: str) -> BaseProcess:
    """Another process at the sweep: forked, which is quick."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks where there are threads
        process = get_context("fork").Process(target=run_plan, args=(walkers.plan(method), folder))
        process.start()
    return process


@pytest.mark.parametrize("method", ["sobol", "tpe"])
def test_killed_at_any_moment_and_resumed_it_is_the_same(method: str, tmp_path: Path) -> None:
    expected, folder = whole(method, tmp_path), tmp_path / "killed"
    rng = random.Random(0)
    plan = walkers.plan(method)
    for wanted in sorted(rng.sample(range(1, walkers.TRIALS - 4), 4)):
        process = start(folder, method)
        while process.is_alive() and len(list(folder.glob("cells.zarr/record/*.0"))) < wanted:
            time.sleep(0.002)
        process.kill()
        process.join()
        kept = plan.store(folder).done()
        assert wanted <= len(kept) < walkers.TRIALS
    found = plan.dataset(run_plan(plan, folder))
    assert results.values_equal(found, expected)
    assert found.attrs["cells_done"] == walkers.TRIALS


@pytest.mark.parametrize("method", ["sobol", "nsga2"])
def test_several_processes_share_the_cells(method: str, tmp_path: Path) -> None:
    folder = tmp_path / "together"
    both = [start(folder, method) for _ in range(2)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    plan = walkers.plan(method)
    found = plan.dataset(plan.store(folder))
    assert (found["status"] == Status.DONE).all()
    assert found.sizes["trial"] == walkers.TRIALS
    at = [{"x": float(x), "k": str(k)} for x, k in zip(found["x"].values, found["k"].values, strict=True)]
    assert np.array_equal(found["y"], [walkers.parabola(point)["y"] for point in at])
    if method == "sobol":
        assert results.values_equal(found, whole(method, tmp_path))


def test_the_dataset_opens_in_plain_xarray(tmp_path: Path) -> None:
    expected = whole("sobol", tmp_path)
    with xr.open_zarr(tmp_path / "whole" / "dataset.zarr") as plain:
        assert results.values_equal(plain.load(), expected)
        for name in (*plain.data_vars, *plain.coords):
            assert plain[name].attrs["units"], name
            assert plain[name].attrs["long_name"], name
        assert json.loads(plain.attrs["configuration"])["search"]["method"] == "sobol"
    results.save(expected, tmp_path / "same.nc")
    assert results.values_equal(results.load(tmp_path / "same.nc"), expected)
    assert results.values_equal(load(tmp_path / "whole"), expected)


def test_the_folder_of_another_sweep_is_refused(tmp_path: Path) -> None:
    space, variables = {"x": [1.0, 2.0]}, {"y": ("1", "Y")}
    sweep(space, lambda at: {"y": at["x"]}, variables=variables, folder=tmp_path)
    with pytest.raises(FileError, match=r"another sweep: its space\.axes\.x\.values"):
        sweep({"x": [1.0, 3.0]}, lambda at: {"y": at["x"]}, variables=variables, folder=tmp_path)
    with pytest.raises(FileError, match="holds no sweep"):
        Store.open(tmp_path / "nothing")


def test_more_trials_go_on(tmp_path: Path) -> None:
    calls: list[float] = []

    def counted(at: dict[str, Any]) -> dict[str, float]:
        calls.append(at["x"])
        return {"y": at["x"]}

    space, options = {"x": {"low": 0.0, "high": 1.0}}, {"variables": {"y": ("1", "Y")}, "method": "sobol"}
    few = sweep(space, counted, trials=5, folder=tmp_path, **options)
    more = sweep(space, counted, trials=12, folder=tmp_path, **options)
    assert len(calls) == 12
    assert more.isel(trial=slice(5)).equals(few)
    fewer = sweep(space, counted, trials=3, folder=tmp_path, **options)
    assert fewer.sizes["trial"] == 12
    assert len(calls) == 12


def test_a_point_that_cannot_be_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    def picky(at: dict[str, Any]) -> dict[str, float]:
        if at["x"] == 2:
            raise ConfigError("two is too many")
        return {"y": at["x"]}

    ds = sweep({"x": [1, 2, 3]}, picky, variables={"y": ("1", "Y")}, folder=tmp_path)
    assert ds["status"].values.tolist() == [Status.DONE, Status.REFUSED, Status.DONE]
    assert json.loads(ds.attrs["refused"]) == {"1": "two is too many"}
    assert np.isnan(ds["y"].values[1])


def test_a_fault_of_the_function_is_no_refusal(tmp_path: Path) -> None:
    def broken(at: dict[str, Any]) -> dict[str, float]:
        return {"y": 1 / at["x"]}

    with pytest.raises(ZeroDivisionError):
        sweep({"x": [1, 0]}, broken, variables={"y": ("1", "Y")}, folder=tmp_path)
    assert Store.open(tmp_path).done() == {0}


def test_a_changed_cell_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    sweep({"x": [1.0, 2.0]}, lambda at: {"y": at["x"]}, variables={"y": ("1", "Y")}, folder=tmp_path)
    path = tmp_path / "cells.zarr" / "record" / "1.0"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(FileError, match=r"record/1\.0 was changed; remove that file"):
        Store.open(tmp_path).read(1)
    path.unlink()
    again = sweep({"x": [1.0, 2.0]}, lambda at: {"y": at["x"]}, variables={"y": ("1", "Y")}, folder=tmp_path)
    assert again["y"].values.tolist() == [1.0, 2.0]


def test_a_cell_is_one_file_with_a_checksum(tmp_path: Path) -> None:
    sweep({"x": [1.0, 2.0]}, lambda at: {"y": at["x"]}, variables={"y": ("1", "Y")}, folder=tmp_path)
    array = zarr.open_group(tmp_path / "cells.zarr", mode="r")["record"]
    assert array.chunks[0] == 1
    assert sorted(os.listdir(tmp_path / "cells.zarr" / "record")) == ["0.0", "1.0", "zarr.json"]


def test_how_far_it_is(tmp_path: Path) -> None:
    plan = walkers.plan("sobol")
    store = plan.store(tmp_path)
    assert (standing(plan, store).done, standing(plan, store).total) == (0, walkers.TRIALS)
    run_plan(plan, tmp_path)
    found = standing(plan, store)
    assert found.by_status == {"done": walkers.TRIALS}
    assert found.left_s == 0
    assert found.seconds > 0.01 * walkers.TRIALS


def test_progress_counts_what_is_there(tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    space = Space.of({"x": [1.0, 2.0, 3.0]})
    options: dict[str, Any] = {"variables": {"y": ("1", "Y")}, "folder": tmp_path}
    sweep(space, lambda at: {"y": at["x"]}, progress=lambda d, t, n: said.append((d, t)), **options)
    assert said == [(1, 3), (2, 3), (3, 3)]
    (tmp_path / "cells.zarr" / "record" / "2.0").unlink()
    sweep(space, lambda at: {"y": at["x"]}, progress=lambda d, t, n: said.append((d, t)), **options)
    assert said[3:] == [(3, 3)]


@pytest.mark.parametrize("method", ["tpe", "nsga2"])
def test_a_guided_search_finds_more_than_chance(method: Any) -> None:
    def far(at: dict[str, Any]) -> dict[str, float]:
        return {"y": (at["x"] - 0.77) ** 2 + (at["z"] - 0.13) ** 2, "late": at["x"]}

    space = {"x": {"low": 0.0, "high": 1.0}, "z": {"low": 0.0, "high": 1.0}}
    options: dict[str, Any] = {"variables": {"y": ("1", "Y"), "late": ("s", "Late")}, "trials": 60, "seed": 2}
    guided = sweep(space, far, method=method, minimise="y", **options)
    drawn = sweep(space, far, method="random", **options)
    assert float(np.sort(guided["y"])[:10].mean()) < 0.5 * float(np.sort(drawn["y"])[:10].mean())
    kept = sweep(space, far, method=method, minimise="y", constraints=["late <= 0.5"], **options)
    late = kept["late"].values[30:]
    assert (late <= 0.5).mean() >= 0.55  # of those drawn by chance, half
    assert Search(method=method, trials=3, minimise="y").goals == {"y": "minimize"}
