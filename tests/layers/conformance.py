"""What every layer does, as checks that take its name: the suite of the registry, and of the page's own layer.

A name may be followed by that of a block around the layer (`BLOCKS`): "s4d, pre-norm".
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from imc_ssm import datasets
from imc_ssm.config import Config
from imc_ssm.errors import ConfigError, ImcSsmError
from imc_ssm.graph import Matrix, Operator
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.layers.registry import LAYER_CONFIGS
from imc_ssm.modelfile import StoredModel, load_model, save_model
from imc_ssm.pruning import prune
from imc_ssm.quantization import Rule, Scheme, formats_of, quantize
from imc_ssm.quantization.wrapping import quantizers_of
from imc_ssm.training import TrainConfig, train

T = 24


BLOCKS: dict[str, dict[str, object]] = {
    "layer norm": {"norm": "layer"},
    "pre-norm": {"norm": "layer", "prenorm": True},
    "batch norm": {"norm": "batch"},
    "batch norm first": {"norm": "batch", "prenorm": True},
    "rms norm": {"norm": "rms", "prenorm": True, "gate": "none", "activation": "relu"},
    "plain": {"activation": "none", "gate": "none", "residual": False},
    "last step": {"pool": "last", "activation": "relu"},
    "every step": {"pool": "none", "norm": "rms"},
    "both directions": {"bidirectional": True, "norm": "layer", "pool": "last"},
    "widths": {"heads": (4, 6), "norm": "layer"},
    "deep": {"layers": 4, "norm": "layer", "prenorm": True},
}
"""Name -> fields of the model around a layer."""


def build(name: str, **fields: object) -> Classifier:
    """Two blocks of a small layer; whatever has a state size gets a small one."""
    name, _, block = name.partition(", ")
    fields = BLOCKS.get(block, {}) | fields
    own = {"n_state": 8} if "n_state" in LAYER_CONFIGS.known[name].model_fields else {}
    torch.manual_seed(3)
    shape = {"inputs": 2, "heads": 4, "layers": 2, "classes": 3, "layer": {"type": name}}
    model = Classifier(ModelConfig.parse(shape | own | fields)).eval()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.BatchNorm1d):
            for parameter in module.parameters():  # as trained ones
                nn.init.uniform_(parameter, 0.5, 1.5)
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.2, 2.0)
    return model


def data(batch: int = 5) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(batch, T, 2)).astype(np.float32))


def stream(model: nn.Module, u: Tensor) -> list[Tensor]:
    state, out = model.init_state(len(u)), []
    for t in range(u.shape[1]):
        y, state = model.step(u[:, t], state)
        out.append(y)
    return out


def streamed(model: nn.Module, u: Tensor) -> Tensor:
    """The logits that `model(u)` has too: the last ones, or without a pool all."""
    logits = stream(model, u)
    return torch.stack(logits, 1) if model.config.pool == "none" else logits[-1]


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    return float((a - b).abs().max()) <= tolerance * float(b.abs().max())


@torch.no_grad()
def modes_agree_and_steps_equal_the_batch(name: str) -> None:
    model, u = build(name), data()
    runs = [model.set_mode(mode)(u) for mode in ("convolution", "recurrent")]
    assert close(runs[1], runs[0])
    if model.config.bidirectional:
        with pytest.raises(ImcSsmError, match="cannot stream"):
            model.init_state(1)
    else:
        assert close(streamed(model, u), runs[0])
    layer = model.blocks[0].ssm
    x = torch.randn(3, T, 4)
    whole = layer(x)
    assert whole.shape == x.shape
    assert close(torch.stack(stream(layer, x), 1), whole)


@torch.no_grad()
def a_layer_is_causal(name: str) -> None:
    layer, x = build(name).set_mode("recurrent").blocks[0].ssm, torch.randn(2, T, 4)
    other = x.clone()
    other[:, T // 2 :] = torch.randn(2, T - T // 2, 4)
    assert torch.equal(layer(other)[:, : T // 2], layer(x)[:, : T // 2])


@torch.no_grad()
def what_follows_a_sequence_cannot_reach_its_logits(name: str) -> None:
    model, u, lengths = build(name).set_mode("recurrent"), data(), torch.tensor([T, 1, 7, T - 1, 12])
    inside = (torch.arange(T) < lengths[:, None])[..., None]
    other = torch.where(inside, u, 1e3 * torch.randn_like(u))
    runs = [model(values, lengths) for values in (other, u)]
    if runs[0].ndim == 3:
        runs = [torch.where(inside, logits, 0) for logits in runs]
    assert torch.equal(*runs)
    alone = [model(u[i : i + 1, :n]) for i, n in enumerate(lengths.tolist())]
    whole = [logits[:n] if logits.ndim == 2 else logits for logits, n in zip(runs[1], lengths, strict=True)]
    assert all(close(a, w[None], 1e-5) for a, w in zip(alone, whole, strict=True))


def every_parameter_has_a_gradient_in_every_mode(name: str) -> None:
    grads = []
    for mode in ("convolution", "recurrent"):
        model = build(name).set_mode(mode)
        model(data()).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
        grads.append({n: p.grad for n, p in model.named_parameters()})
    for n, exact in grads[0].items():
        assert close(grads[1][n], exact, 1e-2), n


def optimiser_groups_name_parameters(name: str) -> None:
    for module in build(name).modules():
        own = {n for n, _ in module.named_parameters(recurse=False)}
        assert set(getattr(module, "groups", {})) <= own
        assert set(getattr(module, "groups", {}).values()) <= {"dynamics"}


def the_graph_is_complete(name: str) -> None:
    """Every parameter of the model belongs to an operator, and every operator's module is there."""
    model = build(name)
    graph = model.graph()
    modules = graph.modules()
    for path, _ in model.named_parameters():
        assert any(path.startswith(f"{module}.") for module in modules), path
    for op in graph:
        assert isinstance(op, Operator)
        owner = model.get_submodule(op.module)
        if isinstance(op, Matrix):
            assert owner.weight.shape == (op.output.width, op.inputs[0].width)
    assert graph.signals[-1].width == 3
    assert len({signal.name for signal in graph.signals}) == len(graph)
    assert len({p.name for p in graph.parameters}) == len(graph.parameters)


