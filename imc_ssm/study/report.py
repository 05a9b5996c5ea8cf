"""Ours beside the paper's: rows, their difference in the paper's deviations, and Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from imc_ssm.study.declare import Experiment
from imc_ssm.units import deviation, duration

__all__ = [
    "Comparison",
    "Row",
    "compare",
    "comparison_table",
    "headlines",
    "markdown",
    "summary_table",
]


@dataclass(frozen=True)
class Comparison:
    """Mean and deviation over seeds of one cell, beside published ones."""

    mean: float
    """Percent; NaN without a seed."""
    deviation: float
    """Sample standard deviation over seeds; NaN with fewer than two."""
    seeds: int
    paper: float
    paper_deviation: float

    @property
    def difference(self) -> float:
        """(ours - paper) / the paper's deviation; NaN where either is missing."""
        if not self.paper_deviation > 0:
            return math.nan
        return (self.mean - self.paper) / self.paper_deviation


@dataclass(frozen=True)
class Row:
    """One line of a comparison."""

    at: tuple[str, ...]
    """Value of every dimension."""
    accuracy: Comparison
    constants: tuple[tuple[float, float], ...]
    """Ours and the paper's of every constant of the experiment."""


def compare(ds: xr.Dataset, experiment: Experiment) -> list[Row]:
    """One row for every cell that has a published accuracy, or a published constant."""
    rows = []
    for at, _ in experiment.grid():
        here = ds.sel(at)
        values = here["accuracy"].values
        mean, over_seeds, seeds = _statistics(values)
        published = [float(here[name]) for name in ("accuracy_paper", "deviation_paper") if name in here]
        constants = tuple((float(here[n]), float(here[f"{n}_paper"])) for n in experiment.constants)
        if published and not (math.isnan(published[0]) and all(math.isnan(p) for _, p in constants)):
            accuracy = Comparison(mean, over_seeds, seeds, *published)
            rows.append(Row(tuple(map(str, at.values())), accuracy, constants))
    return rows


def _statistics(values: np.ndarray) -> tuple[float, float, int]:
    """Mean, sample deviation and number of the seeds that are there."""
    there = values[~np.isnan(values)]
    mean = float(there.mean()) if there.size else math.nan
    return mean, deviation(there), int(there.size)


def comparison_table(ds: xr.Dataset, experiment: Experiment) -> tuple[list[str], list[list[str]]]:
    """Header and cells, as text."""
    header = [*experiment.dimensions, "ours", "seeds", "paper", "difference"]
    for name in experiment.constants:
        text = str(ds[name].attrs["long_name"]).lower()
        header += [text, f"{text}, paper"]
    rows = []
    for row in compare(ds, experiment):
        a = row.accuracy
        cells = [
            *row.at,
            spread(a.mean, a.deviation),
            str(a.seeds),
            spread(a.paper, a.paper_deviation),
        ]
        cells.append("-" if math.isnan(a.difference) else f"{a.difference:+.1f}")
        for pair in row.constants:
            cells += ["-" if math.isnan(v) else f"{v:.2f}" for v in pair]
        rows.append(cells)
    return header, rows


def headlines(ds: xr.Dataset, experiment: Experiment) -> dict[str, xr.DataArray]:
    """What the report shows of an experiment, by title: its headline, and the test accuracy if that is another.

    Choices are made by the one, results are the other.
    """
    plain = (*experiment.dimensions, "seed")
    shown = [experiment.headline(ds), *(ds[v] for v in ("accuracy",) if v in ds and ds[v].dims == plain)]
    return {f"{v.attrs.get('long_name', '')} ({v.attrs.get('units', '1')})": v for v in shown}


