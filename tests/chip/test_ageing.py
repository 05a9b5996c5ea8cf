"""A stream on chips that age: what each step sees is the chip at the time of the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from imc_ssm.chip import AnalogLinear, compile, evaluate, run_stream
from imc_ssm.costs import cost
from imc_ssm.datasets import SequenceDataset
from imc_ssm.devices import load_cell, load_design, resolve
from imc_ssm.errors import ConfigError, DataError, DesignError
from imc_ssm.layers import Classifier
from imc_ssm.quantization import Scheme, calibration_batch

Make = Callable[[Scheme], Classifier]
Placed = tuple[Classifier, list[AnalogLinear], Tensor]


@pytest.fixture
def placed(quantized: Make, digits: SequenceDataset) -> Placed:
    """Phase-change memory that drifts and does nothing else; converters, and no read noise."""
    design = load_design("pcm-256").with_(read_noise__value=0.0, drift_compensation="global")
    cell = load_cell("pcm-nandakumar-2019").with_(programming_scale=0.0, read_scale=0.0)
    deployment = compile(
        quantized(Scheme()), resolve(design).with_(cell=cell), *calibration_batch(digits, 8, most=50)
    )
    model, tiles = deployment.analog()
    for tile in tiles:
        tile.program(1, 0)
    return model, tiles, torch.from_numpy(digits.split("test").values[:4])


def at(placed: Placed, time: Any, **how: Any) -> Tensor:
    """Logits of a chip that stands still, after each step."""
    model, tiles, u = placed
    for tile in tiles:
        tile.set_time(time, **how)
    state, out = model.init_state(len(u)), []
    with torch.no_grad():
        for n in range(u.shape[1]):
            logits, state = model.step(u[:, n], state)
            out.append(logits)
    return torch.stack(out, dim=1)


def test_every_step_sees_the_chip_of_its_time(placed: Placed) -> None:
    model, tiles, u = placed
    steps = u.shape[1]
    for calibrated, then in (("programmed", 0.0), ("start", 1.0), ("block", None)):
        found = run_stream(model, tiles, u, time=1.0, step=60.0, calibrated=calibrated)  # type: ignore[arg-type]
        assert tiles[0].time == 1.0 + 60.0 * (steps - 1)
        assert torch.equal(found[:, 0], at(placed, 1.0, calibrated=then)[:, 0])
        # the chip of every step in turn, the state handed on
        state = model.init_state(len(u))
        with torch.no_grad():
            for n in range(12):
                for tile in tiles:
                    tile.set_time(1.0 + 60.0 * n, calibrated=then)
                logits, state = model.step(u[:, n], state)
        assert torch.equal(found[:, 11], logits)


def test_a_block_as_long_as_the_stream_stands_still(placed: Placed) -> None:
    model, tiles, u = placed
    held = run_stream(model, tiles, u, time=1.0, step=60.0, block=u.shape[1])
    assert torch.equal(held, at(placed, 1.0))
    with torch.no_grad():
        assert torch.equal(held[:, -1], model(u))
    assert not torch.equal(held, run_stream(model, tiles, u, time=1.0, step=60.0))


def test_an_hour_matters_after_a_second_and_not_after_a_month(placed: Placed) -> None:
    """nu = 0.05 to 0.1: (3621 / 21)^-nu is 0.77 to 0.6; ((t + 3600) / t)^-nu after 30 days is 0.9999."""
    model, tiles, u = placed

    def change(time: str, calibrated: Any) -> float:
        held, aged = (
            run_stream(model, tiles, u, time=time, step=3600 / 64, block=block, calibrated=calibrated)[:, -1]
            for block in (64, 1)
        )
        return float((held - aged).square().mean().sqrt() / held.std())

    early, late, again = change("1s", "start"), change("30d", "start"), change("1s", "block")
    assert late < 0.05 < 0.1 < early
    assert again < early


def test_the_same_call_gives_the_same_logits(quantized: Make, digits: SequenceDataset) -> None:
    """With all of the noise that moves."""
    deployment = compile(quantized(Scheme()), "pcm-256", *calibration_batch(digits, 8, most=50))
    model, tiles = deployment.analog()
    for tile in tiles:
        tile.program(1, 0)
    u = torch.from_numpy(digits.split("test").values[:2])
    one, two = (run_stream(model, tiles, u, time="1h", step=1e-6, block=16) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, run_stream(model, tiles, u, time="1h", step=1e-6, block=16, within="held"))


def test_evaluation_lets_noise_move(quantized: Make, digits: SequenceDataset) -> None:
    """Chips of a number are the same alone and among others; a step takes the time of its products."""
    deployment = compile(quantized(Scheme()), "pcm-256", *calibration_batch(digits, 8, most=50))
    how: dict[str, Any] = {"times": ["1d"], "sequences": 60}
    held, plain = (
        evaluate(deployment, digits, 3, within="held", step=1.0, **how),
        evaluate(deployment, digits, 3, **how),
    )
    assert held.equals(plain)
    moving = evaluate(deployment, digits, 3, within="correlated", **how)
    assert moving["accuracy"].attrs["within"] == "correlated"
    latency = float(cost(deployment)["latency_step"].sel(component=["dac", "cells", "adc"]).sum())
    assert float(moving["accuracy"].attrs["step"].split()[0]) == pytest.approx(latency, rel=1e-3)
    alone = evaluate(deployment, digits, 3, within="correlated", at_once=1, **how)
    assert abs(alone["accuracy"] - moving["accuracy"]).max() < 2
    slow = evaluate(deployment, digits, 3, within="correlated", step="1min", **how)
    assert not slow["accuracy"].equals(held["accuracy"])
    with pytest.raises(ConfigError, match="within 'pink'"):
        evaluate(deployment, digits, 1, within="pink", **how)  # type: ignore[arg-type]


def test_mistakes_are_one_sentence(placed: Placed, quantized: Make, digits: SequenceDataset) -> None:
    model, tiles, u = placed
    with pytest.raises(ConfigError, match="calibrated 'never'"):
        run_stream(model, tiles, u, time=1.0, step=1.0, calibrated="never")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"a step of 0.0 s"):
        run_stream(model, tiles, u, time=1.0, step=0.0)
    with pytest.raises(DataError, match=r"takes \(sequences, steps, inputs\)"):
        run_stream(model, tiles, u[0], time=1.0, step=1.0)
    with pytest.raises(DesignError, match="no model at"):
        run_stream(model, tiles, u, time=1.0, step=1e8)
