"""Drawn subsets of a split, and whether their standard errors are those that repeated draws have."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from imc_ssm.chip.subsets import drawn, standard_errors
from imc_ssm.datasets.sequence import Split
from imc_ssm.errors import ConfigError, DataError
from imc_ssm.training import metrics, predict

N, STEPS, TRIALS = 600, 6, 1500


class Echo(nn.Module):
    """Answers with its input: what was "found" is kept in the values."""

    def forward(self, u: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        return u


def split_of(goal: str, per_step: bool) -> Split:
    """Sequences of different difficulty and length, so that steps of one are alike."""
    rng = np.random.default_rng(7)
    hard = rng.random(N) < 0.3
    lengths = rng.integers(2, STEPS + 1, N) if per_step else None
    wrong = rng.random((N, STEPS)) < np.where(hard, 0.5, 0.05)[:, None]
    if goal == "classes":
        labels = rng.choice(3, (N, STEPS), p=[0.6, 0.3, 0.1])
        found = np.where(wrong, (labels + 1) % 3, labels)
        values = np.eye(3, dtype=np.float32)[found]
        if per_step:
            assert lengths is not None
            labels = np.where(np.arange(STEPS) < lengths[:, None], labels, -1)
    else:
        labels = rng.normal(0, [1.0, 3.0], (N, STEPS, 2)).astype(np.float32)
        values = (labels + rng.normal(0, np.where(hard, 2.0, 0.3)[:, None, None], labels.shape)).astype(np.float32)
        if per_step:
            assert lengths is not None
            labels[np.arange(STEPS) >= lengths[:, None]] = np.nan
    if not per_step:
        return Split(values[:, 0], labels[:, 0], None, 3 if goal == "classes" else 2)
    return Split(values, labels, lengths, 3 if goal == "classes" else 2)


@pytest.mark.parametrize("goal", ["classes", "values"])
@pytest.mark.parametrize("per_step", [False, True])
def test_intervals_cover_the_metric_of_all(goal: str, per_step: bool) -> None:
    """1.96 s around 1,500 subsets of 150 of 600 cover it as often as they say, and s is their deviation."""
    split, model = split_of(goal, per_step), Echo()
    truth = metrics(model, split)
    names = ("accuracy", "f1_macro") if goal == "classes" else ("mae", "r2")
    values: dict[str, list[float]] = {name: [] for name in names}
    errors: dict[str, list[float]] = {name: [] for name in names}
    for chip in range(TRIALS):
        part = drawn(split, 150, "fresh", 0, chip)
        found = metrics(model, part)
        stated = standard_errors(predict(model, part), part, len(split))
        for name in names:
            values[name].append(found[name])
            errors[name].append(stated[name])
    for name in names:
        got, s = np.array(values[name]), np.array(errors[name])
        covered = (np.abs(got - truth[name]) <= 1.96 * s).mean()
        # 95 %, less what a normal interval of 150 sequences lacks, give or take 4 sigma of so many trials.
        assert 0.925 - 4 * math.sqrt(0.05 * 0.95 / TRIALS) < covered < 0.955 + 4 * math.sqrt(0.05 * 0.95 / TRIALS)
        assert s.mean() == pytest.approx(got.std(), rel=0.10), name
        assert abs(got.mean() - truth[name]) < 4 * got.std() / math.sqrt(TRIALS) + 0.05 * got.std()


def test_accuracy_of_sequences_is_the_textbook_formula() -> None:
    split = split_of("classes", per_step=False)
    part = drawn(split, 200, "paired", 3, 0)
    found = predict(Echo(), part)
    p = float((found == part.labels).mean())
    wanted = 100 * math.sqrt((1 - 200 / N) * p * (1 - p) / 199)
    assert standard_errors(found, part, N)["accuracy"] == pytest.approx(wanted)
    assert standard_errors(predict(Echo(), split), split, N)["accuracy"] == 0
    one = drawn(split, 1, "paired", 3, 0)
    assert math.isnan(standard_errors(predict(Echo(), one), one, N)["accuracy"])


def test_pairs_and_fresh_draws() -> None:
    split = split_of("classes", per_step=True)

    def at(*given: Any) -> Any:
        return drawn(split, 50, *given).values

    assert np.array_equal(at("paired", 1, 0), at("paired", 1, 5))
    assert not np.array_equal(at("paired", 1, 0), at("paired", 2, 0))
    assert np.array_equal(at("fresh", 1, 5), at("fresh", 1, 5))
    assert not np.array_equal(at("fresh", 1, 0), at("fresh", 1, 5))
    assert drawn(split, None, "fresh", 0, 0) is split
    assert np.array_equal(drawn(split, N, "fresh", 0, 3).values, split.values)


def test_every_sequence_is_as_likely() -> None:
    numbers = np.arange(40, dtype=np.int64)
    split = Split(numbers[:, None, None].astype(np.float32), numbers % 2, None, 2)
    count = np.zeros(40)
    for chip in range(800):
        picked = drawn(split, 10, "fresh", 0, chip).values[:, 0, 0].astype(int)
        assert len(set(picked)) == 10
        assert (np.diff(picked) > 0).all()
        count[picked] += 1
    # 800 draws, each takes a sequence with probability 1/4: 4.5 sigma of the binomial for 40 of them
    assert np.abs(count - 200).max() < 4.5 * math.sqrt(800 * 0.25 * 0.75)


def test_bad_input_is_refused() -> None:
    split = split_of("classes", per_step=True)
    with pytest.raises(ConfigError, match="unknown subset 'pairs'"):
        drawn(split, 5, "pairs", 0, 0)  # type: ignore[arg-type]
    for number, said in (
        (0, "sequences = 0; allowed is at least 1"),
        (N + 1, f"the split has {N}"),
        (1.5, "whole"),
    ):
        with pytest.raises(ConfigError, match=said):
            drawn(split, number, "paired", 0, 0)
    with pytest.raises(DataError, match="none of the 5 sequences"):
        drawn(replace(split, labels=np.full_like(split.labels, -1)), 5, "paired", 0, 0)
