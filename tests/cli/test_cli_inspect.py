"""`inspect`: a model's recurrences, in full precision and quantized, and `show` of what it wrote."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cli_runs import done

from imc_ssm import results
from imc_ssm.quantization import Scheme


@pytest.fixture(scope="module")
def inspected(chain, tmp_path_factory):
    """The datasets of the full-precision and of the PTQ model (10-bit state), and what was printed."""
    folder = tmp_path_factory.mktemp("inspect")
    printed = {
        "q": done("inspect", chain["q.safetensors"], "--sequences", 30, "--seed", 2, "--out", folder / "q.nc").out,
        "m": done("inspect", chain["m.safetensors"], "--sequences", 30, "--bits", 6, "--out", folder / "m.nc").out,
    }
    return folder, printed


def test_a_quantized_model(inspected):
    folder, printed = inspected
    assert {path.name for path in folder.iterdir()} == {"q.nc", "q.png", "m.nc", "m.png"}
    assert (folder / "q.png").read_bytes().startswith(b"\x89PNG")
    ds = results.load(folder / "q.nc")
    assert float(ds["bits_state"][0]) == 10
    assert ds["bits_coefficient"].values.tolist() == [[8, 8, 8]]
    assert ds.attrs["seed"] == 2
    assert ds.attrs["sequences_saturation"] == 30
    config = json.loads(ds.attrs["configuration"])
    assert (config["task"], config["sequences"]) == ("digits", 30)
    assert Scheme.parse(config["scheme"]).bits.state == 10
    assert (ds["saturated_state"] < 2).all()
    words = " ".join(printed["q"].split())
    outside = int(ds["poles_outside"].sel(stage="after").sum())
    assert "blocks.0.ssm: a 8 bit, b 8 bit, c 8 bit" in words
    assert f"poles outside the unit circle 0 of 512 {outside} of 512" in words
    assert "state register 10 bit" in words
    assert f"{np.nanmean(ds['saturated_state']):.2g} %, {np.nanmax(ds['saturated_state']):.2g} %" in words
    assert str(folder / "q.nc") in printed["q"]


def test_a_model_in_full_precision(inspected):
    folder, printed = inspected
    ds = results.load(folder / "m.nc")
    assert ds["bits_coefficient"].values.tolist() == [[6, 6, 6]]
    assert ds["saturated_state"].isnull().all()
    assert "state register (assumed) 6 bit" in " ".join(printed["m"].split())
    assert "saturated" not in printed["m"]
    fine = results.load(folder / "q.nc")  # the same model at 8 bits
    error = [float(d["kernel_error"].sel(rounded="all", step=64).median()) for d in (ds, fine)]
    assert error[0] > 2 * error[1]


def test_tables_fit_80_columns(inspected, monkeypatch):
    folder, _ = inspected
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("q", "m"):
        printed = done("show", folder / f"{name}.nc", "--out", folder / "again.png").out
        rows = [line for line in printed.splitlines() if "wrote" not in line]
        assert max(map(len, rows)) <= 80
        assert "…" not in printed
        (folder / "again.png").unlink()


def test_without_out_nothing_is_written(chain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = done("inspect", chain["qat.safetensors"], "--sequences", 5).out
    assert "state register" in printed
    assert list(tmp_path.iterdir()) == []


def test_show_prints_and_plots_the_same(inspected, tmp_path):
    folder, printed = inspected
    copy = tmp_path / "copy.nc"
    copy.write_bytes((folder / "q.nc").read_bytes())
    shown = done("show", copy).out
    assert copy.with_suffix(".png").read_bytes() == (folder / "q.png").read_bytes()
    table = printed["q"][printed["q"].index("blocks.0.ssm: a") : printed["q"].index("wrote")]
    assert table in shown


def test_the_same_seed_the_same_dataset(inspected, chain, tmp_path):
    folder, _ = inspected
    done("inspect", chain["q.safetensors"], "--sequences", 30, "--seed", 2, "--out", tmp_path / "q.nc")
    assert results.values_equal(results.load(tmp_path / "q.nc"), results.load(folder / "q.nc"))


def test_refusals(refused, chain, tmp_path):
    model, quantized = chain["m.safetensors"], chain["q.safetensors"]
    refused("inspect", "none.safetensors", "--out", "i.nc", naming="none.safetensors")
    refused("inspect", chain["dep.safetensors"], "--out", "i.nc", naming="'deployment' file")
    refused("inspect", quantized, "--bits", 6, "--out", "i.nc", naming="--bits 6")
    refused("inspect", model, "--bits", 1, "--out", "i.nc", naming="--bits")
    refused("inspect", model, "--bits", 17, "--out", "i.nc", naming="--bits")
    refused("inspect", model, "--sequences", 0, "--out", "i.nc", naming="--sequences")
    refused("inspect", model, "--seed", -1, "--out", "i.nc", naming="--seed")
    refused("inspect", model, "--dataset", "digitss", "--out", "i.nc", naming="did you mean 'digits'?")
    refused("inspect", model, "--out", "i.txt", naming="must end in .nc")
    (tmp_path / "i.png").mkdir()
    refused("inspect", model, "--out", "i.nc", naming="i.png: it is a folder")
    np.savez(tmp_path / "two.npz", values=np.zeros((30, 6, 2)), labels=np.arange(30) % 10)
    refused("inspect", model, "--dataset", "two.npz", "--out", "new.nc", naming="1 input channels")


def test_an_inspection_that_lacks_something_is_not_shown(refused, inspected, tmp_path):
    folder, _ = inspected
    ds = results.load(folder / "q.nc").drop_vars("bits_state")
    results.save(ds, tmp_path / "less.nc")
    refused("show", "less.nc", naming="less.nc has no bits_state")
