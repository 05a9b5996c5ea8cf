"""`docs/studies.md`: its code runs, and what it says of the result is so."""

from __future__ import annotations

import re

import numpy as np
import pytest
from fakes import ROOT, silent

from imc_ssm import results
from imc_ssm.errors import ConfigError
from imc_ssm.study import KINDS, Experiment, Workplace, load_study, run

PAGE = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")


@pytest.fixture
def names():
    """What the blocks of the page define, and a registry that forgets."""
    defined: dict = {"__name__": "page"}
    before = dict(KINDS)
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL):
        exec(compile(block, "studies.md", "exec"), defined)
    yield defined
    KINDS.clear()
    KINDS.update(before)


def test_the_code_runs(names, tmp_path):
    place = Workplace(names["STUDY"], tmp_path)

    def compute(experiment: Experiment):
        assert run(place, experiment, experiment.cells(), stage=silent, finished=lambda f: None) == []
        return results.load(place.result_path(experiment))

    ds = compute(names["front"])
    fields = ("design.columns_per_adc", "scheme.bits.state", "model.heads", "seed")
    assert ds["accuracy"].dims == (*fields, "chip", "time")
    assert ds["energy"].dims == (*fields, "component")
    assert np.isfinite(ds["accuracy"]).all()
    kinds = [record.identity["job"]["kind"] for record in place.ledger.records().values()]
    assert (kinds.count("train"), kinds.count("qat")) == (1, 2)
    ds = compute(names["zeros"])
    assert ds["sparsity"].attrs["units"] == "percent"
    assert (ds["sparsity"].sel(threshold=0.1) > ds["sparsity"].sel(threshold=1e-3)).all()
    assert len(names["narrow"].cells(1)) == 9


def test_every_kind_is_on_the_page():
    table = re.findall(r"^\| `(\w+)\(", PAGE, flags=re.MULTILINE)
    assert table == [KINDS[name].__name__ for name in KINDS]


def test_a_kind_that_is_not_registered_is_named(names, tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    code = "\n".join(blocks).replace('KINDS["sparsity"] = Sparsity', "")
    code += '\nSTUDY = Study("front", "F", task="digits", recipe=Recipe(), experiments=(zeros,))\n'
    (tmp_path / "study.py").write_text(code, encoding="utf-8")
    KINDS.pop("sparsity")
    with pytest.raises(
        ConfigError, match=r"zeros: Sparsity is no registered kind of job; add `KINDS\['sparsity'\]"
    ):
        load_study(tmp_path)
