"""Noise injection: train a model through the imperfections that its matrices will meet on a chip."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from imc_ssm.graph import Matrix
from imc_ssm.kernels import full_scale

__all__ = ["Injection"]

_SAMPLE = 1 << 16
"""Inputs from which a percentile of a batch is taken, drawn from all of them."""


class Injection:
    """A context in which every matrix that sits on analog tiles is imperfect, as on a chip:

        W~ = W + weights max_i |W_ji| N(0, 1)                   programming noise, drawn once per context
        y  = W~ clip(x, -r, r) + outputs r max_i |W_ji| N(0, 1) read noise, drawn for every product
        r  = the `clip` percentile of |x| in the batch          the DAC's range (100: no clipping; without padding;
                                                                of events as in `kernels.full_scale`)

    W are the weights that the matrix multiplies with: of a quantized one those on their grid. The noise is not
    rounded with them. The gradient is taken at the noisy weights and belongs to the clean ones, which are back
    when the context ends. Matrices are those of the model's `graph()`; a model without one has
    none. Draws come from torch's global generator. Source: Joshi et al. 2020 (doi:10.1038/s41467-020-16108-9) for
    the weights, Rasch et al. 2023 (doi:10.1038/s41467-023-40770-4) for inputs and outputs.
    """

    def __init__(
        self, model: nn.Module, *, weights: float = 0.0, outputs: float = 0.0, clip: float = 100.0
    ) -> None:
        self.weights, self.outputs, self.clip = weights, outputs, clip
        self._products: list[nn.Module] = []
        if hasattr(model, "graph") and (weights or outputs or clip < 100):
            paths = [op.module for op in model.graph() if isinstance(op, Matrix)]  # type: ignore[operator]
            owners = (model.get_submodule(path) for path in paths)
            self._products = [getattr(owner, "matrix", owner) for owner in owners]
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Injection:
        for product in self._products:
            weight, grid = product.weight, product.grid
            assert isinstance(weight, Tensor)
            assert isinstance(grid, nn.Module)
            peak = weight.detach().abs().amax(dim=1)
            if self.weights:
                self._handles.append(_disturbed(grid, self.weights * peak[:, None] * torch.randn_like(weight)))
            if self.outputs or self.clip < 100:
                self._handles += self._hooked(product, peak)
        return self

    def _hooked(self, product: nn.Module, peak: Tensor) -> list[RemovableHandle]:
        """Clip what enters the product and disturb what leaves it."""
        ranges: list[float] = []

        def before(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            x, mask = inputs[0], inputs[1] if len(inputs) > 1 else None
            seen = x if mask is None or x.ndim != 3 else x[mask]
            ranges[:] = [
                full_scale(seen, self.clip, _SAMPLE) if self.clip < 100 else float(seen.detach().abs().max())
            ]
            return (x.clamp(-ranges[0], ranges[0]), *inputs[1:])

        def after(_: nn.Module, __: Any, y: Tensor) -> Tensor:
            return y + self.outputs * ranges[0] * peak * torch.randn_like(y)

        return [product.register_forward_pre_hook(before), product.register_forward_hook(after)]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _disturbed(grid: nn.Module, noise: Tensor) -> RemovableHandle:
    """Add noise to what a weight becomes on its way to the product."""
    return grid.register_forward_hook(lambda _, __, weight: weight + noise)
