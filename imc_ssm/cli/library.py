"""The device library as tables: cells, designs, and one of them with the source of every number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from imc_ssm.cli.report import console
from imc_ssm.devices import (
    Cell,
    CellFit,
    Components,
    Design,
    device_names,
    device_path,
    load_cell,
    load_design,
    load_entry,
    resolve,
)
from imc_ssm.devices.library import Kind
from imc_ssm.errors import DesignError
from imc_ssm.units import quantity

__all__ = ["fitted", "show", "shown_cells", "toml_of"]

KINDS: tuple[Kind, ...] = ("cells", "designs", "components")


def show(name: str | None) -> dict[str, Any]:
    """Print the whole library, or one entry with its sources; returns what was printed as plain data."""
    if name is not None:
        return _one(name)
    cells = [load_cell(n) for n in device_names("cells")]
    designs = [load_design(n) for n in device_names("designs")]
    table = Table(title="Memory cells", box=SIMPLE, padding=(0, 1, 0, 0))
    for column in ("cell", "kind", "conductance", "levels", "times"):
        table.add_column(column, no_wrap=True)
    for cell in cells:
        span = f"{quantity(cell.g_min.value, 'S')} to {quantity(cell.g_max.value, 'S')}"
        levels = "continuous" if cell.levels is None else f"{cell.levels.value:g}"
        times = cell.times.only or (cell.times.earliest, cell.times.latest)
        moments = (", " if cell.times.only else " to ").join(f"{t:g}" for t in times) + " s"
        table.add_row(cell.name, cell.kind, span, levels, moments)
    console.print(table)
    table = Table(title="Chip designs", box=SIMPLE, padding=(0, 1, 0, 0))
    for column in ("design", "cell", "tiles", "DAC, ADC"):
        table.add_column(column, no_wrap=True)
    for design in designs:
        tiles = f"{design.tiles} x {design.rows} x {design.columns}"
        converters = f"{design.dac.bits}, {design.adc.bits} b"
        table.add_row(design.name, design.cell, tiles, converters)
    console.print(table)
    for design in designs:
        console.print(f"{design.name}: {design.description}")
    tables = device_names("components")
    console.print(f"Component tables: {', '.join(tables)}")
    console.print("`imc-ssm devices NAME` (or FILE.toml) shows one with the source of every number.")
    return {"cells": [_dump(c) for c in cells], "designs": [_dump(d) for d in designs]}


def shown_cells(name: str | None) -> list[Cell]:
    """The shipped cells, or the one of this name or TOML; of a design, its cell.

    Raises `DesignError` for a component table.
    """
    if name is None:
        return [load_cell(n) for n in device_names("cells")]
    entry = load_entry(name)
    if isinstance(entry, Components):
        raise DesignError(f"{name} is a component table; a figure shows memory cells")
    return [resolve(name).cell if isinstance(entry, Design) else entry]


def toml_of(name: str) -> str:
    """The text of the TOML behind a name or path."""
    kind: Kind = next((kind for kind in KINDS if name in device_names(kind)), "cells")
    return device_path(kind, name).read_text(encoding="utf-8")


def _one(name: str) -> dict[str, Any]:
    entry = load_entry(name)
    if isinstance(entry, Design):
        resolve(name)  # what it refers to is there and right
    content = _dump(entry)
    sources = content.pop("sources", None) or {}
    table = Table(title=name)
    for column in ("field", "value", "source"):
        table.add_column(column)
    for field, value, source in _rows(content):
        table.add_row(field, value, source or str(sources.get(field, "")))
    console.print(table)
    return content | ({"sources": sources} if sources else {})


def fitted(fit: CellFit) -> Table:
    """What was fitted, with its confidence and how well it fits."""
    table = Table(title=f"{fit.cell.name}: fitted to {len(fit.data)} readings", box=SIMPLE, padding=(0, 1, 0, 0))
    for column in ("quantity", "value", "95 %"):
        table.add_column(column, no_wrap=True)
    table.add_column("goodness of fit")
    for line in fit.lines:
        ends = line.value if isinstance(line.value, tuple) else (line.value,)
        shown = f"{min(ends):.3g} to {max(ends):.3g}" if len(ends) > 1 else f"{ends[0]:.3g}"
        between = "" if line.interval is None else " to ".join(f"{end:.3g}" for end in line.interval)
        table.add_row(line.what, shown + ("" if line.unit == "1" else f" {line.unit}"), between, line.quality)
    return table


def _rows(content: dict[str, Any], outer: str = "") -> Iterator[tuple[str, str, str]]:
    """Field, value and source of every number, also of those inside others."""
    for name, value in content.items():
        field = f"{outer}{name}"
        if value is None or (name == "source" and outer):
            continue
        if isinstance(value, dict):
            inner = any(isinstance(part, dict | list) and part for part in value.values())
            if "value" in value and "unit" in value:
                at = value.get("against") or ()
                words = _numbers(value["value"], value["unit"]) + (f" at {_numbers(at, 'S')}" if at else "")
                yield field, words, value["source"]
            elif inner and "source" not in value:
                yield from _rows(value, f"{field}.")
            else:
                words = ", ".join(f"{k} {v}" for k, v in value.items() if k != "source" and v not in ((), []))
                yield field, words, str(value.get("source") or "")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for row in value:
                size = row.get("bits") or row.get("capacity")
                yield from _rows(row, f"{field}.{size}b.")
        else:
            yield field, str(value), ""


def _numbers(value: float | list[float], unit: str) -> str:
    """ "0.1, 0.2 S"; a pure number has no unit."""
    words = ", ".join(f"{v:g}" for v in (value if isinstance(value, list | tuple) else [value]))
    return words if unit == "1" else f"{words} {unit}"


def _dump(entry: Cell | Design | Components) -> dict[str, Any]:
    return entry.model_dump(mode="json")
