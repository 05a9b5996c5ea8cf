"""What is counted, one operator at a time: widths, constants, tables, times, and the inputs of tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from imc_ssm.chip import Deployment, compile
from imc_ssm.costs import actions_of, baseline_cost, cost
from imc_ssm.costs.counts import stores
from imc_ssm.devices import Chip, load_design, resolve
from imc_ssm.errors import ConfigError, ImcSsmError
from imc_ssm.fixedpoint import Format
from imc_ssm.graph import Action, Formats, Graph, Join, Matrix, Recurrence
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.layers.block import Block
from imc_ssm.layers.parts import Norm
from imc_ssm.quantization import Bits, Scheme, quantize

Factory = Callable[..., Deployment]


def near(value: float) -> Any:
    return pytest.approx(value, rel=1e-9, abs=0)


def of(case: Deployment, operator: str, verb: str) -> list[Action]:
    return [t.action for t in actions_of(case) if (t.operator.name, t.action.verb) == (operator, verb)]


@pytest.mark.parametrize(
    ("fmt", "width"),
    [
        (Format(8, np.float32(1), np.int64(0)), 8),  # -128 to 127
        (Format(8, np.float32(1), np.int64(1)), 9),  # -129 to 126
        (Format(8, np.float32(1), np.int64(-1)), 9),  # -127 to 128
        (Format(8, np.float32(1), np.int64(-128)), 9),  # 0 to 255, and a sign
        (Format(8, np.float32(1), np.int64(0), True), 8),  # -127 to 127
        (Format(8, np.float32([1, 1]), np.int64([0, 5])), 9),  # one multiplier for both
        (Format(8, np.float32(1), np.int64(0), True, 20.0), 6),  # clipped to -20 to 20
        (Format(2, np.float32(1), np.int64(0), True), 2),  # -1, 0 and 1
    ],
)
def test_centred_codes_are_as_long_as_their_range(fmt: Format, width: int) -> None:
    assert Formats({"x": fmt}).centred("x") == width


@pytest.mark.parametrize(("symmetric", "width"), [(False, 9), (True, 8)])
def test_products_are_of_centred_codes(deployment: Factory, symmetric: bool, width: int) -> None:
    """Of 8-bit words with zero points 9 x 9 bits, symmetric ones 8 x 8; memories give and take 8 in both."""
    case = deployment(scheme={"symmetric": symmetric})
    unit, direct = ({a.purpose: a.bits for a in of(case, name, "multiply")} for name in ("recurrence", "after_d"))
    for purpose in ("a x", "b u", "Re(c x)"):
        assert unit[purpose] == (width, width), purpose
    assert unit["requantize a x"][0] == 2 * width + 1
    assert unit["requantize y"] == (2 * width + 3, 24)  # 6 terms
    assert direct == {"D u": (width, width), "requantize D u": (2 * width, 24), "requantize y": (width, 24)}
    words = {
        a.bits for name in ("recurrence", "after_d") for verb in ("read", "write") for a in of(case, name, verb)
    }
    assert words == {(8,), (30,)}
    # from the activations' grid to that of the DAC: what enters tiles
    assert of(case, "mixing", "multiply")[0].bits[1] == 24
    assert of(case, "mixing", "multiply")[0].bits[0] == case.formats.centred("blocks.0.gelu")


def test_a_gate_multiplies_by_17_bits(deployment: Factory) -> None:
    """A sigmoid of up to 2^16 (docs/integer_model.md), so 17 bits; the value is centred."""
    case = deployment(bits={"mixing": 6})
    (table,) = of(case, "glu", "lookup")
    first, second = of(case, "glu", "multiply")
    assert table.bits == (6, 17)
    assert first.bits == (7, 17)
    assert second.bits == (7 + 17, 24)


def test_a_shorter_nonlinearity_costs_less(deployment: Factory) -> None:
    """The tables of both words: GELU of 4 to 4 bits half of 8 to 8; the area is of the longest table of a lane."""
    few, many = (deployment(bits=dict.fromkeys(("after_d", "gelu", "mixing"), n)) for n in (4, 8))
    for case, bits in ((few, 4), (many, 8)):
        ds = cost(case)
        (gelu,), (gate,) = of(case, "gelu", "lookup"), of(case, "glu", "lookup")
        assert (gelu.bits, gate.bits) == ((bits, bits), (bits, 17))
        assert float(ds["area"].sel(component="nonlinearity")) == near(8 * 300e-12 * (bits + 17) / 32)
        joules = 4 * 0.217e-12 * (2 * bits + bits + 17) / 32
        width = bits + 1
        joules += 4 * (width * 17 + (width + 17) * 24) / 64 * 0.12820e-12
        assert float(ds["energy_step"].sel(component="nonlinearity")) == near(joules)
    short, long = (baseline_cost(case, "digital")["area"].sel(component="nonlinearity") for case in (few, many))
    assert bool((short < long).all())


def test_a_mean_keeps_its_sums(deployment: Factory) -> None:
    """4 words of 8 + 1 + ceil(log2 20) bits, read and written in every step, and read once more."""
    case = deployment(steps=20)
    traffic = [a for verb in ("read", "write") for a in of(case, "pool", verb) if a.store == "state"]
    assert [(a.verb, a.rate, a.count, a.bits) for a in traffic] == [
        ("read", "step", 4, (14,)),
        ("read", "sequence", 4, (14,)),
        ("write", "step", 4, (14,)),
    ]
    (kept,) = (op for op in case.graph if op.name == "pool")
    assert [(w.count, w.bits) for w in kept.stored(case.formats, 20) if w.content == "state"] == [(4, 14)]
    graph = Graph(tuple(op for op in case.graph if op.name not in ("pool", "decoder")))
    without = replace(case, graph=graph, matrices=case.matrices[:-1])
    assert stores(case)["state"] - stores(without)["state"] == 4 * 14


def test_two_directions_keep_their_own_words() -> None:
    """3 bits of the layer's input and 5 of what came forward wait for 15 steps; 9 of what runs backward do not."""
    torch.manual_seed(0)
    model = Classifier(
        ModelConfig.parse({"inputs": 3, "heads": 4, "classes": 5, "n_state": 4, "bidirectional": True})
    )
    data = torch.randn(4, 16, 3)
    case = compile(
        quantize(model, Scheme.parse({"bits": dict.fromkeys(Bits.model_fields, 8)}), data), "pcm-256", data
    )
    (join,) = (op for op in case.graph if isinstance(op, Join))
    forward, backward = join.inputs
    assert join.entering.name == "encoder"
    lengths = {join.entering.name: 3, forward.name: 5, backward.name: 9, join.output.name: 7}
    formats = Formats(
        {
            path: Format(lengths[path], f.scale, 0 * f.zero_point) if path in lengths else f
            for path, f in case.formats.items()
        }
    )
    waiting = [(w.count, w.bits) for w in join.stored(formats, 16) if w.content == "activations"]
    assert waiting == [(4, 7), (15 * 4, 3), (15 * 4, 5)]
    read = [a.bits for a in join.actions(formats, 16) if a.verb == "read" and a.store == "activations"]
    assert read == [(5,), (9,)]


