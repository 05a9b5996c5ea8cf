"""The page: widgets about the plane of two quantities, and what a click shows. All that it says is computed
elsewhere."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from imc_ssm.errors import ImcSsmError
from imc_ssm.explorer.choice import ageing, breakdown, command_of, costs_of, described, design_of, toml_of
from imc_ssm.explorer.figures import ageing_figure, breakdown_figure, scatter, shares_figure
from imc_ssm.explorer.points import POINT, Points, name_of, table_of
from imc_ssm.explorer.quantities import OVER, Quantity, label_of, usual
from imc_ssm.explorer.views import View, view_of

__all__ = ["Page"]

NONE = "(none)"
LISTED = 8
"""Numbers that are ticked one by one; more get a slider."""
ROWS = 12
"""Rows of the table on one page."""
_WIDE = {"sizing_mode": "stretch_width"}


class _Axis:
    """The choice of a quantity, and of what is taken along every dimension that it has beside the points."""

    def __init__(self, page: Page, label: str, quantity: Quantity, log: bool) -> None:
        import panel as pn

        self.page, points = page, page.points
        options = {_option(points, name): name for name in points.names}
        self.select = pn.widgets.Select(label=label, options=options, value=quantity.name, **_WIDE)
        self.log = pn.widgets.Checkbox(label="logarithmic", value=log)
        self.inner = pn.FlexBox(margin=0, **_WIDE)
        self.choices: dict[str, Any] = {}
        self._fill(dict(quantity.at))
        self.select.param.watch(self._changed, "value")
        self.log.param.watch(lambda _: page.draw(), "value")
        self.view = pn.Column(self.select, self.inner, self.log, margin=0, **_WIDE)

    def _fill(self, at: Mapping[str, str]) -> None:
        import panel as pn

        self.choices = {}
        for dim, labels in self.page.points.choices(self.select.value).items():
            first = usual(dim, labels)
            over = [how for how in OVER if how != "sum" or dim == "component"]
            options = list(dict.fromkeys([first, *labels, *over] if len(labels) <= 60 else [first, *over]))
            value = at.get(dim, first)
            choice = pn.widgets.Select(label=dim, options=options, value=value, width=128)
            choice.param.watch(lambda _: self.page.axes_changed(), "value")
            self.choices[dim] = choice
        self.inner[:] = list(self.choices.values())

    def _changed(self, _: Any) -> None:
        self._fill({})
        self.page.axes_changed()

    @property
    def quantity(self) -> Quantity:
        """What is chosen."""
        name = self.select.value
        chosen = {dim: choice.value for dim, choice in self.choices.items()}
        return Quantity(name).with_(chosen, self.page.points.ds[name])


class Page:
    """Everything of one visitor: choices, filters, the chosen point. `view` is what is shown."""

    def __init__(self, points: Points, first: View | None = None, source: str = "") -> None:
        """`first`: what is shown at first; None: what `view_of` says. `source`: where the dataset lies, for the
        commands that make a point again."""
        import panel as pn

        self.points, self.source_name = points, source or "RESULTS"
        self.chosen: int | None = None
        first = first or view_of(points)
        names = [field.name for field in points.varied]
        self.silent = True
        self.x = _Axis(self, "Across", first.x, first.log_x)
        self.y = _Axis(self, "Up", first.y, first.log_y)
        options = {NONE: NONE} | {f.text: f.name for f in points.varied}
        options |= {_option(points, n): n for n in points.names if n not in names}
        self.colour = pn.widgets.Select(label="Colour", options=options, value=first.colour or NONE, **_WIDE)
        self.colour.param.watch(lambda _: self.draw(), "value")
        self.small = pn.widgets.MultiChoice(label="Minimise", placeholder="add", **_WIDE)
        self.large = pn.widgets.MultiChoice(label="Maximise", placeholder="add", **_WIDE)
        for goals in (self.small, self.large):
            goals.param.watch(lambda _: self.draw(), "value")
        self.filters = {field.name: self._filter(field) for field in points.varied}
        self.said = pn.pane.HTML(margin=(4, 10), **_WIDE)
        self.plane = pn.pane.Bokeh(margin=(0, 10), **_WIDE)
        self.table = pn.Column(margin=0, **_WIDE)
        self.cost = pn.widgets.RadioButtonGroup(options=costs_of(points), margin=(0, 10))
        self.cost.param.watch(lambda _: self.detail(), "value")
        self.card = pn.pane.HTML(**_WIDE)
        self.parts, self.ages, self.shares = (pn.pane.Bokeh(margin=(0, 6), **_WIDE) for _ in range(3))
        self.toml = pn.widgets.FileDownload(
            callback=self._toml, filename="point.toml", label="Design as TOML", color="primary", width=220
        )
        self.why = pn.pane.HTML(**_WIDE)
        self.command = pn.widgets.TextAreaInput(label="Make it again", rows=3, **_WIDE)
        self._set_goals(first.minimise, first.maximise)
        self.silent = False
        self.draw()
        self.view = self._layout()

    def _layout(self) -> Any:
        import panel as pn

        points = self.points
        about = f"{len(points)} points over {', '.join(points.over)}"
        head = pn.pane.HTML(
            f"<h2 style='margin:0'>{html.escape(points.title)}</h2>"
            f"<div style='color:#555'>{html.escape(about)}</div>",
            margin=(10, 10, 0, 10),
            **_WIDE,
        )
        side = pn.Column(
            _heading("Axes"),
            self.x.view,
            self.y.view,
            self.colour,
            _heading("Front"),
            self.small,
            self.large,
            *([_heading("Filter"), *self.filters.values()] if self.filters else []),
            width=310,
            margin=(0, 10, 0, 0),
        )
        detail = pn.Column(
            self.card,
            self.cost,
            pn.Row(self.parts, self.ages, self.shares, **_WIDE),
            pn.Row(self.toml, self.why, **_WIDE),
            self.command,
            **_WIDE,
        )
        main = pn.Column(
            self.said, self.plane, _heading("The chosen point"), detail, _heading("The front"), self.table, **_WIDE
        )
        return pn.Column(head, pn.Row(side, main, **_WIDE), **_WIDE)

    # What is chosen

    def _filter(self, field: Any) -> Any:
        import panel as pn

        if field.numeric and len(field.values) > LISTED:
            low, high = float(field.values[0]), float(field.values[-1])
            whole = all(float(value).is_integer() for value in field.values)
            kind = pn.widgets.IntRangeSlider if whole else pn.widgets.EditableRangeSlider
            ends = (int(low), int(high)) if whole else (low, high)
            own: dict[str, Any] = _WIDE | {"margin": (5, 20)}
            if not whole:  # its parts have margins of their own, which a stretched one adds to its width
                own = {"step": (high - low) / 200, "format": "0.000 a", "width": 260, "margin": (5, 10)}
            chosen = kind(label=field.text, start=ends[0], end=ends[1], value=ends, **own)
        else:
            labels = dict.fromkeys(self.points.labels(field.name))
            order = [label for value in field.values for label in labels if label == label_of(field.name, value)]
            chosen = pn.widgets.MultiChoice(label=field.text, options=order, placeholder="all", **_WIDE)
        # Sliders redraw once, where they are let go.
        chosen.param.watch(
            lambda _: self.draw(), "value_throttled" if "value_throttled" in chosen.param else "value"
        )
        return chosen

    @property
    def mask(self) -> np.ndarray[Any, Any]:
        """Which points pass the filters."""
        mask = np.ones(len(self.points), bool)
        for name, widget in self.filters.items():
            if isinstance(widget.value, tuple):
                mask &= self.points.kept({name: widget.value})
            elif widget.value:
                words = np.asarray(self.points.labels(name))
                mask &= np.isin(words, widget.value)
        return mask

    def _set_goals(self, minimise: Sequence[Quantity] = (), maximise: Sequence[Quantity] = ()) -> None:
        """What can be asked of the front: every quantity as it is, and the two axes as they are read.

        Those that are given are asked for; without any the axes, as far as anybody wants them large or small.
        """
        x, y = self.x.quantity, self.y.quantity
        points = self.points
        if not minimise and not maximise:
            minimise, maximise = points.goals(x, y)
        others = [Quantity(name) for name in points.names if points.is_goal(name)]
        options = {_option(points, q): str(q) for q in dict.fromkeys([x, y, *minimise, *maximise, *others])}
        for widget, goals in ((self.small, minimise), (self.large, maximise)):
            widget.param.update(options=options, value=[str(q) for q in goals])

    def axes_changed(self) -> None:
        """Another quantity on an axis: goals and scales follow."""
        self.silent = True
        self._set_goals()
        self.x.log.value = self.points.wide(self.x.quantity)
        self.y.log.value = self.points.wide(self.y.quantity)
        self.silent = False
        self.draw()

    @property
    def shown(self) -> View:
        """The view that the widgets say."""
        both = set(self.small.value) & set(self.large.value)  # wanted small and large: neither
        small, large = ([q for q in w.value if q not in both] for w in (self.small, self.large))
        return View(
            self.x.quantity,
            self.y.quantity,
            None if self.colour.value == NONE else self.colour.value,
            tuple(self.points.quantity(q) for q in small),
            tuple(self.points.quantity(q) for q in large),
            self.x.log.value,
            self.y.log.value,
        )

    # What is drawn

    def draw(self) -> None:
        """The plane, the front's table, and the chosen point: of a new front its middle."""
        if self.silent:
            return
        import pandas as pd  # type: ignore[import-untyped]

        view, mask, points = self.shown, self.mask, self.points
        x, y = points.numbers(view.x), points.numbers(view.y)
        here = mask & np.isfinite(x) & np.isfinite(y)
        goals = [*view.minimise, *view.maximise]
        front = points.front(view.minimise, view.maximise, here) if goals else np.flatnonzero(here)
        if self.chosen is None or not here[self.chosen]:
            self.chosen = int(front[len(front) // 2]) if len(front) else None
        plot, self.dots, self.ring = scatter(points, view, mask)
        self.dots.selected.on_change("indices", lambda _, __, new: self._tapped(new))
        self._mark()  # before the figure is there: what changes in it afterwards may overtake it
        self.plane.object = plot
        without = int(mask.sum() - here.sum())
        self.said.object = (
            f"{int(here.sum())} of {len(points)} points"
            + (f"; {without} have no number here" if without else "")
            + (f"; {len(front)} on the front" if goals else "")
            + ". Click one to see what it is made of; drag to zoom."
        )
        columns = list(dict.fromkeys([view.x, view.y, *goals]))
        self._list(pd.DataFrame(table_of(points, columns, front)))
        self.detail()

    def _mark(self) -> None:
        """The ring about the chosen point."""
        row = np.flatnonzero(self.dots.data[POINT] == self.chosen)
        self.ring.data = {name: self.dots.data[name][row] for name in ("x", "y")}

    def _list(self, rows: Any) -> None:
        """The table of the front; for other columns another one: Tabulator takes none while it is built."""
        import panel as pn

        if self.table and list(self.table[0].value.columns) == list(rows.columns):
            self.table[0].value = rows
            return
        made = pn.widgets.Tabulator(
            rows,
            disabled=True,
            show_index=False,
            pagination="local",
            page_size=ROWS,
            theme="simple",
            layout="fit_data",
            selectable=1,
            margin=(0, 10),
            stylesheets=[_SMALL],
            widths={name: _width(str(name), rows[name]) for name in rows},
            text_align="left",
            configuration={"columnDefaults": {"headerWordWrap": True}},
            **_WIDE,
        )
        made.on_click(lambda event: self.choose(int(made.value[POINT].iloc[event.row])))
        self.table[:] = [made]

    def _tapped(self, indices: list[int]) -> None:
        if indices:
            self.choose(int(self.dots.data[POINT][indices[0]]))

    def choose(self, point: int) -> None:
        """Show a point; the plane stays as it is, where somebody zoomed."""
        if point != self.chosen:
            self.chosen = point
            self._mark()
            self.detail()

    def detail(self) -> None:
        """What the chosen point is made of."""
        if self.silent:
            return
        points, at = self.points, self.chosen
        if at is None:
            self.card.object, self.command.value, self.why.object = "<i>no point passes the filters</i>", "", ""
            self.toml.disabled = True
            self.parts.object, self.ages.object, self.shares.object = (
                breakdown_figure(None),
                ageing_figure(None),
                shares_figure(None),
            )
            return
        rows = described(points, at)
        (numbers,) = table_of(points, [self.x.quantity, self.y.quantity], [at])
        rows |= {name: text for name, text in numbers.items() if name not in rows and name != POINT}
        cells = "".join(
            f"<span style='display:inline-block;margin:0 22px 4px 0'>"
            f"<span style='color:#555'>{html.escape(name)}</span> <b>{html.escape(str(text) or '-')}</b></span>"
            for name, text in rows.items()
        )
        found = ageing(points, at)
        self.parts.object = breakdown_figure(breakdown(points, at, self.cost.value) if self.cost.value else None)
        self.ages.object, self.shares.object = ageing_figure(found), shares_figure(found)
        try:
            design_of(points, at)
            self.why.object, self.toml.disabled = "", False
        except ImcSsmError as error:
            self.why.object, self.toml.disabled = f"No design: {html.escape(str(error))}", True
        self.toml.filename = f"point-{at}.toml"
        try:
            self.command.value = command_of(points, at, f"point-{at}.toml", self.source_name)
        except ImcSsmError as error:
            self.command.value = f"# {error}"
        self.card.object = f"<b>Point {at}</b><br>{cells}"

    def _toml(self) -> Any:
        from io import StringIO

        assert self.chosen is not None
        return StringIO(toml_of(design_of(self.points, self.chosen), f"{self.points.title}: point {self.chosen}"))


def _option(points: Points, quantity: str | Quantity) -> str:
    """A quantity in a list: its long name, and how it is written."""
    made = points.quantity(quantity)
    values = points.ds[made.name]
    said = name_of(values, 44)
    return f"{said} [{made}]" if said.lower().replace(" ", "_") != str(made) else said


def _width(header: str, values: Any) -> int:
    """px of a column: its longest value, its header on three lines at most."""
    longest = max(*map(len, header.split()), *(len(str(value)) for value in values), len(header) // 3, 2)
    return 36 + 8 * longest


def _heading(text: str) -> Any:
    import panel as pn

    return pn.pane.HTML(
        f"<div style='border-bottom:1px solid #ccc;font-weight:bold;margin-top:8px'>{text}</div>",
        margin=(4, 10),
        **_WIDE,
    )


_SMALL = """
:host .tabulator { font-size: 13px; }
:host .tabulator .tabulator-header .tabulator-col .tabulator-col-content .tabulator-col-title {
  white-space: normal; overflow: visible;
}
"""
