"""The page of all constants (docs/constants.md), written from the tables: `make constants`."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from imc_ssm.config import read_toml
from imc_ssm.devices.constants import load_constants
from imc_ssm.devices.library import devices_folder
from imc_ssm.pricing.inputs import INPUTS
from imc_ssm.pricing.nodes import POLYNOMIALS
from imc_ssm.pricing.presets import PRESETS

__all__ = ["constants_page"]

TABLES = ("components", "baselines")
"""Folders of tables beside the constants of the laws."""


def constants_page() -> str:
    """Markdown: the laws' constants, laws of converters and inputs, scaling, and the tables' cited numbers."""
    entries = load_constants().entries
    kinds = Counter(entry.kind for entry in entries.values())
    parts = [
        "# Constants of the cost model",
        "Written by `make constants` from `devices`; change the tables, not this page. SI units without prefix. A",
        "constant of one's own takes the place of one of these by name (`--constants FILE.toml`,",
        "[macros](macros.md)).",
        "",
        "## The laws' constants",
        f"{len(entries)} constants: {kinds['cited']} as they stand in a source, {kinds['derived']} by arithmetic "
        f"on such numbers, {kinds['assumed']} assumed.",
        "A total's interval has every constant at either end of its range alone, and the deviations of logarithms",
        "added in quadrature, up and down apart.",
        "",
        "| Constant | Low | Value | High | Unit | Holds for | Source |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, entry in entries.items():
        source = entry.source + (f". Would be replaced by {entry.replaced_by}" if entry.replaced_by else "")
        numbers = " | ".join(f"{number:.4g}" for number in (entry.low, entry.value, entry.high))
        parts.append(f"| `{name}` | {numbers} | {entry.unit} | {_cell(entry.holds)} | {_cell(source)} |")
    for title, registry in (("Converters", PRESETS), ("Inputs", INPUTS)):
        parts += ["", f"## {title}"]
        for name, made in registry.items():
            parts += ["", f"**`{name}`**: {' '.join((inspect.getdoc(type(made)) or '').split())}"]
    parts += [
        "",
        "## Scaling between nodes",
        "Of logic alone, never of converters, lines or cells: energy at supply V goes with a V^2 + b V + c",
        "(Stillmaker and Baas, Integration 58:74, 2017, doi:10.1016/j.vlsi.2017.02.002), linear between nodes.",
        "",
        "| Node (nm) | a | b | c |",
        "|---|---|---|---|",
        *(f"| {node:g} | {a:g} | {b:g} | {c:g} |" for node, (a, b, c) in POLYNOMIALS.items()),
    ]
    for folder in TABLES:
        known: set[str] = set()
        for path in sorted((devices_folder() / folder).glob("*.toml"), key=lambda path: path.stem):
            data = read_toml(path)
            every = list(_cited("", data))
            rows = [row for row in every if row not in known]
            known |= set(every) if folder == "components" else set()
            if rows:
                parts += ["", f"## {data['description']} (`{folder}/{path.name}`)"]
                if len(rows) < len(every):
                    parts += [f"Without the {len(every) - len(rows)} numbers that a table above has alike."]
                parts += [
                    "",
                    "| Number | Low | Value | High | Unit | Source |",
                    "|---|---|---|---|---|---|",
                    *rows,
                ]
    return "\n".join(parts) + "\n"


def _cited(where: str, value: Any) -> Iterator[str]:
    """A row for each number with unit and source within a table, by its path."""
    if isinstance(value, Mapping) and {"value", "unit", "source"} <= value.keys():
        low, high = (f"{value[end]:.4g}" if end in value else "" for end in ("low", "high"))
        source = _cell(value["source"])
        yield f"| `{where}` | {low} | {value['value']:.4g} | {high} | {value['unit']} | {source} |"
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _cited(f"{where}.{name}".removeprefix("."), inner)
    elif isinstance(value, list):
        for inner in value:
            size = inner.get("bits", inner.get("capacity")) if isinstance(inner, Mapping) else None
            if size is not None:
                yield from _cited(f"{where}[{size}]", inner)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
