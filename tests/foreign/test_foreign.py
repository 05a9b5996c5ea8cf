"""Checkpoints of state-spaces/s4's S4D give the logits of the models that wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from s4_models import Example, Sequence, build
from safetensors.torch import save_file
from torch import Tensor, nn

from imc_ssm.errors import ConfigError, FileError, ImcSsmError
from imc_ssm.foreign import load_foreign, read_foreign
from imc_ssm.layers import Classifier

HERE = Path(__file__).parent / "data"
KINDS = ("s4d", "version 3", "version 4")
CONTAINERS = {"example": Example, "sequence": Sequence}
USUAL = {"s4d": "zoh", "version 3": "bilinear", "version 4": "zoh"}
"""How each version discretises unless its configuration says otherwise."""

TOLERANCE = 1e-6
"""Both models compute in float64 here (1e-13 apart), from parameters that the library keeps in float32: those that
go through a logarithm or a product are rounded, by 6e-8 of their value, which 20 steps and three blocks with a
norm (logits of about 1) carry on."""


def inputs(batch: int = 5, time: int = 20, channels: int = 2) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(size=(batch, time, channels)))


@torch.no_grad()
def apart(ours: Classifier, theirs: nn.Module) -> float:
    """The largest difference of the logits, in float64."""
    u = inputs()
    return float((ours.double()(u) - theirs.double()(u)).abs().max())


@pytest.mark.parametrize("prenorm", [False, True], ids=["postnorm", "prenorm"])
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_theirs(kind: Any, container: str, prenorm: bool) -> None:
    theirs = build(kind, CONTAINERS[container], prenorm=prenorm, how=USUAL[kind])
    hints = {"prenorm": True} if prenorm and container == "example" else {}
    ours = load_foreign(theirs.state_dict(), **hints)
    assert ours.config.prenorm is prenorm
    assert apart(ours, theirs) < TOLERANCE


VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the other discretisation": ({"kind": "version 4", "how": "bilinear"}, {"discretisation": "bilinear"}),
    "one system for all channels": ({"kind": "version 3", "systems": 1}, {"discretisation": "zoh"}),
    "systems shared in turn": ({"kind": "version 4", "systems": 2}, {}),
    "a step for each state": ({"kind": "version 4", "tied": False}, {}),
    "a step for each state, bilinear": (
        {"kind": "version 3", "how": "bilinear", "tied": False, "systems": 2},
        {},
    ),
    "batch norm": ({"kind": "version 4", "norm": nn.BatchNorm1d}, {}),
    "one block": ({"kind": "s4d", "layers": 1}, {}),
    "eleven blocks": ({"kind": "s4d", "layers": 11}, {}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant: str) -> None:
    options, hints = VARIANTS[variant]
    theirs = build(container=Sequence, **options)
    ours = load_foreign(theirs.state_dict(), **hints)
    assert apart(ours, theirs) < TOLERANCE


@pytest.mark.parametrize(
    "hint",
    [
        {"discretisation": "bilinear"},
        {"activation": "gelu2"},
        {"pool": "last"},
        {"dt_transform": "softplus"},
        {"real_transform": "softplus"},
        {"prenorm": True},
    ],
    ids=str,
)
def test_hints_matter(hint: dict[str, Any]) -> None:
    """What a hint changes moves the logits far beyond the tolerance: the agreement above is no coincidence."""
    theirs = build("s4d", Example)
    assert apart(load_foreign(theirs.state_dict(), **hint), theirs) > 1e3 * TOLERANCE


@pytest.mark.parametrize("transform", ["exp", "softplus", "relu", "sigmoid", "none"])
def test_transforms_of_steps_and_poles(transform: str) -> None:
    """The same positive numbers under another transform are the same model."""
    theirs = build("version 4", Sequence, layers=1)
    state = dict(theirs.state_dict())
    undo = {
        "exp": torch.log,
        "softplus": lambda x: torch.log(torch.expm1(x)),
        "relu": lambda x: x - 1e-4,
        "sigmoid": torch.logit,
        "none": lambda x: x,
    }[transform]
    step, real = "model.layers.0.layer.layer.kernel.inv_dt", "model.layers.0.layer.layer.kernel.A_real"
    state[real] = state[real].double().clamp(max=-0.1)  # poles below 1, for the sigmoid
    theirs.load_state_dict(state)
    for key in (step, real):
        state[key] = undo(state[key].double().exp())
    ours = load_foreign(state, dt_transform=transform, real_transform=transform)
    assert apart(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("name", ["example", "sequence"])
@torch.no_grad()
def test_committed_checkpoints(name: str) -> None:
    """Files as a training leaves them: weights beside numbers of the training, or a Lightning checkpoint."""
    known = np.load(HERE / f"{name}.npz")
    hints = {"prenorm": True} if name == "example" else {}
    ours = load_foreign(HERE / f"{name}.pt", **hints)
    u = torch.from_numpy(known["inputs"])
    assert float((ours.double()(u) - torch.from_numpy(known["logits"])).abs().max()) < TOLERANCE
    # in float32: 24-bit sums over 20 steps, 4 states and 4 channels, three times
    single = load_foreign(HERE / f"{name}.pt", **hints)
    assert float((single(u.float()).double() - torch.from_numpy(known["logits"])).abs().max()) < 2e-5
    assert len(ours.blocks) == 3
    assert ours.config.norm == "layer"


def test_what_went_where() -> None:
    theirs = build("version 4", Sequence, prenorm=True)
    made = read_foreign(theirs.state_dict())
    assert {moved.key for moved in made.moved} == set(theirs.state_dict())
    assert {moved.path for moved in made.moved} == set(made.model.state_dict())
    assert made.layout == "state-spaces/s4: S4Block, version 4, in SequenceModel's model"
    assert set(made.assumed) == {"activation", "pool", "discretisation", "dt_transform", "real_transform"}
    assert read_foreign(theirs.state_dict(), pool="last").model.config.pool == "last"
    assert "pool" not in read_foreign(theirs.state_dict(), pool="last").assumed


def test_shells_and_prefixes(tmp_path: Path) -> None:
    theirs = build("s4d", Example)
    state = theirs.state_dict()
    wrapped: dict[str, Any] = {
        "bare": state,
        "training": {"model": state, "acc": 91.5, "epoch": 3},
        "lightning": {"state_dict": {f"model.{k}": v for k, v in state.items()}, "epoch": 1},
        "parallel": {f"module.{key}": value for key, value in state.items()},
        "compiled": {f"_orig_mod.{key}": value for key, value in state.items()},
    }
    for name, content in wrapped.items():
        torch.save(content, tmp_path / f"{name}.pt")
        for source in (tmp_path / f"{name}.pt", str(tmp_path / f"{name}.pt"), content):
            assert apart(load_foreign(source), theirs) < TOLERANCE
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "m.safetensors")
    assert apart(load_foreign(tmp_path / "m.safetensors"), theirs) < TOLERANCE


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (Path("trapped"), "code ran")


def test_objects_are_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (("a trap", Trap()), ("a whole model", build("s4d", Example))):
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(
            FileError, match=r"more than weights .* never unpickled: they can run code; where"
        ) as e:
            load_foreign(tmp_path / f"{name}.pt")
        assert "\n" not in str(e.value)
    assert not Path("trapped").exists()


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    whole = tmp_path / "m.pt"
    torch.save(build("s4d", Example).state_dict(), whole)
    cut = tmp_path / "cut.pt"
    cut.write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "text.pt").write_text("no checkpoint")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("no checkpoint")
    (tmp_path / "folder.pt").mkdir()
    for name in ("cut.pt", "text.pt", "empty.pt", "text.safetensors", "folder.pt", "none.pt"):
        with pytest.raises(FileError) as error:
            load_foreign(tmp_path / name)
        assert name in str(error.value)
        assert len(str(error.value)) < 400
        assert "\n" not in str(error.value)


def changed(**changes: Any) -> dict[str, Any]:
    """A checkpoint of S4Block with keys removed (None) or set."""
    state: dict[str, Any] = dict(build("version 4", Sequence).state_dict())
    for key, value in changes.items():
        if value is None:
            del state[key.replace("__", ".")]
        else:
            state[key.replace("__", ".")] = value
    return state


LAYER = "model__layers__1__layer__"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no C": ({f"{LAYER}layer__kernel__C": None}, "missing: block 1: output matrix of the recurrence, kernel.C"),
    "no decoder": ({"decoder__0__output_transform__weight": None}, "missing: decoder.weight"),
    "S4": ({f"{LAYER}layer__kernel__P": torch.ones(1, 4, 4, 2)}, "low-rank part of S4 .*only diagonal models"),
    "a gated block": ({f"{LAYER}input_gate__0__weight": torch.ones(4, 4)}, "a gated or bottleneck S4 block"),
    "both directions": ({"model__layers__1__bidirectional_linear__bias": torch.ones(4)}, "concatenates both"),
    "scalar LayerNorm": ({"model__layers__1__norm__norm__m": torch.ones(1)}, "a scalar LayerNorm"),
    "something else": ({"head__weight": torch.ones(4)}, r"keys left over: head.weight \(unknown\)"),
    "channels": ({"model__layers__0__layer__layer__kernel__C": torch.ones(2, 4, 4, 2)}, "has 2 kernels a channel"),
    "another width": ({f"{LAYER}layer__kernel__C": torch.ones(1, 3, 4, 2)}, "needed is .4, 4, 2., or a divisor"),
    "another mixing": ({"model__layers__0__layer__output_linear__0__weight": torch.ones(5, 4)}, "has 5 rows"),
    "a short bias": ({f"{LAYER}output_linear__0__bias": torch.ones(7)}, "needs .8,."),
    "not a number": ({f"{LAYER}layer__D": torch.full((1, 4), torch.nan)}, "not finite"),
    "a step of zero": ({f"{LAYER}layer__kernel__inv_dt": torch.full((4, 1), -1e9)}, "not above 0 by exp"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(ImcSsmError, match=message) as error:
        load_foreign(changed(**changes))
    assert "\n" not in str(error.value)


def test_many_keys_are_listed_shortly() -> None:
    extra = {f"head__{i}__weight": torch.ones(1) for i in range(50)}
    with pytest.raises(ImcSsmError, match="and 46 more") as error:
        load_foreign(changed(**extra))
    assert len(str(error.value)) < 300


def test_wrong_hints_and_sources() -> None:
    state = build("s4d", Example).state_dict()
    with pytest.raises(ConfigError, match="unknown field 'prenrom'; did you mean 'prenorm'"):
        load_foreign(state, prenrom=True)
    with pytest.raises(ImcSsmError, match=r"holds no tensors \(keys: a\)"):
        load_foreign({"a": 1})
    with pytest.raises(ImcSsmError, match="a norm follows the last block"):
        load_foreign(build("s4d", Sequence, prenorm=True).state_dict(), prenorm=False)
