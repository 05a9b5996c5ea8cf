"""`imc-ssm cost --baselines`: the machines beside the chip, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cli_runs import done, run

import imc_ssm
from imc_ssm.costs import baseline_names, compare


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small deployment."""
    path = tmp_path_factory.mktemp("placed") / "dep.safetensors"
    data = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    model = imc_ssm.Classifier(imc_ssm.ModelConfig.parse({"inputs": 3, "heads": 4, "classes": 5, "n_state": 4}))
    imc_ssm.compile_model(imc_ssm.quantize(model, "uniform", data), "pcm-256", data).save(path)
    return path


def test_machines_are_printed_beside_the_chip(placed: Path) -> None:
    said = done("cost", placed, "--baselines").out
    ds = compare(imc_ssm.Deployment.load(placed))
    rows = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    for name in ("pcm-256", *baseline_names()):
        total = ds["energy_total"].sel(machine=name, bound="nominal")
        ratio = float(ds["energy_total"].sel(machine="pcm-256", bound="nominal") / total)
        assert f"{ratio:.2g}" in rows[name].split(), name
    assert "microcontroller" not in done("cost", placed).out


def test_a_macro_has_no_baselines() -> None:
    result = run("cost", "--macro", "hermes", "--baselines")
    assert result.code == 2
    assert "takes the place of a model" in result.err
