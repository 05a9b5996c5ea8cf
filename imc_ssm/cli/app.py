"""The commands."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imc_ssm.cli.report import console, info_table, quantity, result_tables, stages, write_result
from imc_ssm.errors import ConfigError, DataError, FileError, ImcSsmError
from imc_ssm.files import atomic_path, check_writable

if TYPE_CHECKING:
    from imc_ssm.analog import Design
    from imc_ssm.datasets import SequenceDataset
    from imc_ssm.modelfile import StoredModel
    from imc_ssm.train import TrainConfig

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="State-space models on analog in-memory-computing chips: train, quantise, deploy, and see accuracy, "
    "energy, latency and area of the same chip.",
)

Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything that is drawn.")]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder that holds the dataset's files (else IMC_SSM_DATA, cache, download).")
]
TaskName = Annotated[str | None, typer.Option(help="Task or .npz; default: what the model was trained on.")]
DesignName = Annotated[str, typer.Option(help="Chip design: a name from `imc-ssm devices`, or a path to a .toml.")]
Times = Annotated[
    str, typer.Option(help="Times after programming: seconds, or with s, min, h, d; comma-separated.")
]
SHOWN = (
    *("time", "accuracy_digital", "accuracy", "energy", "latency", "area", "memory", "bits_state"),
    *("chip", "component"),
)
"""Variables of a dataset that `show` reads."""
Chips = Annotated[int, typer.Option(min=1, help="Chips to programme.")]


@app.callback(invoke_without_command=True)
def _version(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        from imc_ssm import __version__

        console.print(__version__)
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Dataset to write (.nc); the figure goes beside it.")] = Path(
        "results/demo.nc"
    ),
    design: DesignName = "pcm-256",
    chips: Chips = 10,
    times: Times = "1s,1h,1d,30d",
    seed: Seed = 0,
) -> None:
    """The whole way on the digits, in a few minutes: train, quantise, deploy, one dataset and one picture."""
    from imc_ssm import datasets, study
    from imc_ssm.results import provenance

    _writable_result(out)
    start = time.perf_counter()
    seconds = _seconds(times)
    _design_at(design, seconds)
    config = study.StudyConfig.parse({"design": design, "chips": chips, "times": seconds, "seed": seed})
    data = datasets.load(config.task)
    with stages() as stage:
        ds = study.run(config, data, stage)
    ds.attrs["title"] = f"S4D on {config.task}, deployed on {config.design}"
    ds.attrs |= provenance(config.model_dump(mode="json"), seed, time.perf_counter() - start)
    write_result(ds, out)


@app.command()
def train(
    dataset: Annotated[str, typer.Argument(help="A task from `imc-ssm data`, or your own sequences: FILE.npz.")],
    out: Annotated[Path, typer.Option(help="Model file to write (.safetensors).")],
    model: Annotated[str, typer.Option(help="Preset: s4d-16h, s4d-64h, s4d-256h, s4d-512h.")] = "s4d-16h",
    epochs: Annotated[int, typer.Option(min=0, help="Passes over the training split.")] = 10,
    batch: Annotated[int, typer.Option(min=1, help="Sequences per step.")] = 50,
    rate: Annotated[float, typer.Option(help="Peak learning rate (AdamW, warm-up and cosine).")] = 2e-2,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of everything but the dynamics.")] = 0.01,
    layers: Annotated[int, typer.Option(min=1, help="Blocks.")] = 1,
    n_state: Annotated[int, typer.Option(min=2, help="Real state size N per head (even).")] = 64,
    norm: Annotated[str, typer.Option(help="Normalisation: none, layer, batch.")] = "none",
    initialisation: Annotated[str, typer.Option(help="Poles at the start: lin, inv, legs.")] = "lin",
    discretisation: Annotated[str, typer.Option(help="zoh or bilinear.")] = "zoh",
    dropout: Annotated[float, typer.Option(help="Dropout after the GELU.")] = 0.0,
    data_dir: DataDir = None,
    seed: Seed = 0,
) -> None:
    """Train a model in full precision (convolution mode) and write a model file.

    Interrupted, it leaves a hidden checkpoint beside --out; the same command goes on from there.
    """
    import torch

    from imc_ssm.modelfile import StoredModel
    from imc_ssm.s4d import Classifier, ModelConfig, preset
    from imc_ssm.study import initial_steps
    from imc_ssm.train import TrainConfig
    from imc_ssm.train import train as fit

    _writable(out, ".safetensors")
    base = preset(model)
    recipe = TrainConfig.parse(
        {"epochs": epochs, "batch": batch, "rate": rate, "weight_decay": weight_decay, "seed": seed}
    )
    data = _load(dataset, data_dir)
    dt_min, dt_max = initial_steps(data.time)
    config = ModelConfig.parse(
        base.model_dump()
        | {
            "inputs": data.channels,
            "classes": data.n_classes,
            "layers": layers,
            "n_state": n_state,
            "norm": norm,
            "initialisation": initialisation,
            "discretisation": discretisation,
            "dropout": dropout,
            "dt_min": dt_min,
            "dt_max": dt_max,
        }
    )
    torch.manual_seed(seed)
    network = Classifier(config)
    with stages() as stage, _resumable(out) as checkpoint:
        progress = stage(f"train {model} on {dataset}")
        history = fit(network, data, recipe, mode="convolution", progress=progress, checkpoint=checkpoint)
    info = {"task": dataset, "model": model, "training": _recipe(recipe), "history": vars(history)}
    _save_and_report(out, StoredModel(network, None, info), data)


@app.command()
def quantize(
    model: Annotated[Path, typer.Argument(help="Full-precision model file, as written by `train`.")],
    out: Annotated[Path, typer.Option(help="Quantised model file to write (.safetensors).")],
    poles: Annotated[int, typer.Option(help="Bits of the poles A.")] = 8,
    state: Annotated[int, typer.Option(help="Bits of the recurrent state x.")] = 8,
    weights: Annotated[int, typer.Option(help="Bits of B, C, D and the matrices.")] = 8,
    activations: Annotated[int, typer.Option(help="Bits of the other activations.")] = 8,
    granularity: Annotated[str, typer.Option(help="One format per tensor or per head: tensor, head.")] = "head",
    symmetric: Annotated[bool, typer.Option(help="Zero points fixed at 0.")] = False,
    percentile: Annotated[float, typer.Option(help="Calibration values inside the range, percent.")] = 99.999,
    epochs: Annotated[int, typer.Option(min=0, help="Epochs of QAT in recurrent mode; 0: PTQ only.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Sequences per step of QAT.")] = 64,
    rate: Annotated[float, typer.Option(help="Peak learning rate of QAT.")] = 1e-2,
    noise: Annotated[float, typer.Option(help="Weight noise in QAT, relative to each column's largest.")] = 0.06,
    noise_output: Annotated[
        float, typer.Option(help="Read noise in QAT, in units of a design's read_noise.")
    ] = 0.04,
    dataset: TaskName = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
) -> None:
    """Quantise a model: calibrated PTQ, then, with --epochs, noise-aware QAT on its integer recurrence."""
    from imc_ssm.modelfile import StoredModel, load_model
    from imc_ssm.quantize import Scheme, calibration_batch
    from imc_ssm.quantize import quantize as apply
    from imc_ssm.train import TrainConfig
    from imc_ssm.train import train as fit

    _writable(out, ".safetensors")
    stored = load_model(model)
    scheme = Scheme.uniform(
        poles=poles,
        state=state,
        weights=weights,
        activations=activations,
        granularity=granularity,  # type: ignore[arg-type]
        symmetric=symmetric,
        percentile=percentile,
    )
    recipe = TrainConfig.parse(
        {
            "epochs": epochs,
            "batch": batch,
            "rate": rate,
            "noise": noise,
            "noise_output": noise_output,
            "clip_input": 99.0 if noise_output else 100.0,
            "seed": seed,
        }
    )
    data, task = _data_of(stored, dataset, data_dir)
    quantised = apply(stored.model, scheme, *calibration_batch(data, stored.model.config.heads))
    info = {**stored.info, "task": task, "quantised_from": model.name}
    if epochs:
        with stages() as stage, _resumable(out) as checkpoint:
            progress = stage(f"QAT {scheme.label}")
            history = fit(quantised, data, recipe, progress=progress, checkpoint=checkpoint)
        info |= {"qat": _recipe(recipe), "qat_history": vars(history)}
    _save_and_report(out, StoredModel(quantised, scheme, info), data)


@app.command()
def deploy(
    model: Annotated[Path, typer.Argument(help="Quantised model file, as written by `quantize`.")],
    out: Annotated[Path, typer.Option(help="Dataset to write (.nc); the figure goes beside it.")],
    design: DesignName = "pcm-256",
    chips: Chips = 10,
    times: Times = "1s,1h,1d,30d",
    deployment: Annotated[Path | None, typer.Option(help="Also write the deployment (.safetensors).")] = None,
    dataset: TaskName = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
) -> None:
    """Compile a quantised model onto a chip design, programme chips, and evaluate them over time."""
    from imc_ssm.compile import compile
    from imc_ssm.cost import cost as price
    from imc_ssm.evaluate import Entry, evaluate, gather
    from imc_ssm.modelfile import load_model
    from imc_ssm.quantize import calibration_batch
    from imc_ssm.results import provenance

    _writable_result(out)
    if deployment is not None:
        _writable(deployment, ".safetensors")
    start = time.perf_counter()
    seconds = _seconds(times)
    chip = _design_at(design, seconds)
    stored = load_model(model)
    data, task = _data_of(stored, dataset, data_dir)
    calibration = calibration_batch(data, stored.model.config.heads)
    placed = compile(stored.model, chip, *calibration, name=model.stem)
    price(placed)  # a component that the design names wrongly shows before the long part
    console.print(placed.table())
    with stages() as stage, _resumable(out) as checkpoint:
        progress = stage(f"evaluate {chips} chips")
        run = evaluate(placed, data, chips, seconds, seed=seed, progress=progress, checkpoint=checkpoint)
    ds = gather([Entry(placed.name, float(run["accuracy_digital"]), placed, run)], len(data.split("test")))
    ds.attrs["title"] = f"{model.name} on {chip.name}, {task}"
    config = {"model": model.name, "task": task, "design": chip.model_dump(mode="json"), "chips": chips}
    ds.attrs |= provenance({**config, "times": seconds, "info": stored.info}, seed, time.perf_counter() - start)
    if deployment is not None:
        placed.save(deployment)
    write_result(ds, out)
    _checkpoint(out).unlink(missing_ok=True)


@app.command()
def cost(
    model: Annotated[Path, typer.Argument(help="Quantised model file, or a deployment from `deploy`.")],
    design: Annotated[
        str | None,
        typer.Option(
            help="Chip design: a name from `imc-ssm devices`, or a path to a .toml; default: the deployment's, "
            "pcm-256 for a model."
        ),
    ] = None,
    operations: Annotated[bool, typer.Option(help="Also print every operation that was counted.")] = False,
    out: Annotated[Path | None, typer.Option(help="Dataset to write (.nc).")] = None,
    dataset: TaskName = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
) -> None:
    """Energy, latency, area and memory of one inference, by component, without evaluating accuracy."""
    from imc_ssm.analog import load_design
    from imc_ssm.compile import Deployment, compile
    from imc_ssm.cost import cost as price
    from imc_ssm.cost import operation_table, table
    from imc_ssm.modelfile import load_model
    from imc_ssm.quantize import calibration_batch
    from imc_ssm.results import provenance, save

    if out is not None:
        _writable(out, ".nc")
    try:
        placed = Deployment.load(model)
    except FileError as error:
        if "'model' file" not in str(error):
            raise
        stored = load_model(model)
        data, _ = _data_of(stored, dataset, data_dir)
        calibration = calibration_batch(data, stored.model.config.heads)
        placed = compile(stored.model, load_design(design or "pcm-256"), *calibration, name=model.stem)
    else:
        if design is not None:
            raise ConfigError(
                f"{model} is a deployment, which has its design ({placed.design.name}) already; "
                "leave --design out or give the quantised model"
            )
    ds = price(placed)
    if operations:
        console.print(operation_table(placed))
    console.print(table(ds))
    per_inference = quantity(float(ds["energy_total"]), "J")
    console.print(
        f"{per_inference} and {quantity(float(ds['latency_total']), 's')} per inference, {placed.steps} steps"
    )
    if out is not None:
        ds.attrs |= provenance({"model": model.name, "design": placed.design.name}, seed)
        save(ds, out)
        console.print(f"wrote {out}", soft_wrap=True)


@app.command()
def show(
    result: Annotated[Path, typer.Argument(help="Dataset written by demo or deploy (.nc).")],
    out: Annotated[
        Path | None, typer.Option(help="Figure to write (.png, .pdf, .svg); default: beside it.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Accepted by every command; nothing is drawn here.")] = 0,
) -> None:
    """Print a dataset as a table and plot it."""
    from imc_ssm.plots import save_figure, summary
    from imc_ssm.results import load

    ds = load(result)
    if "model" not in ds.dims:
        raise FileError(
            f"{result} holds no models (variables: {', '.join(map(str, ds.data_vars))}); give a dataset "
            "written by demo or deploy"
        )
    missing = [name for name in SHOWN if name not in ds.variables]
    if missing:
        raise FileError(f"{result} has no {', '.join(missing)}; give a dataset written by demo or deploy")
    picture = out or result.with_suffix(".png")
    _writable(picture, ".png", ".pdf", ".svg")
    console.print(result_tables(ds))
    save_figure(summary(ds), picture)
    console.print(f"wrote {picture}", soft_wrap=True)


@app.command()
def devices(
    name: Annotated[
        str | None, typer.Argument(help="A cell or design to show with the source of every number.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the same as JSON.")] = None,
    seed: Annotated[int, typer.Option(help="Accepted by every command; nothing is drawn here.")] = 0,
) -> None:
    """List memory cells and chip designs with their sources."""
    from imc_ssm.cli import library

    if out is not None:
        _writable(out, ".json")
    _write_json(out, library.show(name))


@app.command()
def data(
    name: Annotated[str | None, typer.Argument(help="A task or FILE.npz: read and check it.")] = None,
    data_dir: DataDir = None,
    out: Annotated[Path | None, typer.Option(help="Write the same as JSON.")] = None,
    seed: Annotated[int, typer.Option(help="Accepted by every command; nothing is drawn here.")] = 0,
) -> None:
    """List the tasks, or read one, check it and say what it holds."""
    from imc_ssm import datasets

    if out is not None:
        _writable(out, ".json")
    names = datasets.names() if name is None else [name]
    described = {n: datasets.info(n) for n in names}
    if name is not None:
        loaded = _load(name, data_dir)
        described[name]["read and checked"] = {part: len(loaded.split(part)) for part in loaded.splits}
    for n, about in described.items():
        console.print(info_table(n, about))
    _write_json(out, described)


def _write_json(out: Path | None, content: Any) -> None:
    if out is not None:
        with atomic_path(out) as temporary:
            temporary.write_text(json.dumps(content, indent=2, default=str), encoding="utf-8")
        console.print(f"wrote {out}", soft_wrap=True)


def _writable(path: Path, *suffixes: str) -> None:
    """Refuse a wrong ending or an unwritable place before any work is done."""
    if path.suffix not in suffixes:
        raise FileError(f"cannot write {path}: the name must end in {' or '.join(suffixes)}")
    check_writable(path)


def _writable_result(path: Path) -> None:
    """The same for a dataset and the figure beside it."""
    _writable(path, ".nc")
    _writable(path.with_suffix(".png"), ".png")


def _design_at(name: str, times: tuple[float, ...]) -> Design:
    """The chip design, if its memory cell has a model at every one of the times (s)."""
    from imc_ssm.analog import load_design

    design = load_design(name)
    cell = design.load_cell()
    for moment in times:
        cell.check_time(moment)
    return design


def _seconds(times: str) -> tuple[float, ...]:
    """ "1s,1h,30d" -> seconds."""
    units = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
    out = []
    for word in times.split(","):
        number = word.strip().rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = word.strip()[len(number) :] or "s"
        try:
            value = float(number) * units[unit]
        except (ValueError, KeyError):
            raise ConfigError(
                f"time {word.strip()!r} is not understood; give numbers with s, min, h or d, such as 1s,1h,1d"
            ) from None
        if not 0 <= value < float("inf"):
            raise ConfigError(f"time {word.strip()!r} is not after programming; allowed are 0 and above")
        out.append(value)
    if sorted(set(out)) != out:
        raise ConfigError(f"times {times!r} must rise, each given once")
    return tuple(out)


def _load(name: str, data_dir: Path | None) -> SequenceDataset:
    from imc_ssm import datasets

    return datasets.load(name, data_dir)


def _data_of(stored: StoredModel, dataset: str | None, data_dir: Path | None) -> tuple[SequenceDataset, str]:
    """The dataset named on the command line, or the one the model was trained on, and its name."""
    task = dataset or stored.info.get("task")
    if not isinstance(task, str):
        raise ImcSsmError("the model file does not say what it was trained on; give --dataset")
    from imc_ssm.train import check_model_fits

    try:
        data = _load(task, data_dir)
    except DataError as error:
        if dataset is None:
            raise DataError(f"{error} (the model was trained on {task!r}; --dataset names another)") from None
        raise
    check_model_fits(stored.model, data)
    return data, task


def _checkpoint(out: Path) -> Path:
    """Where the work for `out` keeps its state between epochs or chips; removed when `out` is written."""
    return out.with_name(f".{out.name}.checkpoint.safetensors")


@contextmanager
def _resumable(out: Path) -> Iterator[Path]:
    """The checkpoint of the work for `out`: kept when interrupted, removed when going on is hopeless.

    Training that diverged would diverge again; its checkpoint would stand in the way of a smaller rate.
    """
    checkpoint = _checkpoint(out)
    try:
        yield checkpoint
    except FileError:  # it belongs to another run, or cannot be written
        raise
    except ImcSsmError:
        checkpoint.unlink(missing_ok=True)
        raise


def _recipe(config: TrainConfig) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _save_and_report(out: Path, stored: StoredModel, data: SequenceDataset) -> None:
    """Measure the test accuracy, write the model file and say both."""
    from imc_ssm.modelfile import save_model
    from imc_ssm.train import accuracy

    test = data.split("test")
    reached = {"accuracy_test": accuracy(stored.model, test), "n_test": len(test)}
    stored.info.update(reached)
    save_model(out, stored)
    _checkpoint(out).unlink(missing_ok=True)
    count = sum(p.numel() for p in stored.model.parameters())
    console.print(f"test accuracy {reached['accuracy_test']:.2f} % on {len(test)} sequences, {count} parameters")
    console.print(f"wrote {out}", soft_wrap=True)


__all__ = ["app"]
