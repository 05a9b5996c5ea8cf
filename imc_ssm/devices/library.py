"""Where the device library lives, and numbers that carry their source.

`devices/` is data, not code: one TOML per memory cell (`cells`), chip design (`designs`) and table of
peripheral components (`components`). It travels inside the wheel; in a source tree it is the top-level folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from imc_ssm.config import Config, read_toml
from imc_ssm.errors import DesignError, unknown
from imc_ssm.files import is_file

__all__ = [
    "ENTRIES",
    "Cited",
    "Kind",
    "beside",
    "cited",
    "device_names",
    "device_path",
    "devices_folder",
    "kind_of",
    "read_entry",
]

Kind = Literal["cells", "designs", "components", "macros", "baselines"]
WORDS: dict[Kind, str] = {
    "cells": "memory cell",
    "designs": "chip design",
    "components": "component table",
    "macros": "macro",
    "baselines": "baseline",
}
MACRO = {"device", "in_bits", "weight_bits", "out_bits", "rows_on"}
"""Fields that the TOML of a macro (`costs.macros`) has, and that of nothing else."""
ENTRIES: dict[Kind, type[Config]] = {}
"""The class of what each folder holds; the class registers itself."""


class Cited(Config):
    """A number with its unit and where it was read."""

    value: float
    """The number, in `unit`."""
    unit: str
    """SI unit without prefix ("S", "J", "s", "m2", "V"), or "1" for a pure number."""
    source: str = Field(min_length=8)
    """Paper (with DOI or arXiv number), equation or table; "assumed: why" where nobody published it."""
    low: float | None = None
    """Lower end of its range, in `unit`; None: it is not a number of the cost model, or a fact."""
    high: float | None = None
    """Upper end of its range, in `unit`."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low = self.value if self.low is None else self.low
        high = self.value if self.high is None else self.high
        if (self.low is None) != (self.high is None) or not low <= self.value <= high:
            raise ValueError(
                f"low {self.low!r}, value {self.value!r} and high {self.high!r} must be given together and grow "
                "in this order"
            )
        return self


def cited(unit: str, *, low: float = 0.0, high: float = float("inf")) -> Any:
    """The type of a cited number that must be given in `unit` and lie in [low, high]."""

    def check(number: Cited) -> Cited:
        if number.unit != unit:
            raise ValueError(f"unit is {number.unit!r}, give the value in {unit!r}")
        if not low <= number.value <= high:
            raise ValueError(f"value {number.value!r} is outside [{low}, {high}] {unit}")
        return number

    return Annotated[Cited, AfterValidator(check)]


if TYPE_CHECKING:  # a type checker sees the class, pydantic the class with its unit and range
    Area: TypeAlias = Cited
    CellArea: TypeAlias = Cited
    Conductance: TypeAlias = Cited
    Duration: TypeAlias = Cited
    Energy: TypeAlias = Cited
    Frequency: TypeAlias = Cited
    Length: TypeAlias = Cited
    Levels: TypeAlias = Cited
    Number: TypeAlias = Cited
    Pulse: TypeAlias = Cited
    Rate: TypeAlias = Cited
    Resistance: TypeAlias = Cited
    Share: TypeAlias = Cited
    Signed: TypeAlias = Cited
    Voltage: TypeAlias = Cited
else:
    # The ends are far beyond anything that is built; what lies outside is a wrong unit or a slip of the keys. No
    # cell is below 1 nm2, and a pulse of no time or voltage reads nothing: 0 is no way to leave a number out.
    Area = cited("m2", high=1e-2)
    CellArea = cited("m2", low=1e-18, high=1e-8)
    Conductance = cited("S", high=0.1)
    Duration = cited("s", high=1e12)
    Energy = cited("J", high=1.0)
    Frequency = cited("Hz", low=1.0, high=1e11)
    Length = cited("m", low=1e-10, high=1e-3)
    Levels = cited("1", high=65536.0)
    Number = cited("1", high=1e6)
    Pulse = cited("s", low=1e-12, high=1.0)
    Rate = cited("Hz", low=1e-15, high=1e11)
    Resistance = cited("ohm", high=1e9)
    Share = cited("1", high=1.0)
    Signed = cited("1", low=-1.0, high=1.0)
    Voltage = cited("V", low=1e-6, high=100.0)


def devices_folder() -> Path:
    """The folder that holds `cells/`, `designs/`, `components/` and `constants.toml`."""
    package = Path(__file__).parent.parent
    inside = package / "_devices"
    return inside if inside.is_dir() else package.parent / "devices"


def device_names(kind: Kind) -> list[str]:
    """The names that ship with the library, sorted."""
    return sorted(path.stem for path in (devices_folder() / kind).glob("*.toml"))


def device_path(kind: Kind, name: str | Path) -> Path:
    """The TOML behind a shipped name or a user's own path, relative to the current folder.

    Raises `DesignError` that names the nearest shipped one when neither exists.
    """
    if Path(name).suffix == ".toml":
        if not is_file(name):
            raise DesignError(f"no file {name}; give an existing .toml or one of: {', '.join(device_names(kind))}")
        return Path(name)
    path = devices_folder() / kind / f"{name}.toml"
    if str(name) not in device_names(kind):
        hint = f"a file of your own is given by its path, such as '{name}.toml'"
        raise DesignError(f"{unknown(WORDS[kind], str(name), device_names(kind))}; {hint}")
    return path


def kind_of(data: dict[str, Any]) -> Kind | None:
    """What a TOML describes: the kind that has most of its fields; None if it has those of none."""
    if data.keys() & MACRO:
        return "macros"
    common = set.intersection(*(set(entry.model_fields) for entry in ENTRIES.values()))
    shared = {kind: len((data.keys() & set(entry.model_fields)) - common) for kind, entry in ENTRIES.items()}
    best = max(shared, key=lambda kind: shared[kind])
    return best if shared[best] else None


def read_entry(kind: Kind, name: str | Path) -> tuple[dict[str, Any], Path]:
    """The content of the TOML of a cell, design or component table, not yet validated, and where it lies.

    Raises `DesignError` (unknown name, or a TOML of another kind) or `FileError` (not readable).
    """
    path = device_path(kind, name)
    data = read_toml(path)
    found = kind_of(data)
    if found not in (kind, None):
        raise DesignError(
            f"{path} is a {WORDS[found]}, not a {WORDS[kind]}; give the path of a {WORDS[kind]}'s TOML "
            f"or one of: {', '.join(device_names(kind))}"
        )
    return data, path


def beside(file: Path, reference: str) -> str:
    """A reference in `file`: a path is relative to the file's folder, a name stays a name."""
    return str(file.parent / reference) if Path(reference).suffix == ".toml" else reference
