"""What the rules of a scheme are about in a model: ranges that move, and paths that are not there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from imc_ssm.errors import ConfigError, ImcSsmError
from imc_ssm.layers import Classifier
from imc_ssm.quantization import Bits, Rule, Scheme, moving_of

Make = Callable[[Scheme], Classifier]


class TestPaths:
    def test_dynamic_ranges_of_one_path(self, quantized: Make) -> None:
        for path in ("gelu", "blocks.0.gelu", "blocks.0.ssm.state"):
            scheme = Scheme(rules=(*Scheme().rules, Rule(path=path, calibration="dynamic")))
            model = quantized(scheme)
            assert moving_of(model) == [path if "." in path else f"blocks.0.{path}"]
            with pytest.raises(ImcSsmError, match=rf"streaming needs .* of \S*{path} are dynamic"):
                model.init_state(2)

    @pytest.mark.parametrize(
        ("rule", "message"),
        [
            (Rule(path="blocks.7.*", bits=4), r"unknown path of a rule 'blocks\.7\.\*'; .*known: input, encoder"),
            (Rule(path="blocks.0.gelo", bits=4), r"did you mean 'blocks\.0\.gelu'\?"),
            (Rule(path="geul", bits=4), r"unknown path of a rule 'geul'; did you mean 'gelu'\?"),
            (Rule(path="encoder", kind="state", bits=4), "unknown path of kind 'state' of a rule 'encoder'"),
        ],
    )
    def test_a_rule_about_nothing_is_refused(self, rule: Rule, message: str, quantized: Make) -> None:
        with pytest.raises(ConfigError, match=message):
            quantized(Scheme(rules=(*Scheme().rules, rule)))

    def test_what_does_not_move(self, quantized: Make) -> None:
        """The last rule wins; a parameter's range is its own; a state in full precision has none."""
        dynamic = Rule(path="blocks.0.gelu", calibration="dynamic")
        later = Rule(path="blocks.0.gelu", calibration="static")
        poles = Rule(path="blocks.0.ssm.poles", calibration="dynamic")
        for scheme in (
            Scheme(),
            Scheme(rules=(*Scheme().rules, dynamic, later)),
            Scheme(rules=(*Scheme().rules, poles)),
            Scheme(bits=Bits.only(poles=6), state_calibration="dynamic"),
        ):
            model = quantized(scheme)
            assert moving_of(model) == []
            model.init_state(2)
