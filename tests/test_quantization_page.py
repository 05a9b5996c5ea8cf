"""`docs/quantization.md`: its tables are those of the datasets, its code runs."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
import pytest

from imc_ssm import results
from imc_ssm.study.report import spread
from imc_ssm.units import deviation

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")
RESULTS = ROOT / "experiments" / "zhao2025" / "results"


def table(first: str) -> list[list[str]]:
    """The rows of the table whose header begins with a word, header first."""
    start = PAGE.index(f"| {first} |")
    lines = PAGE[start : PAGE.index("\n\n", start)].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("|--")]


def mean(name: str, **at: object) -> float:
    """Mean accuracy over the seeds that are there."""
    return float(np.nanmean(dataset(name)["accuracy"].sel(**at)))


@functools.cache
def dataset(name: str, model: str = "s4d-16h"):
    return results.load(RESULTS / f"{name}.nc").sel(model=model)


def test_the_table_of_single_parts():
    header, *rows = table("Rounded")
    widths = [int(word.split()[0]) for word in header[1:]]
    for name, *cells in rows:
        for bits, cell in zip(widths, cells, strict=True):
            if name in ("x", "other activations"):
                at = {"part": "x" if name == "x" else "activations", "calibration": "static", "bits": bits}
                assert float(cell) == pytest.approx(mean("fig2b", **at), abs=0.0501), (name, bits)
            else:
                assert float(cell) == pytest.approx(mean("fig2a", part=name, bits=bits), abs=0.0501), (name, bits)


def test_table_three():
    _, *rows = table("Scheme")
    for model, first in (("s4d-16h", 1), ("s4d-64h", 4)):
        ds = dataset("table3", model)
        assert [row[0] for row in rows] == [str(name) for name in ds["scheme"].values]
        for name, *cells in rows:
            ours, paper, saving = cells[first - 1 : first + 2]
            here = ds.sel(scheme=name)
            seeds = here["accuracy"].dropna("seed").values
            assert ours == (f"{spread(seeds.mean(), deviation(seeds))} ({len(seeds)})" if len(seeds) else "-"), (
                name
            )
            assert paper == spread(float(here["accuracy_paper"]), float(here["deviation_paper"]))
            assert saving == ("-" if name == "FP" else f"{float(here['memory_saving']):.2f}"), name


def test_the_code_prints_what_it_says(capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    code = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)[0]
    exec(compile(code, "quantization.md", "exec"), {})
    said = float(re.findall(r"# (\d+\.\d+) %", code)[0])
    assert float(capsys.readouterr().out) == pytest.approx(said, abs=0.0051)


def all_five(name: str, **at: object) -> np.ndarray:
    """Accuracy seed by seed."""
    values = dataset(name)["accuracy"].sel(**at).values
    assert values.shape == (5,)
    assert np.isfinite(values).all()
    return values


@functools.cache
def sentences() -> dict[str, str]:
    """What the text says in numbers, made from the datasets."""
    scale = {
        part: [mean("fig2c", part=part, granularity=kind, bits=8) for kind in ("tensor", "head", "state")]
        for part in ("x", "all")
    }
    scale["A"] = [mean("fig2c", part="A", granularity=kind, bits=8) for kind in ("tensor", "head")]
    frozen = dataset("fig5c")["accuracy"].sel(parameterisation="frozen", seed=0)
    lost = frozen.sel(bits_poles=16, bits_state=16) - frozen
    outside = dataset("fig4a")["poles_outside"].mean("seed")
    kernel = dataset("fig4b")["kernel_error"].sel(rounded="all", quantile=0.5).median("seed") * 100
    order = {
        (kind, bits, way): mean("order", granularity=kind, bits=bits, order=way)
        for kind in ("head", "state")
        for bits in (8, 10)
        for way in ("joint", "separate")
    }
    zero = {
        (part, kind): mean("fig2d", part=part, symmetry=kind, bits=8)
        for part in ("A", "x", "all")
        for kind in ("asymmetric", "symmetric")
    }
    everything = {
        (kind, bits, way): mean("order_all", granularity=kind, bits=bits, order=way)
        for kind in ("head", "state")
        for bits in (8, 10, 12)
        for way in ("joint", "separate")
    }
    few = dataset("fig2b")["accuracy"].sel(part="activations", bits=[4, 2]).mean("seed")
    few = few.sel(calibration="static") - few.sel(calibration="dynamic")
    six = dataset("fig2c")["accuracy"].sel(bits=6).mean("seed")
    return {
        "per tensor, head": "A alone reaches {:.1f} and {:.1f} %".format(*scale["A"]),
        "per tensor, head, state": "x alone reaches {:.1f}, {:.1f} and {:.1f} %, everything together "
        "{:.1f}, {:.1f} and {:.1f} %".format(*scale["x"], *scale["all"]),
        "six bits": f"(at most {float(six.max()):.0f} % in any line)",
        "frozen, 16 bits": f"16 bits for both reach {float(frozen.sel(bits_poles=16, bits_state=16)):.2f} %",
        "frozen, poles": "of 7 bits {:.1f} points, of 6 bits {:.1f};".format(
            *lost.sel(bits_poles=[7, 6], bits_state=16).values
        ),
        "frozen, states": "states of 8 bits lose {:.1f} points, of 7 bits {:.1f}, of 6 bits {:.1f}:".format(
            *lost.sel(bits_poles=16, bits_state=[8, 7, 6]).values
        ),
        "outside": "{:.0f} % of them at 8 bits, {:.0f} % at 6, {:.0f} % at 4".format(
            *outside.sel(bits=[8, 6, 4]).values
        ),
        "kernel": "{:.1f} % at 16 bits, {:.0f} % at 8".format(*kernel.sel(bits=[16, 8]).isel(step=-1).values),
        "first steps": "{:.1f} % at 8 bits and {:.0f} % at 4".format(*kernel.sel(bits=[8, 4], step=2).values),
        "order, head, 8": "({:.1f} against {:.1f} %) and at 10 ({:.1f} against {:.1f} %".format(
            *(order["head", bits, way] for bits in (8, 10) for way in ("joint", "separate"))
        ),
        "order, state, 8": "all five ({:.1f} against {:.1f} %)".format(
            *(order["state", 8, way] for way in ("joint", "separate"))
        ),
        "order, everything": "bits {:.2f} against {:.2f} %, at 10 bits {:.1f} against {:.1f} %".format(
            *(everything["head", 12, way] for way in ("joint", "separate")),
            *(everything["head", 10, way] for way in ("joint", "separate")),
        ),
        "per state, rounded once": "10 bits ({:.1f} against {:.1f} %) and in four at 8 "
        "({:.1f} against {:.1f} %)".format(
            *(everything[kind, bits, "joint"] for bits in (10, 8) for kind in ("state", "head"))
        ),
        "rates of pre-training": "reaches {:.2f} % at 1e-2 and {:.2f} % at 1e-3 (test".format(
            *(mean("rates", stage="pre-training", batch=512, rate=rate) for rate in (1e-2, 1e-3))
        ),
        "rates of QAT": "{:.2f} % at 1e-2, {:.2f} % at 1e-3 and {:.2f} % at 1e-4 in batches of 64, and "
        "{:.2f}, {:.2f} and {:.2f} % in batches of 512".format(
            *(
                mean("rates", stage="QAT W4A6 A8 x8", batch=batch, rate=rate)
                for batch in (64, 512)
                for rate in (1e-2, 1e-3, 1e-4)
            )
        ),
        "width": "8 bits leave {:.1f} % of 64 heads (two seeds) and {:.1f} % of 16".format(
            *(float(dataset("fig3", name)["accuracy"].sel(bits=8).mean()) for name in ("s4d-64h", "s4d-16h"))
        ),
        "width and QAT": "64 heads are {:.2f} points from full precision, 16 heads {:.2f}".format(
            *(
                float((wide.sel(scheme="FP") - wide.sel(scheme="W4A6 A8 x8")).mean())
                for wide in (dataset("table3", name)["accuracy"] for name in ("s4d-64h", "s4d-16h"))
            )
        ),
        "dynamic ranges": "in all five, by {:.1f} and {:.1f} points on average".format(*few.values),
        "zero point": "A {:.1f} against {:.1f} %, x {:.1f} against {:.1f} %".format(
            *(zero[part, kind] for part in ("A", "x") for kind in ("asymmetric", "symmetric"))
        ),
        "parameterisations": "frozen, {:.2f} % are reached, continuous {:.2f} %".format(
            *(mean("fig5a", parameterisation=kind) for kind in ("frozen", "continuous"))
        ),
        "64 heads": "frozen reaches {:.2f} %, continuous {:.2f} %, discrete at 1e-2 {:.2f} %".format(
            *(
                float(dataset("fig5b", "s4d-64h")["accuracy"].sel(parameterisation=kind, seed=0))
                for kind in ("frozen", "continuous", "discrete")
            )
        ),
        "discrete": f"Discrete A falls behind, {mean('fig5a', parameterisation='discrete'):.2f} %",
        "a rate of its own": "(one seed: {:.2f} %; {:.2f} % at 1e-2)".format(
            *(mean("discrete", rate_ssm=rate) for rate in (1e-4, 1e-2))
        ),
        "zero point, all": "({:.1f} and {:.1f} %)".format(
            *(zero["all", kind] for kind in ("asymmetric", "symmetric"))
        ),
    }


@pytest.mark.parametrize("name", sentences())
def test_the_numbers_in_the_text(name):
    assert sentences()[name] in " ".join(PAGE.split())


def test_what_the_text_says_of_seeds():
    """Differences seed by seed, where it says how many agree."""
    by_order = {
        (kind, bits): all_five("order", granularity=kind, bits=bits, order="joint")
        - all_five("order", granularity=kind, bits=bits, order="separate")
        for kind in ("head", "state")
        for bits in (8, 10, 12)
    }
    assert (by_order["head", 8] > 0).sum() == (by_order["head", 10] > 0).sum() == 4
    assert by_order["head", 10].max() == pytest.approx(33, abs=0.5)
    assert (by_order["state", 12] > 0).all()
    assert by_order["state", 12].mean() == pytest.approx(0.3, abs=0.05)
    assert (by_order["state", 8] < 0).all()
    assert by_order["state", 8].mean() == pytest.approx(-7, abs=0.5)
    for part in ("x", "all"):
        gain = all_five("fig2c", part=part, granularity="state", bits=8) - all_five(
            "fig2c", part=part, granularity="head", bits=8
        )
        assert (gain > 0).all(), part
    for bits, count in ((8, 4), (10, 5)):
        kinds = (all_five("order_all", granularity=k, bits=bits, order="joint") for k in ("state", "head"))
        assert (next(kinds) > next(kinds)).sum() == count, bits
    best = dataset("order_all")["accuracy"].sel(bits=[8, 10]).mean("seed")
    assert (best.max(("granularity", "order")) == best.sel(granularity="state", order="joint")).all()
    poles = dataset("fig5c")["accuracy"].sel(parameterisation="frozen", seed=0, bits_state=16)
    assert float(poles.sel(bits_poles=8)) > float(poles.sel(bits_poles=16))
    for bits, count in ((4, 4), (2, 5)):
        ways = (all_five("fig2b", part="activations", bits=bits, calibration=c) for c in ("static", "dynamic"))
        assert (next(ways) > next(ways)).sum() == count, bits
    for part, count in (("A", 5), ("x", 5), ("all", 4)):
        gain = all_five("fig2d", part=part, symmetry="asymmetric", bits=8) - all_five(
            "fig2d", part=part, symmetry="symmetric", bits=8
        )
        assert (gain > 0).sum() == count, part
    frozen, continuous = (all_five("fig5a", parameterisation=kind) for kind in ("frozen", "continuous"))
    assert (frozen > continuous).sum() == 4
    for model, least, most, near in (("s4d-16h", 0.8, 21, 0.5), ("s4d-64h", 0.35, 10.5, 0.05)):
        trained = dataset("table3", model).drop_sel(scheme=["FP", "PTQ W4A6 A8 x8"])
        above = trained["accuracy"] - trained["accuracy_paper"]
        assert (above.values[np.isfinite(above.values)] > 0).all()
        assert float(above.mean("seed").min()) == pytest.approx(least, abs=0.05)
        assert float(above.mean("seed").max()) == pytest.approx(most, abs=near)
    wide = dataset("table3", "s4d-64h").mean("seed")
    ptq = wide.sel(scheme="PTQ W4A6 A8 x8")
    apart = (ptq["accuracy"] - ptq["accuracy_paper"]) / ptq["deviation_paper"]
    assert float(apart) == pytest.approx(1.4, abs=0.05)
    lost = wide["accuracy"].sel(scheme="FP") - wide["accuracy"].sel(scheme="W4A6 A6 x6")
    assert float(lost) == pytest.approx(4, abs=0.5)
    assert float(dataset("table3")["accuracy"].sel(scheme="W4A6 A16 x16").mean()) > mean("table3", scheme="FP")


def test_poles_that_leave_move_up():
    """Nearly all have a real part that was rounded up; slow heads have a range of 1."""
    poles = dataset("fig4a")["pole"]
    full, rounded = (poles.sel(bits=bits).transpose("part", "seed", "head", "state").values for bits in (32, 8))
    gone = np.hypot(*rounded) >= 1
    assert 100 * (rounded[0] > full[0])[gone].mean() == pytest.approx(98, abs=0.51)
    memory = np.median(1 / (1 - np.hypot(*full)), axis=-1)
    slow = memory > 210
    width = full.max((0, -1)) - full.min((0, -1))
    assert slow.mean() > 0.5
    np.testing.assert_allclose(width[slow], 1.0, atol=0.03)
