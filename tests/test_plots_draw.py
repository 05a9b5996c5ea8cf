"""`draw` takes what the library returns, as it is returned, and a comparison says what varies."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from imc_ssm import results
from imc_ssm.costs import COMPONENTS
from imc_ssm.errors import ConfigError
from imc_ssm.plots import (
    accuracy_over_time,
    curves,
    draw,
    kind_of,
    made_here,
    pole_plane,
    save_figure,
    together,
    training,
)
from imc_ssm.plots.comparing import varying
from imc_ssm.plots.grid import LINES

ROOT = Path(__file__).parent.parent
TIMES = np.array([1.0, 3600.0, 86400.0])


def evaluated(offset: float = 0.0) -> xr.Dataset:
    """As `evaluate` returns it: no dimension `model`, `n_test` on the variables."""
    rng = np.random.default_rng(0)
    percent = {"units": "percent", "n_test": 360}
    return xr.Dataset(
        {
            "accuracy": (("chip", "time"), 90 + offset + rng.normal(0, 1, (4, 3)), percent),
            "accuracy_digital": ((), 95.0 + offset, percent),
        },
        {"chip": np.arange(4), "time": TIMES},
    )


def priced(scale: float = 1.0) -> xr.Dataset:
    """As `cost` returns it, the part that is drawn."""
    units = {"energy": "J", "latency": "s", "area": "m2", "memory": "bit"}
    sizes = {"energy": 1e-8, "latency": 1e-6, "area": 1e-8, "memory": 1e3}
    price = scale * np.arange(1.0, len(COMPONENTS) + 1)
    ds = xr.Dataset({name: ("component", size * price) for name, size in sizes.items()})
    for name, unit in units.items():
        ds[name].attrs = {"units": unit, "long_name": name.capitalize()}
    return ds.assign_coords(component=list(COMPONENTS))


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def legend(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_what_evaluate_returns_is_drawn_as_it_is() -> None:
    ds = evaluated()
    (ax,) = draw(ds).axes
    means = ds["accuracy"].mean("chip").values
    assert any(np.array_equal(line.get_ydata(), means) for line in ax.lines)
    assert any(np.array_equal(line.get_ydata(), [95.0, 95.0]) for line in ax.lines)
    assert ax.get_ylabel() == "Accuracy, 360 test sequences (%)"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1 s", "1 h", "1 d"]


def test_accuracy_and_cost_merged_are_a_summary() -> None:
    time, energy, trade = draw(evaluated().merge(priced())).axes
    assert "550 nJ" in texts(energy)
    assert not any("not in this dataset" in text for ax in (time, energy, trade) for text in texts(ax))


@pytest.mark.parametrize("name", ["r2", "mae"])
def test_regressions_are_drawn_by_their_metric(name) -> None:
    ds = evaluated().rename(accuracy=name, accuracy_digital=f"{name}_digital") / 100
    ds[name].attrs = {"units": "V" if name == "mae" else "1", "long_name": "Error of chips"}
    (ax,) = draw(ds).axes
    assert any(np.array_equal(line.get_ydata(), ds[name].mean("chip").values) for line in ax.lines)
    assert ax.get_ylabel() == ("Error of chips (V)" if name == "mae" else "Error of chips")
    assert "Accuracy" not in ax.get_title()


def test_costs_have_a_bar_for_every_component() -> None:
    ds = priced()
    energy, *_, memory = draw(ds).axes
    widths = [bar.get_width() for bar in energy.patches]
    np.testing.assert_allclose(widths, ds["energy"].values * 1e9)
    assert energy.get_xlabel() == "Energy (nJ)"
    assert legend(memory) == ["total 55.0 kbit"]
    labels = [label.get_text() for label in energy.get_yticklabels()]
    assert labels == list(COMPONENTS)


def test_a_study_shows_every_line_with_its_mean_and_range() -> None:
    ds = results.load(ROOT / "experiments" / "layers" / "results" / "layers.nc")
    assert kind_of(ds) == "grid"
    digital, chips, energy, _ = draw(ds).axes
    reached = ds["accuracy"].mean(["seed", "chip"])
    drawn = [line.get_ydata() for line in chips.lines]
    for layer in ds["layer"].values:
        assert any(np.allclose(y, reached.sel(layer=layer)) for y in drawn)
    assert legend(chips) == ["layer s4d", "layer s5"]
    assert chips.get_legend().get_title().get_text() == "5 seeds, 10 chips:\nmean, min to max"
    assert [label.get_text() for label in digital.get_xticklabels()] == ["s4d", "s5"]
    total = ds["energy"].sum("component").mean("seed").values * 1e9
    np.testing.assert_allclose(energy.lines[0].get_ydata(), total)


def test_published_numbers_stand_beside_ours() -> None:
    ds = results.load(ROOT / "experiments" / "zhao2025" / "results" / "table3.nc")
    accuracy, memory = draw(ds).axes
    assert legend(accuracy) == ["model s4d-16h", "model s4d-64h", "published"]
    theirs = ds["accuracy_paper"].sel(model="s4d-16h").values
    assert any(np.array_equal(line.get_ydata(), theirs) for line in accuracy.lines)
    assert accuracy.get_ylabel() == "Accuracy (%)"
    assert memory.get_title() == "Memory saving"


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*/results/*.nc")), ids=lambda p: p.stem)
def test_every_shipped_dataset_is_drawn_and_nothing_overlaps(path) -> None:
    figure = draw(results.load(path))
    figure.draw_without_rendering()
    for ax in figure.axes:
        if not ax.get_visible():
            continue
        assert ax.get_xlabel()
        named = [label.get_text() for label in ax.get_yticklabels()]
        assert ax.get_ylabel() or any(re.match("[a-z]", name) for name in named)  # bars say what they are
        box = ax.get_legend()
        if box is not None:
            assert not box.get_window_extent().overlaps(ax.xaxis.get_tightbbox()), ax.get_title()
            assert box.get_window_extent().x1 <= figure.bbox.x1 + 1
            assert len(box.get_texts()) <= LINES + 1


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(ConfigError, match="nothing of this dataset can be drawn"):
        draw(xr.Dataset({"a": 1.0}))


def test_curves_of_a_training() -> None:
    history = {"loss_train": [2.0, 1.0], "accuracy_validation": [50.0, 90.0], "time": [0.1, 0.1]}
    ds = curves(history)
    assert ds["epoch"].values.tolist() == [1, 2]
    assert ds["accuracy_validation"].attrs["units"] == "percent"
    assert ds["time"].attrs["units"] == "s"
    for given in (history, ds):
        loss, accuracy = training(given).axes
        assert loss.lines[0].get_ydata().tolist() == [2.0, 1.0]
        assert "best: 90.00 %" in legend(accuracy)
    assert kind_of(ds) == "training"


def test_several_results_by_name_are_compared() -> None:
    runs = {"4 bits": evaluated(-5.0).merge(priced()), "6 bits": evaluated().merge(priced(2.0))}
    time, energy, trade = draw(runs).axes
    assert legend(time) == ["4 bits", "6 bits", "dashed: digital"]
    assert [label.get_text() for label in energy.get_yticklabels()] == ["4 bits", "6 bits"]
    assert texts(trade) == ["4 bits", "6 bits"]
    ds = together(runs)
    np.testing.assert_array_equal(ds["accuracy"].sel(model="4 bits"), runs["4 bits"]["accuracy"])
    np.testing.assert_array_equal(ds["energy"].sel(model="6 bits"), 2 * priced()["energy"])
    assert ds.attrs["n_test"] == 360
    (alone,) = draw({"one": evaluated()}).axes
    assert alone.get_title() == "Accuracy after programming"


def test_what_varies_names_the_models() -> None:
    runs = {}
    for name, bits, seed in (("a", 4, 0), ("b", 6, 0), ("c", 6, 1)):
        config = {"model": "q.safetensors", "design": {"name": "mine", "adc": {"bits": bits}}, "times": [1.0]}
        runs[name] = evaluated().assign_attrs(configuration=json.dumps(config), seed=seed)
    assert varying({n: runs[n] for n in "ab"}) == ["adc.bits=4", "adc.bits=6"]
    assert varying({n: runs[n] for n in "bc"}) == ["seed=0", "seed=1"]
    assert varying(runs) == ["adc.bits=4, seed=0", "adc.bits=6, seed=0", "adc.bits=6, seed=1"]
    assert varying({"x": runs["a"], "y": runs["a"]}) == ["x", "y"]


def test_comparisons_have_two_sides() -> None:
    with pytest.raises(ConfigError, match="1 dataset to compare; give two or more"):
        together({"a": evaluated()})
    curve = curves({"loss_train": [1.0], "accuracy_validation": [2.0]})
    with pytest.raises(ConfigError, match="b holds no models on chips"):
        together({"a": evaluated(), "b": curve})
    with pytest.raises(ConfigError, match="a list cannot be drawn; give what evaluate"):
        draw([evaluated()])


def test_the_unit_circle_is_a_circle() -> None:
    angle = np.linspace(0.1, 0.6, 8)
    pole = np.stack([0.95 * np.cos(angle), 0.95 * np.sin(angle)], -1)
    ds = xr.Dataset(
        {
            "pole": (("stage", "head", "state", "part"), np.stack([pole, pole * 1.02])[:, None]),
            "circle_distance": (("stage", "head", "state"), np.full((2, 1, 8), 0.05)),
            "poles_outside": (("stage", "head"), np.zeros((2, 1))),
        },
        {"stage": ["before", "after"]},
    )
    figure = Figure(figsize=(9, 4))
    ax = pole_plane(ds, figure.subplots())
    figure.draw_without_rendering()
    (x0, y0), (x1, y1) = ax.transData.transform([[0.0, 0.0], [1.0, 1.0]])
    assert x1 - x0 == pytest.approx(y1 - y0)
    assert all(
        ax.get_xlim()[0] < x < ax.get_xlim()[1] and ax.get_ylim()[0] < y < ax.get_ylim()[1] for x, y in pole
    )


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_a_file_says_whether_this_room_drew_it(tmp_path, suffix) -> None:
    ours, theirs = tmp_path / f"ours{suffix}", tmp_path / f"theirs{suffix}"
    save_figure(draw(evaluated()), ours)
    other = Figure()
    accuracy_over_time(evaluated(), other.subplots())
    save_figure(other, theirs)
    assert made_here(ours)
    assert not made_here(theirs)
    assert not made_here(tmp_path / "none.png")