SCHEMES: dict[str, Callable[[], Scheme]] = {
    "8 bits": Scheme,
    "separate, half up, piecewise": lambda: Scheme(
        rounding_placement="separate", rounding="half_up", gelu="piecewise", symmetric=True
    ),
    "per tensor": lambda: Scheme(granularity="tensor"),
    "w4a6": Scheme.w4a6,
    "layers differ": lambda: Scheme(rules=[Rule(bits=8), Rule(path="blocks.1.*", bits=5)]),
    "the state alone": lambda: Scheme(rules=[Rule(kind="state", bits=8)]),
    "all but the state": lambda: Scheme(rules=[Rule(bits=8), Rule(kind="state", bits="full")]),
}


@torch.no_grad()
def quantizes(name: str, scheme: str) -> None:
    """Batch, pieces and single steps give the same numbers, bit for bit, and the graph keeps its shape."""
    model, u = build(name), data()
    made = quantize(model, SCHEMES[scheme](), u)
    logits = made(u)
    assert torch.isfinite(logits).all()
    exact = {"8 bits", "separate, half up, piecewise", "per tensor", "w4a6", "layers differ"}
    if scheme in exact:
        assert torch.equal(made(u[1:3]), logits[1:3])
        if not model.config.bidirectional:
            assert torch.equal(streamed(made, u), logits)
    elif not model.config.bidirectional:  # somewhere between two roundings are floats
        assert close(streamed(made, u), logits)
    before, after = model.graph(), made.graph()
    assert [(op.module, op.inputs, op.output) for op in after] == [
        (op.module, op.inputs, op.output) for op in before
    ]


@torch.no_grad()
def formats_are_those_of_the_rules(name: str) -> None:
    made = quantize(build(name), Scheme(rules=[Rule(bits=8), Rule(path="blocks.1.*", bits=5)]), data())
    formats, *paths = formats_of(made), *made.graph().kinds()
    assert set(paths) - set(formats) == {"decoder"}  # nothing reads the logits
    owners = [id(q) for q in quantizers_of(made).values()]
    handed_on = {p for p, q in quantizers_of(made).items() if owners.count(id(q)) > 1}
    for path in set(formats) - handed_on:
        assert formats[path].bits == (5 if path.startswith("blocks.1.") else 8), path


