"""Schemes: word lengths that parts really have, named schemes, labels, and files from before an option existed."""

import json
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized_runs import some

from imc_ssm.datasets import SequenceDataset
from imc_ssm.errors import ConfigError, ImcSsmError
from imc_ssm.graph import Graph, Recurrence
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.quantization import Bits, Rule, Scheme, check_static, formats_of, resolve
from imc_ssm.quantization.rules import ROLES

Make = Callable[[Scheme], Classifier]
widths = st.sampled_from([None, 2, 4, 8, 16])
some_bits = st.dictionaries(st.sampled_from(sorted(Bits.model_fields)), widths, max_size=5)
options = st.fixed_dictionaries(
    {},
    optional={
        "granularity": st.sampled_from(["tensor", "head", "state"]),
        "symmetric": st.booleans(),
        "percentile": st.sampled_from([99.0, 99.9, 99.999, 100.0]),
        "calibration": st.sampled_from(["static", "dynamic"]),
        "state_calibration": st.sampled_from(["static", "dynamic"]),
        "rounding_placement": st.sampled_from(["joint", "separate"]),
        "rounding": st.sampled_from(["half_even", "half_up", "half_away", "dithered", "stochastic", "feedback"]),
        "residual_bits": st.sampled_from([1, 8, 16]),
        "rate_limit": st.sampled_from([None, 0.1, 1.5]),
        "max_period": st.sampled_from([1, 16, 256]),
        "scales": st.sampled_from(["free", "power_of_two"]),
        "pole_form": st.sampled_from(["cartesian", "polar", "log_polar"]),
        "pole_decay_bits": st.sampled_from([None, 2, 8]),
        "pole_multiplier_bits": st.sampled_from([8, 16]),
        "parameterisation": st.sampled_from(["continuous", "discrete", "frozen"]),
        "gelu": st.sampled_from(["exact", "piecewise"]),
        "state_clip": st.sampled_from([None, 1.5, 50.0]),
        "grad_clamp": st.sampled_from([None, 1.5, 1000.0]),
    },
).filter(lambda o: (o.get("rounding"), o.get("rounding_placement")) != ("feedback", "separate"))


def of(bits: dict, rest: dict) -> Scheme:
    return Scheme.parse({"bits": bits} | rest)


GRAPH = Classifier(ModelConfig(heads=2, n_state=2)).graph()
UNIT = ("poles", "b", "c", "state", "encoder", "recurrent")


def words_of(bits: Bits, graph: Graph = GRAPH) -> dict[str, int | None]:
    """Word lengths that everything in a model of one layer really has, by last names."""
    widths: dict[str, set[int | None]] = {}
    for path, spec in resolve(Scheme(bits=bits), graph).items():
        widths.setdefault(path.rpartition(".")[2], set()).add(spec.bits)
    assert all(len(own) == 1 for own in widths.values())
    return {name: own.pop() for name, own in widths.items()}


class TestWords:
    def test_parts_are_parameters_states_or_activations(self) -> None:
        assert set(Bits().by_role()) == set(ROLES)
        assert len(Bits.model_fields) == len(ROLES)
        kinds = GRAPH.kinds()
        found = {path.rpartition(".")[2]: kind for path, kind in kinds.items()}
        others = dict.fromkeys(("both", "relu", "norm"), "activation")  # of blocks that are not the usual one
        assert found | others == ROLES | {"decoder": "activation"}
        (unit,) = (op for op in GRAPH if isinstance(op, Recurrence))
        assert [path.rpartition(".")[2] for path in unit.codes] == list(UNIT)

    @pytest.mark.parametrize("part", UNIT)
    def test_an_integer_recurrence_has_no_floats(self, part: str) -> None:
        bits = Bits.only(state=8) if part != "state" else Bits.only(state=6)
        assert words_of(bits)[part] == {"state": bits.state}.get(part, 16)
        assert words_of(Bits.only(poles=4))[part] == (4 if part == "poles" else None)

    def test_only(self) -> None:
        words = words_of(Bits.only(state=8, gelu=5))
        assert {p for p, w in words.items() if w == 16} == set(UNIT) - {"state"}
        assert (words["state"], words["gelu"], words["mixing"], words["d"]) == (8, 5, None, None)
        with pytest.raises(ConfigError, match="did you mean 'poles'"):
            Bits.only(pole=4)


