"""The command `prune`: a smaller model file, and what it takes before and after."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.table import Table

from imc_ssm.cli import options
from imc_ssm.cli.inputs import data_of, writable
from imc_ssm.cli.learning import save_and_report
from imc_ssm.cli.options import DataDir, DesignName, Device, Seed, TaskName
from imc_ssm.cli.report import console, stages
from imc_ssm.errors import ConfigError

if TYPE_CHECKING:
    from imc_ssm.datasets import SequenceDataset
    from imc_ssm.layers import Classifier

__all__ = ["prune"]


def prune(
    model: Annotated[
        Path, typer.Argument(help="Model file, in full precision or quantized, or a shipped model: s4d-16h.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model file to write (.safetensors).")],
    states: Annotated[float, typer.Option(help="Fraction of the states that goes, each with its A, B, C.")] = 0.0,
    heads: Annotated[
        float,
        typer.Option(help="Fraction of the heads that goes, each with its rows and columns in every matrix."),
    ] = 0.0,
    weights: Annotated[
        float,
        typer.Option(help="Fraction of the weights of each matrix that becomes 0; the matrix keeps its size."),
    ] = 0.0,
    columns: Annotated[
        float,
        typer.Option(help="Fraction of the columns of each matrix that becomes 0: no devices, no conversions."),
    ] = 0.0,
    rows: Annotated[
        float, typer.Option(help="Fraction of the rows of each matrix that becomes 0: no devices, no drivers.")
    ] = 0.0,
    matrices: Annotated[
        str,
        typer.Option(
            help="Of --weights, --columns, --rows: pattern of the matrices' paths: blocks.*, *.mixing, decoder, *."
        ),
    ] = "blocks.*",
    criterion: Annotated[
        str | None,
        typer.Option(help="What goes first: saliency (default; on training data), energy, magnitude."),
    ] = None,
    scope: Annotated[
        str,
        typer.Option(help="What --states is a fraction of: head (all keep as many), block, or model."),
    ] = "block",
    tolerance: Annotated[
        float | None,
        typer.Option(help="Greedy: take out only what costs at most so many points of validation accuracy."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times that something goes, with training in between.")] = 1,
    schedule: Annotated[
        str, typer.Option(help="How the fractions grow over the rounds: cubic, linear.")
    ] = "cubic",
    epochs: Annotated[
        int, typer.Option(min=0, help="Epochs of training after each round (QAT, if quantized).")
    ] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Sequences per step.")] = 64,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", "--rate", help="Peak learning rate of each round.")
    ] = 5e-3,
    noise: Annotated[
        float, typer.Option(help="Weight noise in training, relative to each column's largest.")
    ] = 0.0,
    distill: options.Distill = 0.0,
    design: DesignName = "pcm-256",
    dataset: TaskName = None,
    data_dir: DataDir = None,
    device: Device = "cpu",
    seed: Seed = 0,
) -> None:
    """Take states, heads, columns, rows or weights out of a model, train what is left, and write the smaller
    model.

    Says what it takes before and after: of a quantized model on a chip of --design. Interrupted, it leaves hidden
    checkpoints beside --out, one a round; the same command goes on from there.
    """
    from imc_ssm.cli.resume import checkpoint_of, resumable
    from imc_ssm.kernels.device import named_device
    from imc_ssm.modelfile import StoredModel, load_model
    from imc_ssm.pretrained import model_file
    from imc_ssm.pruning import Pruning, run
    from imc_ssm.training import History, TrainConfig
    from imc_ssm.training import train as fit

    writable(out, ".safetensors")
    named_device(device)
    model = model_file(model)
    stored = load_model(model)
    plan = Pruning(
        states=states,
        heads=heads,
        weights=weights,
        columns=columns,
        rows=rows,
        criterion=criterion,
        scope=scope,  # type: ignore[arg-type]
        matrices=matrices,
        rounds=rounds,
        schedule=schedule,  # type: ignore[arg-type]
        tolerance=tolerance,
        seed=seed,
    )
    fields = {"batch": batch, "learning_rate": learning_rate, "noise": noise, "distill": distill}
    recipe = TrainConfig.parse({"epochs": max(epochs, 1), **fields})
    if distill and not epochs:
        raise ConfigError(
            f"--distill {distill:g} is about training, and --epochs is 0; give some, or leave it out"
        )
    data, task = data_of(stored, dataset, data_dir)

    def rounds_of(number: int) -> Path:
        """What the checkpoint of a round is called after."""
        return out.with_name(f"{out.stem}.round-{number + 1}{out.suffix}")

    with stages() as stage:

        def trained(made: Classifier, number: int) -> History:
            progress = stage(f"train, round {number + 1} of {rounds}")
            config = recipe.with_(seed=seed + number)
            teacher = stored.model if distill else None
            with resumable(rounds_of(number)) as checkpoint:
                return fit(
                    made, data, config, progress=progress, device=device, teacher=teacher, checkpoint=checkpoint
                )

        done = run(stored.model, plan, data, trained if epochs else None)
    if tolerance is not None:
        console.print(f"{done.tried} models were evaluated on the validation split")
    before, after = (_taken(one, data, design, seed) for one in (stored.model, done.model))
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for column in ("", "before", "after"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, (shown, value) in before.items():
        now, left = after[name]
        share = f"  {100 * left / value:.0f} %" if value and left != value else ""
        table.add_row(name, shown, now + share)
    console.print(table)
    chosen: dict[str, Any] = {part: getattr(plan, part) for part in plan.parts} | {"criterion": criterion}
    chosen |= {"scope": scope, "rounds": rounds, "schedule": schedule, "tolerance": tolerance, "from": model.name}
    info = {name: value for name, value in stored.info.items() if name not in ("study", "key", "time_s")}
    info |= {"task": task, "pruned": chosen}
    if done.histories:
        info["pruned_training"] = recipe.model_dump(mode="json")
        info["pruned_history"] = [vars(history) for history in done.histories]
    save_and_report(out, StoredModel(done.model, stored.scheme, info), data, device)
    for number in range(rounds):
        checkpoint_of(rounds_of(number)).unlink(missing_ok=True)


def _taken(model: Classifier, data: SequenceDataset, design: str, seed: int) -> dict[str, tuple[str, float]]:
    """What a model takes, as it is shown and as a number."""
    from imc_ssm.analysis import complexity
    from imc_ssm.chip import compile
    from imc_ssm.costs import cost
    from imc_ssm.pruning import sparsity
    from imc_ssm.quantization import calibration_batch, formats_of
    from imc_ssm.units import quantity

    config = model.config
    counts = [config.layer_of(i).state_counts(heads) for i, heads in enumerate(config.widths)]
    zeros = 100 * sparsity(model)
    numbers = {
        "heads": sum(config.widths),
        "complex states": sum(map(sum, counts)),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    out = {name: (f"{value:,}", float(value)) for name, value in numbers.items()}
    out["weights that are 0"] = (f"{zeros:.1f} %", 0.0)
    formats, graph = formats_of(model), model.graph()
    paths = {parameter.name for parameter in graph.parameters} | {signal.name for signal in graph.signals[:-1]}
    chip = paths <= set(formats)
    given: Any = model
    if chip:
        calibration = calibration_batch(data, config.width, seed=seed)
        given = compile(model, design, *calibration)
    measures = complexity(given) if chip else complexity(model, data.time)
    for name, title in (("model_size", "model size, bit"), ("macs", "MACs"), ("ace", "ACE")):
        out[title] = (f"{int(measures[name]):,}", float(measures[name]))
    if chip:
        ds = cost(given)
        out["ADC conversions"] = (f"{int(measures['conversions']):,}", float(measures["conversions"]))
        out["words, bit"] = (f"{int(ds['memory'].sum()):,}", float(ds["memory"].sum()))
        out[f"tiles of {design}"] = (f"{int(ds['tiles'])}", float(ds["tiles"]))
        out["places used on them"] = (f"{100 * float(ds['utilisation']):.2f} %", float(ds["utilisation"]))
        out["energy of the cells"] = (quantity(float(ds["energy"].sel(component="cells")), "J"), 0.0)
        out["energy"] = (quantity(float(ds["energy_total"]), "J"), float(ds["energy_total"]))
        out["latency"] = (quantity(float(ds["latency_total"]), "s"), float(ds["latency_total"]))
    return out
