"""`quantize(model, scheme, calibration)`: wrap every module of a model and fix the ranges."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imc_ssm.datasets.sequence import SequenceDataset, Split
from imc_ssm.errors import ConfigError, ImcSsmError, RangeWarning, shown, unknown
from imc_ssm.fixedpoint.formats import MAX_BITS
from imc_ssm.graph import Formats, Graph
from imc_ssm.kernels.device import device_of, named_device
from imc_ssm.layers import Classifier, classifier_of, padding_mask, tensor_of
from imc_ssm.quantization.context import Context, check_static, quantized_class
from imc_ssm.quantization.fitting import fit_outputs
from imc_ssm.quantization.quantizer import Quantizer
from imc_ssm.quantization.recurrent import QuantizedS4D
from imc_ssm.quantization.rules import ROLES, FormatSpec
from imc_ssm.quantization.scheme import NAMED, Scheme

__all__ = [
    "calibration_batch",
    "calibration_of",
    "formats_of",
    "moving_of",
    "quantize",
    "quantizers_of",
    "resolve",
    "words_of",
    "wrap",
]


def resolve(scheme: Scheme, graph: Graph) -> dict[str, FormatSpec]:
    """What the scheme says of every signal, state and parameter of a graph.

    Where a state has bits, its operator computes on integers: what it reads, stores and writes and has none gets
    the unit's widest word, 16 bits.
    """
    kinds = graph.kinds()
    specs = {path: scheme.spec(path, kind) for path, kind in kinds.items()}
    for op in graph:
        if any(kinds[path] == "state" and specs[path].bits is not None for path in op.codes):
            specs |= {p: replace(specs[p], bits=MAX_BITS) for p in op.codes if specs[p].bits is None}
    return specs


def _check_rules(scheme: Scheme, graph: Graph) -> None:
    """`ConfigError` for a rule that is about nothing in the graph, such as one with a slip in its path."""
    kinds = graph.kinds()
    for rule in scheme.rules:
        # Names of parts may be of another layer ("state"); what names a place, or no part at all, must be there.
        if not any(rule.matches(path, kind) for path, kind in (*kinds.items(), *ROLES.items())):
            candidates = kinds if "." in rule.path else {path.rsplit(".", 1)[-1] for path in kinds}
            among = "" if rule.kind is None else f" of kind {rule.kind!r}"
            raise ConfigError(unknown(f"path{among} of a rule", rule.path, candidates, sort="." not in rule.path))


def wrap(model: Classifier, scheme: Scheme) -> Classifier:
    """A copy of the model whose modules are replaced by quantized ones, with the scheme as `model.scheme`.

    The ranges are not calibrated yet: `quantize` does that, or a state that is loaded. Where the scheme trains the
    discrete matrices, they become parameters here, from the values of the continuous ones. Raises `ImcSsmError`
    for a model that is quantized already, or has a module without quantized form; `ConfigError` for a rule that
    is about nothing in the model.
    """
    if any(isinstance(module, Quantizer) for module in model.modules()):
        raise ImcSsmError("the model is quantized already; quantize the full-precision model it came from")
    model = copy.deepcopy(model)
    model.scheme = scheme  # type: ignore[assignment]
    graph = model.graph()
    _check_rules(scheme, graph)
    specs, quantizers = resolve(scheme, graph), dict[str, Quantizer]()
    for path in graph.modules():
        module = model.get_submodule(path)
        made = quantized_class(module, path).of(module, Context(path, scheme, specs, graph, quantizers))
        model.set_submodule(path, made)
        quantizers |= {f"{path}.{name}" if name else path: q for name, q in made.quantizers().items()}
    return model


def quantizers_of(model: Classifier) -> dict[str, Quantizer]:
    """Path of a signal or state -> its quantizer, of a quantized model; empty for one in full precision."""
    return _collected(model, "quantizers")


def moving_of(model: Classifier) -> list[str]:
    """Paths of the signals and states of a quantized model whose ranges follow the batch."""
    return [path for path, quantizer in quantizers_of(model).items() if quantizer.dynamic]


def formats_of(model: Classifier) -> Formats:
    """The formats in force of everything in a quantized model that has bits, by path."""
    return Formats(_collected(model, "formats"))


def words_of(model: Classifier) -> dict[str, np.ndarray[Any, Any]]:
    """The codes of every parameter of a quantized model, by path, as the fast path rounds them.

    Poles, b and c (head, state, 2), weights (outputs, inputs), tables of functions (rows, codes) int32, all else
    int64. Where a parameter has no format its values in single precision (a bias), and in double precision what a
    norm's integers are made of (gain, offset, eps). `fixedpoint.run` reads them. Raises `ImcSsmError` where ranges
    follow the batch.
    """
    check_static(moving_of(model), "running a model in integers")
    return _collected(model, "words")


def _collected(model: Classifier, what: str) -> dict[str, Any]:
    """What every module says of its own parts, by whole paths."""
    found = {}
    for path in model.graph().modules():
        own: Mapping[str, Any] = getattr(model.get_submodule(path), what, dict)()
        found.update({f"{path}.{name}" if name else path: value for name, value in own.items()})
    return found


@torch.inference_mode(False)  # what is made here can be trained, wherever it was made
@torch.no_grad()
def quantize(
    model: Classifier,
    scheme: Scheme | str,
    calibration: SequenceDataset | Tensor,
    lengths: Tensor | None = None,
    *,
    device: str = "cpu",
) -> Classifier:
    """Post-training quantization: a new model with wrapped modules and ranges from `calibration`.

    `scheme`: a `Scheme`, or the name of one ("uniform", "w4a6", "w8a8"). `calibration`: a dataset, of whose
    training sequences `calibration_batch` takes some, or sequences (B, T, D), a tensor or an array.

        >>> import imc_ssm
        >>> model = imc_ssm.Classifier(imc_ssm.ModelConfig(heads=4, n_state=4))
        >>> quantized = imc_ssm.quantize(model, "uniform", imc_ssm.load_dataset("digits"))
        >>> quantized.scheme.bits.state
        8

    The activations and states of the calibration sequences fix every range, as the rules' observers say: those of
    the model whose input, matrices, D and GELU are rounded already, its poles, B, C and other activations not yet.
    Where the scheme rounds weights for their "outputs", they are fitted to the same sequences then. (The input
    because most of it can be one value, such as a background: what it becomes must not saturate.)
    Dynamic ranges go their own way from the first batch. Train the result further with `imc_ssm.training.train`
    for QAT. `device`: where it is calibrated, "cpu" or "cuda"; the result lies where the model does. Warns
    (`RangeWarning`) where states reach the scheme's `state_clip`. Raises
    `ImcSsmError` for a model that is quantized already, calibration data that do not fit or a device that cannot
    be used.
    """
    model = classifier_of(model, "quantize")
    scheme = scheme_of(scheme)
    calibration, lengths = calibration_of(model, calibration, lengths)
    model.check(calibration, lengths, "calibration data")
    there = named_device(device)
    quantized = wrap(model, scheme).to(there)
    longest = calibration.shape[1] if lengths is None else int(lengths.max())
    for module in quantized.modules():
        if isinstance(module, QuantizedS4D):
            module.limit(longest)
    calibration, lengths = calibration.to(there), None if lengths is None else lengths.to(there)
    quantized.eval()
    first: Quantizer = quantized.input.output
    first.observe()
    first.collect(calibration, padding_mask(lengths, calibration.shape[1]))
    first.calibrate()
    quantizers = {n: m for n, m in quantized.named_modules() if isinstance(m, Quantizer) and m is not first}
    for q in quantizers.values():
        q.observe()
    quantized(calibration, lengths)
    for name, q in quantizers.items():
        try:
            q.calibrate()
        except ImcSsmError as error:
            raise type(error)(f"{name}: {error}") from None
    if clipped := [name for name, q in quantizers.items() if q.clipped]:
        warnings.warn(_beyond(clipped, scheme, float(calibration.abs().max())), RangeWarning, stacklevel=2)
    quantized = quantized.to(device_of(model))
    if scheme.weight_rounding == "outputs":
        fit_outputs(quantized, model, calibration.to(device_of(model)), lengths)
    return quantized


def _beyond(names: list[str], scheme: Scheme, largest: float) -> str:
    """One sentence about states whose ranges end at the scheme's clip."""
    return (
        f"the states of {', '.join(names)} reach state_clip = {scheme.state_clip:g} in calibration and are cut "
        f"there, which costs accuracy; the input reaches {largest:.4g}: scale it to about 1 before training (raw "
        "counts of an ADC, say), or quantize with a larger state_clip, or None"
    )


