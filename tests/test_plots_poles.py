"""The figure of an inspection: labels, what is drawn, and datasets in which little was computed."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imc_ssm.plots import inspection, kernel_error, pole_plane, save_figure, word_lengths
from imc_ssm.plots.poles import worst_head

STEPS = np.array([1, 3, 10, 30, 100, 300, 1000])


def result(layers: int = 1, heads: int = 6, states: int = 8) -> xr.Dataset:
    """A dataset as `inspect` writes it; head 2 has two poles outside, head 4 one."""
    rng = np.random.default_rng(0)
    shape = (layers, 2, heads, states)
    radius = np.tile(rng.uniform(0.9, 0.995, (layers, 1, heads, states)), (1, 2, 1, 1))
    radius[:, 1, 2, :2] = radius[:, 1, 4, 0] = 1.001
    angle = np.linspace(0, 1, states) + rng.normal(0, 0.01, shape)
    pole = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)
    error = rng.uniform(0.5, 2, (layers, 4, heads, len(STEPS))) * 1e-3
    error[:, [0, 3]] *= STEPS
    error[:, 0, :, 0] = 0
    guaranteed = rng.integers(6, 14, (*shape, 2)).astype(float)
    guaranteed[:, 1, 2, :2] = np.inf
    ds = xr.Dataset(
        {
            "pole": (("layer", "stage", "head", "state", "part"), pole),
            "circle_distance": (("layer", "stage", "head", "state"), 1 - radius),
            "poles_outside": (("layer", "stage", "head"), (radius >= 1).sum(-1).astype(float)),
            "kernel_error": (("layer", "rounded", "head", "step"), error),
            "bits_guaranteed": (("layer", "stage", "head", "state", "part"), guaranteed),
            "bits_calibrated": (
                ("layer", "head", "state", "part"),
                rng.integers(3, 9, (layers, heads, states, 2)).astype(float),
            ),
            "bits_state": ("layer", np.full(layers, 8.0)),
            "saturated_state": (("layer", "head"), np.linspace(0, 0.5, heads) + np.zeros((layers, 1))),
            "saturated_output": (("layer", "head"), np.linspace(0, 3, heads) + np.zeros((layers, 1))),
        },
        coords={
            "layer": [f"blocks.{i}.ssm" for i in range(layers)],
            "stage": ["before", "after"],
            "part": ["real", "imaginary"],
            "rounded": ["a", "b", "c", "all"],
            "step": STEPS,
        },
        attrs={"title": "q.safetensors, digits", "steps": 64, "register": "real"},
    )
    return ds


def legend(ax: Axes) -> list[str]:
    box = ax.get_legend()
    return [] if box is None else [text.get_text() for text in box.get_texts()]


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def panel(draw, ds: xr.Dataset, **options) -> Axes:
    figure = Figure(layout="constrained")
    ax = draw(ds.isel(layer=0) if "layer" in ds.dims else ds, figure.subplots(), **options)
    figure.draw_without_rendering()
    return ax


def axes_of(figure: Figure) -> list[Axes]:
    return [ax for row in figure.subfigs for ax in row.axes]


@pytest.mark.parametrize("layers", [1, 3])
def test_three_labelled_panels_a_layer(layers) -> None:
    figure = inspection(result(layers))
    figure.draw_without_rendering()
    panels = axes_of(figure)
    assert len(panels) == 3 * layers
    assert [row.get_suptitle() for row in figure.subfigs] == [
        f"q.safetensors, digits: blocks.{i}.ssm" for i in range(layers)
    ]
    for poles, error, words in zip(*[iter(panels)] * 3, strict=True):
        assert (poles.get_xlabel(), poles.get_ylabel()) == ("Re a", "Im a")
        assert error.get_xlabel() == "Number of steps L"
        assert error.get_ylabel() == "Relative error of the first L steps"
        assert (words.get_xlabel(), words.get_ylabel()) == ("Word length (bit)", "States that fit (%)")
        for ax in (poles, error, words):
            assert ax.get_title()


def test_legends_do_not_cover_data_or_each_other() -> None:
    figure = inspection(result(2))
    figure.draw_without_rendering()
    boxes = []
    for ax in axes_of(figure):
        box = ax.get_legend().get_window_extent()
        assert box.y1 <= ax.xaxis.label.get_window_extent().y0, ax.get_title()
        assert box.y0 >= 0
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        boxes.append(box)
    for one, other in itertools.pairwise(boxes):
        assert not one.overlaps(other)


def test_the_head_with_most_poles_outside_is_drawn() -> None:
    ds = result()
    assert worst_head(ds.isel(layer=0)) == 2
    ax = panel(pole_plane, ds)
    assert ax.get_legend().get_title().get_text() == "head 2: 2 of 8 poles outside"
    assert legend(ax) == ["inside", "unit circle", "as trained", "rounded", "outside"]
    lines = {line.get_label(): line.get_xydata() for line in ax.lines}
    poles = ds["pole"].isel(layer=0, head=2)
    np.testing.assert_array_equal(lines["as trained"], poles.sel(stage="before"))
    np.testing.assert_array_equal(lines["outside"], poles.sel(stage="after")[:2])
    np.testing.assert_array_equal(lines["rounded"], poles.sel(stage="after")[2:])
    np.testing.assert_allclose(np.hypot(*lines["unit circle"].T), 1)


def test_another_head_and_a_zoom_that_holds_it() -> None:
    ds = result(states=30)
    ax = panel(pole_plane, ds, head=0)
    assert ax.get_legend().get_title().get_text() == "head 0: 0 of 30 poles outside"
    assert "outside" not in legend(ax)
    poles = ds["pole"].isel(layer=0, head=0, stage=0).values
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    inside = (poles[:, 0] > left) & (poles[:, 0] < right) & (poles[:, 1] > bottom) & (poles[:, 1] < top)
    assert inside.sum() >= 16


def test_kernel_errors_are_medians_over_heads() -> None:
    ds = result()
    ax = panel(kernel_error, ds)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert legend(ax) == ["a, b and c", "a alone", "b alone", "c alone", "a sequence: 64"]
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    for label, part in (("a, b and c", "all"), ("a alone", "a"), ("b alone", "b")):
        errors = ds["kernel_error"].isel(layer=0).sel(rounded=part).values
        middle = np.quantile(errors, 0.5, axis=0, method="nearest")
        np.testing.assert_array_equal(lines[label], np.where(middle > 0, middle, np.nan))
    assert np.isnan(lines["a alone"][0])  # no error at the first step, and none drawn


def test_errors_without_end_keep_the_axis_readable() -> None:
    ds = result()
    ds["kernel_error"][:, [0, 3], :, 4:] = np.inf
    ds["kernel_error"][:, [0, 3], :, 3] = 1e30
    ax = panel(kernel_error, ds)
    low, high = ax.get_ylim()
    assert 1e-6 < low < 1e-3
    assert high == 100
    ds["kernel_error"][:, 1] = 0.0  # b was not rounded
    assert "b alone" not in legend(panel(kernel_error, ds))


def test_word_lengths_are_shares_of_the_states() -> None:
    ds = result()
    ax = panel(word_lengths, ds)
    assert legend(ax) == ["calibrated", "guaranteed, as trained", "guaranteed, rounded", "register: 8 bit"]
    assert ax.get_legend().get_title().get_text() == (
        "saturated: 0.25 % of states (worst head 0.5 %),\n1.5 % of outputs (worst head 3 %)"
    )
    lines = {line.get_label(): dict(zip(*line.get_data(), strict=True)) for line in ax.lines}
    bits = ds["bits_guaranteed"].isel(layer=0)
    for word in (6, 9, 14):
        share = 100 * np.mean(bits.sel(stage="after").values <= word)
        assert lines["guaranteed, rounded"][word] == pytest.approx(share)
    assert lines["calibrated"][8] == 100
    assert texts(ax) == ["4 % have\nno bound"]  # 4 of 96
    ds.attrs["register"] = "assumed"
    ds["saturated_state"][:] = np.nan
    ds["saturated_output"][:] = np.nan
    ax = panel(word_lengths, ds)
    assert "assumed: 8 bit" in legend(ax)
    assert ax.get_legend().get_title().get_text() == ""


def test_empty_datasets_say_so() -> None:
    figure = inspection(xr.Dataset())
    figure.draw_without_rendering()
    for ax in axes_of(figure):
        assert "not in this dataset" in texts(ax)[0]
    ds = result()
    ds["kernel_error"][:] = 0.0
    ds["bits_guaranteed"][:] = np.inf
    ds["bits_calibrated"][:] = np.nan
    for draw in (kernel_error, word_lengths):
        assert "not in this dataset" in texts(panel(draw, ds))[0]


def test_the_figure_is_reproducible(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_figure(inspection(result()), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
