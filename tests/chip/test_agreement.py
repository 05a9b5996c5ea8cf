"""The agreement table: a small one of every kind holds, it would notice what is wrong, the page is the file's."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from imc_ssm import results

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "agreement"
sys.path.insert(0, str(FOLDER))
import product_agreement as products  # noqa: E402

_spec = importlib.util.spec_from_file_location("agreement_run", FOLDER / "run.py")
assert _spec is not None
assert _spec.loader is not None
run = importlib.util.module_from_spec(_spec)
sys.modules["agreement_run"] = run  # its dataclass looks itself up there
_spec.loader.exec_module(run)

PAGE = (ROOT / "docs" / "agreement.md").read_text(encoding="utf-8")
lightning = pytest.mark.skipif(
    importlib.util.find_spec("aihwkit_lightning") is None, reason="aihwkit-lightning is not installed"
)
SMALL = [
    products.Case(products.AIHWKIT, 16, 32),
    products.Case(products.AIHWKIT, 40, 30, rows=16, columns=16, bits=(6, 6)),
    products.Case(products.AIHWKIT, 64, 64, full=0.5, percentile=90.0),
    products.Case(products.AIHWKIT, 16, 32, cell="pcm-nandakumar-2019", age=products.DAY),
    pytest.param(products.Case(products.LIGHTNING, 16, 32), marks=lightning),
    pytest.param(products.Case(products.LIGHTNING, 64, 64, rows=32, bits=(6, 6)), marks=lightning),
    pytest.param(products.Case(products.LIGHTNING, 64, 64, full=0.5, percentile=90.0), marks=lightning),
    pytest.param(products.Case(products.LIGHTNING, 16, 32, scale="tile"), marks=lightning),
]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: f"{case.other}, {case.label}")
def test_products_agree(case: products.Case) -> None:
    """Codes are equal but for sums on an edge; 12 pairs of samples of 500 at p > 1e-4 / 24."""
    found = products.without_noise(case, 500)
    assert found["differ"] <= 1e-4 * found["n_outputs"]
    assert found["edge"] < 1e-3
    assert found["rounding"] < 1e-6
    assert found["n_outputs"] == 500 * case.outputs
    if case.full < 2:
        assert found["clipped"] > 50
        assert found["saturated"] > 5
    if case.cell == "ideal":
        compared = products.with_noise(case, 500, 12)
        assert len(compared) == 12
        assert min(p for one in compared for p in one.p.values()) > 1e-4 / 24


@pytest.mark.parametrize(
    "wrong",
    [{"bits": (8, 7)}, {"full": 2.6}, {"percentile": 99.0}, {"noise": 0.044}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_is_wrong_would_show(monkeypatch: pytest.MonkeyPatch, wrong: dict[str, object]) -> None:
    """The other side of a product with another resolution, range or noise."""
    case = products.Case(products.AIHWKIT, 16, 32)
    ours = products.sides

    def uneven(case: products.Case, noise: float):
        changed = replace(case, **wrong)
        return ours(case, noise)[0], ours(changed, changed.noise if noise else 0.0)[1]

    monkeypatch.setattr(products, "sides", uneven)
    if "noise" in wrong:
        row = run.summary(products.with_noise(case, 1000, 20))
        assert abs(row["deviation"] - 1) > 5 * row["deviation_error"]
    else:
        assert products.without_noise(case, 500)["differ"] > 1000


def test_a_small_table_has_every_part(tmp_path: Path) -> None:
    cases = [case for case in SMALL if isinstance(case, products.Case)][:2]
    size = run.Size(samples=100, repeats=200, places=3, devices=2000)
    ds = run.dataset(size, cases, ["reram-wan-2022"])
    results.save(ds, tmp_path / "small.nc")
    again = run.tables(results.load(tmp_path / "small.nc"))
    assert set(again) == {"summary", "aihwkit", "lightning", "cells"}
    assert "| 16 x 32, 8 and 8 bits |" in again["aihwkit"]
    assert f"{ds.sizes['test']} tests of two samples" in again["summary"]
    assert float(ds["p"].min()) > 1e-5
    marks = "".join(f"a <!-- {name} -->old<!-- end of {name} --> b" for name in again)
    page = run.put(marks, ds)
    assert "old" not in page
    assert all(table in page for table in again.values())
    assert run.put(page, ds) == page


def test_holms_adjustment() -> None:
    p = np.array([0.04, 0.001, 0.03, 0.9])
    assert run.holm(p) == pytest.approx([0.09, 0.004, 0.09, 0.9])


def test_samples_of_one_distribution_give_uniform_p() -> None:
    rng = np.random.default_rng(0)
    found = [products.compared(*rng.normal(size=(2, 400)), 1e-3).p for _ in range(300)]
    for kind in found[0]:
        assert stats.kstest([p[kind] for p in found], "uniform").pvalue > 1e-3


def test_the_page_is_the_files() -> None:
    ds = results.load(FOLDER / "agreement.nc")
    assert run.put(PAGE, ds) == PAGE
    assert set(ds["case"].values) == {case.label for case in products.CASES}
    assert ds.attrs["aihwkit_lightning"] in PAGE
    assert ds.attrs["aihwkit"] in PAGE
    # "Done when": equal to float32 rounding with noise off, no significant difference with it on.
    assert float(ds["edge"].max()) < 1e-3
    assert float(ds["rounding"].max()) < 1e-6
    assert float(ds["p_adjusted"].min()) > 0.05
    assert "no difference is significant" in PAGE