@pytest.mark.parametrize("granularity", ["head", "tensor"])
def test_a_matrix_in_digital_by_hand(deployment: Factory, granularity: str) -> None:
    """The mixing matrix, 4 to 8: inputs with scales of their own meet in one; constants are as many as formats."""
    case = deployment(scheme={"granularity": granularity}, bits={"biases": 12})
    op = next(op for op in case.graph if isinstance(op, Matrix) and op.name == "mixing")
    w, x = (case.formats.centred(path) for path in (op.weight, op.inputs[0].name))
    own = granularity == "head"
    total = w + x + 2  # sums of 4
    actions = op.actions(case.formats, 10)
    products = [(4, (x, 24))] * own + [(32, (w, x)), (8, (total, 24))]
    assert [(a.count, a.bits) for a in actions if a.verb == "multiply"] == products
    assert [(a.count, a.bits[0], a.slots) for a in actions if a.verb == "add"] == [
        (32, total, 0),
        (8, total + 25, 0),
    ]
    read = [(4, 30)] * own + [(32, 8)] + [(8, 30)] * own + [(8, total + 25)]
    assert [(a.count, a.bits[0]) for a in actions if a.store == "coefficients"] == read
    stored = [(s.content, s.count, s.bits) for s in op.stored(case.formats, 10) if s.content != "activations"]
    assert stored == [
        ("parameters", 32, 8),
        ("parameters", 8, total + 25),
        *[("requantization", 4, 30)] * own,
        ("requantization", 8 if own else 1, 30),
    ]
    load = op.load(case.formats)
    assert [(a.verb, a.count, a.bits) for a in load] == [
        ("multiply", 8, (case.formats.centred(str(op.bias)), 24)),
        ("write", 8, (total + 25,)),
    ]
    assert op.saved(case.formats) == 8 * (total + 25 - 12)


def test_constants_of_a_recurrence_are_as_many_as_its_formats(deployment: Factory) -> None:
    """4 heads of 3 states: m_a, m_b and m_y of the tensor, of each head, or m_a and m_b of each state."""
    expected = {"tensor": (3, 0), "head": (4 * 3, 4 * 3), "state": (4 * (2 * 3 + 1), 4 * (2 * 3 + 1))}
    for granularity, (kept, read) in expected.items():
        case = deployment(scheme={"granularity": granularity})
        (unit,) = (op for op in case.graph if isinstance(op, Recurrence))
        held = [w.count for w in unit.stored(case.formats, 10) if w.content == "requantization"]
        taken = [a.count for a in of(case, "recurrence", "read") if a.purpose == "m_a, m_b, m_y"]
        assert (held, sum(taken)) == ([kept], read), granularity
    slow = replace(unit, periods=(1, 2, 2, 4))
    tensor = deployment(scheme={"granularity": "tensor"})
    # another m_b for each period: one of each head; m_y stays that of the tensor
    assert next(w.count for w in slow.stored(tensor.formats, 10) if w.content == "requantization") == 2 * 4 + 1


