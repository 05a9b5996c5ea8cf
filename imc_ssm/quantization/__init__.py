"""Quantization of a model: `quantize(model, scheme, calibration)` returns a model with wrapped modules."""

from imc_ssm.quantization.bundle import IntegerBundle, export_integers, load_integers
from imc_ssm.quantization.context import QUANTIZED, Context, check_static, quantizes
from imc_ssm.quantization.discrete import DiscreteS4D
from imc_ssm.quantization.gated import QuantizedGatedState
from imc_ssm.quantization.modules import DigitalMatrix, QuantizedDense
from imc_ssm.quantization.norms import QuantizedNorm
from imc_ssm.quantization.observers import OBSERVERS, MinMax, Mse, Observer, Percentile
from imc_ssm.quantization.quantizer import Quantizer, fake_quantize
from imc_ssm.quantization.recurrent import QuantizedS4D
from imc_ssm.quantization.rules import FormatSpec, Rule
from imc_ssm.quantization.scheme import Bits, Scheme
from imc_ssm.quantization.sites import QuantizedGelu, QuantizedGlu, QuantizedPool, QuantizedSum
from imc_ssm.quantization.states import QuantizedStateUnit
from imc_ssm.quantization.traced import signal_codes
from imc_ssm.quantization.wrapping import (
    calibration_batch,
    calibration_of,
    formats_of,
    moving_of,
    quantize,
    resolve,
    words_of,
    wrap,
)

__all__ = [
    "OBSERVERS",
    "QUANTIZED",
    "Bits",
    "Context",
    "DigitalMatrix",
    "DiscreteS4D",
    "FormatSpec",
    "IntegerBundle",
    "MinMax",
    "Mse",
    "Observer",
    "Percentile",
    "QuantizedDense",
    "QuantizedGatedState",
    "QuantizedGelu",
    "QuantizedGlu",
    "QuantizedNorm",
    "QuantizedPool",
    "QuantizedS4D",
    "QuantizedStateUnit",
    "QuantizedSum",
    "Quantizer",
    "Rule",
    "Scheme",
    "calibration_batch",
    "calibration_of",
    "check_static",
    "export_integers",
    "fake_quantize",
    "formats_of",
    "load_integers",
    "moving_of",
    "quantize",
    "quantizes",
    "resolve",
    "signal_codes",
    "words_of",
    "wrap",
]
