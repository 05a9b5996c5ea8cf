"""The commands that put models on chips: `deploy` and `cost`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from imc_ssm.cli.compared import print_baselines
from imc_ssm.cli.inputs import data_of, design_at, writable, writable_result
from imc_ssm.cli.macros import cost_of_macro
from imc_ssm.cli.options import Chips, DataDir, DesignName, Device, HeadsPerTile, Recurrence, Seed, TaskName, Times
from imc_ssm.cli.report import console, print_whole, stages, updates, write_result, yield_table
from imc_ssm.cli.resume import checkpoint_of, resumable
from imc_ssm.cli.timing import check_timing, print_timing
from imc_ssm.errors import ConfigError, FileError
from imc_ssm.units import quantity

if TYPE_CHECKING:
    from imc_ssm.chip.streaming_noise import Within
    from imc_ssm.chip.subsets import Subset

__all__ = ["cost", "deploy"]


def deploy(
    model: Annotated[Path, typer.Argument(help="Quantized model file, as written by `quantize`.")],
    out: Annotated[Path, typer.Option(help="Dataset to write (.nc); the figure goes beside it.")],
    design: DesignName = "pcm-256",
    chips: Chips = 10,
    times: Times = None,
    sequences: Annotated[
        int | None,
        typer.Option(min=1, help="Only so many test sequences, drawn by the seed: quicker; default: all."),
    ] = None,
    subset: Annotated[
        str, typer.Option(help="Those of --sequences: the same for all chips (paired), or each its own (fresh).")
    ] = "paired",
    compensation: Annotated[
        str | None,
        typer.Option(help="Of drift: none, global, tile or column, in place of the design's."),
    ] = None,
    refresh: Annotated[
        str | None, typer.Option(help="Program the chips again at this interval, such as 7d; default: never.")
    ] = None,
    recalibrate: Annotated[
        str | None,
        typer.Option(help="Measure the compensation at this interval, such as 1d; default: at every reading."),
    ] = None,
    within: Annotated[
        str,
        typer.Option(help="Noise faster than a sequence: held, correlated (by its spectrum) or white."),
    ] = "held",
    step: Annotated[
        str | None,
        typer.Option(help="Time from one step to the next, such as 1ms; default: that of its analog products."),
    ] = None,
    recurrence: Recurrence = "digital",
    heads_per_tile: HeadsPerTile = 1,
    deployment: Annotated[
        Path | None,
        typer.Option(
            help="Also write the deployment (.safetensors): model, chip and ranges as plain data, for `cost`, "
            "`show` and Deployment.load."
        ),
    ] = None,
    yield_: Annotated[
        float | None,
        typer.Option(
            "--yield", help="Say which share of the chips is above this accuracy, percent, at each time."
        ),
    ] = None,
    dataset: TaskName = None,
    data_dir: DataDir = None,
    device: Device = "cpu",
    seed: Seed = 0,
) -> None:
    """Compile a quantized model onto a chip design, program chips, and evaluate them over time."""
    from imc_ssm.analysis import chip_yield
    from imc_ssm.chip import compile, evaluate
    from imc_ssm.costs import cost as price
    from imc_ssm.modelfile import load_model
    from imc_ssm.plots import draw
    from imc_ssm.pretrained import model_file
    from imc_ssm.quantization import calibration_batch
    from imc_ssm.results import provenance
    from imc_ssm.study.jobs.cost import cost_of

    writable_result(out)
    if deployment is not None:
        writable(deployment, ".safetensors")
    start = time.perf_counter()
    chip, seconds = design_at(design, times, compensation=compensation, refresh=refresh, recalibrate=recalibrate)
    model = model_file(model)
    stored = load_model(model)
    data, task = data_of(stored, dataset, data_dir)
    if yield_ is not None and data.goal != "classes":
        raise ConfigError(f"--yield {yield_:g} is a share of chips above an accuracy; {task} asks for values")
    if yield_ is not None and not 0 <= yield_ <= 100:
        raise ConfigError(f"--yield {yield_:g}; an accuracy is from 0 to 100 percent")
    calibration = calibration_batch(data, stored.model.config.width, seed=0)
    where: Any = {"recurrence": recurrence, "heads_per_tile": heads_per_tile}
    placed = compile(stored.model, chip, *calibration, **where, name=model.stem)
    price(placed)  # a converter without a price shows before the long part
    console.print(placed.table())
    with stages() as stage, resumable(out) as checkpoint:
        progress = stage(f"evaluate {chips} chips")
        run = evaluate(
            placed,
            data,
            chips,
            seconds,
            seed=seed,
            sequences=sequences,
            subset=cast("Subset", subset),
            refresh=refresh,
            recalibrate=recalibrate,
            within=cast("Within", within),
            step=step,
            device=device,
            progress=progress,
            checkpoint=checkpoint,
        )
    if yield_ is not None:
        share = chip_yield(run, yield_)
        console.print(yield_table(share))
        run = run.merge(share)
    ds = run.merge(cost_of(placed)).expand_dims(model=[placed.name])
    ds.attrs = {"title": f"{model.name} on {chip.design.name}, {task}"}
    ds.attrs["n_test"] = len(data.split("test")) if sequences is None else sequences
    config = {"model": model.name, "task": task, "design": chip.design.model_dump(mode="json"), "chips": chips}
    config |= {} if sequences is None else {"sequences": sequences}
    config |= {} if subset == "paired" else {"subset": subset}
    upkeep = {"refresh": refresh, "recalibrate": recalibrate}
    config |= {name: interval for name, interval in upkeep.items() if interval is not None}
    config |= {} if within == "held" else {"within": within, "step": step}
    config |= {} if recurrence == "digital" else where
    ds.attrs |= provenance({**config, "times": seconds, "info": stored.info}, seed, time.perf_counter() - start)
    if deployment is not None:
        placed.save(deployment)
    write_result(ds, out, draw=draw)
    checkpoint_of(out).unlink(missing_ok=True)


def cost(
    model: Annotated[
        Path | None,
        typer.Argument(help="Quantized model file, or a deployment from `deploy`.", show_default=False),
    ] = None,
    macro: Annotated[
        str | None,
        typer.Option(
            help="In place of a model: a macro of a paper, by shipped name (devices/macros) or as a .toml of "
            "your own."
        ),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="With --macro: also what was published, and predicted over it.")
    ] = False,
    constants: Annotated[
        Path | None,
        typer.Option(help="Constants of the cost model of your own (.toml), in place of shipped ones."),
    ] = None,
    design: Annotated[
        str | None,
        typer.Option(
            help="Chip design: a name from `imc-ssm devices`, or a path to a .toml; default: the deployment's, "
            "pcm-256 for a model."
        ),
    ] = None,
    operations: Annotated[
        bool, typer.Option("--operations", help="Also print every operation that was counted.")
    ] = False,
    baselines: Annotated[
        bool,
        typer.Option("--baselines", help="Also the same model on digital machines: accelerators, arrays, a core."),
    ] = False,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="Also what runs when: streaming (one sample after the other) or throughput (pipelined)."
        ),
    ] = None,
    sample_rate: Annotated[
        float | None,
        typer.Option(help="Also whether it keeps up with so many samples a second, and at what average power."),
    ] = None,
    recurrence: Recurrence = "digital",
    heads_per_tile: HeadsPerTile = 1,
    out: Annotated[Path | None, typer.Option(help="Dataset to write (.nc).")] = None,
    dataset: TaskName = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
) -> None:
    """Energy, latency, area and memory of one inference, by component, without evaluating accuracy.

    Computed on the CPU, wherever the model was trained. With --macro in place of a model: what a published macro,
    or one that you describe, takes per product.
    """
    if macro is not None:
        timed = schedule is not None or sample_rate is not None
        if model is not None or design is not None or operations or baselines or dataset is not None or timed:
            raise ConfigError(f"--macro {macro} takes the place of a model and its design; leave those out")
        return cost_of_macro(macro, published=published, constants=constants, out=out, seed=seed)
    if model is None:
        raise ConfigError("no model was given; give a quantized model file, a deployment, or --macro with a macro")
    if published:
        raise ConfigError("--published belongs to --macro; give --macro with a macro")
    from imc_ssm.chip import Deployment, compile
    from imc_ssm.costs import by_operator, constant_table, merit_table, operation_table, swings, table
    from imc_ssm.costs import cost as price
    from imc_ssm.devices import load_constants
    from imc_ssm.graph import Recurrence as Recurrent
    from imc_ssm.modelfile import load_model
    from imc_ssm.pretrained import model_file
    from imc_ssm.quantization import calibration_batch
    from imc_ssm.results import provenance, save

    if out is not None:
        writable(out, ".nc")
    check_timing(schedule, sample_rate, out)
    laws = load_constants(constants)
    model = model_file(model)
    try:
        placed = Deployment.load(model)
    except FileError as error:
        if "'model' file" not in str(error):
            raise
        stored = load_model(model)
        data, _ = data_of(stored, dataset, data_dir)
        calibration = calibration_batch(data, stored.model.config.width, seed=0)
        where: Any = {"recurrence": recurrence, "heads_per_tile": heads_per_tile}
        placed = compile(stored.model, design or "pcm-256", *calibration, **where, name=model.stem)
    else:
        if (recurrence, heads_per_tile) != ("digital", 1):
            raise ConfigError(
                f"{model} is a deployment, whose recurrences are placed already; leave --recurrence and "
                "--heads-per-tile out or give the quantized model"
            )
        if design is not None:
            raise ConfigError(
                f"{model} is a deployment, which has its design ({placed.design.name}) already; "
                "leave --design out or give the quantized model"
            )
    ds = price(placed, constants=laws)
    if operations:
        print_whole(operation_table(placed, constants=laws))
    console.print(table(ds))
    per_inference = quantity(float(ds["energy_total"]), "J")
    console.print(
        f"{per_inference} and {quantity(float(ds['latency_total']), 's')} per inference, {placed.steps} steps"
    )
    console.print(merit_table(ds))
    console.print(constant_table(swings(placed, constants=laws), laws.entries))
    for operator, parts in by_operator(placed, constants=laws).items():
        if isinstance(operator, Recurrent):
            joules = sum(parts.values())
            share = f"{100 * joules / float(ds['energy_total']):.1f} %"
            slow = "" if operator.periods is None else f"; {updates(operator.periods)}"
            console.print(f"{operator.name}: {quantity(joules, 'J')}, {share} of the energy{slow}", soft_wrap=True)
    if baselines:
        print_baselines(placed, laws)
    print_timing(placed, schedule, sample_rate, out, laws)
    if out is not None:
        config = {"model": model.name, "design": placed.design.model_dump(mode="json")}
        ds.attrs |= {"model": placed.name, **provenance(config, seed)}
        save(ds, out)
        console.print(f"wrote {out}", soft_wrap=True)
