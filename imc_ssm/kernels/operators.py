"""The operators `torch.ops.imc_ssm.*`: one name, an implementation for each device, and a reference for the rest.

PyTorch's dispatcher chooses: Numba on the CPU, Triton or PyTorch's operations on a GPU, and the reference, in
plain PyTorch operations, for every other device or precision. So nobody else asks where a tensor lies. Gradients
are operators as well (`functions`, `scan`).

They are registered with `torch.library.Library`, not `custom_op`: a call costs 2 us instead of 7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ClassVar, Literal, TypeVar, cast, get_args

import torch

from imc_ssm.errors import ImcSsmError

__all__ = ["Implementation", "Pass", "eager", "forced", "using"]

Implementation = Literal["auto", "reference"]
IMPLEMENTATIONS: tuple[str, ...] = get_args(Implementation)

_LIBRARY = torch.library.Library("imc_ssm", "DEF")  # type: ignore[no-untyped-call]
_in_force: list[str] = ["auto"]


@contextmanager
def using(implementation: Implementation) -> Iterator[None]:
    """Within the block every operator runs this implementation: "reference", or "auto", the device's own.

    For tests: the whole path of training and evaluation as a device without kernels of its own takes it. Every
    implementation of an operator returns the same values, and what one leaves for the backward pass any other
    takes up. Raises `ImcSsmError` for another name.
    """
    if implementation not in IMPLEMENTATIONS:
        known = ", ".join(map(repr, IMPLEMENTATIONS))
        raise ImcSsmError(f"unknown implementation {implementation!r}; allowed are {known}")
    _in_force.append(implementation)
    try:
        yield
    finally:
        _in_force.pop()


def forced() -> bool:
    """Whether the reference runs whatever the device (`using`)."""
    return _in_force[-1] == "reference"


F = TypeVar("F", bound=Callable[..., Any])


def eager(function: F) -> F:
    """Decorator: `torch.compile` calls this function as it is; what it calls is compiled here already."""

    @wraps(function)
    def called(*arguments: Any, **options: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return torch.compiler.disable(function)(*arguments, **options)  # type: ignore[no-untyped-call]
        return function(*arguments, **options)

    return cast(F, called)


class Pass:
    """One operator, registered on creation; called like a function.

    `cpu` takes a first argument of `dtype`, the reference what has another. `cuda` None: the reference, too.
    """

    registered: ClassVar[dict[str, Pass]] = {}

    def __init__(
        self,
        schema: str,
        reference: Callable[..., Any],
        cpu: Callable[..., Any],
        cuda: Callable[..., Any] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.name = schema.partition("(")[0]
        self.reference, self.cpu, self.cuda = reference, cpu, cuda or reference

        def on_cpu(first: torch.Tensor, *rest: Any) -> Any:
            return cpu(first, *rest) if first.dtype == dtype else reference(first, *rest)

        _LIBRARY.define(schema)  # type: ignore[no-untyped-call]
        for function, key in ((on_cpu, "CPU"), (self.cuda, "CUDA"), (reference, "CompositeExplicitAutograd")):
            _LIBRARY.impl(self.name, function, key)  # type: ignore[no-untyped-call]
        self._dispatch = getattr(torch.ops.imc_ssm, self.name).default
        self.registered[self.name] = self

    def __call__(self, *arguments: Any) -> Any:
        return self.reference(*arguments) if forced() else self._dispatch(*arguments)

    def on(self, backend: str) -> Callable[..., Any]:
        """The implementation called "reference", "cpu" or "cuda"; "auto": what the operator itself would run."""
        if backend == "auto":
            return self.reference if forced() else self._dispatch
        implementation: Callable[..., Any] = getattr(self, backend)
        return implementation
