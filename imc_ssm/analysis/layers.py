"""What the analysis reads of a model: coefficients before and after rounding, and what enters the recurrences."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from imc_ssm.datasets.sequence import Split
from imc_ssm.errors import ImcSsmError
from imc_ssm.fixedpoint import Format, plan_scan
from imc_ssm.graph import Recurrence
from imc_ssm.layers import S4D, Classifier
from imc_ssm.quantization import QuantizedS4D, Quantizer, Scheme
from imc_ssm.quantization.wrapping import quantizers_of

__all__ = [
    "Coefficients",
    "Layer",
    "full_precision",
    "input_quantizer",
    "layer_inputs",
    "layers_of",
    "pairs_of",
    "rounded_coefficients",
    "unit_coefficients",
]

Layer = S4D | QuantizedS4D
Complex = NDArray[np.complex128]


@dataclass(frozen=True, eq=False)
class Coefficients:
    """A diagonal recurrence: x[t] = a x[t-1] + b u[t], y[t] = 2 Re(sum_n c x[t]); each (head, state).

    Of a head with a period of k steps, a step is an update, from the mean of k inputs: a and b are of k steps.
    """

    a: Complex
    b: Complex
    c: Complex
    periods: tuple[int, ...] | None = None
    """Steps between two updates of each head; None: 1."""


def layers_of(model: Classifier) -> dict[str, Layer]:
    """Every S4D layer of a model by the path of its module, in order; `ImcSsmError` where it has none."""
    found: dict[str, Layer] = {}
    for op in model.graph():
        if isinstance(op, Recurrence):
            layer = model.get_submodule(op.module)
            if not isinstance(layer, Layer):
                raise ImcSsmError(f"{op.module} is a {type(layer).__name__}; the analysis reads S4D layers")
            found[op.module] = layer
    if not found:
        raise ImcSsmError("the model has no layer with inputs and outputs per head; the analysis reads S4D layers")
    return found


@torch.no_grad()
def rounded_coefficients(
    layer: Layer, scheme: Scheme | int | None = None
) -> tuple[Coefficients, Coefficients, dict[str, int | None]]:
    """(a, b, c) as trained, the same as the integer unit holds them, bits of "a" (polar: of the phase), "b"
    and "c".

    A part without bits is the same in both. A quantized layer has its scheme; a layer in full precision needs
    one, or a word length for all three. Raises `ImcSsmError` where there is none, or two.
    """
    if isinstance(layer, QuantizedS4D):
        if scheme is not None:
            raise ImcSsmError("the layer is quantized already and has its scheme; give none")
        quantized = layer
    else:
        if scheme is None:
            raise ImcSsmError("the layer is in full precision; give a scheme or a word length in bits")
        if isinstance(scheme, int):
            scheme = Scheme.uniform(poles=scheme, weights=scheme)
        quantized = QuantizedS4D.alone(layer, scheme)
    *values, formats = quantized.coefficients()
    before, after = [], []
    for part, value, trained in zip("abc", values, quantized.exact(), strict=True):
        given, fmt = pairs_of(value), formats.get(part)
        before.append(_complex(pairs_of(trained)))
        after.append(_complex(given if fmt is None else fmt.dequantize(fmt.quantize(given))))
    bits = {part: quantized.specs[name].bits for part, name in (("a", "poles"), ("b", "b"), ("c", "c"))}
    rates = quantized.rates()
    exact, moved = (Coefficients(a, b, c, rates) for a, b, c in (before, after))
    return exact, moved, bits


def unit_coefficients(layer: QuantizedS4D) -> tuple[Complex, Complex, float]:
    """(a, b, r) by which the integer unit of a layer really multiplies, and how far a step is rounded.

    The unit computes x' = round((m_a a' x' + m_b b' u') / 2^shift) on codes, so its pole is m_a a' / 2^shift:
    not quite the pole on the grid, scale_a a', because the multiplier m_a is an integer too. a, b (head,
    state); r is the largest rounding error of a part of the state in one step, in units of the state: 1/2, or
    1 where a x and b u are rounded apart, or where something is added before the state is truncated. With a and b
    the unit's state, as long as it does not saturate, is x[t] = a x[t-1] + b u[t] + e[t] with |Re e|, |Im e| <= r
    units, exactly; of a slow head t counts updates, and u[t] is the mean of the inputs since the last one.
    """
    poles, inputs, _, _ = layer.coefficients()
    formats = layer.scan_formats()
    heads, states = poles.shape
    plan = plan_scan(formats, heads, states)

    def full(part: ArrayLike) -> NDArray[np.float64]:  # (), (head,) or (head, state)
        array = np.asarray(part, np.float64)
        return np.broadcast_to(array.reshape(array.shape + (1,) * (2 - array.ndim)), (heads, states))

    def centred(value: Tensor, fmt: Format | None) -> Complex:
        if fmt is None:
            return np.ones((heads, states), np.complex128)
        return _complex(fmt.dequantize(fmt.quantize(pairs_of(value)))) / full(fmt.scale)

    a = centred(poles, formats.a) * full(plan.m_a / np.exp2(plan.shift))
    b = (
        centred(inputs, formats.b)
        * full(plan.m_b / np.exp2(plan.shift_b))
        * full(formats.x.scale)
        / full(formats.u.scale)
        * full(plan.periods)
    )
    once = formats.rounding_placement == "joint" and formats.rounding == formats.nearest
    return a, b, 0.5 if once else 1.0


def pairs_of(value: Tensor) -> NDArray[np.float64]:
    """A complex tensor (...) as real and imaginary part (..., 2) in float64."""
    return torch.view_as_real(value.detach().resolve_conj()).contiguous().numpy().astype(np.float64)


def _complex(pairs: NDArray[np.float64]) -> Complex:
    """Real and imaginary part on a last axis of 2 -> complex128."""
    return np.ascontiguousarray(pairs).view(np.complex128)[..., 0]


def full_precision(model: Classifier) -> Classifier:
    """The same parameters without any rounding: a copy of what `quantize.wrap` wrapped, in evaluation mode.

    Where the discrete matrices are the parameters, their layer keeps them; a piecewise GELU stays.
    """
    if getattr(model, "scheme", None) is None:
        return model.eval()
    with torch.random.fork_rng(devices=[]):
        plain = Classifier(model.config)
    for path in model.graph().modules():
        plain.set_submodule(path, copy.deepcopy(model.get_submodule(path).inner))  # type: ignore[arg-type]
    return plain.eval()


def input_quantizer(model: Classifier, path: str) -> Quantizer | None:
    """The quantizer whose values enter the recurrence at `path` (of the encoder or of the block before)."""
    entering = model.graph().of_module(path)[0].inputs[0].name
    found = quantizers_of(model).get(entering)
    return None if found is None or found.bits is None else found


@torch.no_grad()
def layer_inputs(model: Classifier, part: Split, batch: int) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """(path, u (batch, head, time), lengths) of every recurrence, batch by batch: what really enters it."""
    seen: dict[str, Tensor] = {}
    handles = []
    for path, layer in layers_of(model).items():

        def record(_: nn.Module, inputs: tuple[Any, ...], path: str = path) -> None:
            seen[path] = inputs[0].detach().transpose(1, 2)

        handles.append(layer.register_forward_pre_hook(record))
    try:
        for values, _, lengths in part.batches(batch):
            valid = None if lengths is None else torch.from_numpy(lengths)
            model(torch.from_numpy(values), valid)
            for path in list(seen):
                yield path, seen.pop(path), valid
    finally:
        for handle in handles:
            handle.remove()
