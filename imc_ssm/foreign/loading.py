"""From a foreign state dict to a classifier: shapes decide the architecture, formulas become our parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from imc_ssm.config import Config
from imc_ssm.errors import ImcSsmError
from imc_ssm.foreign.layouts import Keys, sorted_keys
from imc_ssm.foreign.reading import read_tensors
from imc_ssm.layers import Classifier, ModelConfig

__all__ = ["Hints", "Imported", "load_foreign", "read_foreign"]

Transform = Literal["exp", "softplus", "relu", "sigmoid", "none"]


class Hints(Config):
    """What the keys of a checkpoint cannot say; None: as they suggest, else as their code does by default."""

    prenorm: bool | None = None
    """The norm stands before the layer (default: where a norm follows the last block, as in SequenceModel)."""
    activation: Literal["gelu", "gelu2", "relu", "none"] | None = None
    """Behind the layer (default: gelu; gelu2 for version 4's S4Block, which applies it twice)."""
    pool: Literal["mean", "last", "none"] | None = None
    """What the decoder reads (default: the mean over time)."""
    discretisation: Literal["zoh", "bilinear"] | None = None
    """Default: bilinear for version 3 (inv_A_real), else zoh."""
    dt_transform: Transform | None = None
    """dt of log_dt or inv_dt (default: exp)."""
    real_transform: Transform | None = None
    """-Re A of log_A_real, inv_A_real or A_real (default: exp)."""


@dataclass(frozen=True)
class Moved:
    """One key of the checkpoint and where it went."""

    key: str
    shape: tuple[int, ...]
    path: str
    """Our parameter."""
    how: str = ""
    """Formula, where it is more than a copy."""


@dataclass(frozen=True, eq=False)
class Imported:
    """A foreign model and how it was read."""

    model: Classifier
    layout: str
    """Whose keys they are."""
    moved: tuple[Moved, ...]
    assumed: dict[str, str] = field(default_factory=dict)
    """Option -> value taken, where the keys do not say it and no hint did."""


def load_foreign(source: Mapping[str, Any] | str | Path, **hints: Any) -> Classifier:
    """A classifier of a foreign checkpoint: a state dict, or a `.pt`, `.pth`, `.ckpt` or `.safetensors` file.

    Known are the layouts of state-spaces/s4's S4D (`imc_ssm.foreign.layouts`); `hints`: the fields of `Hints`. The
    logits agree with theirs to rounding. Raises `FileError` for a file that cannot be read or holds more than
    weights, `ConfigError` for an unknown hint, `ImcSsmError` that lists keys left over or missing, with what they
    are, or shapes that do not fit.
    """
    return read_foreign(source, **hints).model


def read_foreign(source: Mapping[str, Any] | str | Path, **hints: Any) -> Imported:
    """As `load_foreign`, with which key went where and what was assumed."""
    wanted = Hints.parse(hints)
    tensors = read_tensors(source)
    keys = sorted_keys(tensors)
    _check_keys(keys)
    return _Reader(tensors, keys, wanted).read()


_NEEDED = {
    "C": "output matrix of the recurrence, kernel.C",
    "step": "step size, kernel.log_dt or inv_dt",
    "real": "real parts of the poles, kernel.log_A_real, inv_A_real or A_real",
    "imaginary": "imaginary parts of the poles, kernel.A_imag",
    "D": "direct path D",
    "mixing.weight": "mixing matrix, output_linear.0.weight",
    "mixing.bias": "bias of the mixing matrix, output_linear.0.bias",
}
_NEEDED_ONCE = tuple(f"{part}.{kind}" for part in ("encoder", "decoder") for kind in ("weight", "bias"))


def _check_keys(keys: Keys) -> None:
    missing = [f"{name} (of the whole model)" for name in _NEEDED_ONCE if name not in keys.model]
    if not keys.blocks:
        missing.append("every block (s4_layers.0.*, or model.layers.0.layer.*)")
    for i, block in enumerate(keys.blocks):
        missing += [f"block {i}: {text}" for name, text in _NEEDED.items() if name not in block]
    missing += _missing_norms(keys)
    parts = [f"keys left over: {_few(keys.left)}"] * bool(keys.left)
    parts += [f"missing: {_few(missing)}"] * bool(missing)
    if parts:
        raise ImcSsmError(f"not an S4D classifier of state-spaces/s4: {'; '.join(parts)}")


def _missing_norms(keys: Keys) -> list[str]:
    """What norms lack: all have the same parts, a weight among them."""
    places = {f"block {i}": block for i, block in enumerate(keys.blocks)}
    if any(name.startswith("final norm.") for name in keys.model):
        places["behind the last block"] = {n.removeprefix("final "): key for n, key in keys.model.items()}
    parts = {name for place in places.values() for name in place if name.startswith("norm.")}
    parts |= {"norm.weight"} if parts else set()
    return [
        f"{where}: {name.replace('.', ' ')}"
        for where, place in places.items()
        for name in sorted(parts - {"norm.num_batches_tracked"})
        if name not in place
    ]


def _few(texts: list[str], most: int = 4) -> str:
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def _positive(x: Tensor, transform: str) -> Tensor:
    """The positive number behind a trained one, as theirs."""
    if transform == "relu":
        return torch.relu(x) + 1e-4
    if transform == "none":
        return x
    functions: dict[str, Callable[[Tensor], Tensor]]
    functions = {"exp": torch.exp, "softplus": softplus, "sigmoid": torch.sigmoid}
    return functions[transform](x)


class _Reader:
    """Moves tensors to parameters and notes it."""

    def __init__(self, tensors: dict[str, Tensor], keys: Keys, hints: Hints) -> None:
        self.tensors, self.keys, self.hints = tensors, keys, hints
        self.moved: list[Moved] = []
        self.assumed: dict[str, str] = {}
        self.values: dict[str, Tensor] = {}

    def read(self) -> Imported:
        config = self._config()
        states = config.layer.n_state // 2  # type: ignore[attr-defined]
        for part in ("encoder", "decoder"):
            for kind in ("weight", "bias"):
                key = self.keys.model[f"{part}.{kind}"]
                self._move(key, f"{part}.{kind}", self._plain(key))
        for i, block in enumerate(self.keys.blocks):
            self._recurrence(f"blocks.{i}.ssm", block, config.width, states)
            for kind in ("weight", "bias"):
                key = block[f"mixing.{kind}"]
                value = self._plain(key)
                # a convolution of one tap is a matrix
                self._move(key, f"blocks.{i}.mixing.{kind}", value.squeeze(-1) if value.ndim == 3 else value)
            self._norm("norm.", block, f"blocks.{i}.norm.norm")
        self._norm("final norm.", self.keys.model, "norm.norm")
        return Imported(self._filled(config), self._layout(), tuple(self.moved), self.assumed)

    def _filled(self, config: ModelConfig) -> Classifier:
        with torch.random.fork_rng(devices=[]):
            model = Classifier(config)
        own = model.state_dict()
        for name, value in self.values.items():
            if name not in own:
                key = next(m.key for m in self.moved if m.path == name)
                raise ImcSsmError(f"{key} is a tensor that the first block does not have; blocks must be alike")
            if own[name].shape != value.shape:
                key = next(m.key for m in self.moved if m.path == name)
                raise ImcSsmError(
                    f"{key} has shape {tuple(self.tensors[key].shape)}; as {name} of {config.width} channels it "
                    f"needs {tuple(own[name].shape)}"
                )
            low = 0 if name.endswith("running_var") else -torch.inf
            if not (torch.isfinite(value.to(own[name].dtype)) & (value >= low)).all():
                raise ImcSsmError(
                    f"{name} has numbers that are not finite, or a variance below 0; give the checkpoint of a "
                    "training that went well"
                )
        model.load_state_dict(own | {name: value.to(own[name].dtype) for name, value in self.values.items()})
        with torch.no_grad():  # finite numbers can be out of all proportion, as after a flipped bit
            if not torch.isfinite(model.eval()(torch.ones(1, 64, config.inputs))).all():
                raise ImcSsmError("the logits are not finite for an input of ones; copy the checkpoint again")
        return model

    def _config(self) -> ModelConfig:
        first = self.keys.blocks[0]
        encoder, decoder = (self.tensors[self.keys.model[f"{part}.weight"]] for part in ("encoder", "decoder"))
        C, mixing = self.tensors[first["C"]], self.tensors[first["mixing.weight"]]
        if encoder.ndim != 2 or decoder.ndim != 2 or C.ndim not in (3, 4) or C.shape[-1] != 2 or mixing.ndim < 2:
            raise ImcSsmError(
                f"{first['C']} has shape {tuple(C.shape)} and the encoder {tuple(encoder.shape)}; needed are real "
                "pairs (H, N/2, 2) or (1, H, N/2, 2), and (H, inputs)"
            )
        heads = len(encoder)
        rows = {2 * heads: "glu", heads: "none"}
        if len(mixing) not in rows:
            raise ImcSsmError(
                f"{first['mixing.weight']} has {len(mixing)} rows for {heads} channels; known are {2 * heads} (a "
                f"gated linear unit) and {heads} (none)"
            )
        if C.ndim == 4 and len(C) != 1:
            raise ImcSsmError(
                f"{first['C']} has {len(C)} kernels a channel (channels > 1, or bidirectional); only one is read"
            )
        final = any(name.startswith("final norm.") for name in self.keys.model)
        version3 = "inv_" in first["real"].rsplit(".", 1)[-1]
        version4 = first["real"].endswith(".A_real")
        norm = self._norm_kind(first)
        choices: dict[str, Any] = {
            "activation": ("gelu2" if version4 else "gelu", "their code's default"),
            "pool": ("mean", "example.py's; SequenceDecoder's mode 'pool'"),
            "discretisation": ("bilinear" if version3 else "zoh", "their code's default"),
        }
        if norm != "none" and not final:
            choices["prenorm"] = (False, "no norm follows the last block")
        taken: dict[str, Any] = {"prenorm": final}
        for name, (value, why) in choices.items():
            hint = getattr(self.hints, name)
            taken[name] = value if hint is None else hint
            if hint is None:
                self.assumed[name] = f"{str(value).lower()} ({why})"
        if final and self.hints.prenorm is False:
            raise ImcSsmError(
                f"prenorm=False, but a norm follows the last block ({self.keys.model['final norm.weight']}): only "
                "pre-norm models have it; leave the hint out"
            )
        return ModelConfig.parse(
            {
                "inputs": encoder.shape[1],
                "heads": heads,
                "outputs": len(decoder),
                "layers": len(self.keys.blocks),
                "n_state": 2 * C.shape[-2],
                "norm": norm,
                "final_norm": final,
                "gate": rows[len(mixing)],
                **taken,
            }
        )

    def _norm_kind(self, block: Mapping[str, str]) -> str:
        if "norm.running_var" in block:
            return "batch"
        if "norm.weight" not in block:
            return "none"
        return "layer" if "norm.bias" in block else "rms"

    def _layout(self) -> str:
        key = self.keys.blocks[0]["real"]
        name = key.rsplit(".", 1)[-1]
        kernel = {"log_A_real": "s4d.py", "A_real": "S4Block, version 4"}.get(
            name, "S4 in diagonal mode, version 3"
        )
        outer = "example.py" if "s4_layers" in key else "SequenceModel"
        return f"state-spaces/s4: {kernel}, in {outer}'s model"

    def _plain(self, key: str) -> Tensor:
        value = self.tensors[key]
        if value.is_complex():
            raise ImcSsmError(f"{key} is complex; needed are real numbers (C and B as real pairs)")
        return value.double() if value.is_floating_point() else value

    def _move(self, key: str, path: str, value: Tensor, how: str = "") -> None:
        self.moved.append(Moved(key, tuple(self.tensors[key].shape), path, how))
        self.values[path] = value

    def _recurrence(self, path: str, block: Mapping[str, str], heads: int, states: int) -> None:
        """log dt (H,), A, B and C (H, n) of our S4D from theirs; S shared systems go to the heads in turn."""

        def of_heads(key: str, width: tuple[int, ...]) -> Tensor:
            value, count = self._plain(key), math.prod(width)
            systems = value.numel() // count
            if systems * count != value.numel() or not systems or heads % systems:
                needed = ", ".join(map(str, (heads, *width)))
                raise ImcSsmError(
                    f"{key} has shape {tuple(value.shape)}; needed is ({needed}), or a divisor of {heads} in front"
                )
            return value.reshape(systems, *width).repeat(heads // systems, *(1 for _ in width))

        dt_transform = self._transform("dt_transform")
        real_transform = self._transform("real_transform")
        single = self.tensors[block["step"]].numel() <= heads
        dt = _positive(of_heads(block["step"], () if single else (states,)), dt_transform)
        low = _positive(of_heads(block["real"], (states,)), real_transform)
        if not (dt > 0).all() or not (low > 0).all():
            key = block["step"] if not (dt > 0).all() else block["real"]
            raise ImcSsmError(
                f"{key} gives numbers that are not above 0 by {dt_transform}; name another transform"
            )
        # version 4 keeps the imaginary part of poles in the lower half plane without its sign
        sign = -1.0 if block["real"].endswith(".A_real") else 1.0
        high = sign * of_heads(block["imaginary"], (states,))
        B = (
            of_heads(block["B"], (states, 2))
            if "B" in block
            else torch.tensor([1.0, 0.0]).expand(heads, states, 2)
        )
        how = "" if dt_transform == "exp" else f"log of {dt_transform}"
        if not single:  # our heads have one dt: what a state's differs from the mean goes into A and B
            common = dt.log().mean(1).exp()
            ratio = dt / common[:, None]
            low, high, B, dt = low * ratio, high * ratio, B * ratio[..., None], common
            how = (how and f"{how}, ") + "mean of the states; the rest goes into A and B"
        self._move(block["step"], f"{path}.log_dt", dt.log(), how)
        self._move(
            block["real"],
            f"{path}.log_neg_real",
            low.log(),
            "" if real_transform == "exp" else f"log of {real_transform}",
        )
        self._move(block["imaginary"], f"{path}.imag", high, "sign changed" if sign < 0 else "")
        if "B" in block:
            self._move(block["B"], f"{path}.B", B)
        else:
            self.values[f"{path}.B"] = B
        self._move(block["C"], f"{path}.C", of_heads(block["C"], (states, 2)))
        self._move(block["D"], f"{path}.D", of_heads(block["D"], ()))

    def _transform(self, name: str) -> str:
        hint: str | None = getattr(self.hints, name)
        if hint is None:
            self.assumed[name] = "exp (their code's default)"
        return hint or "exp"

    def _norm(self, role: str, keys: Mapping[str, str], path: str) -> None:
        for name, key in keys.items():
            if name.startswith(role):
                self._move(key, f"{path}.{name.removeprefix(role)}", self._plain(key))