def with_stage(case: Deployment, part: str, seconds: float) -> Deployment:
    """The same with another latency of a digital component."""
    digital = case.chip.digital
    own = getattr(digital, part)
    slower = own.with_(latency=own.latency.with_(value=seconds))
    return replace(case, chip=case.chip.with_(digital=digital.with_({part: slower.model_dump()})))


@pytest.mark.parametrize(
    ("part", "component", "cycles"),
    [
        ("multiply", "digital update", 10 * 29 + 4),  # slots of eight lanes: see test_cost_golden
        ("add", "digital update", 10 * 29 + 4),
        ("flip_flop", "digital update", 10 * 29 + 4),
        ("lookup", "nonlinearity", 10 * 2),  # GELU and sigmoid
        ("bus", "movement", 10 * 3 + 1),
    ],
)
def test_a_stage_slower_than_the_clock_sets_the_time(
    deployment: Factory, part: str, component: str, cycles: int
) -> None:
    """At 1 GHz: 3 ns instead of one for each use. What the clock hides changes nothing; a bus has none."""
    case = deployment()
    plain, slow, fast = (cost(c) for c in (case, with_stage(case, part, 3e-9), with_stage(case, part, 0.5e-9)))
    longer = slow["latency"] - plain["latency"]
    assert float(longer.sel(component=component)) == near(cycles * 2e-9)
    assert float(slow["latency_total"]) > float(plain["latency_total"])
    shorter = float((plain["latency"] - fast["latency"]).sel(component=component))
    assert shorter == (near(cycles * 0.5e-9) if part == "bus" else 0)
    assert float(slow["energy_total"]) > float(plain["energy_total"])  # it leaks for longer


@pytest.mark.parametrize("encoding", ["amplitude", "pulse-width", "bit-serial"])
def test_rare_large_inputs_are_clipped_before_they_cost(encoding: str) -> None:
    """0.4 % of the inputs are 1000 times the others: clipped to full scale, and rounded, they cost as much as it.

    Without clipping the mean square would be 4000 full scales.
    """
    generator = np.random.default_rng(3)
    values = generator.uniform(-1.0, 1.0, (8, 250, 1)).astype(np.float32)
    values.reshape(-1)[::250] *= 1000.0
    values.reshape(-1)[::250] += 1000.0
    data = torch.from_numpy(values)
    torch.manual_seed(0)
    model = Classifier(ModelConfig.parse({"inputs": 1, "heads": 4, "classes": 3, "n_state": 4}))
    bits = dict.fromkeys(Bits.model_fields, 8) | {"input": 16}
    quantized = quantize(model, Scheme.parse({"bits": bits}), data)
    chip: Chip = resolve(load_design("pcm-256").with_({"dac.encoding": encoding}))
    case = compile(quantized, chip, data)
    encoder = next(m for m in case.matrices if m.name == "encoder")
    fmt = case.formats["input"]
    seen = fmt.dequantize(fmt.quantize(values, -1), -1)
    codes = np.rint(np.clip(seen / encoder.input_range, -1, 1) * 127)
    share = {
        "amplitude": (codes**2).mean() / 127**2,
        "pulse-width": np.abs(codes).mean() / 127,
        "bit-serial": sum(((np.abs(codes).astype(int) >> place) & 1).mean() for place in range(7)),
    }[encoding]
    assert (np.abs(seen) > 100 * encoder.input_range).mean() == pytest.approx(0.004)
    assert encoder.input_activity == pytest.approx(float(share), rel=1e-4)
    assert (seen**2).mean() / encoder.input_range**2 > 1000 * encoder.input_activity


def test_what_is_not_known_is_one_error() -> None:
    with pytest.raises(ImcSsmError, match=r"unknown component .*'gelu'.*; .*known: adc, cells"):
        Action("gelu", "lookup", 1, (8, 8), "GELU")
    for verb, store, allowed in (
        ("read", None, "'coefficients', 'state', 'activations'"),
        ("write", "cache", "'coefficients', 'state', 'activations'"),
        ("multiply", "state", "None"),
    ):
        with pytest.raises(ImcSsmError, match=rf"{verb}.*store.*allowed is {allowed}"):
            Action("digital update", verb, 1, (8,), "x", store=store)  # type: ignore[arg-type]
    layer = ModelConfig.parse({"inputs": 1, "heads": 4, "classes": 3}).layer
    with pytest.raises(ConfigError, match=r"unknown activation 'tanh'.*known: gelu"):
        Block(layer, 4, 4, activation="tanh")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"unknown norm 'group'.*known: batch, layer, rms"):
        Norm("group", 4)
