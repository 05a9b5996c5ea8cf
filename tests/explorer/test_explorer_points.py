"""A dataset as points: what was varied, numbers, filters, fronts, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from imc_ssm.errors import ConfigError
from imc_ssm.explorer import Points, Quantity, together
from imc_ssm.explorer.points import table_of
from imc_ssm.explorer.views import colours_of, view_of


def test_points_are_all_that_was_varied(known: xr.Dataset) -> None:
    points = Points(known)
    assert points.over == ("design.adc.bits", "design.cell", "seed")
    assert len(points) == 12
    assert {field.name: len(field.values) for field in points.varied} == {
        "design.adc.bits": 3,
        "design.cell": 2,
        "seed": 2,
    }
    assert points.varied[0].text == "Resolution, adc.bits"
    for index in (0, 5, 11):
        place = points.places(index)
        own = known.isel(place)
        assert points.labels("design.cell")[index] == str(own["design.cell"].values)
        assert points.numbers("latency_total")[index] == float(own["latency_total"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("accuracy", lambda ds: ds["accuracy"].isel(time=-1).mean("chip")),
        ("accuracy@1h", lambda ds: ds["accuracy"].sel(time=3600.0).mean("chip")),
        ("accuracy@1d:worst", lambda ds: ds["accuracy"].sel(time=86400.0).min("chip")),
        ("accuracy@1s:q05", lambda ds: ds["accuracy"].sel(time=1.0).quantile(0.05, "chip")),
        ("accuracy@time=worst,chip=2", lambda ds: ds["accuracy"].sel(chip=2).min("time")),
        ("energy", lambda ds: ds["energy"].sel(bound="nominal").sum("component")),
        ("energy@adc", lambda ds: ds["energy"].sel(bound="nominal", component="adc")),
        ("energy@adc,high", lambda ds: ds["energy"].sel(bound="high", component="adc")),
        ("energy@bound=worst", lambda ds: ds["energy"].max("bound").sum("component")),
        ("design.adc.bits", lambda ds: ds["design.adc.bits"].broadcast_like(ds["latency_total"])),
    ],
)
def test_numbers_are_those_of_the_dataset(known: xr.Dataset, text: str, expected: object) -> None:
    points = Points(known)
    quantity = points.quantity(text)
    whole = expected(known).transpose(*points.over).values.ravel()  # type: ignore[operator]
    np.testing.assert_allclose(points.numbers(quantity), whole, rtol=1e-14)
    assert points.quantity(str(quantity)) == quantity


def test_choices_that_are_the_usual_say_nothing(known: xr.Dataset) -> None:
    points = Points(known)
    assert points.quantity("accuracy@1d:mean") == points.quantity("accuracy") == Quantity("accuracy")


def test_a_dimension_can_be_reduced(known: xr.Dataset) -> None:
    points = Points(known, ["design.adc.bits"])
    assert len(points) == 3
    worst = known["accuracy"].isel(time=-1).mean(["chip", "seed"]).min("design.cell")
    np.testing.assert_allclose(points.numbers("accuracy@design.cell=worst"), worst.values)
    assert points.choices("latency_total") == {
        "design.cell": ["pcm-nandakumar-2019", "reram-wan-2022"],
        "seed": ["0", "1"],
    }


def test_labels_have_readable_units(known: xr.Dataset) -> None:
    points = Points(known)
    energy = points.scaled("energy@adc")
    assert energy.text == "Energy per inference, adc (nJ)"
    np.testing.assert_allclose(energy.values, points.numbers("energy@adc") * 1e9)
    assert (
        points.scaled("accuracy@1h:worst").text == "Accuracy of programmed chips, worst of 4 chips, after 1h (%)"
    )
    assert points.scaled("latency_total").unit == "µs"


def test_filters_keep_ranges_and_sets(known: xr.Dataset) -> None:
    points = Points(known)
    mask = points.kept({"design.adc.bits": (6, 8), "design.cell": {"reram-wan-2022"}})
    assert mask.sum() == 4
    assert set(np.asarray(points.labels("design.adc.bits"))[mask]) == {"6", "8"}
    with pytest.raises(ConfigError, match=r"did you mean 'design\.cell'"):
        points.kept({"design.cel": {"x"}})


def test_the_front_is_of_those_that_pass_the_filters(known: xr.Dataset) -> None:
    points = Points(known)
    front = points.front(["energy"], ["accuracy"])
    x, y = points.numbers("energy"), points.numbers("accuracy")
    assert len(front) == 6  # seed 0 is better at the same energy
    assert (np.diff(x[front]) > 0).all()
    assert (np.diff(y[front]) > 0).all()
    assert set(np.asarray(points.labels("seed"))[front]) == {"0"}
    only = points.front(["energy"], ["accuracy"], points.kept({"seed": (1, 1)}))
    assert set(np.asarray(points.labels("seed"))[only]) == {"1"}
    with pytest.raises(ConfigError, match="nothing to look for"):
        points.front()


def test_the_first_view_is_a_cost_and_a_metric(known: xr.Dataset) -> None:
    view = view_of(Points(known))
    assert (str(view.x), str(view.y), view.colour) == ("energy", "accuracy", "design.adc.bits")
    assert (view.minimise, view.maximise) == ((view.x,), (view.y,))
    assert view.plane
    named, numbers = colours_of(Points(known), "design.cell")
    assert list(named) == ["pcm-nandakumar-2019", "reram-wan-2022"]
    assert numbers is None


def test_nothing_varied_are_chips_over_time(known: xr.Dataset) -> None:
    one = known.isel({"design.adc.bits": [0], "design.cell": [0], "seed": [0]})
    points = Points(one)
    assert points.over == ("chip", "time")
    assert points.usual()[:2] == ("time", "accuracy")
    assert Points(one[["energy"]]).over == ("component",)


def test_trials_have_their_fields_as_coordinates(known: xr.Dataset) -> None:
    trials = (
        known.stack(trial=("design.adc.bits", "design.cell", "seed")).reset_index("trial").transpose("trial", ...)
    )
    points = Points(trials.assign_coords(trial=np.arange(12)))
    assert points.over == ("trial",)
    assert [field.name for field in points.varied][-1] == "trial"
    np.testing.assert_allclose(points.numbers("energy"), Points(known).numbers("energy"))


def test_results_stand_together(known: xr.Dataset) -> None:
    other = known.isel({"design.cell": 0}).drop_vars(["design.cell", "latency_total"])
    other = other.isel(chip=slice(0, 2))
    points = Points(together({"a": known, "b": other}))
    assert len(points) == 12 + 6
    assert points.labels("result") == ["a"] * 12 + ["b"] * 6
    np.testing.assert_allclose(points.numbers("energy")[12:], Points(other).numbers("energy"))
    np.testing.assert_allclose(points.numbers("accuracy")[12:], Points(other).numbers("accuracy"))
    assert np.isnan(points.numbers("latency_total")[12:]).all()
    assert points.labels("design.cell")[12:] == [""] * 6


def test_a_table_has_what_was_varied_and_the_quantities(known: xr.Dataset) -> None:
    (row,) = table_of(Points(known), ["energy"], [11])
    assert list(row.items()) == [
        ("point", 11),
        ("Energy per inference (nJ)", "21"),
        ("Resolution, adc.bits", "8"),
        ("Memory cell, cell", "reram-wan-2022"),
        ("Seed", "1"),
    ]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("acuracy", "unknown quantity 'acuracy'; did you mean 'accuracy'"),
        ("accuracy@2h", "has nothing at '2h'.*time: 1s, 1h, 1d"),
        ("energy@dac", "has nothing at 'dac'.*component: cells, adc, memories"),
        ("accuracy:wurst", "did you mean 'worst'"),
        ("energy:worst", "not over chips"),
        ("energy@chip=1", "unknown dimension 'chip'"),
        ("design.cell", "unknown quantity"),
    ],
)
def test_quantities_that_are_not_there_are_named(known: xr.Dataset, text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Points(known).quantity(text)


def test_dimensions_that_are_not_there_are_named(known: xr.Dataset) -> None:
    with pytest.raises(ConfigError, match="unknown dimension 'sead'; did you mean 'seed'"):
        Points(known, ["sead"])
    with pytest.raises(ConfigError, match="no numbers over any dimension"):
        Points(known[["design.cell"]])
    with pytest.raises(ConfigError, match="nothing yet"):
        Points(known.isel(seed=[]))


@pytest.mark.parametrize("over", ["mean", "worst", "median", "min", "std", "q05", "q75"])
def test_points_without_numbers_have_none_and_no_warning(known: xr.Dataset, over: str) -> None:
    """Refused cells of a sweep; warnings are errors here."""
    ds = known.assign(accuracy=known["accuracy"].where(known["seed"] == 0))
    whole, some = (Points(one).numbers(f"accuracy@1h:{over}") for one in (known, ds))
    there = np.asarray(Points(ds).labels("seed")) == "0"
    np.testing.assert_array_equal(np.isfinite(some), there)
    np.testing.assert_array_equal(some[there], whole[there])
    single = Points(known.isel(chip=[0])).numbers("accuracy@1h:std")
    assert np.isnan(single).all()


def test_results_without_chips_or_points_in_common_stand_together_too(known: xr.Dataset) -> None:
    one = known.isel({"design.adc.bits": 0, "design.cell": 0, "seed": 0}, drop=True)
    bare = known[["latency_total"]]
    points = Points(together({"sweep": known, "chips": one[["accuracy"]], "bare": bare}))
    assert len(points) == 12 + 1 + 12
    rows = np.asarray(points.labels("result"))
    np.testing.assert_array_equal(points.numbers("energy")[rows == "sweep"], Points(known).numbers("energy"))
    chips = float(one["accuracy"].isel(time=-1).mean("chip"))
    assert points.numbers("accuracy")[rows == "chips"].tolist() == pytest.approx([chips])
    assert np.isnan(points.numbers("accuracy")[rows == "bare"]).all()
    assert np.isfinite(points.numbers("latency_total")[rows == "bare"]).all()


def test_different_numbers_of_chips_are_not_said_to_be_one(known: xr.Dataset) -> None:
    both = Points(together({"a": known, "b": known.isel(chip=slice(0, 2))}))
    assert both.scaled("accuracy").text == "Accuracy of programmed chips, mean of the chips, after 1d (%)"
    refused = Points(known.assign(accuracy=known["accuracy"].where(known["seed"] == 0)))
    assert "mean of 4 chips" in refused.scaled("accuracy").text
