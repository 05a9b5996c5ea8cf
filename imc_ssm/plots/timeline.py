"""A schedule over time: what `costs.Schedule.to_dataset` returns, a row a stage, a colour a resource."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from imc_ssm.plots.cells import COLOURS
from imc_ssm.units import prefix, quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["timeline"]


def timeline(ds: xr.Dataset, ax: Axes) -> Axes:
    """When each stage runs, sample by sample: the first in full colour, later ones fainter and numbered.

    Reads `start`, `end` (row; s), `utilisation` (resource), `period` (s). Dashed lines: starts of samples.
    """
    from matplotlib.patches import Patch

    stages = list(dict.fromkeys(ds["stage"].values.tolist()))
    resources = [str(name) for name in ds["resource"].values]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(resources)}
    factor, unit = prefix(float(ds["end"].max()), "s")
    start, end = ds["start"].values * factor, ds["end"].values * factor
    samples = ds["sample"].values
    count = int(samples.max()) + 1
    at = np.array([stages.index(name) for name in ds["stage"].values])
    for sample in range(count):
        own = samples == sample
        places = [colours[str(name)] for name in ds["place"].values[own]]
        shade = 1.0 - 0.6 * sample / max(count - 1, 1)
        # An edge of its colour: what is shorter than a pixel is seen.
        look: dict[str, Any] = {"color": places, "edgecolor": places, "lw": 0.9, "alpha": shade}
        ax.barh(at[own], (end - start)[own], left=start[own], height=0.72, **look)
        ax.axvline(sample * float(ds["period"]) * factor, color="#888888", ls="--", lw=0.9, zorder=0)
        if count > 1:
            first = start[own].min()
            ax.annotate(
                f"sample {sample + 1}", (first, -0.6), xytext=(2, 0), textcoords="offset points", fontsize=11
            )
    ax.set_yticks(range(len(stages)), stages)
    ax.set_ylim(len(stages) - 0.4, -1.1)
    ax.set_xlim(0, float(end.max()) * 1.01)
    ax.set_xlabel(f"Time ({unit})")
    period, latency = (quantity(float(ds[name]), "s") for name in ("period", "latency"))
    ax.set_title(f"{ds.attrs['mode'].capitalize()}: a sample every {period}, done after {latency}")
    busy = dict(zip(resources, ds["utilisation"].values, strict=True))
    handles = [Patch(color=colours[name], label=f"{name}: busy {100 * busy[name]:.0f} %") for name in resources]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    return ax
