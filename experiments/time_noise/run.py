"""When noise of the devices matters to a state-space model by how it runs in time, and when not.

    python experiments/time_noise/run.py              # some minutes; --quick tries it out

The same variance of every device, as white noise, telegraph noise of several correlation times, 1/f noise and held
for the whole sequence; phase-change memory with its published 1/f noise at three speeds; and drift that goes on
while a sequence of an hour runs. Writes `results/`, which docs/time.md shows.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray as xr
from torch import Tensor

import imc_ssm
from imc_ssm import results
from imc_ssm.chip import AnalogLinear, Deployment, Stream, map_matrix, run_stream
from imc_ssm.devices import Cell, Chip, load_cell, load_design, parse_cell, resolve
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.pretrained import pretrained_path
from imc_ssm.study import initial_steps
from imc_ssm.training import TrainConfig, train

FOLDER = Path(__file__).parent
STEP = 1e-6
"""s, from one time step to the next: about the analog products of a step; only ratios matter in parts 1 to 3."""
HELD, WHITE, PINK = "held", "white", "1/f"
CORRELATIONS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Correlation times of telegraph noise, in steps."""
DAY, HOUR = 86400.0, 3600.0
PERCENT, ONE = {"units": "percent"}, {"units": "1"}


def number(value: float, unit: str = "1") -> dict[str, Any]:
    return {"value": value, "unit": unit, "source": "assumed: this study"}


def noisy(process: str | float, deviation: float, steps: int) -> Cell:
    """A device of 1 to 50 uS that does nothing but fluctuate, by `deviation` of g_max.

    `process`: a word, or the correlation time of telegraph noise in steps.
    """
    kept = load_cell("generic-reram").model_dump(mode="json")
    plain = (
        "name",
        "kind",
        "description",
        "model",
        "source",
        "v_read",
        "t_read",
        "times",
        "area",
        "g_min",
        "g_max",
    )
    own: dict[str, Any] = {field: kept[field] for field in plain}
    size = number(deviation * kept["g_max"]["value"], "S")

    def band(low: float, high: float) -> dict[str, Any]:
        return {"low": number(low, "Hz"), "high": number(high, "Hz")}

    if process == WHITE:
        own["read_noise"] = size
    elif process == PINK:  # all of it within a sequence
        own |= {"read_noise": size, "read_noise_1f": number(1.0)}
        own["read_noise_band"] = band(1 / (STEP * steps), 1 / (2 * STEP))
    elif process == HELD:
        own |= {"read_noise": size, "read_noise_1f": number(1.0)}
        own["read_noise_band"] = band(1e-6, 1e-3 / (STEP * steps))
    else:
        rate = 1 / (2 * float(process) * STEP)
        own["telegraph"] = {"deviation": size, "share": number(1.0), "rates": band(rate, 1.0001 * rate)}
    return parse_cell(own)


def bare(design: str, cell: Cell, **fields: Any) -> Chip:
    """A design with another cell, without other noise and compensation."""
    plain: dict[str, Any] = {"read_noise__value": 0.0, "drift_compensation": "none"}
    return resolve(load_design(design).with_(**plain | fields)).with_(cell=cell)


# --- 1. One pole behind one weight


def behind_a_pole(taus: Sequence[float], processes: Sequence[str | float], outputs: int) -> xr.Dataset:
    """Noise of a low-pass filter of time constant tau (steps) behind a noisy weight, for a constant input.

    With y[t] = a y[t-1] + (1 - a) w[t] x and noise of correlation r from step to step, the variance at the output
    is (1 - a) / (1 + a) (1 + a r) / (1 - a r) of that of w.
    """
    steps, deviation = 4096, 0.05
    error = np.full((len(taus), len(processes)), np.nan)
    theory = np.full_like(error, np.nan)
    ideal = {"type": "ideal", "bits": 16}
    for k, process in enumerate(processes):
        chip = bare("pcm-256", noisy(process, deviation, steps), dac=ideal, adc=ideal)
        mapped = map_matrix("w", "w", np.full((outputs, 1), 0.5), None, chip, input_range=1.0)
        layer = AnalogLinear(mapped, chip).program(1, 0).set_time(DAY, stream=Stream(STEP, steps))
        series = layer(torch.full((1, steps, 1), 0.8))[0].double().numpy()
        series = (series - series.mean()) / series[-steps // 2 :].std()
        known = {HELD: 1.0, WHITE: 0.0, PINK: math.nan}
        r = known[process] if isinstance(process, str) else math.exp(-1 / process)
        for i, tau in enumerate(taus):
            a, y = math.exp(-1 / tau), np.zeros(outputs)
            tail = []
            for t in range(steps):
                y = a * y + (1 - a) * series[t]
                if t >= steps // 2:
                    tail.append(np.square(y).mean())
            error[i, k] = math.sqrt(float(np.mean(tail)))
            theory[i, k] = math.sqrt((1 - a) / (1 + a) * (1 + a * r) / (1 - a * r))
    dims = ("tau", "process")
    return xr.Dataset(
        {
            "filtered": (dims, error, ONE | {"long_name": "Noise behind a pole, in deviations of the weight"}),
            "filtered_theory": (dims, theory, ONE | {"long_name": "The same by its formula"}),
        },
        {"tau": ("tau", list(taus), {"units": "1", "long_name": "Time constant of the pole in steps"})}
        | coordinate(processes),
    )


def coordinate(processes: Sequence[str | float]) -> dict[str, Any]:
    names = [process if isinstance(process, str) else f"telegraph {process:g}" for process in processes]
    return {
        "process": (
            "process",
            names,
            {"units": "1", "long_name": "Noise; telegraph: correlation time in steps"},
        )
    }


# --- 2 and 3. Models


def logits(model: Classifier, u: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(part) for part in u.split(100)])


