"""Rules: which path gets which format, layers that differ, files, labels and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized_runs import check_batch_stream_and_partition, check_oracle, some, stream
from torch import Tensor, nn

from imc_ssm.datasets import SequenceDataset
from imc_ssm.errors import ConfigError, FormatError, ImcSsmError
from imc_ssm.files import load_tensors, save_tensors
from imc_ssm.graph import LookUp, Matrix, Place, Recurrence, Signal
from imc_ssm.layers import Classifier, Gelu, ModelConfig
from imc_ssm.modelfile import StoredModel, load_model, save_model
from imc_ssm.quantization import (
    Bits,
    FormatSpec,
    MinMax,
    Mse,
    Percentile,
    QuantizedGelu,
    Rule,
    Scheme,
    calibration_batch,
    formats_of,
    quantize,
    resolve,
    wrap,
)
from imc_ssm.quantization.rules import ROLES, spec_of
from imc_ssm.quantization.wrapping import quantizers_of

Make = Callable[[Scheme], Classifier]
FIELDS = ("bits", "symmetric", "granularity", "observer", "calibration")
GRAPH = Classifier(ModelConfig(heads=2, n_state=2, layers=2)).graph()
PATHS = GRAPH.kinds()

observers = st.one_of(
    st.just(MinMax()),
    st.builds(Percentile, percent=st.sampled_from([90.0, 99.9, 100.0])),
    st.builds(Mse, steps=st.sampled_from([10, 40])),
)
rules = st.lists(
    st.builds(
        Rule,
        path=st.sampled_from(
            ["*", "gelu", "weight", "g*", "blocks.1.*", "*.ssm.*", "blocks.0.ssm.poles", "input"]
        ),
        kind=st.sampled_from([None, "activation", "state", "parameter"]),
        bits=st.sampled_from([None, "full", 2, 8, 16]),
        symmetric=st.sampled_from([None, True, False]),
        granularity=st.sampled_from([None, "tensor", "head", "state"]),
        observer=st.none() | observers,
        calibration=st.sampled_from([None, "static", "dynamic"]),
    ),
    max_size=6,
)


@pytest.fixture
def deep(digits: SequenceDataset) -> Callable[[Scheme], Classifier]:
    """A model of two layers, quantized with a scheme."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = Classifier(ModelConfig(heads=4, n_state=8, layers=2, dt_min=0.02, dt_max=0.5)).eval()
    data, _ = calibration_batch(digits, 4, most=50)
    return lambda scheme: quantize(model, scheme, data)


OTHERS = {"both", "relu", "norm"}
"""Roles of other blocks than the usual one."""


