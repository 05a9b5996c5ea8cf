"""Smaller models: what is kept computes what it did, and everything that counts counts less."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import imc_ssm
from imc_ssm.errors import ConfigError, FileError, ImcSsmError
from imc_ssm.graph import Recurrence
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.layers.s4d import S4DConfig
from imc_ssm.pruning import Keep, Structure, smaller
from imc_ssm.quantization import Scheme, formats_of, quantize

sys.path.insert(0, str(Path(__file__).parent.parent / "layers"))
from conformance import BLOCKS, T, build, data, streamed

LAYERS = ("s4d", "s5", *(f"{layer}, {block}" for layer in ("s4d", "s5") for block in BLOCKS))
EXACT = [name for name in LAYERS if build(name).config.norm in ("none", "batch")]
"""Those whose norms see every channel alone."""


@torch.no_grad()
def unread(model: Classifier, head: int) -> None:
    """No matrix reads a head of the first stream."""
    structure = Structure(model)
    for name, places in structure.axes.items():
        if len(places) == 2 and "heads 0" in places[1] and name.endswith("weight"):
            model.get_parameter(name)[:, head] = 0


@torch.no_grad()
def silent(layer: nn.Module, system: int, state: int) -> None:
    """Nothing reads a state of an S4D or S5 layer."""
    if hasattr(layer, "readout"):
        n = layer.readout.in_features // 2
        layer.readout.weight[:, [state, n + state]] = 0
    else:
        layer.C[system, state] = 0


@pytest.mark.parametrize("name", EXACT)
@torch.no_grad()
def test_a_head_that_nothing_reads_can_go(name: str) -> None:
    model, u = build(name), data()
    unread(model, 1)
    made = smaller(Structure(model), Keep({0: [0, 2, 3]}, {}))
    assert torch.allclose(made(u), model(u), atol=1e-5)
    assert made.config.widths[0] == 3
    assert sum(p.numel() for p in made.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_states_that_nothing_reads_can_go(name: str) -> None:
    """One of four states of a layer with one system; of S4D others in every head, two in the last one."""
    model, u = build(name), data()
    structure = Structure(model)
    gone = {
        path: [
            {(s + 1) % 4} | ({2} if s == len(structure.counts[b]) - 1 > 0 else set())
            for s in range(len(structure.counts[b]))
        ]
        for path, b in structure.layers.items()
    }
    for path, systems in gone.items():
        for s, states in enumerate(systems):
            for n in states:
                silent(model.get_submodule(path), s, n)
    keep = {path: [sorted(set(range(4)) - own) for own in systems] for path, systems in gone.items()}
    made = smaller(structure, Keep({}, keep))
    assert torch.allclose(made(u), model(u), atol=1e-5)
    if name.startswith("s5"):
        assert made.config.layer.n_state == 6
        assert made.config.states is None
    else:
        assert made.config.states is not None
        assert {len(set(own)) for own in made.config.states} <= {1, 2}
        ops = [op for op in made.graph() if isinstance(op, Recurrence)]
        assert sum(op.total for op in ops) == sum(len(k) for own in keep.values() for k in own)
    if not model.config.bidirectional:
        assert torch.allclose(streamed(made, u), made.set_mode("recurrent")(u), atol=1e-5)


def insides(layer: nn.Module) -> list[list[int]]:
    """Of every head the states that no range of the poles or of B ends at."""
    a, b, _ = (torch.view_as_real(z.resolve_conj()) for z in layer.discrete())
    out = []
    for head in range(len(a)):
        ends = {int(i) // 2 for z in (a[head], b[head]) for i in (z.argmin(), z.argmax())}
        out.append([n for n in range(a.shape[1]) if n not in ends])
    return out


@pytest.mark.parametrize(
    "scheme",
    [Scheme(), Scheme(granularity="state"), Scheme(rounding_placement="separate"), Scheme(symmetric=True)],
    ids=lambda s: s.label,
)
@torch.no_grad()
def test_codes_are_the_same_where_formats_are(scheme: Scheme) -> None:
    """A quantized model without states that nothing reads, and that no range ends at."""
    torch.manual_seed(1)
    model, u = Classifier(ModelConfig(heads=5, n_state=32, inputs=2)).eval(), data()
    model = quantize(model, scheme.with_(weight_rounding="nearest", parameterisation="discrete"), u)
    layer = model.blocks[0].ssm.inner
    free = insides(layer)
    gone = [own[: 1 + head] for head, own in enumerate(free)]
    for head, states in enumerate(gone):
        for n in states:
            silent(layer, head, n)
    keep = [sorted(set(range(16)) - set(own)) for own in gone]
    made = smaller(Structure(model), Keep({}, {"blocks.0.ssm": keep}))
    assert made.config.states == (tuple(len(own) for own in keep),)
    before, after = formats_of(model), formats_of(made)
    for path in ("blocks.0.ssm.poles", "blocks.0.ssm.b", "blocks.0.ssm.recurrent"):
        assert np.array_equal(before[path].scale, after[path].scale)
    assert torch.equal(made(u), model(u))
    assert torch.equal(streamed(made, u), made(u))


keeps = st.lists(st.lists(st.integers(0, 3), unique=True, max_size=4), min_size=4, max_size=4).filter(any)


@settings(deadline=None)  # what is first compiled takes longer
@given(keeps, st.sets(st.integers(0, 3), min_size=1))
@torch.no_grad()
def test_any_part_can_be_kept(states: list[list[int]], heads: set[int]) -> None:
    """Parameters of what is kept are those that were there, and the graph counts what is there."""
    own = sorted(heads)
    if not any(states[h] for h in own):
        return
    model = build("s4d", layers=1)
    made = smaller(Structure(model), Keep({0: own}, {"blocks.0.ssm": states}))
    layer, old = made.blocks[0].ssm, model.blocks[0].ssm
    for new, was in zip(layer.discrete(), old.discrete(), strict=True):
        for i, head in enumerate(own):
            kept = sorted(states[head])
            # exp of a number depends, in its last bit, on the others of its vector register
            assert torch.allclose(new[i, : len(kept)], was[head, kept], rtol=1e-6, atol=0)
    (op,) = (op for op in made.graph() if isinstance(op, Recurrence))
    assert op.total == sum(len(states[h]) for h in own) == layer.imag.numel()
    assert sum(p.words for p in op.parameters) == 8 * op.total
    assert sum(p.numel() for p in layer.parameters()) == 6 * op.total + 2 * len(own)
    assert torch.equal(made.encoder.weight, model.encoder.weight[own])
    assert torch.equal(
        made.blocks[0].mixing.weight, model.blocks[0].mixing.weight[own + [4 + h for h in own]][:, own]
    )
    assert torch.equal(made.decoder.weight, model.decoder.weight[:, own])


@pytest.mark.parametrize("name", ["s4d", "s4d, both directions", "s4d, widths", "s5", "s5, plain"])
@pytest.mark.parametrize("quantized", [False, True])
def test_a_smaller_model_saves_trains_compiles_and_costs_less(name: str, quantized: bool, tmp_path: Path) -> None:
    model, u = build(name, inputs=1, pool="mean"), data()[..., :1]
    if quantized:
        model = quantize(model, Scheme(), u)
    made = imc_ssm.prune(model, states=0.5, heads=0.25)
    path = tmp_path / "m.safetensors"
    imc_ssm.save_model(path, made)
    again = imc_ssm.load_model(path).model
    assert again.config == made.config
    with torch.no_grad():
        assert torch.equal(again(u), made(u))
    made(u).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in made.parameters())
    chips = []
    for one in (model, made):
        one = one if quantized else quantize(one, Scheme(), u)
        chips.append(imc_ssm.cost(imc_ssm.compile_model(one, "pcm-256", u)))
    before, after = chips
    assert float(after.energy.sum()) < float(before.energy.sum())
    assert float(after.memory.sum()) < float(before.memory.sum())


@torch.no_grad()
def test_actions_of_states_fall_in_proportion() -> None:
    """Every head keeps half: products, words and registers of the states are half."""
    u = data()
    model = quantize(build("s4d", layers=1, n_state=16), Scheme(), u)
    made = imc_ssm.prune(model, states=0.5, scope="head")
    halves = []
    for one in (model, made):
        (op,) = (op for op in one.graph() if isinstance(op, Recurrence))
        counts = {(a.verb, a.purpose): a.count for a in op.actions(formats_of(one), T)}
        halves.append(counts)
    whole = {"inputs to the digital unit", "inputs", "m_a, m_b, m_y", "requantize y", "outputs"}
    whole |= {"outputs of the digital unit", "counter of the updates"}
    for key, count in halves[0].items():
        assert halves[1][key] == (count if key[1] in whole else count // 2), key


def test_ragged_heads_do_not_fit_on_crossbars_of_one_size() -> None:
    u = data()
    model = imc_ssm.prune(quantize(build("s4d"), Scheme(), u), states=0.4, scope="model")
    assert model.config.states is not None
    with pytest.raises(ImcSsmError, match="scope 'head'"):
        imc_ssm.compile_model(model, "pcm-256", u, recurrence="analog")


def test_what_cannot_be_kept_is_said() -> None:
    structure = Structure(build("s4d"))
    with pytest.raises(ConfigError, match="heads of stream 0 to keep are \\[0, 4\\]"):
        smaller(structure, Keep({0: [0, 4]}, {}))
    with pytest.raises(ConfigError, match="no block has a state left"):
        smaller(structure, Keep({}, {f"blocks.{i}.ssm": [[]] * 4 for i in (0, 1)}))
    with pytest.raises(ConfigError, match="are of 3 systems, there are 4"):
        smaller(structure, Keep({}, {"blocks.0.ssm": [[0]] * 3}))
    both = Structure(build("s4d, both directions"))
    with pytest.raises(ConfigError, match="two directions of block 0"):
        smaller(both, Keep({}, {"blocks.0.ssm": [[0]] * 4}))
    widths = Structure(build("s4d, widths"))
    with pytest.raises(ConfigError, match="a residual sum would appear"):
        smaller(widths, Keep({1: [0, 1, 2, 3]}, {}))


def test_configurations_of_states_are_checked() -> None:
    with pytest.raises(ConfigError, match="twice the largest"):
        S4DConfig(n_state=8, counts=(1, 2))
    with pytest.raises(ConfigError, match="states are those of 1 blocks, layers = 2"):
        ModelConfig(heads=2, layers=2, states=((1, 2),))
    with pytest.raises(ConfigError, match="states of block 0 are 3 numbers"):
        ModelConfig(heads=2, states=((1, 2, 3),))
    with pytest.raises(ConfigError, match="one system; give one number"):
        ModelConfig(heads=2, layer="s5", states=((1, 2),))
    with pytest.raises(ConfigError, match="states of 2 heads, the layer has 3"):
        Classifier(ModelConfig(heads=3, n_state=4, counts=(1, 2)))
    config = ModelConfig(heads=2, layers=2, states=((4, 2), (0, 3)))
    assert ModelConfig.parse(config.model_dump(mode="json")) == config
    assert [config.layer_of(i).n_state for i in (0, 1)] == [8, 6]


def test_a_file_whose_states_do_not_fit_is_refused(tmp_path: Path) -> None:
    from imc_ssm.files import load_tensors, save_tensors

    made, path = imc_ssm.prune(build("s4d"), states=0.4), tmp_path / "m.safetensors"
    imc_ssm.save_model(path, made)
    tensors, header = load_tensors(path, kind="model")
    header["config"]["states"][0][0] += 1
    save_tensors(path, tensors, header, kind="model")
    with pytest.raises(FileError, match="do not fit the configuration"):
        imc_ssm.load_model(path)


def test_a_head_without_states_is_its_direct_path() -> None:
    torch.manual_seed(0)
    model = Classifier(ModelConfig(heads=2, states=((0, 3),))).eval()
    u: Tensor = torch.randn(2, 10, 2)
    with torch.no_grad():
        assert torch.allclose(model.blocks[0].ssm(u)[..., 0], model.blocks[0].ssm.D[0] * u[..., 0])


def test_the_analysis_shows_the_states_that_are_there() -> None:
    from imc_ssm.analysis import inspect_model

    digits = imc_ssm.load_dataset("digits")
    torch.manual_seed(0)
    model = Classifier(ModelConfig(heads=3, states=((4, 2, 0),), dt_min=0.01, dt_max=0.5)).eval()
    for one in (model, quantize(model, Scheme(), digits)):
        ds = inspect_model(one, digits, sequences=8)
        assert ds.pole.notnull().sum("state").isel(layer=0, stage=0, part=0).values.tolist() == [4, 2, 0]
        assert np.isfinite(ds.state_largest.isel(layer=0, head=1, state=[0, 1])).all()
        assert ds.poles_outside.sum() == 0


def test_learned_ranges_stay_with_their_matrix() -> None:
    digits = imc_ssm.load_dataset("digits")
    model = quantize(build("s4d", inputs=1, classes=10), Scheme(), digits)
    imc_ssm.train(
        model, digits, imc_ssm.TrainConfig(epochs=1, batch=400, input_ranges="learned", ranges="learned")
    )
    made = imc_ssm.prune(model, states=0.5, heads=0.25)
    for path in ("encoder", "blocks.0.mixing", "decoder"):
        own = made.get_submodule(path).matrix.input_range
        assert own == model.get_submodule(path).matrix.input_range is not None
