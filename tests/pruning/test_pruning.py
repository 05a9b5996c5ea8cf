"""Criteria, schedules, zeros, the greedy search, and `prune` itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import imc_ssm
from imc_ssm import datasets
from imc_ssm.analysis import complexity
from imc_ssm.chip.mapping import Wired
from imc_ssm.errors import ConfigError, DesignError, ImcSsmError
from imc_ssm.layers import LAYERS, Classifier, ModelConfig
from imc_ssm.pruning import (
    CRITERIA,
    Case,
    Structure,
    criterion,
    fractions,
    hankel,
    head_energy,
    largest_allowed,
    left,
    mode_energy,
    modes,
    real_form,
    scores_of,
    sparsity,
    streams,
)
from imc_ssm.quantization import Scheme, quantize
from imc_ssm.training import TrainConfig, accuracy


@pytest.fixture(scope="module")
def data() -> datasets.SequenceDataset:
    return datasets.load("digits")


def small(**fields: object) -> Classifier:
    torch.manual_seed(0)
    return Classifier(ModelConfig.parse({"heads": 6, "n_state": 8, "dt_min": 0.01, "dt_max": 0.5} | fields)).eval()


def impulse(layer: torch.nn.Module, steps: int = 4000) -> np.ndarray:
    """What a layer of one channel answers to (1, 0, 0, ...), without D u."""
    a, b, c = (z.detach().numpy().astype(complex) for z in layer.discrete())
    return 2 * ((c * b)[..., None] * a[..., None] ** np.arange(steps)).real


def test_energy_is_the_sum_of_squares_of_the_impulse_response() -> None:
    layer = small().blocks[0].ssm
    found = mode_energy(modes(layer))
    h = impulse(layer)
    assert np.allclose(found, (h**2).sum(-1), rtol=1e-6)
    with torch.no_grad():
        parts = [z.numpy() for z in (*layer.discrete(), layer.D)]
    whole = h.sum(1)
    whole[:, 0] += parts[3]
    assert np.allclose(head_energy(*parts), (whole**2).sum(-1), rtol=1e-6)


def test_energy_of_a_layer_with_one_system_is_that_of_all_pairs() -> None:
    """S5: the response of every output to an impulse at every input, of one state alone."""
    model = small(layer={"type": "s5"}).set_mode("recurrent")
    layer = model.blocks[0].ssm
    found = mode_energy(modes(layer))[0]
    n = len(found)
    with torch.no_grad():
        layer.after_d.D.zero_()
        whole = layer.readout.weight.clone()
        for state in range(n):
            layer.readout.weight.zero_()
            own = [state, n + state]
            layer.readout.weight[:, own] = whole[:, own]
            u = torch.zeros(6, 3000, 6)
            u[torch.arange(6), 0, torch.arange(6)] = 1
            assert float(layer(u).double().square().sum()) == pytest.approx(found[state], rel=1e-3)


def test_poles_that_do_not_decay_have_no_energy_to_compare() -> None:
    one = np.array([[1.0 + 0j, 0.5]])
    assert np.isinf(head_energy(one, one, one, np.zeros(1)))[0]
    with pytest.raises(ImcSsmError, match="does not decay"):
        hankel(one[0], one[0], one[0])


def frequency_response(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    z = np.exp(1j * np.linspace(0, np.pi, 4000))[:, None]
    return (c * b / (1 - a / z)).sum(1) + (c * b).conj() @ (1 / (1 - a.conj() / z)).T


@settings(deadline=None)  # what is first compiled takes longer
@given(st.integers(0, 10_000))
def test_no_truncation_beats_the_hankel_bound(seed: int) -> None:
    """Leaving out the state of least energy is wrong by at least sigma_{r+1}, whatever its coordinates; and the
    H2 norm of a mode is sqrt(C P C^T) of its real form."""
    rng = np.random.default_rng(seed)
    a = rng.uniform(0.2, 0.97, 4) * np.exp(1j * rng.uniform(0.1, 3.0, 4))
    b, c = (rng.normal(size=4) + 1j * rng.normal(size=4) for _ in "bc")
    sigma = hankel(a, b, c)
    energies = []
    for n in range(4):
        A, B, C = real_form(a[[n]], b[[n]], c[[n]])
        energies.append(C @ scipy.linalg.solve_discrete_lyapunov(A, np.outer(B, B)) @ C)
    g = c * b
    made = 2 * abs(g) ** 2 / (1 - abs(a) ** 2) + 2 * (g**2 / (1 - a**2)).real
    assert np.allclose(energies, made, rtol=1e-8)
    kept = np.sort(np.argsort(-made)[:3])
    wrong = frequency_response(a, b, c) - frequency_response(a[kept], b[kept], c[kept])
    lost = np.abs(wrong).max()
    gone = [n for n in range(4) if n not in kept]
    assert lost <= 2 * hankel(a[gone], b[gone], c[gone]).sum() * (1 + 1e-9)  # its own bound, from order 0
    assert lost >= sigma[6] * (1 - 1e-2)  # three modes are a system of order six; the grid may miss the peak


@pytest.mark.parametrize("name", ["magnitude", "energy", "saliency"])
@pytest.mark.parametrize("quantized", [False, True])
def test_what_does_nothing_goes_first(name: str, quantized: bool, data: datasets.SequenceDataset) -> None:
    model = small().set_mode("recurrent")
    layer = model.blocks[0].ssm
    with torch.no_grad():
        layer.C[:, 2] = 0
        layer.C[4], layer.D[4] = 0, 0
        for matrix in (model.blocks[0].mixing, model.decoder):
            matrix.weight[:, 4] = 0
        model.encoder.weight[4], model.encoder.bias[4] = 0, 0
        model.blocks[0].mixing.weight[[4, 10]], model.blocks[0].mixing.bias[[4, 10]] = 0, 0
    if quantized:
        model = quantize(model, Scheme(weight_rounding="nearest"), data)
    case = Case(Structure(model), data)
    states = scores_of(name, case, "states")["blocks.0.ssm"]
    assert (states[:, 2] == 0).all()
    others = np.delete(states, 2, 1)[[0, 1, 2, 3, 5]]
    assert (others > 0).all()
    heads = scores_of(name, case, "heads")[0]
    assert heads.argmin() == 4
    made = imc_ssm.prune(model, states=0.25, heads=0.17, criterion=name, data=data, scope="head")
    assert made.config.heads == 5
    assert made.config.layer.n_state == 6
    with torch.no_grad():
        u = torch.from_numpy(data.split("test").values[:20])
        assert quantized or torch.allclose(made(u), model(u), atol=1e-4)


def test_criteria_are_a_registry(data: datasets.SequenceDataset) -> None:
    @criterion("the last ones")
    def last(case: Case, part: str) -> dict:
        return {path: -np.arange(24.0).reshape(6, 4) for path in case.structure.layers}

    try:
        made = imc_ssm.prune(small(), states=0.5, criterion="the last ones", scope="block")
        assert made.config.states == ((4, 4, 4, 0, 0, 0),)
        with pytest.raises(ConfigError, match="exists already"):
            criterion("energy")(last)
    finally:
        del CRITERIA["the last ones"]


def test_mistakes_are_named(data: datasets.SequenceDataset) -> None:
    for fields, words in (
        ({}, "nothing to prune"),
        ({"states": 1.0}, "states = 1.0"),
        ({"states": 0.5, "criterion": "enrgy"}, "did you mean 'energy'"),
        ({"states": 0.5, "criterion": "saliency"}, "needs training data"),
        ({"weights": 0.5, "criterion": "energy"}, "ranks states and heads"),
        ({"weights": 0.5, "matrices": "mixin"}, "unknown matrix 'mixin'"),
        ({"states": 0.5, "scope": "heads"}, "unknown scope 'heads'"),
        ({"states": 0.5, "schedule": "cubi"}, "unknown schedule 'cubi'"),
        ({"states": 0.5, "rounds": 0}, "rounds = 0"),
        ({"states": 0.5, "tolerance": 1.0}, "validation data"),
        ({"states": 0.5, "training": TrainConfig(epochs=1)}, "training needs data"),
    ):
        with pytest.raises(ConfigError, match=words):
            imc_ssm.prune(small(), **fields)
    with pytest.raises(ConfigError, match="share one system"):
        imc_ssm.prune(small(layer={"type": "s5"}), heads=0.5, criterion="energy")
    with pytest.raises(ImcSsmError, match="prune takes a model"):
        imc_ssm.prune(ModelConfig(), states=0.5)


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_prunes_or_says_that_it_cannot(name: str, data: datasets.SequenceDataset) -> None:
    torch.manual_seed(0)
    model = Classifier(ModelConfig.parse({"heads": 6, "layer": {"type": name}})).eval()
    made = imc_ssm.prune(model, heads=0.34, weights=0.5, data=data)
    assert made.config.heads == 4
    assert sparsity(made, "*.mixing") == pytest.approx(0.5, abs=0.02)
    if model.config.layer.state_counts(6):
        fewer = imc_ssm.prune(model, states=0.5, data=data)
        left_over = [n for own in (fewer.config.states or [fewer.config.layer.state_counts(6)]) for n in own]
        assert sum(left_over) == sum(model.config.layer.state_counts(6)) // 2
    else:
        with pytest.raises(ImcSsmError, match="no states that can be pruned"):
            imc_ssm.prune(model, states=0.5, data=data)


def test_schedules_end_at_the_fraction() -> None:
    assert fractions(0.8, 1) == [0.8]
    assert fractions(0.8, 4, "linear") == pytest.approx([0.2, 0.4, 0.6, 0.8])
    cubic = fractions(0.8, 4)
    assert cubic == pytest.approx([0.8 * (1 - 0.75**3), 0.8 * (1 - 0.5**3), 0.8 * (1 - 0.25**3), 0.8])
    assert [left(10, f) for f in (0.0, 0.34, 0.99)] == [10, 7, 1]


def test_rounds_with_training_keep_zeros_zero_and_reach_the_sizes(data: datasets.SequenceDataset) -> None:
    model = quantize(small(n_state=16), Scheme(), data)
    made = imc_ssm.prune(
        model,
        states=0.5,
        heads=0.34,
        weights=0.6,
        rounds=2,
        data=data,
        scope="head",
        training=TrainConfig(epochs=1, batch=64, weight_decay=0.1, noise=0.05),
    )
    assert made.config.heads == 4
    assert made.config.layer.n_state == 8
    own = made.blocks[0].mixing.matrix.linear.weight
    assert float((own == 0).float().mean()) == pytest.approx(0.6, abs=0.02)
    assert len(model.blocks[0].ssm.inner.C) == 6  # the one that came in is as it was
    assert float((made.encoder.matrix.linear.weight == 0).float().mean()) == 0


def test_a_zero_costs_the_lowest_conductance_and_nothing_else(data: datasets.SequenceDataset) -> None:
    model = quantize(small(), Scheme(), data)
    made = imc_ssm.prune(model, weights=0.5)
    costs = [imc_ssm.cost(imc_ssm.compile_model(one, "pcm-256", data)) for one in (model, made)]
    energy = [c.energy.to_series() for c in costs]
    assert energy[1]["cells"] < energy[0]["cells"]
    for part in energy[0].index.drop("cells"):
        assert energy[1][part] == pytest.approx(energy[0][part])
    mapped = [imc_ssm.compile_model(one, "pcm-256", data) for one in (model, made)]
    chip = mapped[1].chip
    (mixing,) = (m for m in mapped[1].matrices if m.module == "blocks.0.mixing")
    low = 2 * chip.cell.g_min.value * mixing.target.size
    span = chip.cell.g_max.value - chip.cell.g_min.value
    assert mixing.conductance(chip) == pytest.approx(low + span * np.abs(mixing.target).sum(), rel=1e-5)


@settings(deadline=None)  # what is first compiled takes longer
@given(st.lists(st.integers(0, 9), max_size=30), st.integers(0, 40))
def test_halving_finds_a_set_that_is_allowed(items: list[int], most: int) -> None:
    found = largest_allowed(items, lambda gone: sum(gone) <= most)
    assert sum(found) <= most
    rest = list(items)
    for item in found:
        rest.remove(item)
    assert all(sum(found) + item > most for item in rest) or not rest


def test_greedy_keeps_validation_accuracy(data: datasets.SequenceDataset) -> None:
    model = small(heads=8, n_state=16)
    imc_ssm.train(model, data, TrainConfig(epochs=2))
    before = accuracy(model, data.split("validation"))
    made = imc_ssm.prune(model, states=0.9, weights=0.9, tolerance=1.0, data=data)
    assert accuracy(made, data.split("validation")) >= before - 1.0
    assert sum(made.blocks[0].ssm.packed(made.blocks[0].ssm.discrete()[0]).shape) < 64 + 1
    with pytest.raises(ImcSsmError, match="both directions"):
        imc_ssm.prune(small(bidirectional=True), states=0.5, tolerance=1.0, data=data)


def test_streams_are_what_residual_sums_join() -> None:
    assert streams(ModelConfig(heads=4, layers=3)) == (0, 0, 0)
    assert streams(ModelConfig(heads=4, layers=3, residual=False)) == (0, 1, 2)
    assert streams(ModelConfig(heads=(4, 4, 6, 6))) == (0, 0, 1, 1)


def test_a_longer_sequence_of_prunings_is_one_model(data: datasets.SequenceDataset) -> None:
    """What is pruned can be pruned again: ragged states, then heads, then states."""
    model = imc_ssm.prune(small(layers=2, n_state=16), states=0.4, scope="model")
    for fields in ({"heads": 0.34}, {"states": 0.5, "scope": "block"}, {"states": 0.5, "scope": "head"}):
        model = imc_ssm.prune(model, **fields, data=data)
    u = torch.from_numpy(data.split("test").values[:3])
    assert torch.isfinite(model(u)).all()
    assert model.config.widths == (4, 4)


def test_columns_and_rows_that_are_gone_cost_nothing(data: datasets.SequenceDataset, tmp_path: Path) -> None:
    """The chip has neither their devices nor their converters, and computes what the digital model does."""
    model = quantize(small(heads=8), Scheme(), data)
    made = imc_ssm.prune(model, columns=0.5, rows=0.25, data=data)
    before, after = (imc_ssm.compile_model(one, "pcm-256", data) for one in (model, made))
    (mixing,) = (m for m in after.matrices if m.module == "blocks.0.mixing")
    assert (mixing.inputs, mixing.outputs, mixing.size) == (6, 8, (8, 16))
    assert mixing.target.any(axis=0).all()
    assert mixing.target.any(axis=1).all()
    chip = after.chip
    counts = {
        (a.verb, a.component): a.count for a in mixing.product_actions(chip) if a.verb in ("adc", "dac", "cell")
    }
    assert counts["adc", "adc"] == 8 * chip.dac.pulses * chip.design.slices
    assert counts["cell", "cells"] == mixing.device_count(chip)
    assert complexity(after).conversions < complexity(before).conversions
    assert float(imc_ssm.cost(after).energy_total) < float(imc_ssm.cost(before).energy_total)
    path = tmp_path / "d.safetensors"
    after.save(path)
    again = imc_ssm.Deployment.load(path)
    assert again.digest() == after.digest()
    u = torch.from_numpy(data.split("test").values[:10])
    analog, tiles = again.analog()
    with torch.no_grad():
        matrix = made.blocks[0].mixing.matrix
        x = torch.rand(5, 8) * tiles[1].mapped.input_range
        exact, found = x @ matrix.weight.T + matrix.bias, tiles[1](x)
        idle = np.setdiff1d(np.arange(16), mixing.wired.columns)
        assert torch.equal(found[:, idle], matrix.bias[idle].expand(5, -1))
        used = mixing.wired.columns  # an ADC whose range such inputs leave saturates: the middle one of each
        assert (found - exact)[:, used].abs().median() < 0.01 * exact.abs().max()
        assert torch.isfinite(analog(u)).all()
        for tile in tiles:
            tile.program(0, [0, 1])
        assert torch.isfinite(analog(torch.cat([u, u]))).all()
    x.requires_grad_()
    tiles[1].program(0, 0)(x).sum().backward()
    gone = np.setdiff1d(np.arange(8), mixing.wired.rows)
    assert (x.grad[:, gone] == 0).all()
    assert (x.grad[:, mixing.wired.rows] != 0).any()


def test_a_matrix_of_zeros_keeps_one_cell(data: datasets.SequenceDataset) -> None:
    model = quantize(small(), Scheme(), data)
    with torch.no_grad():
        model.blocks[0].mixing.matrix.linear.weight.zero_()
    deployment = imc_ssm.compile_model(model, "pcm-256", data)
    (mixing,) = (m for m in deployment.matrices if m.module == "blocks.0.mixing")
    assert (mixing.inputs, mixing.outputs) == (1, 1)


def test_wires_that_lead_nowhere_are_refused() -> None:
    zeros = np.zeros(4, np.float32)
    for rows, columns in (([0, 0], [1]), ([3], [0]), ([], [0]), ([0], [4]), ([-1], [0])):
        with pytest.raises(DesignError, match="rows or columns in use"):
            Wired(np.array(rows, np.int64), np.array(columns, np.int64), zeros, 3)
    weight = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    wired = Wired.of(weight, np.array([1.0, 2.0]))
    assert wired is not None
    assert (wired.rows.tolist(), wired.columns.tolist(), wired.idle.tolist()) == ([1], [0], [0.0, 2.0])
    assert Wired.of(np.ones((2, 2)), None) is None
