"""`quantize(model, scheme, calibration)`: wrap every module of a model and fix the ranges."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from imc_ssm.datasets.sequence import SequenceDataset
from imc_ssm.errors import ImcSsmError
from imc_ssm.fixedpoint.formats import MAX_BITS
from imc_ssm.quantize.discrete import DiscreteS4D
from imc_ssm.quantize.modules import QuantisedLinear
from imc_ssm.quantize.quantiser import Quantiser
from imc_ssm.quantize.recurrent import QuantisedS4D
from imc_ssm.quantize.scheme import Scheme
from imc_ssm.quantize.sites import AddSite, GeluSite, GluSite, PiecewiseGelu, QuantisedPool
from imc_ssm.s4d import Block, Classifier

__all__ = ["calibration_batch", "quantize", "wrap"]


def wrap(model: Classifier, scheme: Scheme) -> Classifier:
    """A copy of the model whose modules are replaced by quantised ones, with the scheme as `model.scheme`.

    The ranges are not calibrated yet: `quantize` does that, or a state that is loaded. Where the scheme trains
    the discrete matrices, they become parameters here, from the values of the continuous ones.
    """
    if any(isinstance(module, Quantiser) for module in model.modules()):
        raise ImcSsmError("the model is quantised already; quantise the full-precision model it came from")
    if model.config.norm != "none":
        raise ImcSsmError(
            f"norm {model.config.norm!r} has no quantised form yet; train with norm='none' to quantise the model"
        )
    model = copy.deepcopy(model)
    model.scheme = scheme  # type: ignore[assignment]
    bits = scheme.bits

    def quantiser(part: str, channels: int, width: int | None = None) -> Quantiser:
        return Quantiser(
            bits.word(part) or width,
            None if scheme.granularity == "tensor" else channels,
            symmetric=scheme.symmetric,
            dynamic=scheme.calibration == "dynamic",
            percentile=scheme.percentile,
        )

    heads, last = model.config.heads, len(model.blocks) - 1
    before = quantiser("encoder", heads)
    source = quantiser("input", model.config.inputs)
    model.encoder = QuantisedLinear(model.encoder, scheme, source, before)  # type: ignore[assignment]
    for index, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        inner = block.ssm
        if scheme.parameterisation != "continuous":
            inner = DiscreteS4D(inner, frozen=scheme.parameterisation == "frozen")
        ssm = QuantisedS4D(inner, scheme, before)
        block.ssm = ssm  # type: ignore[assignment]
        gelu = PiecewiseGelu() if scheme.gelu == "piecewise" else block.gelu
        block.gelu = GeluSite(gelu, ssm.after_d, quantiser("gelu", heads))  # type: ignore[assignment]
        mixed = quantiser("mixing", 2 * heads)
        block.mixing = QuantisedLinear(block.mixing, scheme, None, mixed)  # type: ignore[assignment]
        block.glu = GluSite(block.glu, mixed, quantiser("glu", heads))  # type: ignore[assignment]
        # Between two blocks the residual sum is the input of a recurrence: an integer one needs it as codes.
        entering = MAX_BITS if bits.state is not None and index < last else None
        before = quantiser("residual", heads, entering)
        block.residual = AddSite(block.residual, before)  # type: ignore[assignment]
    model.pool = QuantisedPool(model.pool, quantiser("pool", heads))  # type: ignore[assignment]
    model.decoder = QuantisedLinear(model.decoder, scheme, None, None)  # type: ignore[assignment]
    for module in model.modules():
        if isinstance(module, Quantiser):
            module.ends = model.ends
    return model


@torch.no_grad()
def quantize(model: Classifier, scheme: Scheme, calibration: Tensor, lengths: Tensor | None = None) -> Classifier:
    """Post-training quantisation: a new model with wrapped modules and ranges from `calibration` (B, T, D).

    The activations and states of the calibration sequences fix every range (`scheme.percentile`): those of the
    model whose input, matrices, D and GELU are rounded already, its poles, B, C and other activations not yet.
    (The input because most of it can be one value, such as a background: what it becomes must not saturate.)
    Dynamic ranges go their own way from the first batch. Train the result further with `imc_ssm.train.train` for
    QAT. Raises `ImcSsmError` for a model that is quantised already or calibration data that do not fit.
    """
    model.check(calibration, lengths, "calibration data")
    quantised = wrap(model, scheme)
    quantised.eval()
    quantised.ends.lengths = lengths
    first = quantised.encoder.input
    if isinstance(first, Quantiser):
        first.observe()
        first.collect(calibration)
        first.calibrate(scheme.percentile)
    quantisers = {n: m for n, m in quantised.named_modules() if isinstance(m, Quantiser) and m is not first}
    for q in quantisers.values():
        q.observe()
    quantised(calibration, lengths)
    for name, q in quantisers.items():
        try:
            q.calibrate(scheme.percentile)
        except ImcSsmError as error:
            raise type(error)(f"{name}: {error}") from None
    return quantised


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