class TestMatching:
    @pytest.mark.parametrize(
        ("pattern", "kind", "found"),
        [
            ("*", None, set(PATHS)),
            ("gelu", None, {"blocks.0.gelu", "blocks.1.gelu"}),
            ("weight", None, {p for p in PATHS if p.endswith(".weight")}),
            ("encoder", None, {"encoder"}),  # the signal, not its matrix
            ("encoder.*", None, {"encoder.weight", "encoder.bias"}),
            ("g*", None, {f"blocks.{i}.{name}" for i in (0, 1) for name in ("gelu", "glu")}),
            ("g[e]lu", None, {"blocks.0.gelu", "blocks.1.gelu"}),
            ("blocks.1.*", None, {p for p in PATHS if p.startswith("blocks.1.")}),
            ("blocks.?.ssm.state", None, {"blocks.0.ssm.state", "blocks.1.ssm.state"}),
            ("blocks.1.ssm", None, set()),  # a module is no path
            ("*.weight", None, {p for p in PATHS if p.endswith(".weight")}),
            ("GELU", None, set()),
            ("*", "state", {"blocks.0.ssm.state", "blocks.1.ssm.state"}),
            ("blocks.1.*", "state", {"blocks.1.ssm.state"}),
            ("b*", "parameter", {p for p in PATHS if p.rpartition(".")[2] in ("b", "bias")}),
            ("gelu", "parameter", set()),
        ],
    )
    def test_paths_and_kinds(self, pattern: str, kind: Any, found: set[str]) -> None:
        rule = Rule(path=pattern, kind=kind)
        assert {path for path, of in PATHS.items() if rule.matches(path, of)} == found

    def test_kinds_of_a_model(self) -> None:
        kinds: dict[str, set[str]] = {}
        for path, kind in PATHS.items():
            kinds.setdefault(kind, set()).add(path.rpartition(".")[2])
        assert kinds == {
            "activation": {role for role, kind in ROLES.items() if kind == "activation"} - OTHERS | {"decoder"},
            "state": {"state"},
            "parameter": {role for role, kind in ROLES.items() if kind == "parameter"},
        }

    def test_the_last_one_wins_field_by_field(self) -> None:
        scheme = Scheme(
            rules=(
                Rule(bits=8, symmetric=True),
                Rule(path="gelu", bits=5, granularity="tensor"),
                Rule(path="blocks.1.gelu", observer=Mse()),
                Rule(path="blocks.1.*", kind="activation", bits=6),
                Rule(path="blocks.1.gelu", symmetric=False),
                Rule(path="pool", bits="full"),
            )
        )
        plain = FormatSpec(bits=8, symmetric=True)
        assert scheme.spec("encoder") == plain
        assert scheme.spec("blocks.0.gelu") == FormatSpec(bits=5, symmetric=True, granularity="tensor")
        assert scheme.spec("blocks.1.gelu") == FormatSpec(6, False, "tensor", Mse())
        assert scheme.spec("blocks.1.mixing") == FormatSpec(bits=6, symmetric=True)
        assert scheme.spec("blocks.1.ssm.poles") == plain  # no activation
        assert scheme.spec("pool").bits is None
        again = Scheme(rules=(*scheme.rules, Rule(path="pool", bits=3)))
        assert again.spec("pool") == FormatSpec(bits=3, symmetric=True)

    @settings(max_examples=200, deadline=None)
    @given(rules, st.sampled_from(sorted(PATHS)))
    def test_every_field_is_that_of_the_last_rule_that_has_it(self, listed: list[Rule], path: str) -> None:
        found, plain = spec_of(listed, path, PATHS[path]), FormatSpec()
        for field in FIELDS:
            said = [
                getattr(rule, field)
                for rule in listed
                if rule.matches(path, PATHS[path]) and getattr(rule, field) is not None
            ]
            last = said[-1] if said else getattr(plain, field)
            assert getattr(found, field) == (None if last == "full" else last)

    def test_no_rules_quantize_nothing(
        self, quantized: Make, trained: Classifier, digits: SequenceDataset
    ) -> None:
        model, u = quantized(Scheme(rules=())), some(digits)
        assert not formats_of(model)
        with torch.no_grad():
            exact = trained.set_mode("recurrent")(u)
            assert (model(u) - exact).abs().max() < 1e-4 * exact.abs().max()

    def test_shorthand_comes_before_rules(self) -> None:
        scheme = Scheme.parse({"bits": {"gelu": 4}, "symmetric": True, "rules": [{"path": "gelu", "bits": 7}]})
        assert scheme.spec("blocks.0.gelu") == FormatSpec(bits=7, symmetric=True)
        assert scheme.spec("mixing") == FormatSpec(bits=8, symmetric=True)
        assert Scheme.uniform(rules=[Rule(path="glu", bits=3)]).spec("glu").bits == 3


