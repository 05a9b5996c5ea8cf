"""Models trained elsewhere: checkpoints of state-spaces/s4's S4D, as classifiers of this library.

`load_foreign` gives the model, `read_foreign` also which key went where and what had to be assumed.
"""

from imc_ssm.foreign.loading import Imported, load_foreign, read_foreign
from imc_ssm.foreign.reading import read_tensors

__all__ = ["Imported", "load_foreign", "read_foreign", "read_tensors"]
