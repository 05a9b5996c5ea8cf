"""Packing: parts of matrices side by side on tiles, none over another, and fewer tiles than one each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from chip_cases import chip_of
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_ssm.chip import check_fit, compile, map_matrix, tiles_of, utilisation
from imc_ssm.chip.packing import pack
from imc_ssm.costs import cost
from imc_ssm.datasets import SequenceDataset
from imc_ssm.errors import DesignError
from imc_ssm.layers import Classifier
from imc_ssm.quantization import Scheme, calibration_batch

SIZES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=8)


def _mapped(sizes: Any, chip: Any) -> list[Any]:
    return [
        map_matrix(f"m{i}", f"m{i}", np.ones((outputs, inputs)), None, chip, input_range=1.0)
        for i, (inputs, outputs) in enumerate(sizes)
    ]


@settings(max_examples=80, deadline=None)
@given(SIZES, st.sampled_from([1, 2]))
def test_no_part_lies_over_another(sizes: Any, slices: int) -> None:
    slicing = None if slices == 1 else {"cells": slices, "bits": 2}
    chips = {
        packing: chip_of(rows=16, columns=24, columns_per_adc=4, tiles=10_000, packing=packing, slicing=slicing)
        for packing in (False, True)
    }
    chip = chips[True]
    matrices = _mapped(sizes, chip)
    tiles = tiles_of(matrices, chip)
    taken = np.zeros((tiles, 16, 24), int)
    for matrix, places in zip(matrices, pack(matrices, chip), strict=True):
        for ((top, bottom), (left, right)), place in zip(matrix.parts, places, strict=True):
            rows = slice(place.row, place.row + bottom - top)
            columns = slice(place.column, place.column + slices * (right - left))
            assert rows.stop <= 16
            assert columns.stop <= 24
            taken[place.tile, rows, columns] += 1
    assert taken.max() == 1
    assert taken.any(axis=(1, 2)).all()  # no tile is empty
    assert utilisation(matrices, chip) == pytest.approx(taken.mean())
    alone = tiles_of(matrices, chips[False])
    assert tiles <= alone == sum(len(matrix.parts) for matrix in matrices)


def test_small_matrices_share_a_tile_and_the_area_says_so(
    quantized: Callable[[Scheme], Classifier], digits: SequenceDataset
) -> None:
    model, calibration = quantized(Scheme()), calibration_batch(digits, 8, most=50)
    found = {}
    for packing in (False, True):
        placed = compile(model, chip_of(packing=packing, tiles=3), *calibration)
        found[packing] = cost(placed)
        assert ("1 tiles" if packing else "3 tiles") in str(placed.table().title)
    one, many = found[True], found[False]
    assert (float(one["tiles"]), float(many["tiles"])) == (1, 3)
    assert float(one["utilisation"]) == pytest.approx(3 * float(many["utilisation"]))
    for part in ("cells", "dac", "adc"):
        areas = [float(ds["area"].sel(component=part)) for ds in (one, many)]
        assert areas[1] == pytest.approx(3 * areas[0])
    spent = [float(ds["energy_total"] - ds["energy"].sel(component="leakage")) for ds in (one, many)]
    assert spent[0] == pytest.approx(spent[1])
    assert float(one["energy_total"]) < float(many["energy_total"])  # less area leaks


def test_too_few_tiles_say_how_many_and_offer_packing() -> None:
    sizes = [(10, 20), (10, 20), (10, 20)]
    chip = chip_of(rows=32, columns=64, tiles=1)
    with pytest.raises(DesignError, match=r"needs 3 tiles .* has 1 \(2 too few\); .*packing = true"):
        check_fit(_mapped(sizes, chip), chip)
    assert check_fit(_mapped(sizes, chip), chip.with_(design__packing=True)) == 1
