"""Columns of zeros are neither read nor converted: they take no energy and no time, and let no noise through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from imc_ssm.chip import Deployment, MappedMatrix
from imc_ssm.costs import cost

Factory = Callable[..., Deployment]
TILES: dict[str, dict[str, Any]] = {
    "one block": {"rows": 16, "columns": 16},
    "many tiles": {},
    "reference": {"polarity": "reference"},
    "slices": {"slicing": {"cells": 2, "bits": 3}, "columns": 8},
}


def pruned(matrix: MappedMatrix, columns: list[int]) -> MappedMatrix:
    """The matrix without weights in these columns."""
    target, scale = matrix.target.copy(), matrix.scale.copy()
    target[:, columns], scale[columns] = 0, 0
    return replace(matrix, target=target, scale=scale)


def without(deployment: Deployment, name: str, columns: list[int]) -> Deployment:
    """The deployment with columns of one of its matrices pruned."""
    found = tuple(pruned(m, columns) if m.name == name else m for m in deployment.matrices)
    return replace(deployment, matrices=found)


@pytest.mark.parametrize("tiles", TILES)
def test_each_pruned_column_saves_its_conversions(deployment: Factory, tiles: str) -> None:
    """Of the mixing (4 x 8): proportional where one tile holds all; never less than nothing elsewhere."""
    whole = deployment(**TILES[tiles])
    matrix = next(m for m in whole.matrices if m.outputs == 8)
    before = cost(whole)
    for count in range(1, 8):
        after = cost(without(whole, matrix.name, list(range(count))))
        saved = (before["energy"] - after["energy"]).sel(
            component=["adc", "lines", "cells", "movement", "control"]
        )
        assert (saved.sel(component=["adc", "movement"]) > 0).all(), count
        assert (saved >= -1e-18).all(), (count, saved.values)
        assert float(after["devices"]) < float(before["devices"])
        assert float(after["latency_total"]) <= float(before["latency_total"])
        assert float(after["memory_total"]) < float(before["memory_total"])


def test_conversions_are_those_of_the_columns_that_are_left(deployment: Factory) -> None:
    """By hand: 10 steps; encoder 4 columns, mixing 8 less 3, at the end the decoder's 5."""
    whole = deployment(rows=16, columns=16)
    matrix = next(m for m in whole.matrices if m.outputs == 8)
    adc = [
        float(ds["energy"].sel(component="adc"))
        for ds in (cost(whole), cost(without(whole, matrix.name, [0, 3, 7])))
    ]
    assert adc[1] / adc[0] == pytest.approx((10 * (4 + 5) + 5) / (10 * (4 + 8) + 5), rel=1e-12)


def test_a_block_without_weights_is_not_driven(deployment: Factory) -> None:
    """Tiles of 2 x 4: of the mixing's two column blocks one is left, with its rows and its control."""
    whole = deployment()
    matrix = next(m for m in whole.matrices if m.outputs == 8)
    half = without(whole, matrix.name, [0, 1, 2, 3])
    rows = [sum(a.count for a in m.product_actions(whole.chip) if a.verb == "word line") for m in whole.matrices]
    left = [sum(a.count for a in m.product_actions(half.chip) if a.verb == "word line") for m in half.matrices]
    assert sum(rows) - sum(left) == 4
    assert float(cost(half)["energy"].sel(component="control")) < float(
        cost(whole)["energy"].sel(component="control")
    )
    nothing = without(whole, matrix.name, list(range(8)))
    assert float(cost(nothing)["energy_total"]) < float(cost(half)["energy_total"])
    assert float(cost(nothing)["latency"].sel(component="cells")) < float(
        cost(half)["latency"].sel(component="cells")
    )


def test_what_is_not_priced_is_not_simulated(deployment: Factory) -> None:
    """A column of zeros gives its bias and nothing else on any chip, noise of its devices included."""
    whole = deployment(rows=16, columns=16)
    matrix = next(m for m in whole.matrices if m.outputs == 8)
    placed = without(whole, matrix.name, [2])
    _, tiles = placed.analog()
    tile = next(t for t in tiles if t.mapped.name == matrix.name)
    tile.program(2, 0).set_time(1.0)
    out = tile(torch.rand(2, 50, 4)).detach().numpy()[..., 2]
    bias = 0.0 if matrix.bias is None else matrix.bias[2]
    np.testing.assert_allclose(out, bias, rtol=0, atol=1e-6)
