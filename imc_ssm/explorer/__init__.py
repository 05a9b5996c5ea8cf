"""A page about a result: points in the plane of two quantities, their front, and what a point is made of.

`explore(ds)` shows it in a notebook, `imc-ssm explore RESULTS` serves it to a browser on this machine, `report`
writes one file that opens without anything. `Points` is what they show, without a browser: a dataset as points,
one number a point for every `Quantity`, filters and fronts; `breakdown`, `ageing`, `design_of` and `command_of`
say of one point where its energy goes, how it ages, which chip it is and how to make it again.

The packages of the extra `explore` are imported when a page or a report is made.
"""

from imc_ssm.explorer.choice import ageing, breakdown, command_of, design_of, toml_of
from imc_ssm.explorer.points import Points
from imc_ssm.explorer.quantities import Quantity
from imc_ssm.explorer.serving import explore, server_of
from imc_ssm.explorer.sources import opened, together
from imc_ssm.explorer.static import report

__all__ = [
    "Points",
    "Quantity",
    "ageing",
    "breakdown",
    "command_of",
    "design_of",
    "explore",
    "opened",
    "report",
    "server_of",
    "together",
    "toml_of",
]
