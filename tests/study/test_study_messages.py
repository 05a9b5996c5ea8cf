"""What is wrong in a study.py is said in one line, with the file, its line and the dimension's full name."""

from __future__ import annotations

import pytest

from imc_ssm.errors import ConfigError
from imc_ssm.study import load_study

HEAD = """
from imc_ssm.layers import ModelConfig
from imc_ssm.quantization import Scheme
from imc_ssm.study import Deploy, Experiment, Ptq, Recipe, Study, Train, vary

base = Ptq(Train(ModelConfig(heads=4, n_state=8, dt_min=0.0125, dt_max=0.5)), Scheme())
"""
TAIL = '\nSTUDY = Study("a", "A", task="digits", recipe=Recipe(), experiments=(e,))\n'


@pytest.mark.parametrize(
    ("code", "naming"),
    [
        (
            'e = Experiment("e", "E", {"scheme.bits.stat": (8,)}, vary(base))',
            "dimension 'scheme.bits.stat' = 8: unknown field 'stat'; did you mean 'state'",
        ),
        (
            'e = Experiment("e", "E", {"scheme.bits.state": (80,)}, vary(base))',
            "dimension 'scheme.bits.state' = 80: Bits field 'state' = 80",
        ),
        (
            'e = Experiment("e", "E", {"shceme.bits.state": (8,)}, vary(base))',
            "dimension 'shceme.bits.state': unknown field 'shceme'; did you mean 'scheme'",
        ),
        ('e = Experiment("e", "E", {"scheme.bits.state": 8}, vary(base))', "= 8; give a tuple, (8,)"),
        ('e = Experiment("e", "E", {"design": (["pcm-256"],)}, vary(base))', "values are texts or numbers"),
        ('e = Experiment("e", "E", {"b": (8,)}, base)', "e: job is a Ptq; give a function of the coordinates"),
        ('e = Experiment("e", "E", {"b": (8,)}, lambda c: "ptq")', "e: a str is no job"),
        ('e = Experiment("e", "E", {"b": (8,)}, vary(Scheme()))', "vary: a Scheme is no job"),
        (
            'e = Experiment("e", "E", {"b": (8,)}, lambda c: base, variables="accuracy")',
            "variables = 'accuracy'; give a tuple, ('accuracy',)",
        ),
        ('e = Experiment("e", "E", {"b": (8,)})', "line 8: TypeError: Experiment.__init__() missing 1 required"),
        (
            'e = Experiment("e", "E", {"b": (8,)}, lambda c: c["bit"])',
            "line 8: KeyError: 'bit' (in the job of 'e')",
        ),
        ("e = Experimentt()", "line 8: NameError: name 'Experimentt' is not defined"),
        ("e = Experiment(", "line 8: SyntaxError: '(' was never closed"),
        (
            'e = ()\nSTUDY = Study("a", "A", task="digits", recipe=Recipe(), experiments=(Recipe()))\ne = None',
            "a: experiments is a Recipe; give a tuple of Experiment",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, code, naming):
    (tmp_path / "study.py").write_text(HEAD + "\n" + code + TAIL, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_study(tmp_path)
    text = str(caught.value)
    assert text.startswith(str(tmp_path / "study.py"))
    assert naming in text
    assert "\n" not in text
