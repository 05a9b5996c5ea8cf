"""Noise injection: train a model through the imperfections that its matrices will meet on a chip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from imc_ssm.errors import ConfigError
from imc_ssm.graph import Matrix
from imc_ssm.kernels import full_scale, quantize
from imc_ssm.quantization import FormatSpec
from imc_ssm.quantization.poles import polar
from imc_ssm.quantization.quantizer import parameter_format
from imc_ssm.quantization.recurrent import rounded

__all__ = ["Disturbance", "Injection", "Product", "Step", "input_range", "learn_input_ranges", "matrices_of"]

_SAMPLE = 1 << 16
"""Inputs from which a percentile of a batch is taken, drawn from all of them."""
_FINEST = 16
"""Bits of a pole with noise: those of the finest grid, of which the noise of a tenth of a percent is 30 steps."""


@dataclass(frozen=True)
class Step:
    """A step of a training."""

    number: int
    """Counted from 0."""
    seed: int
    """The training's."""
    strength: float = 1.0
    """How much of a disturbance there is, 0 to 1: a schedule's."""


class Product(Protocol):
    """A matrix as a chip has it in one step."""

    def __call__(self, x: Tensor, weight: Tensor, span: Tensor | float) -> Tensor:
        """W x without bias, x (..., inputs) to (..., outputs), for a DAC whose full scale is `span`.

        `weight` (outputs, inputs) are the clean weights, which the gradient belongs to; where `span` is a tensor,
        it has one as well.
        """
        ...


class Disturbance(Protocol):
    """What a chip does to the matrices of a model while it is trained: every step meets a chip of its own.

    Draws are seeded by the step (`Step`) alone, not by torch's generator: an interrupted training that goes on
    meets the same chips. `imc_ssm.chip.ChipDisturbance` makes one of a design.
    """

    @property
    def input_percentile(self) -> float:
        """Percentile of a matrix's input magnitudes that its DAC covers, where its range is not learned."""
        ...

    def describe(self) -> dict[str, Any]:
        """Everything that decides what it does, as JSON: what tells trainings apart."""
        ...

    def product(self, index: int, module: str, step: Step) -> Product:
        """The matrix with this place on the chip, of the model's module of this path, in one step."""
        ...


