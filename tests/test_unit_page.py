"""`docs/quantization.md`, forms of the unit: tables and sentences are those of `experiments/unit`."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest

from imc_ssm import results
from imc_ssm.quantization import Scheme
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


def against(better, worse) -> str:
    """Seeds in which the first is better : worse than the second, ties left out, and the mean difference."""
    difference = np.round((better - worse).dropna("seed").values, 6)
    if not len(difference):
        return "-"
    return f"{(difference > 0).sum()} : {(difference < 0).sum()} ({difference.mean():+.1f})".replace("-", "\u2212")


def counted_roundings() -> list[list[str]]:
    """Seeds and mean difference of one rounding against another, by word."""
    bits = [10, 8, 7, 6, 5, 4]
    found = [["Better : worse, rounding", "task", "ranges", *(f"{b} bits" if b == 10 else str(b) for b in bits)]]
    for one, other in (("dithered", "to nearest"), ("dithered", "stochastic"), ("error feedback", "dithered")):
        for task, study in TASKS.items():
            ds = dataset("rounding", study)["accuracy"]
            for shared, kind in (("head", "head"), ("register", "state")):
                here = ds.sel(granularity=kind)
                pair = [here.sel(rounding=NAMES[name]) for name in (one, other)]
                cells = (against(*(values.sel(bits_state=b) for values in pair)) for b in bits)
                found.append([f"{one}, against {other}", task, shared, *cells])
    return found


def counted_rates() -> list[list[str]]:
    """Seeds and mean difference of slow heads against an update in every step."""
    ds = dataset("rates")["accuracy"]
    found = [["Better : worse, slow heads", "8 bits", "6 bits", "8 bits, to nearest", "6, to nearest"]]
    for limit in ds["rate_limit"].values[1:]:
        line = [f"{limit:g} rad, against every step"]
        for kind in ("dithered", "half_even"):
            for bits in (8, 6):
                here = ds.sel(rounding=kind, bits_state=bits)
                line.append(against(here.sel(rate_limit=limit), here.sel(rate_limit=0.0)))
        found.append(line)
    return found


def counted_forms() -> list[list[str]]:
    """Seeds and mean difference of one form of the poles against another."""
    bits = [8, 6, 5, 4]
    found = [["Better : worse, poles", "task", *(f"{b} bits" if b == 8 else str(b) for b in bits)]]
    for one, other in (
        ("log-polar", "cartesian"),
        ("log-polar", "polar"),
        ("log-polar, decay of 3 bits", "log-polar"),
    ):
        for task, study in TASKS.items():
            pair = [dataset("poles", study)["accuracy"].sel(form=form) for form in (one, other)]
            cells = (against(*(values.sel(bits_poles=b) for values in pair)) for b in bits)
            found.append([f"{one}, against {other}", task, *cells])
    return found


def counted_powers() -> list[list[str]]:
    """Seeds and mean difference of powers of two against free scales."""
    found = [["Better : worse, powers of two", "ranges", "heads", "8 bits", "6 bits"]]
    for task, study in TASKS.items():
        ds = dataset("scales", study)["accuracy"]
        for kind, shared in (("head", "head"), ("state", "register")):
            for limit, rate in ((0.0, "every step"), (1.5, "slow")):
                if task == "digits" and rate == "slow":
                    continue  # no head is: the same chips
                here = ds.sel(granularity=kind, rate_limit=limit)
                pair = (here.sel(scales="power_of_two"), here.sel(scales="free"))
                cells = (against(*(values.sel(bits_state=b) for values in pair)) for b in (8, 6))
                found.append([f"against free scales, {task}", shared, rate, *cells])
    return found


def counted_rows() -> list[list[str]]:
    """Seeds and mean difference of the forms of the unit, and of QAT, at the published words."""
    pairs = (("dithered", "literature"), ("slow heads", "dithered"), ("recommended", "slow heads"))
    names = [f"{one}, against {other}" for one, other in pairs]
    found = [["Better : worse, words", "heads", *names, "dithered and QAT, against dithered"]]
    for heads in ("16h", "64h"):
        ds, trained = (dataset(f"{name}_{heads}").isel(model=0)["accuracy"] for name in ("rows", "qat"))
        for words in ds["words"].values:
            here = ds.sel(words=words)
            line = [against(here.sel(unit=one), here.sel(unit=other)) for one, other in pairs]
            there = words in trained["words"].values
            line.append(
                against(trained.sel(words=words, unit="dithered"), here.sel(unit="dithered")) if there else ""
            )
            found.append([str(words), heads.removesuffix("h"), *line])
    return found


def needed() -> list[list[str]]:
    """Fewest bits of a state or a pole whose mean accuracy is within a point of full precision."""

    def fewest(values, over_bits: str, study: str) -> str:
        full = dataset("rows_16h", study)["accuracy"].isel(model=0, words=0).sel(unit="full precision")
        enough = values.mean("seed") >= full.mean("seed") - 1
        bits = enough[over_bits].values
        for k in range(len(bits)):
            if enough.values[k:].all():
                return str(bits[k])
        return f"more than {bits[-1]}"

    found = [["Bits that are needed", "ranges", *TASKS]]
    for name, rounding in NAMES.items():
        for shared, kind in (("head", "head"), ("register", "state")):
            at = {"rounding": rounding, "granularity": kind}
            cells = (fewest(dataset("rounding", s)["accuracy"].sel(at), "bits_state", s) for s in TASKS.values())
            found.append([f"state, {name}", shared, *cells])
    for form in dataset("poles")["form"].values:
        at = {"form": form}
        cells = (fewest(dataset("poles", s)["accuracy"].sel(at), "bits_poles", s) for s in TASKS.values())
        found.append([f"poles, {form}", "register", *cells])
    return found


def spoken() -> list[list[str]]:
    """Header and rows of the table of long sequences."""
    ds = dataset("spoken").isel(model=0)
    found = [
        ["Unit, 4,096 steps", "8 bits", "6 bits"],
        ["full precision", f"{float(ds['accuracy_exact']):.1f}", ""],
    ]
    for name in ds["unit"].values:
        here = ds["accuracy"].sel(unit=name)
        cells = [f"{float(here.sel(bits_state=b)):.1f}" for b in (8, 6)]
        found += [[str(name), *cells]]
    return found


TABLES = {
    "Rounding": roundings,
    "Words": rows,
    "Largest angle": slow,
    "Form of the poles": forms,
    "Scales": powers,
    "Better : worse, rounding": counted_roundings,
    "Better : worse, slow heads": counted_rates,
    "Better : worse, poles": counted_forms,
    "Better : worse, powers of two": counted_powers,
    "Better : worse, words": counted_rows,
    "Bits that are needed": needed,
    "Unit, 4,096 steps": spoken,
}


@pytest.mark.parametrize("first", TABLES)
def test_the_tables_are_those_of_the_datasets(first):
    assert table(first) == TABLES[first]()


def test_what_the_text_says_of_seeds():
    """Every seed of a row, where it says so."""
    ptq, trained = (dataset(name).isel(model=0)["accuracy"] for name in ("rows_16h", "qat_16h"))
    assert over(trained.sel(words="W4A6 A6 x6", unit="dithered")).min() > 93
    assert over(trained.sel(words="W4A6 A4 x5", unit="dithered")).min() > 90
    assert over(ptq.sel(words="W8A8 A8 x8", unit=["dithered", "slow heads", "recommended"]).min("unit")).min() > 96
    pairs = ptq.sel(unit="slow heads") - ptq.sel(unit="dithered")
    assert (int((pairs > 0).sum()), pairs.size) == (17, 20)
    for words in ("W8A8 A8 x8", "W4A6 A8 x8"):
        for unit in ("dithered", "slow heads", "recommended"):
            seeds = over(ptq.sel(words=words, unit=unit))
            assert len(seeds) == 5
            assert (seeds > 95).all(), (words, unit)


def test_the_order_of_the_roundings_is_that_of_every_seed():
    """sMNIST, a range per register, 8 to 5 bits; and feedback of 5 bits is better than dither of 6 in four."""
    ds = dataset("rounding")["accuracy"].sel(granularity="state")
    order = ds.sel(bits_state=[5, 6, 7, 8], rounding=["feedback", "dithered", "stochastic", "half_even"])
    assert order.sizes["seed"] == 5
    assert bool((order.diff("rounding") < 0).all())
    shorter = ds.sel(rounding="feedback", bits_state=5) > ds.sel(rounding="dithered", bits_state=6)
    assert int(shorter.sum()) == 4


def test_which_cells_a_gpu_computed():
    """Those that the page names: the ledger holds what computed a cell."""
    found = []
    for line in (EXPERIMENTS / "unit" / "results" / "ledger.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "H100" in record["about"].get("device", ""):
            job = record["identity"]["job"]
            scheme = Scheme.model_validate(job["scheme"])
            words = (scheme.bits.weights, scheme.bits.poles, scheme.bits.state)
            found.append((job["kind"], job["start"]["model"]["heads"], record["identity"]["seed"], *words))
    trained = [("qat", 16, seed, 4, 4, 5) for seed in (0, 1, 2)] + [("qat", 64, 0, 4, 4, 5)]
    untrained = 3 * [("ptq", 64, 1, 8, 8, 8)] + 3 * [("ptq", 64, 1, 4, 8, 8)] + [("ptq", 64, 1, 4, 6, 6)]
    assert sorted(found) == sorted(trained + untrained)


def test_fitted_weights_are_worth_more_than_bits():
    """6-bit states and slow heads: W4A6 A6 with fitted weights against 8 bits to the nearest codes."""
    fitted = dataset("rows_16h")["accuracy"].isel(model=0).sel(words="W4A6 A6 x6", unit="slow heads")
    nearest = dataset("rates")["accuracy"].sel(rounding="dithered", rate_limit=1.5, bits_state=6)
    assert against(fitted, nearest).startswith("5 : 0")
    assert f"{mean(fitted)} % in the words of W4A6 A6 x6, {mean(nearest)} with" in PAGE


def test_slow_heads_of_long_sequences():
    assert f"slow heads, {float(dataset('spoken')['updates'].sel(unit='dithered, slow heads')[0]):.0f} %" in PAGE


def test_nothing_is_slow_on_the_digits():
    """No head is left out at 1.5 rad: the same chip, code for code."""
    found = dataset("rates", "unit-digits")["accuracy"]
    np.testing.assert_array_equal(found.sel(rate_limit=0.0), found.sel(rate_limit=1.5))
    assert (found.sel(rate_limit=0.0) != found.sel(rate_limit=3.0)).any()