def compared(found: Tensor, reference: Tensor, labels: Tensor) -> tuple[float, float]:
    """Root mean square error over the reference's deviation, and accuracy in percent."""
    error = float((found - reference).square().mean().sqrt() / reference.std())
    return error, 100 * float((found.argmax(1) == labels).double().mean())


def ideal(deployment: Deployment, u: Tensor, labels: Tensor) -> Any:
    """Accuracy of the chip without errors, converters on, as a variable."""
    _, accuracy = compared(found := logits(deployment.analog()[0], u), found, labels)
    return (), accuracy, PERCENT | {"long_name": "Accuracy of a chip without errors", "n_test": len(u)}


def over_chips(
    deployment: Deployment,
    u: Tensor,
    labels: Tensor,
    chips: int,
    when: float,
    stream: Stream | None,
    only: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Error against the ideal chip and accuracy, of each chip; `only`: the other matrices stay ideal."""
    model, tiles = deployment.analog()
    reference, found = logits(model, u), []
    for i in range(chips):
        for tile in tiles:
            if only is None or tile.mapped.name == only:
                tile.program(0, i).set_time(when, stream=stream)
        found.append(compared(logits(model, u), reference, labels))
    return np.array([e for e, _ in found]), np.array([a for _, a in found])


def by_process(
    place: Callable[[Chip], Deployment],
    design: str,
    u: Tensor,
    labels: Tensor,
    processes: Sequence[str | float],
    deviation: float,
    chips: int,
    matrices: Sequence[str | None],
) -> xr.Dataset:
    """Error and accuracy of a model whose devices fluctuate, over (matrix, process, chip)."""
    steps = u.shape[1]
    shape = (len(matrices), len(processes), chips)
    error, accuracy = np.empty(shape), np.empty(shape)
    for k, process in enumerate(processes):
        deployment = place(bare(design, noisy(process, deviation, steps)))
        for m, only in enumerate(matrices):
            error[m, k], accuracy[m, k] = over_chips(deployment, u, labels, chips, DAY, Stream(STEP, steps), only)
    dims = ("matrix", "process", "chip")
    return xr.Dataset(
        {
            "error": (dims, error, ONE | {"long_name": "Error of the logits, in their deviations"}),
            "accuracy": (dims, accuracy, PERCENT | {"long_name": "Accuracy of chips", "n_test": len(u)}),
            "accuracy_ideal": ideal(deployment, u, labels),
        },
        {"matrix": ("matrix", ["all" if m is None else m for m in matrices]), "chip": np.arange(chips)}
        | coordinate(processes),
        {"deviation": deviation},
    )


def pcm(
    place: Callable[[Chip], Deployment],
    u: Tensor,
    labels: Tensor,
    times: Sequence[float],
    speeds: Sequence[float],
    chips: int,
) -> xr.Dataset:
    """Phase-change memory as published, over (time, step, within, chip)."""
    kinds, deployment = ("held", "correlated", "white"), place(resolve("pcm-256"))
    shape = (len(times), len(speeds), len(kinds), chips)
    error, accuracy = np.empty(shape), np.empty(shape)
    share = np.empty(shape[:2])
    for i, when in enumerate(times):
        for j, speed in enumerate(speeds):
            share[i, j] = moving_share(when, speed * u.shape[1])
            for k, within in enumerate(kinds):
                stream = Stream(speed, u.shape[1], within)
                error[i, j, k], accuracy[i, j, k] = over_chips(deployment, u, labels, chips, when, stream)
    dims = ("time", "step", "within", "chip")
    return xr.Dataset(
        {
            "error": (dims, error, ONE | {"long_name": "Error of the logits, in their deviations"}),
            "accuracy": (dims, accuracy, PERCENT | {"long_name": "Accuracy of chips", "n_test": len(u)}),
            "accuracy_ideal": ideal(deployment, u, labels),
            "moving": (dims[:2], share, ONE | {"long_name": "Share of the 1/f noise faster than a sequence"}),
        },
        {
            "time": ("time", list(times), {"units": "s", "long_name": "Time after programming"}),
            "step": ("step", list(speeds), {"units": "s", "long_name": "Time of a step"}),
            "within": ("within", list(kinds)),
            "chip": np.arange(chips),
        },
    )


def moving_share(when: float, length: float) -> float:
    """Of the variance of pcm-like 1/f noise: ln(f_high / f) / ln(f_high / f_low), f = 1 / length."""
    high, elapsed = 1 / 500e-9, when + 20
    return math.log(high * min(length, elapsed)) / math.log(high * elapsed)


# --- 4. Drift during a stream


def ageing(
    place: Callable[[Chip], Deployment], u: Tensor, labels: Tensor, starts: Sequence[float], chips: int
) -> xr.Dataset:
    """Sequences of an hour on phase-change memory that begin at `starts`, over (start, chip_state, chip)."""
    deployment = place(resolve("pcm-256"))
    model, tiles = deployment.analog()
    reference, steps = logits(model, u), u.shape[1]
    cases: dict[str, tuple[int, Any]] = {
        "stands still": (steps, "start"),
        "ages": (1, "start"),
        "ages, compensated": (1, "block"),
    }
    shape = (len(starts), len(cases), chips)
    error, accuracy = np.empty(shape), np.empty(shape)
    for i in range(chips):
        for tile in tiles:
            tile.program(0, i)
        for s, start in enumerate(starts):
            for c, (block, calibrated) in enumerate(cases.values()):
                found = run_stream(
                    model, tiles, u, time=start, step=HOUR / steps, block=block, calibrated=calibrated
                )[:, -1]
                error[s, c, i], accuracy[s, c, i] = compared(found, reference, labels)
    dims = ("start", "device", "chip")
    return xr.Dataset(
        {
            "error": (dims, error, ONE | {"long_name": "Error of the logits, in their deviations"}),
            "accuracy": (dims, accuracy, PERCENT | {"long_name": "Accuracy of chips", "n_test": len(u)}),
            "accuracy_ideal": ideal(deployment, u, labels),
        },
        {
            "start": ("start", list(starts), {"units": "s", "long_name": "Start of a sequence of an hour"}),
            "device": ("device", list(cases)),
            "chip": np.arange(chips),
        },
    )


# --- All of it


def digits() -> tuple[Callable[[Chip], Deployment], Tensor, Tensor]:
    """The classifier of the digits (16 heads), trained here in full precision and quantized to 8 bits."""
    data = imc_ssm.load_dataset("digits")
    dt_min, dt_max = initial_steps(64)
    torch.manual_seed(0)
    model = Classifier(ModelConfig(heads=16, n_state=64, dt_min=dt_min, dt_max=dt_max))
    train(model, data, TrainConfig(epochs=40, batch=32, weight_decay=0.05), mode="convolution")
    return deployed(model, data, "uniform", len(data.split("test")))


def mnist(images: int) -> tuple[Callable[[Chip], Deployment], Tensor, Tensor]:
    """The shipped classifier of sequential MNIST; poles and state of 12 bits."""
    data = imc_ssm.load_dataset("smnist")
    model = imc_ssm.load_model(pretrained_path("s4d-16h")).model
    return deployed(model, data, imc_ssm.Scheme.uniform(poles=12, state=12), images)


def deployed(
    model: Classifier, data: Any, scheme: Any, count: int
) -> tuple[Callable[[Chip], Deployment], Tensor, Tensor]:
    """How it is placed on a chip, and `count` sequences of the test split with their labels."""
    quantized, test = imc_ssm.quantize(model, scheme, data), data.split("test")
    chosen = np.sort(np.random.default_rng(0).choice(len(test), count, replace=False))
    u, labels = torch.from_numpy(test.values[chosen]), torch.from_numpy(np.asarray(test.labels)[chosen])
    return lambda chip: imc_ssm.compile_model(quantized, chip, data), u, labels


def draw(parts: dict[str, xr.Dataset]) -> plt.Figure:
    figure, axes = plt.subplots(2, 2, figsize=(10.5, 7.6), layout="constrained")
    pole, ax = parts["pole"], axes[0, 0]
    names = [str(name) for name in pole["process"].values]
    shown = [n for n in names if n in (WHITE, HELD) or n in ("telegraph 3", "telegraph 30", "telegraph 100")]
    for i, name in enumerate(shown):
        one = pole.sel(process=name)
        ax.loglog(pole["tau"], one["filtered_theory"], color=f"C{i}", lw=1)
        label = name if " " not in name else f"correlated over {name.split()[1]} steps"
        ax.loglog(pole["tau"], one["filtered"], "o", color=f"C{i}", label=label)
    ax.set(xlabel="Time constant of the pole / steps", ylabel="Noise behind the pole / noise of the weight")
    ax.set_title("A slow pole averages what is faster than itself", fontsize=10)
    ax.legend(fontsize=8, title="points: simulated; lines: formula", title_fontsize=8)
    for ax, name, title in (
        (axes[0, 1], "digits", "Digits (64 steps)"),
        (axes[1, 0], "smnist", "Sequential MNIST (784 steps)"),
    ):
        ds = parts[name]
        labels = [str(v).replace("telegraph ", "") for v in ds["process"].values]
        assert labels[-1] == PINK
        place = np.arange(len(labels)) + (np.arange(len(labels)) == len(labels) - 1) * 0.5
        for m, matrix in enumerate(ds["matrix"].values):
            one = ds["error"].sel(matrix=matrix)
            style: dict[str, Any] = {"color": f"C{m}", "marker": "osD^"[m], "capsize": 2, "lw": 1}
            mean, spread = one.mean("chip"), one.std("chip")
            ax.errorbar(place[:-1], mean[:-1], spread[:-1], **style, label=f"noise in {matrix}")
            ax.errorbar(place[-1:], mean[-1:], spread[-1:], **style)
        ax.set_xticks(place, labels)
        ax.set_ylim(bottom=0)
        ax.set(xlabel="Correlation time of the noise / steps", ylabel="Error of the logits / their deviation")
        accuracy = ds["accuracy"].sel(matrix="all").mean("chip")
        said = ", ".join(f"{word} {float(accuracy.sel(process=word)):.1f} %" for word in (WHITE, PINK, HELD))
        ax.set_title(f"{title}, deviation {ds.attrs['deviation']:.0%} of g_max\naccuracy: {said}", fontsize=10)
        if ds.sizes["matrix"] > 1:
            ax.legend(fontsize=8)
    ax, drift = axes[1, 1], parts["ageing"]
    for i, name in enumerate(drift["device"].values):
        one = drift["error"].sel(device=name)
        style = {"marker": "osD"[i], "capsize": 2, "lw": 1, "label": f"chip {name}"}
        ax.errorbar(drift["start"], one.mean("chip"), one.std("chip"), **style)
    ax.set_xscale("log")
    ax.set_ylim(bottom=0)
    ax.set(xlabel="Start of the sequence after programming / s", ylabel="Error of the logits / their deviation")
    ax.set_title("Digits, each a sequence of an hour, on pcm-256", fontsize=10)
    ax.legend(fontsize=8)
    return figure


def main() -> None:
    """Compute, save, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few chips and images")
    parser.add_argument("--out", type=Path, default=FOLDER / "results")
    given = parser.parse_args()
    quick, begun = given.quick, time.perf_counter()
    processes = (WHITE, *CORRELATIONS, HELD, PINK)
    parts = {"pole": behind_a_pole((1.0, 3.0, 10.0, 30.0, 100.0, 300.0), processes, 50 if quick else 400)}
    place, u, labels = digits()
    names = [m.name for m in place(resolve("pcm-256")).matrices]
    few = 2 if quick else 10
    parts["digits"] = by_process(place, "pcm-256", u, labels, processes, 0.05, few, [None, *names])
    parts["digits-pcm"] = pcm(place, u, labels, (1.0, DAY), (1e-6, 1e-3, 1.0), few)
    parts["ageing"] = ageing(place, u, labels, (1.0, 60.0, HOUR, DAY, 30 * DAY), 2 if quick else 5)
    place, u, labels = mnist(40 if quick else 100)
    chosen = (WHITE, 3.0, 30.0, 300.0, HELD, PINK)
    parts["smnist"] = by_process(place, "pcm-256", u, labels, chosen, 0.03, 1 if quick else 8, [None])
    parts["smnist-pcm"] = pcm(place, u, labels, (DAY,), (1e-6, 1e-3), 1 if quick else 8)
    given.out.mkdir(parents=True, exist_ok=True)
    taken = time.perf_counter() - begun
    for name, ds in parts.items():
        ds.attrs |= results.provenance({"part": name, "quick": quick, "step": STEP}, 0, taken)
        results.save(ds, given.out / f"{name}.nc")
        print(f"\n{name}")
        for variable in ds.data_vars:
            array = ds[variable].mean("chip") if "chip" in ds[variable].dims else ds[variable]
            print(array.to_series().unstack(array.dims[-1]).round(3).to_string() if array.ndim > 1 else array)
    draw(parts).savefig(given.out / "time_noise.png", dpi=150)
    print(f"{taken:.0f} s")


if __name__ == "__main__":
    main()