def learns_quantized(name: str) -> None:
    """A small enough step along the gradient of the integer model lowers the loss of its batch."""
    made = quantize(build(name), Scheme.uniform(poles=12, state=12, weights=12, activations=12), data())
    u, labels = data(), torch.tensor([0, 1, 2, 0, 1])

    def loss() -> Tensor:
        logits = made(u)
        return nn.functional.cross_entropy(logits if logits.ndim == 2 else logits.mean(1), labels)

    before = loss()
    before.backward()
    start = copy.deepcopy(made.state_dict())
    grads = {n: p.grad for n, p in made.named_parameters()}
    assert all(g is not None and torch.isfinite(g).all() for g in grads.values())
    losses = []
    for rate in (1e-1, 1e-2, 1e-3):
        made.load_state_dict(start)
        with torch.no_grad():
            for n, p in made.named_parameters():
                p -= rate * grads[n]
            losses.append(loss().item())
    assert min(losses) < before.item()


def saves_and_loads(name: str) -> None:
    u = data()
    for scheme in (None, Scheme()):
        model = build(name) if scheme is None else quantize(build(name), scheme, u)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.safetensors"
            save_model(path, StoredModel(model, scheme))
            again = load_model(path)
        again.model.eval()
        assert again.model.config == model.config
        assert again.scheme == scheme
        with torch.no_grad():
            assert torch.equal(again.model(u), model(u))


def trains_on_data(name: str) -> None:
    pooled = {"pool": "mean"} if build(name).config.pool == "none" else {}
    model = build(name, inputs=1, classes=10, **pooled)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    history = train(model, datasets.load("digits"), TrainConfig(epochs=1, batch=64))
    assert np.isfinite(history.loss_train).all()
    assert all(not torch.equal(p, start[n]) for n, p in model.named_parameters())


def configuration(name: str) -> None:
    config, name = build(name).config, name.partition(", ")[0]
    assert ModelConfig.parse(config.model_dump(mode="json")) == config
    assert isinstance(config.layer, Config)
    assert ModelConfig.parse({"layer": name}).layer.type == name
    with pytest.raises(ConfigError, match="unknown field 'n_stat'"):
        ModelConfig.parse({"layer": {"type": name, "n_stat": 4}})
    with pytest.raises(ConfigError, match="unknown layer 's6'; did you mean"):
        ModelConfig.parse({"layer": "s6"})


@torch.no_grad()
def prunes(name: str) -> None:
    """Fewer heads in every layer, in full precision and quantized; fewer states, or the reason why not."""
    for model in (build(name), quantize(build(name), Scheme(), data())):
        made = prune(model, heads=0.25)
        assert all(now < then for now, then in zip(made.config.widths, model.config.widths, strict=True))
        counts = [sum(p.words for p in one.graph().parameters) for one in (made, model)]
        assert counts[0] < counts[1]
        assert torch.isfinite(made(data())).all()
        if not model.config.bidirectional:
            assert close(streamed(made, data()), made(data()))
        if model.config.layer.state_counts(4):
            fewer = prune(model, states=0.5, criterion="magnitude")
            assert sum(p.words for p in fewer.graph().parameters) < counts[1]
        else:
            with pytest.raises(ConfigError, match="no states that can be pruned"):
                prune(model, states=0.5)


CHECKS: dict[str, Callable[[str], None]] = {
    check.__name__: check
    for check in (
        modes_agree_and_steps_equal_the_batch,
        a_layer_is_causal,
        what_follows_a_sequence_cannot_reach_its_logits,
        every_parameter_has_a_gradient_in_every_mode,
        optimiser_groups_name_parameters,
        the_graph_is_complete,
        formats_are_those_of_the_rules,
        learns_quantized,
        saves_and_loads,
        prunes,
        trains_on_data,
        configuration,
    )
}
CHECKS |= {
    f"quantizes: {scheme}": lambda name, scheme=scheme: quantizes(name, scheme)  # type: ignore[misc]
    for scheme in SCHEMES
}
"""What a layer is asked; each takes its name."""
