"""From a quantized model and a chip design to a deployment: what sits where, with which scales and ranges."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from imc_ssm.analog import (
    AnalogLinear,
    Design,
    MappedMatrix,
    Tile,
    check_fit,
    map_matrix,
    with_output_ranges,
)
from imc_ssm.errors import FileError, ImcSsmError
from imc_ssm.files import canonical_json, load_tensors, save_tensors
from imc_ssm.graph import Formats, Graph, Matrix
from imc_ssm.layers import Classifier
from imc_ssm.modelfile import rebuild, tensors_of
from imc_ssm.quantization import DigitalMatrix, QuantizedDense, Scheme, formats_of

if TYPE_CHECKING:
    from rich.table import Table

    from imc_ssm.analog.linear import Implementation

__all__ = ["Deployment", "compile"]

CALIBRATION_TOKENS = 100_000
"""Input vectors of each matrix from which its ranges are taken, at most."""


@dataclass(frozen=True, eq=False)
class Deployment:
    """A model on a chip design, as plain data. One design makes many chips: programming draws them."""

    design: Design
    """The chip design."""
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

    def digital(self) -> Classifier:
        """The model with its matrices computed digitally: the deployment's reference."""
        header = {"config": self.config, "scheme": self.scheme.model_dump(mode="json")}
        return rebuild(self.tensors, header, self.name)[0]

    def chip(self, implementation: Implementation = "fast") -> tuple[Classifier, list[AnalogLinear]]:
        """A model whose matrices are analog tiles, and these tiles, to be programmed (`AnalogLinear.program`)."""
        model = self.digital()
        tiles = []
        for matrix in self.matrices:
            analog = AnalogLinear(matrix, self.design, implementation)
            owner = model.get_submodule(matrix.module)
            assert isinstance(owner, QuantizedDense)
            owner.matrix = analog
            tiles.append(analog)
        return model.eval(), tiles

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
        placed = []
        for m in self.matrices:
            tensors |= {f"matrix/{m.name}/target": m.target, f"matrix/{m.name}/scale": m.scale}
            if m.bias is not None:
                tensors[f"matrix/{m.name}/bias"] = m.bias
            placed.append(
                {
                    "name": m.name,
                    "module": m.module,
                    "rate": m.rate,
                    "input_range": m.input_range,
                    "input_activity": m.input_activity,
                    "tiles": [[*t.row, *t.column, t.output_range] for t in m.tiles],
                }
            )
        header = {
            "name": self.name,
            "design": self.design.model_dump(mode="json"),
            "scheme": self.scheme.model_dump(mode="json"),
            "config": self.config,
            "steps": self.steps,
            "matrices": placed,
        }
        return tensors, header

    @classmethod
    def load(cls, path: str | Path) -> Deployment:
        """Read a deployment file; `FileError` for one that is missing, changed or of another kind."""
        arrays, header = load_tensors(path, kind="deployment")
        tensors = {n.removeprefix("model/"): v for n, v in arrays.items() if n.startswith("model/")}
        try:
            matrices = tuple(
                MappedMatrix(
                    m["name"],
                    m["module"],
                    arrays[f"matrix/{m['name']}/target"],
                    arrays[f"matrix/{m['name']}/scale"],
                    arrays.get(f"matrix/{m['name']}/bias"),
                    m["input_range"],
                    tuple(Tile((t[0], t[1]), (t[2], t[3]), t[4]) for t in m["tiles"]),
                    m["rate"],
                    m["input_activity"],
                )
                for m in header["matrices"]
            )
            design = Design.parse(header["design"], where=str(path))
            scheme = Scheme.parse(header["scheme"], where=str(path))
            rest = (int(header["steps"]), dict(header["config"]), tensors, str(header["name"]))
        except (KeyError, IndexError, TypeError) as error:
            raise FileError(
                f"{path}: the header of the deployment lacks {error}; compile the model again"
            ) from None
        model, _ = rebuild(tensors, header, str(path))
        return cls(design, matrices, model.graph(), formats_of(model), scheme, *rest)

    def table(self) -> Table:
        """What sits where, for `rich.print`."""
        from rich.box import SIMPLE
        from rich.table import Table

        table = Table(
            title=f"{self.name} on {self.design.name}: matrices on tiles", box=SIMPLE, padding=(0, 1, 0, 0)
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
            used = m.target.size / (len(m.tiles) * self.design.rows * self.design.columns)
            ranges = [t.output_range for t in m.tiles]
            adc = f"{min(ranges):.3g}" if len(ranges) == 1 else f"{min(ranges):.3g} to {max(ranges):.3g}"
            table.add_row(
                m.name,
                m.rate,
                f"{m.inputs} x {m.outputs}",
                str(len(m.tiles)),
                f"{used:.1%}",
                f"{m.input_range:.3g}",
                adc,
            )
        return table


@torch.no_grad()
def compile(
    model: Classifier,
    design: Design,
    calibration: Tensor,
    lengths: Tensor | None = None,
    *,
    input_percentile: float = 99.5,
    output_percentile: float = 99.99,
    name: str = "model",
) -> Deployment:
    """Map a quantized model onto a chip design.

    Every matrix of the model's `graph()` is split over tiles; the calibration sequences (B, T, D)
    run through the model fix each matrix's DAC range (`input_percentile` % of the input magnitudes: read noise
    is relative to the range, so a few clipped inputs cost less than a wide one) and each tile's ADC range
    (`output_percentile` % of the column sums). The digital side keeps its formats.

    Raises `ImcSsmError` for a model that is not quantized, has parts in full precision or dynamic ranges, or for
    calibration data of another shape; `DesignError` when the design has too few tiles.
    """
    scheme = getattr(model, "scheme", None)
    if not isinstance(scheme, Scheme):
        raise ImcSsmError("the model is in full precision; quantize it first (imc-ssm quantize)")
    scheme.check_static("a chip")
    graph, formats = model.graph(), formats_of(model)
    *before, _ = graph.kinds()  # nothing reads the last signal: it needs no word
    missing = [path for path in before if path not in formats]
    if missing:
        alone = all(path.endswith(".bias") for path in missing)
        raise ImcSsmError(
            f"a chip has no full precision: give bits to {', '.join(missing)} and quantize again"
            + (" (imc-ssm quantize --biases 16)" if alone else "")
        )
    model.check(calibration, lengths, "calibration data")
    products = [op for op in graph if isinstance(op, Matrix)]
    model = copy.deepcopy(model).eval()
    with _recorded(model, products) as seen:
        model(calibration, lengths)
    matrices = []
    for op in products:
        owner = model.get_submodule(op.module)
        assert isinstance(owner, QuantizedDense)
        digital = owner.matrix
        assert isinstance(digital, DigitalMatrix)
        linear = digital.linear
        inputs = torch.cat(seen[op.name])
        span = float(np.percentile(inputs.abs().numpy(), input_percentile))
        mapped = map_matrix(
            op.name,
            op.module,
            linear.weight.numpy(),
            None if linear.bias is None else linear.bias.numpy(),
            design,
            input_range=span if span > 0 else 1.0,
            rate=op.rate,
        )
        mapped = with_output_ranges(mapped, inputs.numpy(), output_percentile)
        activity = float((inputs / mapped.input_range).square().mean())
        matrices.append(replace(mapped, input_activity=activity))
    check_fit(matrices, design)
    return Deployment(
        design,
        tuple(matrices),
        graph,
        formats,
        scheme,
        int(calibration.shape[1]),
        model.config.model_dump(mode="json"),
        tensors_of(model),
        name,
    )


@contextmanager
def _recorded(model: Classifier, products: list[Matrix]) -> Iterator[dict[str, list[Tensor]]]:
    """Collect what enters each matrix, as (vectors, inputs) without padding, while the block runs."""
    seen: dict[str, list[Tensor]] = {op.name: [] for op in products}
    handles = []
    for op in products:

        def record(_: nn.Module, inputs: tuple[Any, ...], name: str = op.name) -> None:
            x, mask = inputs[0], inputs[1] if len(inputs) > 1 else None
            flat = x.reshape(-1, x.shape[-1]) if mask is None or x.ndim != 3 else x[mask]
            stride = max(1, len(flat) // CALIBRATION_TOKENS)
            seen[name].append(flat[::stride])

        owner = model.get_submodule(op.module)
        assert isinstance(owner, QuantizedDense)
        handles.append(owner.matrix.register_forward_pre_hook(record))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
