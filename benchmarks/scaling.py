"""How the time of a training step grows with batch, heads, states and length, as rows and as a figure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs import FFT, FUSED, STEP, job
from measure import medians

__all__ = ["COMPARED", "VARIED", "draw", "grown"]

VARIED = {
    "batch": (1, 4, 16, 64, 256),
    "heads": (1, 4, 16, 64),
    "states": (4, 8, 16, 32, 64, 128),
    "time": (49, 196, 784, 3136),
}
"""What grows, each apart from the others."""
COMPARED = (FFT, FUSED, "fused, 8-bit, one rounding")
_REPEATS = 15
_LABELS = {"batch": "sequences", "heads": "heads", "states": "complex states per head", "time": "time steps"}
_LOOKS = (("#666666", "o", "-"), ("#4477AA", "s", "--"), ("#EE6677", "^", "-"))

Times = dict[str, dict[int, dict[str, float]]]


def grown() -> Times:
    """Median step time in s by what is varied, its value and the implementation.

    All sizes of one kind take turns in the same rounds, so that they meet the same load of the machine.
    """
    times: Times = {}
    for field, values in VARIED.items():
        shapes = {value: replace(STEP, **{field: value}) for value in values}
        steps = {f"{name} {value}": job(name, shapes[value]).step for value in values for name in COMPARED}
        found = medians(steps, dict.fromkeys(steps, _REPEATS))
        times[field] = {value: {name: found[f"{name} {value}"] for name in COMPARED} for value in values}
    return times


def draw(times: Times, threads: int, path: Path) -> None:
    """One panel for each of the four, logarithmic axes."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    with matplotlib.rc_context({"font.size": 13, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(11, 8.4), layout="constrained")
        panels: list[Any] = list(figure.subplots(2, 2, sharey=True).flat)
        for ax, (field, rows) in zip(panels, times.items(), strict=True):
            for name, (colour, marker, line) in zip(COMPARED, _LOOKS, strict=True):
                milliseconds = [1e3 * row[name] for row in rows.values()]
                ax.loglog(list(rows), milliseconds, line, marker=marker, color=colour, lw=2, ms=7, label=name)
            ax.set_xticks(list(rows), [str(value) for value in rows])
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.minorticks_off()
            ax.set_xlabel(f"Number of {_LABELS[field]}")
            ax.grid(alpha=0.3)
            ax.axvline(getattr(STEP, field), color="#BBBBBB", lw=1.2, ls=":", zorder=0)
        for ax in panels[::2]:
            ax.set_ylabel("Training step (ms)")
        shape = f"{STEP.batch} sequences, {STEP.heads} heads, {STEP.states} states, {STEP.time} steps"
        plural = "s" * (threads > 1)
        figure.suptitle(f"One training step, {threads} CPU thread{plural}; dotted: {shape}", fontsize=14)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path, dpi=120)
