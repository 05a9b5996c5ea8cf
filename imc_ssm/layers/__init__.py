"""Sequence layers and the classifier that is built of them.

A layer is one file and a line `@register("name")`; the conformance suite of the tests then runs every registered
one.
"""

from imc_ssm.layers.block import Block
from imc_ssm.layers.classifier import PRESETS, Classifier, ModelConfig, padding_mask, preset
from imc_ssm.layers.gated import GatedState, Sigmoid
from imc_ssm.layers.given import classifier_of, tensor_of
from imc_ssm.layers.parts import (
    Both,
    Dense,
    Direct,
    Gelu,
    Gelu2,
    Glu,
    Input,
    LastPool,
    MeanPool,
    Norm,
    PiecewiseGelu,
    Relu,
    Residual,
)
from imc_ssm.layers.registry import LAYERS, Layer, LayerConfig, Mode, register
from imc_ssm.layers.s4d import S4D, S4DConfig
from imc_ssm.layers.s5 import S5, S5Config, StateUnit

__all__ = [
    "LAYERS",
    "PRESETS",
    "S4D",
    "S5",
    "Block",
    "Both",
    "Classifier",
    "Dense",
    "Direct",
    "GatedState",
    "Gelu",
    "Gelu2",
    "Glu",
    "Input",
    "LastPool",
    "Layer",
    "LayerConfig",
    "MeanPool",
    "Mode",
    "ModelConfig",
    "Norm",
    "PiecewiseGelu",
    "Relu",
    "Residual",
    "S4DConfig",
    "S5Config",
    "Sigmoid",
    "StateUnit",
    "classifier_of",
    "padding_mask",
    "preset",
    "register",
    "tensor_of",
]
