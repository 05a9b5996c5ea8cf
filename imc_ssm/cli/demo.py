"""The command `demo`: the whole way, as a study of one seed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from imc_ssm.cli.inputs import design_at, writable_result
from imc_ssm.cli.options import Chips, DesignName, Seed, Times
from imc_ssm.cli.report import on_first_step, stages, write_result
from imc_ssm.errors import ImcSsmError

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option(help="Dataset to write (.nc); the figure goes beside it.")] = Path(
        "results/demo.nc"
    ),
    design: DesignName = "pcm-256",
    chips: Chips = 10,
    times: Times = None,
    seed: Seed = 0,
) -> None:
    """The whole way on the digits, in a few minutes: train, quantize, deploy, one dataset and one picture.

    Interrupted, it leaves a hidden folder beside --out; the same command goes on from there. Computed on the CPU.
    """
    from imc_ssm import results
    from imc_ssm.study import Workplace, run
    from imc_ssm.study.demo import VARIABLES, build

    writable_result(out)
    _, seconds = design_at(design, times)
    title = f"S4D on digits, deployed on {design}"
    study = build("demo", design, title=title, chips=chips, times=seconds, seeds=(seed,))
    place = Workplace(study, out.with_name(f".{out.name}.study"))
    (experiment,) = study.experiments
    with stages() as stage:
        failures = run(
            place, experiment, experiment.cells(), stage=on_first_step(stage), finished=lambda cell: None
        )
    if failures:
        raise ImcSsmError(f"{failures[0].cell.label}: {failures[0].error}")
    whole = results.load(place.result_path(experiment))
    ds = whole[list(VARIABLES)].sel(seed=seed, drop=True)
    ds.attrs = {name: whole.attrs[name] for name in ("title", "n_test")}
    config = {
        "design": design,
        "chips": chips,
        "times": seconds,
        "study": json.loads(whole.attrs["configuration"]),
    }
    ds.attrs |= results.provenance(config, seed, float(whole.attrs["compute_time_s"]))
    write_result(ds, out)
    shutil.rmtree(place.folder)
