"""The oracle in blocks against the oracle itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from scan_cases import CodeCase, code_cases

from imc_ssm.fixedpoint import scan_blocks, scan_codes


@settings(max_examples=150, deadline=None)
@given(code_cases(timed=True))
def test_the_same_codes_and_counts(case: CodeCase) -> None:
    wanted, _, lost = scan_codes(case.plan, case.u, *case.operands)
    got, again = scan_blocks(case.plan, case.u, *case.operands)
    assert np.array_equal(got, wanted)
    assert np.array_equal(lost.state, again.state)
    assert np.array_equal(lost.output, again.output)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imc_ssm.fixedpoint.blocks._BLOCK", 1)
        assert np.array_equal(scan_blocks(case.plan, case.u, *case.operands)[0], wanted)
