"""imc-ssm: state-space models on analog in-memory-computing chips.

    import imc_ssm

    data = imc_ssm.load_dataset("digits")
    model = imc_ssm.Classifier(imc_ssm.ModelConfig(heads=16, dt_min=0.0125, dt_max=0.5))
    imc_ssm.train(model, data, imc_ssm.TrainConfig(epochs=20), mode="convolution")
    quantized = imc_ssm.quantize(model, "uniform", data)
    deployment = imc_ssm.compile_model(quantized, "pcm-256", data)
    chips = imc_ssm.evaluate(deployment, data, chips=3)

What stands here is a name for something in a room (`imc_ssm.chip`, `imc_ssm.devices`, ...), imported when it is
first asked for (PEP 562): importing the package itself is instant.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for type checkers and editors; a test compares the two
    from imc_ssm.chip import Deployment, evaluate, training_for
    from imc_ssm.chip import compile as compile_model
    from imc_ssm.costs import cost
    from imc_ssm.datasets import SequenceDataset, register_task
    from imc_ssm.datasets import info as dataset_info
    from imc_ssm.datasets import load as load_dataset
    from imc_ssm.devices import Cell, Chip, Components, Design, load_cell, load_components, load_design
    from imc_ssm.devices import resolve as resolve_design
    from imc_ssm.devices.fitting import fit_cell
    from imc_ssm.errors import ImcSsmError
    from imc_ssm.explorer import explore
    from imc_ssm.foreign import load_foreign
    from imc_ssm.layers import S4D, S5, Classifier, ModelConfig, S4DConfig, S5Config, preset
    from imc_ssm.modelfile import StoredModel, load_model, save_model
    from imc_ssm.plots import draw as plot
    from imc_ssm.plots import save_figure, together
    from imc_ssm.pruning import prune
    from imc_ssm.quantization import Bits, Rule, Scheme, export_integers, quantize
    from imc_ssm.results import load as open_results
    from imc_ssm.results import save as save_results
    from imc_ssm.sweeps import sweep
    from imc_ssm.training import TrainConfig, accuracy, predict, train

__all__ = [
    "S4D",
    "S5",
    "Bits",
    "Cell",
    "Chip",
    "Classifier",
    "Components",
    "Deployment",
    "Design",
    "ImcSsmError",
    "ModelConfig",
    "Rule",
    "S4DConfig",
    "S5Config",
    "Scheme",
    "SequenceDataset",
    "StoredModel",
    "TrainConfig",
    "accuracy",
    "compile_model",
    "cost",
    "dataset_info",
    "evaluate",
    "explore",
    "export_integers",
    "fit_cell",
    "load_cell",
    "load_components",
    "load_dataset",
    "load_design",
    "load_foreign",
    "load_model",
    "open_results",
    "plot",
    "predict",
    "preset",
    "prune",
    "quantize",
    "register_task",
    "resolve_design",
    "save_figure",
    "save_model",
    "save_results",
    "sweep",
    "together",
    "train",
    "training_for",
]

_PLACES = {
    "chip": "Deployment evaluate training_for compile_model=compile",
    "costs": "cost",
    "datasets": "SequenceDataset register_task dataset_info=info load_dataset=load",
    "devices": "Cell Chip Components Design load_cell load_components load_design resolve_design=resolve",
    "devices.fitting": "fit_cell",
    "errors": "ImcSsmError",
    "explorer": "explore",
    "foreign": "load_foreign",
    "layers": "S4D S5 Classifier ModelConfig S4DConfig S5Config preset",
    "modelfile": "StoredModel load_model save_model",
    "plots": "plot=draw save_figure together",
    "pruning": "prune",
    "quantization": "Bits Rule Scheme export_integers quantize",
    "results": "open_results=load save_results=save",
    "sweeps": "sweep",
    "training": "TrainConfig accuracy predict train",
}
"""Room -> what of it stands here, `here=there` where the names differ."""
_NAMES = {
    here: (room, there or here)
    for room, names in _PLACES.items()
    for here, _, there in (entry.partition("=") for entry in names.split())
}
_BESIDE = ("analysis", "config", "files", "fixedpoint", "graph", "kernels", "study", "units")
_ROOMS = (*(place for place in _PLACES if "." not in place), *_BESIDE)

try:
    __version__ = version("imc-ssm")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0.0.0"


def __getattr__(name: str) -> Any:
    """What a name stands for, from its room; kept, so that it is looked up once."""
    if name in _NAMES:
        room, there = _NAMES[name]
        found: Any = getattr(importlib.import_module(f"imc_ssm.{room}"), there)
    elif name in _ROOMS:
        return importlib.import_module(f"imc_ssm.{name}")
    else:
        from imc_ssm.errors import near

        raise AttributeError(f"imc_ssm has no {name!r};{near(name, (*_NAMES, *_ROOMS))} see dir(imc_ssm)")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """All names, for tab completion."""
    return sorted({*__all__, *_ROOMS, "__version__", "__doc__"})
