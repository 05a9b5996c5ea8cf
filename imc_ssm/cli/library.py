"""The device library as tables: cells, designs, and one of them with the source of every number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from imc_ssm.cli.report import console
from imc_ssm.devices import Cell, Design, device_names, load_cell, load_design, resolve
from imc_ssm.errors import DesignError, unknown
from imc_ssm.units import quantity

__all__ = ["show"]


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
    table.add_column("description")
    for design in designs:
        tiles = f"{design.tiles} x {design.rows} x {design.columns}"
        converters = f"{design.dac.bits}, {design.adc.bits} b"
        table.add_row(design.name, design.cell, tiles, converters, design.description)
    console.print(table)
    console.print("`imc-ssm devices NAME` shows one with the source of every number.")
    return {"cells": [_dump(c) for c in cells], "designs": [_dump(d) for d in designs]}


def _one(name: str) -> dict[str, Any]:
    entry: Cell | Design
    if name in device_names("cells"):
        entry = load_cell(name)
    elif name in device_names("designs") or Path(name).suffix == ".toml":
        resolve(name)  # what it refers to is there and right
        entry = load_design(name)
    else:
        raise DesignError(unknown("cell or design", name, device_names("cells") + device_names("designs")))
    content = _dump(entry)
    sources = content.get("sources") or {}
    table = Table(title=name)
    for column in ("field", "value", "source"):
        table.add_column(column)
    for field, value in content.items():
        if field == "sources" or value is None:
            continue
        if isinstance(value, dict) and "value" in value:
            table.add_row(field, f"{value['value']:g} {value['unit']}", value["source"])
        elif isinstance(value, dict):
            source = str(value.get("source") or sources.get(field, ""))
            table.add_row(field, ", ".join(f"{k} {v}" for k, v in value.items() if k != "source"), source)
        else:
            table.add_row(field, str(value), str(sources.get(field, "")))
    console.print(table)
    return content


def _dump(entry: Cell | Design) -> dict[str, Any]:
    return entry.model_dump(mode="json")
