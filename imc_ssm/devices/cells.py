"""The registry of cell models: adding one is a class and its name in `AnyCell`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field

from imc_ssm.config import read_toml
from imc_ssm.devices.cell import Cell
from imc_ssm.devices.cmo import ReramCmo
from imc_ssm.devices.library import device_path
from imc_ssm.devices.pcm import PcmLike
from imc_ssm.devices.wan import ReramWan2022
from imc_ssm.errors import ConfigError, unknown

__all__ = ["AnyCell", "cell_models", "load_cell", "parse_cell"]

AnyCell = Annotated[PcmLike | ReramCmo | ReramWan2022, Field(discriminator="model")]
"""A memory cell of any model; its field `model` says which."""


def cell_models() -> dict[str, type[Cell]]:
    """The class of every model by its name."""
    classes: tuple[type[Cell], ...] = get_args(get_args(AnyCell)[0])
    return {get_args(cls.model_fields["model"].annotation)[0]: cls for cls in classes}


def parse_cell(data: dict[str, Any], *, where: str = "") -> Cell:
    """Validate a cell as read from TOML or JSON; `ConfigError` in one line for an unknown model or wrong field."""
    models = cell_models()
    if data.get("model") not in models:
        place = f"{where}: " if where else ""
        raise ConfigError(place + unknown("cell model", str(data.get("model", "(none)")), models))
    return models[data["model"]].parse(data, where=where)


def load_cell(name: str | Path) -> Cell:
    """A shipped cell by name, or a user's own TOML by path.

    Raises `DesignError` (unknown name), `FileError` (not readable) or `ConfigError` (a wrong field).
    """
    path = device_path("cells", name)
    return parse_cell(read_toml(path), where=str(path))
