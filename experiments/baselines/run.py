"""Where analog tiles win over digital machines: `baselines_AXIS.nc`, three figures and the tables of REPORT.md.

    python experiments/baselines/run.py

Untrained models on random sequences: counts and words follow from shapes. A minute.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import matplotlib.pyplot as plt
import xarray as xr

from imc_ssm import results
from imc_ssm.costs import break_even
from imc_ssm.costs.comparison import Axis
from imc_ssm.files import atomic_path
from imc_ssm.plots.crossings import over_machines

HERE = Path(__file__).parent
PAGE = HERE / "REPORT.md"
DESIGN, HEADS, STEPS = "pcm-256", 64, 128
FAR = ["microcontroller"]
"""In the tables alone: a thousand times the others."""
VALUES: dict[Axis, list[int]] = {
    "tile": [16, 32, 64, 128, 256, 512],
    "heads": [8, 16, 32, 64, 128, 256, 512],
    "steps": [4, 16, 64, 256, 1024, 4096],
}


def table(parts: dict[Axis, xr.Dataset]) -> str:
    """Ratios at the middle of the axes and at the ends of each, as Markdown."""
    machines = [str(name) for name in parts["heads"]["machine"].values]
    lines = ["| chip / machine | " + " | ".join(machines) + " |", "|---|" + "---:|" * len(machines)]
    for axis, ds in parts.items():
        for value in sorted({*ds["value"].values[[0, -1]], *{"tile": [256], "heads": [64], "steps": []}[axis]}):
            for quantity in ("energy", "matrices", "latency", "area"):
                found = (ds[quantity].sel(machine=name, value=value, bound="nominal") for name in machines)
                numbers = " | ".join(f"{float(ratio):.2g}" for ratio in found)
                lines.append(f"| {quantity}, {axis} {int(value)} | {numbers} |")
    return "\n".join(lines)


def main() -> None:
    """Compute, write, draw, put the table into the report."""
    parts: dict[Axis, xr.Dataset] = {}
    for axis in get_args(Axis):
        parts[axis] = break_even(axis, VALUES[axis], design=DESIGN, heads=HEADS, steps=STEPS)
        results.save(parts[axis], HERE / f"baselines_{axis}.nc")
    near = [ds.drop_sel(machine=FAR) for ds in parts.values()]
    for quantity in ("energy", "matrices", "latency"):
        fig = over_machines(near, quantity)  # type: ignore[arg-type]
        with atomic_path(HERE / f"baselines_{quantity}.png") as path:
            fig.savefig(path, dpi=110)
        plt.close(fig)
    text = PAGE.read_text(encoding="utf-8")
    new = f"<!-- ratios -->\n{table(parts)}\n<!-- end -->"
    PAGE.write_text(re.sub(r"<!-- ratios -->.*?<!-- end -->", lambda _: new, text, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    main()
