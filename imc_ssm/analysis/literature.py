"""Measures of complexity that papers count beside joules: ACE, model size, memory footprint, ADC complexity.

With bits(path) the width of a word, 32 where there is none (full precision), of one inference of so many steps:

    MACs            products of the model's equations: matrices, a x, b u, c x, D u, gates, each as often as it
    runs ACE             sum over MACs of bits x bits                     arithmetic computation effort
    model size      sum over stored parameters of bits
    footprint       model size + bits of the states + most bits of activations alive at once (+ one word for each
                    complex state without word: the products c x, which an integer unit adds up as they come)
    conversions     of all ADCs
    ADC complexity  sum over conversions of 2^bits                   what a converter's energy grows with

Sources. ACE: Zhang, Zhang and Lew, "PokeBNN", CVPR 2022 (arXiv:2112.00133), used by Siegel et al. 2025, "QS4D"
(arXiv:2507.06079) with model size and ADC complexity; of that paper we could read no more than the abstract, so
that the ADC's 2^bits is our reading: the number of levels, to which the energy of a conversion is proportional
where noise does not rule (Walden 1999, doi:10.1109/49.761034). Footprint: Zhao et al. 2025 (arXiv:2506.12480),
whose printed savings this list reproduces (the tests have them).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import xarray as xr

from imc_ssm.chip import Deployment
from imc_ssm.costs.counts import actions_of
from imc_ssm.errors import ImcSsmError
from imc_ssm.graph import Formats, Graph, Matrix
from imc_ssm.layers import classifier_of
from imc_ssm.quantization import formats_of

__all__ = ["FULL", "complexity", "most_alive"]

FULL = 32
"""Bits of a word in full precision."""
ABOUT = {
    "macs": ("1", "Multiply-accumulate operations of one inference"),
    "ace": ("1", "Arithmetic computation effort: MACs x bits x bits"),
    "model_size": ("bit", "Bits of all stored parameters"),
    "footprint": ("bit", "Bits of parameters, states and the activations alive at once"),
    "conversions": ("1", "ADC conversions of one inference"),
    "adc_complexity": ("1", "ADC complexity: sum of 2^bits over conversions"),
}


def complexity(given: Any, steps: int | None = None) -> xr.Dataset:
    """The measures of a deployment, or of a model, quantized or not, in an inference of `steps` steps.

        >>> import imc_ssm
        >>> from imc_ssm.analysis import complexity
        >>> model = imc_ssm.Classifier(imc_ssm.ModelConfig(heads=16))
        >>> int(complexity(model, steps=784).footprint) // 32
        5434

    A deployment has its own steps; a model's ADC measures are NaN. Raises `ImcSsmError` where the steps are
    missing, or something is neither.
    """
    if isinstance(given, Deployment):
        graph, formats, steps = given.graph, given.formats, given.steps
    else:
        model = classifier_of(given, "complexity")
        graph, formats = model.graph(), formats_of(model)
    if steps is None or steps < 1:
        raise ImcSsmError(f"steps = {steps}; give the steps of one inference, such as steps=784")
    values = dict.fromkeys(ABOUT, float("nan"))
    values |= _of_graph(graph, formats, steps)
    if isinstance(given, Deployment):
        taken = [t.action for t in actions_of(given) if t.action.verb == "adc"]
        counts = [(action.count * action.times(steps), action.bits[0]) for action in taken]
        values["conversions"] = float(sum(count for count, _ in counts))
        values["adc_complexity"] = float(sum(count * 2**bits for count, bits in counts))
    ds = xr.Dataset({name: ((), value, _attrs(name)) for name, value in values.items()})
    return ds.assign_attrs(title="Complexity", steps=steps)


def _attrs(name: str) -> dict[str, str]:
    units, long_name = ABOUT[name]
    return {"units": units, "long_name": long_name}


def _of_graph(graph: Graph, formats: Formats, steps: int) -> dict[str, float]:
    def bits(path: str) -> int:
        return formats.bits(path) if path in formats else FULL

    macs = effort = size = states = 0
    for op in graph:
        runs = steps if op.rate == "step" else 1
        for product in op.products(bits):
            count = product.count * (runs // product.period)
            macs += count
            effort += count * product.bits[0] * product.bits[1]
        for parameter in op.parameters:
            words = parameter.words * bits(parameter.name)
            if parameter.kind == "state":
                states += words + (0 if parameter.name in formats else parameter.words // 2 * FULL)
            else:
                size += words
        if op.output.kind == "state":
            states += op.output.width * bits(op.output.name)
        # Polar poles are kept Cartesian; of a matrix its own words count, though biases are kept in longer ones.
        if not isinstance(op, Matrix) and all(p.name in formats for p in op.parameters):
            size -= op.saved(formats)
    footprint = size + states + most_alive(graph, bits)
    return {"macs": macs, "ace": effort, "model_size": size, "footprint": footprint}


def most_alive(graph: Graph, bits: Callable[[str], int]) -> int:
    """Most bits of activations that exist at once: a signal lives from the operator that makes it to its last
    reader, whose output is there beside it. What leaves the model is not kept.
    """
    last = {signal.name: i for i, op in enumerate(graph) for signal in op.inputs}
    size = {s.name: s.width * bits(s.name) for s in graph.signals if s.kind == "activation"}
    most, alive = 0, set[str]()
    for i, op in enumerate(graph):
        if op.output.name in last and op.output.name in size:
            alive.add(op.output.name)
        most = max(most, sum(size[name] for name in alive))
        alive = {name for name in alive if last[name] > i}
    return most
