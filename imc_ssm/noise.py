"""Noise injection: train a model through the imperfections that its matrices will meet on a chip."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from imc_ssm.operators import Mvm, Operator

__all__ = ["Injection"]

_SAMPLE = 1 << 16
"""Inputs from which a percentile of a batch is taken."""


class Injection:
    """A context in which every matrix that sits on analog tiles is imperfect, as on a chip:

        W~ = W + weights max_i |W_ji| N(0, 1)                   programming noise, drawn once per context
        y  = W~ clip(x, -r, r) + outputs r max_i |W_ji| N(0, 1) read noise, drawn for every product
        r  = the `clip` percentile of |x| in the batch          the DAC's range (100: no clipping; without padding)

    W are the weights that the matrix multiplies with: of a quantized one those on their grid. The noise is not
    rounded with them. The gradient is taken at the noisy weights and belongs to the clean ones, which are back
    when the context ends. Matrices are the `Mvm`s of the model's `operators()`; a model without operators has
    none. Draws come from torch's global generator. Source: Joshi et al. 2020 (doi:10.1038/s41467-020-16108-9) for
    the weights, Rasch et al. 2023 (doi:10.1038/s41467-023-40770-4) for inputs and outputs.
    """

    def __init__(
        self, model: nn.Module, *, weights: float = 0.0, outputs: float = 0.0, clip: float = 100.0
    ) -> None:
        self.weights, self.outputs, self.clip = weights, outputs, clip
        self._owners: list[nn.Module] = []
        if hasattr(model, "operators") and (weights or outputs or clip < 100):
            operators: list[Operator] = model.operators()  # type: ignore[operator]
            paths = [op.module for op in operators if isinstance(op, Mvm)]
            self._owners = [model.get_submodule(path) for path in paths]
        self._ends: Any = getattr(model, "ends", None)  # a model that knows where its sequences end
        self._clean: list[tuple[Tensor, Tensor]] = []
        self._disturbed: list[nn.Module] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Injection:
        for owner in self._owners:
            weight = owner.weight
            assert isinstance(weight, Tensor)
            peak = weight.data.abs().amax(dim=1)
            product = getattr(owner, "matrix", owner)
            if self.weights:
                noise = self.weights * peak[:, None] * torch.randn_like(weight.data)
                if product is owner:
                    self._clean.append((weight, weight.data))
                    weight.data = weight.data + noise
                else:  # it rounds its weights first
                    self._disturbed.append(product)
                    product.noise = noise
            if self.outputs or self.clip < 100:
                self._handles += self._hooked(product, peak)
        return self

    def _hooked(self, product: nn.Module, peak: Tensor) -> list[RemovableHandle]:
        """Clip what enters the product and disturb what leaves it."""
        ranges: list[Tensor] = []

        def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x = inputs[0]
            size = (x if self._ends is None else self._ends.vectors(x)).detach().abs().reshape(-1)
            if self.clip < 100:
                size = size[:: max(1, len(size) // _SAMPLE)]
                rank = max(1, min(len(size), round(self.clip / 100 * len(size))))
                ranges[:] = [size.kthvalue(rank).values]
            else:
                ranges[:] = [size.max()]
            return (x.clamp(-ranges[0], ranges[0]), *inputs[1:])

        def after(_: nn.Module, __: Any, y: Tensor) -> Tensor:
            return y + self.outputs * ranges[0] * peak * torch.randn_like(y)

        return [product.register_forward_pre_hook(before), product.register_forward_hook(after)]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for weight, clean in self._clean:
            weight.data = clean
        for product in self._disturbed:
            product.noise = None  # type: ignore[assignment]
        for handle in self._handles:
            handle.remove()
        self._clean, self._disturbed, self._handles = [], [], []