def summary_table(values: xr.DataArray, experiment: Experiment) -> tuple[list[str], list[list[str]]]:
    """A headline over its seeds: rows over all dimensions but the last, columns over that.

    "97.20 ± 0.25 (4)" is of four seeds where five are declared, "-" a cell that is not computed, "" none.
    """
    *rows, last = (str(dim) for dim in values.dims if dim != "seed")
    columns = [f"{last}={v}" for v in values[last].values]
    declared = [{name: at[name] for name in (*rows, last) if name in at} for at, _ in experiment.grid()]
    percent = values.attrs.get("units") == "percent"

    def declares(at: dict[str, object]) -> bool:
        return {name: value for name, value in at.items() if name in experiment.dimensions} in declared

    table = []
    for at in _points(values, rows):
        numbers = [values.sel(at | {last: v}).values for v in values[last].values]
        if all(np.isnan(seeds).all() for seeds in numbers):
            continue
        cells = [
            _cell(seeds, experiment, percent) if declares(at | {last: v}) else ""
            for v, seeds in zip(values[last].values, numbers, strict=True)
        ]
        table.append([*(str(v) for v in at.values()), *cells])
    return [*rows, *columns], table


def _cell(values: np.ndarray, experiment: Experiment, percent: bool) -> str:
    """The seeds of a cell in a few words."""
    mean, over_seeds, count = _statistics(values)
    there = values[~np.isnan(values)]
    if experiment.center == "median" and count:
        text = _number(float(np.median(there)), percent)
        if count > 1:
            text += f" ({_number(float(there.min()), percent)} to {_number(float(there.max()), percent)})"
    else:
        text = spread(mean, over_seeds, percent)
    return f"{text} ({count})" if 0 < count < len(experiment.all_seeds) else text


def _points(values: xr.DataArray, dims: Sequence[object]) -> Iterator[dict[str, object]]:
    shape = [values.sizes[str(dim)] for dim in dims]
    for index in np.ndindex(*shape):
        yield {str(dim): values[dim].values[i] for dim, i in zip(dims, index, strict=True)}


def spread(mean: float, over_seeds: float, percent: bool = True) -> str:
    """ "97.20 ± 0.25", without the deviation where there is none, "-" for NaN."""
    if math.isnan(mean):
        return "-"
    return _number(mean, percent) + ("" if math.isnan(over_seeds) else f" ± {_number(over_seeds, percent)}")


def _number(value: float, percent: bool) -> str:
    """Percent to 0.01, all else to three digits."""
    return f"{value:.2f}" if percent else f"{value:.3g}"


def markdown(title: str, source: str, parts: Sequence[tuple[Experiment, xr.Dataset, str | None]]) -> str:
    """The report: `parts` are experiments, their datasets, and the figures' paths relative to the report."""
    lines = [f"# {title}", ""]
    if source:
        lines += [f"Ours beside {source}.", ""]
    lines += [
        "Accuracies in percent on the test sequences, mean ± sample deviation over the declared seeds, or over as "
        "many as a number in brackets says; `difference` is (ours - paper) in the paper's deviations. Tables have "
        "the paper's numbers beside ours, figures ours alone. A dash is a cell that is not computed yet, or a "
        "number that is not published; an empty field is no cell; `1 (0.8 to 3)` is the median and the range of "
        "the seeds. Compute times include the trainings that cells share, so they do not add up over experiments. "
        "Written by `imc-ssm experiment report`.",
        "",
    ]
    for experiment, ds, picture in parts:
        done, cells = int(ds.attrs["cells_done"]), int(ds.attrs["cells"])
        lines += [f"## {experiment.name}: {experiment.title}", ""]
        lines += [f"{done} of {cells} cells, {duration(float(ds.attrs['compute_time_s']), 2)} of computation.", ""]
        if experiment.paper:
            lines += [*_markdown_table(*comparison_table(ds, experiment)), ""]
        elif done:
            for name, values in headlines(ds, experiment).items():
                lines += [f"{name}:", "", *_markdown_table(*summary_table(values, experiment)), ""]
        if picture is not None and done:
            lines += [f"![{experiment.title}]({picture})", ""]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(header), "|" + "---|" * len(header), *(line(row) for row in rows)]
