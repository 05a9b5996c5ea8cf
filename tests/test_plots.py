"""The figure: labels with units, legends, and datasets in which little was computed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.figure import Figure

from imc_ssm.costs import COMPONENTS
from imc_ssm.errors import ConfigError, FileError
from imc_ssm.plots import (
    accuracy_energy,
    accuracy_over_time,
    energy_breakdown,
    save_figure,
    summary,
    training,
)

MODELS = ("fp32", "ptq-a8-x8", "qat-a8-x8", "qat-a8-x4")
DIGITAL = {"fp32": 97.3, "ptq-a8-x8": 93.1, "qat-a8-x8": 96.9, "qat-a8-x4": 89.4}
TIMES = (1.0, 3600.0, 86400.0, 2592000.0)


def result(
    models: tuple[str, ...] = MODELS,
    deployed: tuple[str, ...] = MODELS[1:],
    chips: int = 12,
    times: tuple[float, ...] = TIMES,
) -> xr.Dataset:
    """A dataset as `demo` writes it; chips lose one point, and 0.3 for every decade of time."""
    rng = np.random.default_rng(0)
    accuracy = np.full((len(models), chips, len(times)), np.nan)
    energy = np.full((len(models), len(COMPONENTS)), np.nan)
    bits = np.full(len(models), np.nan)
    for i, name in enumerate(models):
        if "-x" in name:
            bits[i] = float(name.rsplit("-x", 1)[1])
        if name in deployed:
            loss = 1 + 0.3 * np.log10(np.maximum(times, 1.0))
            accuracy[i] = DIGITAL[name] - loss + rng.normal(0, 0.4, (chips, len(times)))
            energy[i] = np.array([0.1, 0.2, 0.4, 5, 3, 120 + 9 * bits[i], 80, 1.4, 2.7, 8]) * 1e-9
    return xr.Dataset(
        {
            "accuracy_digital": ("model", [DIGITAL[name] for name in models]),
            "accuracy": (("model", "chip", "time"), accuracy),
            "energy": (("model", "component"), energy),
            "bits_state": ("model", bits),
        },
        coords={
            "model": list(models),
            "chip": np.arange(chips),
            "time": list(times),
            "component": list(COMPONENTS),
        },
        attrs={"n_test": 360},
    )


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def legend(ax: Axes) -> list[str]:
    box = ax.get_legend()
    return [] if box is None else [text.get_text() for text in box.get_texts()]


def panel(draw: Any, ds: xr.Dataset) -> Axes:
    figure = Figure(layout="constrained")
    ax = draw(ds, figure.subplots())
    figure.draw_without_rendering()
    return ax


def test_summary_has_three_labelled_panels() -> None:
    figure = summary(result())
    figure.draw_without_rendering()
    time, energy, trade = figure.axes
    assert time.get_ylabel() == "Accuracy, 360 test sequences (%)"
    assert time.get_xlabel() == "Time since programming"
    assert energy.get_xlabel() == "Energy (nJ)"
    assert trade.get_xlabel() == "Energy per inference (nJ)"
    assert legend(time) == [*MODELS[1:], "fp32 (digital)", "dashed: digital"]
    assert legend(energy) == list(COMPONENTS)
    assert legend(trade) == [*MODELS[1:], "hollow: digital"]


def test_legends_do_not_cover_data() -> None:
    figure = summary(result())
    figure.draw_without_rendering()
    for ax in figure.axes:
        box = ax.get_legend().get_window_extent()
        assert box.y1 <= ax.xaxis.label.get_window_extent().y0, ax.get_title()
        assert box.y0 >= 0
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1


def test_accuracy_over_time_shows_the_numbers() -> None:
    ds = result()
    ax = panel(accuracy_over_time, ds)
    assert ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1 s", "1 h", "1 d", "30 d"]
    drawn = {tuple(np.round(line.get_ydata(), 9)) for line in ax.lines}
    for name in MODELS[1:]:
        mean = ds["accuracy"].sel(model=name).mean("chip").values
        assert tuple(np.round(mean, 9)) in drawn
        assert (DIGITAL[name],) * 2 in drawn
    assert (DIGITAL["fp32"],) * 2 in drawn
    bands = [item for item in ax.collections if isinstance(item, FillBetweenPolyCollection)]
    assert len(bands) == 3
    low, high = bands[0].get_datalim(ax.transData).intervaly
    chips = ds["accuracy"].sel(model=MODELS[1])
    assert (low, high) == (pytest.approx(float(chips.min())), pytest.approx(float(chips.max())))
    assert ax.get_legend().get_title().get_text() == "12 chips: mean, min to max"


def test_many_chips_show_percentiles() -> None:
    ax = panel(accuracy_over_time, result(chips=25))
    assert ax.get_legend().get_title().get_text() == "25 chips: mean, 5 to 95 %"


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ((1.0, 86400.0, 172800.0), ["1 s", "", "2 d"]),
        ((0.0, 60.0), ["0 s", "1 min"]),
        ((31557600.0,), ["1 y"]),
        (tuple(np.geomspace(1, 3e6, 12)), ["1 s", "1 min", "1 h", "1 d", "30 d"]),
    ],
)
def test_time_ticks_are_words(times: tuple[float, ...], expected: list[str]) -> None:
    ax = panel(accuracy_over_time, result(times=times))
    assert [label.get_text() for label in ax.get_xticklabels()] == expected


@pytest.mark.parametrize(
    ("factor", "unit"), [(1e-3, "pJ"), (1.0, "nJ"), (1e3, "µJ"), (1e6, "mJ"), (1e9, "J"), (1e-9, "fJ")]
)
def test_energy_breakdown_chooses_units(factor: float, unit: str) -> None:
    ds = result()
    ds["energy"] = ds["energy"] * factor
    ax = panel(energy_breakdown, ds)
    assert ax.get_xlabel() == f"Energy ({unit})"
    assert len([text for text in texts(ax) if text.endswith(f" {unit}")]) == 3


def test_energy_breakdown_bars_add_up() -> None:
    ds = result()
    ax = panel(energy_breakdown, ds)
    widths = np.array([bar.get_width() for bar in ax.patches]).reshape(len(COMPONENTS), -1)
    np.testing.assert_allclose(widths.T, ds["energy"].sel(model=list(MODELS[1:])).values * 1e9)
    total = float(ds["energy"].sel(model="qat-a8-x8").sum()) * 1e9
    assert f"{total:.0f} nJ" in texts(ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(MODELS[1:])


def test_accuracy_energy_uses_one_day() -> None:
    ds = result()
    ax = panel(accuracy_energy, ds)
    assert texts(ax) == ["x8", "x8", "x4"]
    assert ax.get_legend().get_title().get_text() == "after 1 d, 12 chips: mean, min to max"
    means = [container.lines[0].get_ydata()[0] for container in ax.containers]
    expected = ds["accuracy"].sel(time=86400.0, model=list(MODELS[1:])).mean("chip")
    np.testing.assert_allclose(means, expected)
    other = panel(accuracy_energy, result(times=(1.0, 7200.0)))
    assert other.get_legend().get_title().get_text().startswith("after 2 h")


def test_sparse_datasets() -> None:
    """One model, one chip, one time; then less and less."""
    one = result(("qat-a8-x8",), ("qat-a8-x8",), chips=1, times=(86400.0,))
    time, energy, trade = summary(one).axes
    assert legend(time) == ["qat-a8-x8", "dashed: digital"]
    assert time.get_legend().get_title().get_text() == "one chip"
    assert legend(energy) == list(COMPONENTS)
    assert texts(trade) == ["x8"]

    no_bits = one.drop_vars("bits_state")
    assert texts(summary(no_bits).axes[2]) == []
    digital = one.drop_vars("accuracy")
    time, energy, trade = summary(digital).axes
    assert texts(time) == ["accuracy on chips:\nnot in this dataset"]
    assert trade.get_legend().get_title().get_text() == "digital only"
    selected = one.isel(time=0, chip=0)
    assert legend(summary(selected).axes[0]) == ["qat-a8-x8", "dashed: digital"]
    assert legend(summary(result().isel(model=2)).axes[0]) == ["qat-a8-x8", "dashed: digital"]


@pytest.mark.parametrize("ds", [result(deployed=()), result()[["bits_state"]], xr.Dataset()])
def test_empty_datasets_say_so(ds: xr.Dataset) -> None:
    figure = summary(ds)
    figure.draw_without_rendering()
    for ax in figure.axes:
        assert "not in this dataset" in texts(ax)[0]
        assert ax.get_title()


def test_partly_missing_values() -> None:
    """A chip and a time of one model were not evaluated."""
    ds = result()
    ds["accuracy"][2, 0, :] = np.nan
    ds["accuracy"][2, :, 1] = np.nan
    ax = panel(accuracy_over_time, ds)
    line = next(line for line in ax.lines if line.get_marker() == "s" and len(line.get_xdata()) == 3)
    expected = ds["accuracy"][2].mean("chip").dropna("time")
    np.testing.assert_allclose(line.get_ydata(), expected)


def test_many_models_stay_distinct() -> None:
    names = tuple(f"qat-a8-x{bits}" for bits in range(2, 14))
    DIGITAL.update({name: 90.0 + i / 2 for i, name in enumerate(names)})
    ax = panel(accuracy_over_time, result(names, names))
    looks = {(line.get_color(), line.get_marker()) for line in ax.lines if line.get_marker() not in (".", "None")}
    assert len(looks) == len(names)


def test_training() -> None:
    epochs = np.arange(1, 6)
    history = xr.Dataset(
        {"loss_train": ("epoch", 1.0 / epochs), "accuracy_validation": ("epoch", [50.0, 80, 95, 94, 93])},
        coords={"epoch": epochs},
    )
    loss, accuracy = training(history).axes
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("Epoch", "Cross-entropy")
    assert accuracy.get_ylabel() == "Accuracy (%)"
    assert "best: 95.00 %" in legend(accuracy)
    loss, accuracy = training(history.drop_vars("accuracy_validation")).axes
    assert "not in this dataset" in texts(accuracy)[0]


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_save_figure(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"figure{suffix}"
    save_figure(summary(result()), path)
    assert path.stat().st_size > 10_000
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_save_figure_is_reproducible(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_figure(summary(result()), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_save_figure_refuses(tmp_path: Path) -> None:
    figure = training(xr.Dataset())
    with pytest.raises(ConfigError, match=r"figure\.docx.*ends in \.png, \.pdf, \.svg"):
        save_figure(figure, tmp_path / "figure.docx")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write"):
        save_figure(figure, tmp_path / "file" / "figure.png")
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_no_global_state() -> None:
    """Importing the room does not import matplotlib; drawing does not import pyplot."""
    code = (
        "import sys, imc_ssm.plots, xarray as xr\n"
        "assert 'matplotlib' not in sys.modules\n"
        "imc_ssm.plots.summary(xr.Dataset())\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
