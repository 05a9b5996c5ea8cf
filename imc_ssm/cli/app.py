"""The application: its commands, in the order in which the help lists them."""

from __future__ import annotations

from typing import Annotated

import typer

from imc_ssm.cli.advising import advise
from imc_ssm.cli.demo import demo
from imc_ssm.cli.devices import devices
from imc_ssm.cli.experiment import experiment
from imc_ssm.cli.exploring import explore
from imc_ssm.cli.exporting import export
from imc_ssm.cli.hardware import cost, deploy
from imc_ssm.cli.importing import import_checkpoint
from imc_ssm.cli.inspection import inspect
from imc_ssm.cli.learning import quantize, train
from imc_ssm.cli.listing import data
from imc_ssm.cli.pruning import prune
from imc_ssm.cli.report import console
from imc_ssm.cli.showing import show
from imc_ssm.cli.sweeping import sweep

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="State-space models on analog in-memory-computing chips: train, quantize, deploy, and see accuracy, "
    "energy, latency and area of the same chip.",
)


@app.callback(invoke_without_command=True)
def _version(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        from imc_ssm import __version__

        console.print(__version__)
        raise typer.Exit


for command in (demo, train, quantize, prune, inspect, deploy, cost, advise, export, show, explore, data):
    app.command()(command)
app.command("import")(import_checkpoint)
app.add_typer(devices, name="devices")
app.add_typer(experiment, name="experiment")
app.add_typer(sweep, name="sweep")
