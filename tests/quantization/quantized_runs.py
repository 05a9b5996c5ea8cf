"""Ways to run a quantized model, and what must hold for every scheme, for the tests of this folder."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from imc_ssm.datasets import SequenceDataset
from imc_ssm.fixedpoint import ScanFormats, UnitState, plan_scale_add, plan_scan, scale_add_codes, scan_codes
from imc_ssm.kernels import codes_of
from imc_ssm.layers import Classifier
from imc_ssm.quantization import QuantizedS4D


def stream(model: Classifier, u: Tensor) -> Tensor:
    """Logits after the last step, one step at a time."""
    state, logits = model.init_state(len(u)), torch.zeros(0)
    for t in range(u.shape[1]):
        logits, state = model.step(u[:, t], state)
    return logits


def some(digits: SequenceDataset, n: int = 20) -> Tensor:
    """The first test sequences, (n, T, 1)."""
    return torch.from_numpy(digits.split("test").take(n).values)


def ssm_of(model: Classifier) -> QuantizedS4D:
    """The first recurrence."""
    ssm = model.blocks[0].ssm
    assert isinstance(ssm, QuantizedS4D)
    return ssm


def oracle(ssm: QuantizedS4D, formats: ScanFormats, u: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the output (sums, where it has no format) and of the last state, from real inputs u."""
    *values, _ = ssm.coefficients()
    codes = [
        codes_of(torch.view_as_real(z.resolve_conj()).numpy(), f)[0]
        for z, f in zip(values, (formats.a, formats.b, formats.c), strict=True)
    ]
    plan = plan_scan(formats, *values[0].shape)
    y, last, _ = scan_codes(plan, formats.u.quantize(u.numpy(), head_axis=1), *codes)
    return (y if formats.y is not None else plan.sum_scale[:, None] * y), last


def check_batch_stream_and_partition(model: Classifier, u: Tensor) -> None:
    """The same bits in a batch, step by step, and wherever the batch is cut."""
    logits = model(u)
    assert torch.isfinite(logits).all()
    assert torch.equal(stream(model, u), logits)
    for cut in (1, 7, 16):
        assert torch.equal(torch.cat([model(u[:cut]), model(u[cut:])]), logits)


def check_oracle(model: Classifier, sequences: Tensor) -> ScanFormats:
    """The recurrence returns the oracle's codes, and its stream ends in the oracle's state; gives its formats."""
    ssm, seen = ssm_of(model), []
    handle = ssm.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    model(sequences)
    handle.remove()
    u, output = (values.transpose(1, 2) for values in seen[0])
    assert len(seen) == 1
    formats = ssm.scan_formats()
    # Its input is on the encoder's grid already: nothing is rounded twice.
    again = formats.u.dequantize(formats.u.quantize(u.numpy(), head_axis=1), head_axis=1)
    assert torch.equal(torch.from_numpy(again).float(), u)
    y, last = oracle(ssm, formats, u)
    if (d := ssm.formats().get("d")) is None or ssm.after_d.bits is None:  # y + D u is then no integer
        real = torch.from_numpy(formats.y.dequantize(y, head_axis=1)).float()
        direct = ssm.grid(ssm.inner.D)[:, None]
        assert torch.equal(ssm.after_d((real + direct * u).transpose(1, 2)).transpose(1, 2), output)
    else:
        after = ssm.after_d.format()
        plan = plan_scale_add(formats.y, d, formats.u, after, y.shape[1])
        codes = formats.u.quantize(u.numpy(), head_axis=1).swapaxes(1, 2)
        total = scale_add_codes(plan, y.swapaxes(1, 2), ssm.grid.codes(ssm.inner.D), codes).swapaxes(1, 2)
        assert torch.equal(torch.from_numpy(after.dequantize(total, head_axis=1)).float(), output)
    state = ssm.init_state(len(u))
    for t in range(u.shape[-1]):
        _, state = ssm.step(u[..., t], state)
    assert_same_state(state, last)
    return formats


def assert_same_state(state: Any, wanted: Any) -> None:
    """Codes, or a `UnitState`, equal to the oracle's."""
    assert type(state) is UnitState or not isinstance(wanted, UnitState)
    own, other = (z if isinstance(z, UnitState) else UnitState(z) for z in (state, wanted))
    assert own.time == other.time
    for name in ("x", "sums", "residual"):
        one, two = getattr(own, name), getattr(other, name)
        assert (one is None) == (two is None)
        assert one is None or np.array_equal(one.numpy(), two)


@torch.no_grad()
def loss_of(model: Classifier, digits: SequenceDataset) -> float:
    """The mean loss over the training split."""
    part = digits.split("train")
    return float(nn.functional.cross_entropy(model(torch.from_numpy(part.values)), torch.from_numpy(part.labels)))


def relative_slopes(model: Classifier, digits: SequenceDataset, steps: tuple[float, ...]) -> np.ndarray:
    """The measured slope of one batch's loss along the gradient, over the slope that the gradient states.

    (L(p + e g) - L(p - e g)) / (2 e |g|^2) for every step, given as the e |g|^2 in units of the loss: 1 where g is
    the gradient. Rounding makes the loss rough, so short words need long steps; long ones meet its curvature.
    """
    part = digits.split("train").take(256)
    u, labels = torch.from_numpy(part.values), torch.from_numpy(part.labels)
    model.train().zero_grad()
    loss = nn.functional.cross_entropy(model(u), labels)
    loss.backward()
    moved = [(p, p.detach().clone(), p.grad) for p in model.parameters() if p.grad is not None]
    start, square = float(loss.detach()), sum(float(g.square().sum()) for *_, g in moved)
    slopes = []
    with torch.no_grad():
        for step in steps:
            ends = []
            for sign in (1, -1):
                for p, value, gradient in moved:
                    p.copy_(value + sign * step * start / square * gradient)
                ends.append(float(nn.functional.cross_entropy(model(u), labels)))
            slopes.append((ends[0] - ends[1]) / (2 * step * start))
        for p, value, _ in moved:
            p.copy_(value)
    return np.array(slopes)
