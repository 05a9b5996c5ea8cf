"""Robustness to analog noise on the digits (`robustness.py`).

imc-ssm experiment run qs4d/noise qs4d/devices
"""

from . import figures, robustness

STUDY = robustness.build(robustness.digits(), figures)
