"""The commands that make model files: `train` and `quantize`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imc_ssm.cli import options
from imc_ssm.cli.inputs import data_of, load_data, writable
from imc_ssm.cli.options import DataDir, Device, Seed, TaskName
from imc_ssm.cli.report import console, slow_heads, stages
from imc_ssm.cli.resume import checkpoint_of, resumable

if TYPE_CHECKING:
    from imc_ssm.chip import ChipTraining
    from imc_ssm.datasets import SequenceDataset
    from imc_ssm.layers import Classifier
    from imc_ssm.modelfile import StoredModel
    from imc_ssm.quantization import Bits, Scheme
    from imc_ssm.training import TrainConfig

__all__ = ["quantize", "save_and_report", "train"]

_OF_THE_TRAINING = ("study", "key", "history", "time_s")
"""What a model file says of its training that is not true of what is made from it."""


def train(
    dataset: Annotated[str, typer.Argument(help="A task from `imc-ssm data`, or your own sequences: FILE.npz.")],
    out: Annotated[Path, typer.Option(help="Model file to write (.safetensors).")],
    model: Annotated[str, typer.Option(help="Preset: s4d-16h, s4d-64h, s4d-256h, s4d-512h.")] = "s4d-16h",
    epochs: Annotated[int, typer.Option(min=0, help="Passes over the training split.")] = 10,
    batch: Annotated[int, typer.Option(min=1, help="Sequences per step.")] = 50,
    micro_batch: Annotated[
        int | None, typer.Option(min=1, help="Sequences at once; a step adds them up. Wide models: 64 or fewer.")
    ] = None,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", "--rate", help="Peak learning rate (AdamW, warm-up and cosine).")
    ] = 2e-2,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of everything but the dynamics.")] = 0.01,
    layers: Annotated[int | None, typer.Option(min=1, help="Blocks; default 1, or one a width.")] = None,
    layer: Annotated[str, typer.Option(help="Layer of every block: s4d, s5.")] = "s4d",
    heads: Annotated[
        str | None, typer.Option(help="Heads of every block, or of each: 16,32; default: the preset's.")
    ] = None,
    n_state: Annotated[int, typer.Option(min=2, help="Real state size N per head (even).")] = 64,
    norm: Annotated[str, typer.Option(help="Normalisation: none, layer, rms, batch.")] = "none",
    prenorm: Annotated[bool, typer.Option("--prenorm", help="Norms at the start of blocks, not the end.")] = False,
    activation: Annotated[str, typer.Option(help="Nonlinearity behind a layer: gelu, relu, none.")] = "gelu",
    gate: Annotated[str, typer.Option(help="Behind the mixing matrix: glu or none.")] = "glu",
    residual: Annotated[bool, typer.Option(help="Add what enters a block to what leaves it.")] = True,
    bidirectional: Annotated[
        bool, typer.Option("--bidirectional", help="A second layer runs from the end; cannot stream.")
    ] = False,
    pool: Annotated[
        str | None,
        typer.Option(help="What the decoder reads: mean, last, none (default: mean, or as labels are)."),
    ] = None,
    initialisation: Annotated[
        str | None, typer.Option(help="Poles of S4D at the start: lin (default), inv, legs.")
    ] = None,
    discretisation: Annotated[str, typer.Option(help="zoh or bilinear.")] = "zoh",
    dt_min: Annotated[
        float | None,
        typer.Option(help="Smallest dt at the start; default: 0.8 over the steps."),
    ] = None,
    dt_max: Annotated[
        float | None,
        typer.Option(help="Largest dt at the start; default: 80 over the steps, at most 0.5."),
    ] = None,
    dropout: Annotated[float, typer.Option(help="Dropout after the GELU.")] = 0.0,
    balance: options.Balance = 0.0,
    mode: Annotated[
        str,
        typer.Option(help="How layers run: convolution, or recurrent, faster on long sequences."),
    ] = "convolution",
    chip: options.For = None,
    period: options.Period = None,
    data_dir: DataDir = None,
    device: Device = "cpu",
    seed: Seed = 0,
) -> None:
    """Train a model in full precision and write a model file.

    Interrupted, it leaves a hidden checkpoint beside --out; the same command goes on from there.
    """
    import torch

    from imc_ssm.kernels.device import named_device
    from imc_ssm.layers import Classifier, ModelConfig, preset
    from imc_ssm.modelfile import StoredModel
    from imc_ssm.study import initial_steps
    from imc_ssm.training import TrainConfig
    from imc_ssm.training import train as fit

    writable(out, ".safetensors")
    named_device(device)
    base = preset(model)
    recipe = TrainConfig.parse(
        {
            "epochs": epochs,
            "batch": batch,
            "micro_batch": micro_batch,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "balance": balance,
            "seed": seed,
        }
    )
    met = _for(chip, period, recipe, quantized=False)
    recipe = recipe if met is None else met.config
    data = load_data(dataset, data_dir)
    shortest, longest = initial_steps(data.time)
    shape = {
        "heads": base.heads if heads is None else _widths(heads),
        "inputs": data.channels,
        "outputs": data.outputs,
        "pool": pool or ("none" if data.per_step else "mean"),
        **({} if layers is None else {"layers": layers}),
        "norm": norm,
        "prenorm": prenorm,
        "activation": activation,
        "gate": gate,
        "residual": residual,
        "bidirectional": bidirectional,
        "dropout": dropout,
        "layer": {"type": layer},
        "n_state": n_state,
        "discretisation": discretisation,
        "dt_min": shortest if dt_min is None else dt_min,
        "dt_max": longest if dt_max is None else dt_max,
    }
    config = ModelConfig.parse(shape | ({} if initialisation is None else {"initialisation": initialisation}))
    torch.manual_seed(seed)
    network = Classifier(config)
    widths = "-".join(str(width) for width in dict.fromkeys(config.widths))
    name = f"{layer}-{widths}h" + (f"-{config.layers}-blocks" if config.layers > 1 else "")
    with stages() as stage, resumable(out) as checkpoint:
        progress = stage(f"train {name} on {dataset}")
        history = fit(
            network,
            data,
            recipe,
            mode=mode,  # type: ignore[arg-type]
            progress=progress,
            checkpoint=checkpoint,
            device=device,
            disturbance=None if met is None else met.disturbance,
        )
    info = {"task": dataset, "model": name, "training": _recipe(recipe), "history": vars(history)}
    info |= {} if met is None else {"chip_training": met.written}
    save_and_report(out, StoredModel(network, None, info), data, device)


def quantize(
    model: Annotated[
        Path,
        typer.Argument(
            help="Full-precision model file, as written by `train`, or a shipped model: s4d-16h, s4d-16h-seed1."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Quantized model file to write (.safetensors).")],
    poles: options.Poles = None,
    state: options.State = None,
    scheme: options.SchemeName = None,
    weights: options.Weights = None,
    activations: options.Activations = None,
    biases: options.Biases = None,
    only: options.Only = None,
    granularity: options.Granularity = None,
    symmetric: options.Symmetric = False,
    percentile: options.Percentile = None,
    calibration: options.Calibration = None,
    state_calibration: options.StateCalibration = None,
    order: options.Order = None,
    rounding: options.Rounding = None,
    residual_bits: options.ResidualBits = None,
    rate_limit: options.RateLimit = None,
    max_period: options.MaxPeriod = None,
    scales: options.Scales = None,
    pole_form: options.PoleForm = None,
    pole_decay_bits: options.PoleDecayBits = None,
    pole_multiplier_bits: options.PoleMultiplierBits = None,
    weight_rounding: options.WeightRounding = None,
    parameterisation: options.Parameterisation = None,
    gelu: options.Gelu = None,
    state_clip: options.StateClip = None,
    grad_clamp: options.GradClamp = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=0, help="Epochs of QAT in recurrent mode; 0: PTQ only. Default: 0, with --for 10."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Sequences per step of QAT.")] = 64,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", "--rate", help="Peak learning rate of QAT.")
    ] = 1e-2,
    noise: Annotated[
        float | None,
        typer.Option(help="Weight noise in QAT, relative to each column's largest; default: 0.06."),
    ] = None,
    noise_output: Annotated[
        float | None, typer.Option(help="Read noise in QAT, in units of a design's read_noise; default: 0.04.")
    ] = None,
    clip_input: Annotated[
        float | None,
        typer.Option(
            help="Percentile of its inputs that a matrix's range covers in QAT; default: 99, 100 without read "
            "noise. Signals with peaks that matter: 100."
        ),
    ] = None,
    chip: options.For = None,
    period: options.Period = None,
    balance: options.Balance = 0.0,
    distill: options.Distill = 0.0,
    distill_temperature: options.DistillTemperature = 2.0,
    ranges: options.Ranges = "calibrated",
    dataset: TaskName = None,
    data_dir: DataDir = None,
    device: Device = "cpu",
    seed: Seed = 0,
) -> None:
    """Quantize a model: calibrated PTQ, then, with --epochs, noise-aware QAT on its integer recurrence."""
    from imc_ssm.errors import ConfigError
    from imc_ssm.kernels.cached import compiled
    from imc_ssm.kernels.device import named_device
    from imc_ssm.modelfile import StoredModel, load_model
    from imc_ssm.pretrained import model_file
    from imc_ssm.quantization import calibration_batch
    from imc_ssm.quantization import quantize as apply
    from imc_ssm.training import TrainConfig
    from imc_ssm.training import train as fit

    writable(out, ".safetensors")
    named_device(device)
    model = model_file(model)
    stored = load_model(model)
    given = {
        "granularity": granularity,
        "symmetric": symmetric or None,
        "percentile": percentile,
        "calibration": calibration,
        "state_calibration": state_calibration,
        "rounding_placement": order,
        "rounding": rounding,
        "residual_bits": residual_bits,
        "rate_limit": rate_limit,
        "max_period": max_period,
        "scales": scales,
        "pole_form": pole_form,
        "pole_decay_bits": pole_decay_bits,
        "pole_multiplier_bits": pole_multiplier_bits,
        "weight_rounding": weight_rounding,
        "parameterisation": parameterisation,
        "gelu": gelu,
        "state_clip": state_clip,
        "grad_clamp": grad_clamp,
    }
    words = {"poles": poles, "state": state, "weights": weights, "activations": activations}
    chosen = _scheme(scheme, words, biases, only, given)
    if only is not None:
        _has_parts(stored.model, chosen.bits)
    if chip is not None:
        _not_beside(noise=noise, noise_output=noise_output, clip_input=clip_input)
    noise, noise_output = (0.06 if noise is None else noise), (0.04 if noise_output is None else noise_output)
    recipe = TrainConfig.parse(
        {
            "epochs": (0 if chip is None else 10) if epochs is None else epochs,
            "batch": batch,
            "learning_rate": learning_rate,
            "noise": noise,
            "noise_output": noise_output,
            "clip_input": (99.0 if noise_output else 100.0) if clip_input is None else clip_input,
            "balance": balance,
            "distill": distill,
            "distill_temperature": distill_temperature,
            "ranges": ranges,
            "seed": seed,
        }
    )
    for option, is_set in ((f"--distill {distill:g}", distill), (f"--ranges {ranges}", ranges != "calibrated")):
        if is_set and not recipe.epochs:
            raise ConfigError(f"{option} is about training, and --epochs is 0; give some, or leave it out")
    met = _for(chip, period, recipe)
    recipe = recipe if met is None else met.config
    data, task = data_of(stored, dataset, data_dir)
    sequences, lengths = calibration_batch(data, stored.model.config.width, seed=seed)
    quantized = apply(stored.model, chosen, sequences, lengths, device=device)
    for name, what in slow_heads(quantized).items():
        console.print(f"{name}: {what}", soft_wrap=True)
    kept = {name: value for name, value in stored.info.items() if name not in _OF_THE_TRAINING}
    info = {**kept, "task": task, "quantized_from": model.name}
    if recipe.epochs:
        if device == "cpu" and not compiled():
            console.print("the kernels of the recurrence are compiled now, once, within a minute or two")
        with stages() as stage, resumable(out) as checkpoint:
            progress = stage(f"QAT {chosen.label}")
            history = fit(
                quantized,
                data,
                recipe,
                progress=progress,
                checkpoint=checkpoint,
                device=device,
                disturbance=None if met is None else met.disturbance,
                teacher=stored.model if recipe.distill else None,
            )
        info |= {"qat": _recipe(recipe), "qat_history": vars(history)}
        info |= {} if met is None else {"chip_training": met.written}
    save_and_report(out, StoredModel(quantized, chosen, info), data, device)
    if chosen.bits.biases is None and only is None:
        console.print("its biases are in full precision: for a chip quantize with --biases 16")


def _for(
    chip: str | None, period: str | None, recipe: TrainConfig, *, quantized: bool = True
) -> ChipTraining | None:
    """The recipe for a chip, said; None without one. `ConfigError` for a period that is none."""
    from imc_ssm.chip import training_for
    from imc_ssm.errors import ConfigError
    from imc_ssm.units import moments

    if chip is None:
        if period is not None:
            raise ConfigError(f"--period {period} is that of a chip's use; give the chip too, --for pcm-256")
        return None
    if recipe.epochs == 0:
        raise ConfigError(f"--for {chip} is about training, and --epochs is 0; give some, or leave --for out")
    ends = (None, None) if period is None else moments(period)
    if len(ends) != 2:
        raise ConfigError(f"--period {period}; give its first and its last time: 1s,30d")
    met = training_for(chip, recipe, earliest=ends[0], latest=ends[1], quantized=quantized)
    for line in met.lines():
        console.print(line, soft_wrap=True)
    return met


def _not_beside(**given: float | None) -> None:
    """`ConfigError` for an option of noise beside --for."""
    from imc_ssm.errors import ConfigError

    for name, value in given.items():
        if value is not None:
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"{option} {value:g} beside --for, which takes the chip's; leave one of them out")


def _scheme(
    name: str | None, words: dict[str, int | None], biases: int | None, only: str | None, given: dict[str, Any]
) -> Scheme:
    """The scheme of the command line; `ConfigError` for what is not known or out of range, or a contradiction."""
    from imc_ssm.errors import ConfigError, unknown
    from imc_ssm.quantization import Bits, Scheme
    from imc_ssm.quantization.rules import ROLES

    fixed = [word for word in ("weights", "activations") if words[word] is not None]
    name = name or ("recommended" if only is None else "uniform")  # one part alone is rounded as in the literature
    if name not in ("recommended", "uniform") and fixed:
        raise ConfigError(f"--scheme {name} sets the bits of {fixed[0]}; leave --{fixed[0]} out or take uniform")
    fields = {field: value for field, value in given.items() if value is not None}
    for bound in ("state_clip", "grad_clamp", "rate_limit"):
        if fields.get(bound) == 0:
            fields[bound] = None
    made = Scheme.named(name, **{word: bits for word, bits in words.items() if bits is not None}, **fields)
    idle = {
        "residual_bits": made.rounding != "feedback" and "--rounding feedback",
        "max_period": made.rate_limit is None and "--rate-limit",
        "pole_decay_bits": made.pole_form == "cartesian" and "--pole-form polar or log_polar",
        "pole_multiplier_bits": made.pole_form == "cartesian" and "--pole-form polar or log_polar",
    }
    for field, needed in idle.items():
        if needed and field in fields:
            option = field.replace("_", "-")
            raise ConfigError(
                f"--{option} {fields[field]} does nothing without {needed}; add that, or leave it out"
            )
    bits = made.bits.model_dump()
    if biases is not None:
        bits["biases"] = biases or None
    if only is not None:
        parts = [part.strip() for part in only.split(",")]
        for part in parts:
            if part not in bits:
                raise ConfigError(unknown("part", part, bits))
        of_words = {
            "weights": ("weights", "b", "c", "d"),
            "activations": tuple(part for part in bits if ROLES.get(part, "parameter") != "parameter"),
        }
        for word, width in {**words, "biases": biases}.items():
            if width is not None and not set(of_words.get(word, (word,))) & set(parts):
                raise ConfigError(
                    f"--{word} {width} is of no part in --only {only}; leave it out, or add the part"
                )
        bits = {part: width if part in parts else None for part, width in bits.items()}
    return made.with_bits(Bits.parse(bits))


def _has_parts(model: Classifier, bits: Bits) -> None:
    """`ConfigError` for a part with bits that the model does not have: quantizing it would do nothing."""
    from imc_ssm.errors import ConfigError, unknown

    there = {path.rsplit(".", 1)[-1] for path in model.graph().kinds()}
    roles = dict(zip(bits.model_dump(), bits.by_role(), strict=True))
    for part, role in roles.items():
        if getattr(bits, part) is not None and role not in there:
            raise ConfigError(unknown("part of this model", part, (p for p, r in roles.items() if r in there)))


def _widths(text: str) -> int | list[int]:
    """The widths of --heads; `ConfigError` for what is no list of numbers."""
    from imc_ssm.errors import ConfigError

    try:
        widths = [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--heads {text}: give a number, or one a block: 16,32") from None
    return widths if len(widths) > 1 else widths[0]


def _recipe(config: TrainConfig) -> dict[str, Any]:
    return config.model_dump(mode="json")


def save_and_report(out: Path, stored: StoredModel, data: SequenceDataset, device: str) -> None:
    """Measure the metrics of the test split, write the model file and say both."""
    from imc_ssm.kernels.device import named_device, placed
    from imc_ssm.modelfile import save_model
    from imc_ssm.training import metrics, said

    test = data.split("test")
    with placed(stored.model, named_device(device)):
        found = metrics(stored.model, test)
    numbers = {f"{name}_test": v for name, v in found.items() if isinstance(v, float) and math.isfinite(v)}
    steps = {"n_steps": test.counted} if data.per_step else {}
    stored.info.update({**numbers, "n_test": len(test), **steps})
    save_model(out, stored)
    checkpoint_of(out).unlink(missing_ok=True)
    count = sum(p.numel() for p in stored.model.parameters())
    on = f"{test.counted} steps of {len(test)} sequences" if data.per_step else f"{len(test)} sequences"
    what = "test accuracy " if data.goal == "classes" else "test "
    console.print(f"{what}{said(found)} on {on}, {count} parameters", soft_wrap=True)
    if data.class_names is not None:
        each = ", ".join(f"{name} {value:.3f}" for name, value in zip(data.class_names, found["f1"], strict=True))
        console.print(f"F1 of {each}; mean {found['f1_macro']:.3f}", soft_wrap=True)
    console.print(f"wrote {out}", soft_wrap=True)
