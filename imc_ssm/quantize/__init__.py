"""Quantisation of a model: `quantize(model, scheme, calibration)` returns a model with wrapped modules."""

from imc_ssm.quantize.modules import QuantisedLinear, QuantisedS4D, Site
from imc_ssm.quantize.quantiser import Quantiser, fake_quantise
from imc_ssm.quantize.scheme import Bits, Scheme
from imc_ssm.quantize.wrap import calibration_batch, quantize, wrap

__all__ = [
    "Bits",
    "QuantisedLinear",
    "QuantisedS4D",
    "Quantiser",
    "Scheme",
    "Site",
    "calibration_batch",
    "fake_quantise",
    "quantize",
    "wrap",
]
