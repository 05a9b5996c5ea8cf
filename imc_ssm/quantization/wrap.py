"""`quantize(model, scheme, calibration)`: wrap every module of a model and fix the ranges."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from imc_ssm.datasets.sequence import SequenceDataset
from imc_ssm.errors import ImcSsmError
from imc_ssm.fixedpoint.formats import MAX_BITS
from imc_ssm.kernels.device import device_of, named_device
from imc_ssm.quantization.discrete import DiscreteS4D
from imc_ssm.quantization.modules import QuantizedLinear
from imc_ssm.quantization.quantizer import Quantizer
from imc_ssm.quantization.recurrent import QuantizedS4D
from imc_ssm.quantization.scheme import Scheme
from imc_ssm.quantization.sites import AddSite, GeluSite, GluSite, PiecewiseGelu, QuantizedPool
from imc_ssm.s4d import Block, Classifier

__all__ = ["calibration_batch", "quantize", "wrap"]


def wrap(model: Classifier, scheme: Scheme) -> Classifier:
    """A copy of the model whose modules are replaced by quantized ones, with the scheme as `model.scheme`.

    The ranges are not calibrated yet: `quantize` does that, or a state that is loaded. Where the scheme trains
    the discrete matrices, they become parameters here, from the values of the continuous ones.
    """
    if any(isinstance(module, Quantizer) for module in model.modules()):
        raise ImcSsmError("the model is quantized already; quantize the full-precision model it came from")
    if model.config.norm != "none":
        raise ImcSsmError(
            f"norm {model.config.norm!r} has no quantized form yet; train with norm='none' to quantize the model"
        )
    model = copy.deepcopy(model)
    model.scheme = scheme  # type: ignore[assignment]
    bits = scheme.bits

    def quantizer(part: str, channels: int, width: int | None = None) -> Quantizer:
        return Quantizer(
            bits.word(part) or width,
            None if scheme.granularity == "tensor" else channels,
            symmetric=scheme.symmetric,
            dynamic=scheme.calibration == "dynamic",
            percentile=scheme.percentile,
        )

    heads, last = model.config.heads, len(model.blocks) - 1
    before = quantizer("encoder", heads)
    source = quantizer("input", model.config.inputs)
    model.encoder = QuantizedLinear(model.encoder, scheme, source, before)  # type: ignore[assignment]
    for index, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        inner = block.ssm
        if scheme.parameterisation != "continuous":
            inner = DiscreteS4D(inner, frozen=scheme.parameterisation == "frozen")
        ssm = QuantizedS4D(inner, scheme, before)
        block.ssm = ssm  # type: ignore[assignment]
        gelu = PiecewiseGelu() if scheme.gelu == "piecewise" else block.gelu
        block.gelu = GeluSite(gelu, ssm.after_d, quantizer("gelu", heads))  # type: ignore[assignment]
        mixed = quantizer("mixing", 2 * heads)
        block.mixing = QuantizedLinear(block.mixing, scheme, None, mixed)  # type: ignore[assignment]
        block.glu = GluSite(block.glu, mixed, quantizer("glu", heads))  # type: ignore[assignment]
        # Between two blocks the residual sum is the input of a recurrence: an integer one needs it as codes.
        entering = MAX_BITS if bits.state is not None and index < last else None
        before = quantizer("residual", heads, entering)
        block.residual = AddSite(block.residual, before)  # type: ignore[assignment]
    model.pool = QuantizedPool(model.pool, quantizer("pool", heads))  # type: ignore[assignment]
    model.decoder = QuantizedLinear(model.decoder, scheme, None, None)  # type: ignore[assignment]
    for module in model.modules():
        if isinstance(module, Quantizer):
            module.ends = model.ends
    return model


@torch.no_grad()
def quantize(
    model: Classifier,
    scheme: Scheme,
    calibration: Tensor,
    lengths: Tensor | None = None,
    *,
    device: str = "cpu",
) -> Classifier:
    """Post-training quantization: a new model with wrapped modules and ranges from `calibration` (B, T, D).

    The activations and states of the calibration sequences fix every range (`scheme.percentile`): those of the
    model whose input, matrices, D and GELU are rounded already, its poles, B, C and other activations not yet.
    (The input because most of it can be one value, such as a background: what it becomes must not saturate.)
    Dynamic ranges go their own way from the first batch. Train the result further with
    `imc_ssm.training.train` for QAT. `device`: where it is calibrated, "cpu" or "cuda"; the result lies where the
    model does. Raises `ImcSsmError` for a model that is quantized already, calibration data that do not fit or a
    device that cannot be used.
    """
    model.check(calibration, lengths, "calibration data")
    there = named_device(device)
    quantized = wrap(model, scheme).to(there)
    calibration, lengths = calibration.to(there), None if lengths is None else lengths.to(there)
    quantized.eval()
    quantized.ends.lengths = lengths
    first = quantized.encoder.input
    if isinstance(first, Quantizer):
        first.observe()
        first.collect(calibration)
        first.calibrate(scheme.percentile)
    quantizers = {n: m for n, m in quantized.named_modules() if isinstance(m, Quantizer) and m is not first}
    for q in quantizers.values():
        q.observe()
    quantized(calibration, lengths)
    for name, q in quantizers.items():
        try:
            q.calibrate(scheme.percentile)
        except ImcSsmError as error:
            raise type(error)(f"{name}: {error}") from None
    return quantized.to(device_of(model))


def calibration_batch(
    data: SequenceDataset, heads: int, most: int | None = None, seed: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Training sequences (n, T, D) to calibrate a model of so many heads on, and their lengths, if they have some.

    n is `most`, or all if there are fewer; None: 512, fewer where the arrays of a wide model would be larger than
    those of 64 heads over 784 steps, at least 8. The first ones, or, with a seed, drawn without replacement.
    """
    split = data.split("train")
    if most is None:
        most = min(512, max(8, 512 * 64 * 784 // (data.time * heads)))
    part = split.take(most) if seed is None else split.sample(most, np.random.default_rng([seed, 0xCA11B]))
    lengths = None if part.lengths is None else torch.from_numpy(part.lengths)
    return torch.from_numpy(np.ascontiguousarray(part.values)), lengths
