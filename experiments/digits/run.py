"""The demo's claim over seeds: full precision, PTQ and noise-aware QAT at 8 bits on the digits, on chips.

    python experiments/digits/run.py [--design pcm-256] [--seeds 10]

Every seed trains and programs anew and is written as it comes (`results/DESIGN-seedN.nc`); a run that was
interrupted goes on with the seeds that are missing. The table and `results/DESIGN.nc` hold all of them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table

from imc_ssm import datasets, results, study
from imc_ssm.cli.report import stages

HERE = Path(__file__).parent / "results"


def one(design: str, seed: int) -> xr.Dataset:
    """The result of one seed, from its file or measured now."""
    path = HERE / f"{design}-seed{seed}.nc"
    config = study.StudyConfig(design=design, states=(8,), seed=seed)
    if path.exists():
        return results.load(path)
    start = time.perf_counter()
    with stages() as stage:
        ds = study.run(config, datasets.load(config.task), stage)
    ds.attrs["title"] = f"S4D on digits, {design}, seed {seed}"
    ds.attrs |= results.provenance(config.model_dump(mode="json"), seed, time.perf_counter() - start)
    results.save(ds, path)
    return ds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--design", default="pcm-256")
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args()
    runs = [one(args.design, seed) for seed in range(args.seeds)]
    ds = xr.concat(runs, dim="seed", combine_attrs="drop_conflicts").assign_coords(seed=np.arange(args.seeds))
    table = Table(title=f"digits on {args.design}, mean of {args.seeds} seeds (deviation over seeds), percent")
    for column in ("model", "digital", *(f"{t:g} s" for t in ds["time"].values)):
        table.add_column(column)
    for name in ds["model"].values:
        row = ds.sel(model=name)
        chips = row["accuracy"].mean("chip")
        cells = [row["accuracy_digital"], *(chips.isel(time=t) for t in range(ds.sizes["time"]))]
        table.add_row(str(name), *(f"{float(c.mean()):.2f} ({float(c.std(ddof=1)):.2f})" for c in cells))
    Console(width=110).print(table)
    results.save(ds, HERE / f"{args.design}.nc")


if __name__ == "__main__":
    main()
