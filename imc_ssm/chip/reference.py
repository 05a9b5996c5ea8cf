"""aihwkit's tiles as arrays, and its noise models as cells (`devices.oracle`): the oracle of the native ones."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from imc_ssm.devices import Converter
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
) -> Any:
    """aihwkit's simulator tile with `weight` (inputs, outputs) and converters; inputs in full scales.

    Raises `DesignError` for a converter with a transfer of its own, which aihwkit does not have.
    """
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
        from aihwkit.simulator.configs import InferenceRPUConfig, TorchInferenceRPUConfig
        from aihwkit.simulator.parameters.enums import BoundManagementType, NoiseManagementType
        from aihwkit.simulator.tiles.inference import InferenceTile
        from aihwkit.simulator.tiles.inference_torch import TorchInferenceTile

    config = InferenceRPUConfig() if cpp else TorchInferenceRPUConfig()
    io = config.forward
    io.inp_bound, io.inp_res = 1.0, dac.step / 2
    io.out_bound, io.out_res = output_range, adc.step / 2
    io.out_noise = noise
    # On by default: they would rescale every input vector, which no converter does.
    io.noise_management, io.bound_management = NoiseManagementType.NONE, BoundManagementType.NONE
    inputs, outputs = weight.shape
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
