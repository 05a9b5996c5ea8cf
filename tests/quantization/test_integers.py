"""A whole model in integers: the oracle against the fast path, code for code, for every layer and option."""

from typing import Any

import numpy as np
import pytest
import torch

import imc_ssm
from imc_ssm import fixedpoint as fp
from imc_ssm.errors import FormatError, ImcSsmError
from imc_ssm.quantization import formats_of, signal_codes, words_of

MODELS: dict[str, dict[str, Any]] = {
    "s4d": {},
    "s5": {"layer": "s5"},
    "both directions": {"bidirectional": True, "norm": "layer"},
    "both directions, s5": {"bidirectional": True, "layer": "s5"},
    "pre-norm, last": {"norm": "rms", "prenorm": True, "final_norm": True, "pool": "last", "layers": 2},
    "batch norm, no pool": {"norm": "batch", "activation": "relu", "gate": "none", "pool": "none"},
    "widths": {"activation": "none", "heads": (3, 5), "inputs": 2},
    "gelu of gelu": {"activation": "gelu2", "residual": False},
}
SCHEMES: dict[str, Any] = {
    "8 bits": imc_ssm.Scheme.uniform(),
    "16 bits": imc_ssm.Scheme.uniform(poles=16, state=16, weights=16, activations=16),
    "W4A6": imc_ssm.Scheme.w4a6(6, 6),
    "symmetric": imc_ssm.Scheme.uniform(symmetric=True, rounding="half_up"),
    "per tensor": imc_ssm.Scheme.uniform(granularity="tensor"),
    "per state": imc_ssm.Scheme.uniform(granularity="state", rounding="half_away", rounding_placement="separate"),
    "dithered, slow": imc_ssm.Scheme.uniform(rounding="dithered", rate_limit=0.1),
    "dithered": imc_ssm.Scheme.uniform(rounding="dithered", rounding_placement="separate"),
    "stochastic": imc_ssm.Scheme.uniform(rounding="stochastic"),
    "log-polar": imc_ssm.Scheme.uniform(pole_form="log_polar", pole_decay_bits=4, scales="power_of_two"),
    "feedback": imc_ssm.Scheme.uniform(rounding="feedback"),
}


def quantized(model: str, scheme: str) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """A model, sequences and their lengths."""
    torch.manual_seed(7)
    config = imc_ssm.ModelConfig(**({"heads": 4, "n_state": 8} | MODELS[model]))
    made = imc_ssm.Classifier(config).eval()
    values = torch.rand(24, 40, config.inputs) * torch.linspace(0.2, 1.5, 24)[:, None, None]
    return imc_ssm.quantize(made, SCHEMES[scheme], values[:16]).eval(), values, torch.arange(24) % 40 + 1


CASES = [*((m, "8 bits") for m in MODELS), *(("s4d", s) for s in SCHEMES), ("s5", "16 bits"), ("s5", "per tensor")]


def whole(model: Any, values: torch.Tensor, lengths: torch.Tensor | None, **options: Any) -> fp.IntegerRun:
    formats = formats_of(model)
    ends = None if lengths is None else lengths.numpy()
    return fp.run(
        model.graph(), formats, words_of(model), fp.input_codes(formats["input"], values), ends, **options
    )


@pytest.mark.parametrize(("model", "scheme"), CASES)
def test_every_operator_alone(model: str, scheme: str) -> None:
    """Each operator's integer form, fed with the fast path's codes."""
    made, values, lengths = quantized(model, scheme)
    codes, _ = signal_codes(made, values, lengths)
    formats, ends = formats_of(made), lengths.numpy()
    for op, form in fp.operations_of(made.graph(), formats, words_of(made)):
        if form is None or op.output.name not in formats:
            continue
        inputs = [codes[signal.name] for signal in op.inputs]
        if op.reverse:
            inputs = [fp.reversed_codes(z, ends) for z in inputs]
        got = form.run(inputs, ends if inputs[0].ndim == 3 else None)
        got = fp.reversed_codes(got, ends) if op.reverse else got
        assert np.array_equal(got, codes[op.output.name]), op.name


