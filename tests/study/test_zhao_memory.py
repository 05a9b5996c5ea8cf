"""The list of words against the memory savings that Zhao et al. 2025 print."""

import sys

import pytest
from fakes import ZHAO

from imc_ssm.layers import Classifier, ModelConfig, preset
from imc_ssm.quantization import Bits, Scheme
from imc_ssm.study import load_study

load_study(ZHAO)
memory = sys.modules["imc_ssm_study_zhao2025.memory"]
memory_saving, memory_words = memory.memory_saving, memory.memory_words

PRINTED = {
    ("s4d-16h", "W4A6 8x8"): 82.96,
    ("s4d-16h", "W8A8"): 76.55,
    ("s4d-16h", "W4A6 16x16"): 73.54,
    ("s4d-16h", "W4A6 6x6"): 85.31,
    ("s4d-64h", "W4A6 8x8"): 84.05,
    ("s4d-64h", "W8A8"): 76.29,
    ("s4d-64h", "W4A6 16x16"): 76.70,
    ("s4d-64h", "W4A6 6x6"): 85.89,
}
"""arXiv:2506.12480, Table III, percent."""
SCHEMES = {
    "W4A6 8x8": Scheme.w4a6(poles=8, state=8),
    "W8A8": Scheme.w8a8(),
    "W4A6 16x16": Scheme.w4a6(poles=16, state=16),
    "W4A6 6x6": Scheme.w4a6(poles=6, state=6),
}


@pytest.mark.parametrize(("model", "scheme"), PRINTED)
def test_the_printed_savings(model: str, scheme: str) -> None:
    assert memory_saving(preset(model), SCHEMES[scheme]) == pytest.approx(PRINTED[model, scheme], abs=0.006)


@pytest.mark.parametrize(("heads", "count"), [(16, 5434), (64, 27850)])
def test_full_precision(heads: int, count: int) -> None:
    words = memory_words(preset(f"s4d-{heads}h"), None)
    assert words.count == count
    assert words.bits == 32 * count


def test_parameters_are_those_of_the_model() -> None:
    config = ModelConfig(inputs=3, heads=5, n_state=6, layers=2, classes=4)
    model = Classifier(config)
    words = {w.name: w.count for w in memory_words(model, None).words}
    stored = sum(words[name] for name in ("A", "B", "C", "D", "matrices", "biases"))
    # dt is in A and B.
    assert stored == sum(p.numel() for p in model.parameters()) - config.heads * config.layers
    assert words["x"] == 2 * 2 * 5 * 3
    assert memory_words(config, None) == memory_words(model, None)


def test_parts_without_bits_take_32() -> None:
    config = preset("s4d-16h")
    words = {w.name: w for w in memory_words(config, Scheme(bits=Bits.only(state=8, weights=4))).words}
    assert (words["x"].bits, words["matrices"].bits, words["D"].bits) == (8, 4, 32)
    assert words["A"].bits == 16  # an integer recurrence has no floats
    assert words["u"].bits == 16
    two = memory_words(config.with_({"layers": 2}), Scheme(bits=Bits.only(state=8))).words
    assert {w.name: w.bits for w in two}["u"] == 16  # nor has what enters the second
    assert words["Re(C x)"].count == 0
    assert {w.name: w for w in memory_words(config, Scheme(bits=Bits.only(c=8))).words}["Re(C x)"].count == 512
