"""Numbers and figure of docs/populations.md: compensation on two cells, and chips of the digits over a month.

    python benchmarks/populations.py weights            # errors of the weights, half a minute
    python benchmarks/populations.py chips QUANTIZED    # accuracy and yield, two minutes; writes populations.png

QUANTIZED: a quantized model of the digits, as the page makes it.
"""

from __future__ import annotations

import sys

import numpy as np
import xarray as xr

import imc_ssm
from imc_ssm.analysis import chip_yield
from imc_ssm.chip import factors, map_matrix, program
from imc_ssm.chip.compensation import MODES
from imc_ssm.plots import quantiles_over_time, save_figure, styled, yield_over_time

SIZE, CHIPS, VECTORS = 64, 8, 256
TIMES = ["1s", "1h", "1d", "7d", "30d"]


def weights() -> None:
    """Rms error of weights against their targets, in units of full scale, and with factors that were measured."""
    for design in ("pcm-256", "reram-128"):
        rng, chip = np.random.default_rng(0), imc_ssm.resolve_design(design)
        for density in (1.0, 0.05):
            matrix = np.where(rng.random((SIZE, SIZE)) < density, rng.normal(size=(SIZE, SIZE)), 0)
            mapped = map_matrix("m", "m", matrix, None, chip, input_range=1.0)
            made = program(mapped, chip, 0, range(CHIPS))
            before = made.weights()
            noise = chip.design.read_noise.value
            for time in ("1s", "1h", "1d", "30d"):
                now = made.weights(time)
                found = {mode: factors(before, now, mode) for mode in MODES}
                x = np.clip(rng.normal(0, 0.3, (VECTORS, SIZE)), -1, 1)
                full = float(np.percentile(np.abs(x @ mapped.target), 99.99))
                was, reads = (np.stack([read_out(x, w, full, noise, rng) for w in ws]) for ws in (before, now))
                found["measured"] = np.maximum((was * reads).sum(1) / np.square(reads).sum(1).clip(1e-12), 0)
                errors = (f"{mode} {rms(f[:, None] * now - mapped.target):.4f}" for mode, f in found.items())
                print(f"{design}, {density:.0%} dense, {time:>3}:", ", ".join(errors))


def read_out(x: np.ndarray, weight: np.ndarray, full: float, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Vectors through 8-bit converters and read noise, (vectors, columns)."""
    sums = np.rint(127 * x) / 127 @ weight
    step = full / 127
    return np.clip(np.rint((sums + noise * rng.normal(size=sums.shape)) / step), -128, 127) * step


def rms(error: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(error, dtype=np.float64))))


def chips(path: str) -> None:
    """Accuracy and yield of 50 chips of `pcm-256`, by compensation and upkeep."""
    data, model = imc_ssm.load_dataset("digits"), imc_ssm.load_model(path).model
    runs = {}
    for name, mode, given in (
        ("none", "none", {}),
        ("global", "global", {}),
        ("tile", "tile", {}),
        ("column", "column", {}),
        ("column, refresh 7 d", "column", {"refresh": "7d"}),
        ("column, recalibrate 1 d", "column", {"recalibrate": "1d"}),
        ("column, fresh 100", "column", {"sequences": 100, "subset": "fresh"}),
    ):
        design = imc_ssm.load_design("pcm-256").with_(drift_compensation=mode)
        run = imc_ssm.evaluate(imc_ssm.compile_model(model, design, data), data, 50, TIMES, **given)
        runs[name] = run = run.merge(chip_yield(run, 90))
        mean, spread = run["accuracy"].mean("chip").values, run["accuracy"].std("chip", ddof=1).values
        print(
            f"{name:24}",
            *(
                f"{m:.1f} +- {s:.1f} ({y:.0f} %)"
                for m, s, y in zip(mean, spread, run["yield"].values, strict=True)
            ),
        )
    kept = ("global", "column", "column, refresh 7 d")
    shares = xr.concat(
        [runs[n].expand_dims(model=[n])[["yield", "yield_low", "yield_high"]] for n in kept], "model"
    )
    shares["chip"] = runs["column"]["chip"]
    with styled(14.0, 4.9) as figure:
        axes = figure.subplots(1, 3)
        for ax, name in zip(axes, ("global", "column"), strict=False):
            quantiles_over_time(runs[name], ax)
            ax.set_title(f"50 chips, compensation: {name}")
            ax.set_ylim(70, 96)
        yield_over_time(shares, axes[2])
    save_figure(figure, "populations.png")


if __name__ == "__main__":
    weights() if sys.argv[1:2] != ["chips"] else chips(sys.argv[2])
