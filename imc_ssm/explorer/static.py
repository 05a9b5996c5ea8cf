"""One file for somebody else: the plane, its front and a table, with all scripts inside (Plotly)."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import numpy as np

from imc_ssm.explorer.points import Points, table_of
from imc_ssm.explorer.quantities import Quantity
from imc_ssm.explorer.serving import needed
from imc_ssm.explorer.views import FRONT, MISSING, NAMED, View, colours_of, view_of
from imc_ssm.files import atomic_path
from imc_ssm.plots.reading import MODELS

__all__ = ["plane", "report"]

ROWS = 500
"""Rows of the table, at most."""
_STYLE = """
body { font-family: sans-serif; margin: 1.5em; color: #222; } h1 { font-size: 1.4em; margin: 0; }
p { color: #555; margin: 0.3em 0; } table { border-collapse: collapse; font-size: 13px; }
th, td { text-align: left; padding: 3px 14px 3px 0; border-bottom: 1px solid #ddd; } h2 { font-size: 1.1em; }
"""


def report(points: Points, path: str | Path, view: View | None = None) -> None:
    """Write the plane, its front and the front's table as one `.html` file; it asks for nothing when it is opened.

    Raises `ConfigError` without Plotly, `FileError` if `path` cannot be written.
    """
    needed("plotly")
    view = view_of(points) if view is None else view
    goals = [*view.minimise, *view.maximise]
    front = points.front(view.minimise, view.maximise, _drawn(points, view)) if goals else np.arange(len(points))
    columns: list[str | Quantity] = list(dict.fromkeys([view.x, view.y, *goals]))
    figure = plane(points, view, front if goals else np.array([], int))
    chart = figure.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False})
    rows = table_of(points, columns, front[:ROWS])
    text = (
        f"<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(points.title)}</title>"
        f"<style>{_STYLE}</style></head><body><h1>{html.escape(points.title)}</h1>"
        f"<p>{len(points)} points over {html.escape(', '.join(points.over))}. "
        f"{html.escape(_asked(points, view))}</p>"
        f"{chart}<h2>{'The front' if goals else 'The points'}: {len(front)}</h2>{_table(rows)}"
        f"{_about(points)}</body></html>"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _drawn(points: Points, view: View) -> np.ndarray[Any, Any]:
    """Points that have both numbers."""
    return np.isfinite(points.numbers(view.x)) & np.isfinite(points.numbers(view.y))


def _asked(points: Points, view: View) -> str:
    parts = [
        f"{what}: {', '.join(points.scaled(q).text for q in goals)}"
        for what, goals in (("Minimised", view.minimise), ("maximised", view.maximise))
        if goals
    ]
    return ("; ".join(parts) + ".") if parts else ""


def plane(points: Points, view: View, front: np.ndarray[Any, Any]) -> Any:
    """The Plotly figure of a view; `front`: numbers of the points on it."""
    from plotly import graph_objects as go

    x, y = points.scaled(view.x), points.scaled(view.y)
    drawn = _drawn(points, view)
    words = {field.text: points.labels(field.name) for field in points.varied}
    tips = np.array(
        [
            f"point {i}<br>"
            + "<br>".join(f"{html.escape(name)}: {html.escape(each[i])}" for name, each in words.items())
            for i in range(len(points))
        ]
    )
    look = {"mode": "markers", "hovertemplate": "%{text}<br>%{x:.5g}, %{y:.5g}<extra></extra>"}
    figure = go.Figure()

    def add(rows: np.ndarray[Any, Any], name: str, marker: dict[str, Any], shown: bool = True) -> None:
        figure.add_trace(
            go.Scatter(
                x=x.values[rows].tolist(),
                y=y.values[rows].tolist(),
                text=tips[rows].tolist(),
                name=name,
                marker={"size": 9, "line": {"color": "white", "width": 0.5}, **marker},
                showlegend=shown,
                **look,
            )
        )

    named, numbers = colours_of(points, view.colour)
    if named:
        labels = np.asarray(points.labels(str(view.colour)))
        for label in list(named)[:NAMED]:
            rows = np.flatnonzero(drawn & (labels == label))
            if rows.size:
                add(rows, label or "-", {"color": named[label]})
        rows = np.flatnonzero(drawn & ~np.isin(labels, list(named)[:NAMED]))
        if rows.size:
            add(rows, "others", {"color": MISSING})
    else:
        rows = np.flatnonzero(drawn)
        scale = (
            {}
            if numbers is None
            else {
                "color": [float(v) for v in numbers[rows]],
                "colorscale": "Viridis",
                "colorbar": {
                    "title": {"text": _broken(points.scaled(str(view.colour)).text, 24)},
                    "y": 0.4,
                    "len": 0.8,
                },
            }
        )
        add(rows, "points", {"color": MODELS[0], **scale}, shown=False)
    if front.size:
        order = front[np.argsort(x.values[front], kind="stable")]
        if view.plane:
            shape = "hv" if view.x in view.minimise else "vh"
            figure.add_trace(
                go.Scatter(
                    x=x.values[order].tolist(),
                    y=y.values[order].tolist(),
                    mode="lines",
                    name="front",
                    hoverinfo="skip",
                    line={"color": FRONT, "width": 1.5, "dash": "dash", "shape": shape},
                    showlegend=False,
                )
            )
        add(
            order,
            f"front, {len(order)}",
            {"size": 14, "symbol": "circle-open", "color": FRONT, "line": {"width": 1.5}},
        )
    figure.update_layout(
        template="plotly_white",
        height=560,
        margin={"l": 80, "r": 20, "t": 20, "b": 60},
        font={"size": 14},
        legend={"title": {"text": _title(points, view.colour) if named else ""}},
        xaxis={"title": _broken(x.text, 90), "type": "log" if view.log_x else "linear"},
        yaxis={"title": _broken(y.text, 52), "type": "log" if view.log_y else "linear"},
    )
    return figure


def _broken(text: str, width: int) -> str:
    import textwrap

    return "<br>".join(html.escape(line) for line in textwrap.wrap(text, width))


def _title(points: Points, name: str | None) -> str:
    return next((_broken(field.text, 24) for field in points.varied if field.name == name), str(name))


def _table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "<p>No point has these numbers.</p>"
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(value))}</td>" for value in row.values()) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _about(points: Points) -> str:
    """What made the numbers, from the dataset's attributes."""
    attrs = points.source.attrs
    try:
        versions = ", ".join(f"{k} {v}" for k, v in json.loads(attrs["versions"]).items())
    except (KeyError, TypeError, ValueError):
        versions = ""
    told = {
        f"{attrs.get('split', 'test')} sequences": attrs.get("n_test"),
        "configuration": str(attrs.get("configuration_sha256", ""))[:16],
        "created": attrs.get("created"),
        "versions": versions,
    }
    said = "; ".join(f"{name}: {value}" for name, value in told.items() if value)
    return f"<p>{html.escape(said)}</p>" if said else ""
