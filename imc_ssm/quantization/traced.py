"""The codes that the fast path makes: every signal of a quantized model, as `fixedpoint.run` returns them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imc_ssm.fixedpoint import of_parts
from imc_ssm.fixedpoint.operations import reversed_codes
from imc_ssm.layers import Classifier
from imc_ssm.quantization.recurrent import QuantizedS4D
from imc_ssm.quantization.wrapping import formats_of

__all__ = ["signal_codes"]


@torch.no_grad()
def signal_codes(
    model: Classifier, u: Tensor, lengths: Tensor | None = None
) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.float32]]:
    """Signal -> codes (batch, time, channel) int64 of everything with a format, and the logits.

    u (batch, time, channel). What lies behind the end of a sequence is computed, too, and means nothing.
    """
    graph, formats = model.graph(), formats_of(model)
    made: dict[str, Tensor] = {}
    handles: list[Any] = []
    layers: list[QuantizedS4D] = []

    def record(path: str) -> Callable[..., None]:
        return lambda _module, _inputs, out: made.__setitem__(path, out)

    for path in graph.modules():
        module = model.get_submodule(path)
        own = [op.output.name for op in graph.of_module(path)]
        handles.append(module.register_forward_hook(record(own[-1])))
        if isinstance(module, QuantizedS4D):
            layers.append(module)
            module._recurrence = _recording(module, own[0], made)  # type: ignore[method-assign]
    try:
        logits = model(u, lengths)
    finally:
        for handle in handles:
            handle.remove()
        for layer in layers:
            del layer._recurrence
    ends = None if lengths is None else lengths.cpu().numpy()
    found = {}
    for op in graph:
        name = op.output.name
        if name not in formats:
            continue
        fmt = of_parts(formats[name], 1 + op.output.complex)
        nearest = np.rint(made[name].cpu().numpy() / fmt.scale).astype(np.int64) + fmt.zero_point
        found[name] = reversed_codes(nearest, ends) if op.reverse else nearest
    return found, logits.cpu().numpy()


def _recording(layer: QuantizedS4D, name: str, made: dict[str, Tensor]) -> Callable[..., Any]:
    """The layer's recurrence, whose output is written down."""
    inner = layer._recurrence

    def run(*args: Any) -> Any:
        y, last = inner(*args)
        made[name] = y.transpose(1, 2)
        return y, last

    return run
