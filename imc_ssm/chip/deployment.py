"""A model on a chip design, as plain data: what sits where, with which scales and ranges."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imc_ssm.chip.crossbars import MappedRecurrence, in_force, parts_on_tiles, with_recurrences
from imc_ssm.chip.linear import AnalogLinear
from imc_ssm.chip.mapping import MappedMatrix, Tile, Wired
from imc_ssm.chip.packing import check_fit, tiles_of, utilisation
from imc_ssm.chip.recurrence import AnalogRecurrence
from imc_ssm.devices import Chip, Design
from imc_ssm.errors import DesignError, FileError, ImcSsmError, shown
from imc_ssm.files import canonical_json, load_tensors, save_tensors
from imc_ssm.graph import Formats, Graph, Matrix
from imc_ssm.layers import Classifier
from imc_ssm.modelfile import rebuild
from imc_ssm.quantization import IntegerBundle, QuantizedDense, QuantizedS4D, Scheme, export_integers, formats_of
from imc_ssm.units import card, card_html

if TYPE_CHECKING:
    from rich.table import Table

    from imc_ssm.chip.linear import Implementation
    from imc_ssm.chip.programming import Noise

__all__ = ["Deployment", "deployment_of"]


@dataclass(frozen=True, eq=False)
class Deployment:
    """A model on a chip design, as plain data. One design makes many chips: programming draws them.

    Nothing is read from `devices/` any more: what decides a number is in here, and in the digest.
    """

    chip: Chip
    """The design with its cell, converters and components."""
    matrices: tuple[MappedMatrix, ...]
    """Every matrix on its tiles."""
    graph: Graph
    """Every operation of one inference, in order."""
    formats: Formats
    """Path -> format of everything digital."""
    scheme: Scheme
    """Number formats of the digital side."""
    steps: int
    """Time steps of one inference."""
    config: dict[str, Any]
    """The model's configuration."""
    tensors: dict[str, np.ndarray[Any, Any]]
    """The quantized model's parameters and calibrated formats."""
    name: str = "model"
    """What the model is called in results."""
    recurrences: tuple[MappedRecurrence, ...] = ()
    """Recurrences that are on tiles too; none: all are in the digital unit."""

    def _card(self) -> tuple[str, dict[str, object]]:
        design = self.design
        rows: dict[str, object] = {
            "chip": f"{design.tiles} tiles of {design.rows} x {design.columns}, cell {self.chip.cell.name}, DAC "
            f"{self.chip.dac.bits} b, ADC {self.chip.adc.bits} b",
            "model": f"{self.steps} steps, scheme {self.scheme.label}, {len(self.graph.operators)} operators",
        }
        rows |= {
            f"matrix {m.name}": f"{m.inputs} x {m.outputs}, tiles {len(m.parts)}, DAC range {m.input_range:.3g}, "
            f"per {m.rate}"
            for m in self.matrices
        }
        rows |= {
            f"recurrence {r.name}": f"{r.heads} heads of {r.states} complex states, tiles {len(r.matrices)}, "
            f"of whose places {r.used(self.chip):.1%} are a weight"
            for r in self.recurrences
        }
        return f"Deployment of {self.name!r} on {design.name!r}", rows

    def __repr__(self) -> str:
        """Ten lines: the chip, the model, the matrices; `table()` has all of them."""
        return card(*self._card())

    def _repr_html_(self) -> str:
        return card_html(*self._card())

    @property
    def design(self) -> Design:
        """The chip's design."""
        return self.chip.design

    def digital(self) -> Classifier:
        """The model with its matrices computed digitally: the deployment's reference."""
        header = {"config": self.config, "scheme": self.scheme.model_dump(mode="json")}
        return rebuild(self.tensors, header, self.name)[0]

    def export_integers(self, folder: str | Path, values: Any, lengths: Any = None) -> IntegerBundle:
        """Write the integers of the digital reference to a folder (`imc_ssm.export_integers`)."""
        return export_integers(self.digital(), folder, values, lengths, name=self.name)

    def analog(
        self, implementation: Implementation = "fast", noise: Noise = "native"
    ) -> tuple[Classifier, list[AnalogLinear]]:
        """A model whose matrices are analog tiles, and these tiles, to be programmed (`AnalogLinear.program`)."""
        model = self.digital()
        tiles = []
        for index, matrix in enumerate(self.matrices):
            tile = AnalogLinear(matrix, self.chip, implementation, index=index, noise=noise)
            owner = model.get_submodule(matrix.module)
            assert isinstance(owner, QuantizedDense)
            owner.matrix = tile
            tiles.append(tile)
        for recurrence in self.recurrences:
            own = [
                AnalogLinear(matrix, self.chip, implementation, index=len(tiles) + i, noise=noise)
                for i, matrix in enumerate(recurrence.matrices)
            ]
            layer = model.get_submodule(recurrence.module)
            assert isinstance(layer, QuantizedS4D)
            model.set_submodule(recurrence.module, AnalogRecurrence(recurrence, own, layer))
            tiles += own
        return model.eval(), tiles

    @property
    def placed(self) -> tuple[MappedMatrix, ...]:
        """Everything on tiles: the matrices, then the recurrences."""
        return (*self.matrices, *(matrix for r in self.recurrences for matrix in r.matrices))

    def digest(self) -> str:
        """SHA-256 over everything the deployment holds: equal deployments, equal digests."""
        tensors, header = self._content()
        digest = hashlib.sha256(canonical_json(header).encode())
        for name in sorted(tensors):
            digest.update(name.encode() + np.ascontiguousarray(tensors[name]).tobytes())
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write a deployment file (safetensors with JSON), atomically; `FileError` if that fails."""
        save_tensors(path, *self._content(), kind="deployment")

    def _content(self) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
        """All arrays by name, and a JSON header with the rest."""
        tensors = {f"model/{name}": value for name, value in self.tensors.items()}
        for m in self.placed:
            tensors |= {f"matrix/{m.module}/target": m.target, f"matrix/{m.module}/scale": m.scale}
            if m.bias is not None:
                tensors[f"matrix/{m.module}/bias"] = m.bias
            if m.wired is not None:
                for name in ("rows", "columns", "idle"):
                    tensors[f"matrix/{m.module}/{name}"] = getattr(m.wired, name)
        for r in self.recurrences:
            tensors |= {f"recurrence/{r.module}/drive": r.drive, f"recurrence/{r.module}/registers": r.registers}
        header = {
            "name": self.name,
            "chip": self.chip.model_dump(mode="json"),
            "scheme": self.scheme.model_dump(mode="json"),
            "config": self.config,
            "steps": self.steps,
            "matrices": [_entry(m) for m in self.matrices],
        }
        if self.recurrences:
            header["recurrences"] = [
                {
                    "name": r.name,
                    "module": r.module,
                    "heads_per_tile": r.heads_per_tile,
                    "matrices": [_entry(m) for m in r.matrices],
                }
                for r in self.recurrences
            ]
        return tensors, header

    @classmethod
    def load(cls, path: str | Path) -> Deployment:
        """Read a deployment file; `FileError` for one that is missing, changed or of another kind."""
        arrays, header = load_tensors(path, kind="deployment")
        tensors = {n.removeprefix("model/"): v for n, v in arrays.items() if n.startswith("model/")}
        try:
            matrices = tuple(_matrix(m, arrays) for m in header["matrices"])
            chip = Chip.parse(header["chip"], where=str(path))
            scheme = Scheme.parse(header["scheme"], where=str(path))
            steps, config, name = header["steps"], header["config"], header["name"]
            moved = tuple(_recurrence(r, arrays, chip) for r in header.get("recurrences", ()))
            every = (*matrices, *(m for r in moved for m in r.matrices))
            known = {f"matrix/{m.module}/{part}" for m in every for part in ("target", "scale", "bias")}
            wired = [m.module for m in matrices if m.wired is not None]
            known |= {f"matrix/{module}/{part}" for module in wired for part in ("rows", "columns", "idle")}
            known |= {f"recurrence/{r.module}/{part}" for r in moved for part in ("drive", "registers")}
            other = [n for n in arrays if not n.startswith("model/") and n not in known]
            if type(steps) is not int or not 1 <= steps < 1 << 53 or not isinstance(name, str) or other:
                raise TypeError(f"{shown(other[0]) if other else f'{shown(steps)} steps of {shown(name)}'}")
            model, _ = rebuild(tensors, header, str(path))
            _check_placed(matrices, model.graph())
            _check_sliced(every, chip)
            check_fit(every, chip)
            graph = with_recurrences(model.graph(), {r.module: r for r in moved}, chip)
        except (KeyError, IndexError, TypeError, AttributeError, DesignError, ValueError) as error:
            if isinstance(error, ImcSsmError) and not isinstance(error, DesignError):
                raise
            what = f"lacks {error}" if isinstance(error, KeyError) else f"is wrong: {error}"
            raise FileError(f"{path}: the header of the deployment {what}; compile the model again") from None
        formats = formats_of(model)
        if moved:
            formats = in_force(formats, graph)
        return cls(chip, matrices, graph, formats, scheme, steps, config, tensors, name, moved)

    def table(self) -> Table:
        """What sits where, for `rich.print`."""
        from rich.box import SIMPLE
        from rich.table import Table

        table = Table(
            title=f"{self.name} on {self.design.name}: matrices on {tiles_of(self.placed, self.chip)} tiles, "
            f"of which {utilisation(self.placed, self.chip):.1%} are used",
            box=SIMPLE,
            padding=(0, 1, 0, 0),
        )
        for column in (
            "matrix",
            "rate",
            "inputs x outputs",
            "tiles",
            "cells used",
            "DAC range",
            "ADC ranges",
        ):
            table.add_column(column, justify="left" if column in ("matrix", "rate") else "right")
        for m in self.matrices:
            places = len(m.parts) * self.design.rows * self.design.columns
            used = m.target.size * self.design.slices / places
            ranges = [t.output_range for t in m.tiles]
            adc = f"{min(ranges):.3g}" if len(ranges) == 1 else f"{min(ranges):.3g} to {max(ranges):.3g}"
            table.add_row(
                m.name,
                m.rate,
                f"{m.inputs} x {m.outputs}",
                str(len(m.parts)),
                f"{used:.1%}",
                f"{m.input_range:.3g}",
                adc,
            )
        for r in self.recurrences:
            sizes, ranges = [m.inputs for m in r.matrices], [t.output_range for m in r.matrices for t in m.tiles]
            table.add_row(
                f"{r.name}: A, B, C, D",
                "step",
                f"{max(sizes)} x {max(sizes)}",
                str(len(sizes)),
                f"{r.used(self.chip):.1%}",
                f"{min(r.drive):.3g} to {max(r.drive):.3g}",
                f"{min(ranges):.3g} to {max(ranges):.3g}",
            )
        return table


def _entry(m: MappedMatrix) -> dict[str, Any]:
    """What a header says of a matrix."""
    return {
        "name": m.name,
        "module": m.module,
        "rate": m.rate,
        "input_range": m.input_range,
        "input_activity": m.input_activity,
        "tiles": [asdict(tile) for tile in m.tiles],
        **({} if m.wired is None else {"width": m.wired.width}),
    }


def _recurrence(entry: dict[str, Any], arrays: dict[str, np.ndarray[Any, Any]], chip: Chip) -> MappedRecurrence:
    """A recurrence as a file has it; `KeyError`, `TypeError` or `ImcSsmError` for what is missing or wrong."""
    at = f"recurrence/{entry['module']}"
    drive, registers = arrays[f"{at}/drive"], arrays[f"{at}/registers"]
    heads, states, _ = registers.shape
    parts = parts_on_tiles(heads, states, chip, entry["heads_per_tile"])
    matrices = tuple(_matrix(m, arrays) for m in entry["matrices"])
    return MappedRecurrence(
        entry["name"], entry["module"], entry["heads_per_tile"], drive, registers, matrices, parts
    )


def _matrix(entry: dict[str, Any], arrays: dict[str, np.ndarray[Any, Any]]) -> MappedMatrix:
    """A matrix as a file has it; `KeyError` or `TypeError` for what is missing."""
    at = f"matrix/{entry['module']}"
    tiles = tuple(
        Tile(tuple(t["row"]), tuple(t["column"]), t["output_range"], t.get("slice", 0)) for t in entry["tiles"]
    )
    wired = None
    if "width" in entry:
        rows, columns, idle = (arrays[f"{at}/{name}"] for name in ("rows", "columns", "idle"))
        wired = Wired(rows, columns, idle, entry["width"])
    return MappedMatrix(
        entry["name"],
        entry["module"],
        arrays[f"{at}/target"],
        arrays[f"{at}/scale"],
        arrays.get(f"{at}/bias"),
        entry["input_range"],
        tiles,
        entry["rate"],
        entry["input_activity"],
        wired,
    )


def _check_placed(matrices: tuple[MappedMatrix, ...], graph: Graph) -> None:
    """`DesignError` unless the matrices are those of the model, each once."""
    there = [(m.module, *m.size, m.rate, m.bias is not None) for m in matrices]
    needed = [
        (op.module, op.inputs[0].width, op.output.width, op.rate, op.bias is not None)
        for op in graph
        if isinstance(op, Matrix)
    ]
    if sorted(there) != sorted(needed):
        raise DesignError(f"its matrices are {shown(there)}, those of the model {shown(needed)}")


def _check_sliced(matrices: tuple[MappedMatrix, ...], chip: Chip) -> None:
    """`DesignError` unless every matrix has the design's slices."""
    for matrix in matrices:
        slices = 1 + max(tile.slice for tile in matrix.tiles)
        if slices != chip.design.slices:
            raise DesignError(f"matrix {shown(matrix.name)} has {slices} slices, the design {chip.design.slices}")


def deployment_of(given: Any, what: str) -> Deployment:
    """The deployment itself; `ImcSsmError` says in one sentence what was given to `what` instead."""
    if isinstance(given, Deployment):
        return given
    hint = "make one with imc_ssm.compile_model(model, design, data)"
    if isinstance(given, (str, PathLike)):
        hint = f"load it first: imc_ssm.Deployment.load({shown(str(given))})"
    raise ImcSsmError(f"{what} takes a Deployment, not a {type(given).__name__}; {hint}")
