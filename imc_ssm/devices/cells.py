"""The registry of cell models: adding one is a class and its line in `CELLS`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from imc_ssm.devices.aihwkit import Aihwkit
from imc_ssm.devices.cell import Cell
from imc_ssm.devices.cmo import ReramCmo
from imc_ssm.devices.generic import Generic
from imc_ssm.devices.hermes import Hermes
from imc_ssm.devices.library import ENTRIES, read_entry
from imc_ssm.devices.pcm import PcmLike
from imc_ssm.devices.wan import ReramWan2022
from imc_ssm.errors import ConfigError, unknown

__all__ = ["CELLS", "AnyCell", "load_cell", "parse_cell"]

CELLS: dict[str, type[Cell]] = {
    "pcm-like": PcmLike,
    "hermes": Hermes,
    "reram-cmo": ReramCmo,
    "reram-wan2022": ReramWan2022,
    "generic": Generic,
    "aihwkit": Aihwkit,
}
"""The class of every model, by the field `model` of a cell's TOML."""
ENTRIES["cells"] = Cell


def parse_cell(data: dict[str, Any], *, where: str = "") -> Cell:
    """Validate a cell as read from TOML or JSON; `ConfigError` in one line for an unknown model or wrong field."""
    model = data.get("model", "(none)")
    if not isinstance(model, str) or model not in CELLS:
        raise ConfigError((f"{where}: " if where else "") + unknown("cell model", str(model), CELLS))
    return CELLS[model].parse(data, where=where)


def load_cell(name: str | Path) -> Cell:
    """A shipped cell by name, or a user's own TOML by path.

    Raises `DesignError` (unknown name), `FileError` (not readable) or `ConfigError` (a wrong field).
    """
    data, path = read_entry("cells", name)
    return parse_cell(data, where=str(path))


AnyCell = Annotated[
    SerializeAsAny[Cell], BeforeValidator(lambda value: parse_cell(value) if isinstance(value, dict) else value)
]
"""A field that holds a cell of any registered model; `model` says which."""