def scheme_of(given: Any) -> Scheme:
    """A scheme, also by name; `ConfigError` for anything else."""
    if isinstance(given, str):
        return Scheme.named(given)
    if not isinstance(given, Scheme):
        raise ConfigError(f"scheme = {shown(given)}; give a Scheme or the name of one: {', '.join(NAMED)}")
    return given


def calibration_of(model: Classifier, given: Any, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Sequences to calibrate on, and their lengths: some of a dataset's, or those that are given.

    Of a dataset they are drawn, with one seed, so that accuracy and cost are of the same chip: of recordings that
    come one after another the first sequences would be of one patient.
    """
    if isinstance(given, SequenceDataset):
        if lengths is not None:
            raise ConfigError("a dataset has its own lengths; give lengths only with sequences")
        heads = model.config.heads
        return calibration_batch(given, heads if isinstance(heads, int) else max(heads), seed=0)
    if isinstance(given, Split):
        ends = None if given.lengths is None else torch.from_numpy(given.lengths)
        return torch.from_numpy(np.ascontiguousarray(given.values)), ends
    values = tensor_of(given, "calibration data")
    return values, lengths if lengths is None else torch.as_tensor(lengths)


def calibration_batch(
    data: SequenceDataset, heads: int, most: int | None = None, seed: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Training sequences (n, T, D) to calibrate a model of so many heads on, and their lengths, if they have some.

    n is `most`, or all if there are fewer; None: 512, fewer where the arrays of a wide model would be larger than
    those of 64 heads over 784 steps, at least 8. The first ones, or, with a seed, drawn without replacement.
    """
    split = data.split("train")
    if most is None:
        most = min(512, max(8, 512 * 64 * 784 // (data.time * heads)))
    part = split.take(most) if seed is None else split.sample(most, np.random.default_rng([seed, 0xCA11B]))
    lengths = None if part.lengths is None else torch.from_numpy(part.lengths)
    return torch.from_numpy(np.ascontiguousarray(part.values)), lengths
