"""Training that can be stopped at any moment: everything a run needs to go on as if nothing had happened."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from imc_ssm.errors import CheckpointError, FileError, shown
from imc_ssm.files import load_tensors, save_tensors

__all__ = ["Run"]


@dataclass
class Run:
    """The state of a training run between two epochs."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    rng: np.random.Generator
    """Shuffles the training split."""
    identity: dict[str, Any]
    """What must be the same for a run to go on: the recipe (`config`), the data, the model at the start."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """The recipe's fields where nothing is said: what a checkpoint means that is older than a field."""
    done: int = 0
    """Steps taken."""
    measured: dict[str, list[float]] = field(default_factory=dict)
    """History, one entry per finished epoch."""
    best: float = -1.0
    """Best score on the validation split so far."""
    best_state: dict[str, Tensor] = field(default_factory=dict)
    """The model's state of that epoch."""

    def _settings(self, identity: dict[str, Any]) -> dict[str, Any]:
        """An identity by name, flat, with the fields that the recipe did not have yet."""
        rest = {name: value for name, value in identity.items() if name != "config"}
        return {**self.defaults, **identity["config"], **rest}

    def keep_if_best(self, score: float) -> None:
        """Remember the model as it is if no epoch was as good."""
        if score > self.best or not self.best_state:
            self.best = score
            self.best_state = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def save(self, path: Path) -> None:
        """Write the run, atomically, with the state of torch's global generator."""
        tensors: dict[str, Tensor] = {"random": torch.get_rng_state()}
        tensors |= {f"model/{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best/{name}": value for name, value in self.best_state.items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{index}/{key}": torch.as_tensor(value) for key, value in state.items()}
        header = {
            "identity": self.identity,
            "done": self.done,
            "measured": self.measured,
            "best": self.best,
            "shuffle": self.rng.bit_generator.state,
            "rates": [group["lr"] for group in self.optimiser.param_groups],
        }
        save_tensors(path, {name: t.detach().cpu().numpy() for name, t in tensors.items()}, header, "checkpoint")

    def load(self, path: Path) -> None:
        """Go back to where `save` was called; `CheckpointError` if the checkpoint is damaged or of another run."""
        try:
            arrays, header = load_tensors(path, "checkpoint")
        except FileError as error:
            raise CheckpointError(f"{error}, or remove it to start this training anew") from None
        stated = header.get("identity")
        if not isinstance(stated, dict) or not isinstance(stated.get("config"), dict):
            raise self._broken(path, "it does not say of which training")
        there, here = (self._settings(identity) for identity in (stated, self.identity))
        young = self.identity.keys() - stated.keys() - self.defaults.keys()  # what a checkpoint did not say yet
        other = [
            f"{name} {shown(there.get(name))} there and {shown(here.get(name))} here"
            for name in sorted((there.keys() | here.keys()) - young)
            if there.get(name) != here.get(name)
        ]
        if other:
            raise CheckpointError(
                f"{path} is the checkpoint of a training with other settings ({', '.join(other)}); run that one "
                "to its end, or remove the file to start anew"
            )
        try:
            self._check_header(header)
        except (KeyError, TypeError, ValueError) as error:
            raise self._broken(path, f"its header is wrong: {error}") from None
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if wrong := self._wrong(tensors):
            raise self._broken(path, wrong)
        try:
            self._restore(tensors, header)
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError) as error:
            raise self._broken(path, str(error)) from None

    @staticmethod
    def _broken(path: Path, why: str) -> CheckpointError:
        return CheckpointError(f"{path} is no whole checkpoint ({why}); remove it to start this training anew")

    def _check_header(self, header: dict[str, Any]) -> None:
        """`KeyError`, `TypeError` or `ValueError` for what `save` does not write."""
        done, best, measured, rates = (header[name] for name in ("done", "best", "measured", "rates"))
        if type(done) is not int or done < 0 or not isinstance(best, float | int) or not math.isfinite(best):
            raise ValueError(f"done is {shown(done)}, best {shown(best)}")
        if len(rates) != len(self.optimiser.param_groups) or not all(0 <= float(r) < 1e6 for r in rates):
            raise ValueError(f"rates are {shown(rates)}")
        # One that is older than a task lacks what is measured of it.
        if not isinstance(measured, dict) or not {"time"} <= measured.keys() <= self.measured.keys():
            raise ValueError(f"measured is {shown(measured)}")
        if not all(type(values) is list for values in measured.values()):
            raise ValueError(f"measured is {shown(measured)}")
        epochs = {len(values) for values in measured.values() if values}  # what a task lacks stays empty
        if len(epochs) > 1 or not all(type(v) is float for values in measured.values() for v in values):
            raise ValueError("what was measured is not one number an epoch")

    def _wrong(self, tensors: dict[str, Tensor]) -> str:
        """The first tensor that `save` would not have written, in words; ""."""
        state = self.model.state_dict()
        known = {"random": torch.get_rng_state()}
        known |= {f"{where}/{name}": value for where in ("model", "best") for name, value in state.items()}
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        moments = {
            f"optimiser/{i}/{key}": torch.zeros(()) if key == "step" else value
            for i, value in enumerate(parameters)
            for key in ("step", "exp_avg", "exp_avg_sq")
        }
        for name in sorted(tensors.keys() | known.keys()):
            if name not in tensors:
                return f"{name} is missing"
            if (like := (known | moments).get(name)) is None:
                return f"{shown(name)} is none of its tensors"
            found = tensors[name]
            if (found.shape, found.dtype) != (like.shape, like.dtype):
                return f"{name} has shape {tuple(found.shape)} and {found.dtype}"
            if found.is_floating_point() and not bool(found.isfinite().all()):
                return f"{name} is not finite"
            if name.endswith(("/exp_avg_sq", "/step")) and bool((found < 0).any()):
                return f"{name} is negative"
        there = {name.split("/")[1] for name in tensors if name.startswith("optimiser/")}
        lost = [name for name in moments if name.split("/")[1] in there and name not in tensors]
        return f"{lost[0]} is missing" if lost else ""

    def _restore(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        """Put back what was checked."""

        def under(prefix: str) -> dict[str, Tensor]:
            return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

        self.model.load_state_dict(under("model/"))
        self.best_state = under("best/")
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in under("optimiser/").items():
            index, key = name.split("/")
            moments.setdefault(int(index), {})[key] = value
        groups = self.optimiser.state_dict()["param_groups"]
        for group, rate in zip(groups, header["rates"], strict=True):
            group["lr"] = rate
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        steps = {"last_epoch": header["done"], "_step_count": header["done"] + 1}
        self.schedule.load_state_dict(self.schedule.state_dict() | steps)
        self.rng.bit_generator.state = header["shuffle"]
        self.done, self.best = header["done"], header["best"]
        self.measured = self.measured | header["measured"]
        torch.set_rng_state(tensors["random"])
