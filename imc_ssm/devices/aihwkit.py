"""A cell that draws through one of aihwkit's inference noise models, whichever the TOML names."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import warnings
from contextlib import suppress
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from imc_ssm.devices.cell import Array, Draws, Programmed
from imc_ssm.devices.defects import Failing
from imc_ssm.devices.fitted import CLOSE
from imc_ssm.devices.spectra import Flicker
from imc_ssm.errors import DesignError, shown, unknown

__all__ = ["Aihwkit", "noise_models"]

WINDOWS = {
    "PCMLikeNoiseModel": (0.0, 25.0),
    "CustomDriftPCMLikeNoiseModel": (0.0, 25.0),
    "ReRamWan2022NoiseModel": (1.0, 40.0),
    "ReRamCMONoiseModel": (9.0, 88.2),
}
"""uS: the conductances that aihwkit's fits were published for, and the g_max of their numbers; as our own cells
have them. HERMES: 10.35 or 20.7 by `num_devices`. A model that is not named here is a formula, no fit."""
OURS = ("self", "g_converter")
"""Arguments that the cell takes care of: conductances come from it, not from weights."""


def noise_models() -> dict[str, Any]:
    """aihwkit's inference noise models by name; `ImportError` where it is not installed."""
    from aihwkit.inference import noise
    from aihwkit.inference.noise.base import BaseNoiseModel

    modules = [importlib.import_module(f"{noise.__name__}.{m.name}") for m in pkgutil.iter_modules(noise.__path__)]
    things = {name: thing for module in modules for name, thing in vars(module).items() if inspect.isclass(thing)}
    return {n: cls for n, cls in things.items() if issubclass(cls, BaseNoiseModel) and cls is not BaseNoiseModel}


class Aihwkit(Failing):
    """The noise model of this name with these arguments, as aihwkit has it: conductances in uS.

        noise_model = "HermesNoiseModel"
        arguments = { num_devices = 1, read_noise_scale = 0.5 }

    `g_min` and `g_max` of the cell are where weights are mapped to. A fit keeps the g_max that it was published
    for, and refuses a cell outside it, unless `arguments` has another g_max: that is aihwkit's own rescaling.
    Drawn chip by chip, in turns between threads; what the model draws anew at every call is anew at every time.
    """

    model: Literal["aihwkit"]
    """The class."""
    noise_model: str
    """Name of the class in `aihwkit.inference.noise`."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """What it is made with; keys that are numbers are written as text (`{ "1.0" = [...] }`)."""

    @model_validator(mode="after")
    def _made(self) -> Self:
        """Everything is tried here, on a device; where aihwkit is not installed, drawing says so."""
        from imc_ssm.devices.oracle import GLOBAL, Reference

        if self.programming_scale != 1:
            raise ValueError("programming_scale is of our own models; scale the noise in arguments")
        with GLOBAL, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                models = noise_models()
            except ImportError:
                return self
            if self.noise_model not in models:
                raise ValueError(unknown("noise model of aihwkit", self.noise_model, models))
            allowed = [name for name in inspect.signature(models[self.noise_model]).parameters if name not in OURS]
            for name in self.arguments:
                if name not in allowed:
                    raise ValueError(unknown(f"argument of {self.noise_model}", name, allowed, sort=False))
            self._check_window()
            try:
                reference = Reference(self)
                self._check_made(reference.model)
                for time in self.usual_times():
                    if not reference.defined(time):
                        given = shown(self.arguments)
                        raise ValueError(
                            f"{self.noise_model} with arguments = {given} has no number at {time:g} s"
                        )
            except (DesignError, ValueError):
                raise
            except Exception as error:  # whatever aihwkit makes of a wrong argument
                words = " ".join(f"{type(error).__name__}: {error}".split())
                given = shown(self.arguments)
                raise ValueError(f"{self.noise_model} does not take arguments = {given}: {words}") from None
        return self

    def _published(self) -> tuple[float, float] | None:
        """uS; the window of the fit, None where the model is none."""
        if self.noise_model == "HermesNoiseModel":
            return 0.0, 10.35 if self.arguments.get("num_devices") == 1 else 20.7
        return WINDOWS.get(self.noise_model)

    def _check_window(self) -> None:
        window = self._published()
        if window is None or "g_max" in self.arguments:
            return
        low, high = window
        for name, value in (("g_min", self.g_min.value / self.unit), ("g_max", self.g_max.value / self.unit)):
            if not low * (1 - CLOSE) <= value <= high * (1 + CLOSE):
                raise ValueError(
                    f"{name} = {value:g} uS is outside the {low:g} to {high:g} uS that {self.noise_model} is "
                    "fitted for; use conductances inside, or give arguments a g_max (uS) to rescale to"
                )

    def _check_made(self, model: Any) -> None:
        """aihwkit replaces some values by others without a word; and has fits at a few times alone."""
        for name, given in self._converted().items():
            if isinstance(given, int | float) and getattr(model, name, given) != given:
                raise ValueError(
                    f"{self.noise_model} replaces {name} = {given!r} by {getattr(model, name)!r} without a word"
                )
        if hasattr(model, "acceptance_range") and "acceptance_range" not in self.arguments:
            known = ", ".join(f"{value:g}" for value in model.coeff_dict)
            raise ValueError(f"{self.noise_model} needs acceptance_range, in percent; it has {known}")
        moments = tuple(sorted(getattr(model, "coeff_dic", None) or ()))
        if moments and self.times.only != moments:
            raise ValueError(f"{self.noise_model} exists at these times only: only = {list(moments)} s")

    def _converted(self) -> dict[str, Any]:
        """The arguments, with numbers as keys where TOML and JSON have text."""
        out = {}
        for name, value in self.arguments.items():
            if isinstance(value, dict):
                with suppress(ValueError):
                    value = {float(key): part for key, part in value.items()}
            out[name] = value
        return out

    def reference(self) -> Any:
        """The model itself."""
        made = noise_models()[self.noise_model]
        parameters, window = inspect.signature(made).parameters, self._published()
        own = {"g_min": self.g_min.value / self.unit, "g_max": self.g_max.value / self.unit}
        if window is not None and "g_min" not in parameters:  # with it, both are limits, not a part of the fit
            own["g_max"] = window[1]
        return made(**{name: value for name, value in own.items() if name in parameters} | self._converted())

    def program(self, target: Array, draws: Draws) -> Programmed:
        """As the model does; `kept` is what it calls drift coefficients."""
        from imc_ssm.devices.oracle import Reference

        return Reference(self).program(target, draws)

    def reprogram(self, devices: Programmed, draws: Draws) -> Programmed:
        """As in `Cell`: stuck devices stay stuck, all else is drawn anew."""
        from imc_ssm.devices.oracle import Reference

        return Reference(self).reprogram(devices, draws)

    def read(self, devices: Programmed, time: float, draws: Draws) -> Array:
        """As the model does; not below zero."""
        from imc_ssm.devices.oracle import Reference

        return Reference(self).read(devices, time, draws)

    def flicker(self, devices: Programmed, time: float) -> Flicker | None:
        """`DesignError`: the model draws 1/f noise anew at every time, and says nothing of its course."""
        raise DesignError(
            f"cell {self.name!r} is a model of aihwkit, whose noise has no course in time; hold it "
            "(within='held'), or use a cell of the library's own"
        )