def matrices_of(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that multiply with a matrix on analog tiles, by the path of the matrix; in the chip's order.

    Those of the model's `graph()`; a model without one has none.
    """
    if not hasattr(model, "graph"):
        return {}
    paths = [op.module for op in model.graph() if isinstance(op, Matrix)]  # type: ignore[operator]
    owners = {path: model.get_submodule(path) for path in paths}
    return {path: getattr(owner, "matrix", owner) for path, owner in owners.items()}


def input_range(x: Tensor, mask: Tensor | None, percentile: float) -> float:
    """The `percentile` of the magnitudes of a matrix's inputs, without padding; 100: the largest."""
    seen = x if mask is None or x.ndim != 3 else x[mask]
    if percentile < 100:
        return full_scale(seen, percentile, _SAMPLE)
    return float(seen.detach().abs().max())


class Injection:
    """A context in which every matrix that sits on analog tiles is imperfect, as on a chip:

        W~ = W + weights max_i |W_ji| N(0, 1)                   programming noise, drawn once per context
               + multiplicative W_ji N(0, 1)                    growing with what devices hold
        y  = W~ clip(x, -r, r) + outputs r max_i |W_ji| N(0, 1) read noise, drawn for every product
        r  = the `clip` percentile of |x| in the batch          the DAC's range (100: no clipping; without padding;
                                                                of events as in `kernels.full_scale`; or learned)
        a~ = a + poles max_n(|Re a|, |Im a|) (N(0, 1) + i N(0, 1))  of each head's poles, drawn once per context

    W are the weights that the matrix multiplies with: of a quantized one those on their grid. The noise is not
    rounded with them: nor is that of poles, which comes on top of their grid. The gradient is taken at the noisy
    weights and belongs to the clean ones, which are back when the context ends. Matrices are those of the model's
    `graph()`; a model without one has none. Draws come from torch's global generator. Source: Joshi et al. 2020
    (doi:10.1038/s41467-020-16108-9) for the weights, Rasch et al. 2023 (doi:10.1038/s41467-023-40770-4) for inputs
    and outputs, Siegel et al. 2025 (arXiv:2507.06079) for noise on A relative to its range.

    A `disturbance` takes the place of `weights`, `multiplicative`, `outputs` and `clip`: what a chip makes of each
    product in the `step`. `ConfigError` for noise on poles of a model that has none.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        weights: float = 0.0,
        outputs: float = 0.0,
        clip: float = 100.0,
        multiplicative: float = 0.0,
        poles: float = 0.0,
        disturbance: Disturbance | None = None,
        step: Step | None = None,
    ) -> None:
        self.weights, self.outputs, self.clip, self.multiplicative = weights, outputs, clip, multiplicative
        self.poles, self.disturbance, self.step = poles, disturbance, step or Step(0, 0)
        found = matrices_of(model)
        learned = any(learned_range(product) is not None for product in found.values())
        needed = weights or outputs or clip < 100 or multiplicative or learned or disturbance is not None
        self._products = found if needed else {}
        self._units = _recurrences(model) if poles else []
        if poles and not self._units:
            raise ConfigError(f"noise on poles {poles:g}: the model has no poles; set it to 0")
        for unit in self._units:
            scheme: Any = getattr(unit, "scheme", None)
            if scheme is not None and getattr(unit, "periods", None) is not None:
                raise ConfigError(
                    f"noise on poles {poles:g} is that of poles of every step, but the scheme has rate_limit = "
                    f"{scheme.rate_limit}; set the noise to 0, or quantize without it"
                )
        self._handles: list[RemovableHandle] = []
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Injection:
        for index, (path, product) in enumerate(self._products.items()):
            if self.disturbance is not None:
                self._replace(product, self.disturbance.product(index, path, self.step))
                continue
            weight, grid = product.weight, product.grid
            assert isinstance(weight, Tensor)
            assert isinstance(grid, nn.Module)
            peak = weight.detach().abs().amax(dim=1)
            if self.weights:
                self._handles.append(_disturbed(grid, self.weights * peak[:, None] * torch.randn_like(weight)))
            if self.multiplicative:
                noise = self.multiplicative * weight.detach() * torch.randn_like(weight)
                self._handles.append(_disturbed(grid, noise))
            if self.outputs or self.clip < 100 or learned_range(product) is not None:
                self._handles += self._hooked(product, peak)
        for unit in self._units:
            self._undo.append(_disturbed_poles(unit, self.poles))
        return self

    def _hooked(self, product: nn.Module, peak: Tensor) -> list[RemovableHandle]:
        """Clip what enters the product and disturb what leaves it."""
        ranges: list[Any] = []

        def before(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            x, mask = inputs[0], inputs[1] if len(inputs) > 1 else None
            learned = learned_range(product)
            span = input_range(x, mask, self.clip) if learned is None else learned
            ranges[:] = [span]
            return (x.clamp(-span, span), *inputs[1:])

        def after(_: nn.Module, __: Any, y: Tensor) -> Tensor:
            return torch.as_tensor(y + self.outputs * ranges[0] * peak * torch.randn_like(y))

        return [product.register_forward_pre_hook(before), product.register_forward_hook(after)]

    def _replace(self, product: nn.Module, chip: Product) -> None:
        """Let the chip compute the product until the context ends."""
        percentile = 100.0 if self.disturbance is None else self.disturbance.input_percentile

        def forward(x: Tensor, mask: Tensor | None = None, fmt: Any = None) -> Tensor:
            learned = learned_range(product)
            span = input_range(x, mask, percentile) if learned is None else learned
            weight, bias = product.weight, product.bias
            assert isinstance(weight, Tensor)
            # inputs that are all zero have no range: nothing flows
            y = chip(x, weight, span) if torch.as_tensor(span).detach() > 0 else nn.functional.linear(x, weight)
            y = y if bias is None else y + torch.as_tensor(bias)
            return torch.as_tensor(y if fmt is None else quantize(y, fmt, -1))

        product.forward = forward  # of this module alone; its class's is back when this one is gone
        self._undo.append(lambda: delattr(product, "forward"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        for undo in self._undo:
            undo()
        self._handles, self._undo = [], []


def _disturbed(grid: nn.Module, noise: Tensor) -> RemovableHandle:
    """Add noise to what a weight becomes on its way to the product."""
    return grid.register_forward_hook(lambda _, __, weight: weight + noise)


# Poles


def _recurrences(model: nn.Module) -> list[nn.Module]:
    """The modules with poles; in the place of one that a quantized module holds, that module."""
    units = {id(module): module for module in model.modules() if callable(getattr(module, "discrete", None))}
    for module in model.modules():
        if (inner := module._modules.get("inner")) is not None and id(inner) in units:
            units[id(inner)] = module
    return list(units.values())


def _disturbed_poles(owner: nn.Module, size: float) -> Callable[[], None]:
    """Add noise to the poles of a recurrence, on top of their grid; returns what undoes it."""
    unit: Any = owner._modules.get("inner") or owner
    specs: Any = getattr(owner, "specs", {})
    held: Any = owner
    scheme: Any = getattr(owner, "scheme", None)
    spec: FormatSpec | None = specs.get("poles")
    on_grid = spec is not None and spec.bits is not None
    with torch.no_grad():
        parts = torch.view_as_real(unit.discrete()[0].resolve_conj())
    largest = parts.abs().amax((-2, -1))  # of each head, or of the one system that there is
    drawn = torch.view_as_complex(torch.randn_like(parts))
    noise = size * largest[..., None] * drawn
    discrete = unit.discrete

    def noisy() -> tuple[Tensor, ...]:
        a, *rest = discrete()
        if spec is not None and on_grid:
            pairs = torch.view_as_real(a.detach().resolve_conj())
            rows = spec.granularity if a.ndim > 1 else "tensor"
            rules: Any = {"symmetric": spec.symmetric, "power_of_two": spec.power_of_two}
            made = polar(a if a.ndim > 1 else a[None], scheme, replace(spec, granularity=rows))
            if made is not None:
                a = made[0].reshape(a.shape)
            else:
                a = rounded(a, parameter_format(pairs, spec.bits or 0, rows, **rules))
        return a + noise, *rest

    def undo() -> None:
        del unit.discrete
        if on_grid:
            specs["poles"], held.scheme = spec, scheme

    unit.discrete = noisy  # of this module alone
    if spec is not None and on_grid:  # what is between the codes needs a finer grid
        specs["poles"], held.scheme = (
            replace(spec, bits=_FINEST),
            scheme.model_copy(update={"pole_form": "cartesian"}),
        )
    return undo


# Input ranges that are learned


def learned_range(product: nn.Module) -> Tensor | None:
    """The input range of a matrix, with its gradient, where it is a parameter."""
    log = getattr(product, "log_input_range", None)
    return None if log is None else torch.exp(log)


@torch.no_grad()
def learn_input_ranges(model: nn.Module, inputs: tuple[Any, ...], percentile: float) -> None:
    """Give every matrix of a quantized model its input range as a parameter, from what it sees of `inputs`.

    One that has it keeps it. `ConfigError` for a model in full precision, whose ranges would be lost when it is
    quantized, or a matrix whose inputs are all zero.
    """
    products = matrices_of(model)
    fresh = {path: p for path, p in products.items() if getattr(p, "log_input_range", None) is None}
    if not fresh:
        return
    if not all(hasattr(product, "learn_input_range") for product in fresh.values()):
        raise ConfigError("input ranges are learned by a quantized model; quantize it first, or calibrate them")
    seen: dict[str, float] = {}

    def look(path: str) -> Callable[..., None]:
        def record(_: nn.Module, given: tuple[Any, ...]) -> None:
            seen[path] = input_range(given[0], given[1] if len(given) > 1 else None, percentile)

        return record

    handles = [product.register_forward_pre_hook(look(path)) for path, product in fresh.items()]
    was = model.training
    try:
        model.eval()
        model(*inputs)
    finally:
        model.train(was)
        for handle in handles:
            handle.remove()
    for path, product in fresh.items():
        if not seen.get(path, 0.0) > 0:
            raise ConfigError(f"the inputs of matrix {path!r} are all zero: no range can be learned from them")
        product.learn_input_range(seen[path])  # type: ignore[operator]
