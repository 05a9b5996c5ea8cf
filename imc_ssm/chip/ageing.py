"""A stream during which its chips age: drift that goes on while products run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from imc_ssm.chip.linear import AnalogLinear
from imc_ssm.chip.streaming_noise import Stream, Within
from imc_ssm.errors import ConfigError, DataError, unknown
from imc_ssm.layers import Classifier
from imc_ssm.units import seconds, whole

__all__ = ["Calibration", "run_stream"]

Calibration = Literal["programmed", "start", "block"]
_CALIBRATIONS = ("block", "programmed", "start")


@torch.no_grad()
def run_stream(
    model: Classifier,
    tiles: Sequence[AnalogLinear],
    u: Tensor,
    *,
    time: Any,
    step: Any,
    block: int = 1,
    calibrated: Calibration = "start",
    within: Within = "correlated",
) -> Tensor:
    """Logits (sequences, steps, outputs) after each step of u (sequences, steps, inputs) on chips that age.

    The first step runs `time` s after programming, the others `step` s apart. Every `block` steps the devices are
    read anew: they have drifted, and noise slower than a block is where it is by then (`Cell.read`); noise that is
    faster does what `within` says (`Stream`). `block` = steps: nothing ages. `model` and `tiles` are those of
    `Deployment.analog`, programmed. Sequences run side by side, each as on a chip of its own that has the same
    devices. `calibrated`: when drift compensation was measured, right after programming, at the stream's start, or
    at every block.

        >>> import imc_ssm
        >>> from imc_ssm.chip import run_stream
        >>> data = imc_ssm.load_dataset("digits")
        >>> model = imc_ssm.Classifier(imc_ssm.ModelConfig(heads=4, n_state=4))
        >>> quantized = imc_ssm.quantize(model, "uniform", data)
        >>> model, tiles = imc_ssm.compile_model(quantized, "pcm-256", data).analog()
        >>> u = torch.from_numpy(data.split("test").values[:2])
        >>> _ = [tile.program(0, 0) for tile in tiles]
        >>> tuple(run_stream(model, tiles, u, time="1s", step="1min").shape)
        (2, 64, 10)

    Raises `ConfigError` for a time, a number or a word that does not fit, `DataError` for inputs of another
    shape, `DesignError` for tiles that are not programmed or a time at which the cell has no model.
    """
    if calibrated not in _CALIBRATIONS:
        raise ConfigError(unknown("calibrated", calibrated, _CALIBRATIONS))
    if u.ndim != 3:
        raise DataError(f"a stream takes (sequences, steps, inputs), got {tuple(u.shape)}")
    first, step, block = seconds(time), seconds(step), whole(block, "block", least=1)
    stream = Stream(step, block, within, start=first)
    measured = {"programmed": 0.0, "start": first, "block": None}[calibrated]
    for tile in tiles:
        tile.set_time(first)  # a stream that ran before does not go on
    state, out = model.init_state(len(u)), []
    for n in range(u.shape[1]):
        if n % block == 0:
            for tile in tiles:
                tile.set_time(first + n * step, calibrated=measured, stream=stream)
        logits, state = model.step(u[:, n], state)
        out.append(logits)
    return torch.stack(out, dim=1)
