"""`imc-ssm cost --schedule` and `--sample-rate`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cli_runs import done, run

import imc_ssm
from imc_ssm import results


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small deployment."""
    path = tmp_path_factory.mktemp("placed") / "dep.safetensors"
    data = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    model = imc_ssm.Classifier(imc_ssm.ModelConfig.parse({"inputs": 3, "heads": 4, "classes": 5, "n_state": 4}))
    imc_ssm.compile_model(imc_ssm.quantize(model, "uniform", data), "pcm-256", data).save(path)
    return path


def test_a_schedule_is_printed_written_and_shown(placed: Path, tmp_path: Path) -> None:
    said = done("cost", placed, "--schedule", "throughput", "--out", tmp_path / "c.nc").out
    assert "critical stage: " in said
    assert "recurrence" in said
    ds = results.load(tmp_path / "c-schedule.nc")
    assert ds.attrs["mode"] == "throughput"
    assert (tmp_path / "c-schedule.png").is_file()
    shown = done("show", tmp_path / "c-schedule.nc").out
    for name in set(ds["stage"].values.tolist()):
        assert name in said
        assert name in shown


def test_the_verdict_is_that_of_real_time(placed: Path, tmp_path: Path) -> None:
    said = done("cost", placed, "--sample-rate", "16000", "--out", tmp_path / "c.nc").out
    assert "16 kHz: keeps up, slack" in said
    assert "average power" in said
    assert bool(results.load(tmp_path / "c-realtime.nc")["keeps_up"].all())
    fast = done("cost", placed, "--sample-rate", "1e9").out
    assert "does not keep up, slack -" in fast
    assert "average power" not in fast


def test_wrong_options_are_refused(placed: Path) -> None:
    assert "throughput" in run("cost", placed, "--schedule", "troughput").err
    assert "positive" in run("cost", placed, "--sample-rate", "0").err
    assert "takes the place" in run("cost", "--macro", "hermes", "--sample-rate", "10").err


def test_constants_hold_for_operations_schedules_and_rates(placed: Path, tmp_path: Path) -> None:
    """Digital logic that is three times as slow and as hungry, in each table."""
    own = tmp_path / "own.toml"
    lines = ["[logic_spread]", "value = 3.0", "low = 3.0", "high = 3.0", 'unit = "1"', 'kind = "cited"']
    own.write_text("\n".join([*lines, 'holds = "our library"', 'source = "our own library"']), encoding="utf-8")
    asked = ("cost", placed, "--operations", "--schedule", "streaming", "--sample-rate", "1000")
    given = ((), ("--constants", own))
    said = [done(*asked, "--out", tmp_path / f"{n}.nc", *more).out for n, more in enumerate(given)]
    theirs, ours = ([line for line in text.splitlines() if " register " in line] for text in said)
    assert ours
    assert ours != theirs
    for name in ("schedule", "realtime"):
        periods = [float(results.load(tmp_path / f"{n}-{name}.nc")["period_mean"]) for n in range(2)]
        assert periods[1] > 1.1 * periods[0]
    assert all("leakage" in text.split("Cost on")[0] for text in said)
