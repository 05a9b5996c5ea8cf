"""Ours beside the paper's: the arithmetic, and what the report says of cells that are missing."""

from __future__ import annotations

import dataclasses
import math

import pytest
from fakes import fake_dataset, smoke_place

from imc_ssm.study import Constant, Experiment, Study, Train
from imc_ssm.study.report import compare, comparison_table, headlines, markdown, summary_table
from imc_ssm.study.workplace import Workplace


@pytest.fixture
def compared(tmp_path):
    """Paper 50 +- 10 and 40 +- 5; ours 51, 55 (seeds 0, 1) at 32 bits and 30 (one seed) at 8 bits."""
    place = smoke_place(tmp_path)
    experiment = place.study.experiment("widths")
    made = {(32, 0): 51.0, (32, 1): 55.0, (8, 0): 30.0}
    return experiment, fake_dataset(place, experiment, lambda cell: made.get((cell.at["bits"], cell.seed)))


def test_the_difference_is_in_the_papers_deviations(compared):
    experiment, ds = compared
    first, second = compare(ds, experiment)
    assert first.at == ("tiny", "32")
    assert (first.accuracy.mean, first.accuracy.seeds) == (53.0, 2)
    assert first.accuracy.deviation == pytest.approx(math.sqrt(8.0))  # sample deviation: n - 1
    assert first.accuracy.difference == pytest.approx(+0.3)
    assert second.at == ("tiny", "8")
    assert second.accuracy.difference == pytest.approx(-2.0)
    assert math.isnan(second.accuracy.deviation)  # one seed has none


def test_tables(compared):
    experiment, ds = compared
    header, rows = comparison_table(ds, experiment)
    assert header == ["model", "bits", "ours", "seeds", "paper", "difference"]
    assert rows == [
        ["tiny", "32", "53.00 ± 2.83", "2", "50.00 ± 10.00", "+0.3"],
        ["tiny", "8", "30.00", "1", "40.00 ± 5.00", "-2.0"],
    ]
    header, rows = summary_table(experiment.headline(ds), experiment)
    assert header == ["model", "bits=32", "bits=8", "bits=4", "bits=2"]
    assert rows == [["tiny", "53.00 ± 2.83", "30.00 (1)", "-", ""]]  # 2 bits are no cell


def test_what_chooses_stands_before_the_test_accuracy(compared):
    experiment, ds = compared
    assert list(headlines(ds, experiment)) == ["Test accuracy (percent)"]
    chosen = dataclasses.replace(
        experiment, paper={}, headline=lambda ds: (ds["accuracy"] - 1).assign_attrs(units="percent", long_name="V")
    )
    text = markdown("T", "S", [(chosen, ds, None)])
    assert text.index("V (percent):") < text.index("| tiny | 52.00 ± 2.83 | 29.00 (1) |")
    assert text.index("| tiny | 52.00 ± 2.83 | 29.00 (1) |") < text.index("| tiny | 53.00 ± 2.83 | 30.00 (1) |")


def test_a_cell_without_ours_is_a_dash(tmp_path):
    place = smoke_place(tmp_path)
    experiment = place.study.experiment("widths")
    ds = fake_dataset(place, experiment, lambda cell: None)
    _, rows = comparison_table(ds, experiment)
    assert rows[0] == ["tiny", "32", "-", "0", "50.00 ± 10.00", "-"]
    text = markdown("T", "S 2025", [(experiment, ds, "results/widths.png")])
    assert "| tiny | 32 | - | 0 | 50.00 ± 10.00 | - |" in text
    assert "0 of 6 cells" in text
    assert "![" not in text  # no figure of nothing


def test_constants_stand_beside_the_papers(tmp_path):
    base = smoke_place(tmp_path)
    saving = Constant("percent", "Memory saving", lambda cell: 2.5 * cell["bits"], {(8,): 21.0})
    experiment = Experiment(
        "e",
        "E",
        {"bits": (8, 6)},
        lambda cell: Train("tiny"),
        paper={(8,): (90.0, 1.0)},
        constants={"saving": saving},
    )
    study = Study("s", "S", "digits", base.study.recipe, (experiment,), models=base.study.models)
    ds = fake_dataset(Workplace(study, tmp_path), experiment, lambda cell: 89.0)
    header, rows = comparison_table(ds, experiment)
    assert header[-2:] == ["memory saving", "memory saving, paper"]
    assert rows == [["8", "89.00 ± 0.00", "5", "90.00 ± 1.00", "-1.0", "20.00", "21.00"]]


def test_what_is_no_percentage_has_three_digits_and_an_infinity_stays(tmp_path):
    place = smoke_place(tmp_path)
    declared = place.study.experiment("kernel")
    ds = fake_dataset(place, declared, lambda cell: 0.0)
    (row,) = summary_table(declared.headline(ds), declared)[1]
    worst = float(ds["kernel_error"].sel(rounded="all", quantile=0.5, bits=3, seed=0).isel(step=-1))
    assert row == [row[0], f"{worst:.3g}"]
    several = dataclasses.replace(declared, center="median", seeds=3)
    ds = fake_dataset(place, several, lambda cell: 0.0)
    ds["kernel_error"][{"seed": 0}] = math.inf
    ds["kernel_error"][{"seed": 1}] = 0.00123456
    ds["kernel_error"][{"seed": 2, "bits": 1}] = 0.5
    ds["kernel_error"][{"seed": 2, "bits": 0}] = math.nan
    assert summary_table(several.headline(ds), several) == (
        ["bits=5", "bits=3"],
        [["inf (0.00123 to inf) (2)", "0.5 (0.00123 to inf)"]],
    )
    mean = dataclasses.replace(several, center="mean")
    assert summary_table(mean.headline(ds), mean)[1] == [["inf (2)", "inf"]]


def test_markdown(compared):
    experiment, ds = compared
    text = markdown("Title", "Paper 2025", [(experiment, ds, "results/widths.png")])
    assert text.startswith("# Title\n\nOurs beside Paper 2025.\n")
    assert "| tiny | 8 | 30.00 | 1 | 40.00 ± 5.00 | -2.0 |" in text
    assert "3 of 6 cells" in text
    assert "![PTQ over the word length](results/widths.png)" in text