@pytest.mark.parametrize("pieces", [1, 1 << 9])
def test_a_batch_may_be_cut_anywhere(pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made, values, lengths = quantized("s4d", "8 bits")
    at_once = whole(made, values, lengths)
    monkeypatch.setattr("imc_ssm.fixedpoint.running._CHUNK", pieces)
    cut = whole(made, values, lengths)
    assert np.array_equal(at_once.logits, cut.logits)
    assert at_once.codes.keys() == cut.codes.keys() == {s.name for s in made.graph().signals}
    assert all(np.array_equal(at_once.codes[name], cut.codes[name]) for name in cut.codes)
    lost, again = (r.overflows["blocks.0.ssm.recurrent"] for r in (at_once, cut))
    assert np.array_equal(lost.state, again.state)
    assert lost.state.sum() > 0


@pytest.mark.parametrize("model", ["s4d", "both directions", "pre-norm, last"])
def test_padding_changes_nothing(model: str) -> None:
    made, values, lengths = quantized(model, "8 bits")
    padded = whole(made, values + 9.0 * (torch.arange(40) >= lengths[:, None])[..., None], lengths)
    for n in range(0, 24, 5):
        alone = whole(made, values[n : n + 1, : lengths[n]], None)
        assert np.array_equal(alone.logits[0], padded.logits[n])


def test_only_the_signals_that_are_asked_for() -> None:
    made, values, _ = quantized("s4d", "8 bits")
    found = whole(made, values, None, signals=["blocks.0.gelu"])
    assert list(found.codes) == ["blocks.0.gelu"]
    assert found.logits.shape == (24, 10)
    assert found.values.dtype == np.float32
    assert np.array_equal(found.values, (found.logits * found.unit).astype(np.float32))
    assert np.log2(found.unit) == round(np.log2(found.unit))
    with pytest.raises(FormatError, match=r"blocks\.0\.gelu"):
        whole(made, values, None, signals=["blocks.0.gely"])


def test_full_precision_is_named() -> None:
    torch.manual_seed(0)
    model = imc_ssm.Classifier(imc_ssm.ModelConfig(heads=4, n_state=4)).eval()
    values = torch.rand(8, 10, 1)
    made = imc_ssm.quantize(model, imc_ssm.Scheme.uniform().with_(mixing=None), values)
    with pytest.raises(FormatError, match=r"'blocks\.0\.mixing' is in full precision"):
        whole(made, values, None)
    made = imc_ssm.quantize(model, imc_ssm.Scheme.uniform(calibration="dynamic"), values)
    with pytest.raises(ImcSsmError, match="dynamic"):
        words_of(made)
    made = imc_ssm.quantize(model, "uniform", values)
    words = words_of(made)
    del words["blocks.0.gelu.table"]
    codes = fp.input_codes(formats_of(made)["input"], values)
    with pytest.raises(FormatError, match=r"'blocks\.0\.gelu\.table' has no codes"):
        fp.run(made.graph(), formats_of(made), words, codes)


def test_wrong_inputs_are_refused() -> None:
    made, values, _ = quantized("s4d", "8 bits")
    formats, words, graph = formats_of(made), words_of(made), made.graph()
    codes = fp.input_codes(formats["input"], values)
    for given, lengths in (
        (codes[0], None),
        (codes.astype(float), None),
        (codes + 300, None),
        (codes[:, :0], None),
        (codes, np.zeros(24, int)),
        (codes, np.full(24, 41)),
        (codes, np.ones(3, int)),
        (codes, np.ones(24)),
    ):
        with pytest.raises(FormatError) as caught:
            fp.run(graph, formats, words, given, lengths)
        assert "\n" not in str(caught.value)
