"""Everything about the recurrences of a model in one labelled dataset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from imc_ssm.analysis.layers import (
    Coefficients,
    full_precision,
    input_quantizer,
    layer_inputs,
    layers_of,
    rounded_coefficients,
    unit_coefficients,
)
from imc_ssm.analysis.poles import PARTS, circle_distance, kernel_errors, pole_displacement, step_grid
from imc_ssm.analysis.ranges import impulse_norms, rounding_gains, word_length
from imc_ssm.analysis.saturation import Saturation
from imc_ssm.analysis.states import RunningPercentile, state_magnitudes
from imc_ssm.datasets.sequence import SequenceDataset, Split
from imc_ssm.errors import ImcSsmError
from imc_ssm.layers import S4D, Classifier
from imc_ssm.quantization import Percentile, QuantizedS4D, Scheme, check_static, moving_of
from imc_ssm.quantization.rates import groups_of, several_steps, windows
from imc_ssm.training import check_model_fits

__all__ = ["PERCENTILE", "inspect_model"]

PERCENTILE = 99.999
"""Percent of a state's values inside its calibrated bound."""
_STATES = 2**16
"""Complex states of one batch and time step."""
Array = NDArray[Any]
Dims = tuple[str, ...]

_VARIABLES: dict[str, tuple[Dims, str, str]] = {
    "period": (("head",), "1", "Steps between two updates of a head"),
    "pole": (("stage", "head", "state", "part"), "1", "Pole a"),
    "pole_displacement": (("head", "state"), "1", "Distance |a_q - a| that rounding moves a pole"),
    "circle_distance": (("stage", "head", "state"), "1", "Distance 1 - |a| of a pole to the unit circle"),
    "poles_outside": (("stage", "head"), "1", "Number of poles with |a| >= 1"),
    "kernel_error": (("rounded", "head", "step"), "1", "Relative error of the kernel's first steps"),
    "input_bound": (("head",), "1", "Largest |u| that can enter the recurrence"),
    "bound_modulus": (("stage", "head", "state"), "1", "Closed form |b| / (1 - |a|) times the input bound"),
    "bound_guaranteed": (("stage", "head", "state", "part"), "1", "Guaranteed bound on the state: L1 norm"),
    "bound_rounding": (("head", "state"), "1", "What rounding of the state adds to it at most"),
    "bound_calibrated": (("head", "state", "part"), "1", "Percentile of |state| on data, full precision"),
    "state_largest": (("head", "state", "part"), "1", "Largest |state| on data, full precision"),
    "resolution": (("head", "state"), "1", "Value of one unit of the state register"),
    "bits_guaranteed": (("stage", "head", "state", "part"), "bit", "Word length for the guaranteed bound"),
    "bits_calibrated": (("head", "state", "part"), "bit", "Word length for the calibrated bound"),
    "bits_state": ((), "bit", "Word length of the state register"),
    "bits_coefficient": (("coefficient",), "bit", "Word length of a coefficient"),
    "saturated_state": (("head",), "percent", "Share of the state words that saturate on data"),
    "saturated_output": (("head",), "percent", "Share of the outputs that saturate on data"),
}


