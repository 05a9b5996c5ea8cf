"""What `diagonal_scan` refuses, before any work is done."""

import pytest
import torch
from scan_cases import formats_for, operands

from imc_ssm.errors import FormatError, ImcSsmError
from imc_ssm.kernels import diagonal_scan

U, A, B, C = operands(1, 3, 2, 4, 5)
FORMATS = formats_for(U, A, B, C, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": U[0]}, r"u has shape \(2, 5\)"),
        ({"u": U[:, :1]}, r"a has shape \(2, 4\), u \(3, 1, 5\)"),
        ({"a": A[0]}, r"a has shape \(4,\)"),
        ({"b": B[:, :3]}, r"b has shape \(2, 3\); needed is that of a"),
        ({"c": C[:1]}, r"c has shape \(1, 4\)"),
        ({"u": U.half()}, r"u has dtype torch.float16"),
        ({"u": U.double()}, r"a has dtype torch.complex64; with u of torch.float64 it must be torch.complex128"),
        ({"a": A.real}, r"a has dtype torch.float32"),
        ({"c": C.to(torch.complex128)}, r"c has dtype torch.complex128"),
        ({"backend": "gpu"}, r"unknown backend 'gpu'; allowed are 'auto', 'reference', 'cpu', 'cuda'"),
        ({"grad_clamp": -1.0}, r"grad_clamp -1.0; allowed is a positive bound or None"),
        ({"grad_clamp": float("nan")}, r"grad_clamp nan; allowed"),
        ({"state_clip": 0.0}, r"state_clip 0.0; allowed is a positive bound or None"),
        ({"state_clip": float("nan")}, r"state_clip nan; allowed"),
        ({"state_clip": 1.0, "formats": FORMATS}, r"state_clip is for full precision"),
        (
            {"state_clip": 0.5, "x0": torch.full((3, 2, 4), 0.6j, dtype=torch.complex64)},
            r"x0 holds values outside \+- 0.5",
        ),
        ({"x0": torch.full((3, 2, 4), float("nan"), dtype=torch.complex64)}, r"x0 is not finite"),
        ({"x0": torch.zeros(3, 2, 4)}, r"x0 is torch.float32"),
        ({"x0": torch.zeros(2, 2, 4, dtype=torch.complex64)}, r"x0 is torch.complex64 \(2, 2, 4\)"),
    ],
)
def test_shapes_and_dtypes(change: dict, message: str) -> None:
    with pytest.raises(ImcSsmError, match=message):
        diagonal_scan(**({"u": U, "a": A, "b": B, "c": C} | change))


@pytest.mark.parametrize("name", ["u", "a", "b", "c"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("formats", [None, FORMATS])
def test_not_finite(name: str, value: float, formats: object) -> None:
    operands = {"u": U.clone(), "a": A.clone(), "b": B.clone(), "c": C.clone()}
    operands[name].view(-1)[3] = value
    with pytest.raises(ImcSsmError, match=f"{name} is not finite"):
        diagonal_scan(**operands, formats=formats)


def test_double_precision_is_for_the_reference() -> None:
    double = [U.double(), *(z.to(torch.complex128) for z in (A, B, C))]
    assert diagonal_scan(*double).dtype == torch.float64
    with pytest.raises(ImcSsmError, match="'cpu' takes float32"):
        diagonal_scan(*double, backend="cpu")
    with pytest.raises(ImcSsmError, match="takes float32"):
        diagonal_scan(*double, formats=FORMATS)


def test_formats_go_with_their_operands() -> None:
    with pytest.raises(FormatError, match=r"b and formats.b must be given together"):
        diagonal_scan(U, A, None, C, formats=FORMATS)
    with pytest.raises(FormatError, match="is for 2 heads, the recurrence has 1"):
        diagonal_scan(U[:, :1], A[:1], B[:1], C[:1], formats=FORMATS)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_initial_codes(backend: str) -> None:
    for x0 in (
        torch.zeros(3, 2, 4, 2),
        torch.zeros(3, 2, 4, dtype=torch.int64),
        torch.zeros(1, 2, 4, 2, dtype=torch.int64),
    ):
        with pytest.raises(ImcSsmError, match="needed are integer codes"):
            diagonal_scan(U, A, B, C, formats=FORMATS, x0=x0, backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_initial_codes_outside_their_format(backend: str) -> None:
    x0 = torch.zeros(3, 2, 4, 2, dtype=torch.int64)
    x0[1, 1, 2, 0] = 128
    with pytest.raises(FormatError, match="x0 holds codes outside"):
        diagonal_scan(U, A, B, C, formats=FORMATS, x0=x0, backend=backend)


def test_a_trained_initial_state_is_for_the_reference() -> None:
    x0 = torch.zeros(3, 2, 4, dtype=torch.complex64, requires_grad=True)
    with pytest.raises(ImcSsmError, match="x0"):
        diagonal_scan(U, A, B, C, x0=x0, backend="cpu")
