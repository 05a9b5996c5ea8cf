"""Full precision: the fused implementation against the plain loop, values and gradients."""

import pytest
import torch
from scan_cases import operands
from torch import Tensor

from imc_ssm.kernels import diagonal_scan


def relative(found: Tensor, exact: Tensor) -> float:
    """max |difference| / max |reference|: outputs pass through zero."""
    return float((found.to(exact.dtype) - exact).abs().max() / exact.abs().max())


def wide(*values: Tensor | None) -> list[Tensor | None]:
    """The same values in double precision."""
    double = {torch.float32: torch.float64, torch.complex64: torch.complex128}
    return [None if z is None else z.detach().to(double[z.dtype]) for z in values]


SHAPES = [(1, 1, 1, 1), (3, 2, 4, 50), (16, 3, 5, 33), (17, 2, 32, 200), (40, 1, 3, 7)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("identity", ["", "b", "c", "bc"])
def test_values(shape: tuple[int, int, int, int], identity: str) -> None:
    u, a, b, c = operands(1, *shape)
    b_, c_ = (None if name in identity else z for name, z in (("b", b), ("c", c)))
    exact, end = diagonal_scan(*wide(u, a, b_, c_), return_state=True, backend="reference")
    for backend in ("cpu", "auto", "reference"):
        y, last = diagonal_scan(u, a, b_, c_, return_state=True, backend=backend)
        assert y.dtype == torch.float32
        assert last.dtype == torch.complex64
        assert relative(y, exact) < 1e-6
        assert relative(last, end) < 1e-6


def test_one_step_by_hand() -> None:
    u = torch.tensor([[[2.0, 1.0]]])
    a, b, c = (torch.tensor([[z]], dtype=torch.complex64) for z in (0.5 + 0.5j, 1 - 1j, 2 + 1j))
    # x0 = 2 - 2i; 2 Re((2 + i)(2 - 2i)) = 2 * 6; x1 = (0.5 + 0.5i)(2 - 2i) + 1 - i = 3 - i; 2 Re(7 + i) = 14
    assert diagonal_scan(u, a, b, c).tolist() == [[[12.0, 14.0]]]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_cut_in_time(backend: str) -> None:
    u, a, b, c = operands(2, 5, 3, 4, 60)
    whole, end = diagonal_scan(u, a, b, c, return_state=True, backend=backend)
    state, parts = None, []
    for piece in u.split([1, 20, 39], dim=-1):
        y, state = diagonal_scan(piece, a, b, c, x0=state, return_state=True, backend=backend)
        parts.append(y)
    # The fused kernel keeps the state in double precision; it is handed on in single.
    limit = 0 if backend == "reference" else 1e-6
    assert relative(torch.cat(parts, dim=-1), whole) <= limit
    assert relative(torch.view_as_real(state), torch.view_as_real(end)) <= limit


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("clamp", [None, 0.5])
@pytest.mark.parametrize("clip", [None, 0.7])
@pytest.mark.parametrize("start", [False, True])
def test_gradients(shape: tuple[int, int, int, int], clamp: float | None, clip: float | None, start: bool) -> None:
    u, a, b, c = operands(3, *shape)
    weight = torch.randn(u.shape, generator=torch.Generator().manual_seed(1))
    x0 = None
    if start:
        x0 = torch.randn(shape[0], *a.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(2))
        x0 *= 0.1
    fused = [z.clone().requires_grad_() for z in (u, a, b, c)]
    (diagonal_scan(*fused, x0=x0, grad_clamp=clamp, state_clip=clip, backend="cpu") * weight).sum().backward()
    exact = [z.requires_grad_() for z in wide(u, a, b, c) if z is not None]
    options = {"grad_clamp": clamp, "state_clip": clip, "backend": "reference"}
    y = diagonal_scan(*exact, x0=wide(x0)[0], **options)
    (y * weight).sum().backward()
    for name, one, two in zip("uabc", fused, exact, strict=True):
        assert one.grad is not None
        assert two.grad is not None
        if two.grad.abs().max() > 0:
            assert relative(one.grad, two.grad) < 1e-4, name
        else:
            assert one.grad.abs().max() == 0, name


def test_gradient_of_the_reference_by_finite_differences() -> None:
    u, a, b, c = operands(4, 2, 2, 3, 6, dtype=torch.float64)
    x0 = torch.randn(2, *a.shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(3))
    leaves = [z.clone().requires_grad_() for z in (u, a, b, c, x0)]

    def run(u: Tensor, a: Tensor, b: Tensor, c: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
        return diagonal_scan(u, a, b, c, x0=x0, return_state=True, backend="reference")

    assert torch.autograd.gradcheck(run, leaves, eps=1e-6, atol=1e-6)


def test_a_trained_initial_state_gets_its_gradient() -> None:
    u, a, b, c = operands(5, 2, 2, 3, 6)
    x0 = torch.zeros(2, *a.shape, dtype=torch.complex64, requires_grad=True)
    diagonal_scan(u, a, b, c, x0=x0).sum().backward()
    assert x0.grad is not None
    assert x0.grad.abs().min() > 0


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_clamp_bounds_a_large_gradient(backend: str) -> None:
    # One state, a = 1: without a clamp the gradient of the first input would be the sum of all injected ones.
    time = 12
    u = torch.zeros(1, 1, time, requires_grad=True)
    one = torch.ones(1, 1, dtype=torch.complex64)
    y = diagonal_scan(u, one, one, one, grad_clamp=3.0, backend=backend)
    y.backward(torch.full_like(y, 1e6))
    assert u.grad is not None
    assert u.grad.tolist() == [[[3.0] * time]]
    u.grad = None
    free = diagonal_scan(u, one, one, one, backend=backend)
    free.backward(torch.ones_like(free))
    assert u.grad is not None
    assert u.grad.tolist() == [[[2.0 * (time - t) for t in range(time)]]]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_clip_bounds_an_unstable_state(backend: str) -> None:
    u, one = torch.ones(1, 1, 400), torch.ones(1, 1, dtype=torch.complex64)
    y, last = diagonal_scan(u, (-2 + 0.5j) * one, one, one, state_clip=50.0, return_state=True, backend=backend)
    assert torch.isfinite(y).all()
    assert y.abs().max() == 100.0
    assert torch.view_as_real(last).abs().max() == 50.0
    # by hand, a = 2: 1, 3, 7, 15, 31, then 50 for ever, and no gradient through what saturated
    u.requires_grad_()
    y = diagonal_scan(u[..., :8], 2 * one, one, one, state_clip=50.0, backend=backend)
    assert y.tolist() == [[[2.0, 6.0, 14.0, 30.0, 62.0, 100.0, 100.0, 100.0]]]
    y[0, 0, 4].backward()
    assert u.grad is not None
    assert u.grad[0, 0, :6].tolist() == [32.0, 16.0, 8.0, 4.0, 2.0, 0.0]
    u.grad = None
    diagonal_scan(u[..., :8], 2 * one, one, one, state_clip=50.0, backend=backend)[0, 0, 7].backward()
    assert u.grad is not None
    assert not u.grad.any()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_clip_that_nothing_reaches_changes_nothing(backend: str) -> None:
    u, a, b, c = operands(8, 3, 2, 4, 30)
    free = diagonal_scan(u, a, b, c, backend=backend)
    assert torch.equal(diagonal_scan(u, a, b, c, state_clip=1e4, backend=backend), free)


def test_no_gradient_where_none_is_asked() -> None:
    u, a, b, c = operands(6, 2, 2, 3, 6)
    c.requires_grad_()
    diagonal_scan(u, a, b, c).sum().backward()
    assert c.grad is not None
    assert u.grad is None


def test_memory_order_of_the_input_does_not_matter() -> None:
    u, a, b, c = operands(7, 4, 3, 2, 9)
    strided = u.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not strided.is_contiguous()
    assert torch.equal(diagonal_scan(strided, a, b, c), diagonal_scan(u, a, b, c))
    conjugated = diagonal_scan(u, a.conj(), b.conj(), c.conj())
    assert torch.equal(conjugated, diagonal_scan(u, *(z.conj().resolve_conj() for z in (a, b, c))))
