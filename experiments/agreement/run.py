"""The agreement table: our product and cells against aihwkit's torch tile and models, and aihwkit-lightning.

    python experiments/agreement/run.py

writes `agreement.nc` and the tables of `docs/agreement.md`, in two minutes on one core.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import xarray as xr
from cell_agreement import agreement, cells
from product_agreement import AIHWKIT, CASES, LIGHTNING, Comparison, with_noise, without_noise

from imc_ssm import results
from imc_ssm.files import atomic_path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "agreement.md"


@dataclass(frozen=True)
class Size:
    """How much is compared."""

    samples: int = 2000
    """Sequences of each product without noise."""
    repeats: int = 2000
    """Draws of each place in each sample, with noise."""
    places: int = 20
    """Outputs tested in each product with noise."""
    devices: int = 200_000
    """Devices of each target and stage in each sample."""


LONG = {
    "clipped": ("percent", "Inputs beyond the DAC's range"),
    "saturated": ("percent", "Column sums beyond the ADC's range"),
    "n_outputs": ("1", "Outputs compared"),
    "differ": ("1", "Outputs whose codes differ"),
    "differ_dac": ("1", "Of them, with an input on an edge of the DAC"),
    "largest": ("1", "Largest difference, in ADC codes"),
    "edge": ("1", "Largest distance of the others to an edge of the ADC, in codes"),
    "rounding": ("1", "Largest difference where codes agree, over the largest output"),
}


def dataset(size: Size, cases=CASES, names: list[str] | None = None) -> xr.Dataset:
    """Everything compared: products over `case`, cells over `cell`, every p value over `test`."""
    start = time.perf_counter()
    names = cells() if names is None else names
    tests: list[tuple[str, str, float]] = []
    rows: list[dict[str, float]] = []
    for case in cases:
        row = without_noise(case, size.samples)
        # Noise does not depend on the cell; only with the ideal one have two seeds the same devices.
        found = with_noise(case, size.repeats, size.places) if case.cell == "ideal" else []
        rows.append(row | summary(found))
        tests += [(f"{case.other}: {case.label}", kind, p) for one in found for kind, p in one.p.items()]
        print(f"{case.other}: {case.label}: {row['differ']} of {row['n_outputs']} codes differ", flush=True)
    of_cells = []
    for name in names:
        each = agreement(name, size.devices)
        of_cells.append(summary(list(each.values())))
        tests += [(f"{name}: {where}", kind, p) for where, one in each.items() for kind, p in one.p.items()]
        print(name, of_cells[-1], flush=True)
    ds = xr.Dataset(
        coords={
            "case": ("case", [case.label for case in cases], {"units": "1", "long_name": "Product"}),
            "other": ("case", [case.other for case in cases], {"units": "1", "long_name": "Compared with"}),
            "cell": ("cell", names, {"units": "1", "long_name": "Memory cell"}),
            "tested": ("test", [name for name, _, _ in tests], {"units": "1", "long_name": "What was tested"}),
            "kind": ("test", [kind for _, kind, _ in tests], {"units": "1", "long_name": "Test"}),
        }
    )
    for name, (units, long) in LONG.items():
        ds[name] = ("case", [row[name] for row in rows], {"units": units, "long_name": long})
    for suffix, dim, found in (("", "case", rows), ("_cell", "cell", of_cells)):
        for name, long in SUMMARY.items():
            ds[name + suffix] = (dim, [row[name] for row in found], {"units": "1", "long_name": long})
    p = np.array([p for _, _, p in tests])
    ds["p"] = ("test", p, {"units": "1", "long_name": "p value"})
    ds["p_adjusted"] = ("test", holm(p), {"units": "1", "long_name": "p value, adjusted by Holm's method"})
    took = time.perf_counter() - start
    ds.attrs |= results.provenance(vars(size), 0, took)
    ds.attrs["aihwkit"] = version("aihwkit")
    if any(case.other == LIGHTNING for case in cases):
        ds.attrs["aihwkit_lightning"] = version("aihwkit-lightning")
    return ds


SUMMARY = {
    "tests": "Tests of two samples",
    "least_p": "Least p value",
    "deviation": "Deviation of ours over the other's, geometric mean",
    "deviation_error": "Standard error of the deviations' ratio",
}


def summary(found: list[Comparison]) -> dict[str, float]:
    """`SUMMARY` of comparisons; NaN where there is none."""
    p = [value for one in found for value in one.p.values()]
    noisy = [one for one in found if np.isfinite(one.ratio)]
    ratio, error = np.nan, np.nan
    if noisy:
        weights = np.array([one.error**-2.0 for one in noisy])
        ratio = float(np.exp(np.average([one.ratio for one in noisy], weights=weights) / 2))
        error = float(ratio / 2 / np.sqrt(weights.sum()))
    return {"tests": len(p), "least_p": min(p, default=np.nan), "deviation": ratio, "deviation_error": error}


def holm(p: np.ndarray) -> np.ndarray:
    """p values adjusted for their number: Holm, Scandinavian Journal of Statistics 6:65 (1979)."""
    order = np.argsort(p)
    out = np.empty_like(p)
    out[order] = np.minimum(1.0, np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]))
    return out


def tables(ds: xr.Dataset) -> dict[str, str]:
    """The tables of the page by the name between their marks."""
    out = {}
    for other, name in ((AIHWKIT, "aihwkit"), (LIGHTNING, "lightning")):
        part = ds.isel(case=np.flatnonzero(ds["other"].values == other))
        lines = [
            "| Product, bits of DAC and ADC | clipped, saturated | codes | differ | from an edge | rounding "
            "| noise: tests, least p | ratio of deviations |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for i in range(part.sizes["case"]):
            row = part.isel(case=i)
            get = {key: float(row[key]) for key in (*LONG, *SUMMARY)}
            differ = f"{get['differ']:.0f}" + (f" ({get['differ_dac']:.0f} DAC)" if get["differ_dac"] else "")
            noise, ratio = "", ""
            if get["tests"]:
                noise = f"{get['tests']:.0f}, {get['least_p']:.2g}"
                ratio = f"{get['deviation']:.4f} ± {get['deviation_error']:.4f}"
            cells = (
                str(row["case"].values),
                f"{get['clipped']:.1f} %, {get['saturated']:.1f} %",
                f"{get['n_outputs']:,.0f}",
                differ,
                f"{get['edge']:.1g}" if get["differ"] else "",
                f"{get['rounding']:.1g}",
                noise,
                ratio,
            )
            lines.append(f"| {' | '.join(cells)} |")
        out[name] = "\n".join(lines)
    lines = ["| Cell | tests | least p | ratio of deviations |", "|---|---|---|---|"]
    for i, name in enumerate(ds["cell"].values):
        get = {key: float(ds[f"{key}_cell"][i]) for key in SUMMARY}
        ratio = f"{get['deviation']:.4f} ± {get['deviation_error']:.4f}"
        lines.append(f"| {name} | {get['tests']:.0f} | {get['least_p']:.2g} | {ratio} |")
    out["cells"] = "\n".join(lines)
    n, total = int(ds["n_outputs"].sum()), ds.sizes["test"]
    least = int(ds["p"].values.argmin())
    differ, on_dac = (float(ds[key].sum()) for key in ("differ", "differ_dac"))
    edge, rounding = (float(ds[key].max()) for key in ("edge", "rounding"))
    adjusted = float(ds["p_adjusted"].values.min())
    out["summary"] = (
        f"Without noise {differ:.0f} of {n:,} outputs differ, each by one code of a tile: where a sum lies within "
        f"{edge:.1g} codes of an edge between two, and where an input lies on an edge of the DAC ({on_dac:.0f} of "
        f"them). Where codes agree, outputs are equal to {rounding:.1g} of the largest. With noise, {total} tests "
        f"of two samples: the least p is {float(ds['p'][least]):.2g}, {adjusted:.2g} after Holm's adjustment for "
        f"their number; {'no difference is' if adjusted > 0.05 else 'a difference is'} significant at 5 %."
    )
    return out


def put(page: str, ds: xr.Dataset) -> str:
    """`page` with the tables of `ds` between their marks."""
    for name, table in tables(ds).items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = page.partition(start)
        _, _, after = rest.partition(end)
        page = f"{before}{start}\n{table}\n{end}{after}"
    return page


def main() -> None:
    ds = dataset(Size())
    results.save(ds, HERE / "agreement.nc")
    text = put(PAGE.read_text(encoding="utf-8"), ds)
    with atomic_path(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
