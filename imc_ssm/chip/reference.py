"""aihwkit's tiles as arrays, and its noise models as cells (`devices.oracle`): the oracle of the native ones."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from imc_ssm.devices import Converter
from imc_ssm.devices.cell import MICRO
from imc_ssm.devices.oracle import GLOBAL, Reference, generator_at
from imc_ssm.errors import DesignError

__all__ = ["GLOBAL", "Reference", "generator_at", "probe_cpp", "reference_tile"]


def reference_tile(
    weight: npt.NDArray[np.float32],
    output_range: float,
    dac: Converter,
    adc: Converter,
    noise: float,
    *,
    cpp: bool,
    column: float = 0.0,
    window: tuple[float, float] = (0.0, 25e-6),
) -> Any:
    """aihwkit's simulator tile with `weight` (inputs, outputs) and converters; inputs in full scales.

    `column` > 0, ohm from cell to cell: aihwkit's time-stepped model of the voltage drop, in which both devices of
    a pair (`window`: least and most conductance, S) are on one column, driven by voltages of opposite sign for as
    long as the input says; even columns are read at their last cell, odd ones at their first; rows have no
    resistance. It runs at its finest, one segment a cell and one step a code, and without the offset voltage and
    the counting ADC of its defaults.

    Raises `DesignError` for a converter with a transfer of its own, which aihwkit does not have, and for wires
    with its C++ tile.
    """
    if column > 0 and cpp:
        raise DesignError("aihwkit's C++ tile has no wires with a resistance in ohm; use implementation 'aihwkit'")
    for converter in (dac, adc):
        if not converter.signed or type(converter).convert_ is not Converter.convert_:
            raise DesignError(f"aihwkit has no converter of type {converter.type!r}; use implementation 'fast'")
        if converter.erroneous or converter.noise:
            raise DesignError(
                "aihwkit's tiles have no converters with offset, gain error, nonlinearity or noise of their own; "
                "use implementation 'fast'"
            )
    with GLOBAL, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from aihwkit.inference import PCMLikeNoiseModel
        from aihwkit.inference.converter.conductance import SinglePairConductanceConverter
        from aihwkit.simulator.configs import (
            InferenceRPUConfig,
            TorchInferenceRPUConfig,
            TorchInferenceRPUConfigIRDropT,
        )
        from aihwkit.simulator.parameters.enums import BoundManagementType, NoiseManagementType
        from aihwkit.simulator.tiles.inference import InferenceTile
        from aihwkit.simulator.tiles.inference_torch import TorchInferenceTile

    inputs, outputs = weight.shape
    if column > 0:
        config = TorchInferenceRPUConfigIRDropT()
        io = config.forward
        io.ir_drop, io.ir_drop_rs, io.ir_drop_segments = 1.0, column, inputs
        io.ir_drop_integration_sum, io.ir_drop_v_read, io.adc_quantization = True, 0.4, False
        config.mapping.max_input_size = inputs
        low, high = (float(g) / MICRO for g in window)
        # It scales the largest weight to the top of its window.
        top = low + (high - low) * float(np.abs(weight).max())
        config.noise_model = PCMLikeNoiseModel(g_converter=SinglePairConductanceConverter(top, low))
    else:
        config = InferenceRPUConfig() if cpp else TorchInferenceRPUConfig()
        io = config.forward
    io.inp_bound, io.inp_res = 1.0, dac.step / 2
    io.out_bound, io.out_res = output_range, adc.step / 2
    io.out_noise = noise
    # On by default: they would rescale every input vector, which no converter does.
    io.noise_management, io.bound_management = NoiseManagementType.NONE, BoundManagementType.NONE
    tile = (InferenceTile if cpp else TorchInferenceTile)(outputs, inputs, config).tile
    tile.set_weights(torch.from_numpy(np.ascontiguousarray(weight.T)))
    return tile


def probe_cpp() -> None:
    """Run a small product on aihwkit's C++ tile, which is bound to torch's ABI; `DesignError` if it fails."""
    try:
        from aihwkit.simulator.configs import InferenceRPUConfig
        from aihwkit.simulator.tiles.inference import InferenceTile

        tile = InferenceTile(2, 2, InferenceRPUConfig()).tile
        tile.set_weights(torch.eye(2))
        tile.forward(torch.ones(1, 2), is_test=True)
    except Exception as error:
        raise DesignError(
            f"implementation 'aihwkit-cpp' does not run here: {error} (aihwkit's C++ tile refuses tensors of "
            f"torch {torch.__version__}); use 'aihwkit' (its torch tile) or 'fast' instead"
        ) from None
