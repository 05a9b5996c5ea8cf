"""From a quantized model and a chip design to a deployment: tiles, scales, ranges."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from imc_ssm.chip.crossbars import in_force, map_recurrence, recurrences, with_recurrences
from imc_ssm.chip.deployment import Deployment
from imc_ssm.chip.mapping import Wired, map_matrix, with_output_ranges
from imc_ssm.chip.packing import check_fit
from imc_ssm.datasets.sequence import SequenceDataset
from imc_ssm.devices import Chip, Design, resolve
from imc_ssm.errors import ConfigError, DataError, DesignError, ImcSsmError, unknown
from imc_ssm.graph import Graph, Matrix, Recurrence, Scale
from imc_ssm.kernels import drawn, full_scale
from imc_ssm.layers import Classifier, classifier_of
from imc_ssm.modelfile import tensors_of
from imc_ssm.quantization import (
    DigitalMatrix,
    QuantizedDense,
    QuantizedS4D,
    Scheme,
    calibration_of,
    check_static,
    formats_of,
    moving_of,
)

__all__ = ["RecurrenceKind", "compile"]

RecurrenceKind = Literal["digital", "analog"]
"""Where recurrences are computed."""

CALIBRATION_TOKENS = 100_000
"""Input vectors of each matrix from which its ranges are taken, at most."""


@torch.no_grad()
def compile(
    model: Classifier,
    design: Design | Chip | str | Path,
    calibration: SequenceDataset | Tensor,
    lengths: Tensor | None = None,
    *,
    input_percentile: float = 99.5,
    output_percentile: float = 99.99,
    recurrence: RecurrenceKind = "digital",
    heads_per_tile: int = 1,
    name: str = "model",
) -> Deployment:
    """Map a quantized model onto a chip design: a shipped one by name, your own by path, or a `Design`.

        >>> import imc_ssm
        >>> data = imc_ssm.load_dataset("digits")
        >>> model = imc_ssm.Classifier(imc_ssm.ModelConfig(heads=4, n_state=4))
        >>> quantized = imc_ssm.quantize(model, "uniform", data)
        >>> deployment = imc_ssm.compile_model(quantized, "pcm-256", data)
        >>> len(deployment.matrices)
        3

    Every matrix of the model's `graph()` is split over tiles; the calibration sequences (B, T, D),
    or some of the training split of a dataset, run through the model fix each matrix's DAC range
    (`input_percentile` % of the input magnitudes: read noise is relative to the range, so a few clipped inputs
    cost less than a wide one; where training learned the range, that one) and each tile's ADC range
    (`output_percentile` % of the column sums). The digital side keeps its formats, and the biases, which are added
    there, lie on theirs. What is programmed are the weights as trained: devices have no grid of the scheme's.

    `recurrence="analog"`: the recurrences of S4D layers go to tiles too, A, B, C and D of a head as one block and
    `heads_per_tile` of them on a tile, with the states through ADC, register and DAC in every step
    (`chip.crossbars`). Their formats then do not matter.

    The design is resolved here (`devices.resolve`): the deployment depends on no file afterwards.

    Raises `ImcSsmError` for a model that is not quantized, has parts in full precision or dynamic ranges, or for
    calibration data of another shape; `DesignError` when the design has too few tiles, or a recurrence has no
    place on a crossbar.
    """
    model = classifier_of(model, "compile")
    chip = resolve(design)
    if recurrence not in get_args(RecurrenceKind):
        raise ConfigError(unknown("recurrence", recurrence, get_args(RecurrenceKind)))
    scheme = getattr(model, "scheme", None)
    if not isinstance(scheme, Scheme):
        raise ImcSsmError("the model is in full precision; quantize it first (imc_ssm.quantize, imc-ssm quantize)")
    check_static(moving_of(model), "a chip")
    graph, formats = model.graph(), formats_of(model)
    moved = [] if recurrence == "digital" else _recurrences(model, graph)
    *before, _ = graph.kinds()  # nothing reads the last signal: it needs no word
    for scan, direct in moved:
        gone = {scan.output.name, *(p.name for p in (*scan.parameters, *direct.parameters))}
        before = [path for path in before if path not in gone]
    missing = [path for path in before if path not in formats]
    if missing:
        alone = all(path.endswith(".bias") for path in missing)
        raise ImcSsmError(
            f"a chip has no full precision: give bits to {', '.join(missing)} and quantize again"
            + (" (imc-ssm quantize --biases 16)" if alone else "")
        )
    calibration, lengths = calibration_of(model, calibration, lengths)
    model.check(calibration, lengths, "calibration data")
    products = [op for op in graph if isinstance(op, Matrix)]
    model = copy.deepcopy(model).eval()
    with _recorded(model, products) as seen, _entering(model, moved) as streams:
        model(calibration, lengths)
    matrices = []
    for op in products:
        owner = model.get_submodule(op.module)
        assert isinstance(owner, QuantizedDense)
        assert isinstance(owner.matrix, DigitalMatrix)
        bias = owner.matrix.bias
        inputs, weight = torch.cat(seen[op.module]), owner.matrix.weight.numpy()
        offset = None if bias is None else bias.numpy()
        wired = Wired.of(weight, offset)
        if wired is not None:
            inputs, weight = inputs[:, wired.rows].contiguous(), weight[wired.columns][:, wired.rows]
            offset = None if offset is None else offset[wired.columns]
        learned = owner.matrix.input_range
        span = _full_scale(op.name, inputs, input_percentile) if learned is None else learned
        mapped = map_matrix(
            op.name,
            op.module,
            weight,
            offset,
            chip,
            input_range=span,
            rate=op.rate,
        )
        mapped = with_output_ranges(mapped, inputs.numpy(), chip, output_percentile)
        activity = chip.dac.activity(chip.dac.transfer(inputs, mapped.input_range))
        matrices.append(replace(mapped, input_activity=activity, wired=wired))
    mapped_recurrences = []
    for scan, _ in moved:
        layer, (u, mask) = model.get_submodule(scan.module), streams[scan.module]
        assert isinstance(layer, QuantizedS4D)
        mapped_recurrences.append(
            map_recurrence(
                scan.name,
                scan.module,
                (*layer.inner.discrete(), layer.inner.D),
                u,
                mask,
                chip,
                heads_per_tile=heads_per_tile,
                input_percentile=input_percentile,
                output_percentile=output_percentile,
            )
        )
    try:
        check_fit([*matrices, *(m for r in mapped_recurrences for m in r.matrices)], chip)
    except DesignError as error:
        raise DesignError(f"{error}{', or more heads_per_tile' if mapped_recurrences else ''}") from None
    if mapped_recurrences:
        graph = with_recurrences(graph, {r.module: r for r in mapped_recurrences}, chip)
        formats = in_force(formats, graph)
    return Deployment(
        chip,
        tuple(matrices),
        graph,
        formats,
        scheme,
        int(calibration.shape[1]),
        model.config.model_dump(mode="json"),
        tensors_of(model),
        name,
        tuple(mapped_recurrences),
    )


def _recurrences(model: Classifier, graph: Graph) -> list[tuple[Recurrence, Scale]]:
    """Those that go to crossbars; `DesignError` where a layer has another one."""
    for path in graph.modules():
        module = model.get_submodule(path)
        if hasattr(module, "init_state") and not isinstance(module, QuantizedS4D):
            raise DesignError(
                f"recurrence = 'analog': the recurrence of {path} ({type(module).__name__}) has no place on one "
                "crossbar, only S4D's has; use recurrence 'digital'"
            )
    for op in graph:
        if isinstance(op, Recurrence) and op.counts is not None:
            raise DesignError(
                f"recurrence = 'analog': the heads of {op.module} have from {min(op.counts)} to {max(op.counts)} "
                "states, and crossbars give all the same rows; prune as many of every head (scope 'head'), or use "
                "recurrence 'digital'"
            )
    return recurrences(graph)


@contextmanager
def _entering(
    model: Classifier, moved: list[tuple[Recurrence, Scale]]
) -> Iterator[dict[str, tuple[Tensor, Tensor | None]]]:
    """What enters each recurrence, (batch, time, heads), and its padding mask, while the block runs."""
    seen: dict[str, tuple[Tensor, Tensor | None]] = {}
    handles = []
    for op, _ in moved:

        def record(_: nn.Module, inputs: tuple[Any, ...], name: str = op.module) -> None:
            seen[name] = (inputs[0].detach().clone(), inputs[1] if len(inputs) > 1 else None)

        handles.append(model.get_submodule(op.module).register_forward_pre_hook(record))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _full_scale(name: str, inputs: Tensor, percentile: float) -> float:
    """The DAC's full scale: `kernels.full_scale` of what enters."""
    span = full_scale(inputs, percentile)
    if span == 0:
        raise DataError(f"the inputs of {name!r} are zero in all calibration data; calibrate with other sequences")
    return span


@contextmanager
def _recorded(model: Classifier, products: list[Matrix]) -> Iterator[dict[str, list[Tensor]]]:
    """Collect what enters each matrix, as (vectors, inputs) without padding, while the block runs."""
    seen: dict[str, list[Tensor]] = {op.module: [] for op in products}
    handles = []
    for op in products:

        def record(_: nn.Module, inputs: tuple[Any, ...], name: str = op.module) -> None:
            x, mask = inputs[0], inputs[1] if len(inputs) > 1 else None
            flat = x.reshape(-1, x.shape[-1]) if mask is None or x.ndim != 3 else x[mask]
            picked = drawn(len(flat), CALIBRATION_TOKENS)
            seen[name].append(flat if picked is None else flat[picked])

        owner = model.get_submodule(op.module)
        assert isinstance(owner, QuantizedDense)
        handles.append(owner.matrix.register_forward_pre_hook(record))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
