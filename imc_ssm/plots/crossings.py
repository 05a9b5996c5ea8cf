"""Where a chip overtakes digital machines: what `costs.break_even` returns, a panel for each axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import xarray as xr

from imc_ssm.errors import ConfigError
from imc_ssm.plots.cells import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["over_machines"]


def over_machines(
    parts: Sequence[xr.Dataset], quantity: Literal["energy", "matrices", "latency", "area"] = "energy"
) -> Figure:
    """The chip's energy (latency, area) over that of each machine, both axes logarithmic, with a line at 1.

    `parts`: datasets of `costs.break_even`, one a panel. Bands are intervals; below the line the chip takes less.

    Raises `ConfigError` for none, or a dataset without that quantity.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    if not parts or any(quantity not in ds for ds in parts):
        raise ConfigError(f"{quantity!r} over machines needs one or more datasets of break_even")
    fig: Figure
    fig, axes = plt.subplots(1, len(parts), figsize=(4.2 * len(parts), 4.4), sharey=True, squeeze=False)
    for ds, ax in zip(parts, axes[0], strict=True):
        for i, name in enumerate(ds["machine"].values):
            low, middle, high = (ds[quantity].sel(machine=name, bound=b) for b in ("low", "nominal", "high"))
            ax.fill_between(ds["value"], low, high, color=COLOURS[i], alpha=0.12, lw=0)
            ax.plot(ds["value"], middle, color=COLOURS[i], marker=MARKERS[i], lw=1.8, ms=5, label=str(name))
        ax.axhline(1.0, color="black", lw=1, ls="--")
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ticks = [int(value) for value in ds["value"].values]
        shown = ticks[:: 1 + len(ticks) // 7]
        ax.set_xticks(shown, [f"{tick:,}" for tick in shown])
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel(str(ds["value"].attrs["long_name"]))
        ax.grid(alpha=0.25, lw=0.6)
    name = "Energy of matrices" if quantity == "matrices" else quantity.capitalize()
    axes[0, 0].set_ylabel(f"{name}, chip / machine")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="upper center", ncol=len(labels), frameon=False)
    fig.tight_layout(rect=(0, 0, 1, 0.92))
    return fig
