"""`imc-ssm devices fit` as a person calls it."""

from __future__ import annotations

import numpy as np
import pytest
from cli_runs import done, own_toml, run

from imc_ssm.devices import load_cell, resolve


@pytest.fixture
def measurements(tmp_path):
    """A month of readings of 400 devices, in uS and hours; 2 of a hundred are dead."""
    rng = np.random.default_rng(0)
    target = rng.uniform(1, 50, 400)
    dead, nu = rng.random(400) < 0.02, rng.normal(0.01, 0.003, 400)
    lines = ["# my tile", "target_uS,measured_uS,time_h,device"]
    start = target + rng.normal(0, 2.5, 400)
    for hours in (0.001, 1, 24, 720):
        g = np.where(dead, 0.05, np.maximum(start, 0) * (hours / 0.001) ** -nu)
        lines += [f"{t:.3f},{m:.4f},{hours},{i}" for i, (t, m) in enumerate(zip(target, g, strict=True))]
    path = tmp_path / "tile.csv"
    path.write_text("\n".join(lines))
    return path


def test_a_cell_from_measurements_serves_a_design(measurements, tmp_path):
    printed = done("devices", "fit", measurements, "--out", tmp_path / "my-cell.toml").out
    for word in ("programming_error", "drift.exponent", "stuck_low", "Kolmogorov-Smirnov"):
        assert word in printed
    assert (tmp_path / "my-cell.png").read_bytes().startswith(b"\x89PNG")
    cell = load_cell(tmp_path / "my-cell.toml")
    assert cell.name == "my-cell"
    assert cell.times.latest == pytest.approx(720 * 3600)
    assert cell.drift.exponent.value == pytest.approx(0.01, abs=0.001)
    assert cell.programming_error.value == pytest.approx(2.5e-6, rel=0.15)
    assert "stuck_low" in done("devices", tmp_path / "my-cell.toml").out
    design = own_toml(tmp_path, "designs", "reram-wan-64", cell='cell = "my-cell.toml"')
    assert resolve(design).cell == cell
    longer = done("devices", "fit", measurements, "--out", tmp_path / "long.toml", "--latest", "1y").out
    assert "extrapolated" in longer
    assert load_cell(tmp_path / "long.toml").times.latest == 365.25 * 86400


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("none.csv", "--out", "c.toml"), "cannot read none.csv"),
        (("tile.csv", "--out", "c.csv"), "the name must end in .toml"),
        (("tile.csv", "--out", "c.toml", "--latest", "soon"), "time 'soon' is not understood"),
        (("tile.csv", "--out", "c.toml", "--g-min", "1", "--g-max", "2"), "outside"),
        (("tile.csv", "--out", "c.toml", "--like", "pcm"), "unknown memory cell 'pcm'"),
    ],
)
def test_a_wrong_call_writes_nothing(words, message, measurements, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    result = run("devices", "fit", *words)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_the_command_draws_cells(tmp_path):
    done("devices", "hermes-256", "--out", tmp_path / "cell.png")
    assert (tmp_path / "cell.png").read_bytes().startswith(b"\x89PNG")
    refused = run("devices", "periphery-32nm", "--out", tmp_path / "none.png")
    assert refused.code == 2
    assert "a figure shows memory cells" in refused.err
    assert not (tmp_path / "none.png").exists()
