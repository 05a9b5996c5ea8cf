"""`docs/quantization.md`, forms of the unit: tables and sentences are those of `experiments/unit`."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from imc_ssm import results
from imc_ssm.study.report import spread
from imc_ssm.units import deviation

ROOT = Path(__file__).parent.parent
EXPERIMENTS = ROOT / "experiments"
PAGE = (ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")
TASKS = {"sMNIST": "unit", "digits": "unit-digits"}
NAMES = {
    "to nearest": "half_even",
    "stochastic": "stochastic",
    "error feedback": "feedback",
    "dithered": "dithered",
}


@functools.cache
def dataset(name: str, study: str = "unit"):
    return results.load(EXPERIMENTS / study / "results" / f"{name}.nc")


def table(first: str) -> list[list[str]]:
    """The rows of the table whose header begins with a word, header first."""
    start = PAGE.index(f"| {first} |")
    lines = PAGE[start : PAGE.index("\n\n", start)].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("|--")]


def over(values) -> np.ndarray:
    """The seeds that are there."""
    return values.dropna("seed").values


def cell(values) -> str:
    """ "96.12 ± 0.38 (5)", as the tables print a cell; "-" where nothing is."""
    seeds = over(values)
    return f"{spread(seeds.mean(), deviation(seeds))} ({len(seeds)})" if len(seeds) else "-"


def mean(values) -> str:
    """Mean over the seeds that are there; "-" where none is."""
    seeds = over(values)
    return f"{seeds.mean():.1f}" if len(seeds) else "-"


def roundings() -> list[list[str]]:
    """Header and rows of the table of roundings."""
    bits = [10, 8, 7, 6, 5, 4]
    found = [["Rounding", "task", "ranges", *(f"{b} bits" if b == 10 else str(b) for b in bits)]]
    for task, study in TASKS.items():
        ds = dataset("rounding", study)["accuracy"]
        for shared, kind in (("head", "head"), ("register", "state")):
            for name, rounding in NAMES.items():
                here = ds.sel(granularity=kind, rounding=rounding)
                if here.notnull().any():
                    found.append([name, task, shared, *(mean(here.sel(bits_state=b)) for b in bits)])
    return found


def rows() -> list[list[str]]:
    """Header and rows of the table of published rows, without training and after it."""
    found = [["Words", "unit", "16 heads", "64 heads", "16 heads, QAT", "64 heads, QAT"]]
    heads = {h: dataset(f"rows_{h}").isel(model=0) for h in ("16h", "64h")}
    trained = {h: dataset(f"qat_{h}").isel(model=0)["accuracy"] for h in ("16h", "64h")}
    found.append(["full precision", "", *(cell(ds["accuracy"].isel(words=0, unit=0)) for ds in heads.values())])
    found[-1] += ["", ""]
    for words in heads["16h"]["words"].values:
        for unit in ("literature", "dithered", "slow heads", "recommended"):
            line = [str(words), unit, *(cell(ds["accuracy"].sel(words=words, unit=unit)) for ds in heads.values())]
            there = unit == "dithered" and words in trained["16h"]["words"].values
            line += [cell(ds.sel(words=words, unit=unit)) if there else "" for ds in trained.values()]
            if set(line[2:]) - {"-", ""}:
                found.append(line)
    return found


def slow() -> list[list[str]]:
    """Header and rows of the table of slow heads."""
    ds, priced = dataset("rates")["accuracy"], dataset("energy_rates").isel(seed=0)
    found = [
        ["Largest angle", "updates left", "energy", "8 bits", "6 bits", "8 bits, to nearest", "6, to nearest"]
    ]
    whole = float(priced["energy_recurrence"].sel(rounding="dithered", rate_limit=0.0, bits_state=8))
    for limit in ds["rate_limit"].values:
        at = {"rounding": "dithered", "bits_state": 8, "rate_limit": limit}
        line = [
            "every step" if limit == 0 else f"{limit:g} rad",
            f"{100 * float(priced['updates'].sel(at)):.0f} %",
        ]
        line.append(f"{100 * float(priced['energy_recurrence'].sel(at)) / whole:.0f} %")
        for kind in ("dithered", "half_even"):
            values = ds.sel(rounding=kind, rate_limit=limit)
            line += [mean(values.sel(bits_state=b)) for b in (8, 6)]
        found.append(line)
    return found


def forms() -> list[list[str]]:
    """Header and rows of the table of pole forms."""
    bits = [8, 6, 5, 4]
    found = [["Form of the poles", "task", *(f"{b} bits" if b == 8 else str(b) for b in bits)]]
    for task, study in TASKS.items():
        ds = dataset("poles", study)["accuracy"]
        for form in ds["form"].values:
            here = ds.sel(form=form)
            found.append([str(form), task, *(mean(here.sel(bits_poles=b)) for b in bits)])
    return found


def powers() -> list[list[str]]:
    """Header and rows of the table of scales."""
    found = [["Scales", "ranges", "heads", "8 bits", "6 bits", "energy, 8 bits", "energy, 6 bits"]]
    ds, priced = dataset("scales")["accuracy"], dataset("energy_scales")["energy_recurrence"].isel(seed=0)
    for scales, name in (("free", "free"), ("power_of_two", "powers of two")):
        for kind, shared in (("head", "head"), ("state", "register")):
            for limit, rate in ((0.0, "every step"), (1.5, "slow")):
                at = {"scales": scales, "granularity": kind, "rate_limit": limit}
                if not ds.sel(at).notnull().any():
                    continue
                line = [name, shared, rate, *(mean(ds.sel(at | {"bits_state": b})) for b in (8, 6))]
                line += [f"{1e9 * float(priced.sel(at | {'bits_state': b})):.2f} nJ" for b in (8, 6)]
                found.append(line)
    return found


TABLES = {
    "Rounding": roundings,
    "Words": rows,
    "Largest angle": slow,
    "Form of the poles": forms,
    "Scales": powers,
}


@pytest.mark.parametrize("first", TABLES)
def test_the_tables_are_those_of_the_datasets(first):
    assert table(first) == TABLES[first]()


def test_what_the_text_says_of_seeds():
    """Every seed of a row, where it says so."""
    ptq, trained = (dataset(name).isel(model=0)["accuracy"] for name in ("rows_16h", "qat_16h"))
    assert over(trained.sel(words="W4A6 A6 x6", unit="dithered")).min() > 93
    for words in ("W8A8 A8 x8", "W4A6 A8 x8"):
        for unit in ("dithered", "slow heads", "recommended"):
            seeds = over(ptq.sel(words=words, unit=unit))
            assert len(seeds) == 5
            assert (seeds > 95).all(), (words, unit)


def test_nothing_is_slow_on_the_digits():
    """No head is left out at 1.5 rad: the same chip, code for code."""
    found = dataset("rates", "unit-digits")["accuracy"]
    np.testing.assert_array_equal(found.sel(rate_limit=0.0), found.sel(rate_limit=1.5))
    assert (found.sel(rate_limit=0.0) != found.sel(rate_limit=3.0)).any()
