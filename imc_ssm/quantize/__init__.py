"""Quantisation of a model: `quantize(model, scheme, calibration)` returns a model with wrapped modules."""

from imc_ssm.quantize.discrete import DiscreteS4D
from imc_ssm.quantize.memory import MemoryWord, MemoryWords, memory_saving, memory_words
from imc_ssm.quantize.modules import QuantisedLinear
from imc_ssm.quantize.quantiser import Quantiser, fake_quantise
from imc_ssm.quantize.recurrent import QuantisedS4D
from imc_ssm.quantize.scheme import Bits, Scheme
from imc_ssm.quantize.sites import PiecewiseGelu, Site
from imc_ssm.quantize.wrap import calibration_batch, quantize, wrap

__all__ = [
    "Bits",
    "DiscreteS4D",
    "MemoryWord",
    "MemoryWords",
    "PiecewiseGelu",
    "QuantisedLinear",
    "QuantisedS4D",
    "Quantiser",
    "Scheme",
    "Site",
    "calibration_batch",
    "fake_quantise",
    "memory_saving",
    "memory_words",
    "quantize",
    "wrap",
]
