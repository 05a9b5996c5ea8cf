"""Quantization of a model: `quantize(model, scheme, calibration)` returns a model with wrapped modules."""

from imc_ssm.quantization.discrete import DiscreteS4D
from imc_ssm.quantization.modules import QuantizedLinear
from imc_ssm.quantization.quantizer import Quantizer, fake_quantize
from imc_ssm.quantization.recurrent import QuantizedS4D
from imc_ssm.quantization.scheme import Bits, Scheme
from imc_ssm.quantization.sites import PiecewiseGelu, Site
from imc_ssm.quantization.wrap import calibration_batch, quantize, wrap

__all__ = [
    "Bits",
    "DiscreteS4D",
    "PiecewiseGelu",
    "QuantizedLinear",
    "QuantizedS4D",
    "Quantizer",
    "Scheme",
    "Site",
    "calibration_batch",
    "fake_quantize",
    "quantize",
    "wrap",
]
