"""S5: its initial state matrix, its equation, and the numbers of its modes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from imc_ssm.errors import ConfigError, ImcSsmError
from imc_ssm.layers import S5, Classifier, ModelConfig, S5Config
from imc_ssm.layers.s5 import hippo_blocks
from imc_ssm.quantization import Scheme, wrap


def normal_hippo(size: int) -> np.ndarray:
    """HiPPO-LegS made normal by a rank-1 term, from its definition (arXiv:2208.04933, Eq. 8 to 11)."""
    j = np.arange(size)
    root = np.sqrt(2 * j[:, None] + 1) * np.sqrt(2 * j[None] + 1)
    hippo = -(np.tril(root, -1) + np.diag(j + 1.0))
    p = np.sqrt(j + 0.5)
    return hippo + np.outer(p, p)


@pytest.mark.parametrize(("n_state", "blocks"), [(8, 1), (16, 2), (24, 3)])
def test_poles_and_vectors_are_those_of_hippo_blocks(n_state: int, blocks: int) -> None:
    poles, vectors = (z.numpy() for z in hippo_blocks(n_state, blocks))
    assert (poles.shape, vectors.shape) == ((n_state // 2,), (n_state, n_state // 2))
    assert (poles.imag > 0).all()
    np.testing.assert_allclose(poles.real, -0.5)
    size = n_state // blocks
    matrix = np.kron(np.eye(blocks), normal_hippo(size))
    whole = np.concatenate([vectors, vectors.conj()], 1)
    np.testing.assert_allclose(whole.conj().T @ whole, np.eye(n_state), atol=1e-9)
    diagonal = np.concatenate([poles, poles.conj()])
    np.testing.assert_allclose(whole @ np.diag(diagonal) @ whole.conj().T, matrix, atol=1e-8)


@torch.no_grad()
def test_equation() -> None:
    """y = 2 Re(C x) + D u with x[t] = exp(dt A) x[t-1] + (exp(dt A) - 1) / A B u[t], in NumPy."""
    torch.manual_seed(0)
    layer = S5(3, S5Config(n_state=8, blocks=2, dt_min=0.01, dt_max=0.3)).double()
    u = np.random.default_rng(0).normal(size=(20, 3))
    p = {name: value.numpy() for name, value in layer.named_parameters()}
    A = -np.exp(p["unit.log_neg_real"]) + 1j * p["unit.imag"]
    a = np.exp(np.exp(p["unit.log_dt"]) * A)
    B = p["drive.weight"][:4] + 1j * p["drive.weight"][4:]
    C = (p["readout.weight"][:, :4] - 1j * p["readout.weight"][:, 4:]) / 2
    x, expected = np.zeros(4, complex), []
    for row in u:
        x = a * x + (a - 1) / A * (B @ row)
        expected.append(2 * (C @ x).real + p["after_d.D"] * row)
    for mode in ("convolution", "recurrent"):
        layer.unit.mode = mode
        np.testing.assert_allclose(layer(torch.from_numpy(u[None]))[0].numpy(), expected, rtol=1e-9, atol=1e-12)


def test_initial_variance() -> None:
    """B and C start so that the drive has the inputs' variance, and the readout that of a state's part."""
    torch.manual_seed(0)
    layer = S5(256, S5Config(n_state=64))
    drive = layer.drive.weight.detach()
    # |V^H B0|^2 summed over the kept half of N orthonormal vectors: N/2 of N; each row has mean square 1/H.
    assert float(drive.square().sum(0).mean()) == pytest.approx(64 / 2 / 256, rel=0.1)
    assert float(layer.readout.weight.detach().square().mean()) == pytest.approx(4 / 2 / 64, rel=0.1)


@pytest.mark.parametrize("fields", [{"n_state": 6, "blocks": 2}, {"blocks": 0}, {"n_state": 7}])
def test_bad_configurations(fields: dict) -> None:
    with pytest.raises(ConfigError):
        S5Config.parse(fields)


@pytest.mark.parametrize("parameterisation", ["discrete", "frozen"])
def test_a_parameterisation_that_it_does_not_have_is_refused(parameterisation: str) -> None:
    with pytest.raises(ImcSsmError, match=f"parameterisation = '{parameterisation}', but .* use 'continuous'"):
        wrap(Classifier(ModelConfig(layer="s5", n_state=16)), Scheme(parameterisation=parameterisation))
