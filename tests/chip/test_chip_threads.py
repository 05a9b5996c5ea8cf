"""Chips in a thread pool are the chips of a loop; numbers of NumPy and xarray are numbers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from chip_cases import chip_of

from imc_ssm.chip import AnalogLinear, compile, evaluate, map_matrix, program
from imc_ssm.datasets import SequenceDataset
from imc_ssm.datasets.sequence import SPLITS
from imc_ssm.errors import DesignError, ImcSsmError
from imc_ssm.layers import Classifier
from imc_ssm.quantization import Scheme, calibration_batch
from imc_ssm.results import values_equal

Make = Callable[[Scheme], Classifier]
DAY = 86400.0


@pytest.mark.parametrize("noise", ["native", "aihwkit"])
@pytest.mark.parametrize("name", ["pcm-256", "reram-128"])
def test_forty_chips_in_eight_threads_are_forty_chips(name: str, noise: Any) -> None:
    chip = chip_of(name)
    mapped = map_matrix("m", "m", np.random.default_rng(0).normal(size=(40, 60)), None, chip, input_range=1.0)

    def made(number: int) -> np.ndarray:
        if noise == "native":
            torch.rand(7)  # whoever draws from the global generator changes nothing (what aihwkit draws, it does)
        return program(mapped, chip, 5, (number,), noise=noise).at(DAY)

    serial = [made(i) for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(serial, pool.map(made, range(40)), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("implementation", ["fast", "aihwkit"])
def test_products_in_threads_are_those_of_a_loop(implementation: Any) -> None:
    chip = chip_of()
    mapped = map_matrix("m", "m", np.random.default_rng(0).normal(size=(20, 30)), None, chip, input_range=1.0)
    x = torch.linspace(-1, 1, 300).reshape(10, 30)

    def made(number: int) -> torch.Tensor:
        layer = AnalogLinear(mapped, chip, implementation).program(5, number).set_time(1.0)
        return layer(x) + layer(x)

    serial = [made(i) for i in range(12)]
    with ThreadPoolExecutor(6) as pool:
        assert all(torch.equal(a, b) for a, b in zip(serial, pool.map(made, range(12)), strict=True))


@pytest.fixture
def few(digits: SequenceDataset) -> SequenceDataset:
    splits = {name: digits.splits[name][:60] if name == "test" else digits.splits[name] for name in SPLITS}
    return replace(digits, splits=splits)


def test_numbers_of_numpy_and_xarray(quantized: Make, few: SequenceDataset) -> None:
    placed = compile(quantized(Scheme()), "pcm-256", *calibration_batch(few, 8, most=50))
    expected = evaluate(placed, few, 2, [1.0, DAY], seed=3)
    for times in (
        np.array([1, 86400]),
        np.array([1, 86400], np.float32),
        expected["time"],
        ["1s", "1d"],
        "1s,1d",
        (np.int64(1), timedelta(days=1)),
        np.array([1, 86400], "timedelta64[s]"),
    ):
        found = evaluate(placed, few, np.int64(2), times, seed=np.int64(3))
        assert values_equal(found, expected), times
    for time in (DAY, np.float64(DAY), "1d", expected["time"][1], np.array(DAY), xr.DataArray(DAY)):
        alone = evaluate(placed, few, xr.DataArray(2), time, seed=np.array(3))
        np.testing.assert_array_equal(alone["accuracy"][:, 0], expected["accuracy"][:, 1])
        assert alone["time"].values.tolist() == [DAY]
    for wrong in ([], "", "soon", [True], [None], ["1s", "1 parsec"], [1.0, 1.0], np.nan, [[1.0, 2.0]], object()):
        with pytest.raises(ImcSsmError, match="time"):
            evaluate(placed, few, 1, wrong)
    for wrong in (0, -1, 1.5, "2", True, None, [1, 2]):
        with pytest.raises(ImcSsmError, match="chips"):
            evaluate(placed, few, wrong, 1.0)
        with pytest.raises(ImcSsmError, match="seed"):
            evaluate(placed, few, 1, 1.0, seed=wrong or -1)


def test_times_are_the_cells_own_where_it_has_few(quantized: Make, few: SequenceDataset) -> None:
    calibration = calibration_batch(few, 8, most=50)
    wan = compile(quantized(Scheme()), "reram-wan-64", *calibration)
    assert evaluate(wan, few, 1)["time"].values.tolist() == [1.0, DAY, 2 * DAY]
    assert evaluate(compile(quantized(Scheme()), "pcm-256", *calibration), few, 1)["time"].values.tolist() == [
        1.0,
        3600.0,
        DAY,
        30 * DAY,
    ]
    with pytest.raises(DesignError, match="only at 1 s, 86400 s, 172800 s"):
        evaluate(wan, few, 1, "1h")


def test_evaluations_in_threads_are_those_of_a_loop(quantized: Make, few: SequenceDataset) -> None:
    placed = compile(quantized(Scheme()), "reram-128", *calibration_batch(few, 8, most=50))

    def made(seed: int) -> xr.Dataset:
        return evaluate(placed, few, 3, ["1h", "30d"], seed=seed)

    serial = [made(seed) for seed in range(6)]
    with ThreadPoolExecutor(4) as pool:
        assert all(values_equal(a, b) for a, b in zip(serial, pool.map(made, range(6)), strict=True))
