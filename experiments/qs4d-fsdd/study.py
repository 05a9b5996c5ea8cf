"""The study of `../qs4d` on spoken digits.

imc-ssm experiment run qs4d-fsdd/parts qs4d-fsdd/noise qs4d-fsdd/devices
"""

import importlib.util
import sys
from pathlib import Path

NEIGHBOUR = Path(__file__).parents[1] / "qs4d"


def _module(name: str):
    """A module of the neighbouring study."""
    spec = importlib.util.spec_from_file_location(f"imc_ssm_study_qs4d_{name}", NEIGHBOUR / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


robustness, reduction, figures = (_module(name) for name in ("robustness", "reduction", "figures"))
STUDY = robustness.build(robustness.fsdd(), figures, **reduction.extras(reduction.fsdd(), figures))
