"""Arguments that functions of costs have in common."""

from __future__ import annotations

from typing import Any

import numpy as np

from imc_ssm.errors import ConfigError, shown

__all__ = ["activity_of"]


def activity_of(given: Any) -> float:
    """An activity, in [0, 1]: energy of a device over that in a full-scale pulse; `ConfigError` for all else."""
    value = np.asarray(given)
    if value.ndim or value.dtype.kind not in "iuf" or not 0.0 <= value <= 1.0:
        raise ConfigError(f"activity = {shown(given)}; allowed is a mean square between 0 and 1")
    return float(value)
