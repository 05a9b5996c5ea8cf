"""The page's figures, in Bokeh: points with their front, and what a chosen point is made of."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from imc_ssm.explorer.choice import Ageing, Breakdown
from imc_ssm.explorer.points import POINT, Points
from imc_ssm.explorer.quantities import label_of
from imc_ssm.explorer.views import CHOSEN, FRONT, MISSING, NAMED, View, colours_of
from imc_ssm.plots.reading import COMPONENT_COLOURS, GREY, MODELS

if TYPE_CHECKING:
    from bokeh.models import ColumnDataSource
    from bokeh.plotting import figure as Figure

__all__ = ["ageing_figure", "breakdown_figure", "scatter", "shares_figure"]

_FONT = "13px"


def _styled(figure: Any) -> Any:
    for axis in (*figure.xaxis, *figure.yaxis):
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = _FONT
        axis.major_label_text_font_size = "12px"
    figure.title.text_font_size = "14px"
    figure.toolbar.logo = None
    figure.grid.grid_line_alpha = 0.5
    figure.outline_line_color = None
    figure.min_border_right = 20
    return figure


def scatter(
    points: Points, view: View, mask: np.ndarray[Any, Any]
) -> tuple[Figure, ColumnDataSource, ColumnDataSource]:
    """The plane of two quantities; the source of its points, whose column "point" says which one a row is, and
    that of the ring about the chosen one ("x", "y"), which has none yet."""
    from bokeh.models import BasicTicker, ColorBar, ColumnDataSource, HoverTool, Legend, LegendItem, TapTool
    from bokeh.plotting import figure
    from bokeh.transform import linear_cmap

    x, y = points.scaled(view.x), points.scaled(view.y)
    drawn = mask & np.isfinite(x.values) & np.isfinite(y.values)
    drawn &= (x.values > 0) | (not view.log_x)
    drawn &= (y.values > 0) | (not view.log_y)
    rows = np.flatnonzero(drawn)
    data: dict[str, Any] = {POINT: rows, "x": x.values[rows], "y": y.values[rows]}
    tips = [("point", f"@{POINT}"), (_tip(x.text), "@x{0.0000 a}"), (_tip(y.text), "@y{0.0000 a}")]
    for place, field in enumerate(points.varied):
        words = points.labels(field.name)
        data[f"f{place}"] = [words[row] for row in rows]
        tips.append((field.text, f"@f{place}"))
    plot = figure(
        height=460,
        sizing_mode="stretch_width",
        tools="pan,wheel_zoom,box_zoom,reset,save",
        active_drag="box_zoom",
        x_axis_type="log" if view.log_x else "linear",
        y_axis_type="log" if view.log_y else "linear",
        x_axis_label=_lines(x.text, 90),
        y_axis_label=_lines(y.text, 46),
        name="plane",
    )
    named, numbers = colours_of(points, view.colour)
    colour: Any = MODELS[0]
    if named:
        assert view.colour is not None
        words = points.labels(view.colour)
        data["colour"] = [named.get(words[row], MISSING) for row in rows]
        colour = "colour"
    elif numbers is not None:
        data["number"] = numbers[rows]
        there = data["number"][np.isfinite(data["number"])]
        low, high = (float(there.min()), float(there.max())) if there.size else (0.0, 1.0)
        colour = linear_cmap("number", "Viridis256", low, high if high > low else low + 1.0, nan_color=MISSING)
    source = ColumnDataSource(data)
    look: dict[str, Any] = {"size": 9 if len(rows) < 1000 else 6, "line_color": "white", "line_width": 0.5}
    dots = plot.scatter("x", "y", source=source, fill_color=colour, fill_alpha=0.85, **look)
    dots.nonselection_glyph = dots.glyph
    dots.selection_glyph = dots.glyph
    plot.add_tools(HoverTool(renderers=[dots], tooltips=tips), TapTool(renderers=[dots]))
    if named:
        items = _legend(plot, named, {words[row] for row in rows})
        plot.add_layout(
            Legend(items=items, title=_lines(_title(points, view.colour), 24), name="colours"), "right"
        )
    marks = _front(plot, points, view, drawn, x.values, y.values)
    ring = ColumnDataSource({"x": [], "y": []})
    look = {"fill_color": None, "line_color": CHOSEN, "line_width": 3}
    marks.append(LegendItem(label="chosen", renderers=[plot.scatter("x", "y", source=ring, size=19, **look)]))
    plot.add_layout(Legend(items=marks, orientation="horizontal", margin=0, padding=2), "above")
    for legend in plot.legend:
        legend.label_text_font_size = legend.title_text_font_size = "12px"
        legend.title_text_font_style = "normal"
        legend.border_line_color = None
    if not named and numbers is not None:
        bar = ColorBar(
            color_mapper=colour["transform"],
            title=_lines(points.scaled(view.colour or "").text, 90),
            ticker=BasicTicker(),
        )
        bar.title_text_font_size, bar.title_text_font_style = "12px", "normal"
        plot.add_layout(bar, "above")
    return _styled(plot), source, ring


def _lines(text: str, width: int) -> str:
    return textwrap.fill(text, width)


def _tip(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _title(points: Points, name: str | None) -> str:
    return next((field.text for field in points.varied if field.name == name), str(name))


def _legend(plot: Any, named: dict[str, str], there: set[str]) -> list[Any]:
    from bokeh.models import LegendItem

    shown = [label for label in named if label in there]
    items = []
    for label in shown[:NAMED]:
        # A renderer of its own without a point: the legend's patch, whatever is filtered.
        mark = plot.scatter([np.nan], [np.nan], size=9, fill_color=named[label], line_color=None)
        items.append(LegendItem(label=label or "-", renderers=[mark]))
    if len(shown) > NAMED:
        mark = plot.scatter([np.nan], [np.nan], size=9, fill_color=MISSING, line_color=None)
        items.append(LegendItem(label=f"{len(shown) - NAMED} others", renderers=[mark]))
    return items


def _front(
    plot: Any,
    points: Points,
    view: View,
    drawn: np.ndarray[Any, Any],
    x: np.ndarray[Any, Any],
    y: np.ndarray[Any, Any],
) -> list[Any]:
    """Rings about the points of the front and, where the axes are the goals, the line of what can be had."""
    from bokeh.models import LegendItem

    if not view.minimise and not view.maximise:
        return []
    front = points.front(view.minimise, view.maximise, drawn)
    front = front[np.argsort(x[front], kind="stable")]
    found = []
    if view.plane:
        mode = "after" if view.x in view.minimise else "before"
        found.append(plot.step(x[front], y[front], mode=mode, color=FRONT, line_width=1.5, line_dash="dashed"))
    rings = plot.scatter(x[front], y[front], size=13, fill_color=None, line_color=FRONT, line_width=1.5)
    return [LegendItem(label=f"front, {len(front)}", renderers=[rings, *found])]


def breakdown_figure(parts: Breakdown | None) -> Figure:
    """A bar a component, the largest above, with the range of the constants where there is one."""
    from bokeh.models import ColumnDataSource, Whisker
    from bokeh.plotting import figure

    if parts is None:
        return _empty("Energy by component", "no components here")
    names = list(reversed(parts.components))
    plot = figure(
        y_range=names,
        height=300,
        sizing_mode="stretch_width",
        tools="hover,save",
        x_axis_label=_lines(parts.text, 40),
        title=f"{parts.total:.4g} {parts.unit} in all",
        tooltips=[("", "@name"), ("", "@value{0.000 a}"), ("range", "@low{0.000 a} to @high{0.000 a}")],
    )
    source = ColumnDataSource(
        {
            "name": list(parts.components),
            "value": list(parts.values),
            "low": list(parts.low),
            "high": list(parts.high),
            "colour": [COMPONENT_COLOURS.get(name, GREY) for name in parts.components],
        }
    )
    plot.hbar(y="name", right="value", height=0.65, color="colour", source=source)
    if parts.low != parts.high:
        plot.add_layout(Whisker(source=source, base="name", lower="low", upper="high", dimension="width"))
    # Where the upper end of a range is far away, its whisker leaves the figure, so that bars can be compared.
    plot.x_range.start, plot.x_range.end = 0, 1.05 * min(max(parts.high), 2.5 * max(parts.values))
    plot.ygrid.grid_line_color = None
    return _styled(plot)


def ageing_figure(found: Ageing | None) -> Figure:
    """Every chip over time, their mean, and the digital model."""
    from bokeh.models import FixedTicker, Legend, LegendItem
    from bokeh.plotting import figure

    if found is None:
        return _empty("Over time", "no chips over time here")
    places = np.log10(np.maximum(found.times, 1e-9)) if len(found.times) > 1 else np.array([0.0])
    plot = figure(
        height=300,
        sizing_mode="stretch_width",
        tools="save",
        y_axis_label=_lines(found.text, 32),
        x_axis_label="Time since programming",
        title=f"Over time, {len(found.values)} chips",
    )
    plot.xaxis.ticker = FixedTicker(ticks=places.tolist())
    plot.xaxis.major_label_overrides = {
        (int(p) if float(p).is_integer() else float(p)): label_of("time", t)
        for p, t in zip(places, found.times, strict=True)
    }
    each = plot.multi_line(
        [places.tolist()] * len(found.values), found.values.tolist(), color=MODELS[0], alpha=0.35, line_width=1
    )
    dots = plot.scatter(
        np.tile(places, len(found.values)), found.values.ravel(), size=4, color=MODELS[0], alpha=0.5
    )
    mean = plot.line(places, np.nanmean(found.values, 0), color=MODELS[0], line_width=3)
    items = [LegendItem(label="a chip", renderers=[each, dots]), LegendItem(label="mean", renderers=[mean])]
    if found.digital is not None:
        line = plot.line(
            [places.min() - 0.1, places.max() + 0.1],
            [found.digital] * 2,
            color=GREY,
            line_width=2,
            line_dash="dashed",
        )
        items.append(LegendItem(label="digital", renderers=[line]))
    plot.add_layout(
        Legend(items=items, orientation="horizontal", border_line_color=None, margin=0, padding=2), "above"
    )
    return _styled(plot)


def shares_figure(found: Ageing | None) -> Figure:
    """Which share of the chips is at least so good, a line a time (at most four)."""
    from bokeh.models import Legend, LegendItem
    from bokeh.plotting import figure

    if found is None or len(found.values) < 2:
        return _empty("Over chips", "fewer than two chips here")
    better = "at least" if found.larger else "at most"
    plot = figure(
        height=300,
        sizing_mode="stretch_width",
        tools="save",
        x_axis_label=_lines(found.text, 40),
        y_axis_label=f"Chips {better} this good (%)",
        title="Over chips",
        y_range=(0, 105),
    )
    plot.xaxis.ticker.desired_num_ticks = 4
    times = np.unique(np.linspace(0, len(found.times) - 1, min(4, len(found.times))).round().astype(int))
    items = []
    for place, at in enumerate(times):
        values = np.sort(found.values[:, at][np.isfinite(found.values[:, at])])
        if not values.size:
            continue
        share = (
            100 * (np.arange(values.size, 0, -1) if found.larger else np.arange(1, values.size + 1)) / values.size
        )
        mode = "before" if found.larger else "after"
        line = plot.step(values, share, mode=mode, color=MODELS[place], line_width=2.5)
        dots = plot.scatter(values, share, color=MODELS[place], size=6)
        items.append(LegendItem(label=label_of("time", found.times[at]), renderers=[line, dots]))
    plot.add_layout(
        Legend(items=items, orientation="horizontal", border_line_color=None, margin=0, padding=2), "above"
    )
    return _styled(plot)


def _empty(title: str, why: str) -> Figure:
    from bokeh.plotting import figure

    plot = figure(height=300, sizing_mode="stretch_width", tools="", title=title, x_range=(0, 1), y_range=(0, 1))
    plot.text([0.5], [0.5], text=[why], text_align="center", text_color=GREY, text_font_size=_FONT)
    plot.axis.visible = plot.grid.visible = False
    return _styled(plot)
