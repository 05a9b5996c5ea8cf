"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Activations",
    "Balance",
    "Biases",
    "Calibration",
    "Chips",
    "DataDir",
    "DesignName",
    "Device",
    "Distill",
    "DistillTemperature",
    "Gelu",
    "GradClamp",
    "Granularity",
    "HeadsPerTile",
    "MaxPeriod",
    "Only",
    "Order",
    "Parameterisation",
    "Percentile",
    "PoleDecayBits",
    "PoleForm",
    "PoleMultiplierBits",
    "Poles",
    "Ranges",
    "RateLimit",
    "Recurrence",
    "ResidualBits",
    "Rounding",
    "Scales",
    "SchemeName",
    "Seed",
    "State",
    "StateCalibration",
    "StateClip",
    "Symmetric",
    "TaskName",
    "Times",
    "UnusedSeed",
    "Weights",
]

Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda or cuda:N.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything that is drawn.")]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder that holds the dataset's files (else IMC_SSM_DATA, cache, download).")
]
TaskName = Annotated[str | None, typer.Option(help="Task or .npz; default: what the model was trained on.")]
DesignName = Annotated[str, typer.Option(help="Chip design: a name from `imc-ssm devices`, or a path to a .toml.")]
Times = Annotated[
    str | None,
    typer.Option(
        help="Times after programming: seconds, or with s, min, h, d; comma-separated. Default: 1s,1h,1d,30d, or "
        "those that the cell's model has, where it has few."
    ),
]
Chips = Annotated[int, typer.Option(min=1, help="Chips to program.")]
Recurrence = Annotated[
    str,
    typer.Option(
        help="Where recurrences run: digital, in the unit; analog, on tiles (S4D): A, B, C and D of a head as one "
        "block, its states through ADC, register and DAC in every step."
    ),
]
HeadsPerTile = Annotated[
    int, typer.Option(min=1, help="With --recurrence analog: heads that share a tile, in its diagonal blocks.")
]
Balance = Annotated[
    float,
    typer.Option(help="Weight of rare classes in the loss, (n / K n_k)^balance: 0 none, 1 all classes alike."),
]
Distill = Annotated[
    float,
    typer.Option(
        help="Share of QAT's loss that asks for the answers of the full-precision model instead of the labels."
    ),
]
DistillTemperature = Annotated[
    float, typer.Option(help="What both models' logits are divided by where one teaches the other.")
]
Ranges = Annotated[
    str,
    typer.Option(help="Ranges of activations and states in QAT: calibrated (they stay) or learned (trained on)."),
]
UnusedSeed = Annotated[int, typer.Option(help="Accepted by every command; nothing is drawn here.")]

# Of a training for a chip.
For = Annotated[
    str | None,
    typer.Option(
        "--for",
        help="Train for this chip: a design's name, or your own TOML. Every step meets another, of another age.",
    ),
]
Period = Annotated[
    str | None,
    typer.Option(
        help="With --for: first and last time of the chip's use, 1s,30d (default: what its cell covers)."
    ),
]

# Of a quantization scheme. What is not given keeps the default of `Scheme`, or of the scheme that is named.
SchemeName = Annotated[
    str | None,
    typer.Option(
        "--scheme",
        help="recommended (dithered, polar poles, slow heads, fitted weights; the default, but for --only); "
        "uniform (the same words, rounded to nearest); or as in Zhao et al. 2025: w4a6 (4 bits for matrices, B, "
        "C, D; 6 for activations; biases in full precision, separate order, piecewise GELU) or w8a8.",
    ),
]
Poles = Annotated[int | None, typer.Option(help="Bits of the poles A (default 8).")]
State = Annotated[int | None, typer.Option(help="Bits of the recurrent state x (default 8).")]
Weights = Annotated[int | None, typer.Option(help="Bits of B, C, D and the matrices (uniform; default 8).")]
Activations = Annotated[int | None, typer.Option(help="Bits of the other activations (uniform; default 8).")]
Biases = Annotated[
    int | None,
    typer.Option(
        help="Bits of the biases; 0: full precision (default: 16; w4a6 and w8a8: 0, which no chip has).",
    ),
]
Only = Annotated[
    str | None,
    typer.Option(
        help="Quantize these parts alone, comma-separated; the others stay in full precision: poles, b, c, d, "
        "state, weights, biases, input, encoder, recurrent, after_d, both, gelu, relu, mixing, glu, residual, "
        "norm, pool; those that the model has."
    ),
]
Granularity = Annotated[
    str | None,
    typer.Option(
        help="One format per tensor, per head, or per state register (the rest per head): tensor, head, state."
    ),
]
Symmetric = Annotated[bool, typer.Option("--symmetric", help="Zero points fixed at 0.")]
Percentile = Annotated[float | None, typer.Option(help="Values inside an activation's range, percent.")]
Calibration = Annotated[
    str | None,
    typer.Option(help="Ranges of the activations but the state: static (calibrated) or dynamic (of each batch)."),
]
StateCalibration = Annotated[str | None, typer.Option(help="Ranges of the state: static or dynamic.")]
Order = Annotated[str | None, typer.Option(help="A x and B u are rounded together or apart: joint, separate.")]
Rounding = Annotated[
    str | None,
    typer.Option(
        help="How the update unit rounds: half_even, half_up, half_away; or its state by what is added before it "
        "is truncated: dithered, stochastic, feedback."
    ),
]
ResidualBits = Annotated[
    int | None, typer.Option(help="With --rounding feedback: bits of the remainder that is kept (default 8).")
]
RateLimit = Annotated[
    float | None,
    typer.Option(
        help="Slow heads: each is updated every k-th step, k the largest power of two for which its fastest pole "
        "turns by at most this, in rad, in k steps; 0: all heads in every step (S4D)."
    ),
]
MaxPeriod = Annotated[
    int | None, typer.Option(help="With --rate-limit: most steps between updates, a power of two (default 16).")
]
Scales = Annotated[
    str | None,
    typer.Option(help="Scales of the formats: free, or power_of_two, so that every requantization is a shift."),
]
PoleForm = Annotated[
    str | None,
    typer.Option(help="What a pole's bits say: cartesian, or decay and phase: polar, log_polar (log |a|)."),
]
PoleDecayBits = Annotated[
    int | None,
    typer.Option(help="Bits of the decay of a polar pole (default: as --poles, which is the phase's)."),
]
PoleMultiplierBits = Annotated[
    int | None,
    typer.Option(help="Bits of the parts by which the unit multiplies where poles are polar (default 16)."),
]
WeightRounding = Annotated[
    str | None,
    typer.Option(help="Matrices and C: nearest codes, or outputs: rounded for the least error of what comes out."),
]
Parameterisation = Annotated[
    str | None,
    typer.Option(help="What QAT trains: continuous (dt, A, B), discrete (A, B) or frozen (discrete, A stays)."),
]
Gelu = Annotated[str | None, typer.Option(help="exact, or piecewise: x min(max(0, x + 2), 4) / 4.")]
StateClip = Annotated[float | None, typer.Option(help="The state is clipped to +- this; 0: by its word alone.")]
GradClamp = Annotated[float | None, typer.Option(help="Bound on the state's gradient in QAT; 0: none.")]
