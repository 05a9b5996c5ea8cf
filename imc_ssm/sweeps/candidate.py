"""The objective that is built in: a model on a chip, its accuracy on programmed chips beside what the chip
costs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from imc_ssm import datasets
from imc_ssm.chip import Deployment, compile, evaluate, priced_digest, training_for
from imc_ssm.chip.packing import check_fit
from imc_ssm.config import Config
from imc_ssm.costs import COMPONENTS, cost
from imc_ssm.devices import Chip, resolve
from imc_ssm.errors import ConfigError, ImcSsmError
from imc_ssm.layers import Classifier
from imc_ssm.modelfile import StoredModel, load_model
from imc_ssm.pricing.intervals import BOUNDS
from imc_ssm.pruning import prune
from imc_ssm.quantization import calibration_batch
from imc_ssm.quantization import quantize as quantized
from imc_ssm.study.jobs.base import Dimension, Variable
from imc_ssm.sweeps.objective import Objective, Values
from imc_ssm.sweeps.point import COSTS_ONLY, ChipPoint, Fractions, computed_key, key_of, mapped_key, sha256_of
from imc_ssm.sweeps.space import Space
from imc_ssm.sweeps.workshop import Workshop
from imc_ssm.training import train

__all__ = ["ChipObjective", "priced"]

COMPONENT = (Dimension("component", "Component", labels=tuple(COMPONENTS)),)
BOUND = (Dimension("bound", "Bound of the interval", labels=BOUNDS),)
TOTALS = ("energy", "latency", "area", "memory", "latency_step")
COSTS = (
    Variable("energy", "J", "Energy per inference", COMPONENT),
    Variable("latency", "s", "Serial time per inference", COMPONENT),
    Variable("area", "m2", "Silicon area", COMPONENT),
    Variable("energy_total", "J", "Energy per inference"),
    Variable("latency_total", "s", "Serial time per inference"),
    Variable("area_total", "m2", "Silicon area"),
    Variable("energy_total_bounds", "J", "Energy per inference, interval of the constants", BOUND),
    Variable("latency_total_bounds", "s", "Serial time per inference, interval of the constants", BOUND),
    Variable("area_total_bounds", "m2", "Silicon area, interval of the constants", BOUND),
    Variable("memory_total", "bit", "Digital memory"),
    Variable("latency_step_total", "s", "Serial time per time step"),
    Variable("tiles", "1", "Tiles in use"),
    Variable("devices", "1", "Devices in use"),
)
"""What the chip costs."""
METRICS = {
    "classes": (("accuracy", "percent", "Accuracy"), ("f1_macro", "1", "Mean F1 of the classes")),
    "values": (("r2", "1", "R2"), ("mae", "1", "Mean absolute error")),
}
"""Goal of a task -> what chips are measured by."""


def priced(deployment: Deployment) -> Values:
    """What a deployment costs: `COSTS`. The only place that reads what `imc_ssm.cost` returns."""
    found = cost(deployment)
    out = {v.name: found[v.name].values for v in COSTS if v.name in found}
    out |= {f"{name}_total": found[name].sum("component").values for name in TOTALS}
    return {name: np.asarray(value, np.float64) for name, value in out.items()}


class ChipObjective(Objective):
    """Accuracy of programmed chips and the cost of the same chip, at points around `base`."""

    def __init__(self, base: ChipPoint | Mapping[str, Any] | None = None, /, **fields: Any) -> None:
        """`base`, or its fields; `ConfigError` for what is none, or for a model file that does not fit."""
        if base is not None and fields:
            raise ConfigError(f"ChipObjective: give a point or its fields, not both ({', '.join(fields)})")
        self.base = base if isinstance(base, ChipPoint) else ChipPoint.parse(base if base is not None else fields)
        if self.base.task is None:
            assert self.base.start is not None
            task = _stored(self.base.start).info.get("task")
            if not isinstance(task, str):
                raise ConfigError(f"{self.base.start} does not say what it was trained on; give task")
            self.base = self.base.with_(task=task)
        self._info = datasets.info(self.task)
        self.base = _fitting(self.base, self._info)
        there = self._info["splits"].get(self.base.split, 0)
        if (self.base.sequences or 1) > there:
            raise ConfigError(
                f"sequences = {self.base.sequences}; the {self.base.split} split of {self.task} has {there}"
            )

    @property
    def task(self) -> str:
        """The task's name or path."""
        return str(self.base.task)

    @property
    def variables(self) -> tuple[Variable, ...]:
        """Costs, then the task's metrics over chips and times, and with digital matrices."""
        chips = Dimension("chip", "Chip", labels=tuple(range(self.base.chips)))
        times = Dimension("time", "Time after programming", "s", labels=self.base.times)
        found = []
        for name, units, what in METRICS[self._info["goal"]]:
            found.append(Variable(name, units, f"{what} of programmed chips", (chips, times), test=True))
            found.append(Variable(f"{name}_digital", units, f"{what} with digital matrices", test=True))
        return (*COSTS, *found)

    def check(self, space: Space) -> None:
        """Every field by its path and every listed value or end of a range by itself."""
        for name, axis in space.axes.items():
            paths = axis.fields or (name,)
            for path in paths:
                if path in ("chips", "times", "split", "sequences", "task", "training.seed", "qat.seed"):
                    hint = "vary seed" if path.endswith(".seed") else "it is the same at every point of a sweep"
                    raise ConfigError(f"axis {name!r}: {path!r} cannot be varied; {hint}")
            for value in axis.values if axis.values is not None else (axis.low, axis.high):
                try:
                    made = self.base.at(dict.fromkeys(paths, value))
                    if any(path.startswith(("cell.", "design")) for path in paths):
                        made.chip()
                except ImcSsmError as error:
                    raise ConfigError(f"axis {name!r} = {axis.label(value)!r}: {error}") from None

    def described(self) -> dict[str, Any]:
        """The base, and a digest of the model file."""
        own = {"point": self.base.model_dump(mode="json")}
        return own if self.base.start is None else own | {"start_sha256": sha256_of(self.base.start)}

    def coordinate(self, path: str) -> tuple[str, str]:
        """What the field's docstring says."""
        owner: Any = self.base
        if path.startswith("cell."):
            try:
                owner, path = resolve(self.base.design).cell, path.removeprefix("cell.")
            except ImcSsmError:  # a file of one's own that is not there any more
                return "1", path
        text, units = "", "1"
        parts = path.split(".")
        while parts and isinstance(owner, Config):
            if {"value", "unit"} <= type(owner).model_fields.keys():  # a number with a source: its owner said what
                break
            name = parts.pop(0)
            if not parts and name not in type(owner).model_fields:  # given short: "adc_bits"
                parts = owner._whole(name, {}).split(".")
                name = parts.pop(0) if parts != [name] else parts.pop()
            text = owner.described(name) if hasattr(owner, name) else text
            owner = getattr(owner, name, None)
        if isinstance(owner, Config) and "unit" in type(owner).model_fields:
            units = str(getattr(owner, "unit", "1"))
        said = re.split(r";|\. |: |, | \(", text.replace("\n", " "))[0].strip(" .:")
        return units, said or path

    def about(self) -> dict[str, Any]:
        """How many sequences were asked, and whose."""
        count = self.base.sequences or self._info["splits"][self.base.split]
        return {"n_test": int(count), "split": self.base.split}

    def group(self, changes: Mapping[str, Any], shop: Workshop) -> str:
        """By what decides an evaluation, but for files of cells and components."""
        point = self.base.at(changes)
        return key_of([point.decided(), point.model_dump(mode="json", exclude={"design": COSTS_ONLY["design"]})])

    def prepared(self, changes: Mapping[str, Any], shop: Workshop) -> str | None:
        """The model of a point, unless it lies there."""
        point = self.base.at(changes)
        if point.scheme is None and not point.prune.any:
            return None
        key = key_of(point.decided())
        return None if shop.path(key).exists() else key

    def prepare(self, changes: Mapping[str, Any], shop: Workshop) -> None:
        """Train and quantize it."""
        self._model(self.base.at(changes), shop)

    def measure(self, changes: Mapping[str, Any], shop: Workshop, *, probe: bool = False) -> Iterator[Values]:
        """The costs, with `probe` the first chip, then all chips."""
        point = self.base.at(changes)
        deployment = self.deployment(point, shop)
        yield priced(deployment)
        if probe and point.chips > 1:
            yield self._evaluated(point.with_(chips=1), deployment, shop)
        yield self._evaluated(point, deployment, shop)

    def deployment(self, point: ChipPoint, shop: Workshop) -> Deployment:
        """The point's model on its chip; compiled once for chips that differ in nothing that moves a weight."""
        chip = self._chip(point, shop)
        where: dict[str, Any] = {"recurrence": point.recurrence, "heads_per_tile": point.heads_per_tile}
        own = mapped_key(chip) if point.recurrence == "digital" else priced_digest(chip)
        key = key_of([point.decided(), own, where, point.calibration])

        def made() -> Deployment:
            stored = self._model(point, shop)
            data = self._calibration(stored.model, point, shop)
            return compile(stored.model, chip, *data, **where, name=self.task)

        found = shop.kept("deployment", key, made)
        if found.chip != chip:
            check_fit(found.placed, chip)
            found = replace(found, chip=chip)
        return found

    def _chip(self, point: ChipPoint, shop: Workshop) -> Chip:
        return shop.kept("chip", key_of([point.design.model_dump(mode="json"), point.cell]), point.chip)

    def _evaluation(self, point: ChipPoint, shop: Workshop) -> str:
        chip = self._chip(point, shop)
        own = computed_key(chip) if point.within == "held" else priced_digest(chip)
        how = point.model_dump(mode="json", include=_EVALUATED)
        return key_of([point.decided(), own, how])

    def _evaluated(self, point: ChipPoint, deployment: Deployment, shop: Workshop) -> Values:
        """Metrics; chips beyond `point.chips` are NaN."""

        def made() -> Values:
            found = evaluate(
                deployment,
                shop.data(self.task),
                point.chips,
                point.times,
                seed=point.seed,
                split=point.split,
                sequences=point.sequences,
                refresh=point.refresh,
                recalibrate=point.recalibrate,
                within=point.within,
            )
            out = {}
            for name, _, _ in METRICS[self._info["goal"]]:
                out[name] = np.full((self.base.chips, len(point.times)), np.nan)
                out[name][: point.chips] = found[name].values
                out[f"{name}_digital"] = np.asarray(float(found[f"{name}_digital"]))
            return out

        return shop.kept("evaluation", self._evaluation(point, shop), made)

    def _calibration(self, model: Classifier, point: ChipPoint, shop: Workshop) -> tuple[Any, Any]:
        return calibration_batch(shop.data(self.task), model.config.width, point.calibration, seed=0)

    def _model(self, point: ChipPoint, shop: Workshop) -> StoredModel:
        """The quantized model of a point."""
        if point.scheme is None and not point.prune.any:
            assert point.start is not None
            stored = shop.kept("model", key_of(point.trained()), lambda: _stored(str(point.start)))
            if stored.scheme is None:
                raise ConfigError(
                    f"start = {point.start!r} is in full precision; quantize it first, or give scheme"
                )
            return stored
        if point.scheme is None:
            return shop.model(key_of(point.decided()), lambda _: self._pruned(point, shop))
        return shop.model(key_of(point.decided()), lambda checkpoint: self._quantized(point, shop, checkpoint))

    def _pruned(self, point: ChipPoint, shop: Workshop) -> StoredModel:
        """What is left of the model that a point starts from."""
        if not point.prune.any:
            return self._full(point, shop)
        whole = (
            self._model(point.with_(prune=Fractions()), shop) if point.scheme is None else self._full(point, shop)
        )
        left = prune(whole.model, **point.prune.model_dump(), data=shop.data(self.task), seed=point.seed)
        return StoredModel(left, whole.scheme, {"task": self.task})

    def _full(self, point: ChipPoint, shop: Workshop) -> StoredModel:
        """The model in full precision."""
        if point.start is not None:
            stored = shop.kept("model", key_of(point.trained()), lambda: _stored(str(point.start)))
            if stored.scheme is not None:
                raise ConfigError(
                    f"start = {point.start!r} is quantized already; give the model in full precision that it came "
                    "from, or leave scheme out"
                )
            return stored

        def made(checkpoint: Path) -> StoredModel:
            import torch

            assert point.model is not None
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(point.seed)
                model = Classifier(point.model)
            config = point.training.with_(seed=point.seed)
            train(
                model,
                shop.data(self.task),
                config,
                mode=point.mode,
                keep=point.keep,
                progress=shop.progress,
                checkpoint=checkpoint,
            )
            return StoredModel(model, None, {"task": self.task, "training": config.model_dump(mode="json")})

        return shop.model(key_of(point.trained()), made)

    def _quantized(self, point: ChipPoint, shop: Workshop, checkpoint: Path) -> StoredModel:
        assert point.scheme is not None
        exact = self._pruned(point, shop).model
        model = quantized(exact, point.scheme, *self._calibration(exact, point, shop))
        about: dict[str, Any] = {"task": self.task}
        if point.qat is not None:
            config, disturbance = point.qat.with_(seed=point.seed), None
            if point.qat_for_chip:
                recipe = training_for(self._chip(point, shop), config)
                config, disturbance = recipe.config, recipe.disturbance
            noisy = disturbance is not None or config.noise_ramp > 0
            train(
                model,
                shop.data(self.task),
                config,
                keep="last" if noisy else point.keep,
                progress=shop.progress,
                checkpoint=checkpoint,
                disturbance=disturbance,
                teacher=exact if config.distill else None,
            )
            about["training"] = config.model_dump(mode="json")
        return StoredModel(model, point.scheme, about)


_EVALUATED = {
    *("chips", "times", "sequences", "split", "refresh", "recalibrate", "within", "seed", "recurrence"),
    *("heads_per_tile", "calibration"),
}


def _fitting(point: ChipPoint, info: Mapping[str, Any]) -> ChipPoint:
    """With the inputs, outputs and pooling that the task needs, where the model to be trained leaves them open."""
    if point.model is None:
        return point
    needed = {"inputs": info["shape"][2], "outputs": info["classes"]}
    needed |= {"pool": "none"} if info["per_step"] else {}
    left = {name: value for name, value in needed.items() if name not in point.model.model_fields_set}
    return point.with_(model=point.model.with_(left)) if left else point


def _stored(start: str) -> StoredModel:
    from imc_ssm.pretrained import model_file

    try:
        return load_model(model_file(start))
    except ImcSsmError as error:
        raise ConfigError(f"start = {start!r}: {error}") from None
