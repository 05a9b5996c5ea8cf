"""Every registered layer passes the suite: a new one is tested by being registered."""

from __future__ import annotations

import pytest
from conformance import CHECKS

from imc_ssm.layers import LAYERS


@pytest.mark.parametrize("name", sorted(LAYERS))
@pytest.mark.parametrize("check", CHECKS)
def test_conforms(name: str, check: str) -> None:
    CHECKS[check](name)
