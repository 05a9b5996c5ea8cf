"""What saturates in the integer unit on real inputs, counted by the oracle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from imc_ssm.analysis.layers import pairs_of
from imc_ssm.fixedpoint import plan_scan, scan_codes
from imc_ssm.kernels.codes import input_codes
from imc_ssm.quantization import QuantizedS4D

__all__ = ["Saturation"]

_WORDS = 2**22
"""State words of one run of the oracle (its int64 temporaries are some ten times as many bytes)."""


class Saturation:
    """Words of one quantized layer that saturate, summed over the inputs that are given to `add`.

    The codes of the coefficients are those of the layer's current values; every sequence starts from the
    code of zero, as in the model.
    """

    def __init__(self, layer: QuantizedS4D) -> None:
        a, b, c, _ = layer.coefficients()
        self.formats = layer.scan_formats()
        heads, states = a.shape
        self.plan = plan_scan(self.formats, heads, states)
        self.codes = [
            None if fmt is None else fmt.quantize(pairs_of(z))
            for z, fmt in ((a, self.formats.a), (b, self.formats.b), (c, self.formats.c))
        ]
        self.state, self.output = np.zeros(heads, np.int64), np.zeros(heads, np.int64)
        self.updates, self.states = np.zeros(heads, np.int64), states

    def add(self, u: Tensor, lengths: Tensor | None = None) -> None:
        """Count over inputs u (batch, head, time), each sequence up to its length."""
        codes = input_codes(u.numpy(), self.plan)
        a, b, c = self.codes
        assert a is not None
        ends = np.full(len(codes), codes.shape[2]) if lengths is None else lengths.numpy()
        for end in np.unique(ends):  # sequences of one length run together
            part = codes[ends == end][..., :end]
            several = max(1, _WORDS // (part[0, :, 0].size * self.states * 2))
            for start in range(0, len(part), several):
                _, _, lost = scan_codes(self.plan, part[start : start + several], a, b, c)
                self.state += lost.state
                self.output += lost.output
            self.updates += len(part) * (int(end) // self.plan.periods)

    def shares(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Percent of the state words (real and imaginary apart) and of the outputs, each (head,)."""
        words = np.maximum(self.updates, 1)  # what slow heads hold between updates counts once
        return 100.0 * self.state / (words * self.states * 2), 100.0 * self.output / words