class TestLayersThatDiffer:
    @torch.no_grad()
    def test_word_lengths(self, deep: Make, digits: SequenceDataset) -> None:
        second = {
            "blocks.1.*": {"kind": "activation", "bits": 6},
            "blocks.1.ssm.poles": {"bits": 5},
            "blocks.1.ssm.state": {"bits": 12},
            "blocks.1.mixing.weight": {"bits": 3},
            "decoder.weight": {"bits": 2},
        }
        more = tuple(Rule(path=path, **fields) for path, fields in second.items())
        model = deep(Scheme(rules=(*Scheme().rules, *more)))
        widths = {path: fmt.bits for path, fmt in formats_of(model).items()}
        for path, bits in widths.items():
            usual = 16 if path.endswith(".bias") else 8
            if path.startswith("blocks.1.") and PATHS[path] == "activation":
                usual = 6
            assert bits == second.get(path, {}).get("bits", usual), path
        assert widths["blocks.0.ssm.poles"] == 8
        scans = [block.ssm.scan_formats() for block in model.blocks]
        assert [(f.a.bits, f.x.bits, f.u.bits, f.y.bits) for f in scans] == [(8, 8, 8, 8), (5, 12, 8, 6)]
        assert len(model.decoder.matrix.grid(model.decoder.matrix.weight)[0].unique()) <= 4
        check_batch_stream_and_partition(model, some(digits))

    @torch.no_grad()
    def test_symmetry_and_granularity(self, deep: Make, digits: SequenceDataset) -> None:
        changed = Rule(path="blocks.1.*", symmetric=True, granularity="tensor")
        model = deep(Scheme(rules=(*Scheme().rules, changed)))
        for path, fmt in formats_of(model).items():
            last = path.rpartition(".")[2]
            if path.startswith("blocks.1."):
                assert fmt.scale.shape == (), path
                assert fmt.symmetric, path
                assert not np.any(fmt.zero_point), path
            elif path not in ("input", "encoder.weight") and last not in ("d", "bias"):
                assert fmt.scale.shape == ({"mixing": 8, "weight": len(fmt.scale)}.get(last, 4),), path
                assert not fmt.symmetric, path
        check_batch_stream_and_partition(model, some(digits))

    @pytest.mark.parametrize("layer", [0, 1])
    @torch.no_grad()
    def test_an_integer_layer_beside_one_in_floats(self, layer: int, deep: Make, digits: SequenceDataset) -> None:
        model = deep(Scheme(rules=(Rule(path=f"blocks.{layer}.ssm.state", bits=8),)))
        unit = [op for op in model.graph() if isinstance(op, Recurrence)][layer]
        widths = {path: fmt.bits for path, fmt in formats_of(model).items()}
        assert widths == {path: 8 if path.endswith(".state") else 16 for path in unit.codes}
        assert [block.ssm.integer for block in model.blocks] == [i == layer for i in (0, 1)]
        u = some(digits)
        assert (stream(model, u) - model(u)).abs().max() < 1e-4 * model(u).abs().max()

    @torch.no_grad()
    def test_files(self, deep: Make, digits: SequenceDataset, tmp_path: Path) -> None:
        more = (Rule(path="blocks.1.*", bits=5, observer=MinMax()), Rule(path="blocks.0.ssm.state", bits=9))
        scheme = Scheme(rules=(*Scheme().rules, *more))
        model, u = deep(scheme), some(digits)
        save_model(tmp_path / "q.safetensors", StoredModel(model, scheme))
        stored = load_model(tmp_path / "q.safetensors")
        assert stored.scheme == scheme
        assert torch.equal(stored.model(u), model(u))

    @pytest.mark.parametrize("part", ["poles", "b", "c", "state", "encoder", "recurrent", "after_d"])
    @pytest.mark.parametrize("granularity", ["tensor", "state"])
    @torch.no_grad()
    def test_one_part_of_the_unit_shares_its_scale_otherwise(
        self, part: str, granularity: Any, quantized: Make, digits: SequenceDataset
    ) -> None:
        model = quantized(Scheme(rules=(*Scheme().rules, Rule(path=part, granularity=granularity))))
        formats = check_oracle(model, some(digits))
        shapes = {name: getattr(formats, name).scale.shape for name in "abcxuy"}
        letters = {"poles": "a", "b": "b", "c": "c", "state": "x", "encoder": "u", "recurrent": "y"}
        expected = dict.fromkeys("abcxuy", (8,))
        if granularity == "tensor" and part in letters:
            expected[letters[part]] = ()
        if granularity == "state" and part == "state":  # C counts in units of the registers
            expected |= {"x": (8, 16), "c": (8, 16)}
        assert shapes == expected
        check_batch_stream_and_partition(model, some(digits))


