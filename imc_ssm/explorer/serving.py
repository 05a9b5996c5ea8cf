"""From a dataset to a page: in a notebook, in a browser from this machine, or as one file."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from typing import Any

import xarray as xr

from imc_ssm.errors import ConfigError
from imc_ssm.explorer.points import Points
from imc_ssm.explorer.views import View, view_of

__all__ = ["explore", "server_of"]


def needed(*packages: str) -> None:
    """`ConfigError` that names the extra, unless all can be imported."""
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ConfigError(
                f"the explorer needs {package}, which is not installed ({error}); pip install 'imc-ssm[explore]'"
            ) from None


def explore(
    ds: xr.Dataset,
    *,
    over: Sequence[str] | None = None,
    x: str | None = None,
    y: str | None = None,
    colour: str | None = None,
    source: str = "",
) -> Any:
    """Explore a result or a sweep: a page for a notebook (a Panel object; `.show()` opens it in a browser).

        imc_ssm.explore(ds)
        imc_ssm.explore(ds, x="latency_total", y="accuracy@1d:worst", colour="design.adc.bits")

    Points are all combinations of what was varied; `over`: the dimensions whose every value is a point. `x`, `y`:
    quantities (`imc_ssm.explorer.Quantity`), `colour`: a field or a quantity; None: a cost, a metric, the first
    field. Nothing is loaded from elsewhere.

    Raises `ConfigError` where there is nothing to explore, for a quantity that is not there, and without the
    packages of the extra `explore`.
    """
    needed("panel", "bokeh")
    import panel as pn

    from imc_ssm.explorer.page import Page

    points = Points(ds, over)
    first = view_of(points, x, y, colour)
    pn.extension("tabulator", inline=True)
    return Page(points, first, source).view


def server_of(points: Points, first: View | None = None, *, port: int = 0, source: str = "") -> Any:
    """A server on this machine alone, not started: `.port`, `.start()`, `.io_loop.start()`, `.stop()`.

    Every visitor has a page of their own. `first` and `source`: as `Page` takes them; `port`: 0 for any that is
    free. Raises `ConfigError` where the port is taken, and without the packages of the extra `explore`.
    """
    needed("panel", "bokeh")
    import panel as pn

    from imc_ssm.explorer.page import Page

    pn.extension("tabulator")
    Page(points, first, source)  # all is loaded before anybody waits, and what is wrong shows here

    def page() -> Any:
        return Page(points, first, source).view

    title = f"{points.title} - imc-ssm"
    try:
        made = pn.io.server.get_server(
            {"/": page}, port=port, address="127.0.0.1", start=False, show=False, title={"/": title}
        )
    except OSError as error:
        raise ConfigError(f"port {port} cannot be opened: {error.strerror}; give another, or 0 for any") from None
    logging.getLogger("bokeh.server").setLevel(logging.ERROR)
    made.io_loop.asyncio_loop.set_exception_handler(_but_for_those_who_left)
    return made


def _but_for_those_who_left(loop: Any, context: dict[str, Any]) -> None:
    """A page that is closed while something is sent to it is no error."""
    from tornado.websocket import WebSocketClosedError

    if not isinstance(context.get("exception"), WebSocketClosedError):
        loop.default_exception_handler(context)