class TestNamed:
    def test_w4a6(self) -> None:
        scheme = Scheme.w4a6(poles=7, state=9)
        bits = scheme.bits.model_dump()
        assert (bits.pop("poles"), bits.pop("state"), bits.pop("biases")) == (7, 9, None)
        assert {bits.pop(part) for part in ("b", "c", "d", "weights")} == {4}
        assert set(bits.values()) == {6}
        assert (scheme.rounding_placement, scheme.gelu) == ("separate", "piecewise")
        specs = resolve(scheme, GRAPH).values()
        assert {(spec.granularity, spec.symmetric) for spec in specs} == {("head", False)}

    def test_w8a8(self) -> None:
        bits = Scheme.w8a8().bits.model_dump()
        assert bits.pop("biases") is None
        assert set(bits.values()) == {8}

    def test_options_override(self) -> None:
        scheme = Scheme.named("w4a6", poles=6, rounding_placement="joint", parameterisation="frozen")
        assert (scheme.bits.poles, scheme.rounding_placement, scheme.gelu, scheme.parameterisation) == (
            6,
            "joint",
            "piecewise",
            "frozen",
        )

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("w4a", {}, "unknown scheme 'w4a'; did you mean 'w4a6'?"),
            ("w4a6", {"rounding_placment": "joint"}, "did you mean 'rounding_placement'"),
            ("w8a8", {"poles": 17}, "poles"),
            ("uniform", {"rounding": "nearest"}, "rounding"),
            ("uniform", {"parameterisation": "disrete"}, "parameterisation"),
            ("uniform", {"calibration": "on"}, "calibration"),
            ("uniform", {"max_period": 12}, "'max_period' = 12: allowed is a power of two, 1 to 256"),
            ("uniform", {"max_period": 512}, "'max_period' = 512: allowed is at least 1 and at most 256"),
            ("uniform", {"rate_limit": 0.0}, "'rate_limit' = 0.0: allowed is more than 0"),
            ("uniform", {"residual_bits": 0}, "'residual_bits' = 0: allowed is at least 1 and at most 16"),
            ("uniform", {"scales": "pow2"}, "scales"),
            ("uniform", {"pole_form": "log"}, "pole_form"),
            ("uniform", {"pole_decay_bits": 17}, "pole_decay_bits"),
            ("w4a6", {"rounding": "feedback"}, "use 'joint', or another rounding"),
        ],
    )
    def test_refused(self, name: str, options: dict, message: str) -> None:
        with pytest.raises(ConfigError, match=message) as caught:
            Scheme.named(name, **options)
        assert "\n" not in str(caught.value)


class TestNamedAsRules:
    """W4A6 and W8A8 of Zhao et al. 2025 (arXiv:2506.12480), written down as a list of rules."""

    @staticmethod
    def written(weights: int, activations: int, poles: int, state: int) -> Scheme:
        return Scheme(
            rules=(
                Rule(bits=activations),
                Rule(kind="parameter", bits=weights),
                Rule(path="bias", bits="full"),
                Rule(path="poles", bits=poles),
                Rule(kind="state", bits=state),
            ),
            rounding_placement="separate",
            gelu="piecewise",
        )

    @pytest.mark.parametrize(
        ("named", "words"),
        [
            (Scheme.w4a6(), (4, 6, 8, 8)),
            (Scheme.w4a6(poles=16, state=16), (4, 6, 16, 16)),
            (Scheme.w4a6(poles=6, state=6), (4, 6, 6, 6)),
            (Scheme.w8a8(), (8, 8, 8, 8)),
            (Scheme.w8a8(poles=5, state=9), (8, 8, 5, 9)),
        ],
    )
    @torch.no_grad()
    def test_the_same_everywhere(
        self, named: Scheme, words: tuple[int, int, int, int], quantized: Make, digits: SequenceDataset
    ) -> None:
        written = self.written(*words)
        assert resolve(written, GRAPH) == resolve(named, GRAPH)
        assert written.bits == named.bits
        one, two = quantized(written), quantized(named)
        assert torch.equal(one(some(digits)), two(some(digits)))
        specs = {p: s.bits for p, s in resolve(written, one.graph()).items() if s.bits and p != "decoder"}
        assert {p: f.bits for p, f in formats_of(one).items()} == specs