class TestFiles:
    @settings(max_examples=100, deadline=None)
    @given(rules, st.sampled_from([None, 1.5, 50.0]))
    def test_round_trip(self, listed: list[Rule], clip: float | None) -> None:
        scheme = Scheme(rules=tuple(listed), state_clip=clip)
        again = Scheme.from_json(scheme.to_json())
        assert again == scheme
        assert resolve(again, GRAPH) == resolve(scheme, GRAPH)
        assert again.label == scheme.label
        assert json.loads(scheme.to_json())["rules"] == [rule.model_dump(mode="json") for rule in listed]

    def test_kinds_differ_where_defaults_are_left_out(self) -> None:
        """The keys of studies are hashes of such texts."""
        schemes = [
            Scheme(rules=(Rule(path="gelu", observer=o),))
            for o in (MinMax(), Mse(), Percentile(), Percentile(percent=99.0))
        ]
        models = [
            ModelConfig(layer="s4d", n_state=16),
            ModelConfig(layer="s5", n_state=16),
            ModelConfig(layer="s5"),
        ]
        for group in (schemes, models):
            dumped = [one.model_dump(mode="json", exclude_defaults=True) for one in group]
            assert len({json.dumps(d, sort_keys=True) for d in dumped}) == len(group)
            assert [type(one).parse(d) for one, d in zip(group, dumped, strict=True)] == group
        assert Scheme().model_dump(exclude_defaults=True) == ModelConfig().model_dump(exclude_defaults=True) == {}

    def test_as_a_person_writes_them(self) -> None:
        text = '{"rules": [{"bits": 8}, {"path": "gelu", "observer": "mse"}, {"path": "glu", "bits": "full"}]}'
        scheme = Scheme.from_json(text)
        assert scheme.rules == (Rule(bits=8), Rule(path="gelu", observer=Mse()), Rule(path="glu", bits="full"))

    @pytest.mark.parametrize(
        ("changed", "scheme"),
        [
            ({}, Scheme()),
            ({"bits": Bits.only(poles=6).model_dump()}, Scheme(rules=(Rule(path="poles", bits=6),))),
            (
                {"symmetric": True, "calibration": "dynamic", "percentile": 99.9},
                Scheme(symmetric=True, calibration="dynamic", percentile=99.9),
            ),
            (
                {"granularity": "state", "rounding_placement": "separate", "gelu": "piecewise"},
                Scheme(granularity="state", rounding_placement="separate", gelu="piecewise"),
            ),
        ],
    )
    def test_headers_of_the_older_form(
        self, changed: dict[str, Any], scheme: Scheme, quantized: Make, digits: SequenceDataset, tmp_path: Path
    ) -> None:
        """All word lengths by part, and the options, as files had them before there were rules."""
        older = {
            "bits": Bits().model_dump(),
            "granularity": "head",
            "symmetric": False,
            "percentile": 99.999,
            "calibration": "static",
            "state_calibration": "static",
            "rounding_placement": "joint",
            "rounding": "half_even",
            "parameterisation": "continuous",
            "gelu": "exact",
            "state_clip": 50.0,
            "grad_clamp": 1000.0,
        } | changed
        assert Scheme.parse(older) == scheme
        path, model, u = tmp_path / "q.safetensors", quantized(scheme), some(digits)
        save_model(path, StoredModel(model, scheme))
        tensors, header = load_tensors(path, "model")
        save_tensors(path, tensors, header | {"scheme": older}, "model")
        stored = load_model(path)
        assert stored.scheme == scheme
        with torch.no_grad():
            assert torch.equal(stored.model(u), model(u))