def inspect_model(
    model: Classifier,
    data: SequenceDataset,
    *,
    sequences: int = 64,
    percentile: float | None = None,
    bits: int = 8,
    most_steps: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> xr.Dataset:
    """Ranges, poles and saturation of every recurrence of a model.

    `sequences` of the training split give the calibrated bounds, `sequences` of the test split the saturation
    (all, if there are fewer; `seed` draws which). A quantized model is taken as it is; for one in full
    precision, "after" is what `bits` for A, B, C and the state would make of it, and a register of `bits` over
    the calibrated range of each head stands for the one it does not have (attribute `register` = "assumed").
    The kernel error runs to `most_steps`, None: ten sequences, at least 1,000.

    `percentile` None: the scheme's, else 99.999. Guaranteed bounds take the largest |u| that the input's
    codes can say, or, without codes, the largest |u| on the training sequences: they then hold for inputs
    up to that. Word lengths are for zero point 0 and the register's resolution. "After", guaranteed ranges are
    those of the poles and B by which the integer unit really multiplies (`unit_coefficients`), and their word
    lengths leave room for what its rounding adds (`bound_rounding`): a register whose range holds the sum of
    both cannot saturate.

    What does not apply is NaN; a bound that does not exist (|a| >= 1) is infinite. Raises `ImcSsmError` for no
    sequences, a model that the data do not fit, or one whose ranges follow the batch.
    """
    if sequences < 1:
        raise ImcSsmError(f"sequences = {sequences}; give at least 1")
    check_model_fits(model, data)
    model = model.eval()
    layers = layers_of(model)
    found = getattr(model, "scheme", None)
    scheme = found if isinstance(found, Scheme) else None
    if scheme is not None:
        check_static(moving_of(model), "the analysis")
    if percentile is None:
        observer = None if scheme is None else scheme.spec("state").observer
        percentile = observer.percent if isinstance(observer, Percentile) else PERCENTILE
    batch = max(1, _STATES // max(heads * states for heads, states in (layer.shape for layer in layers.values())))
    train, test = (_drawn(data.split(name), sequences, seed) for name in ("train", "test"))
    integer = any(isinstance(layer, QuantizedS4D) and layer.integer for layer in layers.values())
    work = _Work(progress, (len(train) + integer * len(test) + 2) * len(layers))
    observed = _observe(model, train, percentile, batch, work)
    saturated = _saturate(model, test, batch, work)
    reach = _input_bounds(model, train, batch)
    most = max(1000, 10 * data.time) if most_steps is None else most_steps
    grid = np.union1d(step_grid(most), [min(data.time, most)])
    rows = []
    for path, layer in layers.items():
        own = scheme
        if own is None:
            own = Scheme.uniform(poles=bits, state=bits, weights=bits)
        before, after, widths = rounded_coefficients(layer, None if isinstance(layer, QuantizedS4D) else own)
        row: dict[str, Array] = _of_poles(before, after, grid)
        row["period"] = np.array(before.periods or (1,) * layer.shape[0], float)
        row["bits_coefficient"] = np.array([np.nan if widths[p] is None else widths[p] for p in "abc"], float)
        row["input_bound"] = reach[path]
        row["bound_calibrated"], row["state_largest"] = observed[path]
        row |= _register(layer, row["bound_calibrated"], bits)
        row |= _of_ranges(layer, before, after, row)
        row["saturated_state"], row["saturated_output"] = saturated.get(
            path, (np.full(layer.shape[0], np.nan),) * 2
        )
        rows.append(_there(layer, row))
        work.advance(2, path)
    ds = _dataset(rows, list(layers), grid)
    ds.attrs |= {
        "register": "real" if integer else "assumed",
        "percentile": float(percentile),
        "sequences_calibration": len(train),
        "sequences_saturation": len(test) if saturated else 0,
        "steps": data.time,
    }
    return ds


class _Work:
    """Progress over everything that takes time."""

    def __init__(self, progress: Callable[[int, int, str], None] | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def advance(self, by: int, note: str) -> None:
        self.done = min(self.done + by, self.total)
        if self.progress is not None:
            self.progress(self.done, self.total, note)


def _drawn(part: Split, sequences: int, seed: int) -> Split:
    """`sequences` of a split, drawn by the seed."""
    values, labels, lengths = next(part.batches(min(sequences, len(part)), np.random.default_rng(seed)))
    return Split(values, labels, lengths)


def _observe(
    model: Classifier, part: Split, percentile: float, batch: int, work: _Work
) -> dict[str, tuple[Array, Array]]:
    """Percentile and maximum of |x| of every layer in full precision, each (head, state, 2)."""
    plain = full_precision(model)
    ends = np.full(len(part), part.values.shape[1]) if part.lengths is None else part.lengths
    rates = {
        p: layer.rates() if isinstance(layer, QuantizedS4D) else None for p, layer in layers_of(model).items()
    }
    coefficients: dict[str, tuple[Tensor, Tensor]] = {}
    running: dict[str, list[tuple[int, list[int], RunningPercentile]]] = {}
    for path, layer in layers_of(plain).items():
        assert isinstance(layer, S4D)
        periods = rates.get(path) or (1,) * layer.shape[0]
        with torch.no_grad():
            a, b, _ = layer.discrete()
            coefficients[path] = several_steps(a, b, torch.tensor(periods), max(periods))
        running[path] = [
            (k, at, RunningPercentile(a[at].numel() * 2, int((ends // k).sum()), percentile))
            for k, at in groups_of(periods)
        ]
    for path, u, lengths in layer_inputs(plain, part, batch):
        a, b = coefficients[path]
        for k, at, found in running[path]:
            own = None if lengths is None else lengths // k
            for magnitudes, valid in state_magnitudes(windows(u[:, at], k), a[at], b[at], own):
                found.add(magnitudes, valid)
        work.advance(len(u), f"states of {path}")
    out = {}
    for path, (a, _) in coefficients.items():
        bounds = np.empty((2, *a.shape, 2))
        for _, at, found in running[path]:
            bounds[:, at] = np.stack(found.value()).reshape(2, len(at), a.shape[1], 2)
        out[path] = bounds[0], bounds[1]
    return out


def _input_bounds(model: Classifier, part: Split, batch: int) -> dict[str, Array]:
    """The largest |u| (head,) of every layer: what its codes can say or, without codes, what the data hold."""
    bounds: dict[str, Array] = {}
    for path, layer in layers_of(model).items():
        quantizer = input_quantizer(model, path)
        if quantizer is not None:
            fmt = quantizer.format()
            ends = np.maximum(np.abs(fmt.dequantize(fmt.low)), np.abs(fmt.dequantize(fmt.high)))
            bounds[path] = np.broadcast_to(ends, layer.shape[:1])
    if len(bounds) < len(layers_of(model)):
        seen: dict[str, Array] = {path: np.zeros(layer.shape[0]) for path, layer in layers_of(model).items()}
        for path, u, _ in layer_inputs(model, part, batch):
            seen[path] = np.maximum(seen[path], u.abs().amax((0, 2)).numpy())
        bounds = seen | bounds
    return bounds


def _saturate(model: Classifier, part: Split, batch: int, work: _Work) -> dict[str, tuple[Array, Array]]:
    """Per layer of an integer model: percent of the state words and of the outputs that saturate, (head,)."""
    counters = {
        path: Saturation(layer)
        for path, layer in layers_of(model).items()
        if isinstance(layer, QuantizedS4D) and layer.integer
    }
    if not counters:
        return {}
    for path, u, lengths in layer_inputs(model, part, batch):
        counters[path].add(u, lengths)
        work.advance(len(u), f"saturation of {path}")
    return {path: counter.shares() for path, counter in counters.items()}


def _of_poles(before: Coefficients, after: Coefficients, grid: NDArray[np.int64]) -> dict[str, Array]:
    poles = np.stack([before.a, after.a])
    distance = circle_distance(poles)
    return {
        "pole": np.stack([poles.real, poles.imag], axis=-1),
        "pole_displacement": pole_displacement(before.a, after.a),
        "circle_distance": distance,
        "poles_outside": (distance <= 0).sum(axis=-1).astype(float),
        "kernel_error": kernel_errors(before, after, grid),
    }


def _register(layer: object, calibrated: Array, bits: int) -> dict[str, Array]:
    """Word length and resolution (head, state) of the state register, real or assumed."""
    shape = calibrated.shape[:2]
    if isinstance(layer, QuantizedS4D) and layer.integer:
        fmt = layer.state.format()
        scale = np.asarray(fmt.scale, float)
        scale = scale.reshape(scale.shape + (1,) * (2 - scale.ndim))
        return {"bits_state": np.array(float(fmt.bits)), "resolution": np.broadcast_to(scale, shape)}
    widest = calibrated.max(axis=(1, 2), keepdims=True)[..., 0]
    step = np.where(widest > 0, widest, 1.0) / (2 ** (bits - 1) - 1)
    return {"bits_state": np.array(float(bits)), "resolution": np.broadcast_to(step, shape)}


def _of_ranges(
    layer: object, before: Coefficients, after: Coefficients, row: dict[str, Array]
) -> dict[str, Array]:
    """Guaranteed bounds before and after rounding, and all word lengths."""
    a, b, error = after.a, after.b, 0.5
    if isinstance(layer, QuantizedS4D) and layer.integer:
        a, b, error = unit_coefficients(layer)
    norms, modulus = impulse_norms(np.stack([before.a, a]), np.stack([before.b, b]))
    reach = row["input_bound"][:, None]
    guaranteed = _product(norms, reach[..., None])
    unit = row["resolution"]
    rounding = error * unit * rounding_gains(a)
    needed = guaranteed.copy()
    needed[1] += rounding[..., None]
    return {
        "bound_modulus": _product(modulus, reach),
        "bound_guaranteed": guaranteed,
        "bound_rounding": rounding,
        "bits_guaranteed": word_length(needed, unit[..., None]),
        "bits_calibrated": word_length(row["bound_calibrated"], unit[..., None]),
    }


def _product(gain: Array, reach: Array) -> Array:
    """gain * reach, where nothing that enters (0) stays nothing, whatever the gain."""
    with np.errstate(invalid="ignore"):
        return np.where(reach == 0, 0.0, gain * reach)


def _stacked(arrays: list[Array]) -> Array:
    """Arrays on a new first axis; NaN where another one is longer (layers of other widths)."""
    shape = tuple(max(sizes) for sizes in zip(*(array.shape for array in arrays), strict=True))
    out = np.full((len(arrays), *shape), np.nan)
    for i, array in enumerate(arrays):
        place: Any = (i, *(slice(size) for size in array.shape))
        out[place] = array
    return out


def _there(layer: S4D | QuantizedS4D, row: dict[str, Array]) -> dict[str, Array]:
    """NaN, and no pole, where a head has no such state."""
    there = (layer.inner if isinstance(layer, QuantizedS4D) else layer).there
    if there is None:
        return row
    held, out = there.cpu().numpy(), dict(row)
    for name, (dims, _, _) in _VARIABLES.items():
        if "state" in dims:
            own = held[..., None] if dims[-1] == "part" else held
            out[name] = np.where(own, np.asarray(row[name], float), np.nan)
    out["poles_outside"] = (out["circle_distance"] <= 0).sum(-1)
    return out


def _dataset(rows: list[dict[str, Array]], layers: list[str], grid: NDArray[np.int64]) -> xr.Dataset:
    about: dict[str, tuple[Array | list[str], str]] = {
        "layer": (layers, "Module of the recurrence"),
        "stage": (["before", "after"], "Before or after rounding of a and b"),
        "part": (["real", "imaginary"], "Part of a complex number"),
        "coefficient": (["a", "b", "c"], "Coefficient of the recurrence"),
        "rounded": (list(PARTS), "Coefficients that are rounded"),
        "step": (grid, "Number of time steps"),
    }
    ds = xr.Dataset(coords={name: (name, values, {"long_name": text}) for name, (values, text) in about.items()})
    for name, (dims, units, long_name) in _VARIABLES.items():
        values = _stacked([np.asarray(row[name], float) for row in rows])
        ds[name] = (("layer", *dims), values, {"units": units, "long_name": long_name})
    return ds
