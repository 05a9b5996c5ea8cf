"""After QS4D on the digits: quantization (`reduction.py`) and robustness to analog noise (`robustness.py`).

imc-ssm experiment run qs4d/parts qs4d/sizes qs4d/noise qs4d/devices
"""

from . import figures, reduction, robustness

STUDY = robustness.build(robustness.digits(), figures, **reduction.extras(reduction.digits(), figures))