class TestLabels:
    @settings(max_examples=300, deadline=None)
    @given(rules, rules)
    def test_different_rules_have_different_labels(self, one: list[Rule], two: list[Rule]) -> None:
        first, second = Scheme(rules=tuple(one)), Scheme(rules=tuple(two))
        assert (first.label == second.label) == (first == second)
        assert all(c.isalnum() or c in "-._" for c in first.label)

    def test_one_rule_more(self) -> None:
        more = [
            Rule(path="blocks.1.*", bits=6),
            Rule(path="blocks.1.gelu", bits=6),
            Rule(path="gelu", bits=6),
            Rule(path="gelu", observer=Mse()),
            Rule(path="gelu", observer=MinMax()),
            Rule(path="gelu", observer=Percentile(percent=99.0)),
            Rule(path="gelu", symmetric=True),
            Rule(path="gelu", granularity="tensor"),
            Rule(path="gelu", calibration="dynamic"),
            Rule(kind="parameter", bits=6),
        ]
        labels = {Scheme(rules=(*Scheme().rules, rule)).label for rule in more}
        assert len(labels | {Scheme().label}) == len(more) + 1
        assert Scheme().label == "a8-x8"

    def test_the_order_of_rules_counts(self) -> None:
        narrow, wide = Rule(path="gelu", bits=4), Rule(path="g*", bits=6)
        one, two = (Scheme(rules=(Rule(bits=8), *order)) for order in ((narrow, wide), (wide, narrow)))
        assert (one.spec("gelu").bits, two.spec("gelu").bits) == (6, 4)
        assert one.label != two.label


