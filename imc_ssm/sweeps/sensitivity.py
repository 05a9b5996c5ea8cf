"""What to change first: one-at-a-time changes of every field around a design point, and what each is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import numpy as np
import xarray as xr

from imc_ssm.config import Config
from imc_ssm.devices import Cell, Chip, device_names
from imc_ssm.errors import ImcSsmError
from imc_ssm.files import canonical_json
from imc_ssm.results import provenance
from imc_ssm.sweeps.candidate import ChipObjective
from imc_ssm.sweeps.objective import Values
from imc_ssm.sweeps.point import ChipPoint
from imc_ssm.sweeps.workshop import Workshop
from imc_ssm.units import deviation, quantity

if TYPE_CHECKING:
    from imc_ssm.training import Progress

__all__ = ["Change", "advise", "changes_around"]

WORTH = 10.0
"""Percent of energy, latency or area that a point of accuracy is worth."""
_COSTS = ("energy", "latency", "area")
_WORDS = ("name", "description", "source", "sources", "components", "sample_hold", "cell", "type", "model", "kind")
"""Fields that are words for people, or names of what is varied otherwise."""
_SLICING = {"cells": 2, "bits": 4}
"""The slices that a design without any is tried with: an 8-bit magnitude in two devices."""


class Change(Config):
    """One field with another value."""

    path: str
    """Of the field."""
    value: Any
    """What it becomes."""
    before: str
    """What it was, in words."""
    after: str
    """What it becomes, in words."""
    direction: Literal["less", "more", "other"]
    """Whether a number falls or rises."""

    def __str__(self) -> str:
        return f"{self.path.removeprefix('design.')} {self.before} → {self.after}"


def changes_around(chip: Chip) -> list[Change]:
    """Changes of every field of a design and its cell: numbers halved and doubled, word lengths by one bit, other
    choices, other cells of the library."""
    found = list(_within("design", chip.design))
    if chip.design.slicing is None:
        found.append(_change("design.slicing", None, _SLICING, "none", "2 x 4 bits", "other"))
    others = [name for name in device_names("cells") if name not in (chip.cell.name, "ideal")]
    found += [_change("design.cell", chip.cell.name, name, chip.cell.name, name, "other") for name in others]
    found.append(_change("recurrence", "digital", "analog", "digital", "analog", "other"))
    return found + list(_within("cell", chip.cell))


def _within(path: str, owner: Config) -> Iterator[Change]:
    """Of the fields of a configuration, and of those within."""
    for name, field in type(owner).model_fields.items():
        if name in _WORDS or (isinstance(owner, Cell) and name == "times"):
            continue
        value, here = getattr(owner, name), f"{path}.{name}"
        cited = isinstance(value, Config) and {"value", "unit"} <= type(value).model_fields.keys()
        if isinstance(value, bool):
            yield _change(here, value, not value, _said(value), _said(not value), "other")
        elif words := _choices(field.annotation):
            for other in words:
                if other != value:
                    yield _change(here, value, other, _said(value), _said(other), "other")
        elif cited or isinstance(value, int | float):
            yield from _numbers(here, name, getattr(value, "value", value), value)
        elif isinstance(value, Config):
            if type(None) in get_args(field.annotation):
                yield _change(here, value, None, "as it is", "none", "less")
            yield from _within(here, value)


def _numbers(path: str, name: str, number: Any, value: Any) -> Iterator[Change]:
    if not isinstance(number, int | float) or isinstance(number, bool) or number == 0:
        return
    unit = getattr(value, "unit", "1")
    whole = isinstance(number, int) and not isinstance(value, Config)
    for factor, direction in ((0.5, "less"), (2.0, "more")):
        other: float | None = number * factor
        if name == "bits":
            other = number - 1 if factor < 1 else number + 1
        elif whole:
            other = int(number * factor) if (number * factor).is_integer() else None
        if other is not None:
            yield _change(path, number, other, _said(number, unit), _said(other, unit), direction)


def _change(path: str, old: Any, new: Any, before: str, after: str, direction: Any) -> Change:
    return Change.parse({"path": path, "value": new, "before": before, "after": after, "direction": direction})


def _choices(annotation: Any) -> tuple[Any, ...]:
    """The words that a field takes."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) in (Union, UnionType):
        return tuple(word for part in get_args(annotation) for word in _choices(part))
    return ()