class TestLabel:
    @pytest.mark.parametrize(
        ("scheme", "label"),
        [
            (Scheme(), "a8-x8"),
            (Scheme.uniform(poles=6, state=12), "a6-x12"),
            (Scheme.uniform(poles=6, state=5, weights=4, activations=7, symmetric=True), "a6-x5-w4-u7-sym"),
            (Scheme.w4a6(state=6), "a8-x6-w4-u6-biasfp-separate-piecewise"),
            (Scheme(bits=Bits.only(c=3)), "afp-xfp-wfp-c3-ufp-biasfp"),
            (Scheme(bits=Bits.only(state=8, encoder=4)), "afp-x8-wfp-ufp-encoder4-biasfp"),
            (Scheme(state_clip=None, percentile=99.9, granularity="state"), "a8-x8-state-p99.9-clipnone"),
            (
                Scheme(state_calibration="dynamic", calibration="dynamic", parameterisation="discrete"),
                "a8-x8-dynamic-dynamic-x-discrete",
            ),
            (
                Scheme.w4a6(rounding="dithered", rate_limit=1.5, max_period=8),
                "a8-x8-w4-u6-biasfp-separate-dithered-rate1.5-period8-piecewise",
            ),
            (
                Scheme(rounding="feedback", residual_bits=4, scales="power_of_two"),
                "a8-x8-feedback-residual4-pow2",
            ),
            (
                Scheme(pole_form="log_polar", pole_decay_bits=4, pole_multiplier_bits=12),
                "a8-x8-log_polar-decay4-multiplier12",
            ),
        ],
    )
    def test_examples(self, scheme: Scheme, label: str) -> None:
        assert scheme.label == label

    @settings(max_examples=300, deadline=None)
    @given(some_bits, options, some_bits, options)
    def test_different_schemes_have_different_labels(self, b1: dict, o1: dict, b2: dict, o2: dict) -> None:
        one, two = of(b1, o1), of(b2, o2)
        assert (one.label == two.label) == (one == two)
        assert all(c.isalnum() or c in "-._" for c in one.label)


class TestFiles:
    def test_schemes_from_before_the_options_still_load(self) -> None:
        old = {
            "bits": Bits().model_dump(),
            "granularity": "head",
            "symmetric": False,
            "percentile": 99.999,
            "state_clip": 50.0,
            "grad_clamp": 1000.0,
        }
        assert Scheme.from_json(json.dumps(old)) == Scheme()

    def test_what_is_written_of_schemes_from_before_the_options_stays(self) -> None:
        written = {
            "rules",
            "rounding_placement",
            "rounding",
            "parameterisation",
            "gelu",
            "state_clip",
            "grad_clamp",
        }
        assert set(Scheme().model_dump()) == written
        changed = Scheme(rate_limit=1.5, max_period=16, pole_form="polar")
        assert set(changed.model_dump()) == written | {"rate_limit", "pole_form"}

    @settings(max_examples=50, deadline=None)
    @given(some_bits, options)
    def test_round_trip(self, bits: dict, rest: dict) -> None:
        scheme = of(bits, rest)
        assert Scheme.from_json(scheme.to_json()) == scheme


class TestDynamic:
    def test_what_needs_fixed_formats_says_so(self) -> None:
        check_static([], "streaming")
        with pytest.raises(ImcSsmError, match="streaming needs fixed formats, but the ranges of a, b are"):
            check_static(["a", "b"], "streaming")
        with pytest.raises(ImcSsmError, match=r"a chip needs .* ranges of a, b, c and 2 more are dynamic"):
            check_static(list("abcde"), "a chip")

    def test_labels(self) -> None:
        scheme = Scheme(bits=Bits.only(poles=6), state_calibration="dynamic")
        assert all(a.label != b.label for a, b in pairwise([Scheme(), scheme]))
