"""Which constants the interval of a deployment's cost comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from imc_ssm.chip.deployment import deployment_of
from imc_ssm.costs.given import activity_of
from imc_ssm.costs.plan import DEFAULT_ACTIVITY, CostPlan
from imc_ssm.devices.constants import ConstantsLike, constants_of
from imc_ssm.pricing.intervals import scenarios
from imc_ssm.pricing.intervals import swings as factors

if TYPE_CHECKING:
    from imc_ssm.chip import Deployment

__all__ = ["swings"]

QUANTITIES = (
    ("energy", "J", "Energy per inference"),
    ("latency", "s", "Serial time per inference"),
    ("area", "m2", "Silicon area"),
)


def swings(
    deployment: Deployment, *, activity: float = DEFAULT_ACTIVITY, constants: ConstantsLike = None
) -> xr.Dataset:
    """The totals of `cost` where one constant alone is at an end of its range.

    Returns `energy` (J), `latency` (s) and `area` (m2) over `constant` and `end` ("low", "high": of the total, not
    of the constant), of all constants that move any of the three, those that move the energy most first; and the
    nominal `energy_total`, `latency_total`, `area_total`. The intervals of `cost` add the logarithms of
    total / nominal over the constants in quadrature, both ends apart. `activity`, `constants` and errors: as
    those of `cost`.

        >>> import imc_ssm
        >>> from imc_ssm.costs import swings
        >>> data = imc_ssm.load_dataset("digits")
        >>> model = imc_ssm.quantize(imc_ssm.Classifier(imc_ssm.ModelConfig(heads=4, n_state=4)), "uniform", data)
        >>> str(swings(imc_ssm.compile_model(model, "pcm-256", data))["constant"].values[0])
        'leakage_32'
    """
    deployment, activity = deployment_of(deployment, "swings"), activity_of(activity)
    k = scenarios(constants_of(constants).entries)
    found = CostPlan(deployment, activity=activity).priced(k)
    moved = {name: factors(found.total(name), k) for name, _, _ in QUANTITIES}
    names = [name for name in moved["energy"] if any(each[name] != (1.0, 1.0) for each in moved.values())]
    out: dict[str, object] = {}
    for name, units, label in QUANTITIES:
        total = float(found.total(name)[0])
        values = total * np.array([moved[name][constant] for constant in names]).reshape(-1, 2)
        text = {"units": units, "long_name": f"{label}, one constant at an end"}
        out[name] = (("constant", "end"), values, text)
        out[f"{name}_total"] = ((), total, {"units": units, "long_name": f"{label}, nominal"})
    design = deployment.design.name
    return xr.Dataset(
        out, {"constant": names, "end": ["low", "high"]}, {"title": f"Swings on {design}", "design": design}
    )
