"""Converters: codes, saturation, and the same object for transfer and price."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from imc_ssm.devices import Choice, load_components
from imc_ssm.devices.converters import converter

TABLE = load_components("periphery-32nm")


@given(st.integers(2, 16), st.floats(0.01, 100), st.lists(st.floats(-200, 200, width=32), min_size=1))
def test_codes_are_rounded_and_saturate(bits: int, full: float, values: list[float]) -> None:
    one = converter("adc", Choice(type="ideal", bits=bits), TABLE)
    x = torch.tensor(values, dtype=torch.float32)
    before = x.clone()
    codes = one.transfer(x, full).double().numpy()
    assert torch.equal(x, before)
    top = 2 ** (bits - 1) - 1
    assert one.codes == (-top, top)
    exact = np.clip(np.asarray(values) / full * top, -top, top)
    assert np.abs(codes - exact).max() <= 0.5 + 1e-5 * top
    assert (codes == np.round(codes)).all()
    assert len(set(np.abs(codes))) <= 2 ** (bits - 1)


def test_a_driver_is_on_or_off() -> None:
    one = converter("dac", Choice(type="driver", bits=1), TABLE)
    codes = one.transfer(torch.tensor([-1.0, 0.0, 0.4, 0.6, 1.0, 3.0]), 1.0)
    assert codes.tolist() == [0, 0, 0, 1, 1, 1]
    assert one.price is None  # by law


def test_an_ideal_converter_has_no_price() -> None:
    one = converter("adc", Choice(type="ideal", bits=16), TABLE)
    assert one.price is None


@given(st.integers(4, 10))
def test_a_resolution_decides_codes_and_price(bits: int) -> None:
    one = converter("adc", Choice(type="sar-isaac", bits=bits), TABLE)
    assert one.codes[1] == 2 ** (bits - 1) - 1
    assert one.price == TABLE.conversion("adc", "sar-isaac", bits)
    assert converter("adc", Choice(type="sar", bits=bits), TABLE).price is None  # by law
