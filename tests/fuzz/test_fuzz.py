"""A small sample of the malformed inputs that `benchmarks/fuzz.py` makes by the thousand."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz_harness import run_case
from fuzz_loaders import fresh
from fuzz_tasks import LOADERS

SAMPLE = 25
"""Cases of every loader; seeds 0, 1, ..."""


@pytest.mark.parametrize("name", LOADERS)
def test_malformed_inputs_are_refused_or_make_sense(name: str, tmp_path: Path) -> None:
    outcomes = [run_case(LOADERS[name], seed, fresh(tmp_path / "case")) for seed in range(SAMPLE)]
    bad = [f"seed {o.seed}: {o.kind}: {o.text}" for o in outcomes if o.bad]
    assert not bad, "\n".join(bad)
    assert any(outcome.kind == "refused" for outcome in outcomes)