class Cube(nn.Module):
    """A nonlinearity of someone else's."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x**3

    def graph(self, x: Signal, at: Place) -> Signal:
        return at.emit(LookUp(at.label(), at.path, (x,), at.signal(width=x.width), "cube"))


class Soft(Gelu):
    """A GELU by another name."""


class TestRefused:
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ({"rules": [{"bit": 8}]}, "unknown field 'bit'; did you mean 'bits'"),
            ({"rules": [{"bits": 1}]}, "bits"),
            ({"rules": [{"bits": 17}]}, "2 to 16"),
            ({"rules": [{"bits": "none"}]}, "full"),
            ({"rules": [{"path": ""}]}, "path"),
            ({"rules": [{"kind": "weights"}]}, "kind"),
            ({"rules": [{"granularity": "channel"}]}, "granularity"),
            ({"rules": [{"calibration": "on"}]}, "calibration"),
            ({"rules": [{"observer": "percentil"}]}, "unknown observer 'percentil'; did you mean 'percentile'"),
            ({"rules": [{"observer": {"type": "mean"}}]}, "unknown observer 'mean'"),
            ({"rules": [{"observer": {"percent": 99}}]}, "the observer needs a type: minmax, mse, percentile"),
            ({"rules": [{"observer": {"type": "mse", "step": 9}}]}, "unknown field 'step'; did you mean 'steps'"),
            ({"rules": [{"observer": {"type": "minmax", "percent": 9}}]}, "unknown field 'percent'"),
            ({"rules": [{"observer": {"type": "percentile", "percent": 50}}]}, "percent"),
            ({"rules": [{"observer": {"type": "mse", "steps": 1}}]}, "steps"),
            ({"rule": []}, "unknown field 'rule'; did you mean 'rules'"),
            ({"granularty": "head"}, "unknown field 'granularty'; did you mean 'granularity'"),
            ({"bits": {"gellu": 8}}, "unknown field 'gellu'; did you mean 'gelu'"),
        ],
    )
    def test_one_line(self, data: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message) as caught:
            Scheme.parse(data, where="q.safetensors")
        assert "\n" not in str(caught.value)

    def test_a_module_without_a_quantized_form(self, trained: Classifier, digits: SequenceDataset) -> None:
        trained.blocks[0].gelu = Cube()
        assert torch.isfinite(trained(some(digits))).all()
        message = r"^blocks\.0\.gelu: Cube has no quantized form yet; .*imc_ssm\.quantization\.quantizes$"
        for refused in (lambda: wrap(trained, Scheme()), lambda: quantize(trained, Scheme(), some(digits))):
            with pytest.raises(ImcSsmError, match=message) as caught:
                refused()
            assert "\n" not in str(caught.value)

    def test_a_subclass_has_that_of_its_base(self, trained: Classifier, digits: SequenceDataset) -> None:
        expected = quantize(trained, Scheme(), some(digits))
        trained.blocks[0].gelu = Soft()
        model = quantize(trained, Scheme(), some(digits))
        assert isinstance(model.blocks[0].gelu, QuantizedGelu)
        with torch.no_grad():
            assert torch.equal(model(some(digits)), expected(some(digits)))


class TestFormats:
    @torch.no_grad()
    def test_eight_bits_cover_every_path_but_the_last(self, deep: Make) -> None:
        model = deep(Scheme())
        *before, last = model.graph().kinds()
        formats = formats_of(model)
        assert set(formats) == set(before)
        assert last == "decoder"  # nothing reads it
        assert last not in formats
        with pytest.raises(FormatError, match="'decoder' is in full precision"):
            formats[last]
        assert {formats.bits(path) for path in before if path.endswith(".bias")} == {16}
        assert {formats.bits(path) for path in before if not path.endswith(".bias")} == {8}
        for op in model.graph():
            if isinstance(op, Matrix):
                assert formats[op.weight].scale.shape in ((), (op.output.width,))
            channels = formats[op.output.name].scale.shape if op.output.name in formats else (op.output.width,)
            assert channels == (op.output.width,), op.name

    @pytest.mark.parametrize("bits", [Bits.only(), Bits.only(gelu=5, weights=3), Bits.only(state=6, pool=4)])
    @torch.no_grad()
    def test_full_precision_has_none(self, bits: Bits, deep: Make) -> None:
        scheme = Scheme(bits=bits)
        model = deep(scheme)
        specs = resolve(scheme, model.graph())
        assert resolve(scheme, GRAPH) == specs  # sizes do not matter
        formats = formats_of(model)
        assert {path: fmt.bits for path, fmt in formats.items()} == {p: s.bits for p, s in specs.items() if s.bits}
        assert not formats_of(Classifier(model.config))
        assert not quantizers_of(Classifier(model.config))

    @torch.no_grad()
    def test_they_are_those_in_force(self, deep: Make, digits: SequenceDataset) -> None:
        model = deep(Scheme.w4a6())
        formats, seen = formats_of(model), dict[str, Tensor]()
        for op in model.graph():
            if op.output.name == op.module:  # the module's own signal
                owner = model.get_submodule(op.module)
                owner.register_forward_hook(lambda _, __, y, name=op.module: seen.update({name: y}))
        model(some(digits))
        for path, values in seen.items():
            if path in formats:
                codes = formats[path].quantize(values.numpy(), -1)
                assert torch.equal(torch.from_numpy(formats[path].dequantize(codes, -1)).float(), values), path
        assert len(seen.keys() & formats.keys()) == 2 + 2 * 4 + 1
        arrays_, rest = formats.tensors()
        again = type(formats).of_tensors(arrays_, json.loads(json.dumps(rest)))
        assert list(again) == list(formats)
        for path, fmt in again.items():
            assert np.array_equal(fmt.scale, formats[path].scale)
            assert np.array_equal(fmt.zero_point, formats[path].zero_point)
            assert (fmt.bits, fmt.clip) == (formats[path].bits, formats[path].clip)
