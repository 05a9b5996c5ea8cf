"""Every registered layer passes the suite, and every block around one: a new one is tested by being registered."""

from __future__ import annotations

import pytest
from conformance import BLOCKS, CHECKS

from imc_ssm.layers import LAYERS


@pytest.mark.parametrize("name", sorted(LAYERS))
@pytest.mark.parametrize("check", CHECKS)
def test_conforms(name: str, check: str) -> None:
    CHECKS[check](name)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("check", CHECKS)
def test_blocks_conform(block: str, check: str) -> None:
    CHECKS[check](f"s4d, {block}")