def _said(value: Any, unit: str = "1") -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if unit == "m2":
            return f"{value * 1e12:.4g} µm2"
        return f"{value:.4g}" if unit == "1" else quantity(value, unit)
    return str(value)


def advise(
    point: ChipPoint | Mapping[str, Any],
    *,
    worth: float = WORTH,
    by: Literal["energy", "latency", "area", "all"] = "all",
    confirm: int = 3,
    folder: str | Path | None = None,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """What every field of a design is worth: each is changed alone, on the same chips and sequences.

        >>> import imc_ssm
        >>> from imc_ssm.sweeps import advise
        >>> data = imc_ssm.load_dataset("digits")
        >>> model = imc_ssm.Classifier(imc_ssm.ModelConfig(heads=4, n_state=4))
        >>> quantized = imc_ssm.quantize(model, "uniform", data)
        >>> imc_ssm.save_model("q.safetensors", quantized)
        >>> point = {"start": "q.safetensors", "task": "digits", "chips": 1, "sequences": 20, "times": "1s"}
        >>> found = advise(point, confirm=0)
        >>> bool((found["worth"].diff("change").values <= 0).all())
        True

    The worth of a change, in percent: `worth` for every point of accuracy that it wins (of other metrics: for
    every hundredth), and 100 ln(before / after) of energy, latency and area, or of the one that `by` names.
    Changes come in falling order of worth; those that a design cannot have are left out (attribute `refused`
    counts them).

    `accuracy_change`, points at the latest time (of other metrics hundredths), is the mean over chips of the
    paired difference and `accuracy_error` its standard error over chips; `energy_change` and the like are in
    percent. The first `confirm` changes are evaluated once more, on other chips (the next seed) and the whole
    split: `confirmed_change`, `confirmed_error`, and `confirmed_worth`. A change is a point for `made`, `again`
    and `written`, as those of a sweep: `again(ds.isel(change=0))`.

    Raises `ImcSsmError` for a point that cannot be.
    """
    objective = ChipObjective(point)
    base = objective.base
    metric = next(v.name for v in objective.variables if v.test)
    scale = 1.0 if metric == "accuracy" else 100.0
    tried = changes_around(base.chip())
    with TemporaryDirectory(prefix="imc-ssm-advise-") as place:
        shop = Workshop(Path(folder or place), data_dir)
        before = _measured(objective, {}, shop)
        rows, refused = [], 0
        for number, change in enumerate(tried):
            try:
                found = _measured(objective, {change.path: change.value}, shop)
            except ImcSsmError:
                refused += 1
                found = None
            if progress is not None:
                progress(number + 1, len(tried) + confirm, str(change))
            if found is not None:
                rows.append(_Row(change, before, found, metric, scale))
        rows.sort(key=lambda row: -row.worth(worth, by))
        ds = _dataset(rows, worth, by, metric, before)
        count = min(confirm, len(rows))
        if count:
            other = ChipObjective(base.at({"seed": base.seed + 1, "sequences": None}))
            start = _measured(other, {}, shop)
            again = []
            for place_, row in enumerate(rows[:count]):
                found = _measured(other, {row.change.path: row.change.value}, shop)
                again.append(_Row(row.change, start, found, metric, scale))
                if progress is not None:
                    progress(len(tried) + place_ + 1, len(tried) + confirm, f"once more: {row.change}")
            ds = ds.merge(_confirmed(again, len(rows), worth, by, ds["accuracy_change"].attrs["units"]))
    config = {"advise": base.model_dump(mode="json"), "worth": worth, "by": by, "confirm": confirm}
    ds.attrs |= provenance(config, base.seed)
    ds.attrs |= {"title": f"{Path(str(base.start)).name} on {base.design.name}", "refused": refused}
    ds.attrs |= {
        "metric": metric,
        "chips": base.chips,
        "time_s": base.times[-1],
        "worth_of_a_point": worth,
        "by": by,
    }
    ds.attrs |= objective.about()
    return ds


def _measured(objective: ChipObjective, changes: dict[str, Any], shop: Workshop) -> Values:
    out: Values = {}
    for piece in objective.measure(changes, shop):
        out |= piece
    return out


class _Row:
    """One change and what it did."""

    def __init__(self, change: Change, before: Values, after: Values, metric: str, scale: float) -> None:
        self.change, self.after = change, after
        sign = -1.0 if metric == "mae" else 1.0
        pairs = sign * scale * (after[metric][:, -1] - before[metric][:, -1])
        self.points = float(pairs.mean())
        self.error = deviation(pairs.tolist()) / np.sqrt(len(pairs))
        self.ratio = {n: float(after[f"{n}_total"] / before[f"{n}_total"]) for n in _COSTS}

    def worth(self, point: float, by: str) -> float:
        """In percent."""
        names = _COSTS if by == "all" else (by,)
        return point * self.points - 100.0 * sum(float(np.log(self.ratio[n])) for n in names)


def _dataset(rows: list[_Row], worth: float, by: str, metric: str, before: Values) -> xr.Dataset:
    changes = [row.change for row in rows]
    about = "Worth: accuracy won, and energy, latency and area saved"
    units, won = ("percent", "Accuracy") if metric == "accuracy" else ("1", f"Hundredths of {metric}")
    columns = {
        "accuracy_change": (units, f"{won} won", [row.points for row in rows]),
        "accuracy_error": (units, "Standard error of that over chips", [row.error for row in rows]),
        **{
            f"{n}_change": ("percent", f"Change of {n}", [100 * (row.ratio[n] - 1) for row in rows])
            for n in _COSTS
        },
        **{
            n: (u, f"{n.capitalize()} after the change", [float(row.after[f"{n}_total"]) for row in rows])
            for n, u in zip(_COSTS, ("J", "s", "m2"), strict=True)
        },
        "worth": ("percent", about, [row.worth(worth, by) for row in rows]),
    }
    ds = xr.Dataset(
        {name: ("change", values, {"units": u, "long_name": text}) for name, (u, text, values) in columns.items()}
    )
    texts = {
        "change": ("Change", [str(c) for c in changes]),
        "field": ("Field", [c.path.removeprefix("design.") for c in changes]),
        "path": ("Path of the field", [c.path for c in changes]),
        "before": ("Value before", [c.before for c in changes]),
        "after": ("Value after", [c.after for c in changes]),
        "direction": ("Whether the number falls or rises", [c.direction for c in changes]),
    }
    ds = ds.assign_coords(
        {n: ("change", np.asarray(v, str), {"units": "1", "long_name": text}) for n, (text, v) in texts.items()}
    )
    codes = np.asarray([canonical_json(c.value, what=c.path) for c in changes], str)
    ds["value"] = ("change", codes, {"units": "1", "long_name": "Value after, as JSON"})
    for name, unit in zip(_COSTS, ("J", "s", "m2"), strict=True):
        said = f"{name.capitalize()} before"
        ds[f"{name}_before"] = ((), float(before[f"{name}_total"]), {"units": unit, "long_name": said})
    said = f"{metric.capitalize()} before, mean of the chips at the latest time"
    ds["accuracy_before"] = ((), float(before[metric][:, -1].mean()), {"units": units, "long_name": said})
    return ds


def _confirmed(rows: list[_Row], count: int, worth: float, by: str, units: str) -> xr.Dataset:
    """What the first changes did on other chips; NaN for the rest."""
    out = {}
    said = "Accuracy" if units == "percent" else "Hundredths"
    for name, unit, text, values in (
        ("confirmed_change", units, f"{said} won on other chips, whole split", [row.points for row in rows]),
        ("confirmed_error", units, "Standard error of that over chips", [row.error for row in rows]),
        ("confirmed_worth", "percent", "Worth on other chips", [row.worth(worth, by) for row in rows]),
    ):
        padded = np.full(count, np.nan)
        padded[: len(values)] = values
        out[name] = ("change", padded, {"units": unit, "long_name": text})
    return xr.Dataset(out)
