"""What a chip's digest covers: what is computed on it, not what it costs."""

from __future__ import annotations

import pytest

from imc_ssm.chip import digest, priced_digest
from imc_ssm.devices import load_design, resolve


def changed(**fields):
    return resolve(load_design("pcm-256").with_(**fields))


PRICES = [
    {"lanes": 8},
    {"clock__value": 5e8},
]
NUMBERS = [{"rows": 128}, {"adc_bits": 6}, {"dac_bits": 6}, {"read_noise__value": 0.02}, {"columns_per_adc": 8}]


@pytest.mark.parametrize("fields", PRICES)
def test_prices_leave_the_digest_and_change_the_priced_one(fields):
    assert digest(changed(**fields)) == digest(changed())
    assert priced_digest(changed(**fields)) != priced_digest(changed())


@pytest.mark.parametrize("fields", NUMBERS)
def test_what_decides_a_code_is_in_both(fields):
    assert digest(changed(**fields)) != digest(changed())
    assert priced_digest(changed(**fields)) != priced_digest(changed())


def test_the_range_of_a_cited_number_is_prose():
    exact = changed(read_noise={"value": 0.04, "unit": "1", "source": "another paper", "low": 0.01, "high": 0.1})
    assert digest(exact) == digest(changed())
